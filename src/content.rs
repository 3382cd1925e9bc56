//! Reads file ranges: index, cache and fetch brought together.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::base::{Digest, Result};

/// What is known about bytes that came from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing of it is here.
    Absent,
    /// Failed its check.
    Rejected,
    /// Fetched, the blob not yet complete and verified.
    Pending,
    /// Matched a digest that the manifest vouches for.
    Proven,
}

/// The content of all layers of one mount.
#[derive(Debug)]
pub struct Content {}

/// A complete, verified cache file that the kernel may read itself; pinned in the cache while this lives.
#[derive(Debug)]
pub struct DirectFile {
    /// Byte for byte the file, from offset 0.
    pub file: File,
}

impl Content {
    /// Answers from the cache alone: fills `buffer` (cleared first) with exactly the bytes `range` of
    /// the file in layer `layer`, or returns `false` and leaves the read to [`Self::read`]. May wait for the
    /// disk, never for the network. `range` must lie within the file.
    ///
    /// # Errors
    /// `Corrupt` when the content was rejected.
    pub fn read_cached(&self, layer: usize, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
        let _ = (layer, range, buffer);
        unimplemented!()
    }

    /// Reads exactly `range` of the file in layer `layer` into a buffer, from cache or network, within the
    /// configured time.
    ///
    /// # Errors
    /// `Corrupt`, or what the source failed with once its attempts were used up.
    pub async fn read(self: &Arc<Self>, layer: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let _ = (layer, range);
        unimplemented!()
    }

    /// Told for each `open` of the file in layer `layer`: starts the checks and the read-ahead state.
    pub fn opened(self: &Arc<Self>, layer: usize) {
        let _ = layer;
        unimplemented!()
    }

    /// The file in layer `layer` as a plain file for the kernel, if it is complete and verified.
    pub fn direct(&self, layer: usize) -> Option<DirectFile> {
        let _ = layer;
        unimplemented!()
    }

    /// The digest of layer `layer`.
    pub fn digest(&self, layer: usize) -> &Digest {
        let _ = layer;
        unimplemented!()
    }

    /// How many bytes of layer `layer` are cached.
    pub fn cached_bytes(&self, layer: usize) -> u64 {
        let _ = layer;
        unimplemented!()
    }

    /// What is known about the cached bytes of layer `layer`: the least proven of them.
    pub fn standing(&self, layer: usize) -> Standing {
        let _ = layer;
        unimplemented!()
    }

    /// Calls `callback` with the layer whenever bytes already served are found wrong, so that the kernel's copy
    /// can be dropped.
    pub fn on_rejected(&self, callback: Box<dyn Fn(usize) + Send + Sync>) {
        let _ = callback;
        unimplemented!()
    }
}
