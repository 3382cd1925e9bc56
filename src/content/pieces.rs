//! From a range of a file to the ranges of segments that hold it.

use std::ops::Range;
use std::sync::Arc;

use crate::base::chunk::{chunk_range, chunks_of};
use crate::base::{Error, ErrorKind, Result};
use crate::fetch::Feed;
use crate::layer::{Extents, FileBody};

use super::LayerContent;

/// What a part of a file is.
#[derive(Debug)]
pub(super) enum Piece {
    /// These bytes of a segment.
    Bytes(Arc<Feed>, Range<u64>),
    /// A hole of so many bytes.
    Zeros(usize),
}

/// The pieces that `range` of `file`, a file in `layer`, is made of, in their order. `range` must lie within the file.
///
/// # Errors
/// As [`crate::indexing::Layer::feed`]; `Io` for offsets that no stream has.
pub(super) fn pieces(layer: &LayerContent, file: &FileBody, range: Range<u64>) -> Result<Vec<Piece>> {
    let lease = match layer {
        LayerContent::Whole(lease) => return Ok(vec![Piece::Bytes(Arc::clone(lease.feed()), range)]),
        LayerContent::Parts(lease) => lease,
    };
    let mut pieces = Vec::with_capacity(1);
    for part in parts(file, range)? {
        match part {
            Part::Hole(bytes) => pieces.push(Piece::Zeros(usize::try_from(bytes).unwrap_or(usize::MAX))),
            Part::Stream(stream) => {
                for place in lease.layer().places(&stream)? {
                    pieces.push(Piece::Bytes(lease.layer().feed(place.number)?, place.range));
                }
            }
        }
    }
    Ok(pieces)
}

/// How many bytes of `file` are cached, for files that share their segments with others.
pub(super) fn cached_bytes(layer: &LayerContent, file: &FileBody) -> u64 {
    if file.size == 0 {
        return 0;
    }
    let Ok(pieces) = pieces(layer, file, 0..file.size) else { return 0 };
    let of = |piece: &Piece| match piece {
        // Nothing is fetched for a hole.
        Piece::Zeros(_) => 0,
        Piece::Bytes(feed, range) => chunks_of(range)
            .filter(|chunk| feed.segment().is_present(*chunk))
            .map(|chunk| {
                let chunk = chunk_range(chunk, feed.bytes());
                chunk.end.min(range.end) - chunk.start.max(range.start)
            })
            .sum(),
    };
    pieces.iter().map(of).sum()
}

/// A part of a file, in the stream of its layer.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Stream(Range<u64>),
    Hole(u64),
}

fn parts(file: &FileBody, range: Range<u64>) -> Result<Vec<Part>> {
    let beyond = || Error::new(ErrorKind::Io, "a file lies beyond any stream");
    let extents = match &file.extents {
        Extents::Contiguous { stream_offset } => {
            let start = stream_offset.checked_add(range.start).ok_or_else(beyond)?;
            let end = stream_offset.checked_add(range.end).ok_or_else(beyond)?;
            return Ok(vec![Part::Stream(start..end)]);
        }
        Extents::Sparse(extents) => extents,
    };
    let mut parts = Vec::new();
    let mut at = range.start;
    let first = extents.partition_point(|extent| extent.file_offset.saturating_add(extent.length) <= at);
    for extent in &extents[first..] {
        if extent.file_offset >= range.end {
            break;
        }
        if extent.file_offset > at {
            parts.push(Part::Hole(extent.file_offset - at));
            at = extent.file_offset;
        }
        let end = extent.file_offset.saturating_add(extent.length).min(range.end);
        let start = extent.stream_offset.checked_add(at - extent.file_offset).ok_or_else(beyond)?;
        parts.push(Part::Stream(start..start.checked_add(end - at).ok_or_else(beyond)?));
        at = end;
    }
    if at < range.end {
        parts.push(Part::Hole(range.end - at));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Extent;

    #[test]
    fn holes_stand_between_and_after_what_is_stored() {
        let extent = |file_offset, stream_offset, length| Extent { file_offset, stream_offset, length };
        let extents = Extents::Sparse([extent(10, 1000, 5), extent(20, 1005, 10)].into());
        let file = FileBody { layer: 0, size: 40, extents };
        let of = |range| parts(&file, range).unwrap();
        assert_eq!(
            of(0..40),
            [
                Part::Hole(10),
                Part::Stream(1000..1005),
                Part::Hole(5),
                Part::Stream(1005..1015),
                Part::Hole(10)
            ]
        );
        assert_eq!(of(12..21), [Part::Stream(1002..1005), Part::Hole(5), Part::Stream(1005..1006)]);
        assert_eq!(of(15..20), [Part::Hole(5)]);
        assert_eq!(of(29..31), [Part::Stream(1014..1015), Part::Hole(1)]);
        assert_eq!(of(35..40), [Part::Hole(5)]);
    }
}
