//! The checkpoints of a zTOC (ztoc/compression/gzip_zinfo.c, `zinfo_to_blob`): what zlib's zran example keeps.
//!
//! Little endian: the number of checkpoints (4 bytes), the span size that was asked for (8), then for each checkpoint
//! the offset of the first whole byte of its block in the blob (8), its offset in the stream (8), how many of the
//! highest bits of the byte before belong to the block as well (1), and 32 KiB of window, padded at its front. The first
//! version leaves out the first checkpoint, which it takes to be after a header of ten bytes.

use std::ops::Range;

use crate::base::{Error, ErrorKind, Result};
use crate::layer::encoding::Codec;
use crate::layer::restart::{
    BlockState, RestartPoint, RestartState, RestartTable, RestartTableBuilder, WINDOW_BYTES_MAX, Window,
};
use crate::layer::toc::listed::{invalid, number};

/// Bytes before the first checkpoint.
const HEADER_BYTES: usize = 12;
/// Bytes of a checkpoint without its window.
const FIELDS_BYTES: usize = 17;
/// Bytes of a checkpoint.
const CHECKPOINT_BYTES: usize = FIELDS_BYTES + WINDOW_BYTES_MAX;
/// Bytes of the gzip header that the first version knows.
const PLAIN_HEADER_BYTES: u64 = 10;

/// The points of a layer, and the compressed bytes from each one to the next.
pub(super) struct Checkpoints {
    pub(super) points: RestartTable,
    pub(super) ranges: Vec<Range<u64>>,
}

/// Reads all of them.
///
/// # Errors
/// `Invalid` for another length than they say, or places out of order or beyond the layer.
pub(super) fn parse(bytes: &[u8], blob_bytes: u64, stream_bytes: u64) -> Result<Checkpoints> {
    let (header, body) =
        bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| invalid("its checkpoints are cut short"))?;
    let [a, b, c, d, ..] = *header;
    let count = u64::from(u32::from_le_bytes([a, b, c, d]));
    let (stored, rest) = body.as_chunks::<CHECKPOINT_BYTES>();
    let is_first_version = stored.len() as u64 + 1 == count;
    if !rest.is_empty() || count == 0 || !(is_first_version || stored.len() as u64 == count) {
        return Err(invalid("its checkpoints are more or fewer than they say"));
    }
    let mut builder = RestartTableBuilder::new(Codec::Gzip);
    builder.push(&RestartPoint::START);
    // Where each span begins, and where the one before ends: the byte that they share is in both.
    let mut places = Vec::with_capacity(stored.len() + 1);
    if is_first_version {
        places.push((PLAIN_HEADER_BYTES, PLAIN_HEADER_BYTES));
    }
    for checkpoint in stored {
        let place = Place::read(checkpoint)?;
        if places.is_empty() {
            if place.stream_offset != 0 {
                return Err(invalid("its first checkpoint is not at the start"));
            }
        } else {
            builder.push(&place.point(&checkpoint[FIELDS_BYTES..])?);
        }
        places.push((place.first_byte, place.whole_byte));
    }
    let ends = places.iter().skip(1).map(|(_, whole_byte)| *whole_byte).chain([blob_bytes]);
    let ranges: Vec<Range<u64>> = places.iter().zip(ends).map(|((start, _), end)| *start..end).collect();
    if ranges.iter().any(|range| range.is_empty() || range.end > blob_bytes) {
        return Err(invalid("its checkpoints are out of order or beyond the layer"));
    }
    let points = builder.finish(blob_bytes, stream_bytes).map_err(|error| {
        // They were not stored by us.
        Error::with_source(ErrorKind::Invalid, "its checkpoints are out of order or beyond the layer", error)
    })?;
    Ok(Checkpoints { points, ranges })
}

/// Where a checkpoint is.
struct Place {
    /// The first byte with bits of its block.
    first_byte: u64,
    /// The first byte that is its block's alone.
    whole_byte: u64,
    used_bits: u8,
    stream_offset: u64,
}

impl Place {
    fn read(checkpoint: &[u8; CHECKPOINT_BYTES]) -> Result<Self> {
        let at = |offset: usize| {
            checkpoint[offset..].first_chunk().copied().map(i64::from_le_bytes).unwrap_or_default()
        };
        let whole_byte = number("compressed offset", at(0))?;
        let bits = checkpoint[16];
        let shared = u64::from(bits > 0);
        let first_byte = whole_byte.checked_sub(shared).filter(|_| bits < 8);
        let first_byte = first_byte.ok_or_else(|| invalid("a checkpoint begins within no byte"))?;
        let used_bits = (8 - bits) % 8;
        Ok(Self { first_byte, whole_byte, used_bits, stream_offset: number("stream offset", at(8))? })
    }

    fn point(&self, window: &[u8]) -> Result<RestartPoint> {
        // What stands before the stream's first byte is padding.
        let known = usize::try_from(self.stream_offset).unwrap_or(usize::MAX).min(window.len());
        let state = BlockState {
            used_bits: self.used_bits,
            member: None,
            window: Window::pack(&window[window.len() - known..])?,
        };
        Ok(RestartPoint {
            compressed_offset: self.first_byte,
            stream_offset: self.stream_offset,
            state: RestartState::Block(state),
        })
    }
}
