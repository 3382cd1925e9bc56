//! The kernel's greeting (`FUSE_INIT`), which it says once for each mount, told again to those who come later.
//!
//! A library that serves a mount wants to be greeted. Whoever takes over a mount, or serves another queue of one, gets a
//! pair of sockets with the greeting waiting in it, answers into that, and has the socket replaced by the device then.

use std::io;
use std::os::fd::OwnedFd;

use fuser::InitFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// `FUSE_INIT` (linux/fuse.h).
const OPCODE_INIT: u32 = 26;

/// Bytes of `struct fuse_in_header` and of `struct fuse_init_in`.
const HEADER_BYTES: usize = 40;
const INIT_BYTES: usize = 64;

/// `FUSE_INIT_EXT`: the second word of flags counts.
const INIT_EXT: u64 = 1 << 30;

/// What the kernel said, less what was not agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Greeting {
    /// The protocol's version.
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    /// The capabilities that both sides have.
    pub(super) capabilities: u64,
}

impl Greeting {
    /// Whether both sides have `capability`.
    pub(super) fn agreed(&self, capability: InitFlags) -> bool {
        InitFlags::from_bits_retain(self.capabilities).contains(capability)
    }

    /// A socket on which the greeting waits, and its other end, which has to live until it is answered.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn waiting(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::io::write(&theirs, &self.message())?;
        Ok((ours, theirs))
    }

    fn message(&self) -> [u8; HEADER_BYTES + INIT_BYTES] {
        let flags = self.capabilities | INIT_EXT;
        let mut message = [0; HEADER_BYTES + INIT_BYTES];
        let mut put = |at: usize, word: u32| message[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        let low = |flags: u64| u32::try_from(flags & u64::from(u32::MAX)).unwrap_or_default();
        put(0, u32::try_from(HEADER_BYTES + INIT_BYTES).unwrap_or_default());
        put(4, OPCODE_INIT);
        // The request's number, of which only the answer speaks.
        put(8, 1);
        for (at, word) in
            [self.major, self.minor, self.max_readahead, low(flags), low(flags >> 32)].into_iter().enumerate()
        {
            put(HEADER_BYTES + 4 * at, word);
        }
        message
    }
}
