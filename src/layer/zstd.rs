//! Zstd layers (RFC 8878): a decoder that notes the frames from which it can begin again.
//!
//! Fed with pieces of a blob in order, it writes pieces of the stream. Frames may follow each other; skippable ones are
//! passed over, whatever they hold. Every start of a frame is a [`RestartPoint`]; within a frame there is none, so a
//! layer of one frame is decoded from its start. Frames that need a dictionary or a window above
//! [`ZSTD_WINDOW_LOG_MAX`] are refused by their headers, before memory is taken for them. Nothing here reads or waits.

use ::zstd::stream::raw::{DParameter, InBuffer, Operation as _, OutBuffer};

use self::header::FrameHeader;
use super::restart::{RestartPoint, RestartState};
use super::stream::{self, Position, Progress, Step};
use crate::base::limits::ZSTD_WINDOW_LOG_MAX;
use crate::base::{Error, ErrorKind, Result};

mod header;
pub mod seek_table;

/// Bytes of the stream between two points. They take 40 bytes each, and a chunk is 1 MiB.
pub const FRAME_SPACING_BYTES: u64 = 1 << 20;

/// The first bytes of a frame.
const FRAME_MAGIC: u32 = 0xfd2f_b528;
/// The first bytes of a skippable frame, but for their lowest four bits.
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
/// Bytes before the content of a skippable frame: magic and length.
const SKIPPABLE_HEADER_BYTES: usize = 8;

/// A decoder of zstd. See the module's text.
pub struct ZstdDecoder {
    raw: ::zstd::stream::raw::Decoder<'static>,
    stage: Stage,
    position: Position,
    /// Where in the stream the frame ends that is being decoded, if its header says so.
    frame_end: Option<u64>,
    /// Whether anything was complete before the place where the decoder stands.
    any_complete: bool,
    /// Where the last point was noted in the stream, if points are noted.
    last_point: Option<Option<u64>>,
    fresh: Vec<RestartPoint>,
}

/// What comes next.
#[derive(Debug)]
enum Stage {
    /// A header of either kind of frame, of which these bytes came; or the end, when none came.
    Header(Vec<u8>),
    /// A frame whose header was taken and is not yet handed on from `given` on.
    Frame { header: Vec<u8>, given: usize, more_output: bool },
    /// The content of a skippable frame.
    Skip(u64),
    /// Nothing: this went wrong.
    Failed(Error),
}

impl ZstdDecoder {
    /// A decoder of a whole layer, which notes points on its way.
    ///
    /// # Errors
    /// `Io` when there is no memory.
    pub fn new() -> Result<Self> {
        Ok(Self { last_point: Some(None), ..Self::resume(&RestartPoint::START)? })
    }

    /// A decoder that begins at the frame at `point`: its input is the blob from `point.compressed_offset` on, its
    /// output the stream from `point.stream_offset` on. It notes no points.
    ///
    /// # Errors
    /// `Corrupt` when `point` is no start of a frame; `Io` when there is no memory.
    pub fn resume(point: &RestartPoint) -> Result<Self> {
        let position = point.position();
        if point.state != RestartState::FrameStart {
            return Err(position.error(ErrorKind::Corrupt, "a zstd layer's restart point within a frame"));
        }
        let mut raw = ::zstd::stream::raw::Decoder::new()?;
        raw.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
        let stage = Stage::Header(Vec::new());
        let (last_point, fresh) = (None, Vec::new());
        Ok(Self { raw, stage, position, frame_end: None, any_complete: false, last_point, fresh })
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The points that were passed since the last call, in their order.
    pub fn take_points(&mut self) -> Vec<RestartPoint> {
        std::mem::take(&mut self.fresh)
    }

    /// Decodes from `input` into `output`: until all of the one is taken and nothing more can be made of it, or the
    /// other is full.
    ///
    /// # Errors
    /// `Invalid` for what is no zstd or goes beyond a limit, `Unsupported` for frames that need a dictionary or too
    /// large a window, each with the offset in the blob. Every later call fails likewise.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let result = stream::repeat(input, output, |input, output| self.step(input, output));
        result.inspect_err(|error| self.stage = Stage::Failed(error.clone()))
    }

    /// To be called when all of the blob was taken and [`Self::decode`] left room in the output.
    ///
    /// # Errors
    /// `Invalid` when the blob ends within a frame.
    pub fn finish(&self) -> Result<()> {
        let within = match &self.stage {
            Stage::Header(bytes) if bytes.is_empty() && self.any_complete => return Ok(()),
            Stage::Failed(error) => return Err(error.clone()),
            Stage::Header(bytes) if bytes.is_empty() => "before its first frame",
            Stage::Header(_) => "within a header",
            Stage::Frame { .. } => "within a frame",
            Stage::Skip(_) => "within a skippable frame",
        };
        Err(self
            .position
            .error(ErrorKind::Invalid, format_args!("the zstd layer is cut short: it ends {within}")))
    }

    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        match &mut self.stage {
            Stage::Failed(error) => Err(error.clone()),
            Stage::Header(_) => match input.first() {
                None => Ok(Step { progress: Progress::default(), again: false }),
                Some(byte) => self.header_byte(*byte),
            },
            Stage::Skip(left) => {
                let consumed = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= consumed as u64;
                if *left == 0 {
                    self.end_frame();
                }
                self.moved(Progress { consumed, written: 0 })
            }
            Stage::Frame { .. } => self.frame(input, output),
        }
    }

    fn moved(&mut self, progress: Progress) -> Result<Step> {
        self.position.advance(progress)?;
        Ok(Step { progress, again: progress != Progress::default() })
    }

    fn end_frame(&mut self) {
        self.any_complete = true;
        self.stage = Stage::Header(Vec::new());
    }

    fn header_byte(&mut self, byte: u8) -> Result<Step> {
        let Stage::Header(bytes) = &mut self.stage else {
            return Ok(Step { progress: Progress::default(), again: false });
        };
        bytes.push(byte);
        let magic = bytes.first_chunk().copied().map(u32::from_le_bytes);
        match magic {
            None => {}
            Some(magic) if magic & !0xf == SKIPPABLE_MAGIC => {
                if let Some([.., a, b, c, d]) = bytes.first_chunk::<SKIPPABLE_HEADER_BYTES>() {
                    let left = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
                    self.stage = Stage::Skip(left);
                    if left == 0 {
                        self.end_frame();
                    }
                }
            }
            Some(FRAME_MAGIC) => {
                if let Some(header) = FrameHeader::read(bytes) {
                    let bytes = std::mem::take(bytes);
                    self.begin_frame(header, bytes)?;
                }
            }
            Some(_) => {
                let what = match self.any_complete {
                    true => "garbage after the last zstd frame, or a damaged frame",
                    false => "not a zstd layer",
                };
                return Err(self.position.error(ErrorKind::Invalid, what));
            }
        }
        self.moved(Progress { consumed: 1, written: 0 })
    }

    fn begin_frame(&mut self, frame: FrameHeader, header: Vec<u8>) -> Result<()> {
        let refuse = |kind, what: String| Err(self.position.error(kind, what));
        if frame.reserved {
            return refuse(ErrorKind::Invalid, "a zstd frame with a reserved bit set".to_owned());
        }
        if frame.dictionary != 0 {
            let what =
                format!("a zstd frame that needs dictionary {}, which a layer cannot name", frame.dictionary);
            return refuse(ErrorKind::Unsupported, what);
        }
        let window_max = 1_u64 << ZSTD_WINDOW_LOG_MAX;
        if frame.window_bytes > window_max {
            let what = format!(
                "a zstd frame with a window of {} bytes, above {window_max} (ZSTD_WINDOW_LOG_MAX); compress it \
                 without --ultra and --long",
                frame.window_bytes
            );
            return refuse(ErrorKind::Unsupported, what);
        }
        // The header's last byte is not counted yet.
        let start = self.position.compressed_offset + 1 - header.len() as u64;
        let stream_offset = self.position.stream_offset;
        if let Some(last) = &mut self.last_point
            && last.is_none_or(|last| stream_offset >= last.saturating_add(FRAME_SPACING_BYTES))
        {
            // What stands before the first frame belongs to it, so that there is a point at the very start.
            let compressed_offset = last.map_or(0, |_| start);
            *last = Some(stream_offset);
            self.fresh.push(RestartPoint {
                compressed_offset,
                stream_offset,
                state: RestartState::FrameStart,
            });
        }
        // A size beyond 64 bits is never reached.
        self.frame_end = frame.content_bytes.map(|bytes| stream_offset.saturating_add(bytes));
        self.raw.reinit()?;
        self.stage = Stage::Frame { header, given: 0, more_output: false };
        Ok(())
    }

    fn frame(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let Stage::Frame { header, given, more_output } = &mut self.stage else {
            return Ok(Step { progress: Progress::default(), again: false });
        };
        let own = &header[*given..];
        let source = if own.is_empty() { input } else { own };
        if source.is_empty() && !*more_output {
            return Ok(Step { progress: Progress::default(), again: false });
        }
        let mut from = InBuffer::around(source);
        let mut to = OutBuffer::around(&mut *output);
        let left = self.raw.run(&mut from, &mut to).map_err(|error| {
            self.position
                .error(ErrorKind::Invalid, format_args!("damaged zstd data ({error}), after the place"))
        })?;
        let (taken, written) = (from.pos(), to.pos());
        // Room that is left means that everything was flushed.
        *more_output = written == output.len();
        if left > 0 && taken == 0 && written == 0 && !source.is_empty() {
            return Err(self.position.error(ErrorKind::Invalid, "zstd data that leads nowhere"));
        }
        let own = !own.is_empty();
        let consumed = if own { 0 } else { taken };
        if own {
            *given += taken;
        }
        if left == 0 {
            self.end_frame();
        }
        let step = self.moved(Progress { consumed, written })?;
        // The library does not look at it where the last block is an empty one.
        if left == 0 && self.frame_end.is_some_and(|end| end != self.position.stream_offset) {
            let what = "a zstd frame has another size than its header says";
            return Err(self.position.error(ErrorKind::Invalid, what));
        }
        Ok(Step { again: step.again || own || left == 0, ..step })
    }
}

impl std::fmt::Debug for ZstdDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdDecoder")
            .field("stage", &self.stage)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
