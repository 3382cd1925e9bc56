//! Layers that carry, or are accompanied by, an index of their own: no pass over them is needed.
//!
//! The annotations of eStargz and zstd:chunked are a part of the manifest, so what they vouch for is trusted. A seek table
//! and a zTOC only save the way: what is found by them is as good as any other byte that was not checked yet.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::base::limits::ZTOC_BYTES_MAX;
use crate::base::{Digest, Error, ErrorKind, Result, ResultExt as _};
use crate::fetch::Sequence;
use crate::layer::restart::RestartTable;
use crate::layer::tar::TarItem;
use crate::layer::toc::{Toc, estargz, zstd_chunked, ztoc};
use crate::layer::zstd::seek_table;
use crate::layer::{Entry, EntryKind, IndexParts, LayerStream};
use crate::oci::Descriptor;

use super::Layer;

/// An index that a manifest or a referrer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnIndex {
    /// The table of contents of an eStargz layer has this digest.
    Estargz(Digest),
    /// That of a zstd:chunked layer stands here.
    ZstdChunked(zstd_chunked::Position),
    /// A blob beside the layer is its zTOC.
    Soci(Descriptor),
}

impl OwnIndex {
    /// What the `annotations` of a layer of `blob_bytes` say that it carries. What cannot be read is none, with a warning.
    #[must_use]
    pub fn of(
        annotations: &BTreeMap<String, String>,
        blob_bytes: u64,
        warnings: &mut Vec<String>,
    ) -> Option<Self> {
        let mut warn = |error: &Error| warnings.push(format!("its own index is not used: {}", error.chain()));
        match zstd_chunked::position(annotations, blob_bytes) {
            Ok(Some(position)) => return Some(Self::ZstdChunked(position)),
            Ok(None) => {}
            Err(error) => warn(&error),
        }
        match annotations.get(estargz::TOC_DIGEST).map(|digest| digest.parse()) {
            Some(Ok(digest)) => Some(Self::Estargz(digest)),
            Some(Err(error)) => {
                warn(&error);
                None
            }
            None => None,
        }
    }

    /// Its short name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Estargz(_) => "estargz",
            Self::ZstdChunked(_) => "zstd:chunked",
            Self::Soci(_) => "soci",
        }
    }

    /// What names it among those that a layer could be said to have.
    pub(super) fn digest(&self) -> &Digest {
        match self {
            Self::Estargz(digest) => digest,
            Self::ZstdChunked(position) => &position.digest,
            Self::Soci(descriptor) => &descriptor.digest,
        }
    }

    /// The blob that it is read from, where it is that of `layer` or one beside it.
    pub(super) fn blob<'a>(&'a self, layer: &'a Digest) -> &'a Digest {
        match self {
            Self::Estargz(_) | Self::ZstdChunked(_) => layer,
            Self::Soci(descriptor) => &descriptor.digest,
        }
    }

    /// Whether `item` is a part of the index itself and no file of the layer, which shows where the layer is read as if it
    /// had none.
    pub(super) fn is_bookkeeping(&self, item: &TarItem) -> bool {
        match (self, item) {
            // The same converter makes both, and marks both.
            (Self::Estargz(_) | Self::ZstdChunked(_), TarItem::Entry(entry)) => {
                estargz::is_bookkeeping(entry.path.as_bytes())
            }
            _ => false,
        }
    }

    /// Whether the manifest vouches for what it says.
    pub(super) fn is_trusted(&self) -> bool {
        match self {
            Self::Estargz(_) | Self::ZstdChunked(_) => true,
            Self::Soci(_) => false,
        }
    }
}

/// What `own` says of `layer`.
///
/// # Errors
/// What fetching it failed with; `Corrupt` when it is not what was vouched for; `Invalid` for one that makes no sense.
pub(super) async fn read(layer: &Layer, own: &OwnIndex) -> Result<IndexParts> {
    let toc = match own {
        OwnIndex::Estargz(digest) => {
            let from = layer.blob_bytes.saturating_sub(estargz::FOOTER_BYTES as u64);
            let last = range(layer, from..layer.blob_bytes).await?;
            let footer = estargz::footer(&last, layer.blob_bytes)?;
            let footer =
                footer.ok_or_else(|| Error::new(ErrorKind::Invalid, "it has no footer of eStargz"))?;
            let compressed = range(layer, footer.toc_range()).await?;
            estargz::parse(&estargz::read_toc(&compressed, Some(digest))?, &footer)?
        }
        OwnIndex::ZstdChunked(position) => {
            let compressed = range(layer, position.toc_range()).await?;
            let json = zstd_chunked::read_toc(&compressed, position)?;
            zstd_chunked::parse(&json, position, layer.blob_bytes)?
        }
        OwnIndex::Soci(descriptor) => return soci(layer, descriptor).await,
    };
    let Toc { mut entries, root, spans, stream_bytes, members, warnings } = toc;
    entries.retain(|entry| !estargz::is_bookkeeping(entry.path.as_bytes()));
    if let Some(entry) = entries.iter().find(|entry| is_lossy(entry)) {
        let text = format!("the name of {:?} was not UTF-8, which its JSON cannot hold", entry.path);
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    if let Some(span) = spans.spans().find(|span| span.digest.is_none()) {
        // Its stream is not what the layer's own digest is of, so that nothing else could ever prove it.
        let text = format!("it has no digest of the chunk at {} of the layer", span.compressed_offset);
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(IndexParts {
        layer: layer.blob.clone(),
        blob_bytes: layer.blob_bytes,
        stream_bytes,
        diff_id: None,
        stream: LayerStream::Spans(spans),
        root,
        entries,
        members,
        warnings,
        carried: Some(own.name().into()),
        trusted: own.is_trusted(),
    })
}

/// Whether a name in `entry` is what is left of one that JSON cannot hold.
fn is_lossy(entry: &Entry) -> bool {
    const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
    let holds = |name: &[u8]| name.windows(REPLACEMENT.len()).any(|part| part == REPLACEMENT);
    let target = match &entry.kind {
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => &target[..],
        _ => b"",
    };
    holds(entry.path.as_bytes()) || holds(target)
}

async fn soci(layer: &Layer, descriptor: &Descriptor) -> Result<IndexParts> {
    let of_ztoc = || format!("the zTOC {}", descriptor.digest);
    if descriptor.size > ZTOC_BYTES_MAX {
        let text =
            format!("{} has {} bytes, above {ZTOC_BYTES_MAX} (ZTOC_BYTES_MAX)", of_ztoc(), descriptor.size);
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    let sources = Arc::clone(&layer.sources);
    let sequence = Sequence::new(sources, descriptor.digest.clone(), descriptor.size, layer.counter());
    let bytes = collect(sequence).await.context(of_ztoc)?;
    if Digest::of(descriptor.digest.algorithm(), &bytes) != descriptor.digest {
        return Err(Error::new(ErrorKind::Corrupt, format!("{} does not match its digest", of_ztoc())));
    }
    let ztoc = ztoc::parse(&bytes, layer.blob_bytes).context(of_ztoc)?;
    Ok(IndexParts {
        layer: layer.blob.clone(),
        blob_bytes: layer.blob_bytes,
        stream_bytes: ztoc.stream_bytes,
        diff_id: None,
        stream: LayerStream::Restart(ztoc.points),
        root: ztoc.root,
        entries: ztoc.entries,
        members: ztoc.members,
        warnings: Vec::new(),
        carried: Some("soci".into()),
        trusted: false,
    })
}

/// The frames of a zstd layer, if it ends in a table of them that makes sense.
pub(super) async fn seek_table(layer: &Layer) -> Result<Option<RestartTable>> {
    let footer_bytes = seek_table::FOOTER_BYTES as u64;
    let Some(from) = layer.blob_bytes.checked_sub(footer_bytes) else { return Ok(None) };
    let footer = range(layer, from..layer.blob_bytes).await?;
    let Some(footer) = footer.first_chunk::<{ seek_table::FOOTER_BYTES }>() else { return Ok(None) };
    let not_used = |error: Error| {
        tracing::warn!(digest = %layer.blob, error = error.chain(), "a seek table is not used");
        None
    };
    let table = match seek_table::length(footer) {
        Ok(Some(length)) => length,
        Ok(None) => return Ok(None),
        Err(error) => return Ok(not_used(error)),
    };
    let Some(from) = layer.blob_bytes.checked_sub(table) else { return Ok(None) };
    let bytes = range(layer, from..layer.blob_bytes).await?;
    Ok(seek_table::parse(&bytes, layer.blob_bytes).map_or_else(not_used, Some))
}

/// The bytes `range` of the layer's blob; not cached.
async fn range(layer: &Layer, range: Range<u64>) -> Result<Vec<u8>> {
    let sources = Arc::clone(&layer.sources);
    collect(Sequence::part(sources, layer.blob.clone(), layer.blob_bytes, range, layer.counter())).await
}

async fn collect(mut sequence: Sequence) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = sequence.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
