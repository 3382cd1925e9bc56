//! The main process of a service is killed, and nobody kills the one that serves for it.

use rustix::process::Pid;

use super::Service;
use super::kept::{assert_served, under_readers};
use crate::workplace::{Workplace, assert_done, is_running, wait_until, workplace_with};

/// A service whose manager stores as many descriptors, and its log.
fn start(workplace: &Workplace, stored: &str, options: &[&str]) -> Service {
    let log = workplace.path("log");
    let options = [&["--log-file", log.to_str().unwrap()], options].concat();
    Service::start_with(workplace, &options, &[("FDSTORE", stored), ("WATCHDOG_USEC", "300000")])
}

/// Kills the main process of `service`, and returns the one that it leaves alone.
fn kill_holder(workplace: &Workplace, service: &mut Service) -> Pid {
    let server = workplace.server().unwrap();
    assert!(Some(server) != workplace.owner());
    service.ask("KILL");
    assert_eq!(service.ask("reap")["result"], -9);
    server
}

fn wait_for_end(server: Pid) {
    wait_until("the one that served has ended", || !is_running(server));
}

/// It says so once, in these words.
fn assert_said(workplace: &Workplace, words: &str) {
    let log = std::fs::read_to_string(workplace.path("log")).unwrap();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("is gone")).collect();
    assert!(said.len() == 1 && said[0].contains(words), "{log}");
}

#[test]
fn a_service_without_its_main_process_leaves_its_mounts_to_the_manager() {
    let workplace = workplace_with(&["a"]);
    let mut service = start(&workplace, "200", &[]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    under_readers(&workplace, || {
        let server = kill_holder(&workplace, &mut service);
        wait_for_end(server);
        assert!(workplace.is_mounted("a"));
        assert_said(&workplace, "leaving what is mounted to the service manager");
        service.begin();
        assert_served(&workplace);
    });
    assert_done(&workplace.run(&["umount", "a"]));
    // Nor does it stay when it has no mounts.
    std::fs::remove_file(workplace.path("log")).unwrap();
    service.end_by("TERM");
    service.begin();
    wait_for_end(kill_holder(&workplace, &mut service));
    assert_said(&workplace, "mounts=0");
    service.begin();
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let end = service.end_by("TERM");
    assert_eq!((&end["result"], &end["stored"]), (&0.into(), &serde_json::json!([])));
}

#[test]
fn a_service_without_its_main_process_and_a_store_unmounts_and_ends() {
    let workplace = workplace_with(&["a"]);
    let mut service = start(&workplace, "0", &["--restore"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let open = std::fs::File::open(workplace.path("a/config.json")).unwrap();
    wait_for_end(kill_holder(&workplace, &mut service));
    drop(open);
    assert!(!workplace.is_mounted("a") && !workplace.path("cache/control.sock").exists());
    assert_said(&workplace, "ending");
    service.begin();
    assert_served(&workplace);
    assert_eq!(service.end_by("TERM")["result"], 0);
}

#[test]
fn a_service_without_its_main_process_and_a_store_that_keeps_its_mounts_ends_after_them() {
    let workplace = workplace_with(&["a", "b"]);
    let mut service = start(&workplace, "0", &["--keep-mounts"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let server = kill_holder(&workplace, &mut service);
    wait_until("it is noticed", || {
        std::fs::read_to_string(workplace.path("log")).unwrap().contains("is gone")
    });
    assert_said(&workplace, "serving on until the last mount is unmounted");
    assert_served(&workplace);
    assert_done(&workplace.run(&["umount", "a"]));
    wait_for_end(server);
    service.begin();
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    assert_eq!(service.end_by("INT")["result"], 0);
}
