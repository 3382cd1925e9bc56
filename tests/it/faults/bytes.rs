//! Bytes, names and digests that are not what they should be.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use refmount::artifact;
use refmount::base::{Digest, Result};
use refmount::oci::{Descriptor, WantedPlatform, media_type};
use refmount::registry::{BlobBody, BlobSource, RawManifest};
use serde_json::{Value, json};

use super::{CONFIG, MIB, OTHER, PATIENT, SHARD, Site};
use crate::support::artifact::{ARTIFACT_TYPE, ModelArtifact, digest_of};
use crate::support::fault_registry::{Fault, Target};
use crate::workplace::{assert_failed, stderr, wait_until};

/// Through the pages that the kernel keeps, as most programs read.
fn content(site: &Site, file: &str) -> Option<Vec<u8>> {
    std::fs::read(site.path(file)).ok()
}

#[test]
fn wrong_bytes_of_a_complete_blob_are_dropped_counted_and_fetched_again() {
    let site = Site::mounted(&[PATIENT]);
    site.registry.fault(Target::Blob, Fault::WrongByte(5));
    // By its policy it may show them, until the blob is complete.
    let _ = content(&site, CONFIG);
    wait_until("the blob is rejected", || site.status()["rejected_chunks"] == 1);
    assert!(site.log().contains("does not match its digest"), "{}", site.log());
    let truth = site.artifact.file(CONFIG);
    wait_until("the right bytes are there", || content(&site, CONFIG).as_deref() == Some(&truth[..]));
    wait_until("they are proven", || site.status_of(CONFIG)["standing"] == "proven");
}

#[test]
fn a_blob_that_stays_wrong_is_an_error_and_not_cached() {
    let site = Site::mounted(&[PATIENT]);
    site.registry.faults(Target::Blob, 0, usize::MAX, Fault::WrongByte(5));
    wait_until("the blob is rejected for good", || {
        let _ = content(&site, CONFIG);
        site.status_of(CONFIG)["standing"] == "rejected"
    });
    wait_until("the kernel has forgotten it", || content(&site, CONFIG).is_none());
    site.assert_fails(CONFIG, 0, &["do not match the digest"]);
    let status = site.status_of(CONFIG);
    assert_eq!(status["cached_bytes"], 0);
    site.registry.clear_faults();
    site.assert_reads_whole(OTHER);
}

#[test]
fn with_verification_before_reading_no_wrong_byte_is_ever_served() {
    let site = Site::mounted(&[PATIENT, "--verify=before-read"]);
    site.registry.fault(Target::Blob, Fault::WrongByte(2 * MIB as usize + 1));
    site.assert_reads(OTHER, 2 * MIB..2 * MIB + 10);
    assert_eq!(site.status_of(OTHER)["standing"], "proven");
    wait_until("the rejection is counted", || site.status()["rejected_chunks"] == 3);
    site.registry.faults(Target::Blob, 0, usize::MAX, Fault::WrongByte(5));
    site.assert_fails(SHARD, MIB, &["do not match the digest"]);
    site.assert_fails(SHARD, 11 * MIB, &["do not match the digest"]);
}

#[test]
fn a_tag_that_moves_is_followed_by_the_next_mount_and_not_by_this_one() {
    let site = Site::mounted(&[PATIENT]);
    let pinned = site.artifact.descriptor().digest.to_string();
    let next = ModelArtifact::new(8, &[(CONFIG, 200), (SHARD, 1 << 20)]);
    site.registry.put(&next, "v1");
    site.assert_reads_whole(SHARD);
    site.assert_reads_whole(OTHER);
    assert_eq!(site.status()["digest"], *pinned);
    site.umount();
    let moved = next.descriptor().digest.to_string();
    let line = site.mount(&[]);
    assert!(line.contains(&moved), "{line}");
    assert!(std::fs::read(site.path(SHARD)).unwrap() == next.file(SHARD));
    assert!(!site.path(OTHER).exists());
}

/// Puts a manifest with one layer as described under the tag.
fn put_layer(site: &Site, layer: &Value) {
    let config = json!({
        "mediaType": "application/vnd.cncf.model.config.v1+json",
        "digest": digest_of(&site.artifact.config),
        "size": site.artifact.config.len(),
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": config,
        "layers": [layer],
    });
    site.registry.put_manifest("v1", media_type::OCI_MANIFEST, &Bytes::from(manifest.to_string()));
}

#[test]
fn names_that_lead_out_are_refused_with_layer_and_entry() {
    let site = Site::new();
    let digest = site.artifact.layer(CONFIG);
    let long = "x".repeat(256);
    let deep = "deep/".repeat(900) + "x";
    for name in ["../x", "a/../../b", "..", "a\0b", "", "/", ".", &*long, &*deep] {
        put_layer(
            &site,
            &json!({
                "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                "digest": digest,
                "size": 300,
                "annotations": { "org.cncf.model.filepath": name },
            }),
        );
        let output = site.try_mount(&[]);
        assert_failed(&output, 1, &digest.to_string());
        let shown = &name[..name.len().min(100)].replace('\0', "");
        assert!(stderr(&output).contains(shown) || name.contains('\0'), "{name:?}: {}", stderr(&output));
        assert!(!site.workplace.is_mounted("mnt"));
    }
    assert_eq!(site.registry.requests(Target::Blob).len(), 0);
}

#[test]
fn a_malformed_digest_never_becomes_a_path_or_a_url() {
    let site = Site::new();
    for digest in [
        "sha256:../../../../../../etc/passwd",
        "sha256:",
        "sha256:ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789",
        "sha256:00",
        "../../x",
        "md5:00000000000000000000000000000000",
        "sha256:0000000000000000000000000000000000000000000000000000000000000000/../x",
    ] {
        put_layer(
            &site,
            &json!({
                "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                "digest": digest,
                "size": 300,
                "annotations": { "org.cncf.model.filepath": "x" },
            }),
        );
        let output = site.try_mount(&[]);
        assert_failed(&output, 1, "digest");
        let typed = format!("{}@{digest}", site.reference());
        let output = site.workplace.run(&["mount", &typed, "mnt"]);
        assert_failed(&output, 2, "");
    }
    assert_eq!(site.registry.requests(Target::Blob).len(), 0);
}

/// An index of one document.
fn index_of(bytes: &Bytes, media_type: &str) -> Bytes {
    let entry = json!({ "mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len() });
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry] });
    Bytes::from(index.to_string())
}

#[test]
fn indexes_without_end_manifests_without_end_and_false_sizes_are_named() {
    let site = Site::new();
    let mut bytes = index_of(&site.artifact.manifest, media_type::OCI_MANIFEST);
    for depth in 1..10 {
        site.registry.put_manifest("v1", media_type::OCI_INDEX, &bytes);
        let output = site.workplace.run(&["inspect", &site.reference()]);
        match depth <= 4 {
            true => assert!(output.status.success(), "depth {depth}: {}", stderr(&output)),
            false => assert_failed(&output, 1, "nested deeper than 4"),
        }
        bytes = index_of(&bytes, media_type::OCI_INDEX);
    }
    let mut padded = site.artifact.manifest.to_vec();
    padded.resize((4 << 20) + 1, b' ');
    site.registry.put_manifest("v1", media_type::OCI_MANIFEST, &Bytes::from(padded));
    assert_failed(&site.try_mount(&[]), 1, "larger than 4194304 bytes");
    let index =
        String::from_utf8(index_of(&site.artifact.manifest, media_type::OCI_MANIFEST).to_vec()).unwrap();
    let size = site.artifact.manifest.len();
    let lie = index.replace(&format!("\"size\":{size}"), &format!("\"size\":{}", size - 1));
    site.registry.put_manifest("v1", media_type::OCI_INDEX, &Bytes::from(lie));
    assert_failed(&site.try_mount(&[]), 1, &format!("{size} bytes"));
}

/// A source whose index names itself: with a digest that is checked, nobody can make one.
#[derive(Debug)]
struct Circle(Descriptor);

#[async_trait]
impl BlobSource for Circle {
    fn name(&self) -> &str {
        "circle"
    }

    async fn resolve(&self) -> Result<RawManifest> {
        self.manifest(&self.0).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [
            { "mediaType": media_type::OCI_INDEX, "digest": self.0.digest, "size": self.0.size },
        ]});
        Ok(RawManifest {
            digest: descriptor.digest.clone(),
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            bytes: Bytes::from(index.to_string()),
        })
    }

    async fn blob(&self, _: &Digest, _: u64, _: Range<u64>) -> Result<BlobBody> {
        unreachable!("no layer is ever found")
    }
}

#[tokio::test]
async fn an_index_that_names_itself_is_refused() {
    let circle = Circle(ModelArtifact::new(1, &[]).descriptor());
    let reference = "registry.example/circle:v1".parse().unwrap();
    let error = artifact::load_from(&circle, &reference, &WantedPlatform::host()).await.unwrap_err();
    assert!(error.chain().contains("names itself"), "{}", error.chain());
}

#[test]
fn a_layer_of_another_size_than_its_descriptors_is_never_data() {
    for wrong in [299, 301] {
        let site = Site::new();
        put_layer(
            &site,
            &json!({
                "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                "digest": site.artifact.layer(CONFIG),
                "size": wrong,
                "annotations": { "org.cncf.model.filepath": CONFIG },
            }),
        );
        site.mount(&[PATIENT]);
        site.assert_fails(CONFIG, 0, &[&format!("a total of 300 bytes where the descriptor says {wrong}")]);
    }
}

#[test]
fn a_mount_of_a_part_fetches_nothing_else() {
    let site = Site::new();
    let reference = site.reference();
    let run = |subpath: &str| site.workplace.run(&["mount", "--subpath", subpath, &reference, "mnt"]);
    assert_failed(&run("model/none/deeper"), 3, "model");
    assert_failed(&run("../model"), 2, "..");
    assert_failed(&run("/model"), 2, "absolute");
    for subpath in ["model", "model/", "./model"] {
        let output = run(subpath);
        assert!(output.status.success(), "{subpath}: {}", stderr(&output));
        let names = std::fs::read_dir(site.path("")).unwrap().count();
        assert_eq!(names, 2);
        site.umount();
    }
    std::fs::remove_dir(site.workplace.path("mnt")).unwrap();
    site.workplace.put("mnt", b"");
    assert!(run(OTHER).status.success());
    assert!(std::fs::read(site.workplace.path("mnt")).unwrap() == site.artifact.file(OTHER));
    assert_eq!(site.ranges(SHARD), []);
    assert_eq!(site.ranges(CONFIG), []);
}
