//! The commands that need no mount, as scripts use them: what is printed, and the exit status.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use refmount::registry::LayoutWriter;
use serde_json::Value;

use crate::workplace::{Workplace, assert_done, assert_failed, json, shard, stderr, stdout};

#[test]
fn inspect_shows_what_pack_made() {
    let workplace = Workplace::with_layout();
    let shown = json(&workplace.run(&["inspect", "-o", "json", "oci:layout:v1"]));
    assert_eq!(shown["reference"], format!("oci:{}:v1", workplace.path("layout").display()));
    assert_eq!(shown["media_type"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(shown["artifact_type"], "application/vnd.cncf.model.manifest.v1+json");
    assert_eq!(shown["kind"], "artifact");
    assert_eq!(shown["warnings"], Value::Array(Vec::new()));
    let layers = shown["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(layers[0]["path"], "config.json");
    assert_eq!(layers[1]["path"], "weights/model.safetensors");
    assert_eq!(layers[1]["size"], 3_000_000);
    assert_eq!(layers[1]["format"], "raw");
    assert_eq!(layers[1]["rule"], "modelpack");
    assert!(layers[1]["reason"].as_str().unwrap().contains("org.cncf.model.filepath"), "{shown}");
    assert_eq!(layers[1]["media_type"], "application/vnd.cncf.model.weight.v1.raw");
    assert!(layers[1]["digest"].as_str().unwrap().starts_with("sha256:"));

    let text = stdout(&workplace.run(&["inspect", "oci:layout"]));
    assert!(text.contains(shown["digest"].as_str().unwrap()), "{text}");
    assert!(text.contains("  modelpack  ") && text.contains("from org.cncf.model.filepath"), "{text}");
}

#[test]
fn the_same_files_packed_again_have_the_same_digest() {
    let workplace = Workplace::with_layout();
    let first = json(&workplace.run(&["inspect", "-o", "json", "oci:layout:v1"]));
    assert_done(&workplace.run(&["pack", "model", "oci:other:v2"]));
    let second = json(&workplace.run(&["inspect", "-o", "json", "oci:other:v2"]));
    assert_eq!(first["digest"], second["digest"]);
    let pinned = format!("oci:layout@{}", first["digest"].as_str().unwrap());
    assert_done(&workplace.run(&["tree", &pinned]));
}

#[test]
fn a_tag_packed_anew_leads_to_the_new_files() {
    let workplace = Workplace::with_layout();
    workplace.put("model/config.json", b"{\"new\": true}\n");
    assert_done(&workplace.run(&["pack", "model", "oci:layout:v1"]));
    assert_eq!(stdout(&workplace.run(&["cat", "oci:layout:v1", "config.json"])), "{\"new\": true}\n");
}

#[test]
fn a_packed_artifact_is_read_by_skopeo() {
    let workplace = Workplace::with_layout();
    let output = Command::new("skopeo")
        .args(["inspect", "--raw", "oci:layout:v1"])
        .current_dir(workplace.directory.path())
        .output()
        .expect("skopeo is missing; scripts/test installs it");
    assert_eq!(json(&output)["layers"].as_array().unwrap().len(), 2);
}

#[test]
fn tree_lists_all_or_a_part() {
    let workplace = Workplace::with_layout();
    let all = stdout(&workplace.run(&["tree", "oci:layout:v1"]));
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 3, "{all}");
    assert!(
        lines[0].starts_with("-rw") && lines[0].contains("      3 2023-11-14 22:13 config.json"),
        "{all}"
    );
    assert!(lines[1].starts_with("drwxr-xr-x") && lines[1].ends_with(" weights"), "{all}");
    assert!(lines[2].ends_with(" 3000000 2023-11-14 22:13 weights/model.safetensors"), "{all}");
    let part = stdout(&workplace.run(&["tree", "oci:layout:v1", "./weights/"]));
    assert_eq!(part.lines().count(), 2, "{part}");
    let entries = json(&workplace.run(&["tree", "-o", "json", "oci:layout:v1", "weights/model.safetensors"]));
    let found = (&entries[0]["type"], &entries[0]["size"], &entries[0]["mtime"]);
    assert_eq!(found, (&"file".into(), &3_000_000.into(), &1_700_000_000.into()), "{entries}");
    let file = stdout(&workplace.run(&["tree", "oci:layout:v1", "weights/model.safetensors"]));
    assert_eq!(file.lines().count(), 1, "{file}");
}

#[test]
fn cat_writes_every_byte_or_those_asked_for() {
    let workplace = Workplace::with_layout();
    let name = "weights/model.safetensors";
    let whole = workplace.run(&["cat", "oci:layout:v1", name]);
    assert_done(&whole);
    let content = shard();
    assert!(whole.stdout == content, "the content differs");
    assert!(whole.stderr.is_empty(), "progress without a terminal: {}", stderr(&whole));
    for (range, expected) in [
        ("0-0", &content[..1]),
        ("1000000-1999999", &content[1_000_000..2_000_000]),
        ("2999990-", &content[2_999_990..]),
        ("-7", &content[2_999_993..]),
        ("2999999-99999999", &content[2_999_999..]),
    ] {
        let part = workplace.run(&["cat", "oci:layout:v1", name, "--range", range]);
        assert_done(&part);
        assert!(part.stdout == expected, "{range} differs");
    }
    assert_failed(&workplace.run(&["cat", "oci:layout:v1", name, "--range", "3000000-"]), 2, "3000000 bytes");
    assert_failed(&workplace.run(&["cat", "oci:layout:v1", name, "--range", "7-3"]), 2, "before it begins");
}

#[test]
fn cat_of_bytes_that_are_not_those_promised_fails() {
    let workplace = Workplace::with_layout();
    let mut content = shard();
    let blob = workplace.blob_of(&content);
    content[2_000_000] ^= 1;
    workplace.put(blob.strip_prefix(workplace.directory.path()).unwrap().to_str().unwrap(), &content);
    let output = workplace.run(&["cat", "oci:layout:v1", "weights/model.safetensors"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("its digest is sha256:"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let workplace = Workplace::with_layout();
    let mut child = workplace
        .command(&["cat", "oci:layout:v1", "weights/model.safetensors"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_done(&output);
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}

#[test]
fn what_does_not_exist_is_status_3() {
    let workplace = Workplace::with_layout();
    assert_failed(&workplace.run(&["inspect", "oci:layout:v2"]), 3, "v2");
    assert_failed(&workplace.run(&["inspect", "oci:nowhere"]), 3, "nowhere");
    assert_failed(&workplace.run(&["tree", "oci:layout:v1", "weights/none"]), 3, "exists is \"weights\"");
    assert_failed(&workplace.run(&["cat", "oci:layout:v1", "none"]), 3, "\"none\" does not exist");
    assert_failed(&workplace.run(&["umount", "nowhere"]), 3, "nowhere");
    assert_failed(&workplace.run(&["umount", "model"]), 3, "nothing is mounted on");
    assert_failed(&workplace.run(&["status", "model"]), 3, "nothing is mounted on");
    assert_failed(&workplace.run(&["mount", "oci:layout:v1", "nowhere"]), 3, "mkdir -p nowhere");
    assert_failed(&workplace.run(&["cache", "info"]), 3, "there is no cache");
    assert!(!workplace.path("cache").exists(), "looking at a cache made one");
}

#[test]
fn a_directory_that_is_no_cache_is_not_made_one_by_looking() {
    let workplace = Workplace::new();
    workplace.put("mine/notes", b"x");
    for command in [&["cache", "info"][..], &["cache", "prune"], &["cache", "prune", "--all"]] {
        let arguments = [&["--cache-dir", "mine"], command].concat();
        assert_failed(&workplace.run(&arguments), 3, "there is no cache at");
        assert_eq!(std::fs::read_dir(workplace.path("mine")).unwrap().count(), 1, "{command:?}");
    }
}

#[test]
fn what_makes_no_sense_is_status_2() {
    let workplace = Workplace::with_layout();
    for arguments in [
        &[][..],
        &["fly"],
        &["ownr"],
        &["mount", "oci:layout:v1"],
        &["mount", "oci:layout:v1", "model", "--cache-size", "much"],
        &["mount", "oci:layout:v1", "model", "--cache-min-free", "120%"],
        &["mount", "oci:layout:v1", "model", "--read-timeout", "0"],
        &["mount", "oci:layout:v1", "model", "--platform", "linux"],
        &["mount", "UPPER/case", "model"],
        &["inspect", "oci:layout:v1", "-o", "yaml"],
        &["inspect", "oci:layout@sha256:abc"],
        &["cat", "oci:layout:v1", "../config.json"],
        &["pack", "model", "registry.example/model"],
        &["pack", "model", "oci:model/layout"],
        &["pack", "model", "oci:layout/../model/layout"],
        &["completions", "tcsh"],
        &["list", "--log-level", "refmount=loud"],
        &["list", "--log-level", "chatty"],
    ] {
        let output = workplace.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{arguments:?}");
        assert!(!stderr(&output).contains("'owner'"), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn errors_end_in_what_to_do() {
    let workplace = Workplace::with_layout();
    let output = workplace.run(&["mount", "oci:layout:v1", "nowhere"]);
    assert!(stderr(&output).ends_with("; make it: mkdir -p nowhere\n"), "{}", stderr(&output));
    let output = workplace.run(&["inspect", "https://registry.example/team/model:v1"]);
    assert_failed(&output, 2, "leave it out: registry.example/team/model:v1\n");
    let output = workplace.run(&["inspect", "http://me:secret@registry.example/model"]);
    assert_failed(&output, 2, "leave it out: registry.example/model, and give --plain-http");
    assert!(!stderr(&output).contains("secret"), "{}", stderr(&output));
}

#[test]
fn a_mount_of_another_kind_is_named_and_left_alone() {
    let workplace = Workplace::new();
    assert_failed(&workplace.run(&["umount", "/proc"]), 1, "type proc");
    assert!(Path::new("/proc/self").exists());
}

#[test]
fn umount_goes_on_after_a_failure_and_reports_each() {
    let workplace = Workplace::new();
    let output = workplace.run(&["umount", "one", "/proc", "two"]);
    assert_eq!(output.status.code(), Some(3), "the first failure counts");
    assert_eq!(stderr(&output).lines().count(), 3, "{}", stderr(&output));
}

#[test]
fn what_can_not_be_packed_is_refused_by_name() {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("empty")).unwrap();
    assert_failed(&workplace.run(&["pack", "empty", "oci:layout:v1"]), 2, "holds no files");
    assert!(!workplace.path("layout").exists(), "a layout of nothing");
    workplace.put_model();
    symlink("/etc/passwd", workplace.path("model/outside")).unwrap();
    assert_failed(&workplace.run(&["pack", "model", "oci:layout:v1"]), 2, "model/outside");
    assert_failed(&workplace.run(&["pack", "nowhere", "oci:layout:v1"]), 3, "nowhere");
}

#[test]
fn options_come_from_the_environment_too() {
    let workplace = Workplace::with_layout();
    let output =
        workplace.command(&["inspect", "oci:layout:v1"]).env("REFMOUNT_OUTPUT", "json").output().unwrap();
    assert_eq!(json(&output)["kind"], "artifact");
    let output = workplace
        .command(&["mount", "oci:layout:v1", "model"])
        .env("REFMOUNT_CACHE_SIZE", "much")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn an_empty_variable_counts_as_not_given() {
    let workplace = Workplace::with_layout();
    std::fs::create_dir(workplace.path("m")).unwrap();
    let with_empty = |arguments: &[&str]| {
        let mut command = workplace.command(arguments);
        for name in [
            "LOG_LEVEL",
            "LOG_FORMAT",
            "AUTHFILE",
            "PLATFORM",
            "PLAIN_HTTP",
            "CACHE_SIZE",
            "CACHE_MIN_FREE",
            "SUBPATH",
            "VERIFY",
            "PREFETCH",
            "ALLOW_OTHER",
            "FOREGROUND",
            "READ_TIMEOUT",
            "OUTPUT",
            "RANGE",
            "FORMAT",
            "ALL",
        ] {
            command.env(format!("REFMOUNT_{name}"), "");
        }
        command
    };
    assert_done(&with_empty(&["pack", "model", "oci:other:v1"]).output().unwrap());
    assert!(stdout(&with_empty(&["inspect", "oci:layout:v1"]).output().unwrap()).contains("modelpack"));
    assert_eq!(with_empty(&["cat", "oci:layout:v1", "config.json"]).output().unwrap().stdout, b"{}\n");
    assert_done(&with_empty(&["mount", "oci:layout:v1", "m"]).output().unwrap());
    assert!(workplace.path("m/weights").exists());
    assert_done(&with_empty(&["umount", "m"]).output().unwrap());
    let mut without_cache = with_empty(&["tree", "oci:layout:v1"]);
    assert_done(&without_cache.env("REFMOUNT_CACHE_DIR", "").output().unwrap());
}

#[test]
fn completions_name_the_commands() {
    let workplace = Workplace::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = workplace.run(&["completions", shell]);
        assert_done(&output);
        assert!(stdout(&output).contains("inspect"), "{shell}");
        // Nobody but this program calls it.
        assert!(!stdout(&output).contains("owner\""), "{shell}");
        assert!(!stdout(&output).contains("refmount__owner"), "{shell}");
        assert!(!stdout(&output).contains("(owner)"), "{shell}");
    }
}

#[test]
fn a_name_in_a_manifest_can_not_steer_the_terminal() {
    let workplace = Workplace::new();
    workplace.put("model/a\u{1b}[2Jb", b"x");
    assert_done(&workplace.run(&["pack", "model", "oci:layout:v1"]));
    for command in [&["tree", "oci:layout:v1"][..], &["inspect", "oci:layout:v1"]] {
        let text = stdout(&workplace.run(command));
        assert!(!text.contains('\u{1b}') && text.contains("a\u{fffd}[2Jb"), "{text}");
    }
}

#[test]
fn what_could_not_be_mounted_is_not_listed_either() {
    let workplace = Workplace::with_layout();
    let inspected = json(&workplace.run(&["inspect", "-o", "json", "oci:layout:v1"]));
    let digest = inspected["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let manifest = std::fs::read_to_string(workplace.path("layout/blobs/sha256").join(digest)).unwrap();
    let twice = manifest.replace("weights/model.safetensors", "config.json");
    assert_ne!(manifest, twice);
    let writer = LayoutWriter::open(&workplace.path("layout")).unwrap();
    let media_type = inspected["media_type"].as_str().unwrap();
    writer.add_manifest(Some("v1"), media_type, None, twice.as_bytes()).unwrap();
    for command in [&["tree", "oci:layout:v1"][..], &["cat", "oci:layout:v1", "config.json"]] {
        assert_failed(&workplace.run(command), 1, "config.json");
    }
}
