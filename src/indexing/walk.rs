//! The walk over an archive whose stream can be entered anywhere: from header to header, past the bodies.
//!
//! The headers are read through the windows' feeds, a chunk at a time, so that what stands around them is cached. Through
//! small files the chunks follow each other, and more and more of them are asked for at once; over a large body the walk
//! jumps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::backoff::Backoff;
use crate::base::{CHUNK_BYTES, Result, chunk_count};
use crate::layer::tar::TarReader;

use super::Layer;
use super::segments::{WINDOW_BYTES, window_number};
use super::sorter::{end_warnings, member_of};
use super::turn::Turn;

/// Between the attempts to get a chunk: those of the fetch itself are used up then.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// How long one attempt may go without any progress.
const ATTEMPT: Duration = Duration::from_secs(100);

/// Tells all entries of `layer`, whose stream of `stream_bytes` is an archive. Returns what may surprise.
///
/// # Errors
/// Those of the tar reader; what the sources failed with for good.
pub(super) async fn walk(layer: &Arc<Layer>, turn: &mut Turn, stream_bytes: u64) -> Result<Vec<String>> {
    let mut reader = TarReader::new();
    let mut ahead = Ahead::default();
    while reader.stream_offset() < stream_bytes {
        let start = reader.stream_offset();
        let end = (start / CHUNK_BYTES + 1).saturating_mul(CHUNK_BYTES).min(stream_bytes);
        ahead.reach(layer, start / CHUNK_BYTES, stream_bytes)?;
        let chunk = turn.lend_while(read(layer, start, end)).await?;
        take(layer, &mut reader, &chunk)?;
        // What of the body lies beyond the stream's end is missing, as the reader will say.
        let rest = stream_bytes.saturating_sub(reader.stream_offset());
        reader.skip(reader.body_left().min(rest))?;
        layer.progressed();
    }
    Ok(end_warnings(reader.finish()?, stream_bytes))
}

/// Chunks asked for at once at most.
const BATCH_MAX: u64 = 16;

/// How far chunks were asked for.
#[derive(Default)]
struct Ahead {
    /// The chunk after the last one, counted in the stream.
    end: u64,
    batch: u64,
}

impl Ahead {
    /// The walk has come to `chunk`: asks for some from there on, twice as many as before if it came without a jump.
    fn reach(&mut self, layer: &Layer, chunk: u64, stream_bytes: u64) -> Result<()> {
        if chunk < self.end {
            return Ok(());
        }
        self.batch = if chunk == self.end { (self.batch * 2).clamp(1, BATCH_MAX) } else { 1 };
        let window = chunk * CHUNK_BYTES / WINDOW_BYTES;
        let base = window * chunk_count(WINDOW_BYTES);
        let end = (chunk + self.batch).min(chunk_count(stream_bytes)).min(base + chunk_count(WINDOW_BYTES));
        self.end = end;
        if self.batch > 1 {
            // Those that come are found where they are read.
            drop(layer.feed(window_number(window))?.want(chunk - base..end - base)?);
        }
        Ok(())
    }
}

/// Feeds `chunk` to the reader.
fn take(layer: &Arc<Layer>, reader: &mut TarReader, chunk: &[u8]) -> Result<()> {
    let mut rest = chunk;
    while !rest.is_empty() {
        let fed = reader.feed(rest)?;
        rest = &rest[fed.taken..];
        if let Some(item) = fed.item {
            if let Some(member) = member_of(&item) {
                layer.segments()?.add_member(member);
            }
            layer.found(item);
        }
    }
    Ok(())
}

/// The bytes `start..end` of the stream, within one chunk; what fails for a while is tried again.
async fn read(layer: &Arc<Layer>, start: u64, end: u64) -> Result<Bytes> {
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    loop {
        match layer.read_window(start..end, ATTEMPT).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind().is_transient() => {
                tracing::warn!(
                    "cannot read the headers of {}: {}; trying again",
                    layer.blob(),
                    error.chain()
                );
                tokio::time::sleep(backoff.pause(error.retry_after())).await;
            }
            Err(error) => return Err(error),
        }
    }
}
