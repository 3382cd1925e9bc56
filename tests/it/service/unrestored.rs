//! What was mounted before and is not mounted again is seen, by machines too, until somebody mounts or unmounts it.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::restored::Site;
use super::{Daemon, Service};
use crate::support::artifact::{ARTIFACT_TYPE, digest_of};
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::support::producers::{Layer, Product, gzip, tar};
use crate::workplace::{Workplace, assert_done, assert_failed, is_running, json as printed, wait_until};

fn health(workplace: &Workplace) -> Value {
    let (status, text) = workplace.ask("/v1/health");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The names of what is missing, once the owner answers.
fn missing(workplace: &Workplace) -> Vec<String> {
    let health = health(workplace);
    let all = health["unrestored"].as_array().unwrap().iter();
    let root = format!("{}/", workplace.directory.path().display());
    all.map(|missing| missing["mountpoint"].as_str().unwrap().replace(&root, "")).collect()
}

fn metric(workplace: &Workplace) -> String {
    let (_, text) = workplace.ask("/metrics");
    let found = text.lines().find_map(|line| line.strip_prefix("refmount_mounts_unrestored "));
    found.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// The owner says in every way that `names` are missing, and nothing else.
fn assert_missing(workplace: &Workplace, names: &[&str]) {
    assert_eq!(missing(workplace), names);
    assert_eq!(metric(workplace).parse(), Ok(names.len() as f64));
    let (ready, text) = workplace.ask("/readyz");
    let health = health(workplace);
    match names {
        [] => {
            assert_eq!((ready, text.as_str()), (200, "ready\n"));
            assert_eq!(health["status"], "ok", "{health}");
        }
        names => {
            assert_eq!((ready, health["status"].as_str()), (503, Some("degraded")), "{text}{health}");
            assert_eq!(text.lines().count(), names.len(), "{text}");
            for (name, line) in names.iter().zip(text.lines()) {
                let place = format!("{} is not mounted again", workplace.path(name).display());
                assert!(line.starts_with(&place), "{text}");
            }
        }
    }
}

#[test]
fn what_cannot_be_mounted_again_is_seen_until_it_is_mounted_or_unmounted() {
    let (site, daemon) = Site::mounted();
    site.lose_power(daemon);
    let [b, c] = ["b", "c"].map(|name| site.workplace.path(name));
    std::fs::remove_dir(&b).unwrap();
    std::fs::remove_dir(&c).unwrap();
    let _daemon = Daemon::start(&site.workplace, &["--restore"]);
    let workplace = &site.workplace;
    wait_until("both were tried, and the other one is there", || {
        let health = health(workplace);
        let tried = |missing: &Value| missing["error"].is_string();
        let missing = health["unrestored"].as_array().unwrap();
        missing.len() == 2 && missing.iter().all(tried)
    });
    assert_missing(workplace, &["b", "c"]);
    let said = health(workplace)["unrestored"][0].clone();
    let reference = site.registry.reference("v1").to_string();
    assert_eq!((&said["reference"], &said["retried"]), (&json!(reference), &json!(true)));
    assert!(said["error"].as_str().unwrap().contains(b.to_str().unwrap()), "{said}");
    let (_, why) = workplace.ask("/readyz");
    assert!(why.contains(&format!("again yet: {}", said["error"].as_str().unwrap())), "{why}");
    let listed = printed(&workplace.run(&["list", "-o", "json"]));
    let listed = listed.as_array().unwrap().iter().find(|mount| mount["mountpoint"] == said["mountpoint"]);
    assert_eq!(listed.unwrap()["error"], said["error"]);
    // One is not wanted any more, and the other one is mounted by hand.
    assert_done(&workplace.run(&["umount", "c"]));
    assert_missing(workplace, &["b"]);
    std::fs::create_dir(&b).unwrap();
    site.mount("b");
    assert_missing(workplace, &[]);
}

/// An archive, which can only be served by whoever knows its entries.
fn archive() -> Vec<u8> {
    gzip(&tar(&[("first", 0o644, b"1")]))
}

/// Puts an artifact of it.
fn put_archive(registry: &FaultRegistry) {
    let layer = Layer::new("application/vnd.cncf.model.weight.v1.tar+gzip", archive());
    let product = Product::new("archive", "application/vnd.cncf.model.config.v1+json", "{}")
        .artifact_type(ARTIFACT_TYPE)
        .layer("modelpack", layer);
    registry.put_product(&product, "archive");
}

/// Drops what is known of archives, and everything else but the mounts.
fn forget_content(workplace: &Workplace) {
    for directory in std::fs::read_dir(workplace.path("cache/v1")).unwrap().map(Result::unwrap) {
        if directory.file_name() != "mounts" {
            std::fs::remove_dir_all(directory.path()).unwrap();
        }
    }
}

/// No answer says that the mount on `a`, which waits for the registry, is there, from the first one on; until the registry
/// can be asked, and it is.
fn assert_waited_for(workplace: &Workplace, registry: &FaultRegistry) {
    let asked = registry.requests(Target::Blob).len();
    let begin = format!("{} is not mounted again yet: ", workplace.path("a").display());
    let mut answers = 0;
    wait_until("the registry was asked some times", || {
        if let (status @ 200.., text) = workplace.ask("/readyz") {
            assert!(status == 503 && text.starts_with(&begin), "answer {answers}: {status} {text}");
            answers += 1;
        }
        answers > 0 && registry.requests(Target::Blob).len() > asked + 1
    });
    assert_missing(workplace, &["a"]);
    registry.clear_faults();
    wait_until("it is mounted again", || workplace.ask("/readyz").0 == 200);
    assert_missing(workplace, &[]);
    assert_eq!(std::fs::read(workplace.path("a/first")).unwrap(), b"1");
}

/// Whoever watches a node asks as soon as anybody answers there.
#[test]
fn who_has_still_to_mount_again_is_not_ready_from_the_first_answer_on() {
    let registry = FaultRegistry::start();
    put_archive(&registry);
    let workplace = Workplace::new().with_directories(&["a"]);
    let reference = registry.reference("archive").to_string();
    let is_away = || {
        forget_content(&workplace);
        registry.faults(Target::Blob, 0, usize::MAX, Fault::Status(503, Vec::new()));
    };
    let daemon = Daemon::start(&workplace, &["--restore"]);
    assert_done(&workplace.run(&["mount", "--read-timeout=3600", &reference, "a"]));
    assert_missing(&workplace, &[]);
    daemon.end();
    is_away();
    let daemon = Daemon::start(&workplace, &["--restore"]);
    assert_waited_for(&workplace, &registry);
    // The next process of the same daemon; and of an owner that mounts nothing again by itself.
    for daemon in [Some(daemon), None] {
        if daemon.is_none() {
            assert_done(&workplace.run(&["mount", "--read-timeout=3600", &reference, "a"]));
        }
        let server = workplace.server().unwrap();
        is_away();
        kill_process(server, Signal::KILL).unwrap();
        wait_until("it is gone", || !is_running(server));
        assert_waited_for(&workplace, &registry);
        if let Some(daemon) = daemon {
            daemon.end();
        }
    }
}

/// Kills the process that serves; returns once the next one answers.
fn replace_server(workplace: &Workplace) {
    let server = workplace.server().unwrap();
    kill_process(server, Signal::KILL).unwrap();
    wait_until("the next process answers", || {
        workplace.server().is_some_and(|next| next != server) && workplace.ask("/healthz").0 == 200
    });
}

/// A workplace whose mounts were taken over by a process that can go on with those of `lost` not at all, since neither the
/// cache nor the registry have what it takes.
fn with_lost(registry: &FaultRegistry, start: impl FnOnce(&Workplace), lost: &[&str]) -> Workplace {
    put_archive(registry);
    let workplace = Workplace::with_layout().with_directories(&[&["kept"], lost].concat());
    start(&workplace);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "kept"]));
    for target in lost {
        let reference = registry.reference("archive").to_string();
        assert_done(&workplace.run(&["mount", &reference, target]));
    }
    registry.replace_blob(&digest_of(&archive()), None);
    forget_content(&workplace);
    replace_server(&workplace);
    wait_until("it has tried", || {
        let health = health(&workplace);
        let failed = |missing: &Value| missing["error"].is_string();
        let missing = health["unrestored"].as_array().unwrap();
        missing.len() == lost.len() && missing.iter().all(failed)
    });
    workplace
}

/// Of an owner, and of a service that mounts nothing again by itself.
#[test]
fn a_mount_that_no_process_goes_on_with_is_seen_until_it_is_unmounted() {
    for is_service in [false, true] {
        let registry = FaultRegistry::start();
        let mut service = None;
        let start = |workplace: &Workplace| {
            service = is_service.then(|| Service::start(workplace, &[]));
        };
        let workplace = with_lost(&registry, start, &["a", "b", "c", "d"]);
        // It is no matter of that one process, nor of one program.
        replace_server(&workplace);
        let other = workplace.path("other");
        std::fs::copy(&workplace.program, &other).unwrap();
        assert_done(&workplace.run(&["upgrade", "--program", other.to_str().unwrap()]));
        assert_seen_until_unmounted(&workplace, &registry);
        // What was unmounted or mounted anew is so for the next process too.
        replace_server(&workplace);
        assert_missing(&workplace, &[]);
        assert!(workplace.is_mounted("c") && workplace.is_mounted("kept"));
        if let Some(mut service) = service {
            assert_eq!(service.end_by("TERM")["result"], 0);
            drop(service);
            let _daemon = Daemon::start(&workplace, &["--restore"]);
            wait_until("all are mounted again", || workplace.ask("/readyz").0 == 200);
            assert!(workplace.is_mounted("c") && workplace.is_mounted("kept"));
            assert!(["a", "b", "d"].iter().all(|name| !workplace.is_mounted(name)), "not wanted");
        }
    }
}

/// `a` to `d` are lost.
fn assert_seen_until_unmounted(workplace: &Workplace, registry: &FaultRegistry) {
    assert_missing(workplace, &["a", "b", "c", "d"]);
    let said = health(workplace)["unrestored"][0].clone();
    assert_eq!(said["retried"], false);
    let why = said["error"].as_str().unwrap();
    assert!(workplace.ask("/readyz").1.contains(&format!("again, and given up: {why}")));
    assert_failed(&workplace.run(&["status", "a"]), 3, why);
    assert!(["a", "b", "c", "d"].iter().all(|name| !workplace.is_mounted(name)), "left dead");
    // By the command, over the API; or mounted anew.
    assert_done(&workplace.run(&["umount", "a"]));
    assert_missing(workplace, &["b", "c", "d"]);
    let socket = workplace.path("cache/control.sock");
    let place = format!("http://owner/v1/mounts?target={}", workplace.path("b").display());
    let delete = ["--unix-socket", socket.to_str().unwrap(), "-X", "DELETE", &place];
    assert_eq!(crate::workplace::curl(&delete).0, 204);
    assert_missing(workplace, &["c", "d"]);
    assert_eq!(crate::workplace::curl(&delete).0, 404);
    put_archive(registry);
    let reference = registry.reference("archive").to_string();
    assert_done(&workplace.run(&["mount", &reference, "c"]));
    assert_missing(workplace, &["d"]);
    // What somebody else has mounted there meanwhile stays.
    let d = workplace.path("d");
    mount("tmpfs", &d, "tmpfs", MountFlags::empty(), None).unwrap();
    let output = workplace.run(&["umount", "d"]);
    let is_there = workplace.is_mounted("d");
    unmount(&d, UnmountFlags::DETACH).unwrap();
    assert_failed(&output, 1, "is no mount of refmount, but one of type tmpfs");
    assert!(is_there);
    assert_missing(workplace, &[]);
    assert!(["a", "b"].iter().all(|name| !workplace.is_mounted(name)));
    assert_eq!(std::fs::read(workplace.path("c/first")).unwrap(), b"1");
}

#[test]
fn a_service_mounts_again_what_it_has_lost_unless_that_is_unmounted() {
    let registry = FaultRegistry::start();
    let mut service = None;
    let start = |workplace: &Workplace| service = Some(Service::start(workplace, &["--restore"]));
    let workplace = with_lost(&registry, start, &["a", "b"]);
    assert_missing(&workplace, &["a", "b"]);
    assert_eq!(health(&workplace)["unrestored"][0]["retried"], true);
    // It is dead, and has a process no more; and it does not come again.
    assert_done(&workplace.run(&["umount", "a"]));
    assert_missing(&workplace, &["b"]);
    put_archive(&registry);
    wait_until("the other one is mounted again", || missing(&workplace).is_empty());
    assert_eq!(std::fs::read(workplace.path("b/first")).unwrap(), b"1");
    assert_missing(&workplace, &[]);
    let mut service = service.unwrap();
    assert_eq!(service.end_by("TERM")["result"], 0);
    service.begin();
    wait_until("all are mounted again", || workplace.ask("/readyz").0 == 200);
    assert!(!workplace.is_mounted("a") && workplace.is_mounted("b") && workplace.is_mounted("kept"));
}
