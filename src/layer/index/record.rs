//! The records of a [`super::LayerIndex`], as they lie in its bytes; [`super::LayerIndex`] says what they mean.
//!
//! Nothing here is checked: a record says what its bytes say.

use std::ops::RangeInclusive;

use super::{EntryKind, Extent, Extents, Timestamp};

/// First bytes of the encoding.
pub(super) const MAGIC: [u8; 8] = *b"rfmindex";
/// Raised whenever the meaning of the bytes changes; other versions are not read.
pub(super) const VERSION: u32 = 1;
/// Bytes before the texts.
pub(super) const HEADER_BYTES: usize = 120;
/// Bytes of a member's record.
pub(super) const MEMBER_RECORD_BYTES: usize = 16;
/// Bytes of an attributes' record.
pub(super) const ATTRIBUTES_BYTES: usize = 16;
/// Bytes of an entry's record.
pub(super) const ENTRY_BYTES: usize = 32;
/// What an entry's record holds of the seconds of a time: five bytes, or 17,000 years on both sides of 1970.
pub(super) const SECONDS: RangeInclusive<i64> = -(1 << 39)..=(1 << 39) - 1;
/// Attributes that an entry's record can name, in three bytes.
pub(super) const ATTRIBUTES_MAX: u32 = 1 << 24;
/// Bytes of an extent's record.
pub(super) const EXTENT_BYTES: usize = 24;
/// Bytes before an xattr's name: its length and that of the value.
const XATTR_HEADER_BYTES: usize = 6;

/// What is said here is vouched for.
pub(super) const FLAG_TRUSTED: u32 = 1;
/// The stream's digest is known.
pub(super) const FLAG_DIFF_ID: u32 = 2;
/// The index was made from one that the layer carried.
pub(super) const FLAG_CARRIED: u32 = 4;
/// The root is described.
pub(super) const FLAG_ROOT: u32 = 8;
/// All flags that have a meaning.
pub(super) const FLAGS: u32 = FLAG_TRUSTED | FLAG_DIFF_ID | FLAG_CARRIED | FLAG_ROOT;

/// What an entry is, in a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    File = 1,
    SparseFile = 2,
    Directory = 3,
    Symlink = 4,
    HardLink = 5,
    CharDevice = 6,
    BlockDevice = 7,
    Fifo = 8,
}

impl Kind {
    pub(super) fn of(kind: &EntryKind) -> Self {
        match kind {
            EntryKind::File { extents: Extents::Contiguous { .. }, .. } => Self::File,
            EntryKind::File { extents: Extents::Sparse(_), .. } => Self::SparseFile,
            EntryKind::Directory => Self::Directory,
            EntryKind::Symlink { .. } => Self::Symlink,
            EntryKind::HardLink { .. } => Self::HardLink,
            EntryKind::CharDevice { .. } => Self::CharDevice,
            EntryKind::BlockDevice { .. } => Self::BlockDevice,
            EntryKind::Fifo => Self::Fifo,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::File,
            2 => Self::SparseFile,
            3 => Self::Directory,
            4 => Self::Symlink,
            5 => Self::HardLink,
            6 => Self::CharDevice,
            7 => Self::BlockDevice,
            8 => Self::Fifo,
            _ => return None,
        })
    }
}

/// An entry.
pub(super) struct EntryRecord<'a>(pub(super) &'a [u8; ENTRY_BYTES]);

impl EntryRecord<'_> {
    pub(super) fn path_end(&self) -> usize {
        u32_at(self.0, 0) as usize
    }

    pub(super) fn size(&self) -> u64 {
        u64_at(self.0, 4)
    }

    /// Major and minor.
    pub(super) fn device(&self) -> (u32, u32) {
        (u32_at(self.0, 8), u32_at(self.0, 4))
    }

    pub(super) fn place(&self) -> u64 {
        u64_at(self.0, 12)
    }

    pub(super) fn mtime(&self) -> Timestamp {
        // The upper three bytes of eight belong to what follows.
        let seconds = i64_at(self.0, 20) << 24 >> 24;
        Timestamp { seconds, nanoseconds: u32_at(self.0, 25) }
    }

    pub(super) fn attributes(&self) -> u32 {
        u32_at(self.0, 28) >> 8
    }
}

/// Attributes that entries have in common.
pub(super) struct AttributesRecord<'a>(pub(super) &'a [u8; ATTRIBUTES_BYTES]);

impl AttributesRecord<'_> {
    pub(super) fn kind(&self) -> Option<Kind> {
        Kind::from_byte(self.0[0])
    }

    pub(super) fn spare(&self) -> u8 {
        self.0[1]
    }

    pub(super) fn mode(&self) -> u32 {
        u16::from_le_bytes([self.0[2], self.0[3]]).into()
    }

    pub(super) fn uid(&self) -> u32 {
        u32_at(self.0, 4)
    }

    pub(super) fn gid(&self) -> u32 {
        u32_at(self.0, 8)
    }

    pub(super) fn xattrs_end(&self) -> usize {
        u32_at(self.0, 12) as usize
    }
}

pub(super) fn extent(record: &[u8; EXTENT_BYTES]) -> Extent {
    Extent { file_offset: u64_at(record, 0), stream_offset: u64_at(record, 8), length: u64_at(record, 16) }
}

/// Takes name and value of the next xattr off the front of `rest`; none at the end, and where it is cut short.
pub(super) fn next_xattr<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (header, after) = rest.split_first_chunk::<XATTR_HEADER_BYTES>()?;
    let (name, after) = after.split_at_checked(u16::from_le_bytes([header[0], header[1]]).into())?;
    let (value, after) = after.split_at_checked(u32_at(header, 2) as usize)?;
    *rest = after;
    Some((name, value))
}

/// The number at `at`, which the callers' arrays have.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}

/// The number at `at`, which the callers' arrays have.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// The number at `at`, which the callers' arrays have.
pub(super) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    bytes[at..].first_chunk().copied().map_or(0, i64::from_le_bytes)
}
