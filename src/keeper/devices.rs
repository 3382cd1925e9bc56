//! The little that the holder knows of FUSE: how the devices of mounts are told from other descriptors, and how their
//! requests are refused when there is nobody left to serve them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// `FUSE_NOTIFY_RESEND` (Linux 6.9): whatever was handed out and not answered is to be handed out again.
const NOTIFY_RESEND: i32 = 7;

/// Requests that have no answer: `FUSE_FORGET`, `FUSE_INTERRUPT` and `FUSE_BATCH_FORGET` (linux/fuse.h).
const WITHOUT_ANSWER: [u32; 3] = [2, 36, 42];

/// Bytes that the kernel wants to find room for: those of the largest write that was agreed upon, and its header.
const REQUEST_BYTES: usize = (1 << 20) + 4096;

/// Has the kernel hand out again what a process was given and did not answer. To be asked before anybody reads from
/// `device` or another queue of the mount.
///
/// # Errors
/// `EINVAL` from kernels before 6.9, which answer those requests themselves, with an error.
pub fn resend(device: impl AsFd) -> io::Result<()> {
    let mut message = [0; 16];
    message[0..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    File::from(device.as_fd().try_clone_to_owned()?).write_all(&message)
}

/// A mount whose requests are refused, each with EIO, while this lives.
#[derive(Debug)]
pub(super) struct Refused {
    device: File,
    flags: OFlags,
}

impl Refused {
    /// The mount that has one of `kept` as a queue, if there is one: any of them gets all of its requests.
    pub(super) fn of(kept: &[OwnedFd]) -> Option<Self> {
        let fuse = rustix::fs::stat("/dev/fuse").ok()?.st_rdev;
        let is_device =
            |descriptor: &&OwnedFd| rustix::fs::fstat(descriptor).is_ok_and(|stat| stat.st_rdev == fuse);
        let device = File::from(kept.iter().find(is_device)?.try_clone().ok()?);
        let flags = rustix::fs::fcntl_getfl(&device).ok()?;
        // A request may be taken back between the look and the read.
        rustix::fs::fcntl_setfl(&device, flags | OFlags::NONBLOCK).ok()?;
        // Otherwise those wait that the last server had in hand.
        let _ = resend(&device);
        Some(Self { device, flags })
    }

    pub(super) fn device(&self) -> &File {
        &self.device
    }

    /// Refuses the next request, if there is one.
    ///
    /// # Errors
    /// When there will be no more.
    pub(super) fn refuse_next(&self) -> io::Result<()> {
        let mut request = vec![0; REQUEST_BYTES];
        let taken = match (&self.device).read(&mut request) {
            Ok(taken) => taken,
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return Err(error),
            Err(_) => return Ok(()),
        };
        let Some(header) = request[..taken].first_chunk::<16>() else { return Ok(()) };
        let opcode = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        if WITHOUT_ANSWER.contains(&opcode) {
            return Ok(());
        }
        let mut answer = [0; 16];
        answer[0..4].copy_from_slice(&16_u32.to_ne_bytes());
        answer[4..8].copy_from_slice(&(-Errno::IO.raw_os_error()).to_ne_bytes());
        answer[8..16].copy_from_slice(&header[8..16]);
        // Whoever asked may be gone.
        let _ = (&self.device).write(&answer);
        Ok(())
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        // The next server waits for requests.
        let _ = rustix::fs::fcntl_setfl(&self.device, self.flags);
    }
}
