//! What is logged of what happens: one line for each event, with the fields that docs/logs.md names.

use std::thread;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::mirrors::Mirrored;
use super::{MIB, OTHER, PATIENT, SHARD, Site};
use crate::support::fault_registry::{Fault, Target};
use crate::workplace::{assert_done, wait_until};

const LOGGED: [&str; 3] = [PATIENT, "--log-level=info", "--log-format=json"];

/// The lines with `message`: their fields.
fn lines(site: &Site, message: &str) -> Vec<Value> {
    let log = site.log();
    // The last one may be being written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].clone());
    lines.filter(|fields| fields["message"] == message).collect()
}

/// The one line with `message`, which has these fields and no others.
fn only(site: &Site, message: &str, fields: &[&str]) -> Value {
    let lines = lines(site, message);
    assert_eq!(lines.len(), 1, "{message}: {}", site.log());
    let mut expected = [&["message"], fields].concat();
    expected.sort_unstable();
    let mut found: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
    found.sort_unstable();
    assert_eq!(found, expected, "{message}");
    assert!(
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/logs.md"))
            .unwrap()
            .contains(message)
    );
    lines[0].clone()
}

#[test]
fn mounts_restarts_and_unmounts_have_a_line_each() {
    let site = Site::mounted(&LOGGED);
    site.assert_reads(SHARD, 0..MIB);
    const OF_A_MOUNT: [&str; 5] = ["reference", "digest", "mountpoint", "files", "bytes"];
    let mounted = only(&site, "mounted", &OF_A_MOUNT);
    let target = site.path("");
    let target = target.to_str().unwrap().trim_end_matches('/');
    assert_eq!((&mounted["mountpoint"], &mounted["files"]), (&target.into(), &3.into()), "{mounted}");
    assert_eq!(mounted["digest"], site.artifact.descriptor().digest.to_string());
    let server = site.workplace.server().unwrap();
    kill_process(server, Signal::KILL).unwrap();
    wait_until("the next one answers", || {
        site.workplace.server() != Some(server) && site.workplace.run(&["status", "mnt"]).status.success()
    });
    let restart = "the process before this one is gone; going on with what it has left";
    let restart = only(&site, restart, &["deaths", "died"]);
    assert_eq!((&restart["deaths"], &restart["died"]), (&1.into(), &"it was killed by signal 9".into()));
    only(&site, "served on", &OF_A_MOUNT);
    kill_process(site.workplace.owner().unwrap(), Signal::HUP).unwrap();
    wait_until("the one after it serves", || lines(&site, "served on").len() == 2);
    only(&site, "leaving everything to the next process", &[]);
    assert!(lines(&site, "unmounted").is_empty());
    site.umount();
    wait_until("the owner has ended", || site.workplace.owner().is_none());
    only(&site, "mounted", &OF_A_MOUNT);
    let unmounted = only(&site, "unmounted", &["reference", "mountpoint", "network_bytes"]);
    assert_eq!(unmounted["mountpoint"], mounted["mountpoint"]);
}

#[test]
fn an_owner_that_is_told_to_end_logs_each_unmount() {
    let site = Site::mounted(&LOGGED);
    std::fs::create_dir(site.workplace.path("second")).unwrap();
    assert_done(&site.workplace.run(&["mount", &site.reference(), "second"]));
    kill_process(site.workplace.owner().unwrap(), Signal::TERM).unwrap();
    wait_until("the owner has ended", || site.workplace.owner().is_none());
    let mut gone: Vec<String> = lines(&site, "unmounted")
        .iter()
        .map(|line| line["mountpoint"].as_str().unwrap().to_owned())
        .collect();
    gone.sort_unstable();
    let targets = ["mnt", "second"].map(|target| site.workplace.path(target).to_str().unwrap().to_owned());
    assert_eq!(gone, targets, "{}", site.log());
}

/// Readers that meet the same failure at the same time do not each log it.
#[test]
fn a_mirror_that_fails_under_many_readers_has_one_line() {
    let all = Mirrored::new(1);
    all.mount(&LOGGED);
    let busy = Fault::Status(503, vec![("Retry-After", "300".to_owned())]);
    all.mirrors[0].faults(Target::Blob, 0, usize::MAX, busy);
    thread::scope(|scope| {
        for reader in 0..8 {
            let site = &all.site;
            scope.spawn(move || site.assert_reads(SHARD, reader * MIB + 99..reader * MIB + 4000));
        }
    });
    all.site.assert_reads_whole(SHARD);
    let line = only(&all.site, "a mirror is set aside", &["host", "pause_s", "error"]);
    assert_eq!((&line["host"], &line["pause_s"]), (&all.mirrors[0].host().into(), &300.into()), "{line}");
    assert!(line["error"].as_str().unwrap().contains("503"), "{line}");
}

#[test]
fn a_chunk_that_is_rejected_has_one_line() {
    let site = Site::mounted(&[&LOGGED[..], &["--cache-size=4MiB", "--cache-min-free=0"]].concat());
    site.assert_reads_whole(OTHER);
    wait_until("its chunks have digests", || site.status_of(OTHER)["standing"] == "proven");
    // Backwards, so that nothing is fetched ahead that would meet the fault.
    for at in (0..12).rev() {
        site.assert_reads(SHARD, at * MIB..at * MIB + 10);
    }
    wait_until("it is evicted", || site.status_of(OTHER)["cached_bytes"] == 0);
    site.registry.fault(Target::Blob, Fault::WrongByte(5));
    site.assert_reads(OTHER, 0..MIB);
    let line = only(&site, "rejected a chunk", &["digest", "chunk", "source", "error"]);
    assert_eq!((&line["chunk"], &line["source"]), (&0.into(), &site.registry.host().into()), "{line}");
    assert_eq!(line["digest"], site.artifact.layer(OTHER).to_string());
    assert_eq!(site.status()["rejected_chunks"], 1);
}
