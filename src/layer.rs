//! Layers: what files a layer holds and where their bytes lie in its stream.
//!
//! Sans-IO: bytes go in, entries come out. A raw layer has one entry, which is the whole blob; archives
//! have many. See [`Entry`].

use std::sync::Arc;

use crate::base::{Digest, RelPath};

pub mod decoder;
pub mod encoding;
pub mod gzip;
pub mod index;
pub mod proof;
pub mod restart;
#[cfg(test)]
mod samples;
pub mod spans;
pub mod stream;
pub mod tar;
pub mod toc;
pub mod zstd;

pub use index::{EntryRef, IndexParts, LayerIndex, LayerStream, MEMBER_BYTES_MIN, Member};
pub use proof::{ChunkDigest, LayerProof, SegmentProof};

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
    /// Its extended attributes, by name, each name once.
    pub xattrs: Box<[Xattr]>,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Xattr {
    /// The name with its namespace, such as `user.comment`.
    pub name: Box<[u8]>,
    /// The value; may be empty.
    pub value: Box<[u8]>,
}

/// What an [`Entry`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes of the file, its holes included.
        size: u64,
        /// Where the stream holds them.
        extents: Extents,
    },
    /// A directory.
    Directory,
    /// A symbolic link, with the bytes it holds.
    Symlink {
        /// Data for the reader's kernel; never followed by this program.
        target: Box<[u8]>,
    },
    /// A further name of a file that another entry, or a layer below, holds.
    HardLink {
        /// That file's name as it was written. Unchecked: what it means, or whether it is refused, is decided where
        /// the layers are merged.
        target: Box<[u8]>,
    },
    /// A character device.
    CharDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl EntryKind {
    /// A file that is the whole stream of a raw layer.
    #[must_use]
    pub fn whole_stream(size: u64) -> Self {
        Self::File { size, extents: Extents::Contiguous { stream_offset: 0 } }
    }
}

/// Where a stream holds a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extents {
    /// All of them, in one piece.
    Contiguous {
        /// Where the first one lies.
        stream_offset: u64,
    },
    /// In pieces, by file offset, that do not overlap in the file; where two of them touch there, they are apart in the
    /// stream. What lies between and after them is holes, which read as zeros.
    Sparse(Arc<[Extent]>),
}

/// One piece of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file.
    pub file_offset: u64,
    /// Where it begins in the stream.
    pub stream_offset: u64,
    /// Its bytes; never zero.
    pub length: u64,
}

/// The bytes of one regular file: which layer's stream holds them, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBody {
    /// The layer, as its place among those of a mount.
    pub layer: usize,
    /// Bytes of the file, its holes included.
    pub size: u64,
    /// Where the stream holds them.
    pub extents: Extents,
}

/// What a layer says of the directory at its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootAttributes {
    /// Permission bits, with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The time of the last change.
    pub mtime: Timestamp,
    /// Its extended attributes, by name.
    pub xattrs: Box<[Xattr]>,
}

/// The entries of the layer `digest`, in the order in which it holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntries {
    /// The layer's blob.
    pub digest: Digest,
    /// The entries.
    pub entries: Vec<Entry>,
}
