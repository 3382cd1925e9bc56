//! Gzip layers (RFC 1952): a decoder that notes places from which it can begin again.
//!
//! Fed with pieces of a blob in order, it writes pieces of the stream. Members may follow each other; zeros after the
//! last one are padding, as GNU gzip has it, and anything else there is an error, as is a member whose CRC-32 or
//! length does not match. While it passes it collects [`RestartPoint`]s: at the start of a member, which costs
//! nothing, and between two deflate blocks, where the 32 KiB before must be kept. Nothing here reads or waits.

use self::header::Header;
use self::inflate::{Damaged, Inflate, Place};
use super::restart::{BlockState, MemberSum, RestartPoint, RestartState, Window};
use super::stream::{self, Position, Progress, Step};
use crate::base::{Error, ErrorKind, Result};

mod header;
mod inflate;

/// Bytes of the stream between two points that need a window. A read in the middle decodes half of it in vain,
/// 3 ms; a window takes up to 32 KiB, 0.8 % of the compressed size at this distance and four times that at 1 MiB.
pub const CHECKPOINT_SPACING_BYTES: u64 = 4 << 20;

/// Bytes of the stream between two points at starts of members. They take 40 bytes each, and a chunk is 1 MiB.
pub const MEMBER_SPACING_BYTES: u64 = 1 << 20;

/// A decoder of gzip. See the module's text.
#[derive(Debug)]
pub struct GzipDecoder {
    inflate: Inflate,
    stage: Stage,
    position: Position,
    member: Member,
    /// Whether a member was complete before the place where the decoder stands.
    any_complete: bool,
    checkpoints: Option<Checkpoints>,
}

/// What comes next.
#[derive(Debug)]
enum Stage {
    /// A member's header, or after the first member the end.
    Header(Header),
    /// Its blocks, after the byte that holds the beginning of the first.
    FirstByte(BlockState),
    /// Its blocks.
    Blocks,
    /// Its CRC-32 and length, of which so many bytes came.
    Trailer { bytes: [u8; 8], have: usize },
    /// Zeros up to the end.
    Padding,
    /// Nothing: this went wrong.
    Failed(Error),
}

/// The member that is being decoded.
#[derive(Debug, Default)]
struct Member {
    start: u64,
    /// None when decoding began within it and nobody knows what came before: then its trailer is not checked.
    sum: Option<MemberSum>,
}

/// The points so far, and when the next one is due.
#[derive(Debug)]
struct Checkpoints {
    spacing: u64,
    last: Option<u64>,
    fresh: Vec<RestartPoint>,
}

impl GzipDecoder {
    /// A decoder of a whole layer, which notes points on its way.
    ///
    /// # Errors
    /// `Io` when there is no memory.
    pub fn new() -> Result<Self> {
        Self::with_spacing(CHECKPOINT_SPACING_BYTES)
    }

    /// The same, with points that need a window every `spacing` bytes of the stream, or as soon afterwards as a
    /// block ends.
    ///
    /// # Errors
    /// `Io` when there is no memory.
    pub fn with_spacing(spacing: u64) -> Result<Self> {
        let checkpoints = Checkpoints { spacing: spacing.max(1), last: None, fresh: Vec::new() };
        Ok(Self { checkpoints: Some(checkpoints), ..Self::resume(&RestartPoint::START)? })
    }

    /// A decoder that begins at `point`: its input is the blob from `point.compressed_offset` on, its output the
    /// stream from `point.stream_offset` on. It checks the rest of the member like the first pass did, if the point
    /// knows what that member came to before, and the members after it in any case. It notes no points.
    ///
    /// # Errors
    /// `Corrupt` when the point's window is damaged; `Io` when there is no memory.
    pub fn resume(point: &RestartPoint) -> Result<Self> {
        let inflate = Inflate::new().map_err(|Damaged(why)| Error::new(ErrorKind::Io, why))?;
        let mut decoder = Self {
            inflate,
            stage: Stage::Header(Header::default()),
            position: point.position(),
            member: Member { start: point.compressed_offset, ..Member::default() },
            any_complete: false,
            checkpoints: None,
        };
        if let RestartState::Block(state) = &point.state {
            decoder.member.sum = state.member;
            decoder.stage = match state.used_bits {
                0 => {
                    decoder.begin_at(state, 0)?;
                    Stage::Blocks
                }
                _ => Stage::FirstByte(state.clone()),
            };
        }
        Ok(decoder)
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The points that were passed since the last call, in their order.
    pub fn take_points(&mut self) -> Vec<RestartPoint> {
        self.checkpoints
            .as_mut()
            .map(|checkpoints| std::mem::take(&mut checkpoints.fresh))
            .unwrap_or_default()
    }

    /// Decodes from `input` into `output`: until all of the one is taken and nothing more can be made of it, or the
    /// other is full.
    ///
    /// # Errors
    /// `Invalid` for what is no gzip or goes beyond a limit, `Corrupt` for a checksum or length that does not match,
    /// each with the offset in the blob. Every later call fails likewise.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let result = stream::repeat(input, output, |input, output| self.step(input, output));
        result.inspect_err(|error| self.stage = Stage::Failed(error.clone()))
    }

    /// To be called when all of the blob was taken and [`Self::decode`] left room in the output.
    ///
    /// # Errors
    /// `Invalid` when the blob ends within a member.
    pub fn finish(&self) -> Result<()> {
        let within = match &self.stage {
            Stage::Header(header) if header.is_untouched() && self.any_complete => return Ok(()),
            Stage::Padding => return Ok(()),
            Stage::Failed(error) => return Err(error.clone()),
            Stage::Header(header) if header.is_untouched() => "before its first member",
            Stage::Header(_) => "within a header",
            Stage::FirstByte(_) | Stage::Blocks => "within a member's data",
            Stage::Trailer { .. } => "within a member's checksum",
        };
        Err(self
            .position
            .error(ErrorKind::Invalid, format_args!("the gzip layer is cut short: it ends {within}")))
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        match &mut self.stage {
            Stage::Failed(error) => Err(error.clone()),
            Stage::Blocks => self.blocks(input, output),
            Stage::Padding => self.padding(input),
            Stage::Header(_) | Stage::FirstByte(_) | Stage::Trailer { .. } => match input.first() {
                None => Ok(Step { progress: Progress::default(), again: false }),
                Some(byte) => self.byte(*byte),
            },
        }
    }

    /// Takes a byte of what stands around the blocks.
    fn byte(&mut self, byte: u8) -> Result<Step> {
        match &mut self.stage {
            Stage::Header(header) => {
                if self.any_complete && header.is_untouched() && byte == 0 {
                    self.stage = Stage::Padding;
                } else {
                    let complete = header.push(byte).map_err(|what| self.not_gzip(what))?;
                    if complete {
                        self.begin_member();
                    }
                }
            }
            Stage::FirstByte(state) => {
                let state = state.clone();
                self.begin_at(&state, byte)?;
                self.stage = Stage::Blocks;
            }
            Stage::Trailer { bytes, have } => {
                bytes[*have] = byte;
                *have += 1;
                if let (bytes, 8) = (*bytes, *have) {
                    self.end_member(u64::from_le_bytes(bytes))?;
                }
            }
            Stage::Blocks | Stage::Padding | Stage::Failed(_) => {}
        }
        let progress = Progress { consumed: 1, written: 0 };
        self.position.advance(progress)?;
        if matches!(self.stage, Stage::Header(ref header) if header.is_untouched()) {
            self.member.start = self.position.compressed_offset;
        }
        Ok(Step { progress, again: true })
    }

    fn not_gzip(&self, what: &str) -> Error {
        let what = match self.any_complete {
            true => format!("garbage after the last gzip member, or a damaged member ({what})"),
            false => format!("not a gzip layer: {what}"),
        };
        self.position.error(ErrorKind::Invalid, what)
    }

    fn begin_member(&mut self) {
        self.inflate.reset();
        self.member.sum = Some(MemberSum::default());
        self.stage = Stage::Blocks;
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.frame_start(self.member.start, self.position.stream_offset);
        }
    }

    fn begin_at(&mut self, state: &BlockState, first_byte: u8) -> Result<()> {
        let window = state.window.unpack()?;
        let bits = (8 - state.used_bits) % 8;
        self.inflate
            .begin_at(&window, bits, first_byte)
            .map_err(|Damaged(why)| self.position.error(ErrorKind::Corrupt, why))
    }

    /// Decodes blocks, as far as one call to the decoder behind goes.
    fn blocks(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let until_due = self.checkpoints.as_ref().map(|points| points.until_due(self.position.stream_offset));
        let room = match until_due {
            // So that the end of a block is looked for from the moment at which a point is due.
            Some(bytes @ 1..) => output.len().min(usize::try_from(bytes).unwrap_or(usize::MAX)),
            Some(0) | None => output.len(),
        };
        let output = &mut output[..room];
        let inflated =
            self.inflate.inflate(input, output, until_due == Some(0)).map_err(|Damaged(why)| {
                self.position
                    .error(ErrorKind::Invalid, format_args!("damaged gzip data ({why}), after the place"))
            })?;
        let progress = Progress { consumed: inflated.consumed, written: inflated.written };
        let made = &output[..progress.written];
        if let Some(sum) = &mut self.member.sum {
            sum.crc = zlib_rs::crc32::crc32(sum.crc, made);
            // Modulo 2^32, as the trailer counts.
            sum.bytes = sum.bytes.wrapping_add(made.len() as u32);
        }
        self.position.advance(progress)?;
        let moved = progress != Progress::default();
        let again = match inflated.at {
            Place::StreamEnd => {
                self.stage = Stage::Trailer { bytes: [0; 8], have: 0 };
                true
            }
            Place::BlockEnd { unused_bits } if until_due == Some(0) => self.checkpoint(unused_bits)? || moved,
            Place::Within | Place::BlockEnd { .. } => moved,
        };
        if !again && !input.is_empty() && !output.is_empty() {
            return Err(self.position.error(ErrorKind::Invalid, "gzip data that leads nowhere"));
        }
        Ok(Step { progress, again })
    }

    /// Notes a point before the next block, of which `unused_bits` were taken from the input. Whether there was a
    /// place for it.
    fn checkpoint(&mut self, unused_bits: u64) -> Result<bool> {
        let Some(checkpoints) = &mut self.checkpoints else { return Ok(false) };
        if checkpoints.until_due(self.position.stream_offset) > 0 {
            return Ok(false);
        }
        let used_bits_of_last = (8 - unused_bits % 8) % 8;
        let state = BlockState {
            used_bits: u8::try_from(used_bits_of_last).unwrap_or_default(),
            member: self.member.sum,
            window: Window::pack(&self.inflate.window())?,
        };
        checkpoints.push(RestartPoint {
            compressed_offset: self.position.compressed_offset.saturating_sub(unused_bits.div_ceil(8)),
            stream_offset: self.position.stream_offset,
            state: RestartState::Block(state),
        });
        Ok(true)
    }

    fn end_member(&mut self, trailer: u64) -> Result<()> {
        let stated = MemberSum { crc: trailer as u32, bytes: (trailer >> 32) as u32 };
        if let Some(sum) = self.member.sum.filter(|sum| *sum != stated) {
            let what = if stated.crc == sum.crc { "length" } else { "CRC-32" };
            let start = self.member.start;
            let text =
                format!("the {what} of the gzip member that begins at {start} does not match its bytes");
            return Err(self.position.error(ErrorKind::Corrupt, text));
        }
        self.any_complete = true;
        self.stage = Stage::Header(Header::default());
        Ok(())
    }

    fn padding(&mut self, input: &[u8]) -> Result<Step> {
        let zeros = input.iter().take_while(|byte| **byte == 0).count();
        let progress = Progress { consumed: zeros, written: 0 };
        self.position.advance(progress)?;
        if zeros < input.len() {
            return Err(self
                .position
                .error(ErrorKind::Invalid, "garbage after the padding of the gzip layer"));
        }
        Ok(Step { progress, again: false })
    }
}

impl Checkpoints {
    /// Bytes of the stream from `stream_offset` until a point that needs a window is due.
    fn until_due(&self, stream_offset: u64) -> u64 {
        (self.last.unwrap_or_default().saturating_add(self.spacing)).saturating_sub(stream_offset)
    }

    fn frame_start(&mut self, compressed_offset: u64, stream_offset: u64) {
        let spacing = self.spacing.min(MEMBER_SPACING_BYTES);
        if self.last.is_none_or(|last| stream_offset >= last.saturating_add(spacing)) {
            self.push(RestartPoint { compressed_offset, stream_offset, state: RestartState::FrameStart });
        }
    }

    fn push(&mut self, point: RestartPoint) {
        self.last = Some(point.stream_offset);
        self.fresh.push(point);
    }
}

#[cfg(test)]
mod tests;
