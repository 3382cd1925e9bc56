//! The segments of a layer's stream: which piece of it is cached where, and who brings it.
//!
//! Each large file is a segment of its own, a *member*, byte for byte the file. Everything else is cached in *windows*:
//! the stream cut at fixed distances, because its length is not known while it is read for the first time. A window
//! also has room for the members' bytes; only the chunks at their ends, which hold others' bytes too, are ever filled.
//! The last window goes on with zeros beyond the stream's end, so that all its chunks are whole.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::base::{CHUNK_BYTES, Digest, Result};
use crate::cache::SegmentId;
use crate::fetch::{Counters, Feed, Fetcher, Origin, Passage, Proving, SegmentSpec, Sources, Tell};
use crate::layer::{LayerProof, Member};

use super::stream::{StreamPart, StreamSource};

/// Bytes of a window. Its table of chunks takes 48 KiB of memory, and a stream of a terabyte has a thousand.
pub(super) const WINDOW_BYTES: u64 = 1 << 30;

/// A part of a segment that holds a part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's number.
    pub number: u32,
    /// The bytes of the segment.
    pub range: Range<u64>,
}

/// The number of a window; 0 is the blob itself, for those that show it as it is.
pub(super) fn window_number(window: u64) -> u32 {
    u32::try_from(window * 2 + 1).unwrap_or(u32::MAX)
}

/// The number of a member.
pub(super) fn member_number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX).saturating_mul(2).saturating_add(2)
}

/// What all segments of a layer have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) fetcher: Arc<Fetcher>,
    /// What the layer is called in the cache.
    pub(super) identity: Digest,
    pub(super) blob: Digest,
    pub(super) stream: Arc<dyn StreamSource>,
    pub(super) sources: Arc<Sources>,
    pub(super) proving: Proving,
    /// Whether the rest of a file is fetched once it is plainly being read through.
    pub(super) whole_files: bool,
    /// Told when bytes that were handed out turn out to be wrong.
    pub(super) on_rejected: OnRejected,
}

/// A callback.
#[derive(Clone)]
pub(super) struct OnRejected(pub(super) Tell);

impl std::fmt::Debug for OnRejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnRejected")
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Segments {
    common: Common,
    members: RwLock<Vec<Member>>,
    proof: OnceLock<LayerProof>,
    /// Raised once every feed has its part of the proof.
    is_proven: AtomicBool,
    open: Mutex<Open>,
    /// What was counted for feeds that are not used any more.
    retired: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Open {
    feeds: HashMap<u32, Arc<Feed>>,
    /// While somebody reads the whole layer: what goes by of each segment.
    passages: Option<HashMap<u32, Arc<Passage>>>,
}

impl Segments {
    pub(super) fn new(common: Common, members: Vec<Member>, proof: Option<LayerProof>) -> Self {
        Self {
            common,
            members: RwLock::new(members),
            is_proven: AtomicBool::new(proof.is_some()),
            proof: proof.map_or_else(OnceLock::new, OnceLock::from),
            open: Mutex::default(),
            retired: Mutex::default(),
        }
    }

    /// Forgets what a reading found that is begun again.
    pub(super) fn reset(&self) {
        self.members.write().unwrap_or_else(PoisonError::into_inner).clear();
        let retired = std::mem::take(&mut *self.open());
        let counters = sum(retired.feeds.values());
        let mut sums = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        *sums = sums.plus(counters);
    }

    /// What was counted for all feeds.
    pub(super) fn counters(&self) -> Counters {
        let open = self.open();
        let retired = *self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.plus(sum(open.feeds.values()))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All members found so far, in the order of the stream.
    pub(super) fn members(&self) -> Vec<Member> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds the next member of the stream, and returns its number.
    pub(super) fn add_member(&self, member: Member) -> u32 {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        match members.binary_search_by_key(&member.stream_offset, |known| known.stream_offset) {
            Ok(at) => member_number(at),
            Err(at) => {
                members.insert(at, member);
                member_number(at)
            }
        }
    }

    /// The member that holds all of `stream`, and its number.
    pub(super) fn member_of(&self, stream: &Range<u64>) -> Option<(u32, Member)> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let after = members.partition_point(|member| member.stream_offset <= stream.start);
        let at = after.checked_sub(1)?;
        let member = members[at];
        let end = member.stream_offset + member.bytes;
        (stream.end <= end).then(|| (member_number(at), member))
    }

    /// The first member that ends after `stream_offset`, and its number.
    pub(super) fn next_member(&self, stream_offset: u64) -> Option<(u32, Member)> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let at = members.partition_point(|member| member.stream_offset + member.bytes <= stream_offset);
        members.get(at).map(|member| (member_number(at), *member))
    }

    /// Where `stream` is cached, piece by piece.
    pub(super) fn places(&self, stream: &Range<u64>) -> Vec<Place> {
        if let Some((number, member)) = self.member_of(stream) {
            let start = member.stream_offset;
            return vec![Place { number, range: stream.start - start..stream.end - start }];
        }
        let mut places = Vec::new();
        let mut start = stream.start;
        while start < stream.end {
            let window = start / WINDOW_BYTES;
            let base = window * WINDOW_BYTES;
            let end = stream.end.min(base + WINDOW_BYTES);
            places.push(Place { number: window_number(window), range: start - base..end - base });
            start = end;
        }
        places
    }

    /// Where in the stream the segment `number` begins, and its bytes.
    fn extent(&self, number: u32) -> (u64, u64) {
        if number % 2 == 1 {
            return (u64::from(number / 2) * WINDOW_BYTES, WINDOW_BYTES);
        }
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let member = members.get((number / 2).saturating_sub(1) as usize);
        member.map_or((0, 0), |member| (member.stream_offset, member.bytes))
    }

    /// The feed of the segment `number`, which [`Self::places`] named.
    ///
    /// # Errors
    /// As [`Fetcher::feed`].
    pub(super) fn feed(&self, number: u32) -> Result<Arc<Feed>> {
        if let Some(feed) = self.open().feeds.get(&number) {
            return Ok(Arc::clone(feed));
        }
        let (start, bytes) = self.extent(number);
        let common = &self.common;
        let part = StreamPart { stream: Arc::clone(&common.stream), start };
        let proof_of = |number| self.proof.get().and_then(|proof| proof.segment(number));
        let proof = proof_of(number);
        let came_without = proof.is_none();
        let spec = SegmentSpec {
            id: SegmentId { layer: common.identity.clone(), number },
            blob: common.blob.clone(),
            bytes,
            origin: Origin::Made(Arc::new(part)),
            sources: Arc::clone(&common.sources),
            proving: common.proving.clone(),
            proof: proof.filter(|proof| proof.bytes() == bytes).cloned(),
        };
        // A window is no file.
        let is_member = number.is_multiple_of(2);
        let made = common.fetcher.feed(spec, is_member && common.whole_files)?;
        let mut open = self.open();
        if let Some(feed) = open.feeds.get(&number) {
            return Ok(Arc::clone(feed));
        }
        made.on_rejected(Arc::clone(&common.on_rejected.0));
        if let Some(passages) = &mut open.passages {
            passages.insert(number, Arc::new(Passage::begin(Arc::clone(&made))));
        }
        open.feeds.insert(number, Arc::clone(&made));
        drop(open);
        // A proof that came while the feed was made may have missed it.
        if let Some(proof) = proof_of(number).filter(|_| came_without) {
            made.prove(proof.clone());
        }
        Ok(made)
    }

    /// All feeds that are in use.
    pub(super) fn feeds(&self) -> Vec<Arc<Feed>> {
        self.open().feeds.values().cloned().collect()
    }

    /// From now on everything goes by, from the start.
    pub(super) fn begin_passages(&self) {
        let mut open = self.open();
        let passages =
            open.feeds.iter().map(|(number, feed)| (*number, Arc::new(Passage::begin(feed.clone()))));
        open.passages = Some(passages.collect());
    }

    /// What goes by of the segment `number`, between [`Self::begin_passages`] and [`Self::end_passages`].
    pub(super) fn passage(&self, number: u32) -> Result<Option<Arc<Passage>>> {
        self.feed(number)?;
        Ok(self.open().passages.as_ref().and_then(|passages| passages.get(&number).cloned()))
    }

    /// Everything has gone by, or nothing more will because of `failure`.
    pub(super) fn end_passages(&self, failure: Option<&crate::base::Error>) {
        let passages = self.open().passages.take();
        for passage in passages.iter().flat_map(HashMap::values) {
            if let Some(failure) = failure {
                passage.fail(failure.clone());
            }
        }
    }

    /// The layer was verified, and these are the digests of its chunks.
    pub(super) fn prove(&self, proof: LayerProof) {
        let _ = self.proof.set(proof);
        let Some(proof) = self.proof.get() else { return };
        for feed in self.feeds() {
            if let Some(segment) = proof.segment(feed.id().number) {
                feed.prove(segment.clone());
            }
        }
        self.is_proven.store(true, Ordering::Release);
    }

    /// Whether the digests of all chunks are known, and checked by.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Acquire) || matches!(self.common.proving, Proving::Origin)
    }

    /// Chunks of window `window`, a part of a stream of `stream_bytes`, that hold bytes of no member alone.
    pub(super) fn shared_chunks(&self, stream_bytes: u64) -> Vec<u64> {
        let mut shared = Vec::new();
        let mut chunk = 0;
        while chunk * CHUNK_BYTES < stream_bytes {
            let bytes = chunk * CHUNK_BYTES..((chunk + 1) * CHUNK_BYTES).min(stream_bytes);
            match self.member_of(&bytes) {
                // To the last chunk that it does not fill.
                Some((_, member)) => {
                    chunk = ((member.stream_offset + member.bytes) / CHUNK_BYTES).max(chunk + 1);
                }
                None => {
                    shared.push(chunk);
                    chunk += 1;
                }
            }
        }
        shared
    }
}

fn sum<'a>(feeds: impl Iterator<Item = &'a Arc<Feed>>) -> Counters {
    feeds.fold(Counters::default(), |sum, feed| sum.plus(feed.counters()))
}
