//! The process that serves is killed under readers, again and again, and they notice nothing but a pause.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::leftovers::{self, Open};
use super::{mount, push, seed, status};
use crate::workplace::{
    Workplace, assert_done, assert_failed, children, is_running, json, resident_bytes, wait_until,
};

const READERS: &str = include_str!("steady_readers.py");

/// Files of the three mounts: one that is complete and read by the kernel itself, one that is fetched while it is read,
/// and one out of a compressed archive.
const DIRECT_BYTES: u64 = (12 << 20) + 77;
const FETCHED_BYTES: u64 = (40 << 20) + 5;
const PACKED_BYTES: u64 = (9 << 20) + 1;

pub(super) struct Scene {
    pub(super) workplace: Workplace,
    pairs: Vec<(PathBuf, PathBuf)>,
}

impl Scene {
    /// Three mounts; the first one's file is complete and verified.
    pub(super) fn begin() -> Self {
        let workplace = Workplace::new();
        let (direct, made) = push("models/outliving-direct", &[("direct.bin", DIRECT_BYTES)]);
        workplace.put("direct.bin", &made.file("direct.bin"));
        mount(&workplace, &[], &direct, "direct");
        let (fetched, made) = push("models/outliving-fetched", &[("fetched.bin", FETCHED_BYTES)]);
        workplace.put("fetched.bin", &made.file("fetched.bin"));
        mount(&workplace, &["--prefetch", "off"], &fetched, "fetched");
        let packed: Vec<u8> =
            (0..PACKED_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 29) as u8).collect();
        workplace.put("model/packed.bin", &packed);
        workplace.put("packed.bin", &packed);
        assert_done(&workplace.run(&["pack", "--format", "tar+gzip", "model", "oci:layout:v1"]));
        mount(&workplace, &[], &"oci:layout:v1".parse().unwrap(), "packed");
        let scene = Self { pairs: Vec::new(), workplace };
        let direct = scene.workplace.path("direct/direct.bin");
        std::fs::read(&direct).unwrap();
        wait_until("the file is verified", || {
            status(&scene.workplace, "direct")["files"][0]["standing"] == "proven"
        });
        let pair = |name: &str| {
            let mounted = scene.workplace.path(name).join(format!("{name}.bin"));
            (mounted, scene.workplace.path(&format!("{name}.bin")))
        };
        let pairs = ["direct", "fetched", "packed"].map(pair).into();
        Self { pairs, ..scene }
    }

    pub(super) fn start_readers(&self) -> Readers {
        let [begun, stop, report] = ["begun", "stop", "report"].map(|name| self.workplace.path(name));
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "1500", "python3", "-c", READERS]).arg(&begun).arg(&stop).arg(&report);
        for (mounted, source) in &self.pairs {
            command.arg(format!("{}={}", mounted.display(), source.display()));
        }
        let readers = Readers { child: command.spawn().unwrap(), stop, report };
        wait_until("all readers read", || begun.exists());
        readers
    }

    pub(super) fn server(&self) -> Pid {
        let mut found = None;
        wait_until("a server is there", || {
            found = self.workplace.server().filter(|server| Some(*server) != self.workplace.owner());
            found.is_some()
        });
        found.unwrap()
    }

    /// Everything is unmounted, and nothing is left of it.
    pub(super) fn end(self) {
        let owner = self.workplace.owner().unwrap();
        let before = descriptors(owner);
        assert_done(&self.workplace.run(&["umount", "fetched", "packed"]));
        wait_until("the holder lets go of what was unmounted", || descriptors(owner) < before - 4);
        assert_done(&self.workplace.run(&["umount", "direct"]));
        wait_until("the owner has ended", || self.workplace.processes().is_empty());
    }
}

/// Descriptors that a process has open.
fn descriptors(process: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap().count()
}

pub(super) struct Readers {
    child: Child,
    stop: PathBuf,
    report: PathBuf,
}

impl Readers {
    /// Ends the readers, whose report it returns.
    pub(super) fn end(mut self) -> Value {
        std::fs::File::create(&self.stop).unwrap();
        assert!(self.child.wait().unwrap().success(), "the readers hung");
        let report: Value = serde_json::from_slice(&std::fs::read(&self.report).unwrap()).unwrap();
        assert_eq!(report["errors"], serde_json::json!([]));
        for kind in ["pread", "reopen", "mmap", "direct", "stat", "list"] {
            assert!(report["counts"][kind].as_u64() > Some(0), "{kind} in {}", report["counts"]);
        }
        report
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        let _ = std::fs::File::create(&self.stop);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> f64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// The longest wait of a reader after each of the moments and before the next one, in the middle of all.
fn median_pause(report: &Value, moments: &[f64]) -> f64 {
    let waits: Vec<(f64, f64)> = serde_json::from_value(report["waits"].clone()).unwrap();
    let nexts = moments.iter().skip(1).copied().chain([f64::INFINITY]);
    let mut pauses: Vec<f64> = moments
        .iter()
        .zip(nexts)
        .map(|(moment, next)| {
            let meets = |(begun, took): &&(f64, f64)| *begun < next && begun + took >= *moment;
            waits
                .iter()
                .filter(meets)
                .map(|(begun, took)| begun + took - moment.max(*begun))
                .fold(0.0, f64::max)
        })
        .collect();
    pauses.sort_by(f64::total_cmp);
    pauses[pauses.len() / 2]
}

#[test]
fn a_server_killed_a_hundred_times_under_readers_costs_them_a_pause() {
    let mut random = ChaCha8Rng::seed_from_u64(seed());
    let scene = Scene::begin();
    let first = scene.server();
    kill_process(first, Signal::KILL).unwrap();
    wait_until("the next one serves", || {
        scene.server() != first && scene.workplace.run(&["status", "direct"]).status.success()
    });
    let before = Open::of(&scene.workplace);
    let readers = scene.start_readers();
    let mut moments = Vec::new();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(random.random_range(0..700)));
        let server = scene.server();
        moments.push(now());
        // It may be just about to be replaced.
        let _ = kill_process(server, Signal::KILL);
    }
    let report = readers.end();
    println!("{}; median pause {:.3} s", report["counts"], median_pause(&report, &moments));
    assert!(status(&scene.workplace, "direct")["files"][0]["standing"] == "proven");
    leftovers::assert_none(&scene.workplace, &before);
    for process in scene.workplace.processes() {
        println!("{} KiB resident", resident_bytes(process, "VmRSS") >> 10);
    }
    scene.end();
}

#[test]
fn a_server_replaced_under_readers_leaves_them_to_the_next_one() {
    let scene = Scene::begin();
    let readers = scene.start_readers();
    let owner = scene.workplace.owner().unwrap();
    for _ in 0..5 {
        let before = scene.server();
        kill_process(owner, Signal::HUP).unwrap();
        wait_until("another process serves", || {
            scene.server() != before && scene.workplace.run(&["status", "direct"]).status.success()
        });
    }
    readers.end();
    let log = std::fs::read_to_string(scene.workplace.path("cache/owner.log")).unwrap();
    assert!(!log.contains("is gone"), "nobody died: {log}");
    scene.end();
}

/// What is asked of an owner while its server is dead is answered by the next one.
#[test]
fn requests_to_an_owner_whose_server_dies_are_answered() {
    let scene = Scene::begin();
    std::fs::create_dir(scene.workplace.path("more")).unwrap();
    for round in 0..5 {
        kill_process(scene.server(), Signal::KILL).unwrap();
        if round % 2 == 0 {
            assert_done(&scene.workplace.run(&["mount", "oci:layout:v1", "more"]));
            assert_done(&scene.workplace.run(&["umount", "more"]));
        }
        let list = json(&scene.workplace.run(&["list", "-o", "json"]));
        let served = |name: &str| {
            let target = scene.workplace.path(name);
            list.as_array().unwrap().iter().any(|mount| {
                Path::new(mount["mountpoint"].as_str().unwrap()) == target && mount["state"] == "served"
            })
        };
        assert!(served("direct") && served("fetched") && served("packed"), "{list}");
    }
    scene.end();
}

/// Told to end while one server leaves or has died, and the next one is not there yet.
#[test]
fn an_owner_that_is_told_to_end_between_two_servers_leaves_no_mount() {
    let workplace = Workplace::with_layout().with_directories(&["mnt"]);
    for (signal, at_once) in [(Signal::HUP, true), (Signal::HUP, false), (Signal::KILL, false)] {
        assert_done(&workplace.run(&["mount", "oci:layout:v1", "mnt"]));
        let (owner, server) = (workplace.owner().unwrap(), workplace.server().unwrap());
        kill_process(if signal == Signal::HUP { owner } else { server }, signal).unwrap();
        if !at_once {
            wait_until("another server begins", || {
                children(owner).iter().any(|child| *child != server && is_running(*child))
            });
        }
        kill_process(owner, Signal::TERM).unwrap();
        wait_until("the owner has ended", || workplace.processes().is_empty());
        assert!(!workplace.is_mounted("mnt"), "after {signal:?}");
    }
}

/// A program that cannot run any more.
#[test]
fn an_owner_whose_servers_all_die_gives_up_and_can_be_told_to_try_again() {
    let mut workplace = Workplace::new();
    let program = workplace.own_program();
    workplace.program = program.clone();
    workplace.put_model();
    assert_done(&workplace.run(&["pack", "model", "oci:layout:v1"]));
    mount(&workplace, &[], &"oci:layout:v1".parse().unwrap(), "mnt");
    let owner = workplace.owner().unwrap();
    let server = workplace.server().unwrap();
    let allow = |mode| std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o644);
    kill_process(server, Signal::KILL).unwrap();
    let config = workplace.path("mnt/config.json");
    let error = std::fs::File::open(&config).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    allow(0o755);
    let status = workplace.run(&["status", "mnt"]);
    assert_failed(&status, 1, &format!("kill -HUP {}", owner.as_raw_nonzero()));
    kill_process(owner, Signal::HUP).unwrap();
    wait_until("it is served again", || std::fs::read(&config).is_ok());
    assert_done(&workplace.run(&["status", "mnt"]));
    assert_done(&workplace.run(&["umount", "mnt"]));
    wait_until("the owner has ended", || workplace.processes().is_empty());
}

/// The kernel opens directories by itself once it was told that it may, and asks whoever serves next for what they hold.
#[test]
fn directories_are_listed_whole_while_the_next_server_reads_the_layers_again() {
    let workplace = Workplace::new();
    workplace.put_model();
    (0..2000).for_each(|number| workplace.put(&format!("model/many/{number}"), b""));
    assert_done(&workplace.run(&["pack", "--format", "tar+gzip", "model", "oci:layout:v1"]));
    mount(&workplace, &[], &"oci:layout:v1".parse().unwrap(), "mnt");
    let list = |name: &str| std::fs::read_dir(workplace.path(name)).unwrap().map(Result::unwrap).count();
    // All is known after the first listing.
    assert_eq!((list("mnt"), list("mnt")), (3, 3));
    let server = workplace.server().unwrap();
    std::fs::remove_dir_all(workplace.path("cache/v1/layers/sha256")).unwrap();
    kill_process(server, Signal::KILL).unwrap();
    assert_eq!(list("mnt/many"), 2000);
    assert_eq!(list("mnt/weights"), 1);
}
