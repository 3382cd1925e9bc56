//! The proof of a layer whose stream is its blob: once all of it is cached, it is hashed, read again as an archive, and
//! the digests of its chunks are recorded.
//!
//! Its index was made of bytes that nobody had checked yet. So the same bytes that gave the digest have to give the same
//! index, or the index goes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::base::{Algorithm, CHUNK_BYTES, Digest, Hasher, Result, chunk_count};
use crate::layer::tar::{TarItem, TarReader};
use crate::layer::{Entry, LayerIndex, LayerProof, LayerStream, RootAttributes, SegmentProof};

use super::Layer;
use super::segments::{WINDOW_BYTES, member_number, window_number};

/// What a reading of the cached layer found.
pub(super) enum Outcome {
    /// It is what the manifest promised.
    Proven {
        /// The digests of all chunks.
        proof: LayerProof,
        /// The digest of the stream.
        diff_id: Digest,
        /// What the archive holds, to be compared.
        entries: Vec<Entry>,
        /// Likewise.
        root: Option<RootAttributes>,
    },
    /// It is not.
    Mismatch,
    /// Something went away meanwhile.
    Incomplete,
}

/// What of a layer is missing and has to be fetched for its proof alone is at most this part of it.
const MISSING_PART: u64 = 16;

/// Whether so much of the layer is cached that it is worth fetching the rest to prove it: all members, and nearly all
/// between them. Only for a layer whose stream is its blob; others are proven by the pass over them.
pub(super) fn is_worth_it(layer: &Layer, index: &LayerIndex) -> bool {
    let Ok(segments) = layer.segments() else { return false };
    if !matches!(index.stream(), LayerStream::Plain) {
        return false;
    }
    // The sum first, since this is asked after each chunk.
    let cached: u64 = segments.feeds().iter().map(|feed| feed.segment().cached_bytes()).sum();
    let wanted = index.stream_bytes();
    if cached < wanted - wanted / MISSING_PART {
        return false;
    }
    let is_here = |at| segments.feed(member_number(at)).is_ok_and(|feed| feed.segment().is_complete());
    (0..index.member_count()).all(is_here)
}

/// Reads all of `layer`, whose index is `index`, from the cache. Waits for the disk.
///
/// # Errors
/// Those of [`super::segments::Segments::feed`].
pub(super) fn read(layer: &Arc<Layer>, index: &LayerIndex) -> Result<Outcome> {
    let algorithm = layer.blob().algorithm();
    let mut hasher = Hasher::new(algorithm);
    let mut stream_hasher = (algorithm != Algorithm::Sha256).then(|| Hasher::new(Algorithm::Sha256));
    let mut contents = Contents::default();
    let mut digests: BTreeMap<u32, Vec<[u8; 32]>> = BTreeMap::new();
    let mut block = Vec::new();
    let total = index.stream_bytes();
    let mut start = 0;
    while start < total {
        let end = (start + CHUNK_BYTES).min(total);
        block.clear();
        if !read_cached(layer, start..end, &mut block)? {
            return Ok(Outcome::Incomplete);
        }
        hasher.update(&block);
        if let Some(hasher) = &mut stream_hasher {
            hasher.update(&block);
        }
        contents.take(&block);
        layer.progressed();
        block.resize(CHUNK_BYTES as usize, 0);
        let window = window_number(start / WINDOW_BYTES);
        digests.entry(window).or_default().push(*blake3::hash(&block).as_bytes());
        start = end;
    }
    let found = hasher.finish();
    if found != *layer.blob() {
        return Ok(Outcome::Mismatch);
    }
    let diff_id = stream_hasher.map_or(found, Hasher::finish);
    let beyond = *blake3::hash(&vec![0; CHUNK_BYTES as usize]).as_bytes();
    let mut proofs = BTreeMap::new();
    for (number, mut digests) in digests {
        digests.resize(chunk_count(WINDOW_BYTES) as usize, beyond);
        proofs.insert(number, SegmentProof::new(WINDOW_BYTES, digests)?);
    }
    for at in 0..index.member_count() {
        let number = member_number(at);
        let feed = layer.segments()?.feed(number)?;
        let chunks = (0..chunk_count(feed.bytes())).map(|chunk| feed.segment().chunk_digest(chunk));
        let Some(digests) = chunks.map(|digest| digest.map(|digest| *digest.as_bytes())).collect() else {
            return Ok(Outcome::Incomplete);
        };
        proofs.insert(number, SegmentProof::new(feed.bytes(), digests)?);
    }
    let proof = LayerProof::of_segments(layer.identity.clone(), proofs);
    let Contents { entries, root, .. } = contents;
    Ok(Outcome::Proven { proof, diff_id, entries, root })
}

/// Appends `stream` from the cache; false if some of it is missing.
fn read_cached(layer: &Layer, stream: Range<u64>, out: &mut Vec<u8>) -> Result<bool> {
    let segments = layer.segments()?;
    let mut buffer = Vec::new();
    let mut start = stream.start;
    while start < stream.end {
        // As far as one segment goes: to the end of a member, or to the beginning of the next.
        let end = match segments.next_member(start) {
            Some((_, member)) if member.stream_offset <= start => {
                stream.end.min(member.stream_offset + member.bytes)
            }
            Some((_, member)) => stream.end.min(member.stream_offset),
            None => stream.end,
        };
        for place in segments.places(&(start..end)) {
            if !segments.feed(place.number)?.segment().read_to_check(place.range, &mut buffer) {
                return Ok(false);
            }
            out.extend_from_slice(&buffer);
        }
        start = end;
    }
    Ok(true)
}

/// What an archive holds, read once more.
#[derive(Default)]
struct Contents {
    reader: TarReader,
    entries: Vec<Entry>,
    root: Option<RootAttributes>,
}

impl Contents {
    fn take(&mut self, block: &[u8]) {
        let mut rest = block;
        while !rest.is_empty() {
            // What the first reading took is taken again, or the comparison fails.
            let Ok(fed) = self.reader.feed(rest) else { return };
            rest = &rest[fed.taken..];
            match fed.item {
                Some(TarItem::Entry(entry)) => self.entries.push(entry),
                Some(TarItem::Root(root)) => self.root = Some(root),
                None => {}
            }
        }
    }
}
