//! What a layer is by its first bytes, whatever its media type says.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::{Digest, Result};
use crate::fetch::{BlobBytes, Sequence, Sources};
use crate::layer::decoder::Decoder;
use crate::layer::encoding::{Codec, ENCODING_BYTES, Encoding};
use crate::layer::toc::estargz;
use crate::layer::zstd::seek_table;

/// Bytes of a blob that are looked at: a whole block of zstd, which gives nothing before its end, and some.
const HEAD_BYTES: u64 = 192 << 10;

/// What a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// An archive.
    Archive,
    /// Something else.
    Other,
    /// Its first bytes do not tell.
    Unclear,
}

/// What the first bytes of a layer tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What the blob is compressed with.
    pub codec: Option<Codec>,
    /// What is inside.
    pub holds: Holds,
}

impl Probe {
    /// What a layer is that begins with `head`: some hundred kibibytes of it, or all.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        match Encoding::of(head) {
            Encoding::Compressed(codec) => Self { codec: Some(codec), holds: inside(head, codec) },
            Encoding::Tar => Self { codec: None, holds: Holds::Archive },
            Encoding::Raw if is_archive(head) => Self { codec: None, holds: Holds::Archive },
            Encoding::Raw => Self { codec: None, holds: Holds::Other },
        }
    }

    /// The same in words, for `inspect`.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match (self.codec, self.holds) {
            (None, Holds::Archive) => "tar",
            (Some(Codec::Gzip), Holds::Archive) => "tar+gzip",
            (Some(Codec::Zstd), Holds::Archive) => "tar+zstd",
            (None, Holds::Other | Holds::Unclear) => "raw",
            (Some(Codec::Gzip), Holds::Other) => "gzip",
            (Some(Codec::Zstd), Holds::Other) => "zstd",
            (Some(Codec::Gzip), Holds::Unclear) => "gzip (of what, its beginning does not show)",
            (Some(Codec::Zstd), Holds::Unclear) => "zstd (of what, its beginning does not show)",
        }
    }
}

/// Reads the first bytes of the blob `digest` of `bytes` bytes.
///
/// # Errors
/// As [`Sequence::next`].
pub async fn probe(sources: &Arc<Sources>, digest: &Digest, bytes: u64, counter: BlobBytes) -> Result<Probe> {
    let wanted = bytes.min(HEAD_BYTES);
    let mut head = Vec::new();
    let mut sequence = Sequence::part(Arc::clone(sources), digest.clone(), bytes, 0..wanted, counter);
    while let Some(piece) = sequence.next().await? {
        head.extend_from_slice(&piece);
    }
    Ok(Probe::of(&head))
}

/// The index at the end of a compressed layer that nothing but its last bytes tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailIndex {
    /// The sizes of the frames of a zstd layer.
    SeekTable,
    /// The table of contents of an eStargz layer, for which no annotation vouches.
    Estargz,
}

impl TailIndex {
    /// What a layer, compressed with `codec`, carries whose blob of `blob_bytes` ends in `last`: [`estargz::FOOTER_BYTES`]
    /// of it, or all. What is malformed is none.
    fn of(last: &[u8], blob_bytes: u64, codec: Codec) -> Option<Self> {
        match codec {
            Codec::Zstd => {
                let length = seek_table::length(last.last_chunk()?).ok().flatten()?;
                (length <= blob_bytes).then_some(Self::SeekTable)
            }
            Codec::Gzip => estargz::footer(last, blob_bytes).ok().flatten().map(|_| Self::Estargz),
        }
    }
}

/// Reads the last bytes of the blob `digest` of `bytes` bytes, compressed with `codec`.
///
/// # Errors
/// As [`Sequence::next`].
pub async fn tail_index(
    sources: &Arc<Sources>,
    digest: &Digest,
    bytes: u64,
    codec: Codec,
    counter: BlobBytes,
) -> Result<Option<TailIndex>> {
    let from = bytes.saturating_sub(estargz::FOOTER_BYTES as u64);
    let mut last = Vec::new();
    let mut sequence = Sequence::part(Arc::clone(sources), digest.clone(), bytes, from..bytes, counter);
    while let Some(piece) = sequence.next().await? {
        last.extend_from_slice(&piece);
    }
    Ok(TailIndex::of(&last, bytes, codec))
}

/// Whether a stream that begins with `first` is taken for an archive. One without entries is nothing but zeros.
pub(super) fn is_archive(first: &[u8]) -> bool {
    let head = &first[..first.len().min(ENCODING_BYTES)];
    Encoding::of(head) == Encoding::Tar || head.iter().all(|byte| *byte == 0)
}

fn inside(head: &[u8], codec: Codec) -> Holds {
    let mut first = [0; ENCODING_BYTES];
    let mut filled = 0;
    let Ok(mut decoder) = Decoder::new(codec) else { return Holds::Unclear };
    let mut rest = Bytes::copy_from_slice(head);
    while filled < first.len() {
        // What is malformed is found where all of it is read, with its place.
        let Ok(progress) = decoder.decode(&rest, &mut first[filled..]) else { return Holds::Unclear };
        filled += progress.written;
        let _ = rest.split_to(progress.consumed);
        if progress.written == 0 && rest.is_empty() {
            break;
        }
    }
    match filled {
        0 if decoder.finish().is_ok() => Holds::Archive,
        ENCODING_BYTES => {
            if is_archive(&first) {
                Holds::Archive
            } else {
                Holds::Other
            }
        }
        // Shorter than any archive, if this is all of it.
        _ if decoder.finish().is_ok() => Holds::Other,
        _ => Holds::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn an_index_at_the_end_is_told_by_the_last_bytes() {
        let mut table = vec![0; 100];
        table.extend([1, 0, 0, 0, 0]);
        table.extend(0x8f92_eab1_u32.to_le_bytes());
        let bytes = table.len() as u64;
        assert_eq!(TailIndex::of(&table, bytes, Codec::Zstd), Some(TailIndex::SeekTable));
        assert_eq!(TailIndex::of(&table, 20, Codec::Zstd), None, "longer than the blob");
        assert_eq!(TailIndex::of(&table, bytes, Codec::Gzip), None);
        assert_eq!(TailIndex::of(b"short", 5, Codec::Zstd), None);
        let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
        footer.extend(b"0000000000000010STARGZ");
        footer.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(TailIndex::of(&footer, 1000, Codec::Gzip), Some(TailIndex::Estargz));
    }

    #[test]
    fn what_is_inside_counts_and_not_what_it_is_called() {
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let empty_tar = [0; 1024];
        let text = b"no archive at all, but long enough to have been one".repeat(20);
        for (head, described) in [
            (empty_tar.to_vec(), "tar"),
            (Vec::new(), "tar"),
            (gzip(&empty_tar), "tar+gzip"),
            (gzip(b""), "tar+gzip"),
            (zstd(&empty_tar), "tar+zstd"),
            (text.clone(), "raw"),
            (gzip(&text), "gzip"),
            (gzip(b"short"), "gzip"),
            (zstd(&text), "zstd"),
            (gzip(&text)[..20].to_vec(), "gzip (of what, its beginning does not show)"),
        ] {
            assert_eq!(Probe::of(&head).describe(), described);
        }
    }
}
