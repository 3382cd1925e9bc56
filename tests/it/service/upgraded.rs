//! A service that is upgraded, and one that others ask for what it is not.

use super::{Service, workplace_with};
use crate::e2e::upgrading::liar;
use crate::workplace::{Workplace, assert_done, assert_failed, shard, wait_until};

fn upgrade(workplace: &Workplace, what: &str) -> std::process::Output {
    workplace.run(&["upgrade", "--program", liar(workplace, what).to_str().unwrap()])
}

#[test]
fn a_service_goes_back_as_well_and_its_manager_hears_that_it_lives() {
    let workplace = workplace_with(&["a"]);
    let mut service = Service::start(&workplace, &["--keep-mounts", "--restore"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let file = workplace.path("a/weights/model.safetensors");
    let pid = service.ask("state")["pid"].clone();
    for (time, what) in ["exit 1", "kill -SEGV $$"].into_iter().enumerate() {
        let ready = service.ask("state")["ready"].as_u64();
        assert_failed(&upgrade(&workplace, what), 1, "serves on");
        wait_until("it is ready again", || service.ask("state")["ready"].as_u64() > ready);
        assert_eq!(service.ask("state")["reloading"], time as u64 + 1);
        assert!(std::fs::read(&file).unwrap() == shard());
    }
    // While a program neither serves nor ends, nobody but the holder can say so.
    let [trying, enough] = ["trying", "enough"].map(|name| workplace.path(name));
    let hangs =
        format!("touch {}; until [ -e {} ]; do sleep 0.1; done; exit 1", trying.display(), enough.display());
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| upgrade(&workplace, &hangs));
        wait_until("it is tried", || trying.exists());
        let fed = service.watchdog();
        wait_until("the watchdog is fed", || service.watchdog() > fed + 1);
        assert!(!failing.is_finished());
        workplace.put("enough", b"");
        assert_failed(&failing.join().unwrap(), 1, "serves on");
    });
    assert_done(&workplace.run(&["upgrade"]));
    assert_done(&workplace.run(&["status", "a"]));
    // All of that was one service, and what it has stored is what the next one goes on with.
    assert_eq!(service.end_by("TERM")["result"], 0);
    service.begin();
    assert!(service.ask("state")["pid"] != pid && std::fs::read(&file).unwrap() == shard());
    assert_done(&workplace.run(&["umount", "a"]));
    let end = service.end_by("TERM");
    assert_eq!((&end["result"], &end["stored"]), (&0.into(), &serde_json::json!([])));
}

#[test]
fn a_service_without_mounts_stays_whatever_bounds_are_asked_for() {
    let workplace = workplace_with(&["a"]);
    let mut service = Service::start(&workplace, &[]);
    for _ in 0..2 {
        assert_done(&workplace.run(&["mount", "--cache-size=1GiB", "oci:layout:v1", "a"]));
        assert_done(&workplace.run(&["umount", "a"]));
    }
    assert_eq!(service.end_by("TERM")["result"], 0);
}
