//! One mount in the kernel's table, and taking exactly that one away.
//!
//! Mount numbers and device numbers are given again as soon as they are free, so a mount that took the
//! place of ours, even at the same mount point, looks the same in the table. Kernels from 6.8 on also have
//! numbers that are never given again; where there are none, what might be another's is left alone.

use std::fs::Metadata;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use serde::{Deserialize, Serialize};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

use super::fusermount;
use super::mountinfo::{MountEntry, mount_at, mounts};

/// `STATX_MNT_ID_UNIQUE` (statx(2)), which rustix has no name for.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Attachment {
    entry: MountEntry,
    /// The number that is never given again, on kernels that have it.
    unique_id: Option<u64>,
    /// Whether it is known to be gone, so that nothing has to be looked for any more.
    gone: AtomicBool,
}

/// What the next process has to know of a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct AttachmentRecord {
    entry: MountEntry,
    unique_id: Option<u64>,
}

impl AttachmentRecord {
    pub(super) fn target(&self) -> &Path {
        &self.entry.target
    }
}

impl Attachment {
    pub(super) fn record(&self) -> AttachmentRecord {
        AttachmentRecord { entry: self.entry.clone(), unique_id: self.unique_id }
    }

    /// The mount that a process which is gone has noted, whether or not it is there still.
    pub(super) fn of_record(record: AttachmentRecord) -> Self {
        let AttachmentRecord { entry, unique_id } = record;
        Self { entry, unique_id, gone: AtomicBool::new(false) }
    }

    /// The mount that `entry` describes, right after it was made.
    pub(super) fn new(entry: MountEntry) -> Self {
        let unique_id = hold(&entry.target).ok().and_then(|place| unique_id(&place));
        Self { entry, unique_id, gone: AtomicBool::new(false) }
    }

    /// Major and minor number of the mount's device.
    pub(super) fn device(&self) -> (u32, u32) {
        self.entry.device
    }

    pub(super) fn target(&self) -> &Path {
        &self.entry.target
    }

    /// Takes this mount out of the tree of files, wherever it was moved to; open files live on. One that is
    /// gone already is no error.
    pub(super) fn detach(&self) -> Result<()> {
        if self.gone.load(Ordering::SeqCst) {
            return Ok(());
        }
        let same = |entry: &MountEntry| {
            entry.id == self.entry.id
                && entry.device == self.entry.device
                && entry.source == self.entry.source
                && entry.mount_type == self.entry.mount_type
        };
        if let Some(current) = mounts()?.into_iter().find(same) {
            // Held, so that what is looked at is what is unmounted.
            let place = hold(&current.target)
                .context(|| format!("cannot reach the mount at {}", current.target.display()))?;
            if !mount_at(&current.target)?.is_some_and(|top| same(&top)) {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "something else is mounted over {}; unmount that first",
                        current.target.display()
                    ),
                ));
            }
            if unique_id(&place) == self.unique_id {
                detach_held(&place, &current.target)?;
            }
        }
        self.gone.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the mount away after nobody serves it any more, if it is still there.
    pub(super) fn detach_if_left(&self) -> Result<()> {
        if self.unique_id.is_none() && !is_dead(&std::fs::metadata(self.target())) {
            self.gone.store(true, Ordering::SeqCst);
            return Ok(());
        }
        self.detach()
    }
}

/// Unmounts what is at `target`, lazily.
pub(super) fn detach(target: &Path) -> Result<()> {
    let place = hold(target).context(|| format!("cannot reach the mount at {}", target.display()))?;
    detach_held(&place, target)
}

/// Whether looking at a mount point failed because nobody serves it any more.
pub(super) fn is_dead(metadata: &std::io::Result<Metadata>) -> bool {
    let errno = |error: &std::io::Error| error.raw_os_error().map(Errno::from_raw_os_error);
    metadata.as_ref().err().and_then(errno) == Some(Errno::NOTCONN)
}

fn detach_held(place: &OwnedFd, target: &Path) -> Result<()> {
    let unmounted = match rustix::process::geteuid().is_root() {
        true => {
            let held = format!("/proc/self/fd/{}", place.as_raw_fd());
            rustix::mount::unmount(&held, UnmountFlags::DETACH)
        }
        false => Err(Errno::PERM),
    };
    match unmounted {
        // Gone meanwhile.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::PERM) => fusermount::unmount(target),
        Err(errno) => {
            Err(std::io::Error::from(errno)).context(|| format!("cannot unmount {}", target.display()))
        }
    }
}

/// A descriptor of the place, which asks nothing of the filesystem that is mounted there.
fn hold(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn unique_id(place: impl AsFd) -> Option<u64> {
    // Without attributes, so that a dead or a busy filesystem answers too.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let answer = rustix::fs::statx(place, "", flags, MNT_ID_UNIQUE).ok()?;
    (answer.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(answer.stx_mnt_id)
}
