//! What `inspect`, `tree` and `cat` look at: an artifact in its source, without mount or cache.

use std::sync::Arc;

use crate::artifact::{self, Artifact, ArtifactLayer};
use crate::base::{Error, ErrorKind, RelPath, Result, ResultExt as _};
use crate::layer::{Entry, EntryKind};
use crate::mount::tree_layers;
use crate::oci::WantedPlatform;
use crate::registry::{BlobSource, SourceOptions};
use crate::tree::Tree;

use super::args::SourceArgs;
use super::settings;

/// An artifact and the way to its blobs.
#[derive(Debug)]
pub(super) struct Opened {
    /// What the manifest says.
    pub(super) artifact: Artifact,
    /// Where its blobs are.
    pub(super) source: Arc<dyn BlobSource>,
    /// How it is reached.
    pub(super) options: SourceOptions,
}

/// Resolves what was typed.
///
/// # Errors
/// Those of [`artifact::load`].
pub(super) async fn open(reference: &str, arguments: &SourceArgs) -> Result<Opened> {
    let reference = settings::reference(reference)?;
    let options = settings::source(arguments)?;
    let platform = arguments.platform.clone().unwrap_or_else(WantedPlatform::host);
    let (artifact, source) = artifact::load(&reference, &platform, &options).await?;
    Ok(Opened { artifact, source, options })
}

/// Bytes of what an entry holds, as `ls` counts them.
#[must_use]
pub(super) fn entry_bytes(entry: &Entry) -> u64 {
    match &entry.kind {
        EntryKind::File { size, .. } => *size,
        EntryKind::Symlink { target } => target.len() as u64,
        EntryKind::Directory
        | EntryKind::HardLink { .. }
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
        | EntryKind::Fifo => 0,
    }
}

/// All entries, with the layers that they are of, by path.
///
/// # Errors
/// As [`Tree::build`]: what can't be mounted has no files.
pub(super) fn entries(artifact: &Artifact) -> Result<Vec<(&ArtifactLayer, &Entry)>> {
    tree_layers(artifact)
        .and_then(|layers| Tree::build(&layers))
        .context(|| artifact.reference.to_string())?;
    let mut entries: Vec<_> = artifact
        .layers
        .iter()
        .flat_map(|layer| layer.entries.entries.iter().map(move |entry| (layer, entry)))
        .collect();
    entries.sort_by(|(_, a), (_, b)| a.path.components().cmp(b.path.components()));
    Ok(entries)
}

/// The entries at or below `path`.
///
/// # Errors
/// `NotFound`, naming the nearest parent that exists; `Usage` for a path that leads nowhere.
pub(super) fn below<'a>(artifact: &'a Artifact, path: &str) -> Result<Vec<(&'a ArtifactLayer, &'a Entry)>> {
    let wanted = parse(path)?;
    let wanted: Vec<_> = wanted.components().collect();
    let all = entries(artifact)?;
    let found: Vec<_> = all
        .iter()
        .filter(|(_, entry)| entry.path.components().take(wanted.len()).eq(wanted.iter().copied()))
        .copied()
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let common =
        |entry: &Entry| entry.path.components().zip(&wanted).take_while(|(one, other)| one == *other).count();
    let depth = all.iter().map(|(_, entry)| common(entry)).max().unwrap_or_default();
    let parent: std::path::PathBuf = wanted[..depth].iter().collect();
    let parent = if depth == 0 { "its root".into() } else { format!("{:?}", parent.display().to_string()) };
    Err(Error::new(
        ErrorKind::NotFound,
        format!(
            "{path:?} does not exist in {}; the nearest parent that exists is {parent}",
            artifact.reference
        ),
    ))
}

/// A path of the artifact as typed.
fn parse(path: &str) -> Result<RelPath> {
    path.parse().map_err(|error: Error| Error::new(ErrorKind::Usage, error.to_string()))
}

/// The file at `path`: its layer, which holds nothing else, and its size in bytes.
///
/// # Errors
/// As [`below`]; `Unsupported` for what is no file.
pub(super) fn file<'a>(artifact: &'a Artifact, path: &str) -> Result<(&'a ArtifactLayer, u64)> {
    let wanted = parse(path)?;
    let found = below(artifact, path)?;
    match found.iter().find(|(_, entry)| entry.path == wanted) {
        Some((layer, Entry { kind: EntryKind::File { size, .. }, .. })) => Ok((layer, *size)),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{path:?} in {} is no file; what it holds: refmount tree", artifact.reference),
        )),
    }
}
