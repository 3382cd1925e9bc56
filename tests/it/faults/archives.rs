//! Archives that are not what they should be.

use std::path::Path;

use rustix::io::Errno;

use super::PATIENT;
use super::disk::{files, flip};
use crate::support::artifact::digest_of;
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::support::pattern::Pattern;
use crate::support::producers::{Layer, Product, gzip, tar};
use crate::workplace::{Workplace, assert_done, assert_failed, json, stderr, stdout, wait_until};

const FILE: u8 = b'0';
const HARD_LINK: u8 = b'1';
const SYMLINK: u8 = b'2';

/// A member of an archive, as the oldest tar writes it.
struct Member<'a> {
    name: &'a str,
    kind: u8,
    target: &'a str,
}

fn file(name: &str) -> Member<'_> {
    Member { name, kind: FILE, target: "" }
}

fn link<'a>(kind: u8, name: &'a str, target: &'a str) -> Member<'a> {
    Member { name, kind, target }
}

/// An archive of these members, files of a byte each; what is not written right here is made right.
fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for Member { name, kind, target } in members {
        let body: &[u8] = if *kind == FILE { b"x" } else { b"" };
        let mut one = tar(&[(name, 0o644, body)]);
        one.truncate(one.len() - 1024);
        one[156] = *kind;
        one[157..157 + target.len()].copy_from_slice(target.as_bytes());
        one[148..156].fill(b' ');
        let sum: u32 = one[..512].iter().map(|byte| u32::from(*byte)).sum();
        one[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&one);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn artifact(media_type: &str, blob: Vec<u8>) -> Product {
    Product::new("archive", "application/vnd.cncf.model.config.v1+json", "{}")
        .artifact_type("application/vnd.cncf.model.manifest.v1+json")
        .layer("modelpack", Layer::new(media_type, blob))
}

/// Mounts an artifact of this one layer, which must fail with the digest of the layer and `words`. Where reading the layer
/// takes longer than a mount waits for it, on a machine that is too busy, it is the mount's status that has to say so.
fn assert_refused(workplace: &Workplace, media_type: &str, blob: Vec<u8>, status: i32, words: &[&str]) {
    let digest = digest_of(&blob).to_string();
    let layout = workplace.path(&format!("layouts/{}", &digest[7..23]));
    let reference = artifact(media_type, blob).write_layout(&layout).to_string();
    let output = workplace.run(&["mount", &reference, "mnt"]);
    let said = if stdout(&output).ends_with("still being read\n") {
        let failed = || json(&workplace.run(&["status", "-o", "json", "mnt"]))["failed"].clone();
        wait_until("the layer has failed", || failed().is_string());
        let said = failed().as_str().unwrap().to_owned();
        assert_done(&workplace.run(&["umount", "mnt"]));
        said
    } else {
        assert_failed(&output, status, "");
        stderr(&output)
    };
    for word in words.iter().chain([&&*digest]) {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    assert!(!workplace.is_mounted("mnt"));
}

fn workplace() -> Workplace {
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("mnt")).unwrap();
    std::fs::create_dir(workplace.path("layouts")).unwrap();
    workplace
}

const TAR: &str = "application/vnd.cncf.model.weight.v1.tar";
const TAR_GZIP: &str = "application/vnd.cncf.model.weight.v1.tar+gzip";

#[test]
fn a_hostile_archive_is_refused_with_layer_and_entry_and_leaves_nothing_behind() {
    let workplace = workplace();
    for (members, entry, why) in [
        (vec![file("ok"), file("../evil")], "../evil", ".."),
        (vec![file("ok"), file("/etc/passwd")], "/etc/passwd", "absolute"),
        (vec![file("a/../../b")], "a/../../b", ".."),
        (vec![link(HARD_LINK, "h", "../../etc/passwd")], "\"h\"", ".."),
        (vec![link(HARD_LINK, "h", "h")], "\"h\"", "the link itself"),
        (vec![link(HARD_LINK, "h", "g"), link(HARD_LINK, "g", "h")], "\"h\"", "the link itself"),
        (vec![link(HARD_LINK, "h", "nowhere")], "nowhere", "neither the layer nor one below it"),
        (vec![file("a"), file("a/b")], "a/b", "directory"),
        (vec![link(SYMLINK, "s", "/etc"), file("s/passwd")], "s/passwd", "directory"),
    ] {
        let archive = archive(&members);
        assert_refused(&workplace, TAR_GZIP, gzip(&archive), 1, &[entry, why]);
        assert_refused(&workplace, TAR, archive, 1, &[entry, why]);
    }
    wait_until("the process is gone", || workplace.owner().is_none());
}

#[test]
fn an_archive_that_ends_wrongly_is_refused_with_layer_and_offset() {
    let workplace = workplace();
    let whole = tar(&[("a", 0o644, b"a"), ("b", 0o644, &Pattern { number: 3, bytes: 100_000 }.whole())]);
    let packed = gzip(&whole);
    let garbage = [&packed[..], b"garbage"].concat();
    let mut wrong_sum = packed.clone();
    let sum = wrong_sum.len() - 8;
    wrong_sum[sum] ^= 1;
    assert_refused(&workplace, TAR, whole[..50_000].to_vec(), 1, &["\"b\"", "truncated"]);
    assert_refused(&workplace, TAR_GZIP, packed[..packed.len() / 2].to_vec(), 1, &["cut short", "offset"]);
    assert_refused(&workplace, TAR_GZIP, garbage, 1, &["garbage", "offset"]);
    assert_refused(&workplace, TAR_GZIP, wrong_sum, 1, &["CRC-32", "offset"]);
}

/// A link is something for the reader's kernel; the program follows none out of the tree.
#[test]
fn a_link_out_of_the_tree_is_shown_and_followed_by_nobody_inside() {
    let workplace = workplace();
    let links = [link(SYMLINK, "out", "/etc"), link(SYMLINK, "round", "round"), file("there")];
    let reference = artifact(TAR, archive(&links)).write_layout(&workplace.path("layouts/links")).to_string();
    for subpath in ["out/passwd", "round"] {
        let output = workplace.run(&["mount", "--subpath", subpath, &reference, "mnt"]);
        assert_failed(&output, 3, subpath);
    }
    assert_done(&workplace.run(&["mount", &reference, "mnt"]));
    assert_eq!(std::fs::read_link(workplace.path("mnt/out")).unwrap(), Path::new("/etc"));
    assert_eq!(std::fs::read_link(workplace.path("mnt/round")).unwrap(), Path::new("round"));
    let looped = std::fs::metadata(workplace.path("mnt/round")).unwrap_err();
    assert_eq!(looped.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
}

/// What is wrong at the end of a large archive is found when its files are in use already.
#[test]
fn a_mount_says_that_a_layer_is_still_being_read_and_why_it_failed() {
    let workplace = workplace();
    let body = Pattern { number: 5, bytes: 4 << 20 }.whole();
    let blob = gzip(&tar(&[("first", 0o644, b"1"), ("body", 0o644, &body), ("../evil", 0o644, b"")]));
    let digest = digest_of(&blob).to_string();
    let mut registry = FaultRegistry::start();
    registry.put_product(&artifact(TAR_GZIP, blob), "v1");
    // The first bytes, which tell what it is, come; of all of them a part does.
    registry.faults(Target::Blob, 1, usize::MAX, Fault::Delivery(Delivery::Stall(3 << 20)));
    let reference = registry.reference("v1").to_string();

    let mounted = workplace.run(&["mount", PATIENT, &reference, "mnt"]);
    assert_done(&mounted);
    assert!(stdout(&mounted).ends_with(" so far; 1 layer still being read\n"), "{}", stdout(&mounted));
    assert_eq!(std::fs::read(workplace.path("mnt/first")).unwrap(), b"1");
    let text = |arguments: &[&str]| stdout(&workplace.run(arguments));
    let status = text(&["status", "mnt"]);
    assert!(status.contains("reading:     1 layer"), "{status}");
    let list = |state: &str| {
        let target = workplace.path("mnt").display().to_string();
        text(&["list"]).lines().any(|line| line.starts_with(&target) && line.contains(state))
    };
    assert!(list("reading"), "{}", text(&["list"]));

    registry.clear_faults();
    registry.go_away();
    registry.come_back();
    let status = || json(&workplace.run(&["status", "-o", "json", "mnt"]));
    wait_until("the layer has failed", || status()["failed"].is_string());
    let status = status();
    let failed = status["failed"].as_str().unwrap();
    assert!(failed.contains(&digest) && failed.contains("../evil"), "{failed}");
    assert_eq!(status["layers_reading"], 0);
    assert!(text(&["status", "mnt"]).contains("failed:      layer "), "{}", text(&["status", "mnt"]));
    assert!(list("failed"), "{}", text(&["list"]));
    assert_eq!(std::fs::read(workplace.path("mnt/first")).unwrap(), b"1");
    assert_eq!(
        std::fs::metadata(workplace.path("mnt/other")).unwrap_err().raw_os_error(),
        Some(Errno::IO.raw_os_error())
    );
}

#[test]
fn a_layer_whose_first_bytes_never_come_ends_the_mount_in_time_and_says_why() {
    let workplace = workplace();
    let blob = gzip(&tar(&[("first", 0o644, b"1")]));
    let digest = digest_of(&blob).to_string();
    let registry = FaultRegistry::start();
    registry.put_product(&artifact(TAR_GZIP, blob), "v1");
    registry.faults(Target::Blob, 0, usize::MAX, Fault::Status(503, Vec::new()));
    let output = workplace.run(&["mount", "--read-timeout=3", &registry.reference("v1").to_string(), "mnt"]);
    assert_failed(&output, 1, &digest);
    for word in ["nothing came of it for 3s", "503", registry.host()] {
        assert!(stderr(&output).contains(word), "{word:?} is not in {:?}", stderr(&output));
    }
    assert!(!workplace.is_mounted("mnt"));
    wait_until("the process is gone", || workplace.owner().is_none());
}

#[test]
fn names_of_an_archive_do_not_move_the_cursor_of_a_terminal() {
    let workplace = workplace();
    let archive = archive(&[file("\u{1b}[2J"), file("a\nrefmount: all is well")]);
    let reference = artifact(TAR, archive).write_layout(&workplace.path("layouts/names")).to_string();
    let output = workplace.run(&["mount", "--subpath", "none", &reference, "mnt"]);
    assert_failed(&output, 3, "none");
    let errors = stderr(&output);
    assert!(errors.contains("[2J") && !errors.contains('\u{1b}'), "{errors:?}");
    assert_eq!(errors.lines().count(), 1, "{errors:?}");
}

/// What was learned of a layer is believed at the next start only if not a bit of it has changed.
#[test]
fn a_byte_flipped_in_what_is_known_of_a_layer_costs_a_reading_and_nothing_else() {
    let workplace = workplace();
    let body = Pattern { number: 7, bytes: 300_000 }.whole();
    let blob = gzip(&tar(&[("d/one", 0o644, b"1"), ("body", 0o600, &body)]));
    let reference = artifact(TAR_GZIP, blob).write_layout(&workplace.path("layouts/known")).to_string();
    let is_whole = || {
        assert_done(&workplace.run(&["mount", &reference, "mnt"]));
        assert_eq!(std::fs::read(workplace.path("mnt/d/one")).unwrap(), b"1");
        assert!(std::fs::read(workplace.path("mnt/body")).unwrap() == body);
        assert_done(&workplace.run(&["umount", "mnt"]));
        wait_until("the owner has ended", || workplace.owner().is_none());
    };
    is_whole();
    for (kind, eighths) in [("layers", 0), ("layers", 4), ("layers", 7), ("proofs", 3)] {
        let stored = files(&workplace.path(&format!("cache/v1/{kind}")), "");
        assert_eq!(stored.len(), 1, "{stored:?}");
        flip(&stored[0], std::fs::metadata(&stored[0]).unwrap().len() * eighths / 8);
        is_whole();
    }
}

#[test]
fn the_status_of_more_files_than_anyone_reads_lists_those_that_most_is_cached_of() {
    let workplace = workplace();
    let names: Vec<String> = (0..20_000).map(|number| format!("{:03}/{number}", number / 100)).collect();
    let members: Vec<(&str, u32, &[u8])> = names.iter().map(|name| (&**name, 0o644, &b"x"[..])).collect();
    let body = Pattern { number: 9, bytes: 2 << 20 }.whole();
    let blob = tar(&[&members[..], &[("large", 0o644, &body)]].concat());
    let reference = artifact(TAR, blob).write_layout(&workplace.path("layouts/many")).to_string();
    assert_done(&workplace.run(&["mount", "--prefetch", "off", &reference, "mnt"]));
    assert_eq!(std::fs::read_dir(workplace.path("mnt")).unwrap().count(), 201);
    assert!(std::fs::read(workplace.path("mnt/large")).unwrap() == body);
    let status = json(&workplace.run(&["status", "-o", "json", "mnt"]));
    let listed = status["files"].as_array().unwrap();
    assert!(
        listed.iter().any(|file| file["path"] == "large" && file["cached_bytes"] == 2 << 20),
        "{listed:?}"
    );
    assert_eq!(status["file_count"], 20_001);
    assert_eq!(listed.len() as u64 + status["files_left_out"].as_u64().unwrap(), 20_001);
    assert!(listed.len() <= 16_384, "{}", listed.len());
    let text = stdout(&workplace.run(&["status", "mnt"]));
    assert!(text.lines().last().unwrap().starts_with("... and "), "{text}");
}

/// Nothing goes on in the background of a command that ends.
#[test]
fn a_listing_of_an_archive_ends_without_a_word() {
    let workplace = workplace();
    let reference =
        artifact(TAR, archive(&[file("a"), file("b")])).write_layout(&workplace.path("layouts/two"));
    for _ in 0..10 {
        let output = workplace.run(&["tree", &reference.to_string()]);
        assert_done(&output);
        assert_eq!((stdout(&output).lines().count(), &*stderr(&output)), (2, ""));
    }
}
