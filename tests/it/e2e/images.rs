//! An image is the tree that `umoci` unpacks, in whatever form its layers are written.
//!
//! The image is made from a Debian root file system of 25,000 entries, with layers above it that delete, replace and
//! link in all the ways that the specification allows: `scripts/debian-image`. `umoci` is known to differ from the
//! specification in what [`EXCEPTIONS`] names, and in nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{mount, registry, status};
use crate::support::debian_image::{layout, reference, unpacked};
use crate::support::tree_comparison::{assert_same, compare};
use crate::workplace::{Workplace, assert_done, json, stdout, wait_until};

/// What `umoci` 0.4.7 makes of the image otherwise than the specification says.
const EXCEPTIONS: [&str; 8] = [
    // Go's archive/tar takes a PAX record with an empty value as the removal of an earlier record, as POSIX has it for
    // its own keywords. GNU tar, which wrote it, means an attribute whose value is empty, and sets that.
    "--ignore",
    "xattrs:srv/odd/xattrs/empty",
    // A file comes without entries for the directories above it. `umoci` makes them at the time of unpacking, and
    // gives a parent back its time only when an entry is made in it, not when such a directory is. The time of
    // `unlisted` itself, which a lower layer declares, is tested below.
    "--ignore",
    "mtime:srv/odd/unlisted",
    "--ignore",
    "mtime:srv/odd/unlisted/one",
    "--ignore",
    "mtime:srv/odd/unlisted/one/two",
];

/// What the layer that eStargz's converter cannot take (it does not know sparse files) would have added.
const WITHOUT_SPARSE: [&str; 6] =
    ["--ignore", "there:sparse", "--ignore", "there:sparse/", "--ignore", "directory-nlink:."];

/// An eStargz TOC has times in whole seconds (stargz-snapshotter, docs/estargz.md, "TOC": `modtime` is RFC 3339), and
/// its converter writes the entries of names beyond ASCII anew without the rest.
const TIMES_OF_ESTARGZ: &str = "--whole-seconds";

/// When `srv/odd/unlisted` was last changed, by the layer that declares it.
const UNLISTED: (i64, i64) = (1_700_000_000, 123_456_789);

/// Mounts `reference` and compares all of it with what `umoci` unpacked.
fn assert_is_unpacked(reference: &str, options: &[&str], exceptions: &[&str]) -> Workplace {
    let workplace = Workplace::new();
    mount(&workplace, options, &reference.parse().unwrap(), "mnt");
    wait_until_read(&workplace.path("mnt"));
    assert_tree(&workplace.path("mnt"), exceptions);
    let shown = status(&workplace, "mnt");
    assert_eq!(shown["rejected_chunks"], 0, "{shown}");
    workplace
}

/// A listing waits until all is known; what was asked before, such as how many links the root has, may still change.
fn wait_until_read(mounted: &Path) {
    assert!(fs::read_dir(mounted).unwrap().count() > 0);
}

fn assert_tree(mounted: &Path, exceptions: &[&str]) {
    let options = [&EXCEPTIONS, exceptions].concat();
    println!("{}", assert_same(&unpacked("unpacked"), mounted, &options));
    let unlisted = fs::metadata(mounted.join("srv/odd/unlisted")).unwrap();
    let whole = exceptions.contains(&TIMES_OF_ESTARGZ);
    let nanoseconds = if whole { unlisted.mtime_nsec() } else { UNLISTED.1 };
    assert_eq!((unlisted.mtime(), unlisted.mtime_nsec()), (UNLISTED.0, nanoseconds));
}

fn end(workplace: &Workplace) {
    assert_done(&workplace.run(&["umount", "mnt"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}

/// The form `tag` of the layout.
fn assert_form(tag: &str, exceptions: &[&str]) {
    let workplace = assert_is_unpacked(&reference(tag).to_string(), &[], exceptions);
    end(&workplace);
    // What was indexed and cached then is believed by the next owner, and is the same.
    mount(&workplace, &[], &reference(tag), "mnt");
    wait_until_read(&workplace.path("mnt"));
    assert_tree(&workplace.path("mnt"), exceptions);
    end(&workplace);
}

/// Copies `from` into the registry with skopeo, and returns the reference.
fn copied(from: &str, repository: &str, options: &[&str]) -> String {
    let place = format!("{}/{repository}:v1", registry().host());
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--dest-tls-verify=false"]).args(options);
    let output = command.args([&reference(from).to_string(), &format!("docker://{place}")]).output().unwrap();
    assert_done(&output);
    place
}

/// The media types of the layers, as `inspect` shows them.
fn media_types(inspection: &Value) -> BTreeSet<String> {
    let layers = inspection["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["media_type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn gzip_by_umoci() {
    assert_form("gzip", &[]);
}

#[test]
fn gzip_of_many_members() {
    assert_form("gzip-members", &[]);
}

#[test]
fn uncompressed() {
    assert_form("uncompressed", &[]);
}

#[test]
fn zstd_in_one_frame() {
    assert_form("zstd", &[]);
}

#[test]
fn zstd_chunked() {
    assert_form("zstd-chunked", &[]);
}

#[test]
fn zstd_chunked_by_its_older_annotations() {
    assert_form("zstd-chunked-old", &[]);
}

#[test]
fn estargz() {
    assert_form("estargz", &[&WITHOUT_SPARSE[..], &[TIMES_OF_ESTARGZ]].concat());
}

#[test]
fn zstd_chunked_by_the_converter_of_estargz() {
    assert_form("zstd-estargz", &[&WITHOUT_SPARSE[..], &[TIMES_OF_ESTARGZ]].concat());
}

#[test]
fn docker_media_types_from_a_registry() {
    let place = copied("gzip", "images/docker", &["--format", "v2s2"]);
    let workplace = assert_is_unpacked(&place, &[], &[]);
    let inspection = json(&workplace.run(&["inspect", "-o", "json", &place]));
    assert_eq!(
        (inspection["kind"].as_str(), inspection["media_type"].as_str()),
        (Some("image"), Some("application/vnd.docker.distribution.manifest.v2+json"))
    );
    let types = media_types(&inspection);
    assert_eq!(types, BTreeSet::from(["application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned()]));
    end(&workplace);
}

/// By an OCI index, and by Docker's list of manifests.
#[test]
fn the_wanted_platform_of_several() {
    let list = copied("platforms", "images/list", &["--all", "--format", "v2s2"]);
    for place in [reference("platforms").to_string(), list] {
        let workplace = assert_is_unpacked(&place, &["--platform", "linux/amd64"], &[]);
        end(&workplace);
        mount(&workplace, &["--platform", "linux/arm64"], &place.parse().unwrap(), "mnt");
        println!("{}", assert_same(&unpacked("unpacked-small"), &workplace.path("mnt"), &[]));
        end(&workplace);
        mount(&workplace, &["--platform", "all"], &place.parse().unwrap(), "mnt");
        wait_until_read(&workplace.path("mnt"));
        let names: BTreeSet<_> =
            fs::read_dir(workplace.path("mnt")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, BTreeSet::from(["linux-amd64".into(), "linux-arm64-v8".into()]));
        assert_same(&unpacked("unpacked-small"), &workplace.path("mnt/linux-arm64-v8"), &[]);
        assert_tree(&workplace.path("mnt/linux-amd64"), &[]);
        end(&workplace);
    }
}

/// Old sparse headers, long names and owners beyond octal: `umoci` reads none of them, GNU tar all.
#[test]
fn a_layer_in_the_dialect_of_gnu_tar() {
    let workplace = Workplace::new();
    mount(&workplace, &[], &reference("gnu"), "mnt");
    wait_until_read(&workplace.path("mnt"));
    println!("{}", assert_same(&unpacked("unpacked-gnu"), &workplace.path("mnt"), &[]));
    end(&workplace);
}

/// Once the tree is there, all that a listing asks for is.
#[test]
fn a_listing_of_an_indexed_image_fetches_nothing() {
    let place = copied("gzip", "images/listed", &[]);
    let workplace = Workplace::new();
    mount(&workplace, &["--prefetch", "off"], &place.parse().unwrap(), "mnt");
    wait_until_read(&workplace.path("mnt"));
    let before = status(&workplace, "mnt")["network_bytes"].clone();
    let listing =
        Command::new("find").arg(workplace.path("mnt")).args(["-printf", "%p %s %T@ %l\n"]).output();
    let listing = listing.unwrap();
    assert_done(&listing);
    assert!(listing.stdout.iter().filter(|byte| **byte == b'\n').count() > 20_000);
    assert_eq!(status(&workplace, "mnt")["network_bytes"], before);
    end(&workplace);
}

/// What the other tests rest on.
#[test]
fn the_comparison_finds_every_kind_of_difference() {
    let workplace = Workplace::new();
    // Field by field, what to do to one of two trees that are the same.
    let differences = include_str!("differences.txt");
    for (field, change) in differences.lines().filter_map(|line| line.split_once(": ")) {
        let (left, right) =
            (workplace.path(&format!("{field}-left")), workplace.path(&format!("{field}-right")));
        let run = |text: &str, place: &Path| {
            let output = Command::new("sh").args(["-euc", text]).current_dir(place).output().unwrap();
            assert_done(&output);
        };
        fs::create_dir(&left).unwrap();
        run(
            "mkdir d; echo one >d/f; ln d/f h; ln -s d s; mkfifo p; touch -h -d 2020-01-01 d/f s p; touch -d 2020-01-01 d .",
            &left,
        );
        run(&format!("cp -a {0}-left {0}-right", field), workplace.directory.path());
        assert_same(&left, &right, &[]);
        let times = "for f in s d h .; do [ $f-$0 = h-mtime ] || { [ ! -L $f ] && [ ! -e $f ]; } || touch -h -d 2020-01-01 $f; done";
        run(&format!("{change}; {}", times.replace("$0", field)), &right);
        let output = compare(&left, &right, &[]);
        assert_eq!(output.status.code(), Some(1), "{field}: {}", stdout(&output));
        assert!(stdout(&output).contains(&format!(": {field}: ")), "{field}: {}", stdout(&output));
    }
    let unused =
        compare(&workplace.path("mode-left"), &workplace.path("mode-left"), &["--ignore", "mode:d/f"]);
    assert!(stdout(&unused).contains("exceptions that except nothing: mode:d/f"), "{}", stdout(&unused));
    assert!(layout().join("oci-layout").exists());
}
