//! Chunks: the unit in which content is present, evicted and proven.

use std::ops::Range;

/// Bytes of a chunk; the last chunk of a segment may be shorter.
///
/// 1 MiB is the largest read that the kernel sends, so that a read touches two chunks at most, and is far
/// above the size at which BLAKE3 reaches its full rate.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// How many chunks `bytes` make.
#[must_use]
pub fn chunk_count(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES)
}

/// The bytes of chunk `chunk` in content of `bytes` bytes; empty past the end.
#[must_use]
pub fn chunk_range(chunk: u64, bytes: u64) -> Range<u64> {
    let start = chunk.saturating_mul(CHUNK_BYTES).min(bytes);
    let end = start.saturating_add(CHUNK_BYTES).min(bytes);
    start..end
}

/// The chunks that the byte range `range` touches; empty for an empty range.
#[must_use]
pub fn chunks_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / CHUNK_BYTES..chunk_count(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_chunk_is_shorter() {
        assert_eq!(chunk_count(0), 0);
        assert_eq!(chunk_count(CHUNK_BYTES + 1), 2);
        assert_eq!(chunk_range(1, CHUNK_BYTES + 1), CHUNK_BYTES..CHUNK_BYTES + 1);
        assert!(chunk_range(2, CHUNK_BYTES + 1).is_empty());
        assert_eq!(chunks_of(&(CHUNK_BYTES - 1..CHUNK_BYTES + 1)), 0..2);
        assert_eq!(chunks_of(&(0..CHUNK_BYTES)), 0..1);
        assert_eq!(chunks_of(&(5..5)), 0..0);
    }
}
