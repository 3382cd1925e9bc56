//! eStargz (containerd/stargz-snapshotter, docs/estargz.md): a gzip layer whose files are members of their own.
//!
//! Three steps: the last [`FOOTER_BYTES`] of the blob say where the table of contents is ([`footer`]); that is a gzip
//! member which holds a tar with one file ([`read_toc`]); and that file is JSON ([`parse`]). The layer annotation
//! [`TOC_DIGEST`] is the digest of the JSON: with it, the manifest vouches for all entries and, by their chunks'
//! digests, for all bytes.
//!
//! A mode is the tar header's, with permissions in the bits 0o7777: estargz/types.go calls it "the permission and mode
//! bits" and reads it as `tar.Header.Mode`. The file's type, which old writers put above as in `st_mode` (the example
//! of docs/estargz.md has 16877 for a directory of 0755), is not needed. Times are rounded to seconds when they are
//! written, to the nearest one, so that a PAX time of half a second becomes the next second.

use super::document::{self, Layout};
use super::{Toc, listed::invalid};
use crate::base::limits::TOC_BYTES_MAX;
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::layer::encoding::Codec;
use crate::layer::gzip::GzipDecoder;
use crate::layer::restart::RestartPoint;
use crate::layer::tar::{TarItem, TarReader};
use crate::layer::{EntryKind, Extents};

/// The layer annotation with the digest of the JSON.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// Bytes at the end of a blob that say whether it is eStargz.
pub const FOOTER_BYTES: usize = 51;

/// Bytes of the footer of stargz, the format before.
const LEGACY_FOOTER_BYTES: usize = 47;

/// The file that is the table of contents.
const TOC_NAME: &str = "stargz.index.json";

/// Files at the root that are the format's own: the table of contents, and marks of what to fetch first.
const HIDDEN: [&str; 3] = [TOC_NAME, ".prefetch.landmark", ".no.prefetch.landmark"];

/// Bytes that are decompressed at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Whether an entry at `path` is a part of the format and no file of the layer.
#[must_use]
pub fn is_bookkeeping(path: &[u8]) -> bool {
    HIDDEN.iter().any(|name| name.as_bytes() == path)
}

/// What a footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Where the table of contents begins in the blob, and the contents end.
    pub toc_offset: u64,
    /// Bytes of the blob.
    pub blob_bytes: u64,
}

impl Footer {
    /// The bytes of the blob that [`read_toc`] needs.
    #[must_use]
    pub fn toc_range(&self) -> std::ops::Range<u64> {
        self.toc_offset..self.blob_bytes.saturating_sub(FOOTER_BYTES as u64)
    }
}

/// What the last bytes of a blob of `blob_bytes` say; none when this is no eStargz. `last` is [`FOOTER_BYTES`] of them,
/// or more.
///
/// # Errors
/// `Invalid` when the place of the table of contents is none; `Unsupported` when it is larger than [`TOC_BYTES_MAX`],
/// and for stargz, which has no digests of chunks. The layer is still gzip.
pub fn footer(last: &[u8], blob_bytes: u64) -> Result<Option<Footer>> {
    if last.last_chunk::<LEGACY_FOOTER_BYTES>().is_some_and(|legacy| {
        // The flag for an extra field, and its 22 bytes, which should have been a subfield.
        legacy[..4] == *b"\x1f\x8b\x08\x04" && legacy[10..12] == [22, 0] && legacy[28..34] == *b"STARGZ"
    }) {
        let text =
            "a stargz layer, the format before eStargz, whose index proves nothing: only its gzip is read";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let Some(footer) = last.last_chunk::<FOOTER_BYTES>() else { return Ok(None) };
    let is_footer = footer[..4] == *b"\x1f\x8b\x08\x04"
        && footer[10..16] == [26, 0, b'S', b'G', 22, 0]
        && footer[32..38] == *b"STARGZ";
    if !is_footer {
        return Ok(None);
    }
    let digits = &footer[16..32];
    let text = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_hexdigit));
    let toc_offset = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    let payload_end = blob_bytes.checked_sub(FOOTER_BYTES as u64);
    let Some((toc_offset, end)) = toc_offset.zip(payload_end).filter(|(offset, end)| offset < end) else {
        return Err(invalid("the footer of the eStargz layer places its table of contents nowhere"));
    };
    if end - toc_offset > TOC_BYTES_MAX {
        return Err(too_large());
    }
    Ok(Some(Footer { toc_offset, blob_bytes }))
}

/// The JSON in `compressed`, the bytes of [`Footer::toc_range`], checked against its digest where that is known.
///
/// # Errors
/// `Invalid` for anything else than a gzip with a tar with the one file; `Corrupt` for another digest; `Unsupported`
/// above [`TOC_BYTES_MAX`].
pub fn read_toc(compressed: &[u8], expected: Option<&Digest>) -> Result<Vec<u8>> {
    let mut archive = decompressed(compressed)?;
    let mut reader = TarReader::new();
    let mut place = None;
    let mut taken = 0;
    while taken < archive.len() {
        let fed = reader.feed(&archive[taken..]).map_err(in_toc)?;
        taken += fed.taken;
        match fed.item {
            None => {}
            Some(TarItem::Entry(entry))
                if place.is_none() && entry.path.as_bytes() == TOC_NAME.as_bytes() =>
            {
                if let EntryKind::File { size, extents: Extents::Contiguous { stream_offset } } = entry.kind {
                    place = Some(stream_offset..stream_offset.saturating_add(size));
                }
            }
            Some(_) => return Err(in_toc(invalid(format!("there is something else in it than {TOC_NAME}")))),
        }
    }
    reader.finish().map_err(in_toc)?;
    let place = place.ok_or_else(|| in_toc(invalid(format!("there is no {TOC_NAME} in it"))))?;
    // Within the archive, which was read to its end.
    archive.truncate(usize::try_from(place.end).unwrap_or(0));
    archive.drain(..usize::try_from(place.start).unwrap_or(0).min(archive.len()));
    if let Some(expected) = expected {
        let found = Digest::of(expected.algorithm(), &archive);
        if found != *expected {
            let text = format!("the table of contents has the digest {found}, and its layer's is {expected}");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
    }
    Ok(archive)
}

/// What the JSON says of the layer with this footer.
///
/// # Errors
/// `Invalid` for a document that is malformed or does not fit the layer, `Unsupported` beyond a limit; naming the entry.
pub fn parse(json: &[u8], footer: &Footer) -> Result<Toc> {
    let layout = Layout {
        codec: Codec::Gzip,
        payload_bytes: footer.toc_offset,
        blob_bytes: footer.blob_bytes,
        hidden: &HIDDEN,
    };
    document::parse(json, layout)
}

fn decompressed(compressed: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = GzipDecoder::resume(&RestartPoint::START)?;
    let mut bytes = Vec::new();
    let mut taken = 0;
    loop {
        let start = bytes.len();
        if start as u64 > TOC_BYTES_MAX {
            return Err(too_large());
        }
        bytes.resize(start + PIECE_BYTES, 0);
        let progress = decoder.decode(&compressed[taken..], &mut bytes[start..]).map_err(in_toc)?;
        taken += progress.consumed;
        bytes.truncate(start + progress.written);
        if progress.written < PIECE_BYTES {
            decoder.finish().map_err(in_toc)?;
            return Ok(bytes);
        }
    }
}

fn in_toc(error: Error) -> Error {
    error.context("the table of contents of the eStargz layer cannot be read")
}

fn too_large() -> Error {
    let text = format!(
        "the table of contents of the eStargz layer is larger than {TOC_BYTES_MAX} bytes (TOC_BYTES_MAX)"
    );
    Error::new(ErrorKind::Unsupported, text)
}
