//! Seeded model artifacts: ModelPack manifests whose layers are raw files of random bytes.

use std::path::Path;

use bytes::Bytes;
use rand::RngCore as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use refmount::base::{Algorithm, Digest};
use refmount::oci::{Descriptor, SourceRef, media_type};
use refmount::registry::LayoutWriter;
use serde_json::json;

pub(crate) const ARTIFACT_TYPE: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.cncf.model.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.cncf.model.weight.v1.raw";

/// An artifact and all its bytes.
#[derive(Clone, Debug)]
pub(crate) struct ModelArtifact {
    files: Vec<(String, Bytes)>,
    pub(crate) config: Bytes,
    pub(crate) manifest: Bytes,
}

impl ModelArtifact {
    /// Files of these paths and sizes, one layer each; the bytes follow from `seed`.
    pub(crate) fn new(seed: u64, files: &[(&str, usize)]) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let files = files
            .iter()
            .map(|(path, size)| {
                let mut bytes = vec![0; *size];
                random.fill_bytes(&mut bytes);
                ((*path).to_owned(), Bytes::from(bytes))
            })
            .collect();
        Self::of(files)
    }

    /// These files, with their paths.
    pub(crate) fn of(files: Vec<(String, Bytes)>) -> Self {
        let layers: Vec<_> =
            files.iter().map(|(path, bytes)| (path.clone(), digest_of(bytes), bytes.len() as u64)).collect();
        let (config, manifest) = documents(&layers);
        Self { files, config, manifest }
    }

    /// The bytes of the file at `path`.
    pub(crate) fn file(&self, path: &str) -> Bytes {
        self.files.iter().find(|(there, _)| there == path).map(|(_, bytes)| bytes.clone()).unwrap()
    }

    /// The digest of the layer that is the file at `path`.
    pub(crate) fn layer(&self, path: &str) -> Digest {
        digest_of(&self.file(path))
    }

    /// The config and all layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.config).chain(self.files.iter().map(|(_, bytes)| bytes))
    }

    /// The manifest as an index would name it.
    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, digest_of(&self.manifest), self.manifest.len() as u64)
    }

    /// Writes the artifact into the layout at `directory`, and returns the reference to it.
    pub(crate) fn write_layout(&self, directory: &Path, tag: &str) -> SourceRef {
        let writer = LayoutWriter::open(directory).unwrap();
        for blob in self.blobs() {
            writer.add_blob(&blob[..], &mut |_| ()).unwrap();
        }
        writer
            .add_manifest(Some(tag), media_type::OCI_MANIFEST, Some(ARTIFACT_TYPE), &self.manifest)
            .unwrap();
        format!("oci:{}:{tag}", directory.display()).parse().unwrap()
    }
}

/// The config and the manifest of an artifact whose layers have these paths, digests and sizes.
pub(crate) fn documents(layers: &[(String, Digest, u64)]) -> (Bytes, Bytes) {
    let digests: Vec<&Digest> = layers.iter().map(|(_, digest, _)| digest).collect();
    let config = json!({
        "descriptor": { "name": "model" },
        "modelfs": { "type": "layers", "diffIds": digests },
        "config": {},
    });
    let config = Bytes::from(config.to_string());
    let layers: Vec<serde_json::Value> = layers
        .iter()
        .map(|(path, digest, size)| {
            json!({
                "mediaType": LAYER_TYPE,
                "digest": digest,
                "size": size,
                "annotations": { "org.cncf.model.filepath": path },
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": { "mediaType": CONFIG_TYPE, "digest": digest_of(&config), "size": config.len() },
        "layers": layers,
    });
    (config, Bytes::from(manifest.to_string()))
}

/// The SHA-256 digest of `bytes`.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}
