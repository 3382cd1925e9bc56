//! The stream of a layer that carries its own table of contents: spans that are decoded one by one, each checked by the
//! digest that the table has of it before any byte of it is handed on.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sha2::Digest as _;

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::fetch::BlobBytes;
use crate::layer::decoder::Decoder;
use crate::layer::spans::{Span, SpanTable};
use crate::registry::{BlobBody, BlobSource};

use super::stream::{StreamSource, within};

/// Bytes of the blob between two spans that are cheaper to receive than to ask around.
const GAP_BYTES_MAX: u64 = 256 << 10;

/// See the module's text.
#[derive(Debug)]
pub(super) struct SpanStream {
    pub(super) blob: Digest,
    pub(super) blob_bytes: u64,
    pub(super) table: SpanTable,
}

#[async_trait]
impl StreamSource for SpanStream {
    fn bytes(&self) -> Option<u64> {
        Some(self.table.stream_bytes())
    }

    async fn open(
        &self,
        source: &Arc<dyn BlobSource>,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Result<BlobBody> {
        let reading = Reading {
            blob: self.blob.clone(),
            blob_bytes: self.blob_bytes,
            source: Arc::clone(source),
            counter,
            spans: self.table.spans_of(&range).collect::<Vec<_>>().into_iter().collect(),
            wanted: range.clone(),
            body: None,
            held: BytesMut::new(),
            held_from: 0,
        };
        let pieces = stream::unfold(Some(reading), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(BlobBody { range, pieces: pieces.boxed() })
    }
}

/// Spans on their way.
struct Reading {
    blob: Digest,
    blob_bytes: u64,
    source: Arc<dyn BlobSource>,
    counter: BlobBytes,
    /// Those that have not been read yet, in the order of the stream.
    spans: std::collections::VecDeque<Span>,
    wanted: Range<u64>,
    body: Option<BoxStream<'static, Result<Bytes>>>,
    /// Bytes of the blob that came and may be needed again: spans can share what they are decoded from.
    held: BytesMut,
    held_from: u64,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(span) = self.spans.pop_front() else { return Ok(None) };
        let compressed = self.compressed(&span).await?;
        let decoding = span.clone();
        let decoded = tokio::task::spawn_blocking(move || decode(&decoding, &compressed)).await;
        let broken = |_| Error::new(ErrorKind::Io, "a decoder broke off");
        let decoded = decoded.map_err(broken)?.map_err(|error| {
            let text = format!("layer {}, span at stream offset {}", self.blob, span.stream_offset);
            error.context(text)
        })?;
        let start = self.wanted.start.saturating_sub(span.stream_offset);
        let end = self.wanted.end.saturating_sub(span.stream_offset).min(span.bytes);
        // Both within the span, which is in memory.
        Ok(Some(decoded.slice(start as usize..end as usize)))
    }

    /// The bytes of the blob that `span` is decoded from.
    async fn compressed(&mut self, span: &Span) -> Result<Bytes> {
        let range = span.compressed_range();
        let held_to = self.held_from + self.held.len() as u64;
        let is_ahead = range.start >= self.held_from && range.start <= held_to.saturating_add(GAP_BYTES_MAX);
        if self.body.is_none() || !is_ahead {
            self.ask_from(&range).await?;
        }
        while self.held_from + (self.held.len() as u64) < range.end {
            // What no span needs any more goes as it comes.
            self.forget_before(range.start);
            let piece = match &mut self.body {
                Some(body) => body.next().await,
                None => None,
            };
            let ended = || {
                let text = format!("blob {}: the body ended within a span", self.blob);
                Error::new(ErrorKind::Unavailable, text)
            };
            self.held.extend_from_slice(&piece.ok_or_else(ended)??);
        }
        self.forget_before(range.start);
        Ok(Bytes::copy_from_slice(&self.held[..(range.end - range.start) as usize]))
    }

    fn forget_before(&mut self, blob_offset: u64) {
        let gone = blob_offset.saturating_sub(self.held_from).min(self.held.len() as u64);
        // Not more than its length.
        let _ = self.held.split_to(gone as usize);
        self.held_from += gone;
    }

    /// One request for `range` and for as many of the next spans as lie right behind.
    async fn ask_from(&mut self, range: &Range<u64>) -> Result<()> {
        let mut end = range.end;
        for next in &self.spans {
            let next = next.compressed_range();
            if next.start < range.start || next.start > end.saturating_add(GAP_BYTES_MAX) {
                break;
            }
            end = end.max(next.end);
        }
        let wanted = range.start..end.min(self.blob_bytes);
        let body = self.source.blob(&self.blob, self.blob_bytes, wanted.clone()).await?;
        self.body = Some(within(self.counter.counted(body), wanted).pieces);
        self.held.clear();
        self.held_from = range.start;
        Ok(())
    }
}

/// The bytes of `span`, which `compressed` is decoded to, checked.
fn decode(span: &Span, compressed: &[u8]) -> Result<Bytes> {
    let too_large = |_| Error::new(ErrorKind::Invalid, "a span that does not fit into memory");
    let length = usize::try_from(span.bytes).map_err(too_large)?;
    let skip = usize::try_from(span.skip).map_err(too_large)?;
    // Whoever made the table had bytes that could be decoded.
    let wrong = |error| Error::with_source(ErrorKind::Corrupt, "it cannot be decoded", error);
    let short = || Error::new(ErrorKind::Corrupt, "it decodes to fewer bytes than its table says");
    let bytes = match span.codec {
        None => {
            let stored = compressed.get(skip..).and_then(|rest| rest.get(..length)).ok_or_else(short)?;
            Bytes::copy_from_slice(stored)
        }
        Some(codec) => {
            let mut decoder = Decoder::resume(codec, &span.start())?;
            let mut output = vec![0; skip.saturating_add(length)];
            let (mut filled, mut rest) = (0, compressed);
            while filled < output.len() {
                let progress = decoder.decode(rest, &mut output[filled..]).map_err(wrong)?;
                filled += progress.written;
                rest = &rest[progress.consumed..];
                if progress.written == 0 && rest.is_empty() {
                    return Err(short());
                }
            }
            Bytes::from(output).slice(skip..)
        }
    };
    match &span.digest {
        Some(digest) if sha2::Sha256::digest(&bytes)[..] != digest[..] => Err(Error::new(
            ErrorKind::Corrupt,
            "its bytes do not match the digest that the table of contents has",
        )),
        _ => Ok(bytes),
    }
}
