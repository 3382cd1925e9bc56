//! Layouts in tar archives, as other programs make them.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::StreamExt as _;
use refmount::base::{Algorithm, Digest, ErrorKind, durable};
use refmount::oci::SourceRef;
use refmount::registry::{BlobSource, open};
use tempfile::TempDir;

use super::{assert_reads, assert_says, options, read, read_blob, small};
use crate::support::artifact::ModelArtifact;
use crate::workplace::{Workplace, assert_done, assert_failed, json, shard, stdout, wait_until};

pub(super) fn reference(file: &Path, rest: &str) -> SourceRef {
    format!("oci-archive:{}{rest}", file.display()).parse().unwrap()
}

/// A directory with the layout `layout` of `artifact`, tagged `v1`.
fn with_layout(artifact: &ModelArtifact) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    artifact.write_layout(&layout, "v1");
    (directory, layout)
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/test installs it"));
    assert_done(&output);
}

fn skopeo_copy(layout: &Path, archive: &Path, tag: &str) {
    let (from, to) = (format!("oci:{}:{tag}", layout.display()), reference(archive, &format!(":{tag}")));
    run(Command::new("skopeo").args(["copy", "--quiet", &from, &to.to_string()]));
}

/// Runs `script` with Python, with `arguments` in `sys.argv`.
fn python(script: &str, arguments: &[&Path]) {
    run(Command::new("python3").arg("-c").arg(script).args(arguments));
}

/// The archive `archive.tar` of `layout`, made by tar.
fn tar(layout: &Path) -> PathBuf {
    let archive = layout.with_file_name("archive.tar");
    run(Command::new("tar").arg("-C").arg(layout).arg("-cf").arg(&archive).arg("."));
    archive
}

async fn assert_reads_all(source: &dyn BlobSource, artifact: &ModelArtifact) {
    for range in [0..1, 199_999..200_000, 1000..66_000, 0..200_000] {
        assert_reads(source, artifact, range).await;
    }
}

#[tokio::test]
async fn what_skopeo_archives_is_read() {
    let artifact = ModelArtifact::new(1, &[("model", 200_000), ("empty", 0), ("other", 1_000)]);
    let (directory, layout) = with_layout(&artifact);
    let archive = directory.path().join("a.tar");
    skopeo_copy(&layout, &archive, "v1");
    let digest = artifact.descriptor().digest;
    for rest in ["", ":v1", &format!("@{digest}"), &format!(":v1@{digest}")] {
        let source = open(&reference(&archive, rest), &options()).unwrap();
        let manifest = source.resolve().await.unwrap();
        assert_eq!((manifest.bytes, manifest.digest), (artifact.manifest.clone(), digest.clone()));
        assert_reads_all(&*source, &artifact).await;
        assert_eq!(source.manifest(&artifact.descriptor()).await.unwrap().bytes, artifact.manifest);
    }
    let source = open(&reference(&archive, ":v2"), &options()).unwrap();
    let error = source.resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&error, &["\"v2\"", "its tags are v1", &archive.display().to_string()]);
    let missing = Digest::of(Algorithm::Sha256, b"missing");
    let error = read_blob(&*source, &missing, 10, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&error, &[missing.as_str(), &archive.display().to_string()]);
    let error = read_blob(&*source, &artifact.layer("model"), 10, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_says(&error, &["200000", "10"]);
}

/// Names of SHA-512 blobs do not fit into a plain header, and times with fractions make PAX records.
#[tokio::test]
async fn long_names_and_records_of_python_are_read() {
    let artifact = small();
    let (directory, layout) = with_layout(&artifact);
    let long = Digest::of(Algorithm::Sha512, b"a long name");
    let blobs = layout.join("blobs/sha512");
    std::fs::create_dir(&blobs).unwrap();
    durable::write(&blobs.join(long.hex()), b"a long name").unwrap();
    let script = "import sys, tarfile
format = getattr(tarfile, sys.argv[3] + '_FORMAT')
pax = {'comment': 'for all'} if sys.argv[3] == 'PAX' else None
with tarfile.open(sys.argv[2], 'w', format=format, pax_headers=pax) as archive:
    def change(member):
        member.mtime = 1700000000.25 if sys.argv[3] == 'PAX' else 1700000000
        member.uname = 'jos\\u00e9'
        return member
    archive.add(sys.argv[1], '.', filter=change)
    other = tarfile.TarInfo('notes/' + 'long' * 60 + '/a')
    archive.addfile(other)";
    for format in ["PAX", "GNU"] {
        let archive = directory.path().join(format);
        python(script, &[&layout, &archive, Path::new(format)]);
        let source = open(&reference(&archive, ":v1"), &options()).unwrap();
        let manifest = source.resolve().await.unwrap_or_else(|error| panic!("{format}: {}", error.chain()));
        assert_eq!(manifest.bytes, artifact.manifest);
        assert_reads_all(&*source, &artifact).await;
        assert_eq!(read_blob(&*source, &long, 11, 2..6).await.unwrap().1, b"long");
    }
}

#[tokio::test]
async fn of_two_files_of_one_name_the_later_counts() {
    let (old, new) = (small(), ModelArtifact::new(2, &[("model", 200_000)]));
    let (_directory, layout) = with_layout(&old);
    let archive = tar(&layout);
    new.write_layout(&layout, "v1");
    run(Command::new("tar").arg("-C").arg(&layout).arg("-rf").arg(&archive).arg("."));
    let source = open(&reference(&archive, ":v1"), &options()).unwrap();
    assert_eq!(source.resolve().await.unwrap().bytes, new.manifest);
    assert_reads_all(&*source, &new).await;
    assert_reads_all(&*source, &old).await;
}

#[tokio::test]
async fn an_archive_that_changes_is_an_error_and_never_other_bytes() {
    let artifact = ModelArtifact::new(3, &[("model", 1 << 20)]);
    let digest = artifact.layer("model");
    let changes: [fn(&std::fs::File); 3] = [
        |file| file.write_all_at(&[0; 4096], file.metadata().unwrap().len() / 2).unwrap(),
        |file| file.set_len(600 << 10).unwrap(),
        |file| file.set_len(file.metadata().unwrap().len() + 512).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let (_directory, layout) = with_layout(&artifact);
        let archive = tar(&layout);
        let file = std::fs::OpenOptions::new().write(true).open(&archive).unwrap();
        // Older than any change that follows, however coarse the clock of the file system is.
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let source = open(&reference(&archive, ":v1"), &options()).unwrap();
        source.resolve().await.unwrap();
        let mut body = source.blob(&digest, 1 << 20, 0..1 << 20).await.unwrap();
        let first = body.pieces.next().await.unwrap().unwrap();
        assert!(first == artifact.file("model")[..first.len()]);
        change(&file);
        let error = body.pieces.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{number}: {}", error.chain());
        assert_says(&error, &["changed", &archive.display().to_string()]);
        assert_eq!(read(&*source, &artifact, 0..1).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn an_archive_that_is_replaced_stays_what_was_opened() {
    let (old, new) = (small(), ModelArtifact::new(2, &[("model", 200_000)]));
    let (directory, layout) = with_layout(&old);
    let archive = tar(&layout);
    let source = open(&reference(&archive, ":v1"), &options()).unwrap();
    let (_other_directory, other) = with_layout(&new);
    std::fs::copy(tar(&other), directory.path().join("new")).unwrap();
    std::fs::rename(directory.path().join("new"), &archive).unwrap();
    assert_eq!(source.resolve().await.unwrap().bytes, old.manifest);
    assert_reads_all(&*source, &old).await;
    let again = open(&reference(&archive, ":v1"), &options()).unwrap();
    assert_eq!(again.resolve().await.unwrap().bytes, new.manifest);
}

#[tokio::test]
async fn a_damaged_manifest_in_an_archive_is_named() {
    let artifact = small();
    let digest = artifact.descriptor().digest;
    let (_directory, layout) = with_layout(&artifact);
    let mut bytes = artifact.manifest.to_vec();
    bytes[40] ^= 1;
    durable::write(&layout.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
    let source = open(&reference(&tar(&layout), ":v1"), &options()).unwrap();
    let error = source.resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_says(&error, &[digest.as_str(), "damaged"]);
}

#[test]
fn what_is_no_plain_archive_is_refused_with_the_remedy() {
    let (directory, layout) = with_layout(&small());
    let path = directory.path().join("file");
    let beginnings: [(&[u8], &str); 4] = [
        (b"\x1f\x8b\x08\0", "gzip -d"),
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
        (b"\xfd7zXZ\0", "xz -d"),
        (b"BZh9", "bzip2 -d"),
    ];
    for (beginning, remedy) in beginnings {
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(beginning).and_then(|()| file.write_all(&[7; 2000])).unwrap();
        let error = open(&reference(&path, ""), &options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_says(&error, &[remedy, &path.display().to_string()]);
    }
    let error = open(&reference(&layout, ""), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_says(&error, &["is a directory", "oci:DIR"]);
    let error = open(&format!("oci:{}", path.display()).parse().unwrap(), &options()).unwrap_err();
    assert_says(&error, &["is a file", "oci-archive:FILE"]);
    let error = open(&reference(&directory.path().join("missing"), ":v1"), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&error, &["missing"]);
    let pipe = directory.path().join("pipe");
    run(Command::new("mkfifo").arg(&pipe));
    assert_says(&open(&reference(&pipe, ""), &options()).unwrap_err(), &["not a regular file"]);
}

#[tokio::test]
async fn a_tar_without_a_layout_at_its_top_is_told_how_to_get_one() {
    let (directory, _layout) = with_layout(&small());
    let archive = directory.path().join("a.tar");
    run(Command::new("tar").arg("-C").arg(directory.path()).arg("-cf").arg(&archive).arg("layout"));
    let error = open(&reference(&archive, ""), &options()).unwrap().resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_says(&error, &["oci-layout", "tar -C LAYOUT -cf FILE ."]);
    let of_docker = directory.path().join("docker");
    std::fs::create_dir(&of_docker).unwrap();
    durable::write(&of_docker.join("manifest.json"), b"[]").unwrap();
    let error = open(&reference(&tar(&of_docker), ""), &options()).unwrap().resolve().await.unwrap_err();
    assert_says(&error, &["docker save", "skopeo copy docker-archive:"]);
}

/// A workplace with `a.tar`, made by skopeo, and nothing left of the layout.
fn workplace() -> Workplace {
    let workplace = Workplace::with_layout();
    let output =
        workplace.command_of("skopeo", &["copy", "--quiet", "oci:layout:v1", "oci-archive:a.tar:v1"]);
    run(&mut { output });
    std::fs::remove_dir_all(workplace.path("layout")).unwrap();
    workplace
}

#[test]
fn an_archive_is_inspected_listed_and_read_without_a_mount() {
    let workplace = workplace();
    let shown = json(&workplace.run(&["inspect", "-o", "json", "oci-archive:a.tar:v1"]));
    assert_eq!(shown["reference"], format!("oci-archive:{}:v1", workplace.path("a.tar").display()));
    assert_eq!(shown["layers"].as_array().unwrap().len(), 2);
    let tree = stdout(&workplace.run(&["tree", "oci-archive:a.tar"]));
    assert_eq!(tree.lines().count(), 3, "{tree}");
    let output = workplace.run(&["cat", "oci-archive:a.tar:v1", "weights/model.safetensors"]);
    assert_done(&output);
    assert!(output.stdout == shard());
    let pinned = format!("oci-archive:a.tar@{}", shown["digest"].as_str().unwrap());
    let part = workplace.run(&["cat", "--range", "1048570-1048580", &pinned, "weights/model.safetensors"]);
    assert_eq!(part.stdout, shard()[1_048_570..=1_048_580]);
    assert_failed(&workplace.run(&["inspect", "oci-archive:a.tar:v2"]), 3, "its tags are v1");
    assert_failed(&workplace.run(&["inspect", "oci-archive:b.tar"]), 3, "b.tar");
    assert_failed(&workplace.run(&["pack", "model", "oci-archive:b.tar:v1"]), 2, "expected oci:LAYOUT");
}

#[test]
fn an_archive_is_mounted_from_wherever_its_owner_runs() {
    let workplace = workplace();
    std::fs::create_dir(workplace.path("m")).unwrap();
    let output = workplace.run(&["mount", "oci-archive:a.tar:v1", "m"]);
    assert_done(&output);
    assert!(stdout(&output).contains("/a.tar:v1@sha256:"), "{}", stdout(&output));
    assert!(std::fs::read(workplace.path("m/weights/model.safetensors")).unwrap() == shard());
    assert_eq!(std::fs::read(workplace.path("m/config.json")).unwrap(), b"{}\n");
    assert_done(&workplace.run(&["umount", "m"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}

#[test]
fn a_mounted_archive_that_changes_gives_its_readers_an_error() {
    let workplace = workplace();
    std::fs::create_dir(workplace.path("m")).unwrap();
    assert_done(&workplace.run(&["mount", "--prefetch", "off", "oci-archive:a.tar:v1", "m"]));
    std::fs::OpenOptions::new().write(true).open(workplace.path("a.tar")).unwrap().set_len(4096).unwrap();
    let error = std::fs::read(workplace.path("m/weights/model.safetensors")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    let log = std::fs::read_to_string(workplace.path("cache/owner.log")).unwrap();
    assert!(log.contains("has changed since it was opened"), "{log}");
}
