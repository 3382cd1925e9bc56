//! One mount in the kernel: the thin adapter from FUSE requests to [`Filesystem`], and the system calls that
//! mount and unmount it.
//!
//! A [`FuseMount`] owns a mount point and the threads that serve it. The threads answer what is in memory
//! or in the cache in place; a read that needs the network becomes a task that owns its reply, so no
//! number of stuck reads stops the rest. The mount has the type `fuse.refmount`, is read-only, and the
//! kernel checks permissions.

mod adapter;
mod attachment;
mod convert;
mod fusermount;
mod invalidate;
mod mount;
mod mountinfo;
pub mod probe;
mod session;
mod tuning;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::fs::{Filesystem, OpenFiles};
use crate::tree::Ino;

use attachment::Attachment;

pub use mount::{check_target, unmount_target};
pub use mountinfo::{MOUNT_TYPE, MountEntry, mount_at, mounts};
pub use tuning::{answer_limit, request_timeout};

/// How long [`FuseMount::unmount`] waits for readers to let go before it leaves the mount to them.
const UNMOUNT_WAIT: Duration = Duration::from_secs(5);

/// Where and how a filesystem is mounted.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// The mount point: a directory, or a regular file for a view of one file.
    pub target: PathBuf,
    /// What the table of mounts shows as the source: the reference.
    pub source_name: String,
    /// Whether users other than the mounting one may look.
    pub allow_other: bool,
}

/// A mount that is being served. Dropping it unmounts lazily: files that are open stay readable until they
/// are closed.
pub struct FuseMount {
    attachment: Arc<Attachment>,
    ended: watch::Receiver<bool>,
    open_files: Arc<OpenFiles<fuser::BackingId>>,
}

impl fmt::Debug for FuseMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FuseMount").field("attachment", &self.attachment).finish_non_exhaustive()
    }
}

impl FuseMount {
    /// Mounts `filesystem` and serves it on threads of its own; reads that wait run on `runtime`, which must
    /// have timers. The tree can be read when this returns. Waits for the kernel (and `fusermount3`), not for
    /// the network.
    ///
    /// # Errors
    /// `NotFound` for a missing mount point; `Usage` for one of the wrong kind; `Busy` for one that is in use;
    /// `Unsupported` without `/dev/fuse` or `fusermount3`; `Io` when the kernel refuses.
    pub fn start(filesystem: Arc<Filesystem>, spec: &MountSpec, runtime: &Handle) -> Result<Self> {
        let target = mount::check_target(&spec.target, filesystem.view().is_file())?;
        let (device, attachment) = mount::mount(&target, spec, filesystem.view().is_file())?;
        let attachment = Arc::new(attachment);
        let open_files = Arc::new(OpenFiles::default());
        let adapter = adapter::Adapter::new(filesystem, Arc::clone(&open_files), runtime.clone());
        match session::serve(adapter, device, Arc::clone(&attachment)) {
            Ok(ended) => {
                tuning::raise_read_ahead(attachment.device());
                Ok(Self { attachment, ended, open_files })
            }
            Err(error) => {
                let context = format!("cannot serve {}", spec.target.display());
                if let Err(left) = attachment.detach() {
                    tracing::debug!("a mount that was never served stays: {}", left.chain());
                }
                Err(error.context(context))
            }
        }
    }

    /// The mount point, canonical.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.attachment.target()
    }

    /// Whether the kernel reads the cache file of `ino` itself right now.
    #[must_use]
    pub fn is_passthrough(&self, ino: Ino) -> bool {
        self.open_files.is_direct(ino)
    }

    /// How many files are open.
    #[must_use]
    pub fn open_file_count(&self) -> usize {
        self.open_files.count()
    }

    /// Takes the mount out of the tree of files and waits a few seconds for its readers to close what they
    /// have open; those that do not keep reading, as after `umount --lazy`. Nothing to do is no error.
    ///
    /// # Errors
    /// `Busy` when something else is mounted over it; `Io` when the kernel refuses.
    pub async fn unmount(&self) -> Result<()> {
        let attachment = Arc::clone(&self.attachment);
        tokio::task::spawn_blocking(move || attachment.detach())
            .await
            .map_err(|error| Error::new(ErrorKind::Io, error.to_string()))
            .and_then(|detached| detached)
            .context(|| format!("cannot unmount {}", self.target().display()))?;
        if tokio::time::timeout(UNMOUNT_WAIT, self.ended()).await.is_err() {
            tracing::info!(
                mountpoint = %self.target().display(),
                "unmounted; files that are still open stay readable until they are closed",
            );
        }
        Ok(())
    }

    /// Returns once nothing is served any more, whoever unmounted.
    pub async fn ended(&self) {
        // An error means that the sender is gone, which is an end too.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        if let Err(error) = self.attachment.detach() {
            tracing::warn!("a mount stays behind: {}", error.chain());
        }
    }
}
