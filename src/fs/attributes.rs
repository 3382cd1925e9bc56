//! What `stat` and `statfs` say.

use crate::layer::{Extents, FileBody, Timestamp};
use crate::tree::{Ino, Inode, InodeKind, Shown};

/// The preferred size of a read, which `cat` and buffered readers take for their buffer. Larger ones would
/// make buffered readers that jump about fetch more than they use.
pub const BLOCK_BYTES: u32 = 128 << 10;

/// The unit of `st_blocks`, by POSIX.
const STAT_BLOCK_BYTES: u64 = 512;

/// The unit in which [`Statistics`] count: the page, as other file systems do.
const STATISTICS_BLOCK_BYTES: u32 = 4096;

/// What an inode is, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// What `stat` says of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The inode's number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a file or of a link's target; 0 for a directory.
    pub size: u64,
    /// The bytes that it holds, without the holes, in units of 512 bytes, rounded up.
    pub blocks: u64,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Names of it.
    pub nlink: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The time of the last change; it stands for all the times.
    pub mtime: Timestamp,
    /// The driver's and the device's number of a device; 0 for anything else.
    pub device: (u32, u32),
}

impl Attributes {
    pub(super) fn of(ino: Ino, inode: &Inode) -> Self {
        let (kind, size, held) = match &inode.kind {
            InodeKind::Directory => (FileKind::Directory, 0, 0),
            InodeKind::File(body) => (FileKind::File, body.size, bytes_held(body)),
            InodeKind::Symlink { target } => (FileKind::Symlink, target.len() as u64, target.len() as u64),
            InodeKind::CharDevice { .. } => (FileKind::CharDevice, 0, 0),
            InodeKind::BlockDevice { .. } => (FileKind::BlockDevice, 0, 0),
            InodeKind::Fifo => (FileKind::Fifo, 0, 0),
        };
        let device = match inode.kind {
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
                (major, minor)
            }
            _ => (0, 0),
        };
        Self {
            ino,
            kind,
            size,
            blocks: held.div_ceil(STAT_BLOCK_BYTES),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            device,
        }
    }
}

/// The bytes of a file that are no holes.
fn bytes_held(body: &FileBody) -> u64 {
    match &body.extents {
        Extents::Contiguous { .. } => body.size,
        Extents::Sparse(extents) => extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.length)),
    }
}

/// What `statfs` says; nothing is ever free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks of all files.
    pub blocks: u64,
    /// How many files there are.
    pub files: u64,
}

impl Statistics {
    pub(super) fn of(view: &Shown) -> Self {
        Self {
            block_bytes: STATISTICS_BLOCK_BYTES,
            blocks: view.total_bytes().div_ceil(u64::from(STATISTICS_BLOCK_BYTES)),
            files: view.file_count(),
        }
    }
}
