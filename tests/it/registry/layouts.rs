//! Layouts on disk.

use std::path::Path;

use refmount::base::{ErrorKind, durable};
use refmount::oci::{SourceRef, media_type};
use refmount::registry::{LayoutWriter, open};

use super::{assert_reads, assert_says, options, read, small};
use crate::support::artifact::{ModelArtifact, digest_of};

fn reference(directory: &Path, rest: &str) -> SourceRef {
    format!("oci:{}{rest}", directory.display()).parse().unwrap()
}

fn blob_file(directory: &Path, digest: &refmount::base::Digest) -> std::path::PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

#[tokio::test]
async fn a_layout_that_was_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (artifact, other) = (small(), ModelArtifact::new(2, &[("other", 10)]));
    let tagged = artifact.write_layout(directory.path(), "v1");
    let only = open(&reference(directory.path(), ""), &options()).unwrap();
    assert_eq!(only.resolve().await.unwrap().bytes, artifact.manifest);
    other.write_layout(directory.path(), "v2");
    let source = open(&tagged, &options()).unwrap();
    let manifest = source.resolve().await.unwrap();
    assert_eq!(manifest.bytes, artifact.manifest);
    assert_eq!(manifest.media_type.as_deref(), Some(media_type::OCI_MANIFEST));
    assert_eq!(source.manifest(&other.descriptor()).await.unwrap().bytes, other.manifest);
    for range in [0..1, 199_999..200_000, 0..200_000] {
        assert_reads(&*source, &artifact, range).await;
    }
    let pinned = open(&tagged.pinned(&other.descriptor().digest), &options()).unwrap();
    assert_eq!(pinned.resolve().await.unwrap().bytes, other.manifest);
    for (rest, kind) in [("", ErrorKind::Usage), (":v3", ErrorKind::NotFound)] {
        let error =
            open(&reference(directory.path(), rest), &options()).unwrap().resolve().await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_says(&error, &["v1, v2", &directory.path().display().to_string()]);
    }
}

#[tokio::test]
async fn a_tag_that_is_written_again_moves() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (small(), ModelArtifact::new(2, &[("other", 10)]));
    old.write_layout(directory.path(), "v1");
    let index = directory.path().join("index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let full = text.replace("\"v1\"", "\"localhost:5000/a/b:v1\"").replacen('{', "{\"x-kept\":[1],", 1);
    durable::write(&index, full.as_bytes()).unwrap();
    let source = open(&reference(directory.path(), ":v1"), &options()).unwrap();
    assert_eq!(source.resolve().await.unwrap().bytes, old.manifest, "a full reference ends in the tag");
    new.write_layout(directory.path(), "v1");
    assert_eq!(source.resolve().await.unwrap().bytes, new.manifest);
    let text = std::fs::read_to_string(&index).unwrap();
    assert!(text.contains("x-kept"), "{text}");
    assert!(!text.contains("localhost"), "{text}");
}

#[tokio::test]
async fn damaged_blobs_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let artifact = small();
    let source = open(&artifact.write_layout(directory.path(), "v1"), &options()).unwrap();
    let layer = blob_file(directory.path(), &artifact.layer("model"));
    let file = std::fs::OpenOptions::new().write(true).open(&layer).unwrap();
    file.set_len(199_999).unwrap();
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_says(&error, &[&layer.display().to_string(), "199999", "200000"]);
    std::fs::remove_file(&layer).unwrap();
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&error, &[&layer.display().to_string()]);
    let manifest = blob_file(directory.path(), &artifact.descriptor().digest);
    let mut bytes = artifact.manifest.to_vec();
    bytes[40] ^= 1;
    durable::write(&manifest, &bytes).unwrap();
    let error = source.resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_says(&error, &[&manifest.display().to_string()]);
}

#[tokio::test]
async fn a_blob_that_shrinks_while_it_is_read_is_an_error_and_not_zeros() {
    use futures_util::StreamExt as _;
    let directory = tempfile::tempdir().unwrap();
    let artifact = ModelArtifact::new(3, &[("model", 1 << 20)]);
    let source = open(&artifact.write_layout(directory.path(), "v1"), &options()).unwrap();
    let digest = artifact.layer("model");
    let mut body = source.blob(&digest, 1 << 20, 0..1 << 20).await.unwrap();
    let first = body.pieces.next().await.unwrap().unwrap();
    assert_eq!(first, artifact.file("model")[..first.len()]);
    let file = std::fs::OpenOptions::new().write(true).open(blob_file(directory.path(), &digest)).unwrap();
    file.set_len(first.len() as u64).unwrap();
    assert_eq!(body.pieces.next().await.unwrap().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(body.pieces.next().await.is_none());
}

#[test]
fn a_directory_that_is_no_layout_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let error = open(&reference(directory.path(), ":v1"), &options()).unwrap_err();
    assert_says(&error, &["oci-layout", &directory.path().display().to_string()]);
    durable::write(&directory.path().join("precious"), b"x").unwrap();
    let error = LayoutWriter::open(directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    let missing = directory.path().join("missing");
    let error = open(&reference(&missing, ""), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&error, &[&missing.display().to_string()]);
}

#[test]
fn concurrent_writers_lose_no_tag() {
    const WRITERS: u64 = 8;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                for tag in 0..4 {
                    let artifact = ModelArtifact::new(writer * 100 + tag, &[("shared", 100)]);
                    artifact.write_layout(path, &format!("v{writer}.{tag}"));
                }
            });
        }
    });
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len() as u64, WRITERS * 4);
    let left: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn progress_is_told_and_a_failed_blob_leaves_nothing() {
    struct Failing(usize);
    impl std::io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| std::io::Error::other("broken disk"))?;
            buffer.fill(7);
            Ok(buffer.len())
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let writer = LayoutWriter::open(directory.path()).unwrap();
    let mut told = Vec::new();
    let error = writer.add_blob(Failing(2), &mut |bytes| told.push(bytes)).unwrap_err();
    assert_says(&error, &["broken disk"]);
    assert_eq!(told.len(), 2);
    assert_eq!(std::fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    let (digest, bytes) = writer.add_blob(&b"abc"[..], &mut |_| ()).unwrap();
    assert_eq!((digest, bytes), (digest_of(b"abc"), 3));
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_blob_does_not_hang() {
    let directory = tempfile::tempdir().unwrap();
    let artifact = small();
    let source = open(&artifact.write_layout(directory.path(), "v1"), &options()).unwrap();
    let layer = blob_file(directory.path(), &artifact.layer("model"));
    std::fs::remove_file(&layer).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&layer).status().unwrap().success());
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_says(&error, &["not a regular file"]);
}

#[tokio::test]
async fn a_tag_may_name_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let artifact = small();
    artifact.write_layout(directory.path(), "v1");
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [artifact.descriptor()] }).to_string();
    let writer = LayoutWriter::open(directory.path()).unwrap();
    writer.add_manifest(Some("all"), media_type::OCI_INDEX, None, index.as_bytes()).unwrap();
    let manifest = open(&reference(directory.path(), ":all"), &options()).unwrap().resolve().await.unwrap();
    assert_eq!(manifest.bytes, index);
    assert_eq!(manifest.media_type.as_deref(), Some(media_type::OCI_INDEX));
}

#[tokio::test]
async fn ranges_outside_the_blob_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let artifact = small();
    let source = open(&artifact.write_layout(directory.path(), "v1"), &options()).unwrap();
    for range in [5..5, 199_999..200_001, 200_000..200_000] {
        assert_eq!(read(&*source, &artifact, range).await.unwrap_err().kind(), ErrorKind::Usage);
    }
}
