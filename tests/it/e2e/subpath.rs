//! Mounts of a part of an artifact. A subPath through a symbolic link needs layers that hold links, which raw
//! layers do not; that walk is tested beside the tree.

use std::fs::File;

use super::{mount, push, registry, status};
use crate::workplace::{Workplace, assert_done, assert_failed, wait_until};

const ONE: &str = "shards/one/model.safetensors";
const TWO: &str = "shards/two/model.safetensors";
const FILES: [(&str, u64); 4] =
    [("config.json", 700), (ONE, 5_000_000), (TWO, 6_000_001), ("shards/README", 80)];

#[test]
fn a_directory_is_shown_alone_and_no_other_layer_is_touched() {
    const REPOSITORY: &str = "models/parts";
    let (reference, artifact) = push(REPOSITORY, &FILES);
    for prefetch in ["auto", "all"] {
        let workplace = Workplace::new();
        mount(&workplace, &["--subpath", "shards/one", "--prefetch", prefetch], &reference, "mnt");
        let names: Vec<_> = std::fs::read_dir(workplace.path("mnt"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["model.safetensors"]);
        let content = std::fs::read(workplace.path("mnt/model.safetensors")).unwrap();
        assert!(content == artifact.file(ONE), "wrong bytes");
        let shown = status(&workplace, "mnt");
        assert_eq!(
            (shown["subpath"].as_str(), shown["files"].as_array().unwrap().len()),
            (Some("shards/one"), 1)
        );
        assert_eq!(shown["total_bytes"], 5_000_000);
        wait_until("all of it is stored", || status(&workplace, "mnt")["cached_bytes"] == 5_000_000);
        assert_done(&workplace.run(&["umount", "mnt"]));
        wait_until("the owner has ended", || workplace.owner().is_none());
    }
    let asked: Vec<String> = registry()
        .accesses(REPOSITORY)
        .into_iter()
        .filter(|access| access.is_blob())
        .map(|access| access.path)
        .collect();
    let own = artifact.layer(ONE);
    assert!(!asked.is_empty() && asked.iter().all(|path| path.ends_with(own.as_str())), "{asked:?}");
}

#[test]
fn a_file_is_shown_on_a_file() {
    let (reference, artifact) = push("models/one-file", &FILES);
    let workplace = Workplace::new();
    File::create(workplace.path("model")).unwrap();
    let reference = reference.to_string();
    assert_done(&workplace.run(&["mount", "--subpath", ONE, &reference, "model"]));
    assert!(std::fs::read(workplace.path("model")).unwrap() == artifact.file(ONE));
    let shown = status(&workplace, "model");
    assert_eq!(shown["files"].as_array().unwrap().len(), 1);
    assert_done(&workplace.run(&["umount", "model"]));
    assert_eq!(std::fs::read(workplace.path("model")).unwrap(), b"");

    std::fs::create_dir(workplace.path("directory")).unwrap();
    let on_a_directory = workplace.run(&["mount", "--subpath", ONE, &reference, "directory"]);
    assert_failed(&on_a_directory, 2, "is not a regular file");
    let on_a_file = workplace.run(&["mount", "--subpath", "shards", &reference, "model"]);
    assert_failed(&on_a_file, 2, "is not a directory");
    assert!(!workplace.is_mounted("directory") && !workplace.is_mounted("model"));
}

#[test]
fn a_missing_one_is_named_with_its_nearest_parent() {
    let (reference, _) = push("models/missing", &FILES);
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("mnt")).unwrap();
    let reference = reference.to_string();
    for (subpath, words) in [
        ("shards/three/model.safetensors", &["\"shards\"", "one", "two"][..]),
        ("nothing", &["config.json", "shards"]),
        ("config.json/inside", &["\"config.json\" is not a directory"]),
    ] {
        let output = workplace.run(&["mount", "--subpath", subpath, &reference, "mnt"]);
        for word in words {
            assert_failed(&output, 3, word);
        }
    }
    assert!(!workplace.is_mounted("mnt"));
}

#[test]
fn a_path_that_leads_out_is_refused() {
    let (reference, _) = push("models/outside", &FILES);
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("mnt")).unwrap();
    let reference = reference.to_string();
    for (subpath, words) in
        [("..", "\"..\""), ("shards/../config.json", "\"..\""), ("/shards", "absolute"), ("", "empty")]
    {
        let output = workplace.run(&["mount", "--subpath", subpath, &reference, "mnt"]);
        assert_failed(&output, 2, words);
    }
    assert!(!workplace.is_mounted("mnt"));
}
