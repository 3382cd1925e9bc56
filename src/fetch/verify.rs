//! The check of a whole blob against its digest, once all of it is here.
//!
//! | from      | to        | when                                                         |
//! |-----------|-----------|--------------------------------------------------------------|
//! | Open      | Running   | the last missing chunk was stored                            |
//! | Running   | Verified  | the digest matched; the chunks' own digests are known now    |
//! | Running   | Open      | a chunk went away meanwhile; or the first mismatch, or one   |
//! |           |           | while there is another host to ask, after which everything   |
//! |           |           | is dropped, to be fetched again                              |
//! | Running   | Rejected  | any later mismatch; readers get errors from now on           |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::base::{Hasher, chunk_count, process};
use crate::layer::{LayerProof, SegmentProof};

use super::feed::Feed;
use super::{Proving, lock};

/// Mismatches after which a blob is given up, unless there is another host to ask: it has then been fetched twice.
const REJECTIONS_MAX: u32 = 2;

/// How far the check has come. See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verification {
    Open { rejections: u32 },
    Running { rejections: u32 },
    Verified,
    Rejected,
}

/// What one pass over the blob found.
enum Outcome {
    Matches(SegmentProof),
    Mismatch,
    Incomplete,
}

impl Feed {
    /// Starts the check in the background if everything is here and nobody has checked it.
    pub fn verify_if_complete(self: &Arc<Self>) {
        match &self.proving {
            Proving::Whole if self.bytes > 0 && self.segment.is_complete() => {}
            Proving::Part(tell) => return tell(),
            Proving::Whole | Proving::Origin => return,
        }
        let mut begun = None;
        self.verification.send_if_modified(|now| match *now {
            Verification::Open { rejections } => {
                begun = Some(rejections);
                *now = Verification::Running { rejections };
                true
            }
            _ => false,
        });
        if let Some(rejections) = begun {
            self.clone().check(&self.fetcher.checks, move |blob| blob.verify(rejections));
        }
    }

    /// Checks, in the background and once for each process, what an earlier process has left in the cache of a
    /// blob that is complete.
    pub fn check_in_background(self: &Arc<Self>) {
        if !self.segment.is_complete() || self.is_checked.swap(true, Ordering::Relaxed) {
            return;
        }
        self.clone().check(&self.fetcher.rechecks, |blob| {
            if blob.segment.check_all() {
                blob.verify_if_complete();
            }
        });
    }

    /// Does `work` on a thread of its own, with the time that others leave unless somebody waits for its outcome; as many at
    /// once as `turns` has, which is one for each core.
    fn check(self: Arc<Self>, turns: &Arc<Semaphore>, work: impl Fn(&Arc<Self>) + Send + Sync + 'static) {
        let (fetcher, turns) = (self.fetcher.clone(), turns.clone());
        fetcher.handle.clone().spawn(async move {
            let permit = turns.acquire_owned().await;
            let is_awaited = Arc::strong_count(&self.waiting) > 1;
            let work = Arc::new(move || {
                work(&self);
                let _ = &permit;
            });
            let quiet = work.clone();
            let thread = std::thread::Builder::new().name("check".to_owned()).spawn(move || {
                if !is_awaited {
                    process::yield_to_others();
                }
                quiet();
            });
            if thread.is_err() {
                // Out of threads: one that is there already.
                fetcher.handle.spawn_blocking(move || work());
            }
        });
    }

    fn verify(self: &Arc<Self>, rejections: u32) {
        let outcome = self.pass();
        let is_wrong = matches!(outcome, Outcome::Mismatch);
        let next = match outcome {
            Outcome::Incomplete => Verification::Open { rejections },
            Outcome::Matches(proof) => {
                self.record(proof);
                Verification::Verified
            }
            Outcome::Mismatch => self.reject(rejections + 1),
        };
        self.verification.send_replace(next);
        // Last, so that whoever sees the count finds the rest as it is now.
        if is_wrong {
            self.counts.rejected(chunk_count(self.bytes));
        }
        // A chunk that came back while this pass was under way would otherwise start no other.
        if matches!(next, Verification::Open { .. }) {
            self.verify_if_complete();
        }
    }

    fn pass(&self) -> Outcome {
        let _pin = self.segment.pin();
        let mut hasher = Hasher::new(self.algorithm());
        let mut chunk_digests = Vec::new();
        let mut buffer = Vec::new();
        for chunk in 0..chunk_count(self.bytes) {
            let digest = self.segment.chunk_digest(chunk);
            if !self.segment.read_to_check(self.byte_range(chunk), &mut buffer) {
                return Outcome::Incomplete;
            }
            // Unless it went and came again meanwhile, what was read is what it was stored with.
            let Some(digest) = digest.filter(|digest| self.segment.chunk_digest(chunk) == Some(*digest))
            else {
                return Outcome::Incomplete;
            };
            hasher.update(&buffer);
            chunk_digests.push(*digest.as_bytes());
        }
        if hasher.finish() != self.digest {
            return Outcome::Mismatch;
        }
        SegmentProof::new(self.bytes, chunk_digests).map_or(Outcome::Incomplete, Outcome::Matches)
    }

    fn record(&self, proof: SegmentProof) {
        self.fetcher.record_proof(&LayerProof::of(self.digest.clone(), self.id().number, proof.clone()));
        // A second pass would have found the same.
        let _ = self.proof.set(proof);
        // What the cache did not take was not a part of it.
        self.fetcher.forget(self.id());
        tracing::info!(digest = %self.digest, bytes = self.bytes, "verified a complete blob");
    }

    /// Takes the chunks' digests from whoever has verified what this segment is a part of. Chunks that are here and
    /// do not match are dropped, and those told that may have read them.
    pub fn prove(&self, proof: SegmentProof) {
        // A second one would say the same.
        let _ = self.proof.set(proof);
        lock(&self.state).forget_brought();
        let disproves = |(chunk, bytes): &(u64, Bytes)| {
            let digest = self.proof.get().and_then(|proof| proof.chunk_digest(*chunk));
            digest != Some(blake3::hash(bytes).as_bytes())
        };
        // Those that the cache did not take are looked at too, so `|`.
        let were_wrong =
            self.drop_what_the_proof_disproves() | self.fetcher.forget(self.id()).iter().any(disproves);
        self.verification.send_replace(Verification::Verified);
        if were_wrong {
            self.tell_rejected();
        }
    }

    /// What `feeds` are the parts of does not match its digest: forgets everything, and tells those that may have read
    /// it. `for_good`: readers get errors from now on. The caller has distrusted the source of it before, once for all of
    /// them: what is asked for after this counts as new.
    pub fn disprove(feeds: &[Arc<Self>], for_good: bool) {
        let present = |feed: &Self| {
            (0..chunk_count(feed.bytes)).filter(|chunk| feed.segment.is_present(*chunk)).count() as u64
        };
        let dropped: Vec<u64> = feeds.iter().map(|feed| present(feed)).collect();
        for feed in feeds {
            feed.drop_everything();
            let next = if for_good { Verification::Rejected } else { Verification::Open { rejections: 1 } };
            feed.verification.send_replace(next);
        }
        // Last, so that whoever sees the count finds the rest as it is now.
        for (feed, dropped) in feeds.iter().zip(dropped) {
            feed.counts.rejected_with_others(dropped);
        }
        if let Some(feed) = feeds.first() {
            feed.fetcher.totals.layer_rejected();
        }
    }

    /// Nothing that was asked for until now is stored or handed out after this; see [`super::state`] for the order.
    fn drop_everything(&self) {
        self.segment.remove_all();
        lock(&self.state).forget_brought();
        self.fetcher.forget(self.id());
        self.tell_rejected();
    }

    pub(super) fn tell_rejected(&self) {
        let listeners: Vec<_> = lock(&self.listeners).iter().map(|listener| listener.tell.clone()).collect();
        for tell in listeners {
            tell();
        }
    }

    fn reject(&self, rejections: u32) -> Verification {
        tracing::error!(
            digest = %self.digest,
            bytes = self.bytes,
            rejections,
            "the complete blob does not match its digest; dropped it"
        );
        let elsewhere = self.sources.distrust(&self.digest);
        self.drop_everything();
        if rejections >= REJECTIONS_MAX && !elsewhere {
            Verification::Rejected
        } else {
            Verification::Open { rejections }
        }
    }
}
