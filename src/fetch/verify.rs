//! The check of a whole blob against its digest, once all of it is here.
//!
//! | from      | to        | when                                                         |
//! |-----------|-----------|--------------------------------------------------------------|
//! | Open      | Running   | the last missing chunk was stored                            |
//! | Running   | Verified  | the digest matched; the chunks' own digests are known now    |
//! | Running   | Open      | a chunk went away meanwhile; or the first mismatch, after    |
//! |           |           | which everything is dropped, to be fetched again             |
//! | Running   | Rejected  | the second mismatch; readers get errors from now on          |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{Hasher, chunk_count};
use crate::cache::DocumentKind;
use crate::layer::LayerProof;

use super::blob::Blob;
use super::lock;

/// Mismatches after which a blob is given up: it has then been fetched twice.
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
    Matches(LayerProof),
    Mismatch,
    Incomplete,
}

impl Blob {
    /// Starts the check in the background if everything is here and nobody has checked it.
    pub fn verify_if_complete(self: &Arc<Self>) {
        if self.bytes == 0 || !self.segment.is_complete() {
            return;
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
            let blob = self.clone();
            self.fetcher.handle.spawn_blocking(move || blob.verify(rejections));
        }
    }

    /// Checks, in the background and once for each process, what an earlier process has left in the cache of a
    /// blob that is complete.
    pub fn check_in_background(self: &Arc<Self>) {
        if !self.segment.is_complete() || self.is_checked.swap(true, Ordering::Relaxed) {
            return;
        }
        let blob = self.clone();
        self.fetcher.handle.spawn_blocking(move || {
            if blob.segment.check_all() {
                blob.verify_if_complete();
            }
        });
    }

    fn verify(self: Arc<Self>, rejections: u32) {
        let next = match self.pass() {
            Outcome::Incomplete => Verification::Open { rejections },
            Outcome::Matches(index) => {
                self.record(index);
                Verification::Verified
            }
            Outcome::Mismatch => self.reject(rejections + 1),
        };
        self.verification.send_replace(next);
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
            if !self.segment.read(self.byte_range(chunk), &mut buffer) {
                return Outcome::Incomplete;
            }
            hasher.update(&buffer);
            chunk_digests.push(*blake3::hash(&buffer).as_bytes());
        }
        if hasher.finish() != self.digest {
            return Outcome::Mismatch;
        }
        LayerProof::new(self.digest.clone(), self.bytes, chunk_digests)
            .map_or(Outcome::Incomplete, Outcome::Matches)
    }

    fn record(&self, index: LayerProof) {
        let encoded = index.encode();
        let cache = &self.fetcher.cache;
        if let Err(error) = cache.write_document(DocumentKind::Proof, &self.digest, &encoded) {
            tracing::warn!(digest = %self.digest, error = error.chain(), "the verified blob's index is not kept");
        }
        // A second pass would have found the same.
        let _ = self.index.set(index);
        tracing::info!(digest = %self.digest, bytes = self.bytes, "verified a complete blob");
    }

    fn reject(&self, rejections: u32) -> Verification {
        tracing::error!(
            digest = %self.digest,
            bytes = self.bytes,
            rejections,
            "the complete blob does not match its digest; dropped it"
        );
        self.count_rejected(chunk_count(self.bytes));
        lock(&self.state).turn += 1;
        self.segment.remove_all();
        self.fetcher.forget(&self.digest);
        let listeners: Vec<_> = lock(&self.listeners).iter().map(|listener| listener.tell.clone()).collect();
        for tell in listeners {
            tell();
        }
        if rejections >= REJECTIONS_MAX { Verification::Rejected } else { Verification::Open { rejections } }
    }
}
