//! What an owner tells of itself while it is read from, while reads hang, and after the one that served has died.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::{CONFIG, MIB, OTHER, PATIENT, SHARD, Site};
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, Target};
use crate::workplace::{curl, stderr, stdout, wait_until};

/// An answer: its status, and its text.
type Answer = (u16, String);

fn over_socket(site: &Site, path: &str) -> Answer {
    site.workplace.ask(path)
}

fn over_tcp(site: &Site, path: &str) -> Answer {
    let (status, version) = over_socket(site, "/v1/version");
    assert_eq!(status, 200, "{version}");
    let version: Value = serde_json::from_str(&version).unwrap();
    curl(&[&format!("http://{}{path}", version["metrics_addr"].as_str().unwrap())])
}

/// The samples of a scrape, by their name with labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn scrape(site: &Site) -> BTreeMap<String, f64> {
    let (status, text) = over_socket(site, "/metrics");
    assert_eq!(status, 200, "{text}");
    samples(&text)
}

/// Prometheus' own opinion.
fn assert_promtool_accepts(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}{}\n{text}", stdout(&output), stderr(&output));
    // What it would rather have otherwise it says, and succeeds.
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn under_load_prometheus_takes_what_is_told_on_the_socket_and_over_tcp() {
    let site = Site::new();
    site.mount(&["--metrics-addr=127.0.0.1:0"]);
    thread::scope(|scope| {
        let readers: Vec<_> = [SHARD, OTHER, CONFIG, SHARD]
            .into_iter()
            .map(|file| {
                let site = &site;
                scope.spawn(move || (0..20).for_each(|_| site.assert_reads_whole(file)))
            })
            .collect();
        let mut scrapes = 0;
        while scrapes < 3 || readers.iter().any(|reader| !reader.is_finished()) {
            for (status, text) in [over_tcp(&site, "/metrics"), over_socket(&site, "/metrics")] {
                assert_eq!(status, 200, "{text}");
                assert_promtool_accepts(&text);
            }
            assert_eq!(over_tcp(&site, "/healthz"), (200, "ok\n".to_owned()));
            assert_eq!(over_tcp(&site, "/readyz"), (200, "ready\n".to_owned()));
            scrapes += 1;
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    let all = scrape(&site);
    let host = site.registry.host();
    let total = (15 * MIB + 4321 + 300) as f64;
    let fetched: f64 = all
        .iter()
        .filter(|(name, _)| name.starts_with("refmount_fetched_bytes_total{"))
        .map(|(_, v)| v)
        .sum();
    assert!(fetched >= total, "{all:?}");
    assert!(all[&format!("refmount_registry_bytes_total{{registry=\"{host}\"}}")] >= total, "{all:?}");
    assert!(all[&format!("refmount_registry_requests_total{{registry=\"{host}\",code=\"206\"}}")] > 0.0);
    assert!(all["refmount_read_bytes_total{source=\"network\"}"] > 0.0, "{all:?}");
    assert!(all["refmount_fuse_request_duration_seconds_count{op=\"read\"}"] > 0.0, "{all:?}");
    assert!(all["refmount_reader_wait_seconds_total"] > 0.0, "{all:?}");
    assert_eq!(all["refmount_mounts"], 1.0);
    assert_eq!(all["refmount_oldest_inflight_read_seconds"], 0.0);
    // No name of what is mounted is told to whoever asks.
    let (_, text) = over_tcp(&site, "/metrics");
    for secret in ["sha256", "model/", "mnt"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    let status = site.status();
    assert_eq!(
        status["network_bytes"].as_u64().unwrap(),
        ["demand", "read_ahead", "prefetch", "first_reading"]
            .map(|cause| status["fetched_bytes"][cause].as_u64().unwrap())
            .iter()
            .sum::<u64>(),
        "{status}"
    );
    assert!(
        status["reads_waited"].as_u64() > Some(0) && status["waited_seconds"].as_f64() > Some(0.0),
        "{status}"
    );
}

#[test]
fn while_reads_hang_metrics_are_told_and_the_mount_is_not_ready() {
    let site = Site::mounted(&[PATIENT, "--metrics-addr=127.0.0.1:0"]);
    site.registry.faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Stall(0)));
    thread::scope(|scope| {
        let stuck = scope.spawn(|| site.read(SHARD, 0..10));
        wait_until("the read is seen to wait", || {
            scrape(&site)["refmount_oldest_inflight_read_seconds"] > 0.0
        });
        let (status, why) = over_tcp(&site, "/readyz");
        assert_eq!(status, 503);
        assert!(why.starts_with("not read within 5 s: ") && why.contains("/mnt/"), "{why}");
        assert_eq!(over_socket(&site, "/readyz").0, 503, "another check hangs no longer than the first");
        assert_eq!(over_tcp(&site, "/healthz").0, 200);
        let (status, text) = over_tcp(&site, "/metrics");
        assert_eq!(status, 200);
        assert_promtool_accepts(&text);
        // Nor does it keep the one that serves from being replaced, which would be the end of the mount.
        kill_process(site.workplace.server().unwrap(), Signal::KILL).unwrap();
        site.registry.clear_faults();
        assert!(stuck.join().unwrap().is_ok(), "the next one answers");
    });
    wait_until("it is ready again", || over_tcp(&site, "/readyz") == (200, "ready\n".to_owned()));
    assert_eq!(scrape(&site)["refmount_server_restarts_total"], 1.0);
    site.assert_reads_whole(SHARD);
}

#[test]
fn what_was_fetched_ahead_and_evicted_unread_is_told() {
    let site = Site::new();
    site.mount(&["--cache-size=4MiB", "--cache-min-free=0"]);
    wait_until("something was in vain", || {
        // Two steps forward, and what was fetched ahead of them is of no use.
        for start in [0, 4 * MIB, 8 * MIB] {
            for step in 0..2 {
                site.assert_reads(SHARD, start + step * MIB..start + step * MIB + 10);
            }
        }
        scrape(&site)["refmount_read_ahead_wasted_bytes_total"] >= MIB as f64
    });
    let all = scrape(&site);
    assert!(all["refmount_cache_evicted_bytes_total"] >= MIB as f64, "{all:?}");
    assert!(all["refmount_fetched_bytes_total{cause=\"read_ahead\"}"] >= MIB as f64, "{all:?}");
    assert!(site.status()["wasted_bytes"].as_u64() >= Some(MIB), "{}", site.status());
}

/// One object for each line, and one line for each thing that happened.
#[test]
fn the_log_has_a_line_with_fields_for_each_mount_unmount_and_restart() {
    let site = Site::new();
    site.mount(&["--log-format=json", "--log-level=info"]);
    site.assert_reads_whole(CONFIG);
    kill_process(site.workplace.server().unwrap(), Signal::KILL).unwrap();
    wait_until("the next one serves", || site.workplace.run(&["status", "mnt"]).status.success());
    site.umount();
    wait_until("the owner has ended", || site.workplace.owner().is_none());
    let log = site.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |message: &str| -> Vec<&Value> {
        lines.iter().map(|line| &line["fields"]).filter(|fields| fields["message"] == message).collect()
    };
    let [mounted] = of("mounted")[..] else { panic!("{log}") };
    for field in ["reference", "digest", "mountpoint"] {
        assert!(mounted[field].is_string(), "{field} is missing in {mounted}");
    }
    let [restarted] = of("the process before this one is gone; going on with what it has left")[..] else {
        panic!("{log}")
    };
    assert!(restarted["died"].is_string() && restarted["deaths"] == 1, "{restarted}");
    let [unmounted] = of("unmounted")[..] else { panic!("{log}") };
    assert!(unmounted["mountpoint"].is_string() && unmounted["network_bytes"].is_u64(), "{unmounted}");
}
