//! The composition root of one mount: from a request to a tree that can be read, and back.

mod assembly;
mod chosen;
mod growing;
pub mod held;
mod left;
mod numbers;
mod own_indexes;
mod pinning;
mod pulled;
mod record;
mod remembered;
mod resolution;
mod start;
mod task;
mod warming;

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::limits::LAYERS_MAX;
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::cache::Cache;
use crate::content::{Content, Standing};
use crate::fetch::{ByCause, Cause};
use crate::fs::Filesystem;
use crate::fuse::FuseMount;
use crate::indexing::Stage;
use crate::layer::FileBody;
use crate::oci::WantedPlatform;
use crate::registry::{BlobSource, HostStatus, SourceOptions};
use crate::tree::{FileRecord, Ino};

use assembly::Part;
use left::Kept;
use task::Task;

pub use assembly::Assembly;
pub use chosen::ArtifactRequest;
pub use held::{CacheContent, HeldArtifact};
pub use left::{LEFT_FORMAT, LeftBehind, NUMBERING, NotUnderstood, unmount_left};
pub use own_indexes::OwnIndexes;
pub use pinning::pin;
pub use record::MountRecord;
pub use start::KeptAs;
pub use warming::{Failed, WarmState, WarmStatus, Warming, given_up};

/// When bytes are checked against the blob's digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyPolicy {
    /// As soon as the blob is complete; until then its bytes may be read.
    #[default]
    OnComplete,
    /// Before the first byte of a file is served.
    BeforeRead,
}

/// What is fetched without being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrefetchPolicy {
    /// Nothing but what read-ahead along a reader's way brings.
    Off,
    /// The rest of a file once it is plainly being read through.
    #[default]
    Auto,
    /// Everything, after the mount.
    All,
}

/// When a registry is asked what a reference stands for. Bytes that are not cached are fetched in each case, when they
/// are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// At each mount.
    #[default]
    Always,
    /// When the cache does not know it, or not for these credentials.
    Missing,
    /// Not at all.
    Never,
}

/// What is to be mounted where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountRequest {
    /// The reference as typed.
    pub reference: String,
    /// The mount point, absolute.
    pub target: PathBuf,
    /// The part of the tree that is shown.
    pub subpath: Option<String>,
    /// What is wanted of an index; none: the host's platform.
    pub platform: Option<WantedPlatform>,
    /// When the registry is asked what the reference stands for.
    #[serde(default)]
    pub pull: PullPolicy,
    /// When bytes are checked.
    #[serde(default)]
    pub verify: VerifyPolicy,
    /// What is fetched ahead.
    #[serde(default)]
    pub prefetch: PrefetchPolicy,
    /// Whether users other than the mounting one may look.
    #[serde(default)]
    pub allow_other: bool,
    /// How long a read may wait for bytes that do not come.
    #[serde(default = "usual_read_timeout")]
    pub read_timeout: Duration,
    /// How the source is reached.
    #[serde(default)]
    pub source: SourceOptions,
}

/// What [`MountRequest::read_timeout`] is unless it is said: some seconds below the two minutes after which the kernel
/// reports a reader as hung.
pub(crate) fn usual_read_timeout() -> Duration {
    chosen::READ_TIMEOUT
}

/// What `mount` and `list` report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountSummary {
    /// The reference, normalised.
    pub reference: String,
    /// The digest that it was pinned to.
    pub digest: Digest,
    /// The mount point.
    pub mountpoint: PathBuf,
    /// The part of the tree that is shown.
    pub subpath: Option<String>,
    /// How many files the view holds. Named apart from the list of [`MountStatus`], into which this is flattened.
    #[serde(rename = "file_count")]
    pub files: u64,
    /// Their bytes.
    pub total_bytes: u64,
    /// Layers that are being read for the first time, so that more files may come.
    #[serde(default)]
    pub layers_reading: u64,
    /// Why the files are not all known and never will be, if that is so: a name that was not found in time fails then.
    pub failed: Option<String>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// Files that `status` lists: an artifact of as many files as a manifest has layers is listed whole. An image may have a
/// million, which nobody reads, and which are more than an answer holds.
pub const LISTED_FILES_MAX: usize = LAYERS_MAX;

/// Files that are looked at for the one that is read to find out whether a mount is served.
const SAMPLED_FILES_MAX: usize = 256;

/// What `status` reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// What is mounted where.
    #[serde(flatten)]
    pub summary: MountSummary,
    /// Bytes fetched since the mount.
    pub network_bytes: u64,
    /// What they were fetched for.
    #[serde(default)]
    pub fetched_bytes: FetchedBytes,
    /// Bytes that were fetched ahead, or before anybody asked, and went without having been read.
    #[serde(default)]
    pub wasted_bytes: u64,
    /// Reads that the cache could not answer at once.
    #[serde(default)]
    pub reads_waited: u64,
    /// How long those took, in all.
    #[serde(default)]
    pub waited_seconds: f64,
    /// Bytes of the view's files in the cache.
    pub cached_bytes: u64,
    /// Chunks that failed their check since the mount.
    pub rejected_chunks: u64,
    /// The hosts that this mount asks, and what each has served to it; none where it reads a layout.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
    /// Why reads go on without the cache, if they do.
    pub degraded: Option<String>,
    /// Files that are not in the list, since there are too many: those of which least is cached.
    #[serde(default)]
    pub files_left_out: u64,
    /// The files of the view; none while not all are known.
    pub files: Vec<FileStatus>,
}

/// Bytes that were fetched for a mount, by their cause. What another mount of the same layers has had fetched meanwhile is
/// among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedBytes {
    /// For readers that waited.
    pub demand: u64,
    /// Ahead of readers.
    pub read_ahead: u64,
    /// Before anybody asked.
    pub prefetch: u64,
    /// To find out what archives hold.
    pub first_reading: u64,
}

impl From<ByCause> for FetchedBytes {
    fn from(fetched: ByCause) -> Self {
        Self {
            demand: fetched.of(Cause::Demand),
            read_ahead: fetched.of(Cause::ReadAhead),
            prefetch: fetched.of(Cause::Prefetch),
            first_reading: fetched.of(Cause::FirstReading),
        }
    }
}

/// One file of [`MountStatus`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileStatus {
    /// The path below the mount point.
    pub path: String,
    /// The file's bytes.
    pub size: u64,
    /// Those of them in the cache.
    pub cached_bytes: u64,
    /// What is known about them.
    pub standing: Standing,
    /// Whether the kernel reads the cache file itself right now.
    pub passthrough: bool,
}

/// A mount that is being served. Dropping it unmounts lazily.
#[derive(Debug)]
pub struct Mounted {
    /// As it was at the start, without what the layers tell later.
    summary: MountSummary,
    /// What it was made of.
    record: MountRecord,
    mount: FuseMount,
    filesystem: Arc<Filesystem>,
    content: Arc<Content>,
    cache: Arc<Cache>,
    source: Arc<dyn BlobSource>,
    parts: Vec<Part>,
    /// What goes on in the background as long as the mount is there.
    #[expect(dead_code, reason = "it ends when it is dropped")]
    task: Option<Task>,
    /// What another process keeps of it; let go when it is dropped.
    #[expect(dead_code, reason = "it does its work when it is dropped")]
    kept: Option<Kept>,
}

impl Mounted {
    /// What was mounted where, and how far it is known by now.
    #[must_use]
    pub fn summary(&self) -> MountSummary {
        let view = self.filesystem.view();
        let of_parts = self.parts.iter().flat_map(Part::warnings);
        MountSummary {
            files: view.file_count(),
            total_bytes: view.total_bytes(),
            layers_reading: self
                .stages()
                .filter(|stage| matches!(stage, Stage::Opening | Stage::Reading))
                .count() as u64,
            failed: self.failure().map(|error| error.chain()),
            warnings: self.summary.warnings.iter().cloned().chain(of_parts).collect(),
            ..self.summary.clone()
        }
    }

    /// What the same mount can be made of again.
    #[must_use]
    pub fn record(&self) -> &MountRecord {
        &self.record
    }

    /// What a layer cannot be read with; otherwise, why the layers make no tree.
    fn failure(&self) -> Option<Error> {
        let of_layer = self.stages().find_map(|stage| match stage {
            Stage::Failed(error) => Some(error),
            _ => None,
        });
        of_layer.or_else(|| self.filesystem.view().failure())
    }

    /// What is known right now. May wait for the disk.
    #[must_use]
    pub fn status(&self) -> MountStatus {
        let view = self.filesystem.view();
        let mut files: Vec<(usize, FileRecord<'_>, u64)> = view
            .files()
            .enumerate()
            .map(|(place, file)| {
                let cached = self.content.cached_bytes(file.body);
                (place, file, cached)
            })
            .collect();
        let cached_bytes = files.iter().fold(0_u64, |sum, (.., cached)| sum.saturating_add(*cached));
        let files_left_out = files.len().saturating_sub(LISTED_FILES_MAX) as u64;
        if files_left_out > 0 {
            files.select_nth_unstable_by_key(LISTED_FILES_MAX, |(.., cached)| Reverse(*cached));
            files.truncate(LISTED_FILES_MAX);
            files.sort_unstable_by_key(|(place, ..)| *place);
        }
        let files = files.into_iter().map(|(_, file, cached_bytes)| FileStatus {
            path: self.shown_path(file.ino),
            size: file.body.size,
            cached_bytes,
            standing: self.content.standing(file.body),
            passthrough: self.mount.is_passthrough(file.ino),
        });
        let (counters, waits) = (self.content.counters(), self.content.waits().observed());
        MountStatus {
            summary: self.summary(),
            network_bytes: counters.network_bytes(),
            fetched_bytes: counters.fetched.into(),
            wasted_bytes: counters.wasted_bytes,
            reads_waited: waits.count(),
            waited_seconds: waits.sum.as_secs_f64(),
            cached_bytes,
            rejected_chunks: counters.rejected_chunks,
            hosts: self.source.hosts(),
            degraded: self.cache.degraded(),
            files_left_out,
            files: files.collect(),
        }
    }

    /// How many files are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.mount.open_file_count()
    }

    /// A file that is cheap to read, to find out whether the mount is served: of the first ones, one that is cached if there
    /// is any, and then the smallest. Where no file with content is known, the mount point.
    #[must_use]
    pub fn sample(&self) -> PathBuf {
        let mountpoint = self.summary.mountpoint.clone();
        let view = self.filesystem.view();
        if view.is_file() {
            return mountpoint;
        }
        let files = view.files().take(SAMPLED_FILES_MAX).filter(|file| file.body.size > 0);
        let cheapest =
            files.min_by_key(|file| (self.content.cached_bytes(file.body) < file.body.size, file.body.size));
        match cheapest {
            Some(file) => mountpoint.join(OsStr::from_bytes(&view.path_of(file.ino))),
            None => mountpoint,
        }
    }

    fn stages(&self) -> impl Iterator<Item = Stage> {
        self.parts.iter().filter_map(|part| part.archive.as_ref()).map(|layer| layer.stage().borrow().clone())
    }

    /// The path of a file below the mount point; of the one file that a view of a single file is, its name.
    fn shown_path(&self, ino: Ino) -> String {
        let view = self.filesystem.view();
        let subpath = self.summary.subpath.as_deref().filter(|_| view.is_file());
        match subpath.and_then(|subpath| Path::new(subpath).file_name()) {
            Some(name) => name.to_string_lossy().into_owned(),
            None => String::from_utf8_lossy(&view.path_of(ino)).into_owned(),
        }
    }

    /// Returns once the mount is gone, whoever unmounted it, and logs that. To be waited for once.
    pub async fn ended(&self) {
        self.mount.ended().await;
        tracing::info!(
            reference = self.summary.reference,
            mountpoint = %self.summary.mountpoint.display(),
            network_bytes = self.content.network_bytes(),
            "unmounted"
        );
    }

    /// Unmounts, lazily where files are open, and ends serving; bounded in time.
    ///
    /// # Errors
    /// `Io` when the kernel refuses.
    pub async fn unmount(&self) -> Result<()> {
        self.mount.unmount().await
    }
}

/// The error for work that panicked, or that was given up with its runtime.
fn broke_off(what: &str, error: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Io, format!("{what} broke off: {error}"))
}

impl Drop for Mounted {
    fn drop(&mut self) {
        held::let_go(&self.cache, &self.summary.reference, &self.summary.digest);
    }
}

/// Fetches the files of the view, in the order of their paths, behind whatever readers want. What the cache has
/// no room for beside the others is left out: fetched too, it would only drive those out again.
fn spawn_prefetch(
    filesystem: &Arc<Filesystem>,
    content: &Arc<Content>,
    cache: &Arc<Cache>,
    growing: Option<Task>,
) -> Task {
    let (filesystem, content, cache) = (Arc::clone(filesystem), Arc::clone(content), Arc::clone(cache));
    Task::spawn(async move {
        if let Some(growing) = growing {
            growing.ended().await;
        }
        for file in files_that_fit(&filesystem, &cache) {
            // One that fails is no reason to go without the others.
            if let Err(error) = content.fill(&file).await {
                tracing::warn!(digest = %content.digest(file.layer), error = error.chain(), "not prefetched");
            }
        }
    })
}

/// The files of the view that the cache has room for at once, in the order of their paths.
fn files_that_fit(filesystem: &Filesystem, cache: &Cache) -> Vec<FileBody> {
    let mut room = cache.bytes_max();
    let (mut files, mut left_out) = (Vec::new(), 0_u64);
    for file in filesystem.view().files() {
        match room.checked_sub(file.body.size) {
            Some(rest) => {
                room = rest;
                files.push(file.body.clone());
            }
            None => left_out += 1,
        }
    }
    if left_out > 0 {
        tracing::warn!("{left_out} files are not prefetched; they do not fit into the cache with the others");
    }
    files
}
