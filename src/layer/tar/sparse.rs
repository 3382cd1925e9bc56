//! Sparse files: which pieces of a file the archive holds.
//!
//! Every form comes down to pairs of file offset and length, in the file's order, whose bytes follow one another in
//! the stream. A map that is out of order, overlaps, or does not account for exactly the bytes that are stored
//! is refused, because readers disagree on what it means. So is one whose pieces, but for the last, are no whole
//! blocks.

use super::BLOCK_BYTES;
use super::header::{fits, in_field};
use super::number::decimal;
use crate::base::limits::SPARSE_EXTENTS_MAX;
use crate::base::{Error, ErrorKind, Result};
use crate::layer::{Extent, Extents};

/// The longest decimal of 64 bits.
const DECIMAL_BYTES_MAX: usize = 20;

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

/// Pieces of a file; grows as they are read.
#[derive(Debug, Default)]
pub(super) struct SparseMap {
    /// File offset and length of pieces that neither touch nor are empty.
    pieces: Vec<(u64, u64)>,
    /// Pairs taken, the empty ones too.
    taken: u64,
    /// File offset after the last pair.
    end: u64,
    /// Bytes of all pieces.
    stored: u64,
}

impl SparseMap {
    /// Takes the next pair.
    ///
    /// # Errors
    /// `Invalid` when it begins before the end of the one before it; `Unsupported` above the limit.
    pub(super) fn push(&mut self, file_offset: u64, length: u64) -> Result<()> {
        if self.taken >= SPARSE_EXTENTS_MAX as u64 {
            let text =
                format!("a sparse file has more than {SPARSE_EXTENTS_MAX} pieces (SPARSE_EXTENTS_MAX)");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if file_offset < self.end {
            return Err(invalid(format!("the sparse map goes back from {} to {file_offset}", self.end)));
        }
        // GNU tar begins each piece in a block of its own, others right after the one before it.
        if length > 0 && !self.stored.is_multiple_of(BLOCK_BYTES) {
            return Err(invalid(
                "a piece of a sparse file that is not the last one does not fill its blocks",
            ));
        }
        let overflow = || invalid(format!("a piece of {length} bytes at {file_offset} has no end"));
        let end = file_offset.checked_add(length).ok_or_else(overflow)?;
        self.taken += 1;
        if length > 0 {
            match self.pieces.last_mut() {
                Some(last) if last.0 + last.1 == file_offset => last.1 += length,
                _ => self.pieces.push((file_offset, length)),
            }
        }
        self.end = end;
        // Never more than the end.
        self.stored += length;
        Ok(())
    }

    /// Takes descriptors of the old GNU form; true when an empty one ended them.
    ///
    /// # Errors
    /// Those of [`Self::push`]; `Invalid` for a malformed descriptor and for one after the end.
    pub(super) fn push_descriptors(&mut self, descriptors: &[u8]) -> Result<bool> {
        let mut has_ended = false;
        for descriptor in descriptors.chunks_exact(24) {
            let (offset, length) = descriptor.split_at(12);
            let (Some(offset), Some(length)) =
                (in_field("sparse offset", offset)?, in_field("sparse length", length)?)
            else {
                if descriptor.iter().any(|byte| !matches!(byte, 0 | b' ')) {
                    return Err(invalid("a sparse map holds half a piece"));
                }
                has_ended = true;
                continue;
            };
            if has_ended {
                return Err(invalid("a sparse map goes on after its end"));
            }
            self.push(fits("sparse offset", offset)?, fits("sparse length", length)?)?;
        }
        Ok(has_ended)
    }

    /// Pairs taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Where the pieces of a file of `file_bytes` lie when `stored` bytes of them begin at `stream_offset`.
    ///
    /// # Errors
    /// `Invalid` when the map reaches beyond the file, or does not account for all that is stored.
    pub(super) fn into_extents(self, file_bytes: u64, stored: u64, stream_offset: u64) -> Result<Extents> {
        if self.end > file_bytes {
            return Err(invalid(format!("the sparse map ends at {}, the file at {file_bytes}", self.end)));
        }
        if self.stored != stored {
            return Err(invalid(format!(
                "the sparse map holds {} bytes where {stored} are stored",
                self.stored
            )));
        }
        if self.stored == file_bytes {
            return Ok(Extents::Contiguous { stream_offset });
        }
        let mut next = stream_offset;
        let extents = self.pieces.into_iter().map(|(file_offset, length)| {
            let extent = Extent { file_offset, stream_offset: next, length };
            next += length;
            extent
        });
        Ok(Extents::Sparse(extents.collect()))
    }
}

/// The map that stands before a file's bytes in GNU's PAX form 1.0: decimals, one on a line, the number of pairs
/// first, filled up to whole blocks. Read block by block.
#[derive(Debug, Default)]
pub(super) struct MapText {
    map: SparseMap,
    /// Digits of a line that goes on in the next block.
    line: Vec<u8>,
    pairs: Option<u64>,
    offset: Option<u64>,
}

impl MapText {
    /// Takes one block; true when the map is complete, and the file's bytes follow.
    ///
    /// # Errors
    /// `Invalid` for a line that is no number, and those of [`SparseMap::push`].
    pub(super) fn push_block(&mut self, block: &[u8]) -> Result<bool> {
        for byte in block {
            if self.is_complete() {
                return Ok(true);
            }
            if *byte == b'\n' {
                let number = decimal(&self.line)?;
                self.line.clear();
                self.push_number(number)?;
            } else if self.line.len() < DECIMAL_BYTES_MAX {
                self.line.push(*byte);
            } else {
                return Err(invalid("a line of the sparse map is no number"));
            }
        }
        Ok(self.is_complete())
    }

    fn push_number(&mut self, number: u64) -> Result<()> {
        match (self.pairs, self.offset.take()) {
            (None, _) => self.pairs = Some(number),
            (Some(_), None) => self.offset = Some(number),
            (Some(_), Some(offset)) => self.map.push(offset, number)?,
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.pairs.is_some_and(|pairs| pairs == self.map.taken()) && self.offset.is_none()
    }

    pub(super) fn into_map(self) -> SparseMap {
        self.map
    }
}
