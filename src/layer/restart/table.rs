//! All restart points of a layer, as they lie on disk.

use std::ops::Range;

use bytes::Bytes;

use super::{
    BlockState, Codec, Error, ErrorKind, MemberSum, RestartPoint, RestartState, Result, WINDOW_BYTES_MAX,
    Window,
};

/// First bytes of the encoding.
const MAGIC: [u8; 8] = *b"rfmrstrt";
/// Raised whenever the meaning of the bytes changes; other versions are not read.
const VERSION: u32 = 1;
/// Bytes before the first record.
const HEADER_BYTES: usize = 48;
/// Bytes of a record.
const RECORD_BYTES: usize = 40;

/// The restart points of a layer, from the first at its start to the last before its end. Immutable.
///
/// # Bytes on disk
///
/// Little endian. A header of 48 bytes, the records in the order of both offsets (each point lies behind the one
/// before in the blob and in the stream), then the windows in the records' order, without gaps. Records have a fixed
/// size so that they can be searched where they lie; the windows come last so that they are touched only when used.
///
/// | Offset | Bytes | Header |
/// |---|---|---|
/// | 0 | 8 | magic `rfmrstrt` |
/// | 8 | 4 | version |
/// | 12 | 4 | codec: 1 gzip, 2 zstd |
/// | 16 | 8 | bytes of the blob |
/// | 24 | 8 | bytes of the stream |
/// | 32 | 8 | number of records |
/// | 40 | 8 | bytes of all windows |
///
/// | Offset | Bytes | Record |
/// |---|---|---|
/// | 0 | 8 | stream offset |
/// | 8 | 8 | compressed offset |
/// | 16 | 8 | where its window begins, counted from the first one |
/// | 24 | 4 | bytes of its window, unpacked |
/// | 28 | 4 | CRC-32 of the gzip member so far |
/// | 32 | 4 | bytes of the gzip member so far, modulo 2^32 |
/// | 36 | 1 | kind: 0 frame start, 1 between two blocks, 2 the same in a member whose sums are unknown |
/// | 37 | 1 | bits of the first byte that are used up |
/// | 38 | 2 | zero |
///
/// A frame start has zeros in everything that is a block's, but for where a window would begin; what is unknown is zero
/// as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartTable {
    codec: Codec,
    compressed_bytes: u64,
    stream_bytes: u64,
    /// The whole encoding.
    bytes: Bytes,
    /// Bytes of it that are records.
    records_bytes: usize,
}

impl RestartTable {
    /// What the layer is compressed with.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes of the layer's blob.
    #[must_use]
    pub fn compressed_bytes(&self) -> u64 {
        self.compressed_bytes
    }

    /// Bytes of the layer's stream.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes
    }

    /// How many points there are: at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records().len()
    }

    /// The encoding, which [`Self::decode`] reads.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The points in their order.
    pub fn points(&self) -> impl Iterator<Item = RestartPoint> + '_ {
        (0..self.count()).map(|at| self.point(at))
    }

    /// The last point at or before `stream_offset`.
    #[must_use]
    pub fn nearest(&self, stream_offset: u64) -> RestartPoint {
        let after =
            self.records().partition_point(|record| Record::new(record).stream_offset() <= stream_offset);
        self.point(after.saturating_sub(1))
    }

    /// The bytes of the blob from which `stream` can be decoded: from the nearest point before it to the next one
    /// after it.
    #[must_use]
    pub fn compressed_range(&self, stream: &Range<u64>) -> Range<u64> {
        let start = self.nearest(stream.start).compressed_offset;
        let next = self.records().partition_point(|record| Record::new(record).stream_offset() < stream.end);
        let end = self.records().get(next).map_or(self.compressed_bytes, |record| {
            let record = Record::new(record);
            // The block before ends within the point's first byte.
            record.compressed_offset() + u64::from(record.used_bits() > 0)
        });
        start..end.max(start)
    }

    /// Opens an encoding, which is kept, not copied.
    ///
    /// # Errors
    /// `Corrupt` for anything else than what [`RestartTableBuilder::finish`] made. The windows are only checked when
    /// they are used.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let corrupt =
            |what: &str| Error::new(ErrorKind::Corrupt, format!("the stored restart points have {what}"));
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or_else(|| corrupt("no header"))?;
        if header[..8] != MAGIC || u32_at(header, 8) != VERSION {
            return Err(corrupt("another format or version"));
        }
        let codec = codec_of(u32_at(header, 12)).ok_or_else(|| corrupt("an unknown codec"))?;
        let (compressed_bytes, stream_bytes) = (u64_at(header, 16), u64_at(header, 24));
        let records_bytes = u64_at(header, 32).checked_mul(RECORD_BYTES as u64);
        let total = records_bytes
            .and_then(|records| records.checked_add(u64_at(header, 40)))
            .and_then(|body| body.checked_add(HEADER_BYTES as u64));
        let records_bytes = records_bytes
            .filter(|_| total == Some(bytes.len() as u64))
            .and_then(|records| usize::try_from(records).ok())
            .ok_or_else(|| corrupt("another length than they say"))?;
        let table = Self { codec, compressed_bytes, stream_bytes, bytes, records_bytes };
        table.check_records().map_err(corrupt)?;
        Ok(table)
    }

    fn check_records(&self) -> Result<(), &'static str> {
        let windows_bytes = (self.bytes.len() - HEADER_BYTES - self.records_bytes) as u64;
        let mut before: Option<Record<'_>> = None;
        for record in self.records().iter().map(Record::new) {
            match &before {
                None if (record.stream_offset(), record.compressed_offset()) != (0, 0) => {
                    return Err("no point at the start");
                }
                None if record.window_start() != 0 => return Err("a gap before the first window"),
                Some(before) if !before.precedes(&record) => return Err("points out of order"),
                _ => {}
            }
            record.check(self.codec)?;
            // Something follows each point in the blob; in the stream, perhaps nothing.
            if record.compressed_offset() >= self.compressed_bytes
                || record.stream_offset() > self.stream_bytes
                || record.window_start() > windows_bytes
            {
                return Err("points beyond the layer");
            }
            before = Some(record);
        }
        // The last window reaches to the end, and without one there is nothing behind the records.
        match before {
            None => Err("no point at the start"),
            Some(last) if last.window_follows(windows_bytes) => Ok(()),
            Some(_) => Err("windows that no point has"),
        }
    }

    fn records(&self) -> &[[u8; RECORD_BYTES]] {
        self.bytes[HEADER_BYTES..HEADER_BYTES + self.records_bytes].as_chunks().0
    }

    fn point(&self, at: usize) -> RestartPoint {
        let record = Record::new(&self.records()[at]);
        let state = match record.kind() {
            FRAME_START => RestartState::FrameStart,
            _ => {
                let windows = self.bytes.slice(HEADER_BYTES + self.records_bytes..);
                let end = self.records().get(at + 1).map_or(windows.len(), |next| {
                    usize::try_from(Record::new(next).window_start()).unwrap_or(windows.len())
                });
                let start = usize::try_from(record.window_start()).unwrap_or(end);
                RestartState::Block(record.block(windows.slice(start..end)))
            }
        };
        record.point(state)
    }
}

/// Collects the points of a layer while it is decoded.
#[derive(Debug)]
pub struct RestartTableBuilder {
    codec: Codec,
    records: Vec<u8>,
    windows: Vec<u8>,
}

impl RestartTableBuilder {
    /// A table without points, for a layer compressed with `codec`.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self { codec, records: Vec::new(), windows: Vec::new() }
    }

    /// Appends a point. Points come in the order of the stream, the first at its start; [`Self::finish`] checks it.
    pub fn push(&mut self, point: &RestartPoint) {
        let nothing =
            BlockState { used_bits: 0, member: None, window: Window { packed: Bytes::new(), bytes: 0 } };
        let (kind, block) = match &point.state {
            RestartState::FrameStart => (FRAME_START, &nothing),
            RestartState::Block(block) if block.member.is_some() => (BLOCK, block),
            RestartState::Block(block) => (BLOCK_OF_UNKNOWN, block),
        };
        let member = block.member.unwrap_or_default();
        let records = &mut self.records;
        records.extend_from_slice(&point.stream_offset.to_le_bytes());
        records.extend_from_slice(&point.compressed_offset.to_le_bytes());
        records.extend_from_slice(&(self.windows.len() as u64).to_le_bytes());
        records.extend_from_slice(&block.window.bytes.to_le_bytes());
        records.extend_from_slice(&member.crc.to_le_bytes());
        records.extend_from_slice(&member.bytes.to_le_bytes());
        records.extend_from_slice(&[kind, block.used_bits, 0, 0]);
        self.windows.extend_from_slice(&block.window.packed);
    }

    /// The last point so far at or before `stream_offset`; none before the first.
    #[must_use]
    pub fn nearest(&self, stream_offset: u64) -> Option<RestartPoint> {
        let records = self.records.as_chunks::<RECORD_BYTES>().0;
        let after = records.partition_point(|record| Record::new(record).stream_offset() <= stream_offset);
        let record = Record::new(records.get(after.checked_sub(1)?)?);
        let state = match record.kind() {
            FRAME_START => RestartState::FrameStart,
            _ => {
                let start = usize::try_from(record.window_start()).ok()?;
                let end = match records.get(after) {
                    Some(next) => usize::try_from(Record::new(next).window_start()).ok()?,
                    None => self.windows.len(),
                };
                let packed = Bytes::copy_from_slice(self.windows.get(start..end)?);
                RestartState::Block(record.block(packed))
            }
        };
        Some(record.point(state))
    }

    /// The table of a layer whose blob has `compressed_bytes` and whose stream has `stream_bytes`.
    ///
    /// # Errors
    /// `Corrupt` when the points are not in order, or beyond the layer.
    pub fn finish(self, compressed_bytes: u64, stream_bytes: u64) -> Result<RestartTable> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.records.len() + self.windows.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&number_of(self.codec).to_le_bytes());
        bytes.extend_from_slice(&compressed_bytes.to_le_bytes());
        bytes.extend_from_slice(&stream_bytes.to_le_bytes());
        bytes.extend_from_slice(&((self.records.len() / RECORD_BYTES) as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.windows.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.records);
        bytes.extend_from_slice(&self.windows);
        RestartTable::decode(bytes.into())
    }
}

const FRAME_START: u8 = 0;
const BLOCK: u8 = 1;
const BLOCK_OF_UNKNOWN: u8 = 2;

/// A record where it lies.
struct Record<'a>(&'a [u8; RECORD_BYTES]);

impl<'a> Record<'a> {
    fn new(bytes: &'a [u8; RECORD_BYTES]) -> Self {
        Self(bytes)
    }

    fn stream_offset(&self) -> u64 {
        u64_at(self.0, 0)
    }

    fn compressed_offset(&self) -> u64 {
        u64_at(self.0, 8)
    }

    fn window_start(&self) -> u64 {
        u64_at(self.0, 16)
    }

    fn window_bytes(&self) -> u32 {
        u32_at(self.0, 24)
    }

    fn member(&self) -> Option<MemberSum> {
        let sum = MemberSum { crc: u32_at(self.0, 28), bytes: u32_at(self.0, 32) };
        (self.kind() == BLOCK).then_some(sum)
    }

    fn kind(&self) -> u8 {
        self.0[36]
    }

    fn used_bits(&self) -> u8 {
        self.0[37]
    }

    fn block(&self, packed: Bytes) -> BlockState {
        BlockState {
            used_bits: self.used_bits(),
            member: self.member(),
            window: Window { packed, bytes: self.window_bytes() },
        }
    }

    fn point(&self, state: RestartState) -> RestartPoint {
        RestartPoint {
            compressed_offset: self.compressed_offset(),
            stream_offset: self.stream_offset(),
            state,
        }
    }

    fn precedes(&self, next: &Self) -> bool {
        self.stream_offset() < next.stream_offset()
            && self.compressed_offset() < next.compressed_offset()
            && self.window_follows(next.window_start())
    }

    /// Whether its window, if it has one, is what lies between its start and `end`.
    fn window_follows(&self, end: u64) -> bool {
        match self.kind() {
            FRAME_START => self.window_start() == end,
            _ => self.window_start() < end,
        }
    }

    fn check(&self, codec: Codec) -> Result<(), &'static str> {
        let right = match self.kind() {
            FRAME_START => self.0[24..].iter().all(|byte| *byte == 0),
            kind @ (BLOCK | BLOCK_OF_UNKNOWN) => {
                codec == Codec::Gzip
                    && (kind == BLOCK || self.0[28..36] == [0; 8])
                    && self.used_bits() < 8
                    && self.window_bytes() as usize <= WINDOW_BYTES_MAX
                    && self.0[38..] == [0, 0]
            }
            _ => false,
        };
        if right { Ok(()) } else { Err("a record that makes no sense") }
    }
}

fn codec_of(number: u32) -> Option<Codec> {
    [Codec::Gzip, Codec::Zstd].into_iter().find(|codec| number_of(*codec) == number)
}

fn number_of(codec: Codec) -> u32 {
    match codec {
        Codec::Gzip => 1,
        Codec::Zstd => 2,
    }
}

/// The number at `at`, which the callers' arrays have.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}

/// The number at `at`, which the callers' arrays have.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().copied().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
