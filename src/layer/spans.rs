//! Spans: pieces of a layer's stream that can be decoded one by one, as a table of contents in the layer lists them.
//!
//! Such a table names the compressed place of each chunk of a file and says nothing of where the chunk lies in the tar.
//! So the stream of a layer with a [`SpanTable`] is a virtual one: the concatenation of all chunks that have content.
//! Headers and padding of the tar are not in it. It assumes that whoever stores a table guards it with a checksum; what
//! the table says of itself is checked all the same, so that a damaged one is an error and never a wrong offset.

use std::ops::Range;

use bytes::Bytes;

use super::encoding::Codec;
use super::restart::{RestartPoint, RestartState};
use crate::base::limits::{LAYER_STREAM_BYTES_MAX, SPANS_MAX};
use crate::base::{Error, ErrorKind, Result};

/// First bytes of the encoding.
const MAGIC: [u8; 8] = *b"rfmspans";
/// Raised whenever the meaning of the bytes changes; other versions are not read.
const VERSION: u32 = 1;
/// Bytes before the first record.
const HEADER_BYTES: usize = 40;
/// Bytes of a record.
const RECORD_BYTES: usize = 72;

/// A piece of a layer's stream that can be decoded by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where in the stream it begins.
    pub stream_offset: u64,
    /// Its bytes; never zero.
    pub bytes: u64,
    /// The first byte of the blob that is needed: a gzip member, a zstd frame or the span itself begins there.
    pub compressed_offset: u64,
    /// Bytes of the blob up to where its decoder may have to read; never zero. The span may end before.
    pub compressed_bytes: u64,
    /// Bytes that come out of the decoder before the span's first one: several spans may share a gzip member.
    pub skip: u64,
    /// The SHA-256 digest of the span's bytes, where it is known.
    pub digest: Option<[u8; 32]>,
    /// What it is compressed with; none where it is stored as it is.
    pub codec: Option<Codec>,
}

impl Span {
    /// The bytes of the blob from which it is decoded.
    #[must_use]
    pub fn compressed_range(&self) -> Range<u64> {
        self.compressed_offset..self.compressed_offset.saturating_add(self.compressed_bytes)
    }

    /// Its bytes in the stream.
    #[must_use]
    pub fn stream_range(&self) -> Range<u64> {
        self.stream_offset..self.stream_offset.saturating_add(self.bytes)
    }

    /// Where its decoder begins. The first [`Self::skip`] bytes that it writes are not the span's, so that the stream
    /// offset counts what the errors of a decoder say, and no place of the virtual stream.
    #[must_use]
    pub fn start(&self) -> RestartPoint {
        RestartPoint {
            compressed_offset: self.compressed_offset,
            stream_offset: self.stream_offset.saturating_sub(self.skip),
            state: RestartState::FrameStart,
        }
    }
}

/// The spans of a layer, which together are its stream: in its order, without gaps and without overlaps. Immutable.
///
/// # Bytes on disk
///
/// Little endian. A header of 40 bytes, then the records in the order of the stream, of a fixed size so that they can
/// be searched where they lie. A span ends where the next one begins, the last one at the end of the stream. Ranges of
/// the blob lie within it, in any order.
///
/// | Offset | Bytes | Header |
/// |---|---|---|
/// | 0 | 8 | magic `rfmspans` |
/// | 8 | 4 | version |
/// | 12 | 4 | zero |
/// | 16 | 8 | bytes of the blob |
/// | 24 | 8 | bytes of the stream |
/// | 32 | 8 | number of records |
///
/// | Offset | Bytes | Record |
/// |---|---|---|
/// | 0 | 8 | stream offset |
/// | 8 | 8 | compressed offset |
/// | 16 | 8 | bytes of the blob |
/// | 24 | 8 | bytes to skip |
/// | 32 | 32 | SHA-256, or zeros |
/// | 64 | 1 | codec: 0 stored, 1 gzip, 2 zstd |
/// | 65 | 1 | 1 if the digest is known, else 0 |
/// | 66 | 6 | zero |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanTable {
    blob_bytes: u64,
    stream_bytes: u64,
    /// The whole encoding.
    bytes: Bytes,
}

impl SpanTable {
    /// Bytes of the layer's blob.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.blob_bytes
    }

    /// Bytes of the layer's virtual stream.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// How many spans there are. None where no file has content.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records().len()
    }

    /// The encoding, which [`Self::decode`] reads.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The span in place `at` of the stream's order.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<Span> {
        self.records().get(at).map(|record| self.span(at, Record(record)))
    }

    /// All spans in the order of the stream.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.records().iter().enumerate().map(|(at, record)| self.span(at, Record(record)))
    }

    /// The span that holds the byte at `stream_offset`; none beyond the stream.
    #[must_use]
    pub fn nearest(&self, stream_offset: u64) -> Option<Span> {
        if stream_offset >= self.stream_bytes {
            return None;
        }
        self.place_of(stream_offset).and_then(|at| self.get(at))
    }

    /// The spans that hold the bytes of `stream`, in their order; those beyond the stream are none's.
    pub fn spans_of(&self, stream: &Range<u64>) -> impl Iterator<Item = Span> + '_ {
        let places = match self.place_of(stream.start) {
            Some(first) if stream.start < stream.end.min(self.stream_bytes) => {
                let end =
                    self.records().partition_point(|record| Record(record).stream_offset() < stream.end);
                first..end
            }
            _ => 0..0,
        };
        places.filter_map(|at| self.get(at))
    }

    /// Opens an encoding, which is kept, not copied.
    ///
    /// # Errors
    /// `Corrupt` for anything else than what [`SpanTableBuilder::finish`] made.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        Self::open(bytes).map_err(|what| {
            Error::new(ErrorKind::Corrupt, format!("the stored spans of a layer have {what}"))
        })
    }

    fn open(bytes: Bytes) -> Result<Self, &'static str> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or("no header")?;
        if header[..8] != MAGIC || header[8..12] != VERSION.to_le_bytes() || header[12..16] != [0; 4] {
            return Err("another format or version");
        }
        let (blob_bytes, stream_bytes) = (u64_at(header, 16), u64_at(header, 24));
        let records = u64_at(header, 32).checked_mul(RECORD_BYTES as u64);
        if records.and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64)) != Some(bytes.len() as u64) {
            return Err("another length than they say");
        }
        let table = Self { blob_bytes, stream_bytes, bytes };
        table.check()?;
        Ok(table)
    }

    fn check(&self) -> Result<(), &'static str> {
        let mut next = Some(0);
        for (at, record) in self.records().iter().enumerate() {
            let record = Record(record);
            if next.is_some_and(|next| next != record.stream_offset()) || !record.makes_sense() {
                return Err("a record that makes no sense");
            }
            if self.end_of(at) <= record.stream_offset() {
                return Err("spans out of order");
            }
            let compressed_end = record.compressed_offset().checked_add(record.compressed_bytes());
            if compressed_end.is_none_or(|end| end > self.blob_bytes) {
                return Err("spans beyond the blob");
            }
            let decoded = (self.end_of(at) - record.stream_offset()).checked_add(record.skip());
            let is_stored = record.codec() == Some(None);
            if decoded.is_none_or(|bytes| is_stored && bytes > record.compressed_bytes()) {
                return Err("spans beyond what they are decoded from");
            }
            next = None;
        }
        if self.records().is_empty() && self.stream_bytes != 0 {
            return Err("no spans for their stream");
        }
        Ok(())
    }

    fn records(&self) -> &[[u8; RECORD_BYTES]] {
        self.bytes[HEADER_BYTES..].as_chunks().0
    }

    /// Where the span in place `at` ends in the stream.
    fn end_of(&self, at: usize) -> u64 {
        self.records().get(at + 1).map_or(self.stream_bytes, |next| Record(next).stream_offset())
    }

    /// The place of the last span that begins at or before `stream_offset`.
    fn place_of(&self, stream_offset: u64) -> Option<usize> {
        let after = self.records().partition_point(|record| Record(record).stream_offset() <= stream_offset);
        after.checked_sub(1)
    }

    fn span(&self, at: usize, record: Record<'_>) -> Span {
        Span {
            stream_offset: record.stream_offset(),
            bytes: self.end_of(at).saturating_sub(record.stream_offset()),
            compressed_offset: record.compressed_offset(),
            compressed_bytes: record.compressed_bytes(),
            skip: record.skip(),
            digest: record.digest(),
            codec: record.codec().flatten(),
        }
    }
}

/// Collects the spans of a layer in the order of its stream.
#[derive(Debug, Default)]
pub struct SpanTableBuilder {
    records: Vec<u8>,
    stream_bytes: u64,
}

impl SpanTableBuilder {
    /// A table without spans.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of the stream so far, which is where the next span begins.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// Appends a span, whose [`Span::stream_offset`] is set to the end of the one before.
    ///
    /// # Errors
    /// `Unsupported` for more than [`SPANS_MAX`] spans or [`LAYER_STREAM_BYTES_MAX`] bytes.
    pub fn push(&mut self, span: &Span) -> Result<()> {
        let unsupported = |text| Err(Error::new(ErrorKind::Unsupported, text));
        if self.records.len() / RECORD_BYTES >= SPANS_MAX {
            return unsupported(format!("the layer has more than {SPANS_MAX} chunks (SPANS_MAX)"));
        }
        let end = self.stream_bytes.checked_add(span.bytes).filter(|end| *end <= LAYER_STREAM_BYTES_MAX);
        let Some(end) = end else {
            return unsupported(format!(
                "the chunks of the layer are together more than {LAYER_STREAM_BYTES_MAX} bytes \
                 (LAYER_STREAM_BYTES_MAX)"
            ));
        };
        for number in [self.stream_bytes, span.compressed_offset, span.compressed_bytes, span.skip] {
            self.records.extend_from_slice(&number.to_le_bytes());
        }
        self.records.extend_from_slice(&span.digest.unwrap_or_default());
        let codec = match span.codec {
            None => STORED,
            Some(Codec::Gzip) => GZIP,
            Some(Codec::Zstd) => ZSTD,
        };
        self.records.extend_from_slice(&[codec, u8::from(span.digest.is_some()), 0, 0, 0, 0, 0, 0]);
        self.stream_bytes = end;
        Ok(())
    }

    /// The table of a layer whose blob has `blob_bytes`.
    ///
    /// # Errors
    /// `Invalid` for spans that are empty or lie beyond the blob.
    pub fn finish(self, blob_bytes: u64) -> Result<SpanTable> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.records.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for number in [blob_bytes, self.stream_bytes, (self.records.len() / RECORD_BYTES) as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.records);
        SpanTable::open(bytes.into())
            .map_err(|what| Error::new(ErrorKind::Invalid, format!("the chunks of the layer have {what}")))
    }
}

const STORED: u8 = 0;
const GZIP: u8 = 1;
const ZSTD: u8 = 2;

/// A record where it lies.
#[derive(Clone, Copy)]
struct Record<'a>(&'a [u8; RECORD_BYTES]);

impl Record<'_> {
    fn stream_offset(self) -> u64 {
        u64_at(self.0, 0)
    }

    fn compressed_offset(self) -> u64 {
        u64_at(self.0, 8)
    }

    fn compressed_bytes(self) -> u64 {
        u64_at(self.0, 16)
    }

    fn skip(self) -> u64 {
        u64_at(self.0, 24)
    }

    fn digest(self) -> Option<[u8; 32]> {
        self.0[32..].first_chunk().copied().filter(|_| self.0[65] == 1)
    }

    /// None for a number that means nothing.
    fn codec(self) -> Option<Option<Codec>> {
        match self.0[64] {
            STORED => Some(None),
            GZIP => Some(Some(Codec::Gzip)),
            ZSTD => Some(Some(Codec::Zstd)),
            _ => None,
        }
    }

    fn makes_sense(self) -> bool {
        let digest_fits = match self.0[65] {
            0 => self.0[32..64] == [0; 32],
            known => known == 1,
        };
        digest_fits && self.codec().is_some() && self.compressed_bytes() > 0 && self.0[66..] == [0; 6]
    }
}

/// The number at `at`, which the callers' arrays have.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(bytes: u64, compressed: Range<u64>) -> Span {
        Span {
            stream_offset: 0,
            bytes,
            compressed_offset: compressed.start,
            compressed_bytes: compressed.end - compressed.start,
            skip: 0,
            digest: Some([7; 32]),
            codec: Some(Codec::Zstd),
        }
    }

    fn table(spans: &[Span], blob_bytes: u64) -> Result<SpanTable> {
        let mut builder = SpanTableBuilder::new();
        for span in spans {
            builder.push(span)?;
        }
        builder.finish(blob_bytes)
    }

    fn three() -> SpanTable {
        let stored = Span { codec: None, digest: None, skip: 4, ..span(5, 0..9) };
        let gzip = Span { codec: Some(Codec::Gzip), skip: 1 << 20, ..span(1, 0..100) };
        table(&[span(10, 50..60), stored, gzip], 100).unwrap()
    }

    #[test]
    fn what_was_pushed_is_found_by_offset_and_by_range() {
        let table = SpanTable::decode(three().bytes().clone()).unwrap();
        assert_eq!((table.blob_bytes(), table.stream_bytes(), table.count()), (100, 16, 3));
        let ranges: Vec<_> = table.spans().map(|span| span.stream_range()).collect();
        assert_eq!(ranges, [0..10, 10..15, 15..16]);
        let at = |offset| table.nearest(offset).map(|span| span.compressed_range());
        assert_eq!((at(0), at(9), at(10)), (Some(50..60), Some(50..60), Some(0..9)));
        assert_eq!((at(15), at(16), at(u64::MAX)), (Some(0..100), None, None));
        let of = |range: Range<u64>| table.spans_of(&range).map(|span| span.bytes).collect::<Vec<_>>();
        assert_eq!(of(0..16), [10, 5, 1]);
        assert_eq!(of(9..11), [10, 5]);
        assert_eq!(of(10..15), [5]);
        assert_eq!(of(12..u64::MAX), [5, 1]);
        assert!(of(12..12).is_empty() && of(16..20).is_empty());
        let second = table.get(1).unwrap();
        assert_eq!((second.codec, second.digest, second.skip), (None, None, 4));
        assert_eq!(table.get(2).unwrap().digest, Some([7; 32]));
        assert_eq!(table.get(3), None);
    }

    #[test]
    fn a_layer_without_content_has_no_spans() {
        let table = table(&[], 10).unwrap();
        assert_eq!((table.stream_bytes(), table.count(), table.nearest(0)), (0, 0, None));
        assert_eq!(table.spans_of(&(0..10)).count(), 0);
        assert_eq!(SpanTable::decode(table.bytes().clone()).unwrap(), table);
    }

    #[test]
    fn spans_that_nothing_could_be_decoded_from_are_refused() {
        let stored = Span { codec: None, skip: 5, ..span(5, 0..9) };
        let endless = Span { skip: u64::MAX, ..span(5, 0..9) };
        for wrong in [span(0, 0..9), span(5, 9..9), span(5, 0..101), stored, endless] {
            assert_eq!(table(&[wrong], 100).unwrap_err().kind(), ErrorKind::Invalid);
        }
        let error = table(&[span(1, 0..1), span(LAYER_STREAM_BYTES_MAX, 0..1)], 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_damaged_table_is_an_error_or_another_table_and_never_beyond_the_layer() {
        let right = three().bytes().to_vec();
        for cut in 0..right.len() {
            assert_eq!(
                SpanTable::decode(right[..cut].to_vec().into()).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
        for at in 0..right.len() {
            for bit in 0..8 {
                let mut wrong = right.clone();
                wrong[at] ^= 1 << bit;
                let Ok(table) = SpanTable::decode(wrong.into()) else { continue };
                let mut next = 0;
                for span in table.spans() {
                    assert_eq!(span.stream_offset, next, "byte {at}");
                    assert!(span.bytes > 0 && span.compressed_range().end <= table.blob_bytes());
                    next += span.bytes;
                }
                assert_eq!(next, table.stream_bytes());
            }
        }
    }
}
