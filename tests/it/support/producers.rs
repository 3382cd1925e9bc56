//! Artifacts as their producers make them, byte for byte where it matters: media types, annotations, and how bytes
//! are packed. For the producers that are no packages here; the others are run.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use refmount::oci::{SourceRef, media_type};
use refmount::registry::LayoutWriter;
use serde_json::{Value, json};

use super::artifact::digest_of;

/// Files by path: their modes and bytes.
pub(crate) type Files = BTreeMap<String, (u32, Bytes)>;

/// What a producer made.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) name: &'static str,
    /// Whose rule applies to the layers, in the order of `inspect`.
    pub(crate) rules: Vec<&'static str>,
    /// What is to be seen.
    pub(crate) files: Files,
    media_type: &'static str,
    artifact_type: Option<&'static str>,
    config: (&'static str, Bytes),
    layers: Vec<Layer>,
}

/// A layer and what its descriptor says beside digest and size.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    media_type: String,
    pub(crate) bytes: Bytes,
    annotations: BTreeMap<&'static str, String>,
    more: Vec<(&'static str, Value)>,
}

impl Layer {
    pub(crate) fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let (media_type, bytes) = (media_type.to_owned(), bytes.into());
        Self { media_type, bytes, annotations: BTreeMap::new(), more: Vec::new() }
    }

    pub(crate) fn annotated(mut self, key: &'static str, value: &str) -> Self {
        self.annotations.insert(key, value.to_owned());
        self
    }

    /// A key of the descriptor that the specification does not know.
    pub(crate) fn with(mut self, key: &'static str, value: &str) -> Self {
        self.more.push((key, value.into()));
        self
    }

    fn descriptor(&self) -> Value {
        let mut descriptor = descriptor(&self.media_type, &self.bytes);
        if !self.annotations.is_empty() {
            descriptor["annotations"] = json!(self.annotations);
        }
        for (key, value) in &self.more {
            descriptor[*key] = value.clone();
        }
        descriptor
    }
}

impl Product {
    /// An OCI manifest with this configuration, and as yet no layers.
    pub(crate) fn new(name: &'static str, config: &'static str, config_bytes: impl Into<Bytes>) -> Self {
        let config = (config, config_bytes.into());
        let (rules, files, layers) = (Vec::new(), Files::new(), Vec::new());
        Self { name, rules, files, media_type: media_type::OCI_MANIFEST, artifact_type: None, config, layers }
    }

    pub(crate) fn artifact_type(mut self, artifact_type: &'static str) -> Self {
        self.artifact_type = Some(artifact_type);
        self
    }

    /// With a manifest as Docker had it before OCI.
    pub(crate) fn docker(mut self) -> Self {
        self.media_type = media_type::DOCKER_MANIFEST;
        self
    }

    /// One more layer, to which the rule of this name applies.
    pub(crate) fn layer(mut self, rule: &'static str, layer: Layer) -> Self {
        self.rules.push(rule);
        self.layers.push(layer);
        self
    }

    /// A rule for what is no layer but shown as one, before the others.
    pub(crate) fn shown_first(mut self, rule: &'static str) -> Self {
        self.rules.insert(0, rule);
        self
    }

    /// One more file that is to be seen.
    pub(crate) fn file(mut self, path: &str, mode: u32, bytes: impl Into<Bytes>) -> Self {
        self.files.insert(path.to_owned(), (mode, bytes.into()));
        self
    }

    /// The config and all layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Bytes> {
        self.layers.iter().map(|layer| &layer.bytes).chain([&self.config.1])
    }

    pub(crate) fn manifest(&self) -> Bytes {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": descriptor(self.config.0, &self.config.1),
            "layers": self.layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
        });
        if let Some(artifact_type) = self.artifact_type {
            manifest["artifactType"] = artifact_type.into();
        }
        manifest.to_string().into()
    }

    /// Writes it into the layout at `directory`.
    pub(crate) fn write_layout(&self, directory: &Path) -> SourceRef {
        let writer = LayoutWriter::open(directory).unwrap();
        for blob in self.blobs() {
            writer.add_blob(&blob[..], &mut |_| ()).unwrap();
        }
        writer.add_manifest(Some("v1"), self.media_type, self.artifact_type, &self.manifest()).unwrap();
        format!("oci:{}:v1", directory.display()).parse().unwrap()
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len() })
}

/// A tar of these entries, directories where the name ends in `/`, with names and modes as Go's archive/tar writes
/// them where they fit the oldest header.
pub(crate) fn tar(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, bytes) in entries {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0", 0, 0).as_bytes());
        put(124, format!("{:011o}\0{:011o}\0", bytes.len(), 1_700_000_000).as_bytes());
        put(148, b"        ");
        put(156, if name.ends_with('/') { b"5" } else { b"0" });
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(3));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
