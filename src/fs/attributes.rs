//! What `stat` and `statfs` say.

use crate::layer::Timestamp;
use crate::tree::{Ino, Inode, InodeKind, View};

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
    /// `size` in units of 512 bytes, rounded up.
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
}

impl Attributes {
    pub(super) fn of(ino: Ino, inode: &Inode) -> Self {
        let (kind, size) = match &inode.kind {
            InodeKind::Directory => (FileKind::Directory, 0),
            InodeKind::File(body) => (FileKind::File, body.size),
            InodeKind::Symlink { target } => (FileKind::Symlink, target.len() as u64),
        };
        Self {
            ino,
            kind,
            size,
            blocks: size.div_ceil(STAT_BLOCK_BYTES),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
        }
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
    pub(super) fn of(view: &View) -> Self {
        Self {
            block_bytes: STATISTICS_BLOCK_BYTES,
            blocks: view.total_bytes().div_ceil(u64::from(STATISTICS_BLOCK_BYTES)),
            files: view.file_count(),
        }
    }
}
