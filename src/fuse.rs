//! One mount in the kernel: the thin adapter from FUSE requests to [`Filesystem`], and the system calls that
//! mount and unmount it.
//!
//! A [`FuseMount`] owns a mount point and the threads that serve it. The threads answer what is in memory
//! or in the cache in place; a read that needs the network becomes a task that owns its reply, so no
//! number of stuck reads stops the rest. The mount has the type `fuse.refmount`, is read-only, and the
//! kernel checks permissions.

mod adapter;
mod attachment;
mod buffers;
mod convert;
mod device;
mod fusermount;
mod greeting;
mod invalidate;
mod mount;
mod mountinfo;
pub mod probe;
mod requests;
mod session;
mod threads;
mod tuning;

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::fs::{Filesystem, Handed, Left, OpenFiles, OpenTable};
use crate::layer::FileBody;
use crate::tree::{Ino, InodeKind};

use adapter::Adapter;
use attachment::{Attachment, AttachmentRecord};
use device::{Backing, Device};
use greeting::Greeting;
use session::Queues;

pub use device::keep_request_buffers_small;
pub use mount::{check_target, unmount_target};
pub use mountinfo::{MOUNT_TYPE, MountEntry, mount_at, mounts};
pub use requests::{Operation, request_durations};
pub use tuning::{answer_limit, request_timeout};

/// How long [`FuseMount::unmount`] waits for readers to let go before it leaves the mount to them.
const UNMOUNT_WAIT: Duration = Duration::from_secs(4);

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
    open_files: Arc<OpenFiles<Backing>>,
}

/// What the next process has to know of a mount to serve it on, beside its descriptors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FuseRecord {
    attachment: AttachmentRecord,
    greeting: Greeting,
}

impl FuseRecord {
    /// The mount point, canonical.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.attachment.target()
    }

    /// Takes the mount, which nobody serves any more, out of the tree of files. One that is gone already is no error.
    ///
    /// # Errors
    /// `Busy` when something else is mounted over it; `Io` when the kernel refuses.
    pub fn detach(self) -> Result<()> {
        Attachment::of_record(self.attachment).detach()
    }
}

/// What a process that is gone has left of a mount.
#[derive(Debug)]
pub struct LeftMount {
    /// What it noted.
    pub record: FuseRecord,
    /// The table of open files.
    pub open_table: File,
    /// The queues.
    pub queues: Vec<OwnedFd>,
}

/// How a mount is kept for the next process.
pub struct Keeping<'a> {
    /// Where open files are noted: an empty file.
    pub open_table: File,
    /// Has what is noted and the queues kept; told before anybody reads from them.
    pub keep: &'a dyn Fn(&FuseRecord, &[BorrowedFd<'_>]) -> Result<()>,
}

impl fmt::Debug for Keeping<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").finish_non_exhaustive()
    }
}

impl fmt::Debug for FuseMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FuseMount").field("attachment", &self.attachment).finish_non_exhaustive()
    }
}

impl FuseMount {
    /// Mounts `filesystem` and serves it on threads of its own; reads that wait run on `runtime`, which must
    /// have timers. The tree can be read when this returns. Waits for the kernel (and `fusermount3`), not for the
    /// network.
    ///
    /// # Errors
    /// `NotFound` for a missing mount point; `Usage` for one of the wrong kind; `Busy` for one that is in use;
    /// `Unsupported` without `/dev/fuse` or `fusermount3`; `Io` when the kernel refuses; those of `keeping`.
    pub fn start(
        filesystem: Arc<Filesystem>,
        spec: &MountSpec,
        runtime: &Handle,
        keeping: Option<Keeping<'_>>,
    ) -> Result<Self> {
        let target = mount::check_target(&spec.target, filesystem.view().is_file())?;
        let open_files = match &keeping {
            None => OpenFiles::default(),
            Some(keeping) => {
                let file = keeping.open_table.try_clone().map(OpenTable::new);
                OpenFiles::noted(file.context(|| "cannot note what is open")?)
            }
        };
        let (descriptor, attachment) = mount::mount(&target, spec, filesystem.view().is_file())?;
        let attachment = Arc::new(attachment);
        let serve = || {
            let device = Device::new(descriptor.try_clone().context(|| "cannot hold on to the device")?);
            let open_files = Arc::new(open_files);
            let adapter = Adapter::new(filesystem, Arc::clone(&open_files), device.clone(), runtime.clone());
            let queues = Queues::greet(&adapter, &device, descriptor)?;
            let record = FuseRecord { attachment: attachment.record(), greeting: queues.greeting() };
            if let Some(keeping) = keeping {
                (keeping.keep)(&record, &queues.descriptors().collect::<Vec<_>>())?;
            }
            let ended = queues.serve(&adapter, Arc::clone(&attachment), Duration::ZERO)?;
            tuning::raise_read_ahead(attachment.device());
            Ok(Self { attachment: Arc::clone(&attachment), ended, open_files })
        };
        serve().map_err(|error: Error| {
            if let Err(left) = attachment.detach() {
                tracing::debug!("a mount that was never served stays: {}", left.chain());
            }
            error.context(format!("cannot serve {}", spec.target.display()))
        })
    }

    /// Serves on what `left` is, with a `filesystem` that shows the same under the same numbers.
    ///
    /// # Errors
    /// `Io` when the kernel refuses, or for a table that cannot be read.
    pub fn take_over(filesystem: Arc<Filesystem>, left: LeftMount, runtime: &Handle) -> Result<Self> {
        let LeftMount { record, open_table, queues } = left;
        let attachment = Arc::new(Attachment::of_record(record.attachment));
        let cannot = || format!("cannot serve {} on", attachment.target().display());
        let first = queues.first().ok_or_else(|| Error::new(ErrorKind::Io, "nothing is left of it"));
        let first = first.context(cannot)?;
        let device = Device::new(first.try_clone().context(cannot)?);
        let (noted, open) = OpenTable::load(open_table).context(cannot)?;
        let open_files = Arc::new(inherit_open_files(&filesystem, &device, noted, open));
        let adapter = Adapter::new(filesystem, Arc::clone(&open_files), device.clone(), runtime.clone());
        let queues = Queues::take_over(&adapter, &device, &queues, record.greeting).context(cannot)?;
        let ended = queues.serve(&adapter, Arc::clone(&attachment), threads::PATIENCE).context(cannot)?;
        Ok(Self { attachment, ended, open_files })
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
                "out of the tree of files; what is still open stays readable until it is closed",
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

/// The open files of a process that is gone. What the kernel reads by itself stays in the cache for as long.
fn inherit_open_files(
    filesystem: &Filesystem,
    device: &Device,
    noted: OpenTable,
    open: Left,
) -> OpenFiles<Backing> {
    let registered: HashSet<u32> = open.open.iter().filter_map(|record| record.backing).collect();
    device.end_others(open.backing_max, &registered);
    let file_of = |ino: Ino| match filesystem.view().inode(ino).map(|inode| inode.kind.clone()) {
        Some(InodeKind::File(body)) => Some(body),
        _ => None,
    };
    OpenFiles::noted_in(noted, open, |ino, number| {
        let kept = file_of(ino).map(|body: FileBody| filesystem.content().keep(&body));
        Handed { backing: device.inherited(number), kept: kept.unwrap_or_default() }
    })
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        if let Err(error) = self.attachment.detach() {
            tracing::warn!("a mount stays behind: {}", error.chain());
        }
    }
}
