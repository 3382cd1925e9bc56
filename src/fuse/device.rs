//! What is done to an open `/dev/fuse` beyond reading requests and writing replies: more queues for it, files that the
//! kernel reads by itself, taking it over from a process that has died; and what the buffers for its requests cost.
//!
//! The system calls behind these have no safe names anywhere; they are all here. See docs/decisions/0009.

#![expect(unsafe_code, reason = "ioctls and descriptors that a library owns; docs/decisions/0009")]

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use rustix::io::DupFlags;
use rustix::ioctl::{Setter, ioctl, opcode};

use crate::fs::Registration;

/// `FUSE_DEV_IOC_MAGIC` (linux/fuse.h).
const MAGIC: u8 = 229;

/// `FUSE_DEV_IOC_CLONE`, whose argument goes in, whatever its name says.
const CLONE: rustix::ioctl::Opcode = opcode::read::<u32>(MAGIC, 0);

/// `FUSE_DEV_IOC_BACKING_CLOSE`.
const BACKING_CLOSE: rustix::ioctl::Opcode = opcode::write::<u32>(MAGIC, 2);

/// Where it is.
pub(super) const PATH: &str = "/dev/fuse";

/// Opens it, for a mount or a queue of one to come; CLOEXEC, as everything that std opens.
///
/// # Errors
/// What the kernel says: not every user may.
pub(super) fn open() -> io::Result<File> {
    File::options().read(true).write(true).open(PATH)
}

/// From how many bytes on memory is mapped for itself: just below what fuser reads requests into.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 16 << 20;

/// Has this process pay for the part of a buffer for requests that is used. fuser has one of 16 MiB for each thread of
/// each mount, and the requests of a file system that is only read have some hundred bytes.
///
/// Zeroed memory that is mapped for itself is there once it is touched. But glibc maps nothing for itself any more that
/// is not larger than what was mapped and given back once (mallopt(3), `M_MMAP_THRESHOLD`), as the buffer of each greeting
/// is, and zeroes all of what it takes from elsewhere: 200 mounts had 3.4 GiB on two cores, and 0.14 GiB so.
pub fn keep_request_buffers_small() {
    // What glibc arrives at by itself at the latest after the first greeting, and stays at from now on.
    // SAFETY: two numbers each; mallopt is for any time and any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * MAPPED_BYTES_MIN);
    }
}

/// Another queue of the mount that `device` serves, for another thread.
///
/// # Errors
/// What opening the device says, which not every user may, and what the kernel says.
pub(super) fn clone(device: impl AsFd) -> io::Result<OwnedFd> {
    let other = open()?;
    let number = device.as_fd().as_raw_fd().cast_unsigned();
    // SAFETY: the kernel reads one u32, the number of an open descriptor, and keeps no pointer.
    unsafe { ioctl(&other, Setter::<CLONE, u32>::new(number))? };
    Ok(other.into())
}

/// Makes the descriptor `place` another name of what `by` is, whoever owns it.
///
/// # Errors
/// What the kernel says.
pub(super) fn replace(place: BorrowedFd<'_>, by: impl AsFd) -> io::Result<()> {
    // SAFETY: `place` is open, as it is borrowed, and stays open: `dup3` closes and opens it in one step, and
    // `ManuallyDrop` keeps its owner the only one that closes it.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(place.as_raw_fd()) });
    Ok(rustix::io::dup3(by, &mut place, DupFlags::CLOEXEC)?)
}

/// The device of a mount while that is served. It is taken away at the end: an open device keeps readers of a dead mount
/// waiting.
#[derive(Clone, Debug)]
pub(super) struct Device(Arc<Mutex<Option<Arc<OwnedFd>>>>);

impl Device {
    pub(super) fn new(device: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(Some(Arc::new(device)))))
    }

    /// Closes it, as soon as nobody uses it any more.
    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn get(&self) -> io::Result<Arc<OwnedFd>> {
        let device = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        device.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Registers `file`, for the kernel to read by itself.
    ///
    /// # Errors
    /// What the kernel says: it needs a privilege, and takes no file of a stacked file system.
    pub(super) fn register(&self, file: impl AsFd) -> io::Result<Backing> {
        let id = BackingId::create_raw(self.get()?.as_ref(), file)?;
        Ok(Backing { device: self.clone(), id })
    }

    /// The registration `id`, made by a process that is gone.
    pub(super) fn inherited(&self, id: u32) -> Backing {
        Backing { device: self.clone(), id }
    }

    /// Ends the registrations up to `id_max` that are not among `kept`: those that a process which is gone had made and
    /// not come to note. To be asked before anybody else registers.
    pub(super) fn end_others(&self, id_max: u32, kept: &HashSet<u32>) {
        // A registration that was not noted is the next one of a thread, of which there are not as many.
        const UNNOTED_MAX: u32 = 64;
        for id in (1..=id_max.saturating_add(UNNOTED_MAX)).filter(|id| !kept.contains(id)) {
            drop(self.inherited(id));
        }
    }
}

/// A file that was registered with the kernel to read by itself; the registration ends when this is dropped.
#[derive(Debug)]
pub(super) struct Backing {
    device: Device,
    id: u32,
}

impl Registration for Backing {
    fn number(&self) -> u32 {
        self.id
    }
}

impl Backing {
    /// Answers an open with it.
    pub(super) fn opened(&self, reply: ReplyOpen, handle: FileHandle, flags: FopenFlags) {
        // SAFETY: the registration is open and of this mount, and stays so while `self` lives. The value made of it
        // gives it back below and never ends it.
        let backing = unsafe { reply.wrap_backing(self.id) };
        reply.opened_passthrough(handle, flags, &backing);
        let _ = backing.into_raw();
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // Without the device, it went with the mount.
        let Ok(device) = self.device.get() else { return };
        // SAFETY: the kernel reads one u32 and keeps no pointer; a number that it does not know is an error there.
        let closed = unsafe { ioctl(&device, Setter::<BACKING_CLOSE, u32>::new(self.id)) };
        if let Err(error) = closed {
            tracing::trace!(id = self.id, "cannot end a registration: {error}");
        }
    }
}
