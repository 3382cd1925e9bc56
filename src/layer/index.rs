//! The LayerIndex: every entry of a layer and the way into its stream, made once by a first reading.
//!
//! Entries stand in the order of their paths, each path once; see [`LayerIndex`].

use bytes::Bytes;

use super::restart::RestartTable;
use super::{Entry, EntryKind, RootAttributes, Timestamp, Xattr};
use crate::base::{Digest, Result};

/// Bytes from which on a file has a segment of its own, so that a complete one can be handed to the kernel.
pub const MEMBER_BYTES_MIN: u64 = 1 << 20;

/// A piece of a layer's stream that is cached in a segment of its own: a large file, from its first byte to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it begins in the stream.
    pub stream_offset: u64,
    /// Its bytes; never zero.
    pub bytes: u64,
}

/// How a layer's stream is had from its blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerStream {
    /// It is the blob.
    Plain,
    /// It is decoded from the nearest of these points.
    Restart(RestartTable),
}

/// What a [`LayerIndex`] is made of.
#[derive(Clone, Debug)]
pub struct IndexParts {
    /// The layer's blob.
    pub layer: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of the stream.
    pub stream_bytes: u64,
    /// The digest of the stream, where it is known.
    pub diff_id: Option<Digest>,
    /// The way into the stream.
    pub stream: LayerStream,
    /// What the archive says of its root.
    pub root: Option<RootAttributes>,
    /// The entries in the order in which the layer holds them; of several with one path the last one counts.
    pub entries: Vec<Entry>,
    /// The large files in the order of the stream.
    pub members: Vec<Member>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// An entry where it lies in its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Its path, valid as a [`crate::base::RelPath`].
    pub path: &'a [u8],
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

/// What is known of one layer that holds files. Immutable.
#[derive(Clone, Debug)]
pub struct LayerIndex {
    parts: IndexParts,
}

impl LayerIndex {
    /// The index of `parts`.
    ///
    /// # Errors
    /// `Unsupported` beyond a limit.
    pub fn new(mut parts: IndexParts) -> Result<Self> {
        let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        parts
            .entries
            .sort_by(|a, b| a.path.as_bytes().iter().map(rank).cmp(b.path.as_bytes().iter().map(rank)));
        parts.entries.reverse();
        parts.entries.dedup_by(|a, b| a.path == b.path);
        parts.entries.reverse();
        Ok(Self { parts })
    }

    /// The index of a raw layer: `entry`, which is the whole of the blob.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_raw_file(layer: &Digest, blob_bytes: u64, entry: Entry) -> Result<Self> {
        Self::new(IndexParts {
            layer: layer.clone(),
            blob_bytes,
            stream_bytes: blob_bytes,
            diff_id: Some(layer.clone()),
            stream: LayerStream::Plain,
            root: None,
            entries: vec![entry],
            members: Vec::new(),
            warnings: Vec::new(),
        })
    }

    /// Opens an encoding, which is kept, not copied.
    ///
    /// # Errors
    /// `Corrupt` for anything else than what [`Self::bytes`] gave for this layer.
    pub fn decode(_bytes: Bytes, _layer: &Digest) -> Result<Self> {
        Err(crate::base::Error::new(crate::base::ErrorKind::Corrupt, "not yet"))
    }

    /// The encoding, which [`Self::decode`] reads.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::new()
    }

    /// The layer's blob.
    #[must_use]
    pub fn layer(&self) -> &Digest {
        &self.parts.layer
    }

    /// Bytes of the layer's blob.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.parts.blob_bytes
    }

    /// Bytes of the layer's stream.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.parts.stream_bytes
    }

    /// The digest of the stream, where it is known.
    #[must_use]
    pub fn diff_id(&self) -> Option<&Digest> {
        self.parts.diff_id.as_ref()
    }

    /// The way into the stream.
    #[must_use]
    pub fn stream(&self) -> &LayerStream {
        &self.parts.stream
    }

    /// What the archive says of its root.
    #[must_use]
    pub fn root(&self) -> Option<RootAttributes> {
        self.parts.root.clone()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry in place `at`, which must be below [`Self::len`].
    #[must_use]
    pub fn entry(&self, at: usize) -> EntryRef<'_> {
        let entry = &self.parts.entries[at];
        EntryRef {
            path: entry.path.as_bytes(),
            kind: entry.kind.clone(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs.clone(),
        }
    }

    /// How many large files have a segment of their own.
    #[must_use]
    pub fn member_count(&self) -> usize {
        self.parts.members.len()
    }

    /// The large file in place `at` of the stream's order, which must be below [`Self::member_count`].
    #[must_use]
    pub fn member(&self, at: usize) -> Member {
        self.parts.members[at]
    }

    /// What may surprise.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.parts.warnings.clone()
    }
}
