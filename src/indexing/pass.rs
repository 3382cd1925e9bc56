//! The pass over a compressed layer: one reading from the start that decodes, sorts and hashes at once.
//!
//! Four stages, each on a thread of its own and each at most a few mebibytes ahead of the next: the bytes come from the
//! source, are decoded into blocks of the stream, and the blocks are sorted ([`super::sorter`]) and hashed beside it.
//! Nobody who serves a reader waits for any of them. A pass ends with everything that can be known of its layer, and only
//! if the blob matched its digest.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::base::{Algorithm, CHUNK_BYTES, Digest, Error, ErrorKind, Hasher, Result};
use crate::fetch::Sequence;
use crate::layer::decoder::Decoder;
use crate::layer::restart::RestartTable;

use super::points::Points;
use super::sorter::{Sorted, Sorter};
use super::turn::Turn;

/// Pieces of the blob that wait for the decoder: about two mebibytes of what a connection gives at once.
const PIECES_AHEAD: usize = 64;

/// Blocks of the stream that wait for a stage.
const BLOCKS_AHEAD: usize = 8;

/// What a pass found.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) sorted: Sorted,
    pub(super) points: RestartTable,
    pub(super) diff_id: Digest,
    pub(super) stream_bytes: u64,
}

/// What is hashed.
enum Hashed {
    Blob(Bytes),
    Stream(Bytes),
}

/// Reads all of `sequence` as the blob `blob`, in its `turn`.
///
/// # Errors
/// What the sources failed with; `Invalid` and `Unsupported` for a layer that is malformed, with the place; `Corrupt`
/// when the blob does not match its digest.
pub(super) async fn run(
    mut sequence: Sequence,
    turn: &mut Turn,
    blob: &Digest,
    blob_bytes: u64,
    points: Arc<Points>,
    sorter: Sorter,
) -> Result<Passed> {
    let (pieces, pieces_in) = channel(PIECES_AHEAD);
    let (to_sort, sort_in) = channel(BLOCKS_AHEAD);
    let (to_hash, hash_in) = channel(PIECES_AHEAD);
    let decoder = Decoder::new(points.codec())?;
    let decoding = Decoding { decoder, points: Arc::clone(&points), to_sort, to_hash: to_hash.clone() };
    let decoding = tokio::task::spawn_blocking(move || decoding.run(pieces_in));
    let sorting = tokio::task::spawn_blocking(move || sort(sorter, sort_in));
    let algorithm = blob.algorithm();
    let hashing = tokio::task::spawn_blocking(move || hash(algorithm, hash_in));
    let fetched = fetch(&mut sequence, turn, &pieces, &to_hash).await;
    // The ends of the channels, and with them of the stages.
    drop((pieces, to_hash));
    let broken = |_| Error::new(ErrorKind::Io, "a stage of the pass broke off");
    let decoded = decoding.await.map_err(broken)?;
    let sorted = sorting.await.map_err(broken)?;
    let (found, diff_id) = hashing.await.map_err(broken)?;
    // The first stage that failed says why; what comes before it was only not taken any more, and what comes after it
    // ended too early.
    fetched?;
    let stream_bytes = decoded?;
    let sorted = sorted?;
    if found != *blob {
        let text = format!("layer {blob}: the bytes do not match the digest, they have {found}");
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    let points = points.finish(blob_bytes, stream_bytes)?;
    Ok(Passed { sorted, points, diff_id, stream_bytes })
}

/// Hands the blob on, piece by piece, for as long as it is taken.
async fn fetch(
    sequence: &mut Sequence,
    turn: &mut Turn,
    pieces: &Sender<Bytes>,
    to_hash: &Sender<Hashed>,
) -> Result<()> {
    while let Some(piece) = turn.lend_while(sequence.next()).await? {
        let hashed = to_hash.send(Hashed::Blob(piece.clone())).await;
        if hashed.is_err() || pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The stage that decodes.
struct Decoding {
    decoder: Decoder,
    points: Arc<Points>,
    to_sort: Sender<Bytes>,
    to_hash: Sender<Hashed>,
}

impl Decoding {
    /// Bytes of the stream.
    fn run(mut self, mut pieces: Receiver<Bytes>) -> Result<u64> {
        let mut block = Block::new();
        while let Some(mut piece) = pieces.blocking_recv() {
            loop {
                let progress = self.decoder.decode(&piece, block.room())?;
                block.filled += progress.written;
                let _ = piece.split_to(progress.consumed);
                self.points.add(&self.decoder.take_points());
                if block.filled < block.bytes.len() {
                    break;
                }
                if !self.hand_on(block.take()) {
                    return Ok(0);
                }
            }
        }
        self.decoder.finish()?;
        if block.filled > 0 {
            self.hand_on(block.take());
        }
        Ok(self.decoder.position().stream_offset)
    }

    /// Whether anybody takes it.
    fn hand_on(&self, block: Bytes) -> bool {
        let hashed = self.to_hash.blocking_send(Hashed::Stream(block.clone())).is_ok();
        hashed && self.to_sort.blocking_send(block).is_ok()
    }
}

/// A block of the stream in the making: as large as a chunk, so that it is one.
struct Block {
    bytes: Vec<u8>,
    filled: usize,
}

impl Block {
    fn new() -> Self {
        Self { bytes: vec![0; CHUNK_BYTES as usize], filled: 0 }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    fn take(&mut self) -> Bytes {
        let mut bytes = std::mem::replace(self, Self::new());
        bytes.bytes.truncate(bytes.filled);
        bytes.bytes.into()
    }
}

fn sort(mut sorter: Sorter, mut blocks: Receiver<Bytes>) -> Result<Sorted> {
    while let Some(block) = blocks.blocking_recv() {
        sorter.take(block)?;
    }
    sorter.finish()
}

/// The digests of the blob and of the stream.
fn hash(algorithm: Algorithm, mut blocks: Receiver<Hashed>) -> (Digest, Digest) {
    // Image-spec, config.md: a diff_id is a sha256 digest in all images there are.
    let (mut blob, mut stream) = (Hasher::new(algorithm), Hasher::new(Algorithm::Sha256));
    while let Some(block) = blocks.blocking_recv() {
        match block {
            Hashed::Blob(bytes) => blob.update(&bytes),
            Hashed::Stream(bytes) => stream.update(&bytes),
        }
    }
    (blob.finish(), stream.finish())
}
