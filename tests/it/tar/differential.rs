//! The same archives read by GNU tar, by Python's tarfile and by us: one reading.

use std::path::{Path, PathBuf};
use std::process::Command;

use refmount::base::{Algorithm, Digest, RelPath};
use refmount::layer::{EntryKind, Extents};
use serde_json::Value;

use super::{Shown, read, show};

/// Where the scripts are.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tar").join(name)
}

/// Runs a script and gives what it wrote.
pub(super) fn run(name: &str, arguments: &[&Path], seed: Option<u64>) -> String {
    let mut command = Command::new("python3");
    command.arg("-B").arg(script(name));
    command.args(seed.map(|seed| seed.to_string()));
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// How GNU tar and Python read `archives`.
pub(super) fn readings(scratch: &Path, archives: &[PathBuf]) -> Vec<Value> {
    let mut arguments = vec![scratch];
    arguments.extend(archives.iter().map(PathBuf::as_path));
    let output = run("read_archives.py", &arguments, None);
    let readings: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(readings.len(), archives.len());
    readings
}

/// The archives of a directory, by name.
pub(super) fn archives_in(directory: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut archives: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "tar")).collect();
    archives.sort();
    archives
}

#[test]
fn other_readers_of_the_same_archive_see_another_tree() {
    let seed = super::seed();
    let directory = tempfile::tempdir().unwrap();
    run("make_archives.py", &[directory.path()], Some(seed));
    let archives = archives_in(directory.path());
    assert!(archives.len() >= 18, "{archives:?}");
    let scratch = tempfile::tempdir().unwrap();
    for (path, reading) in archives.iter().zip(readings(scratch.path(), &archives)) {
        let label = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(path).unwrap();
        let (items, _) = read(&bytes, 1 << 20).unwrap_or_else(|error| panic!("{label}: {}", error.chain()));
        let shown: Vec<_> = items.iter().map(|item| show(&bytes, item)).collect();
        compare_with_gnu_listing(&label, &shown, &reading["gnu"]);
        compare_with_gnu_files(&label, &shown, &reading["gnu"]["files"]);
        compare_with_python(&label, &shown, &reading["python"]);
    }
}

/// Fails unless both saw the same entries in the same order.
pub(super) fn compare_with_gnu_listing(label: &str, ours: &[Shown<'_>], gnu: &Value) {
    let theirs = gnu["entries"].as_array().unwrap();
    for (ours, theirs) in ours.iter().zip(theirs) {
        let about = format!("{label}: we read {ours:?}, GNU tar {theirs}");
        assert!(theirs["unread"].is_null(), "{about}");
        assert_eq!(ours.letter.to_string(), theirs["kind"], "{about}");
        assert_eq!(ours.name, normal(&theirs["name"]), "{about}");
        assert_eq!(ours.mode, theirs["mode"], "{about}");
        assert_eq!(
            (ours.uid.into(), ours.gid.into()),
            (number(&theirs["uid"]), number(&theirs["gid"])),
            "{about}"
        );
        let size =
            ours.device.map_or_else(|| ours.size.to_string(), |(major, minor)| format!("{major},{minor}"));
        assert_eq!(size, theirs["size"], "{about}");
        // A time that has no date is shown in another form.
        if let Some(mtime) = theirs["mtime"].as_array() {
            let (seconds, nanoseconds) = (ours.mtime.seconds, ours.mtime.nanoseconds);
            // Before 1970 it lists a date and the fraction to be taken from it.
            let listed = match nanoseconds {
                1.. if seconds < 0 => (seconds + 1, 1_000_000_000 - nanoseconds),
                _ => (seconds, nanoseconds),
            };
            assert_eq!(listed, (mtime[0].as_i64().unwrap(), mtime[1].as_u64().unwrap() as u32), "{about}");
        }
        assert_eq!(ours.target.as_deref(), theirs["target"].as_str(), "{about}");
    }
    assert_eq!(ours.len(), theirs.len(), "{label}: GNU tar has another number of entries: {gnu}");
}

/// Of several entries with one name the last one is what is extracted.
pub(super) fn compare_with_gnu_files(label: &str, ours: &[Shown<'_>], files: &Value) {
    for (index, entry) in ours.iter().enumerate() {
        let Some(content) = &entry.content else { continue };
        let is_covered = ours[index + 1..].iter().any(|later| later.name == entry.name);
        // Writing to one name of a file that has several changes them all.
        let is_linked = ours.iter().any(|other| {
            other.target.as_ref().is_some_and(|target| normal(&Value::from(target.as_str())) == entry.name)
        });
        if is_covered || is_linked {
            continue;
        }
        let file = &files[&entry.name];
        // A last hole that no empty piece marks it lists and does not write, unlike all others.
        let is_same = sha256(content) == file["sha256"] || sha256(before_last_hole(entry)) == file["sha256"];
        assert!(is_same, "{label}: GNU tar extracts other bytes: {entry:?}, {file}");
        // What every file system can hold.
        if entry.mtime.seconds.unsigned_abs() < 1 << 31 {
            let mtime = i128::from(entry.mtime.seconds) * 1_000_000_000 + i128::from(entry.mtime.nanoseconds);
            let theirs = file["mtime"].as_i64().unwrap();
            assert_eq!(mtime, theirs.into(), "{label}: GNU tar sets another time on {:?}", entry.name);
        }
        let xattrs = serde_json::to_value(&entry.xattrs).unwrap();
        // Others than the owner's own are set by root alone.
        if file["xattrs"] != Value::from(serde_json::Map::new()) {
            assert_eq!(
                xattrs, file["xattrs"],
                "{label}: GNU tar extracts other attributes of {:?}",
                entry.name
            );
        }
    }
}

fn before_last_hole<'a>(entry: &'a Shown<'_>) -> &'a [u8] {
    let content = entry.content.as_deref().unwrap_or_default();
    match entry.kind {
        Some(EntryKind::File { extents: Extents::Sparse(extents), .. }) => {
            let end = extents.last().map_or(0, |extent| extent.file_offset + extent.length);
            &content[..usize::try_from(end).unwrap()]
        }
        _ => content,
    }
}

pub(super) fn compare_with_python(label: &str, ours: &[Shown<'_>], python: &Value) {
    let theirs = python["entries"].as_array().unwrap();
    assert!(python["error"].is_null(), "{label}: Python: {}", python["error"]);
    for (ours, theirs) in ours.iter().zip(theirs) {
        let about = format!("{label}: we read {:?} {:?}, Python {theirs}", ours.name, ours.kind);
        assert_eq!(ours.letter.to_string(), theirs["kind"], "{about}");
        let name = normal(&theirs["name"]);
        // Which of the two names of a sparse file it takes follows from the order of their records.
        assert!(ours.name == name || name.contains("GNUSparseFile."), "{about}");
        assert_eq!(ours.mode, theirs["mode"], "{about}");
        assert_eq!(
            (ours.uid.into(), ours.gid.into()),
            (number(&theirs["uid"]), number(&theirs["gid"])),
            "{about}"
        );
        // It keeps times as floating-point numbers, which hold these to some microseconds.
        let seconds = ours.mtime.seconds as f64 + f64::from(ours.mtime.nanoseconds) / 1e9;
        assert!((seconds - theirs["mtime"].as_f64().unwrap()).abs() < 1e-5, "{about}: {:?}", ours.mtime);
        if let Some(target) = &ours.target {
            assert_eq!(*target, *theirs["target"].as_str().unwrap(), "{about}");
        }
        if let Some((major, minor)) = ours.device {
            assert_eq!(theirs["device"], Value::from(vec![major, minor]), "{about}");
        }
        if let Some(content) = &ours.content {
            assert_eq!(ours.size, theirs["size"], "{about}");
            // It drops the first piece of an old GNU sparse file if that begins at offset 0.
            if theirs["type"] != "S" {
                assert_eq!(sha256(content), theirs["sha256"], "{about}");
            }
        }
        let xattrs = serde_json::to_value(&ours.xattrs).unwrap();
        assert_eq!(xattrs, decoded(&theirs["xattrs"]), "{about}");
    }
    assert_eq!(ours.len(), theirs.len(), "{label}: Python has another number of entries");
}

/// Python leaves GNU tar's escapes in the names of attributes.
fn decoded(xattrs: &Value) -> Value {
    let decoded = xattrs.as_object().unwrap().iter();
    decoded.map(|(name, value)| (name.replace("%3D", "=").replace("%25", "%"), value.clone())).collect()
}

fn normal(name: &Value) -> String {
    let bytes: Vec<u8> =
        name.as_str().unwrap().chars().map(|byte| u8::try_from(u32::from(byte)).unwrap()).collect();
    RelPath::parse(&bytes).map(|path| super::latin(path.as_bytes())).unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).hex().to_owned()
}
