//! An artifact, or parts of it, that is to be brought into the cache or kept there, without a mount.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::base::{Digest, Error, ErrorKind, Result, ResultExt as _};
use crate::cache::Cache;
use crate::content::{Content, ContentSettings};
use crate::indexing::Layers;
use crate::layer::{Extents, FileBody};
use crate::oci::{SourceRef, WantedPlatform};
use crate::registry::{BlobSource, SourceOptions};
use crate::tree::{Tree, View};

use super::assembly::Assembly;
use super::remembered::Memory;
use super::{PullPolicy, held, pulled};

/// How long nothing may come before whoever brings an artifact gives up; as long as the reads of a mount may wait.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(100);

/// Which artifact, and which parts of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ArtifactRequest {
    /// The reference as typed.
    pub reference: String,
    /// The directories and files that are meant; none: all.
    #[serde(default)]
    pub subpaths: Vec<String>,
    /// What is wanted of an index; none: the host's platform.
    #[serde(default)]
    pub platform: Option<WantedPlatform>,
    /// When the registry is asked what the reference stands for.
    #[serde(default)]
    pub pull: PullPolicy,
    /// How the source is reached.
    #[serde(default)]
    pub source: SourceOptions,
}

impl ArtifactRequest {
    /// Whether `other` means the same, reached in the same way: with other credentials, it may be refused. The order of the
    /// parts does not count.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let parts = |request: &Self| request.subpaths.iter().cloned().collect::<BTreeSet<_>>();
        self.reference == other.reference
            && parts(self) == parts(other)
            && self.platform == other.platform
            && self.pull == other.pull
            && self.source == other.source
    }
}

/// An artifact that was resolved. Nothing of its layers was looked at.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) artifact: Artifact,
    source: Arc<dyn BlobSource>,
    memory: Memory,
}

impl Resolved {
    /// Resolves what `request` names.
    ///
    /// # Errors
    /// Those of [`pulled::load`].
    pub(super) async fn of(request: &ArtifactRequest, cache: &Arc<Cache>) -> Result<Self> {
        let reference: SourceRef = request.reference.parse()?;
        let platform = request.platform.clone().unwrap_or_else(WantedPlatform::host);
        let memory = Memory::default();
        let loaded = pulled::load(&reference, &platform, &request.source, request.pull, cache, &memory);
        let (artifact, source) = loaded.await?;
        Ok(Self { artifact, source, memory })
    }

    /// The manifests that lead to it.
    pub(super) fn manifests(&self) -> Vec<Digest> {
        self.memory.answers().digests().cloned().collect()
    }
}

/// Files of an artifact, and the way to their bytes.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) content: Content,
    pub(super) files: Vec<FileBody>,
    /// Whether these are all files.
    pub(super) is_whole: bool,
}

impl Chosen {
    /// Opens `resolved`, and chooses the files that `request` names. Waits for first readings of archives.
    ///
    /// # Errors
    /// As [`Assembly::open`]; `NotFound` for a part that is not there.
    pub(super) async fn open(
        resolved: &Resolved,
        request: &ArtifactRequest,
        layers: &Arc<Layers>,
    ) -> Result<Self> {
        let Resolved { artifact, source, .. } = resolved;
        let named = artifact.reference.to_string();
        let settings =
            ContentSettings { verify_before_read: false, whole_files: true, read_timeout: READ_TIMEOUT };
        let of_reference = || named.clone();
        let assembly = Assembly::open(artifact, source, layers, settings).await.context(of_reference)?;
        assembly.settled(READ_TIMEOUT).await.context(of_reference)?;
        let tree = assembly.tree().context(of_reference)?;
        let tree = tree.ok_or_else(|| Error::new(ErrorKind::Io, "a layer is not known yet"))?;
        let files = files(&Arc::new(tree), &request.subpaths, &named)?;
        let content = assembly.into_content(settings);
        held::note(layers.fetcher().cache(), artifact, &content).await;
        Ok(Self { content, files, is_whole: request.subpaths.is_empty() })
    }
}

/// The files below `subpaths`, each once, however many names it has.
fn files(tree: &Arc<Tree>, subpaths: &[String], reference: &str) -> Result<Vec<FileBody>> {
    let mut views = Vec::new();
    for subpath in subpaths {
        views.push(View::new(Arc::clone(tree), Some(subpath), reference)?);
    }
    if subpaths.is_empty() {
        views.push(View::new(Arc::clone(tree), None, reference)?);
    }
    let mut seen = HashSet::new();
    let all = views.iter().flat_map(View::files).map(|file| file.body);
    Ok(all.filter(|body| seen.insert((body.layer, start(body), body.size))).cloned().collect())
}

/// Where the stream of its layer begins to hold the file.
fn start(body: &FileBody) -> Option<u64> {
    match &body.extents {
        Extents::Contiguous { stream_offset } => Some(*stream_offset),
        Extents::Sparse(extents) => extents.first().map(|extent| extent.stream_offset),
    }
}
