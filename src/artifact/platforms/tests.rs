//! Indexes of every shape, from a source that holds nothing but manifests.

use std::collections::HashMap;
use std::ops::Range;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::*;
use crate::base::{Algorithm, Digest};
use crate::oci::WantedPlatform;
use crate::registry::BlobBody;

/// Documents by digest; the one added last is what the reference names.
#[derive(Debug, Default)]
struct Documents {
    documents: HashMap<Digest, RawManifest>,
    last: Option<Digest>,
}

impl Documents {
    /// Adds a document, and returns its descriptor for an index.
    fn add(&mut self, media_type: &str, document: &Value, platform: Option<&str>) -> Value {
        let bytes = document.to_string();
        let digest = Digest::of(Algorithm::Sha256, bytes.as_bytes());
        let mut descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        if let Some(platform) = platform {
            descriptor["platform"] = serde_json::to_value(platform.parse::<Platform>().unwrap()).unwrap();
        }
        let raw = RawManifest {
            digest: digest.clone(),
            media_type: Some(media_type.to_owned()),
            bytes: bytes.into(),
        };
        self.documents.insert(digest.clone(), raw);
        self.last = Some(digest);
        descriptor
    }

    /// Adds a manifest of files, each with the digest of its title, and returns its descriptor.
    fn files(&mut self, titles: &[&str], platform: Option<&str>) -> Value {
        let layer = |title: &&str| {
            json!({
                "mediaType": "text/plain",
                "digest": Digest::of(Algorithm::Sha256, title.as_bytes()),
                "size": title.len(),
                "annotations": { "org.opencontainers.image.title": title },
            })
        };
        let config = json!({ "mediaType": "a/b", "digest": Digest::of(Algorithm::Sha256, b"{}"), "size": 2 });
        let layers: Vec<Value> = titles.iter().map(layer).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.add(media_type::OCI_MANIFEST, &manifest, platform)
    }

    fn index(&mut self, entries: &[Value], platform: Option<&str>) -> Value {
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
        self.add(media_type::OCI_INDEX, &index, platform)
    }

    async fn load(&self, wanted: &str) -> Result<Artifact> {
        let wanted: WantedPlatform = wanted.parse()?;
        super::super::load_from(self, &"localhost/a".parse()?, &wanted).await
    }

    /// The paths of all files when everything is shown.
    async fn paths(&self) -> Vec<String> {
        let artifact = self.load("all").await.unwrap_or_else(|error| panic!("{}", error.chain()));
        let path = |layer: &crate::artifact::ArtifactLayer| match &layer.directory {
            Some(directory) => format!("{directory}/{}", layer.file.path),
            None => layer.file.path.to_string(),
        };
        artifact.layers.iter().map(path).collect()
    }
}

#[async_trait]
impl BlobSource for Documents {
    fn name(&self) -> &str {
        "documents"
    }

    async fn resolve(&self) -> Result<RawManifest> {
        Ok(self.documents[self.last.as_ref().unwrap()].clone())
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        Ok(self.documents[&descriptor.digest].clone())
    }

    async fn blob(&self, _: &Digest, _: u64, _: Range<u64>) -> Result<BlobBody> {
        panic!("a blob is asked for, though manifests say everything")
    }
}

#[tokio::test]
async fn every_platform_stands_in_its_own_directory() {
    let mut documents = Documents::default();
    let entries = [
        documents.files(&["shared", "a"], Some("linux/amd64")),
        documents.files(&["shared", "b"], Some("linux/arm64")),
    ];
    let index = documents.index(&entries, None);
    assert_eq!(
        documents.paths().await,
        ["linux-amd64/shared", "linux-amd64/a", "linux-arm64-v8/shared", "linux-arm64-v8/b"]
    );
    let artifact = documents.load("all").await.unwrap();
    assert_eq!(artifact.digest.as_str(), index["digest"]);
    assert_eq!(artifact.media_type, media_type::OCI_INDEX);
    let directories: Vec<String> =
        artifact.platforms.iter().map(|platform| platform.directory.to_string()).collect();
    assert_eq!(directories, ["linux-amd64", "linux-arm64-v8"]);
    assert_eq!(artifact.platforms[1].digest.as_str(), entries[1]["digest"]);
    assert!(artifact.warnings.is_empty() && artifact.kind == Kind::Artifact);
    // One platform of the same index stands at the root.
    let one = documents.load("linux/arm64").await.unwrap();
    assert_eq!((one.platforms.len(), one.layers.len()), (0, 2));
    assert_eq!(one.layers[1].file.path.to_string(), "b");
}

#[tokio::test]
async fn attestations_and_unknown_documents_are_no_content() {
    let mut documents = Documents::default();
    let amd64 = documents.files(&["a"], Some("linux/amd64"));
    let unknown = documents.files(&["attestation"], Some("unknown/unknown"));
    let mut attestation = documents.files(&["other"], None);
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let strange = documents.add("application/vnd.strange+json", &json!({}), None);
    documents.index(&[amd64, unknown.clone(), attestation, strange], None);
    assert_eq!(documents.paths().await, ["linux-amd64/a"]);
    let warnings = documents.load("all").await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("vnd.strange"), "{warnings:?}");

    documents.index(&[unknown], None);
    assert_eq!(documents.load("all").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn names_that_collide_are_numbered_and_repetitions_shown_once() {
    let mut documents = Documents::default();
    let first = documents.files(&["a"], Some("windows/amd64"));
    let second = documents.files(&["b"], Some("windows/amd64"));
    let none = documents.files(&["c"], None);
    let other = documents.files(&["d"], None);
    documents.index(&[first.clone(), second, none, other, first], None);
    assert_eq!(documents.paths().await, ["windows-amd64/a", "windows-amd64-2/b", "any/c", "any-2/d"]);
    assert_eq!(documents.load("all").await.unwrap().warnings.len(), 3);
}

#[tokio::test]
async fn indexes_nest_to_a_depth_of_four() {
    let mut documents = Documents::default();
    let mut inner = documents.files(&["deep"], None);
    for _ in 0..3 {
        inner = documents.index(&[inner], None);
    }
    inner["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let beside = documents.files(&["beside"], Some("linux/arm64"));
    let whole = documents.index(&[inner, beside], None);
    // What says no platform has that of the index above it, and stands in that one's place.
    assert_eq!(documents.paths().await, ["linux-amd64/deep", "linux-arm64-v8/beside"]);
    documents.load("linux/amd64").await.unwrap();

    documents.index(&[whole], None);
    for wanted in ["all", "linux/amd64"] {
        let error = documents.load(wanted).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("deeper than 4"), "{error}");
    }
}

#[tokio::test]
async fn too_many_manifests_are_refused_before_they_are_fetched() {
    let mut documents = Documents::default();
    let one = documents.files(&["a"], None);
    let index = documents.index(&vec![one.clone(); MANIFESTS_MAX + 1], None);
    let flat = documents.load("all").await.unwrap_err();
    documents.index(&[index], None);
    let error = documents.load("all").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("more than 256 manifests"), "{error}");
    assert_eq!(flat.to_string(), error.to_string());

    let mut large = one;
    large["size"] = json!(MANIFEST_BYTES_MAX + 1);
    documents.index(&[large], None);
    assert_eq!(documents.load("all").await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_platform_that_cannot_be_served_or_named_is_named_in_the_error() {
    let mut documents = Documents::default();
    let good = documents.files(&["a"], Some("linux/amd64"));
    let empty = documents.files(&[], Some("linux/riscv64"));
    documents.index(&[good.clone(), empty], None);
    let error = documents.load("all").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.chain().contains("(linux-riscv64)"), "{}", error.chain());

    for (os, architecture) in [("..", ""), ("a/b", "c"), ("linux", "../..")] {
        let mut hostile = documents.files(&["a"], None);
        hostile["platform"] = json!({ "os": os, "architecture": architecture });
        documents.index(&[good.clone(), hostile], None);
        let error = documents.load("all").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{os}/{architecture}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_named_directly_stands_at_the_root() {
    let mut documents = Documents::default();
    documents.files(&["a"], None);
    assert_eq!(documents.paths().await, ["a"]);
    assert!(documents.load("all").await.unwrap().warnings[0].contains("is no index"));
}
