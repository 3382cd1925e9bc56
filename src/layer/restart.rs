//! Restart points: places in a compressed layer from which decoding can begin without what comes before.
//!
//! Between two of them lies a span, and a read in the middle of a layer costs the span in which it begins and those
//! up to its end. A point is either a frame's start (a gzip member, a zstd frame), which needs nothing, or a place
//! between two deflate blocks, which needs the 32 KiB before it. A [`RestartTable`] holds all points of one layer in
//! the bytes in which it is stored: it is made by appending, opened without copying, and searched in place. It
//! assumes that whoever stores it guards it with a checksum; what it says of itself is checked all the same, so that
//! a damaged table is an error and never a wrong offset outside of the layer.

use bytes::Bytes;

use super::encoding::Codec;
use super::stream::Position;
use crate::base::{Error, ErrorKind, Result};

mod table;

pub use table::{RestartTable, RestartTableBuilder};

/// The most that deflate can refer back to (RFC 1951, 2), and so the most that a window holds.
pub const WINDOW_BYTES_MAX: usize = 32 << 10;

/// A place from which decoding can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartPoint {
    /// The first byte of the blob that is needed.
    pub compressed_offset: u64,
    /// Where in the stream the bytes come out that are decoded from there.
    pub stream_offset: u64,
    /// What else is needed.
    pub state: RestartState,
}

impl RestartPoint {
    /// The place before any byte.
    pub const START: Self = Self { compressed_offset: 0, stream_offset: 0, state: RestartState::FrameStart };

    /// Where a decoder stands that begins here.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { compressed_offset: self.compressed_offset, stream_offset: self.stream_offset }
    }
}

/// What a decoder must know to begin at a [`RestartPoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartState {
    /// Nothing: a gzip member or a zstd frame begins here.
    FrameStart,
    /// The state of a gzip member between two of its blocks.
    Block(BlockState),
}

/// The state of a gzip member between two deflate blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockState {
    /// Bits of the first byte, counted from the lowest, that belong to the block before: 0 to 7.
    pub used_bits: u8,
    /// What the member's trailer will be checked against. None where nobody knows it: then a decoder that begins here
    /// cannot check that member, only those after it, and its bytes are to be proven otherwise.
    pub member: Option<MemberSum>,
    /// The bytes before this place that what follows may refer to.
    pub window: Window,
}

/// What a gzip member's bytes so far come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSum {
    /// Their CRC-32.
    pub crc: u32,
    /// Their number, modulo 2^32.
    pub bytes: u32,
}

/// The last bytes of a stream before a restart point, zstd-compressed: they are most of what a table takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    packed: Bytes,
    bytes: u32,
}

impl Window {
    /// Packs `bytes`, of which there are at most [`WINDOW_BYTES_MAX`].
    ///
    /// # Errors
    /// `Invalid` for more bytes; `Io` when there is no memory to compress.
    pub fn pack(bytes: &[u8]) -> Result<Self> {
        // The lowest: this happens in the middle of a pass that readers wait for.
        const LEVEL: i32 = 1;
        let length =
            u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= WINDOW_BYTES_MAX).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, format!("a window of {} bytes is too large", bytes.len()))
            })?;
        let packed = ::zstd::bulk::compress(bytes, LEVEL)?;
        Ok(Self { packed: packed.into(), bytes: length })
    }

    /// The bytes that were packed.
    ///
    /// # Errors
    /// `Corrupt` when these are not what [`Self::pack`] made.
    pub fn unpack(&self) -> Result<Vec<u8>> {
        let damaged = || Error::new(ErrorKind::Corrupt, "a stored window does not decompress to its size");
        let bytes = ::zstd::bulk::decompress(&self.packed, self.bytes as usize).map_err(|_| damaged())?;
        if bytes.len() == self.bytes as usize { Ok(bytes) } else { Err(damaged()) }
    }
}
