//! From a manifest to an [`Artifact`]: its layers in order, and the rule that names each one's files.

pub mod pack;

use std::sync::Arc;

use crate::base::limits::INDEX_DEPTH_MAX;
use crate::base::{Digest, Error, ErrorKind, RelPath, Result, ResultExt as _};
use crate::layer::Entry;
use crate::oci::{Descriptor, Document, Platform, SourceRef, WantedPlatform, platform};
use crate::registry::{self, BlobSource, RawManifest, SourceOptions};

mod metadata;
mod platforms;
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
    /// The blob is the file, compressed.
    Compressed,
    /// The blob is an archive, compressed or not.
    Archive,
}

impl LayerFormat {
    /// The name that `inspect` shows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Compressed => "compressed",
            Self::Archive => "archive",
        }
    }
}

/// A layer and what was made of it.
#[derive(Clone, Debug)]
pub struct ArtifactLayer {
    /// The layer's place in the manifest.
    pub descriptor: Descriptor,
    /// How its bytes hold its files, as far as the manifest tells.
    pub format: LayerFormat,
    /// The one file that it is; for an archive, the one that it is if its bytes are none. Stands below `directory`, if
    /// there is one.
    pub file: Entry,
    /// Whether it is a part of a root file system, in which names can hide others.
    pub is_rootfs: bool,
    /// The directory of the platform that the layer is of, where all platforms are shown.
    pub directory: Option<RelPath>,
    /// Whose rule says what the layer's files are: a short word, the same for all layers of a producer.
    pub rule: &'static str,
    /// Why this rule applies and where the path is from, in words.
    pub reason: String,
    /// What may surprise about it.
    pub warnings: Vec<String>,
}

/// One of the manifests of an index of which all were asked for.
#[derive(Clone, Debug)]
pub struct PlatformManifest {
    /// The directory of the root in which its files stand.
    pub directory: RelPath,
    /// What the index says that it is for.
    pub platform: Option<Platform>,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The media type of the manifest.
    pub media_type: String,
    /// The manifest's `artifactType`.
    pub artifact_type: Option<String>,
    /// Artifact or image.
    pub kind: Kind,
}

/// A resolved artifact: everything that a mount shows follows from it.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The reference as asked for, normalised.
    pub reference: SourceRef,
    /// The digest of the manifest; where all platforms are shown, of the index.
    pub digest: Digest,
    /// The media type of what `digest` names.
    pub media_type: String,
    /// The `artifactType` of what `digest` names.
    pub artifact_type: Option<String>,
    /// Artifact or image. Where all platforms are shown: an image only if all of them are.
    pub kind: Kind,
    /// The layers, lowest first; where all platforms are shown, those of one platform after those of another.
    pub layers: Vec<ArtifactLayer>,
    /// The manifests of an index of which all are shown, in its order; otherwise empty.
    pub platforms: Vec<PlatformManifest>,
    /// What may surprise about the artifact as a whole.
    pub warnings: Vec<String>,
}

/// Resolves `reference` through a new source, chooses what is `wanted` of an index, and applies the rules.
/// Fetches manifests only, no layer.
///
/// # Errors
/// Those of [`BlobSource::resolve`]; `Unsupported` for a layer that cannot be served, naming its digest and
/// media type; `Invalid` for names that lead out of the tree, and for indexes without end.
pub async fn load(
    reference: &SourceRef,
    wanted: &WantedPlatform,
    options: &SourceOptions,
) -> Result<(Artifact, Arc<dyn BlobSource>)> {
    load_through(reference, wanted, options, &|_, source| source).await
}

/// Makes of the source of a reference the one that is asked.
pub type Wrap<'a> = dyn Fn(&SourceRef, Arc<dyn BlobSource>) -> Arc<dyn BlobSource> + Sync + 'a;

/// As [`load`], through what `wrap` makes of the source of each reference that is tried.
///
/// # Errors
/// As [`load`].
pub async fn load_through(
    reference: &SourceRef,
    wanted: &WantedPlatform,
    options: &SourceOptions,
    wrap: &Wrap<'_>,
) -> Result<(Artifact, Arc<dyn BlobSource>)> {
    let candidates = registry::candidates(reference, options)?;
    let mut failures: Vec<(&SourceRef, Error)> = Vec::new();
    for candidate in &candidates {
        let loaded = async {
            let source = wrap(candidate, registry::open(candidate, options)?);
            let artifact = load_from(source.as_ref(), candidate, wanted).await?;
            Ok((artifact, source))
        };
        match loaded.await {
            Ok((mut artifact, source)) => {
                let passed_over = failures.iter().map(|(candidate, error)| {
                    format!("{candidate} is what {reference} would have been, but: {}", error.chain())
                });
                artifact.warnings.splice(0..0, passed_over);
                return Ok((artifact, source));
            }
            Err(error) => failures.push((candidate, error)),
        }
    }
    Err(none_of_them(reference, failures))
}

/// The error for a name that could not be had from any registry; what one of them failed with hides nothing of the others.
fn none_of_them(reference: &SourceRef, mut failures: Vec<(&SourceRef, Error)>) -> Error {
    if failures.len() == 1
        && let Some((candidate, error)) = failures.pop()
    {
        return match candidate == reference {
            true => error,
            false => error.context(format!("{reference} is {candidate}")),
        };
    }
    // The registry that has it, if it cannot be used, is the one that was meant; else one that may have it.
    let rank = |error: &Error| match error.kind() {
        ErrorKind::NotFound => 2,
        kind if kind.is_transient() => 1,
        _ => 0,
    };
    let Some((meant, decisive)) = failures.iter().min_by_key(|(_, error)| rank(error)) else {
        return Error::new(ErrorKind::Usage, format!("{reference}: there is no registry to ask"));
    };
    let each: Vec<String> =
        failures.iter().map(|(candidate, error)| format!("{candidate}: {}", error.chain())).collect();
    let text = format!(
        "{reference} names no registry, and none of those it may stand for has it: {}; write the registry out to ask it alone, such as {meant}",
        each.join("; ")
    );
    Error::new(decisive.kind(), text)
}

/// As [`load`], through a source that is open already.
///
/// # Errors
/// As [`load`].
pub async fn load_from(
    source: &dyn BlobSource,
    reference: &SourceRef,
    wanted: &WantedPlatform,
) -> Result<Artifact> {
    let raw = source.resolve().await?;
    let document = parse(reference, &raw, raw.media_type.as_deref())?;
    match (wanted, document) {
        (WantedPlatform::One(platform), document) => one(source, reference, platform, raw, document).await,
        (WantedPlatform::All, Document::Index(index)) => {
            platforms::all(source, reference, &raw, &index).await
        }
        (WantedPlatform::All, Document::Manifest(manifest)) => {
            let mut artifact = rules::apply(reference, &raw, &manifest)?;
            artifact.warnings.push(format!(
                "all platforms are wanted, but {} is no index; its files stand at the root",
                raw.digest
            ));
            Ok(artifact)
        }
    }
}

/// What `raw` holds; its media type is `declared`, unless it names its own.
fn parse(reference: &SourceRef, raw: &RawManifest, declared: Option<&str>) -> Result<Document> {
    Document::parse(&raw.bytes, declared).context(|| format!("{} of {reference}", raw.digest))
}

/// Follows `document`, which `raw` holds, to the manifest for `platform`.
async fn one(
    source: &dyn BlobSource,
    reference: &SourceRef,
    platform: &Platform,
    mut raw: RawManifest,
    mut document: Document,
) -> Result<Artifact> {
    let mut warnings = Vec::new();
    for _ in 0..=INDEX_DEPTH_MAX {
        let index = match document {
            Document::Index(index) => index,
            Document::Manifest(manifest) => {
                let mut artifact = rules::apply(reference, &raw, &manifest)?;
                artifact.warnings.splice(0..0, warnings);
                return Ok(artifact);
            }
        };
        let in_index = || format!("{} of {reference}", raw.digest);
        let choice = platform::choose(&index, platform).context(in_index)?;
        warnings.extend(choice.warning);
        raw = source.manifest(&choice.descriptor).await?;
        document = parse(reference, &raw, Some(&choice.descriptor.media_type))?;
    }
    Err(nested_too_deep(reference))
}

fn nested_too_deep(reference: &SourceRef) -> Error {
    let text = format!("{reference}: indexes are nested deeper than {INDEX_DEPTH_MAX}, or one names itself");
    Error::new(ErrorKind::Invalid, text)
}
