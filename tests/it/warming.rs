//! Artifacts that are fetched before anybody mounts them, and what stays in the cache.

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::workplace::{Workplace, assert_done, assert_failed, json, shard, stderr, stdout, wait_until};

const MIB: u64 = 1 << 20;

fn model(files: &[(&str, u64)]) -> Workplace {
    let workplace = Workplace::new();
    for (number, (name, bytes)) in files.iter().enumerate() {
        let content: Vec<u8> =
            (0..*bytes).map(|at| (at.wrapping_mul(2_654_435_761 + number as u64) >> 13) as u8).collect();
        workplace.put(&format!("model/{name}"), &content);
    }
    workplace
}

fn pack(workplace: &Workplace, options: &[&str], tag: &str) -> String {
    let reference = format!("oci:layout:{tag}");
    assert_done(&workplace.run(&[&["pack"], options, &["model", &reference]].concat()));
    reference
}

fn ls(workplace: &Workplace) -> Value {
    json(&workplace.run(&["cache", "ls", "-o", "json"]))
}

#[test]
fn a_warmed_artifact_is_read_without_its_source() {
    for options in [&[][..], &["--format", "tar"], &["--format", "tar+gzip"]] {
        let workplace = Workplace::new();
        workplace.put_model();
        let reference = pack(&workplace, options, "v1");
        let warmed = json(&workplace.run(&["warm", "--wait", "-o", "json", &reference]));
        assert_eq!(
            (&warmed["state"], &warmed["cached_bytes"]),
            (&"done".into(), &3_000_003.into()),
            "{warmed}"
        );
        wait_until("the owner has ended", || workplace.owner().is_none());
        let held = &ls(&workplace)["artifacts"][0];
        assert_eq!(held["cached_bytes"], held["total_bytes"], "{held}");
        // The way to the layers is asked for by the mount; their bytes are not.
        std::fs::create_dir(workplace.path("a")).unwrap();
        for blob in std::fs::read_dir(workplace.path("layout/blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let bytes = std::fs::read(blob.path()).unwrap();
            if !bytes.starts_with(b"{") || bytes == b"{}\n" {
                let name = blob.path();
                workplace.put(name.to_str().unwrap(), &vec![0; bytes.len()]);
            }
        }
        assert_done(&workplace.run(&["mount", &reference, "a"]));
        let status = json(&workplace.run(&["status", "-o", "json", "a"]));
        for file in status["files"].as_array().unwrap() {
            assert_eq!(file["standing"], "proven", "{status}");
        }
        assert_eq!(status["network_bytes"], 0);
        assert!(std::fs::read(workplace.path("a/weights/model.safetensors")).unwrap() == shard());
        assert_done(&workplace.run(&["umount", "a"]));
    }
}

#[test]
fn a_part_is_warmed_and_what_does_not_exist_is_named() {
    let workplace = model(&[("a/one", 3 * MIB), ("a/two", 2 * MIB), ("b/three", 4 * MIB)]);
    let reference = pack(&workplace, &[], "v1");
    let warm = ["warm", "--wait", "-o", "json", "--subpath", "a", "--subpath", "a/one", &reference];
    let warmed = json(&workplace.run(&warm));
    assert_eq!((&warmed["file_count"], &warmed["total_bytes"]), (&2.into(), &(5 * MIB).into()), "{warmed}");
    assert_eq!(ls(&workplace)["artifacts"][0]["cached_bytes"], 5 * MIB);
    let missing = workplace.run(&["warm", "--wait", "--subpath", "c", &reference]);
    assert_failed(&missing, 3, "does not exist");
    assert_failed(&workplace.run(&["warm", "oci:layout:v2"]), 3, "v2");
    assert_failed(&workplace.run(&["warm", "--cancel", "7"]), 3, "warm");
}

#[test]
fn what_has_no_room_is_said_before_it_begins_and_left_out() {
    let workplace = model(&[("a", 4 * MIB), ("b", 6 * MIB), ("c", 2 * MIB)]);
    let reference = pack(&workplace, &[], "v1");
    let output = workplace.run(&["warm", "--wait", "--cache-size=8MiB", "--cache-min-free=0", &reference]);
    assert_done(&output);
    let said = stderr(&output);
    assert!(said.contains("1 files of 6.0 MiB do not fit"), "{said}");
    assert!(stdout(&output).ends_with(", 2 files, 6.0 MiB\n"), "{}", stdout(&output));
    assert_eq!(ls(&workplace)["artifacts"][0]["cached_bytes"], 6 * MIB);
}

#[test]
fn a_pin_stays_through_restarts_pruning_and_want_of_room() {
    let workplace = model(&[("a", 4 * MIB), ("b", 2 * MIB)]);
    let first = pack(&workplace, &[], "v1");
    workplace.put("model/a", &vec![7; 4 << 20]);
    workplace.put("model/c", &vec![8; 3 << 20]);
    let second = pack(&workplace, &[], "v2");
    let limits = ["--cache-size=8MiB", "--cache-min-free=0"];
    let run = |arguments: &[&str]| {
        workplace
            .run(&[&arguments[..arguments.len() - 1], &limits, &arguments[arguments.len() - 1..]].concat())
    };
    let pinned = json(&run(&["cache", "pin", "-o", "json", "--subpath", "a", &first]));
    assert_eq!((&pinned["bytes"], &pinned["subpaths"][0]), (&(4 * MIB).into(), &"a".into()), "{pinned}");
    // Warmed after it was pinned, in a process that is killed after that.
    assert_done(&run(&["warm", "--wait", &first]));
    workplace.signal_all(Signal::KILL);
    wait_until("the owner is gone", || workplace.owner().is_none());
    let output = run(&["warm", "--wait", &second]);
    assert_done(&output);
    assert!(stderr(&output).contains("do not fit"), "{}", stderr(&output));
    assert_done(&workplace.run(&["cache", "prune", "--all"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
    let held = ls(&workplace);
    assert_eq!(held["artifacts"].as_array().unwrap().len(), 1, "{held}");
    let held = &held["artifacts"][0];
    assert_eq!((&held["cached_bytes"], &held["pinned"]), (&(4 * MIB).into(), &true.into()), "{held}");
    assert_eq!(held["pinned_subpaths"][0], "a");
    let refused = run(&["cache", "pin", &second]);
    assert_failed(&refused, 1, &format!("has room for {} bytes of content", 7 * MIB));
    assert_done(&workplace.run(&["cache", "unpin", &first]));
    assert_failed(&workplace.run(&["cache", "unpin", &first]), 3, "is not pinned");
    assert_done(&workplace.run(&["cache", "prune", "--all"]));
    assert_eq!(ls(&workplace)["artifacts"], serde_json::json!([]));
}

/// A mount and a warming of the same artifact fetch it once between them, and the server may die meanwhile.
#[test]
fn a_warming_goes_on_after_its_server_has_died_and_shares_what_is_fetched() {
    let workplace = model(&[("a", 48 * MIB), ("b", 48 * MIB)]);
    let reference = pack(&workplace, &[], "v1");
    std::fs::create_dir(workplace.path("m")).unwrap();
    assert_done(&workplace.run(&["mount", "--prefetch=off", &reference, "m"]));
    let begun = json(&workplace.run(&["warm", "-o", "json", &reference]));
    kill_process(workplace.server().unwrap(), Signal::KILL).unwrap();
    let listed = || json(&workplace.run(&["warm", "--list", "-o", "json"]));
    wait_until("it is done", || {
        let listed = listed();
        listed.as_array().unwrap().iter().any(|warm| warm["id"] == begun["id"] && warm["state"] == "done")
            // Before it was killed: that one's list is gone.
            || json(&workplace.run(&["status", "-o", "json", "m"]))["cached_bytes"] == 96 * MIB
    });
    let status = json(&workplace.run(&["status", "-o", "json", "m"]));
    assert_eq!(status["cached_bytes"], 96 * MIB, "{status}");
    assert!(
        std::fs::read(workplace.path("m/a")).unwrap() == std::fs::read(workplace.path("model/a")).unwrap()
    );
    let status = json(&workplace.run(&["status", "-o", "json", "m"]));
    assert!(status["network_bytes"].as_u64().unwrap() <= 96 * MIB, "{status}");
    assert_done(&workplace.run(&["umount", "m"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}
