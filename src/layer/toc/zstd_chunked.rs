//! zstd:chunked (containers/storage, pkg/chunked): a zstd layer whose files are frames of their own.
//!
//! Two layer annotations say where in the blob the table of contents is, which the format calls manifest, and what its
//! digest is ([`position`]). It is JSON in a zstd frame that is the payload of a skippable frame ([`read_toc`],
//! [`parse`]). The digest is that of the compressed bytes, so that with it the manifest vouches for all entries and, by
//! the digests of chunks, for all bytes. A file in one piece has no digest of a chunk; that of the file stands for it.
//! Chunks of the type `zeros` are stored and yet need not be read.
//!
//! What a writer of the format adds for putting the tar together again (tar-split) is not read; nor is the footer,
//! which says what the annotations say and is vouched for by nobody.

use std::collections::BTreeMap;
use std::ops::Range;

use super::document::{self, Layout};
use super::{Toc, listed::invalid};
use crate::base::limits::TOC_BYTES_MAX;
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::layer::encoding::Codec;

/// Beginnings of the annotations' names: today's, and that of the first writers, who are still in use.
const PREFIXES: [&str; 2] = ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."];

/// Bytes of a skippable frame before its payload.
const SKIPPABLE_HEADER_BYTES: u64 = 8;

/// The only type of a table of contents.
const TYPE_CRFS: u64 = 1;

/// Where a layer's table of contents is, as the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Where it begins in the blob.
    pub offset: u64,
    /// Its bytes there.
    pub compressed_bytes: u64,
    /// The bytes of its JSON.
    pub json_bytes: u64,
    /// The digest of the compressed bytes.
    pub digest: Digest,
}

impl Position {
    /// The bytes of the blob that [`read_toc`] needs.
    #[must_use]
    pub fn toc_range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.compressed_bytes)
    }
}

/// What the annotations of a layer of `blob_bytes` say; none when this is no zstd:chunked.
///
/// # Errors
/// `Invalid` when they are malformed, place it nowhere or give no digest; `Unsupported` for another type and above
/// [`TOC_BYTES_MAX`]. The layer is still zstd.
pub fn position(annotations: &BTreeMap<String, String>, blob_bytes: u64) -> Result<Option<Position>> {
    let find = |prefix: &str, name: &str| annotations.get(&format!("{prefix}{name}"));
    let Some((prefix, text)) =
        PREFIXES.iter().find_map(|prefix| find(prefix, "manifest-position").map(|text| (prefix, text)))
    else {
        return Ok(None);
    };
    let wrong = |what: &str| invalid(format!("the annotation {prefix}manifest-position, {text:?}, {what}"));
    let numbers: Option<Vec<u64>> = text.split(':').map(decimal).collect();
    let Some([offset, compressed_bytes, json_bytes, kind]) = numbers.as_deref() else {
        return Err(wrong("is not four numbers"));
    };
    let (offset, compressed_bytes, json_bytes) = (*offset, *compressed_bytes, *json_bytes);
    if *kind != TYPE_CRFS {
        let text = format!("a table of contents of type {kind}, and only {TYPE_CRFS} is known");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if compressed_bytes > TOC_BYTES_MAX || json_bytes > TOC_BYTES_MAX {
        let text = format!("a table of contents larger than {TOC_BYTES_MAX} bytes (TOC_BYTES_MAX)");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let end = offset.checked_add(compressed_bytes);
    if offset < SKIPPABLE_HEADER_BYTES || compressed_bytes == 0 || end.is_none_or(|end| end > blob_bytes) {
        return Err(wrong(&format!("is no place in a layer of {blob_bytes} bytes")));
    }
    let digest = find(prefix, "manifest-checksum").ok_or_else(|| wrong("stands there without a checksum"))?;
    Ok(Some(Position { offset, compressed_bytes, json_bytes, digest: digest.parse()? }))
}

/// The JSON in `compressed`, the bytes of [`Position::toc_range`].
///
/// # Errors
/// `Corrupt` for another digest; `Invalid` for what is no zstd or of another size.
pub fn read_toc(compressed: &[u8], position: &Position) -> Result<Vec<u8>> {
    let found = Digest::of(position.digest.algorithm(), compressed);
    if found != position.digest {
        let expected = &position.digest;
        let text = format!("the table of contents has the digest {found}, and its layer's is {expected}");
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    let wrong = || invalid("the table of contents does not decompress to the size that was said");
    let bytes = usize::try_from(position.json_bytes.min(TOC_BYTES_MAX)).map_err(|_| wrong())?;
    let json = ::zstd::bulk::decompress(compressed, bytes).map_err(|_| wrong())?;
    if json.len() as u64 == position.json_bytes { Ok(json) } else { Err(wrong()) }
}

/// What the JSON says of the layer of `blob_bytes` in which it stands at this position.
///
/// # Errors
/// `Invalid` for a document that is malformed or does not fit the layer, `Unsupported` beyond a limit; naming the entry.
pub fn parse(json: &[u8], position: &Position, blob_bytes: u64) -> Result<Toc> {
    let layout = Layout {
        codec: Codec::Zstd,
        payload_bytes: position.offset.saturating_sub(SKIPPABLE_HEADER_BYTES),
        blob_bytes,
        hidden: &[],
    };
    document::parse(json, layout)
}

/// A number of digits alone.
fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}
