//! `--restore`: what was mounted before the machine went down is mounted again.

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, kill_process};

use super::{Daemon, Service};
use crate::support::artifact::{ARTIFACT_TYPE, ModelArtifact};
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::support::producers::{Layer, Product, gzip, tar};
use crate::workplace::{Workplace, assert_done, assert_failed, json, wait_until};

pub(super) const TARGETS: [&str; 3] = ["a", "b", "c"];

/// A registry, and a place where its `v1` is mounted three times by a daemon.
pub(super) struct Site {
    pub(super) workplace: Workplace,
    pub(super) registry: FaultRegistry,
    artifact: ModelArtifact,
    digest: String,
}

impl Site {
    pub(super) fn mounted() -> (Self, Daemon) {
        let artifact = ModelArtifact::new(5, &[("config.json", 300), ("model.bin", 3 << 20)]);
        let (registry, workplace) = (FaultRegistry::with(&artifact), Workplace::new());
        let daemon = Daemon::start(&workplace, &["--restore"]);
        let mut site = Self { workplace, registry, artifact, digest: String::new() };
        for target in TARGETS {
            std::fs::create_dir(site.workplace.path(target)).unwrap();
            site.mount(target);
        }
        assert!(
            std::fs::read(site.workplace.path("a/model.bin")).unwrap() == site.artifact.file("model.bin")
        );
        std::fs::read(site.workplace.path("a/config.json")).unwrap();
        wait_until("all of it is stored", || {
            let status = json(&site.workplace.run(&["status", "-o", "json", "a"]));
            status["cached_bytes"] == status["total_bytes"]
        });
        site.digest = site.digest_of("a");
        (site, daemon)
    }

    pub(super) fn mount(&self, target: &str) {
        let reference = self.registry.reference("v1").to_string();
        assert_done(&self.workplace.run(&["mount", &reference, target]));
    }

    fn digest_of(&self, target: &str) -> String {
        let status = json(&self.workplace.run(&["status", "-o", "json", target]));
        status["digest"].as_str().unwrap().to_owned()
    }

    /// What a loss of power leaves: no process, no mount, and the disk.
    pub(super) fn lose_power(&self, daemon: Daemon) {
        self.workplace.signal_all(Signal::KILL);
        drop(daemon);
        for target in TARGETS {
            let _ = unmount(self.workplace.path(target), UnmountFlags::DETACH);
        }
        std::fs::remove_file(self.workplace.path("cache/control.sock")).unwrap();
    }

    fn assert_served(&self, target: &str) {
        let read = |file| std::fs::read(self.workplace.path(target).join(file)).unwrap();
        assert!(read("model.bin") == self.artifact.file("model.bin"));
        assert_eq!(self.digest_of(target), self.digest);
    }

    /// What `list` says of a mount.
    pub(super) fn state(&self, target: &str) -> Option<String> {
        let list = json(&self.workplace.run(&["list", "-o", "json"]));
        let path = self.workplace.path(target);
        let found = list.as_array()?.iter().find(|mount| mount["mountpoint"] == path.to_str().unwrap())?;
        Some(found["state"].as_str()?.to_owned())
    }
}

#[test]
fn what_was_mounted_is_mounted_again_at_its_digest_while_the_registry_is_away() {
    let (mut site, daemon) = Site::mounted();
    assert_done(&site.workplace.run(&["umount", "c"]));
    site.lose_power(daemon);
    // The tag is another artifact's by now, and nobody is there to say so.
    site.registry.put(&ModelArtifact::new(6, &[("other.bin", 10)]), "v1");
    site.registry.go_away();
    let daemon = Daemon::start(&site.workplace, &["--restore"]);
    for target in ["a", "b"] {
        wait_until("it is mounted again", || site.state(target).as_deref() == Some("served"));
        site.assert_served(target);
    }
    assert_eq!(site.state("c"), None, "it was unmounted");
    // They are what was asked for, and so asking again finds them.
    site.mount("a");
    // Another restart, without a crash.
    daemon.tell(Signal::TERM);
    assert_done(&daemon.output());
    assert!(!site.workplace.is_mounted("a"));
    let _daemon = Daemon::start(&site.workplace, &["--restore"]);
    wait_until("it is mounted again", || site.state("a").as_deref() == Some("served"));
    site.assert_served("a");
}

#[test]
fn without_the_option_nothing_is_mounted_and_nothing_forgotten() {
    let (site, daemon) = Site::mounted();
    site.lose_power(daemon);
    let daemon = Daemon::start(&site.workplace, &[]);
    assert_done(&site.workplace.run(&["cache", "info"]));
    assert_eq!(TARGETS.map(|target| site.state(target)), [None, None, None]);
    daemon.tell(Signal::TERM);
    assert_done(&daemon.output());
    let _daemon = Daemon::start(&site.workplace, &["--restore"]);
    wait_until("all are mounted again", || TARGETS.iter().all(|target| site.workplace.is_mounted(target)));
}

#[test]
fn a_mount_point_that_is_gone_or_busy_holds_up_nobody_and_is_tried_again() {
    let (site, daemon) = Site::mounted();
    site.lose_power(daemon);
    let (b, c) = (site.workplace.path("b"), site.workplace.path("c"));
    std::fs::remove_dir(&b).unwrap();
    std::fs::remove_dir(&c).unwrap();
    let _daemon = Daemon::start(&site.workplace, &["--restore"]);
    wait_until("the one that can be is mounted", || site.state("a").as_deref() == Some("served"));
    site.assert_served("a");
    wait_until("the others are being tried", || {
        let is_pending = |target| site.state(target).as_deref() == Some("pending");
        is_pending("b") && is_pending("c")
    });
    wait_until("it is said why", || {
        let output = site.workplace.run(&["status", "b"]);
        String::from_utf8_lossy(&output.stderr).contains("the last time")
    });
    assert_failed(&site.workplace.run(&["status", "b"]), 3, "is to be mounted there again");
    // One is not wanted any more, and the other one can be.
    assert_done(&site.workplace.run(&["umount", "c"]));
    std::fs::create_dir(&c).unwrap();
    std::fs::create_dir(&b).unwrap();
    wait_until("it is mounted in the end", || site.state("b").as_deref() == Some("served"));
    site.assert_served("b");
    assert_eq!(site.state("c"), None);
}

/// One whose `v1` is an archive with the file `first`.
fn registry_of_an_archive() -> FaultRegistry {
    let layer =
        Layer::new("application/vnd.cncf.model.weight.v1.tar+gzip", gzip(&tar(&[("first", 0o644, b"1")])));
    let product = Product::new("archive", "application/vnd.cncf.model.config.v1+json", "{}")
        .artifact_type(ARTIFACT_TYPE)
        .layer("modelpack", layer);
    let registry = FaultRegistry::start();
    registry.put_product(&product, "v1");
    registry
}

/// Nothing is known of any layer any more.
fn forget_layers(workplace: &Workplace) {
    for directory in std::fs::read_dir(workplace.path("cache/v1")).unwrap().map(Result::unwrap) {
        if directory.file_name() != "mounts" {
            std::fs::remove_dir_all(directory.path()).unwrap();
        }
    }
}

/// Nobody can say then what the numbers of its files stand for; but where it is wanted, it comes back.
#[test]
fn a_mount_that_cannot_be_served_on_while_the_registry_is_away_is_mounted_again() {
    let mut registry = registry_of_an_archive();
    let workplace = Workplace::new().with_directories(&["a"]);
    let reference = registry.reference("v1").to_string();
    let _daemon = Daemon::start(&workplace, &["--restore"]);
    assert_done(&workplace.run(&["mount", "--read-timeout=2", &reference, "a"]));
    assert_eq!(std::fs::read(workplace.path("a/first")).unwrap(), b"1");
    forget_layers(&workplace);
    registry.go_away();
    let server = workplace.server().unwrap();
    kill_process(server, Signal::KILL).unwrap();
    wait_until("it is to be mounted again", || {
        let output = workplace.run(&["status", "a"]);
        String::from_utf8_lossy(&output.stderr).contains("the last time")
    });
    assert!(!workplace.is_mounted("a"), "it is dead");
    registry.come_back();
    wait_until("it is", || workplace.run(&["status", "a"]).status.success());
    assert_eq!(std::fs::read(workplace.path("a/first")).unwrap(), b"1");
}

/// What is mounted again may wait for its registry for as long as it likes; nobody takes that for a service that hangs.
#[test]
fn a_reload_that_waits_for_a_registry_is_seen_to_live() {
    let registry = registry_of_an_archive();
    let workplace = Workplace::new().with_directories(&["a"]);
    let reference = registry.reference("v1").to_string();
    let mut service = Service::start(&workplace, &["--restore"]);
    assert_done(&workplace.run(&["mount", "--read-timeout=3600", &reference, "a"]));
    assert_eq!(service.end_by("TERM")["result"], 0);
    forget_layers(&workplace);
    registry.faults(Target::Blob, 0, usize::MAX, Fault::Status(503, Vec::new()));
    let ready = service.ask("start")["ready"].clone();
    // Without a server, a cache is looked at all the same; and a signal before there is one ends the service.
    let answers = || {
        let server = workplace.server().filter(|server| Some(*server) != workplace.owner());
        server.filter(|_| workplace.run(&["cache", "info"]).status.success())
    };
    let mut server = None;
    wait_until("it answers", || {
        server = answers();
        server.is_some()
    });
    service.ask("HUP");
    wait_until("the next one answers", || answers().is_some_and(|next| Some(next) != server));
    let fed = service.watchdog();
    wait_until("the watchdog is fed", || service.watchdog() > fed + 3);
    let state = service.ask("state");
    assert_eq!((&state["ready"], &state["reloading"]), (&ready, &1.into()), "it still waits");
    registry.clear_faults();
    wait_until("it is ready", || service.ask("state")["ready"].as_u64() > ready.as_u64());
    assert_eq!(std::fs::read(workplace.path("a/first")).unwrap(), b"1");
    assert_eq!(service.end_by("TERM")["result"], 0);
}
