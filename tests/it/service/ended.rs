//! A service that is told to end, and whose server is killed or hangs as it does so: the main process does it then.

use rustix::process::{Pid, Signal, kill_process};

use super::kept::{assert_served, under_readers};
use super::{Daemon, Service};
use crate::workplace::{Workplace, assert_done, wait_until, workplace_with};

/// Stops the one that serves, so that nothing comes of what it is told.
fn stop_server(workplace: &Workplace) -> Pid {
    let server = workplace.server().unwrap();
    assert!(Some(server) != workplace.owner());
    kill_process(server, Signal::STOP).unwrap();
    server
}

fn mount(workplace: &Workplace, targets: &[&str]) {
    for target in targets {
        assert_done(&workplace.run(&["mount", "oci:layout:v1", target]));
    }
}

/// Nothing is left of it, and what is to be mounted again is.
fn assert_over(workplace: &Workplace, end: &serde_json::Value, targets: &[&str]) {
    assert_eq!((&end["result"], &end["stored"]), (&1.into(), &serde_json::json!([])));
    assert!(!targets.iter().any(|target| workplace.is_mounted(target)));
    assert!(!workplace.path("cache/control.sock").exists());
}

#[test]
fn a_service_whose_server_is_killed_as_it_ends_leaves_no_mount() {
    let workplace = workplace_with(&["a", "b"]);
    let mut service = Service::start(&workplace, &["--restore"]);
    mount(&workplace, &["a", "b"]);
    let open = std::fs::File::open(workplace.path("a/config.json")).unwrap();
    for signal in ["TERM", "INT"] {
        let server = stop_server(&workplace);
        service.ask(signal);
        kill_process(server, Signal::KILL).unwrap();
        let end = service.ask("wait");
        assert_over(&workplace, &end, &["a", "b"]);
        service.begin();
        wait_until("all are mounted again", || workplace.is_mounted("a") && workplace.is_mounted("b"));
        assert_served(&workplace);
    }
    drop(open);
    assert_eq!(service.end_by("TERM")["result"], 0);
}

#[test]
fn a_service_whose_server_hangs_as_it_ends_is_over_in_its_time() {
    let workplace = workplace_with(&["a", "b"]);
    let mut service = Service::start(&workplace, &["--restore"]);
    mount(&workplace, &["a", "b"]);
    stop_server(&workplace);
    let end = service.end_by("TERM");
    assert_over(&workplace, &end, &["a", "b"]);
    service.begin();
    wait_until("all are mounted again", || workplace.is_mounted("a") && workplace.is_mounted("b"));
    assert_served(&workplace);
    assert_eq!(service.end_by("TERM")["result"], 0);
}

#[test]
fn kept_mounts_stay_with_the_manager_whatever_becomes_of_the_server() {
    let workplace = workplace_with(&["a"]);
    let mut service = Service::start(&workplace, &["--keep-mounts"]);
    mount(&workplace, &["a"]);
    under_readers(&workplace, || {
        let server = stop_server(&workplace);
        service.ask("TERM");
        kill_process(server, Signal::KILL).unwrap();
        assert_eq!(service.ask("wait")["result"], 1);
        assert!(workplace.is_mounted("a"));
        service.begin();
        assert_served(&workplace);
        stop_server(&workplace);
        assert_eq!(service.end_by("TERM")["result"], 1);
        assert!(workplace.is_mounted("a"));
        service.begin();
        assert_served(&workplace);
    });
    // SIGINT keeps nothing.
    stop_server(&workplace);
    let end = service.end_by("INT");
    assert_over(&workplace, &end, &["a"]);
}

/// Each mount takes a descriptor for each thread that serves it, and three more.
#[test]
fn what_the_manager_has_no_room_for_does_not_stay_dead() {
    let targets: Vec<String> = (0..10).map(|number| format!("m{number}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let workplace = workplace_with(&targets);
    let stored = [("FDSTORE", "40"), ("WATCHDOG_USEC", "300000")];
    let mut service = Service::start_with(&workplace, &["--keep-mounts"], &stored);
    mount(&workplace, &targets);
    let end = service.end_by("TERM");
    assert_eq!(end["result"], 0);
    let is_stored =
        |number: usize| end["stored"].as_array().unwrap().contains(&format!("mount-{number}.0").into());
    let kept: Vec<&str> =
        (0..targets.len()).filter(|number| is_stored(*number)).map(|number| targets[number]).collect();
    assert!(!kept.is_empty() && kept.len() < targets.len(), "{end}");
    assert!(targets.iter().all(|target| workplace.is_mounted(target) == kept.contains(target)));
    service.begin();
    assert!(kept.iter().all(|target| workplace.run(&["status", target]).status.success()));
    assert_eq!(service.end_by("INT")["result"], 0);
}

#[test]
fn kept_mounts_that_nobody_stores_are_served_on_by_the_next_server() {
    let workplace = workplace_with(&["a"]);
    let daemon = Daemon::start(&workplace, &["--keep-mounts"]);
    mount(&workplace, &["a"]);
    under_readers(&workplace, || {
        let server = stop_server(&workplace);
        daemon.tell(Signal::TERM);
        kill_process(server, Signal::KILL).unwrap();
        wait_until("another one serves", || {
            workplace.server() != Some(server) && workplace.run(&["status", "a"]).status.success()
        });
        assert_served(&workplace);
    });
    // For the second time, that is not what was asked for.
    let server = stop_server(&workplace);
    daemon.tell(Signal::TERM);
    kill_process(server, Signal::KILL).unwrap();
    assert_eq!(daemon.output().status.code(), Some(1));
    assert!(!workplace.is_mounted("a"));
}

/// Whoever serves by then.
#[test]
fn a_second_sigterm_unmounts_what_is_kept_also_after_the_server_was_replaced() {
    let workplace = workplace_with(&["a"]);
    let daemon = Daemon::start(&workplace, &["--keep-mounts"]);
    mount(&workplace, &["a"]);
    daemon.tell(Signal::TERM);
    let server = workplace.server().unwrap();
    kill_process(server, Signal::KILL).unwrap();
    wait_until("another one serves", || {
        workplace.server() != Some(server) && workplace.run(&["status", "a"]).status.success()
    });
    assert_served(&workplace);
    daemon.tell(Signal::TERM);
    assert_eq!(daemon.output().status.code(), Some(0));
    assert!(!workplace.is_mounted("a"));
}
