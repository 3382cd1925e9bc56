//! From a manifest to an [`Artifact`]: its layers in order, and the rule that names each one's files.

pub mod pack;

use std::sync::Arc;

use crate::base::limits::INDEX_DEPTH_MAX;
use crate::base::{Digest, Error, ErrorKind, Result, ResultExt as _};
use crate::layer::LayerEntries;
use crate::oci::{Descriptor, Document, Platform, SourceRef, platform};
use crate::registry::{self, BlobSource, RawManifest, SourceOptions};

mod metadata;
mod rules;

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
    let source = registry::open(reference, options)?;
    let artifact = load_from(source.as_ref(), reference, platform).await?;
    Ok((artifact, source))
}

/// As [`load`], through a source that is open already.
///
/// # Errors
/// As [`load`].
pub async fn load_from(
    source: &dyn BlobSource,
    reference: &SourceRef,
    platform: &Platform,
) -> Result<Artifact> {
    let mut raw = source.resolve().await?;
    let mut declared = raw.media_type.clone();
    let mut warnings = Vec::new();
    let mut seen = vec![raw.digest.clone()];
    loop {
        let in_document = || format!("{} of {reference}", raw.digest);
        match Document::parse(&raw.bytes, declared.as_deref()).context(in_document)? {
            Document::Manifest(manifest) => {
                let mut artifact = rules::apply(reference, &raw, &manifest)?;
                artifact.warnings = warnings;
                return Ok(artifact);
            }
            Document::Index(index) => {
                let choice = platform::choose(&index, platform).context(in_document)?;
                warnings.extend(choice.warning);
                let next = choice.descriptor;
                if seen.contains(&next.digest) {
                    let text = format!("{reference}: the index {} leads back to itself", next.digest);
                    return Err(Error::new(ErrorKind::Invalid, text));
                }
                if seen.len() > INDEX_DEPTH_MAX as usize {
                    let text = format!("{reference}: indexes are nested deeper than {INDEX_DEPTH_MAX}");
                    return Err(Error::new(ErrorKind::Invalid, text));
                }
                raw = source.manifest(&next).await?;
                seen.push(raw.digest.clone());
                declared = Some(next.media_type);
            }
        }
    }
}
