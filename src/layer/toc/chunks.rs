//! Where the chunks of all files lie: in the blob, as listed, and in the virtual stream, as laid out here.
//!
//! Nothing is believed that does not fit: the chunks of a file must be the file, in its order and without gaps, and each
//! must lie before the table of contents in the blob.

use std::sync::Arc;

use super::listed::invalid;
use crate::base::limits::{SPAN_SKIP_BYTES_MAX, SPANS_MAX};
use crate::base::{Algorithm, Digest, Error, ErrorKind, Result};
use crate::layer::encoding::Codec;
use crate::layer::spans::{Span, SpanTable, SpanTableBuilder};
use crate::layer::{Extent, Extents};

/// A piece of a file.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// Where it begins in the file.
    pub(super) file_offset: u64,
    /// Its bytes; zero for all up to the end of the file.
    pub(super) bytes: u64,
    /// Where what it is decoded from begins.
    pub(super) compressed_offset: u64,
    /// Where that ends, if it was said.
    pub(super) compressed_end: Option<u64>,
    /// Bytes that are decoded before its first one.
    pub(super) skip: u64,
    /// Its SHA-256 digest.
    pub(super) digest: Option<[u8; 32]>,
    /// Whether it is zeros, which need not be read.
    pub(super) is_hole: bool,
    /// Where it begins in the stream; set by [`Chunks::lay_out`].
    pub(super) stream_offset: u64,
}

impl Chunk {
    pub(super) fn new(file_offset: u64, bytes: u64, compressed_offset: u64) -> Self {
        Self {
            file_offset,
            bytes,
            compressed_offset,
            compressed_end: None,
            skip: 0,
            digest: None,
            is_hole: false,
            stream_offset: 0,
        }
    }
}

/// Where the chunks of one file stand among all.
pub(super) type Places = std::ops::Range<usize>;

/// The chunks of all files, those of one file together and in its order.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    all: Vec<Chunk>,
}

impl Chunks {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Appends one.
    ///
    /// # Errors
    /// `Unsupported` for one too many.
    pub(super) fn push(&mut self, chunk: Chunk) -> Result<()> {
        if self.all.len() >= SPANS_MAX {
            let text = format!("the layer has more than {SPANS_MAX} chunks (SPANS_MAX)");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        self.all.push(chunk);
        Ok(())
    }

    /// Checks that those from `start` on are a file of `size` bytes, and gives their places. `compressed_end` is where
    /// the last of them ends in the blob, if that was said; `digest` that of the file, which stands for its only chunk.
    ///
    /// # Errors
    /// `Invalid` when they are not.
    pub(super) fn end_file(
        &mut self,
        start: usize,
        size: u64,
        compressed_end: Option<u64>,
        digest: Option<[u8; 32]>,
    ) -> Result<Places> {
        if let [only] = &mut self.all[start..] {
            only.digest = only.digest.or(digest);
        }
        if let Some(last) = self.all[start..].last_mut() {
            last.compressed_end = last.compressed_end.or(compressed_end);
        }
        let mut next = 0_u64;
        for chunk in &mut self.all[start..] {
            if chunk.file_offset != next || next >= size {
                let (at, before) = (chunk.file_offset, next);
                return Err(invalid(format!(
                    "a chunk at {at} of {size} bytes, where those before it end at {before}"
                )));
            }
            if chunk.bytes == 0 {
                chunk.bytes = size - next;
            }
            next = next.checked_add(chunk.bytes).filter(|end| *end <= size).ok_or_else(|| {
                invalid(format!("a chunk of {} bytes goes beyond its {size} bytes", chunk.bytes))
            })?;
        }
        if next != size {
            return Err(invalid(format!("its chunks end at {next} of its {size} bytes")));
        }
        Ok(start..self.all.len())
    }

    /// Drops those from `start` on, which nobody will read.
    pub(super) fn forget(&mut self, start: usize) {
        self.all.truncate(start);
    }

    /// Gives each chunk that is no hole its place in the stream. They must end before `payload_bytes` of the blob.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported` for chunks that lie elsewhere, or are too many or too large.
    pub(super) fn lay_out(
        &mut self,
        codec: Codec,
        payload_bytes: u64,
        blob_bytes: u64,
        offsets: &mut Vec<u64>,
    ) -> Result<SpanTable> {
        offsets.sort_unstable();
        offsets.dedup();
        let mut order: Vec<usize> = (0..self.all.len()).filter(|at| !self.all[*at].is_hole).collect();
        // Stable, so that equal ones keep the order of the list.
        order.sort_by_key(|at| (self.all[*at].compressed_offset, self.all[*at].skip));
        let mut builder = SpanTableBuilder::new();
        for at in order {
            let chunk = &mut self.all[at];
            let next = offsets.partition_point(|offset| *offset <= chunk.compressed_offset);
            let next = offsets.get(next).map_or(payload_bytes, |offset| *offset);
            let end = chunk.compressed_end.unwrap_or(next);
            if end <= chunk.compressed_offset || end > payload_bytes {
                return Err(invalid(format!(
                    "a chunk lies at {}..{end} of the layer, whose contents end at {payload_bytes}",
                    chunk.compressed_offset
                )));
            }
            if chunk.skip > SPAN_SKIP_BYTES_MAX {
                let text = format!(
                    "a chunk begins {} bytes into what it is decoded from, more than {SPAN_SKIP_BYTES_MAX} \
                     (SPAN_SKIP_BYTES_MAX)",
                    chunk.skip
                );
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            chunk.stream_offset = builder.stream_bytes();
            builder.push(&Span {
                stream_offset: chunk.stream_offset,
                bytes: chunk.bytes,
                compressed_offset: chunk.compressed_offset,
                compressed_bytes: end - chunk.compressed_offset,
                skip: chunk.skip,
                digest: chunk.digest,
                codec: Some(codec),
            })?;
        }
        builder.finish(blob_bytes)
    }

    /// Where the stream holds the file whose chunks stand at `places`.
    pub(super) fn extents(&self, places: &Places, size: u64) -> Extents {
        let mut extents: Vec<Extent> = Vec::new();
        for chunk in self.all[places.clone()].iter().filter(|chunk| !chunk.is_hole) {
            match extents.last_mut() {
                Some(last)
                    if last.file_offset + last.length == chunk.file_offset
                        && last.stream_offset + last.length == chunk.stream_offset =>
                {
                    last.length += chunk.bytes;
                }
                _ => extents.push(Extent {
                    file_offset: chunk.file_offset,
                    stream_offset: chunk.stream_offset,
                    length: chunk.bytes,
                }),
            }
        }
        match extents[..] {
            [Extent { file_offset: 0, stream_offset, length }] if length == size => {
                Extents::Contiguous { stream_offset }
            }
            [] if size == 0 => Extents::Contiguous { stream_offset: 0 },
            _ => Extents::Sparse(Arc::from(extents)),
        }
    }
}

/// The SHA-256 in `text`; none in an empty one or for another algorithm.
///
/// # Errors
/// `Invalid` for a malformed digest.
pub(super) fn sha256_of(text: &str) -> Result<Option<[u8; 32]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let digest: Digest = text.parse()?;
    let mut bytes = [0; 32];
    let is_sha256 = digest.algorithm() == Algorithm::Sha256;
    Ok((is_sha256 && hex::decode_to_slice(digest.hex(), &mut bytes).is_ok()).then_some(bytes))
}
