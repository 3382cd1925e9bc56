//! Another program goes on with what is mounted, under readers; one that cannot is gone back from.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use refmount::base::clock;
use refmount::daemon::owner::EXIT_LIMIT;
use rustix::process::{Signal, kill_process};

use super::outliving::Scene;
use crate::support::artifact::ModelArtifact;
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::support::program_file::write_program;
use crate::workplace::{
    Workplace, assert_done, assert_failed, is_running, json, mounts_below, stdout, wait_until, workplace_with,
};

/// The version of the program that is tested, and another one of as many letters.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const OTHER: &str = "9.8.7";

/// A copy of the program that says that it is version [`OTHER`].
fn other_version(workplace: &Workplace) -> PathBuf {
    assert_eq!(VERSION.len(), OTHER.len());
    let mut bytes = std::fs::read(&workplace.program).unwrap();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(VERSION.len()).position(|text| text == VERSION.as_bytes()) {
        at += found;
        bytes[at..at + OTHER.len()].copy_from_slice(OTHER.as_bytes());
    }
    put_program(workplace, "other", &bytes)
}

fn put_program(workplace: &Workplace, name: &str, content: &[u8]) -> PathBuf {
    let path = workplace.path(name);
    write_program(&path, content);
    path
}

/// A program that says what a server should, and then does `what` in its place.
pub(crate) fn liar(workplace: &Workplace, what: &str) -> PathBuf {
    let program = workplace.program.display();
    let script =
        format!("#!/bin/sh\ncase \"$2\" in --handover-version) exec {program} \"$@\";; esac\n{what}\n");
    put_program(workplace, "liar", script.as_bytes())
}

fn upgrade(workplace: &Workplace, program: &Path) -> std::process::Output {
    workplace.run(&["upgrade", "--program", program.to_str().unwrap()])
}

#[test]
fn another_version_goes_on_under_readers_and_back() {
    let scene = Scene::begin();
    let other = other_version(&scene.workplace);
    let readers = scene.start_readers();
    let done = upgrade(&scene.workplace, &other);
    assert_done(&done);
    assert_eq!(stdout(&done), format!("upgraded from {VERSION} to {OTHER}\n"));
    // Nobody asks for another one: whoever dies is followed by the same.
    kill_process(scene.server(), Signal::KILL).unwrap();
    let done = scene.workplace.run(&["upgrade"]);
    assert_done(&done);
    assert_eq!(stdout(&done), format!("upgraded from {OTHER} to {VERSION}\n"));
    assert_done(&upgrade(&scene.workplace, &other));
    readers.end();
    let log = std::fs::read_to_string(scene.workplace.path("cache/owner.log")).unwrap();
    assert_eq!(log.matches("is gone").count(), 1, "{log}");
    scene.end();
}

/// Tells an owner to end while a program is tried that takes over none of its mounts, and waits for that.
fn end_while_trying(targets: &[String]) -> Duration {
    let workplace = workplace_with(&targets.iter().map(String::as_str).collect::<Vec<_>>());
    for target in targets {
        assert_done(&workplace.run(&["mount", "oci:layout:v1", target]));
    }
    let owner = workplace.owner().unwrap();
    let trying = workplace.path("trying");
    let liar = liar(&workplace, &format!("touch {}; exec sleep 600", trying.display()));
    let mut command = workplace.command(&["upgrade", "--program", liar.to_str().unwrap()]);
    let mut upgrading = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is tried", || trying.exists());
    let told = clock::now();
    kill_process(owner, Signal::TERM).unwrap();
    wait_until("the owner has ended", || !is_running(owner));
    let took = told.elapsed();
    assert_eq!(mounts_below(workplace.directory.path()), Vec::<PathBuf>::new());
    assert!(!workplace.path("cache/control.sock").exists());
    // It would wait for another owner.
    upgrading.kill().unwrap();
    upgrading.wait().unwrap();
    took
}

#[test]
fn an_owner_that_is_told_to_end_while_a_program_is_tried_leaves_no_mount() {
    let took = end_while_trying(&["a".to_owned()]);
    assert!(took < EXIT_LIMIT, "it took {took:?} to end");
}

/// There is no room on the way to a process for what so many are made of.
#[test]
fn a_program_that_does_not_take_many_mounts_holds_up_nobody() {
    end_while_trying(&(0..300).map(|number| format!("m{number}")).collect::<Vec<_>>());
}

/// Whatever it does in place of serving, readers notice nothing but a pause.
#[test]
fn a_program_that_does_not_come_to_serve_is_gone_back_from() {
    let scene = Scene::begin();
    let readers = scene.start_readers();
    for (what, said) in [
        ("exit 1", "ended with status 1"),
        ("exit 0", "ended with status 0"),
        ("kill -9 $$", "killed by signal 9"),
        ("kill -SEGV $$", "killed by signal 11"),
    ] {
        let liar = liar(&scene.workplace, what);
        let failed = upgrade(&scene.workplace, &liar);
        assert_failed(&failed, 1, said);
        assert_failed(&failed, 1, &format!("refmount {VERSION} serves on"));
    }
    // The one that served before is gone back to also when it is not to be found any more, and by whoever comes after it.
    let other = other_version(&scene.workplace);
    assert_done(&upgrade(&scene.workplace, &other));
    std::fs::remove_file(&other).unwrap();
    let failed = upgrade(&scene.workplace, &liar(&scene.workplace, "exit 1"));
    assert_failed(&failed, 1, &format!("refmount {OTHER} serves on"));
    let before = scene.server();
    kill_process(before, Signal::KILL).unwrap();
    wait_until("another process serves", || scene.server() != before);
    assert_done(&scene.workplace.run(&["upgrade"]));
    readers.end();
    scene.end();
}

/// What was to be warmed is over when its registry is gone. That is no fault of the program that finds it out.
#[test]
fn a_warming_that_fails_or_is_done_while_a_program_is_on_trial_does_not_fail_it() {
    let artifact = ModelArtifact::new(11, &[("config.json", 300), ("model.bin", 3 << 20)]);
    let mut registry = FaultRegistry::with(&artifact);
    let workplace = Workplace::new().with_directories(&["a"]);
    let reference = registry.reference("v1").to_string();
    assert_done(&workplace.run(&["mount", "--prefetch=off", &reference, "a"]));
    assert!(std::fs::read(workplace.path("a/model.bin")).unwrap() == artifact.file("model.bin"));
    let other = other_version(&workplace);
    let state = || {
        let listed = json(&workplace.run(&["warm", "--list", "-o", "json"]));
        listed.as_array().unwrap().last().map(|warm| warm["state"].clone())
    };
    let stall = || registry.faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Stall(0)));
    let deny = || registry.faults(Target::Manifest, 0, usize::MAX, Fault::Status(404, Vec::new()));
    let change: [(&Path, &dyn Fn()); 3] =
        [(&other, &deny), (&workplace.program, &|| registry.clear_faults()), (&other, &deny)];
    for (program, change) in change {
        assert_done(&workplace.run(&["cache", "prune", "--all"]));
        registry.clear_faults();
        stall();
        assert_done(&workplace.run(&["warm", &reference]));
        wait_until("it goes on", || state().is_some());
        change();
        assert_done(&upgrade(&workplace, program));
        assert_eq!(std::fs::read_dir(workplace.path("a")).unwrap().count(), 2);
    }
    registry.clear_faults();
    stall();
    assert_done(&workplace.run(&["cache", "prune", "--all"]));
    assert_done(&workplace.run(&["warm", &reference]));
    registry.go_away();
    assert_done(&upgrade(&workplace, &workplace.program));
    assert_eq!(std::fs::read_dir(workplace.path("a")).unwrap().count(), 2);
    assert_done(&workplace.run(&["umount", "a"]));
    wait_until("the owner has ended", || workplace.processes().is_empty());
}

#[test]
fn a_program_that_cannot_go_on_is_refused_before_anything_happens() {
    let workplace = Workplace::with_layout();
    assert_failed(&workplace.run(&["upgrade"]), 3, "nothing serves");
    std::fs::create_dir(workplace.path("a")).unwrap();
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let server = workplace.server();
    assert_failed(&upgrade(&workplace, Path::new("/bin/true")), 5, "is no refmount");
    assert_failed(&upgrade(&workplace, &workplace.path("missing")), 3, "cannot run");
    let says = r#"{"version":"9.8.7","numbering":99,"format":99}"#;
    let foreign = put_program(&workplace, "foreign", format!("#!/bin/sh\necho '{says}'\n").as_bytes());
    assert_failed(&upgrade(&workplace, &foreign), 5, "refmount 9.8.7 numbers files in another way");
    assert_eq!(workplace.server(), server);
    assert_eq!(std::fs::read(workplace.path("a/config.json")).unwrap(), b"{}\n");
}
