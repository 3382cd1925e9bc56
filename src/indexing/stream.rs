//! The streams of layers: how a range of one is had from its blob, and how segments are cut from it.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::fetch::{BlobBytes, SegmentSource};
use crate::layer::decoder::Decoder;
use crate::registry::{BlobBody, BlobSource};

use super::points::{Points, Way};

/// Bytes that a decoder makes in one go: a few milliseconds of a core, during which nothing else of the process waits
/// for that thread.
const DECODED_BYTES: usize = 512 << 10;

/// A layer's stream.
#[async_trait]
pub(super) trait StreamSource: Debug + Send + Sync {
    /// Its bytes, once they are known.
    fn bytes(&self) -> Option<u64>;

    /// Opens `range` of the stream, which is not empty and within it. The body holds exactly that.
    ///
    /// # Errors
    /// As [`BlobSource::blob`]; those of the decoders.
    async fn open(
        &self,
        source: &Arc<dyn BlobSource>,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Result<BlobBody>;
}

/// A stream that is its blob.
#[derive(Debug)]
pub(super) struct PlainStream {
    pub(super) blob: Digest,
    pub(super) bytes: u64,
}

#[async_trait]
impl StreamSource for PlainStream {
    fn bytes(&self) -> Option<u64> {
        Some(self.bytes)
    }

    async fn open(
        &self,
        source: &Arc<dyn BlobSource>,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Result<BlobBody> {
        let body = source.blob(&self.blob, self.bytes, range.clone()).await?;
        Ok(within(counter.counted(body), range))
    }
}

/// The part `range` of a body that holds it, and perhaps all of the blob.
pub(super) fn within(body: BlobBody, range: Range<u64>) -> BlobBody {
    if body.range == range {
        return body;
    }
    let start = range.start;
    let length = range.end - range.start;
    let before = start.saturating_sub(body.range.start);
    let pieces =
        stream::unfold((body.pieces, before, length), |(mut pieces, mut before, mut left)| async move {
            while left > 0 {
                let mut piece = match pieces.next().await? {
                    Ok(piece) => piece,
                    Err(error) => return Some((Err(error), (pieces, before, 0))),
                };
                let dropped = usize::try_from(before).unwrap_or(usize::MAX).min(piece.len());
                before -= dropped as u64;
                let _ = piece.split_to(dropped);
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= piece.len() as u64;
                if !piece.is_empty() {
                    return Some((Ok(piece), (pieces, before, left)));
                }
            }
            None
        });
    BlobBody { range, pieces: pieces.boxed() }
}

/// A stream that is decoded from the nearest restart point.
#[derive(Debug)]
pub(super) struct DecodedStream {
    pub(super) blob: Digest,
    pub(super) blob_bytes: u64,
    pub(super) points: Arc<Points>,
}

#[async_trait]
impl StreamSource for DecodedStream {
    fn bytes(&self) -> Option<u64> {
        self.points.stream_bytes()
    }

    async fn open(
        &self,
        source: &Arc<dyn BlobSource>,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Result<BlobBody> {
        let Way { codec, point, compressed_end } = self.points.way_to(&range);
        let compressed = point.compressed_offset..compressed_end.unwrap_or(self.blob_bytes);
        let body = source.blob(&self.blob, self.blob_bytes, compressed.clone()).await?;
        let body = within(counter.counted(body), compressed);
        let before = range.start.saturating_sub(point.stream_offset);
        let decoder = Decoder::resume(codec, &point)?;
        Ok(decoded(body, decoder, before, range))
    }
}

/// `range` of the stream that `decoder` makes of `body`, `before` bytes of which come first.
pub(super) fn decoded(body: BlobBody, decoder: Decoder, before: u64, range: Range<u64>) -> BlobBody {
    let left = range.end - range.start;
    let state = Decoding { body, decoder: Some(decoder), input: Bytes::new(), more: false, before, left };
    let pieces = stream::unfold(state, |mut state| async move {
        match state.next().await {
            Ok(Some(piece)) => Some((Ok(piece), state)),
            Ok(None) => None,
            Err(error) => {
                state.left = 0;
                Some((Err(error), state))
            }
        }
    });
    BlobBody { range, pieces: pieces.boxed() }
}

/// A stream in the making.
struct Decoding {
    body: BlobBody,
    /// Not here while it works.
    decoder: Option<Decoder>,
    input: Bytes,
    /// Whether it may give more without further input.
    more: bool,
    before: u64,
    left: u64,
}

impl Decoding {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.left > 0 {
            if self.input.is_empty() && !self.more {
                self.input = match self.body.pieces.next().await {
                    Some(piece) => piece?,
                    None => {
                        let text =
                            format!("the blob's bytes end {} bytes of the stream too early", self.left);
                        return Err(Error::new(ErrorKind::Corrupt, text));
                    }
                };
            }
            let mut made = self.decode().await?;
            let dropped = usize::try_from(self.before).unwrap_or(usize::MAX).min(made.len());
            self.before -= dropped as u64;
            let _ = made.split_to(dropped);
            made.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= made.len() as u64;
            if !made.is_empty() {
                return Ok(Some(made));
            }
        }
        Ok(None)
    }

    /// One go of the decoder, on a thread where it holds up nobody.
    async fn decode(&mut self) -> Result<Bytes> {
        let broken = || Error::new(ErrorKind::Io, "a decoder broke off");
        let mut decoder = self.decoder.take().ok_or_else(broken)?;
        let input = std::mem::take(&mut self.input);
        let work = move || {
            let mut output = vec![0; DECODED_BYTES];
            let progress = decoder.decode(&input, &mut output).map_err(other_bytes)?;
            output.truncate(progress.written);
            Ok::<_, Error>((decoder, input.slice(progress.consumed..), output))
        };
        let (decoder, rest, output) = tokio::task::spawn_blocking(work).await.map_err(|_| broken())??;
        self.decoder = Some(decoder);
        self.input = rest;
        self.more = output.len() == DECODED_BYTES;
        Ok(output.into())
    }
}

/// What has restart points could be decoded when they were made, so that what cannot is not what was there then.
pub(super) fn other_bytes(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Invalid => Error::with_source(ErrorKind::Corrupt, "other bytes than before", error),
        _ => error,
    }
}

/// A segment that is a part of a stream, from `start` on. What of it lies beyond the stream's end is zeros.
#[derive(Debug)]
pub(super) struct StreamPart {
    pub(super) stream: Arc<dyn StreamSource>,
    pub(super) start: u64,
}

#[async_trait]
impl SegmentSource for StreamPart {
    async fn open(
        &self,
        source: &Arc<dyn BlobSource>,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Result<BlobBody> {
        let wanted = self.start.saturating_add(range.start)..self.start.saturating_add(range.end);
        let end = self.stream.bytes().unwrap_or(wanted.end).clamp(wanted.start, wanted.end);
        let padding = stream::iter(zeros(wanted.end - end).map(Ok));
        if end == wanted.start {
            return Ok(BlobBody { range, pieces: padding.boxed() });
        }
        let body = self.stream.open(source, wanted.start..end, counter).await?;
        Ok(BlobBody { range, pieces: body.pieces.chain(padding).boxed() })
    }

    fn filled_bytes(&self) -> u64 {
        self.stream.bytes().map_or(u64::MAX, |bytes| bytes.saturating_sub(self.start))
    }
}

/// So many zeros, in pieces.
fn zeros(bytes: u64) -> impl Iterator<Item = Bytes> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let piece = ZEROS.len() as u64;
    (0..bytes.div_ceil(piece)).map(move |at| {
        let mut zeros = Bytes::from_static(&ZEROS);
        zeros.truncate(usize::try_from(bytes - at * piece).unwrap_or(usize::MAX));
        zeros
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_a_stream_is_zeros_in_small_pieces_and_not_worth_fetching() {
        let pieces: Vec<_> = zeros((1 << 20) + 3).collect();
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), (1 << 20) + 3);
        assert!(pieces.iter().all(|piece| piece.len() <= 64 << 10 && piece.iter().all(|byte| *byte == 0)));
        assert_eq!(zeros(0).count(), 0);
        let blob = Digest::of(crate::base::Algorithm::Sha256, b"");
        let stream: Arc<dyn StreamSource> = Arc::new(PlainStream { blob, bytes: 1000 });
        for (start, filled) in [(0, 1000), (900, 100), (2000, 0)] {
            assert_eq!(StreamPart { stream: Arc::clone(&stream), start }.filled_bytes(), filled);
        }
    }
}
