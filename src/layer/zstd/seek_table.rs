//! The seek table at the end of a zstd layer (zstd's `contrib/seekable_format`): the sizes of all frames before it.
//!
//! It is a skippable frame, so a decoder that does not know it passes over it. Read in two steps: the last bytes of the
//! blob say how long it is, and then all of it is parsed. What it says is a claim of whoever made the layer: nothing
//! vouches for it until the frames were decoded, so bytes found by it are to be checked by their digests.

use crate::base::limits::{LAYER_STREAM_BYTES_MAX, ZSTD_SEEK_FRAMES_MAX};
use crate::base::{Error, ErrorKind, Result};
use crate::layer::encoding::Codec;
use crate::layer::restart::{RestartPoint, RestartState, RestartTable, RestartTableBuilder};

use super::{FRAME_SPACING_BYTES, SKIPPABLE_HEADER_BYTES};

/// Bytes at the end of a blob that say whether there is a seek table: number of frames, descriptor, magic.
pub const FOOTER_BYTES: usize = 9;
/// The last bytes of a seek table.
const FOOTER_MAGIC: u32 = 0x8f92_eab1;
/// The first bytes of the skippable frame that holds it.
const FRAME_MAGIC: u32 = 0x184d_2a5e;
/// Set when each entry ends in a checksum of its frame.
const HAS_CHECKSUMS: u8 = 0x80;
/// Must be zero; the two lowest bits mean nothing.
const RESERVED: u8 = 0x7c;

/// What a footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Footer {
    frames: u32,
    entry_bytes: u32,
}

impl Footer {
    /// Bytes of the table's content, footer included. At most 48 MiB.
    fn content_bytes(self) -> u64 {
        u64::from(self.frames) * u64::from(self.entry_bytes) + FOOTER_BYTES as u64
    }
}

/// Bytes at the end of the blob that are its seek table, if `footer`, its last [`FOOTER_BYTES`], says that there is one.
///
/// # Errors
/// `Invalid` when it does and is malformed, or has more than [`ZSTD_SEEK_FRAMES_MAX`] frames.
pub fn length(footer: &[u8; FOOTER_BYTES]) -> Result<Option<u64>> {
    let table_bytes = |footer: Footer| footer.content_bytes() + SKIPPABLE_HEADER_BYTES as u64;
    Ok(read_footer(footer)?.map(table_bytes))
}

fn read_footer(footer: &[u8; FOOTER_BYTES]) -> Result<Option<Footer>> {
    let [a, b, c, d, descriptor, magic @ ..] = *footer;
    if u32::from_le_bytes(magic) != FOOTER_MAGIC {
        return Ok(None);
    }
    if descriptor & RESERVED != 0 {
        return Err(malformed("reserved bits"));
    }
    let frames = u32::from_le_bytes([a, b, c, d]);
    if frames > ZSTD_SEEK_FRAMES_MAX {
        return Err(malformed(&format!(
            "{frames} frames, above {ZSTD_SEEK_FRAMES_MAX} (ZSTD_SEEK_FRAMES_MAX)"
        )));
    }
    let entry_bytes = if descriptor & HAS_CHECKSUMS == 0 { 8 } else { 12 };
    Ok(Some(Footer { frames, entry_bytes }))
}

/// The restart points that `table`, as many of the last bytes of a blob of `blob_bytes` as [`length`] says, tells of.
///
/// # Errors
/// `Invalid` when it is malformed, or when its frames and itself are not exactly the blob.
pub fn parse(table: &[u8], blob_bytes: u64) -> Result<RestartTable> {
    let footer = table.last_chunk().map(read_footer).transpose()?.flatten();
    let footer = footer.ok_or_else(|| malformed("no footer"))?;
    let (header, content) =
        table.split_first_chunk::<SKIPPABLE_HEADER_BYTES>().ok_or_else(|| malformed("no header"))?;
    let [a, b, c, d, length @ ..] = *header;
    let length = u64::from(u32::from_le_bytes(length));
    if u32::from_le_bytes([a, b, c, d]) != FRAME_MAGIC
        || length != content.len() as u64
        || length != footer.content_bytes()
    {
        return Err(malformed("a header that does not fit its footer"));
    }
    let mut builder = RestartTableBuilder::new(Codec::Zstd);
    let (mut compressed_offset, mut stream_offset) = (0_u64, 0_u64);
    let mut last: Option<u64> = None;
    let entries = &content[..content.len() - FOOTER_BYTES];
    for entry in entries.chunks_exact(footer.entry_bytes as usize) {
        let [a, b, c, d, sizes @ ..] = entry.first_chunk::<8>().copied().unwrap_or_default();
        let (compressed_bytes, stream_bytes) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(sizes));
        if compressed_bytes == 0 {
            return Err(malformed("a frame of no bytes"));
        }
        if last.is_none_or(|last| stream_offset >= last + FRAME_SPACING_BYTES) && stream_bytes > 0 {
            // What stands before the first frame with content belongs to it.
            let compressed_offset = last.map_or(0, |_| compressed_offset);
            builder.push(&RestartPoint { compressed_offset, stream_offset, state: RestartState::FrameStart });
            last = Some(stream_offset);
        }
        // At most 2^22 times 2^32 each.
        compressed_offset += u64::from(compressed_bytes);
        stream_offset += u64::from(stream_bytes);
    }
    if compressed_offset.checked_add(table.len() as u64) != Some(blob_bytes) {
        return Err(malformed("frames that are not the rest of the layer"));
    }
    if stream_offset > LAYER_STREAM_BYTES_MAX {
        return Err(malformed("a stream above LAYER_STREAM_BYTES_MAX"));
    }
    if last.is_none() {
        builder.push(&RestartPoint::START);
    }
    builder.finish(blob_bytes, stream_offset)
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the layer's zstd seek table has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u32, u32)], checksums: bool) -> Vec<u8> {
        let mut content = Vec::new();
        for (compressed_bytes, stream_bytes) in entries {
            content.extend_from_slice(&compressed_bytes.to_le_bytes());
            content.extend_from_slice(&stream_bytes.to_le_bytes());
            if checksums {
                content.extend_from_slice(&[0xee; 4]);
            }
        }
        content.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        content.push(if checksums { HAS_CHECKSUMS } else { 0 });
        content.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        let mut table = FRAME_MAGIC.to_le_bytes().to_vec();
        table.extend_from_slice(&(content.len() as u32).to_le_bytes());
        [table, content].concat()
    }

    const MIB: u32 = 1 << 20;

    #[test]
    fn frames_become_points_with_and_without_checksums() {
        for checksums in [false, true] {
            let bytes = table(&[(100, MIB), (200, MIB / 2), (300, MIB / 2), (400, MIB), (17, 0)], checksums);
            let footer = bytes.last_chunk().unwrap();
            assert_eq!(length(footer).unwrap(), Some(bytes.len() as u64));
            let blob_bytes = 1017 + bytes.len() as u64;
            let points = parse(&bytes, blob_bytes).unwrap();
            let places: Vec<_> = points.points().map(|at| (at.compressed_offset, at.stream_offset)).collect();
            assert_eq!(places, [(0, 0), (100, 1 << 20), (600, 2 << 20)]);
            assert_eq!(points.compressed_range(&(5..6)), 0..100);
            assert_eq!(points.compressed_range(&(3 << 20..3 << 20)), 600..blob_bytes);
            assert_eq!(points.stream_bytes(), 3 << 20);
        }
    }

    #[test]
    fn a_table_that_is_wrong_anywhere_is_refused() {
        let right = table(&[(100, MIB), (200, MIB)], true);
        let blob_bytes = 300 + right.len() as u64;
        assert!(parse(&right, blob_bytes).is_ok());
        assert!(parse(&right, blob_bytes - 1).is_err());
        for cut in 0..right.len() {
            assert!(parse(&right[..cut], blob_bytes).is_err(), "first {cut} bytes");
            assert!(cut == 0 || parse(&right[cut..], blob_bytes).is_err(), "without {cut} bytes");
        }
        // Header, first compressed size, frame count, reserved bit, magic.
        for at in [0, 3, 4, 7, 8, 11, 32, 35, 36, 37, 40] {
            let mut wrong = right.clone();
            wrong[at] ^= 0x04;
            assert!(parse(&wrong, blob_bytes).is_err(), "byte {at}");
        }
        assert!(parse(&table(&[(0, 5), (300, 5)], true), blob_bytes).is_err());
        let mut many = *right.last_chunk::<FOOTER_BYTES>().unwrap();
        many[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(length(&many).unwrap_err().to_string().contains("ZSTD_SEEK_FRAMES_MAX"));
        assert_eq!(length(&[0; FOOTER_BYTES]).unwrap(), None);
    }
}
