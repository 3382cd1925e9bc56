//! Layers: what files a layer holds and where their bytes lie in its stream.
//!
//! Sans-IO: bytes go in, entries come out. A raw layer has one entry, which is the whole blob; archives
//! have many. See [`Entry`].

use crate::base::{Digest, RelPath};

pub mod decoder;
pub mod encoding;
pub mod gzip;
pub mod index;
pub mod restart;
#[cfg(test)]
mod samples;
pub mod stream;
pub mod zstd;

pub use index::{ChunkDigest, LayerIndex};

/// A point in time as file systems keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970, UTC.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below one thousand million.
    pub nanoseconds: u32,
}

/// One file, directory or link of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands in the tree.
    pub path: RelPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The time of the last change of its content.
    pub mtime: Timestamp,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of `size` bytes: the whole stream of a raw layer.
    File {
        /// Bytes of the file.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link, with the bytes it holds.
    Symlink {
        /// Data for the reader's kernel; never followed by this program.
        target: Box<[u8]>,
    },
}

/// The entries of the layer `digest`, in the order in which it holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntries {
    /// The layer's blob.
    pub digest: Digest,
    /// The entries.
    pub entries: Vec<Entry>,
}
