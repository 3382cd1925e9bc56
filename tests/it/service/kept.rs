//! `--keep-mounts`: a restart of the service, and worse, under readers.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::{Daemon, Service, workplace_with};
use crate::support::artifact::ModelArtifact;
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::workplace::{Workplace, assert_done, shard, stderr, wait_until};

const READERS: &str = include_str!("../e2e/steady_readers.py");

/// Runs `work` while readers of all kinds compare what they read from the mount `a` of `workplace`.
pub(super) fn under_readers(workplace: &Workplace, work: impl FnOnce()) {
    let [begun, stop, report] = ["begun", "stop", "report"].map(|name| workplace.path(name));
    let mounted = workplace.path("a/weights/model.safetensors");
    let source = workplace.path("model/weights/model.safetensors");
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "900", "python3", "-c", READERS]).arg(&begun).arg(&stop).arg(&report);
    let mut readers = command.arg(format!("{}={}", mounted.display(), source.display())).spawn().unwrap();
    wait_until("all readers read", || begun.exists());
    work();
    std::fs::File::create(&stop).unwrap();
    assert!(readers.wait().unwrap().success(), "the readers hung");
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["errors"], serde_json::json!([]));
    assert!(report["counts"]["pread"].as_u64() > Some(0), "{report}");
}

pub(super) fn assert_served(workplace: &Workplace) {
    assert!(std::fs::read(workplace.path("a/weights/model.safetensors")).unwrap() == shard());
    assert_done(&workplace.run(&["status", "a"]));
}

#[test]
fn a_restart_with_kept_mounts_is_a_pause_for_readers() {
    let workplace = workplace_with(&["a", "b"]);
    let mut service = Service::start(&workplace, &["--keep-mounts"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    under_readers(&workplace, || {
        for _ in 0..3 {
            let end = service.end_by("TERM");
            assert_eq!(end["result"], 0);
            assert!(end["stored"].as_array().unwrap().iter().any(|name| name == "mount-0.0"), "{end}");
            service.begin();
            assert_served(&workplace);
        }
        // Not even the holder is needed.
        service.end_by("KILL");
        service.begin();
        assert_served(&workplace);
    });
    // The lock and the socket came along, and are those of the new process.
    let pid = service.ask("state")["pid"].as_i64().unwrap();
    assert_eq!(workplace.owner().map(|owner| i64::from(owner.as_raw_nonzero().get())), Some(pid));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    assert_done(&workplace.run(&["umount", "a", "b"]));
    wait_until("what was unmounted is not stored any more", || {
        service.ask("state")["stored"] == serde_json::json!(["lock.0", "options.0", "socket.0"])
    });
    let end = service.end_by("TERM");
    assert_eq!((&end["result"], &end["stored"]), (&0.into(), &serde_json::json!([])));
}

/// The service ends in its time although reads hang, and they go on waiting for the one that comes next.
#[test]
fn reads_that_hang_outlive_the_end_of_a_service_that_keeps_its_mounts() {
    let artifact = ModelArtifact::new(3, &[("one.bin", 9 << 20), ("two.bin", 5 << 20)]);
    let registry = FaultRegistry::with(&artifact);
    let targets = ["a", "b", "c", "d"];
    let workplace = Workplace::new().with_directories(&targets);
    let mut service = Service::start(&workplace, &["--keep-mounts"]);
    let reference = registry.reference("v1").to_string();
    for target in targets {
        let mount = ["mount", "--prefetch=off", "--read-timeout=3600", &reference, target];
        assert_done(&workplace.run(&mount));
    }
    assert!(std::fs::read(workplace.path("a/two.bin")).unwrap() == artifact.file("two.bin"));
    registry.faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Stall(0)));
    let fetched = registry.requests(Target::Blob).len();
    std::thread::scope(|scope| {
        let reads = |target: &str, file: &'static str| {
            let path = workplace.path(target).join(file);
            let truth = artifact.file(file);
            scope.spawn(move || assert!(std::fs::read(path).unwrap() == truth))
        };
        let stuck = targets.map(|target| reads(target, "one.bin"));
        wait_until("readers wait", || registry.requests(Target::Blob).len() > fetched);
        let end = service.end_by("TERM");
        assert_eq!(end["result"], 0);
        assert!(targets.iter().all(|target| workplace.is_mounted(target)));
        let busy = targets.map(|target| reads(target, "two.bin"));
        assert!(!stuck.iter().any(std::thread::ScopedJoinHandle::is_finished));
        registry.clear_faults();
        service.begin();
        stuck.into_iter().chain(busy).for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(service.end_by("INT")["result"], 0);
    assert!(!targets.iter().any(|target| workplace.is_mounted(target)));
}

/// A service whose file `config.toml` says that mounts are kept, and its mount `a`.
fn configured_to_keep() -> (Workplace, Service) {
    let workplace = workplace_with(&["a"]);
    workplace.put("config.toml", b"keep-mounts = true\n");
    let config = workplace.path("config.toml");
    let service = Service::start(&workplace, &["--config", config.to_str().unwrap()]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    (workplace, service)
}

/// A configuration that became wrong meanwhile is no reason to lose mounts.
#[test]
fn a_restart_that_fails_loses_no_mount() {
    let (workplace, mut service) = configured_to_keep();
    service.end_by("TERM");
    workplace.put("config.toml", b"keep-mounts = maybe\n");
    service.ask("start");
    assert_eq!(service.ask("wait")["result"], 2);
    workplace.put("config.toml", b"keep-mounts = false\n");
    service.begin();
    assert_served(&workplace);
    assert_eq!(service.end_by("TERM")["result"], 0);
    assert!(!workplace.is_mounted("a"));
}

/// Nor is it when the process that serves is replaced, which reads it anew: what it said before holds on.
#[test]
fn a_reload_of_a_wrong_configuration_goes_on_with_the_one_before() {
    let (workplace, mut service) = configured_to_keep();
    workplace.put("config.toml", b"keep-mounts = maybe\n");
    for _ in 0..2 {
        let before = service.ask("state")["ready"].as_u64();
        service.ask("HUP");
        wait_until("the daemon is ready again", || service.ask("state")["ready"].as_u64() > before);
        assert_served(&workplace);
    }
    service.end_by("TERM");
    assert!(workplace.is_mounted("a"), "keep-mounts holds on");
    workplace.put("config.toml", b"keep-mounts = false\n");
    service.begin();
    assert_served(&workplace);
    assert_eq!(service.end_by("TERM")["result"], 0);
    assert!(!workplace.is_mounted("a"));
}

#[test]
fn without_a_manager_that_stores_the_process_goes_on_for_kept_mounts() {
    let workplace = workplace_with(&["a"]);
    let daemon = Daemon::start(&workplace, &["--keep-mounts"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    daemon.tell(Signal::TERM);
    // It is over with the last mount, and not before; also for the next server.
    assert_served(&workplace);
    let server = workplace.server().unwrap();
    assert_served(&workplace);
    assert_eq!(workplace.server(), Some(server));
    assert_done(&workplace.run(&["umount", "a"]));
    let output = daemon.output();
    assert_done(&output);
    assert!(stderr(&output).contains("goes on until its 1 mount"), "{}", stderr(&output));

    let daemon = Daemon::start(&workplace, &["--keep-mounts"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    daemon.tell(Signal::INT);
    assert_done(&daemon.output());
    assert!(!workplace.is_mounted("a"));
}
