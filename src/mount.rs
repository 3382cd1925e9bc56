//! The composition root of one mount: from a request to a tree that can be read, and back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Digest, Result};
use crate::cache::Cache;
use crate::content::Standing;
use crate::oci::Platform;
use crate::registry::SourceOptions;

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

/// What is to be mounted where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountRequest {
    /// The reference as typed.
    pub reference: String,
    /// The mount point, absolute.
    pub target: PathBuf,
    /// The part of the tree that is shown.
    pub subpath: Option<String>,
    /// The platform wanted of an index; none: the host's.
    pub platform: Option<Platform>,
    /// When bytes are checked.
    pub verify: VerifyPolicy,
    /// What is fetched ahead.
    pub prefetch: PrefetchPolicy,
    /// Whether users other than the mounting one may look.
    pub allow_other: bool,
    /// How long a read may wait for bytes that do not come.
    pub read_timeout: Duration,
    /// How the source is reached.
    pub source: SourceOptions,
}

/// What `mount` reports.
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
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// What `status` reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// What is mounted where.
    #[serde(flatten)]
    pub summary: MountSummary,
    /// Bytes fetched since the mount.
    pub network_bytes: u64,
    /// Bytes of the view's files in the cache.
    pub cached_bytes: u64,
    /// Chunks that failed their check since the mount.
    pub rejected_chunks: u64,
    /// Why reads go on without the cache, if they do.
    pub degraded: Option<String>,
    /// The files of the view.
    pub files: Vec<FileStatus>,
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

/// A mount that is being served.
#[derive(Debug)]
pub struct Mounted {}

impl Mounted {
    /// Resolves, mounts and serves. Returns once the tree can be read; no blob byte has been fetched then.
    ///
    /// # Errors
    /// Those of [`crate::artifact::load`]; `NotFound` for a missing subPath or mount point; `Busy` for a mount
    /// point that is one already; `Io` when the kernel refuses.
    pub async fn start(request: &MountRequest, cache: Arc<Cache>) -> Result<Arc<Self>> {
        let _ = (request, cache);
        unimplemented!()
    }

    /// What was mounted where.
    pub fn summary(&self) -> &MountSummary {
        unimplemented!()
    }

    /// What is known right now.
    pub fn status(&self) -> MountStatus {
        unimplemented!()
    }

    /// Returns once the mount is gone, whoever unmounted it.
    pub async fn ended(&self) {
        unimplemented!()
    }

    /// Unmounts, lazily where files are open, and ends serving; bounded in time.
    ///
    /// # Errors
    /// `Io` when the kernel refuses.
    pub async fn unmount(&self) -> Result<()> {
        unimplemented!()
    }
}
