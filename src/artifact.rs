//! From a manifest to an [`Artifact`]: its layers in order, and the rule that names each one's files.

use std::sync::Arc;

use crate::base::{Digest, Result};
use crate::layer::LayerEntries;
use crate::oci::{Descriptor, Platform, SourceRef};
use crate::registry::{BlobSource, SourceOptions};

/// What a manifest describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Files, by the rules of their producer.
    Artifact,
    /// A root file system, merged from layers.
    Image,
}

/// How the bytes of a layer hold its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerFormat {
    /// The blob is the file.
    Raw,
}

/// A layer and what was made of it.
#[derive(Clone, Debug)]
pub struct ArtifactLayer {
    /// The layer's place in the manifest.
    pub descriptor: Descriptor,
    /// How its bytes hold its files.
    pub format: LayerFormat,
    /// Its files.
    pub entries: LayerEntries,
    /// What may surprise about it.
    pub warnings: Vec<String>,
}

/// A resolved artifact: everything that a mount shows follows from it.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The reference as asked for, normalised.
    pub reference: SourceRef,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The media type of the manifest.
    pub media_type: String,
    /// The manifest's `artifactType`.
    pub artifact_type: Option<String>,
    /// Artifact or image.
    pub kind: Kind,
    /// The layers, lowest first.
    pub layers: Vec<ArtifactLayer>,
    /// What may surprise about the artifact as a whole.
    pub warnings: Vec<String>,
}

/// Resolves `reference` through a new source, chooses the manifest for `platform`, and applies the rules.
/// Fetches manifests only, no layer.
///
/// # Errors
/// Those of [`BlobSource::resolve`]; `Unsupported` for a layer that cannot be served, naming its digest and
/// media type; `Invalid` for names that lead out of the tree.
pub async fn load(
    reference: &SourceRef,
    platform: &Platform,
    options: &SourceOptions,
) -> Result<(Artifact, Arc<dyn BlobSource>)> {
    let _ = (reference, platform, options);
    unimplemented!()
}
