//! All platforms of an index at once, each in a directory of its own.
//!
//! Pure but for the manifests that it asks the source for. A directory's name follows from the platform
//! alone, so that a subPath into it stays valid when the index gains others.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::base::limits::{INDEX_DEPTH_MAX, LAYERS_MAX};
use crate::base::{Error, ErrorKind, RelPath, Result, ResultExt as _};
use crate::oci::{Descriptor, Document, Index, Manifest, Platform, SourceRef, media_type, platform};
use crate::registry::{BlobSource, RawManifest};

use super::{Artifact, Kind, PlatformManifest, nested_too_deep, parse, rules};

/// Manifests shown at once. The richest indexes of images have about thirty; each costs a request before
/// anything can be read.
const MANIFESTS_MAX: usize = 256;

/// Bytes of all these manifests together, which are held at once: hundreds of ordinary ones.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Manifests on their way at once: twice as many as browsers ask of one host, since each is small.
const REQUESTS_MAX: usize = 12;

/// A place in the list of manifests that an index leads to.
enum Entry {
    /// Not asked for yet.
    Named(Box<Descriptor>),
    Manifest(Box<Found>),
}

impl Entry {
    fn named(&self) -> Option<&Descriptor> {
        match self {
            Self::Named(descriptor) => Some(descriptor),
            Self::Manifest(_) => None,
        }
    }
}

struct Found {
    platform: Option<Platform>,
    raw: RawManifest,
    manifest: Manifest,
}

/// Presents every content entry of `index`, which `raw` holds, and of the indexes that it names.
///
/// # Errors
/// As [`super::load`]; what cannot be served in one platform is an error for all, naming its directory.
pub(super) async fn all(
    source: &dyn BlobSource,
    reference: &SourceRef,
    raw: &RawManifest,
    index: &Index,
) -> Result<Artifact> {
    let mut warnings = Vec::new();
    let found = expand(source, reference, index, &mut warnings).await?;
    if found.is_empty() {
        let text = format!("{} of {reference}: the index lists no manifest with content", raw.digest);
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let mut artifact = Artifact {
        reference: reference.clone(),
        digest: raw.digest.clone(),
        media_type: index.media_type.clone(),
        artifact_type: index.artifact_type.clone(),
        kind: Kind::Image,
        layers: Vec::new(),
        platforms: Vec::new(),
        warnings,
    };
    let mut directories = HashSet::new();
    for found in found {
        add(&mut artifact, &mut directories, found).context(|| format!("cannot serve {reference}"))?;
    }
    Ok(artifact)
}

/// The manifests that `index` leads to, in order: those of a nested index stand in its place.
async fn expand(
    source: &dyn BlobSource,
    reference: &SourceRef,
    index: &Index,
    warnings: &mut Vec<String>,
) -> Result<Vec<Found>> {
    let mut entries = Vec::new();
    push_entries(&mut entries, index, None, warnings);
    let mut bytes = 0_u64;
    for _ in 0..INDEX_DEPTH_MAX {
        let named = entries.iter().filter_map(Entry::named);
        bytes = named.fold(bytes, |bytes, descriptor| bytes.saturating_add(descriptor.size));
        if entries.len() > MANIFESTS_MAX || bytes > MANIFEST_BYTES_MAX {
            return Err(too_many(reference));
        }
        let requests: Vec<_> =
            entries.iter().filter_map(Entry::named).map(|descriptor| source.manifest(descriptor)).collect();
        if requests.is_empty() {
            break;
        }
        let answers: Vec<RawManifest> = stream::iter(requests).buffered(REQUESTS_MAX).try_collect().await?;
        let mut answers = answers.into_iter();
        let mut next = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry {
                Entry::Manifest(found) => next.push(Entry::Manifest(found)),
                Entry::Named(descriptor) => {
                    let Some(raw) = answers.next() else { break };
                    let platform = descriptor.platform;
                    match parse(reference, &raw, Some(&descriptor.media_type))? {
                        Document::Index(index) => push_entries(&mut next, &index, platform, warnings),
                        Document::Manifest(manifest) => {
                            next.push(Entry::Manifest(Box::new(Found { platform, raw, manifest })));
                        }
                    }
                }
            }
            // Also here, or a few indexes could name millions before they are counted.
            if next.len() > MANIFESTS_MAX {
                return Err(too_many(reference));
            }
        }
        entries = next;
    }
    let manifest = |entry| match entry {
        Entry::Manifest(found) => Ok(*found),
        Entry::Named(_) => Err(nested_too_deep(reference)),
    };
    entries.into_iter().map(manifest).collect()
}

fn too_many(reference: &SourceRef) -> Error {
    let text = format!(
        "{reference} names more than {MANIFESTS_MAX} manifests, or more than {MANIFEST_BYTES_MAX} bytes of them, \
         too many to show all; choose one platform"
    );
    Error::new(ErrorKind::Unsupported, text)
}

/// Adds the content entries of `index`; what says no platform has that of the index, `inherited`.
fn push_entries(
    entries: &mut Vec<Entry>,
    index: &Index,
    inherited: Option<Platform>,
    warnings: &mut Vec<String>,
) {
    for entry in platform::content_entries(index) {
        let media_type = entry.media_type.as_str();
        if !media_type::is_manifest(media_type) && !media_type::is_index(media_type) {
            // Image-spec, image-index.md: unknown types must not be an error.
            warnings.push(format!("{} ({media_type}) is no manifest and is not shown", entry.digest));
            continue;
        }
        let mut entry = entry.clone();
        entry.platform = entry.platform.or_else(|| inherited.clone());
        entries.push(Entry::Named(Box::new(entry)));
    }
}

/// Adds what `found` holds to `artifact`, in a directory that is not in `directories` yet.
fn add(artifact: &mut Artifact, directories: &mut HashSet<RelPath>, found: Found) -> Result<()> {
    let Found { platform, raw, manifest } = found;
    let is_there = |other: &PlatformManifest| {
        other.digest == raw.digest && normalised(&other.platform) == normalised(&platform)
    };
    if artifact.platforms.iter().any(is_there) {
        artifact.warnings.push(format!("manifest {} is listed twice and shown once", raw.digest));
        return Ok(());
    }
    let name = platform.clone().unwrap_or_default().directory_name();
    let of_manifest = || format!("manifest {}", raw.digest);
    let directory = free_directory(&name, directories).context(of_manifest)?;
    if directory.to_string() != name {
        artifact.warnings.push(format!(
            "several manifests are for {name}; {} stands in {directory}, choose by digest to be sure",
            raw.digest
        ));
    }
    let shown = || format!("manifest {} ({directory})", raw.digest);
    let one = rules::apply(&artifact.reference, &raw, &manifest).context(shown)?;
    if artifact.layers.len() + one.layers.len() > LAYERS_MAX {
        let text = format!("all platforms together have more than {LAYERS_MAX} layers; choose one");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    for mut layer in one.layers {
        layer.directory = Some(directory.clone());
        artifact.layers.push(layer);
    }
    artifact.warnings.extend(one.warnings.into_iter().map(|warning| format!("{directory}: {warning}")));
    if one.kind == Kind::Artifact {
        artifact.kind = Kind::Artifact;
    }
    directories.insert(directory.clone());
    artifact.platforms.push(PlatformManifest {
        directory,
        platform,
        digest: one.digest,
        media_type: one.media_type,
        artifact_type: one.artifact_type,
        kind: one.kind,
    });
    Ok(())
}

fn normalised(platform: &Option<Platform>) -> Platform {
    platform.clone().unwrap_or_default().normalised()
}

/// `name`, or the same with the lowest number that nothing else has.
fn free_directory(name: &str, taken: &HashSet<RelPath>) -> Result<RelPath> {
    let first: RelPath = name.parse()?;
    if first.components().count() != 1 {
        let text = format!("the platform {name:?} cannot be a directory's name");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let mut directory = first;
    let mut number = 2;
    while taken.contains(&directory) {
        directory = format!("{name}-{number}").parse()?;
        number += 1;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests;
