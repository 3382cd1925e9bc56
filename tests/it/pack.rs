//! `pack` into archives: what other programs find in them, and that the same files give the same bytes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use refmount::base::{Algorithm, Digest};
use serde_json::Value;

use crate::workplace::{Workplace, assert_done, assert_failed, stdout};

/// The `SOURCE_DATE_EPOCH` that a [`Workplace`] sets.
const EPOCH: (i64, i64) = (1_700_000_000, 0);

/// A model with files of all kinds and everything that an archive can say of them.
fn put_all_kinds(workplace: &Workplace) {
    for (name, content) in [
        ("model/config.json", &b"{}\n"[..]),
        ("model/weights/a.safetensors", &vec![1; 3_000_000]),
        ("model/weights/empty.bin", b""),
        ("model/README.md", b"# read\n"),
        ("model/src/run.py", b"print()\n"),
        ("model/data/train.parquet", b"PAR1"),
    ] {
        workplace.put(name, content);
    }
    let odd = [&b"model/weights/"[..], &b"long-".repeat(40), b"\xff\n.bin"].concat();
    std::fs::copy(workplace.path("model/config.json"), workplace.path("").join(OsStr::from_bytes(&odd)))
        .unwrap();
    workplace.put(&format!("model/{}deep.json", "directory/".repeat(30)), b"deep");
    std::fs::create_dir_all(workplace.path("model/nothing/below")).unwrap();
    let model = workplace.path("model");
    // The same file under a name of another kind.
    std::fs::hard_link(model.join("weights/a.safetensors"), model.join("weights/same.md")).unwrap();
    symlink("weights/a.safetensors", model.join("latest.bin")).unwrap();
    symlink("../src", model.join("data/code")).unwrap();
    for (name, mode) in [("src/run.py", 0o755), ("config.json", 0o600), ("nothing", 0o1777), ("src", 0o750)] {
        std::fs::set_permissions(model.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    touch(&model.join("weights/a.safetensors"), "@1600000000.123456789");
    touch(&model.join("README.md"), "@-1.5");
    touch(&model.join("src"), "@1500000000");
}

fn touch(path: &Path, time: &str) {
    assert!(Command::new("touch").args(["-h", "-d", time]).arg(path).status().unwrap().success());
}

/// What there is to know of what lies at a path.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Vec<u8>,
    /// The first of the names that share the file.
    first_name: PathBuf,
}

/// All below `directory`; no time later than `latest`.
fn seen(directory: &Path, latest: (i64, i64)) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(current) = pending.pop() {
        for entry in std::fs::read_dir(&current).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_dir() {
                pending.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                std::fs::read(&path).unwrap()
            };
            let seen = Seen {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                mtime: (metadata.mtime(), metadata.mtime_nsec()).min(latest),
                content,
                first_name: PathBuf::from(metadata.ino().to_string()),
            };
            all.insert(path.strip_prefix(directory).unwrap().to_owned(), seen);
        }
    }
    let mut first_names = BTreeMap::new();
    for (path, seen) in &mut all {
        seen.first_name = first_names.entry(seen.first_name.clone()).or_insert_with(|| path.clone()).clone();
    }
    all
}

/// A document of the layout by its descriptor.
fn document(layout: &Path, descriptor: &Value) -> Value {
    serde_json::from_slice(&std::fs::read(blob(layout, descriptor)).unwrap()).unwrap()
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

/// The manifest, and each layer's archive in the layers' order, decompressed by the usual programs.
fn archives(layout: &Path) -> (Value, Vec<Vec<u8>>) {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let manifest = document(layout, &index["manifests"][0]);
    let layers = manifest["layers"].as_array().unwrap();
    let archives = layers.iter().map(|layer| {
        let program = match layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap() {
            "tar" => "cat",
            "tar+gzip" => "zcat",
            "tar+zstd" => "zstdcat",
            other => panic!("{other}"),
        };
        let input = std::fs::File::open(blob(layout, layer)).unwrap();
        let output = Command::new(program).stdin(input).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        output.stdout
    });
    let archives = archives.collect();
    (manifest, archives)
}

#[test]
fn what_gnu_tar_extracts_from_the_layers_is_what_was_packed() {
    let workplace = Workplace::new();
    put_all_kinds(&workplace);
    let expected = seen(&workplace.path("model"), EPOCH);
    for format in ["tar", "tar+gzip", "tar+zstd"] {
        assert_done(&workplace.run(&["pack", "--format", format, "model", &format!("oci:{format}:v1")]));
        let (manifest, archives) = archives(&workplace.path(format));
        let config = document(&workplace.path(format), &manifest["config"]);
        let types = manifest["layers"].as_array().unwrap().iter().map(|layer| &layer["mediaType"]);
        let kinds = ["weight", "weight.config", "doc", "code", "dataset"];
        assert!(types.eq(kinds.map(|kind| format!("application/vnd.cncf.model.{kind}.v1.{format}")).iter()));
        let diff_ids: Vec<Value> =
            archives.iter().map(|archive| Digest::of(Algorithm::Sha256, archive).as_str().into()).collect();
        assert_eq!(config["modelfs"]["diffIds"], Value::Array(diff_ids));

        let extracted = workplace.path(&format!("{format}-extracted"));
        std::fs::create_dir(&extracted).unwrap();
        for (at, archive) in archives.iter().enumerate() {
            let name = format!("{format}-{at}.tar");
            workplace.put(&name, archive);
            let mut tar = Command::new("tar");
            tar.arg("--numeric-owner").arg("-xpf").arg(workplace.path(&name)).arg("-C").arg(&extracted);
            let output = tar.output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let found = seen(&extracted, (i64::MAX, 0));
        assert!(found.keys().eq(expected.keys()), "{format}: {:?}", found.keys());
        for (path, seen) in &found {
            assert!(*seen == expected[path], "{format}: {path:?}: {seen:?}");
        }
    }
}

#[test]
fn gnu_tar_lists_an_archive_in_the_order_of_its_paths() {
    let workplace = Workplace::new();
    put_all_kinds(&workplace);
    assert_done(&workplace.run(&["pack", "--format", "tar", "model", "oci:layout:v1"]));
    let (_, archives) = archives(&workplace.path("layout"));
    workplace.put("weights.tar", &archives[0]);
    let listed = Command::new("tar").arg("-tf").arg(workplace.path("weights.tar")).output().unwrap();
    let long = "long-".repeat(40);
    let expected = format!(
        "latest.bin\nnothing/\nnothing/below/\nweights/\nweights/a.safetensors\nweights/empty.bin\n\
         weights/{long}\\377\\n.bin\nweights/same.md\n"
    );
    assert_eq!(stdout(&listed), expected);
}

#[test]
fn the_same_files_packed_again_are_the_same_blobs() {
    let workplace = Workplace::new();
    put_all_kinds(&workplace);
    for format in ["tar", "tar+gzip", "tar+zstd"] {
        let manifests = ["one", "other"].map(|name| {
            let layout = format!("{format}-{name}");
            assert_done(&workplace.run(&["pack", "--format", format, "model", &format!("oci:{layout}:v1")]));
            // A later look at the files, and another time at which they are written, change nothing.
            touch(&workplace.path("model/config.json"), "now");
            archives(&workplace.path(&layout)).0
        });
        assert_eq!(manifests[0], manifests[1], "{format}");
    }
}

#[test]
fn a_level_changes_what_is_stored_and_not_what_it_says() {
    let workplace = Workplace::new();
    let text: Vec<u8> = (0..200_000_u32)
        .flat_map(|line| format!("{}\n", line.wrapping_mul(line) % 9973).into_bytes())
        .collect();
    workplace.put("model/config.json", &text);
    for (format, low, high) in [("tar+gzip", "1", "9"), ("tar+zstd", "1", "12")] {
        let packed = [low, high].map(|level| {
            let layout = format!("{format}-{level}");
            let destination = format!("oci:{layout}:v1");
            let arguments = ["pack", "--format", format, "--level", level, "model", &destination];
            assert_done(&workplace.run(&arguments));
            let (manifest, archives) = archives(&workplace.path(&layout));
            (manifest["layers"][0]["size"].as_u64().unwrap(), archives)
        });
        assert_ne!(packed[0].0, packed[1].0, "{format}");
        assert!(packed[0].1 == packed[1].1);
    }
}

#[test]
fn what_no_archive_can_hold_is_refused_by_name() {
    let workplace = Workplace::new();
    std::fs::create_dir_all(workplace.path("empty/directory")).unwrap();
    let pack = |model: &str, more: &[&str]| {
        workplace.run(&[&["pack", "--format", "tar", model, "oci:layout:v1"], more].concat())
    };
    assert_failed(&pack("empty", &[]), 2, "holds no files");
    workplace.put_model();
    assert_failed(&pack("model", &["--level", "3"]), 2, "--level");
    symlink("/etc/passwd", workplace.path("model/outside")).unwrap();
    assert_failed(&pack("model", &[]), 2, "model/outside");
    assert!(!workplace.path("layout").exists(), "a layout of nothing");
}
