//! How archives are compressed while they are read.

use std::io::{self, Read, Write as _};

use super::usage;
use crate::base::Result;
use crate::cli::args::PackFormat;
use crate::layer::encoding::Codec;

/// Bytes of an archive that become a zstd frame of their own, so that a reader in the middle of a layer begins at
/// most so far before its place. Weights lose nothing by it, text about a hundredth.
const FRAME_BYTES: usize = 4 << 20;

/// Bytes of an archive after which a deflate block ends, so that a reader can begin there: at level 1 the compressor makes
/// one block of whatever it is given, which could only be entered at its start. Costs five bytes each time.
const BLOCK_BYTES: usize = 1 << 20;

/// What is done to an archive. The raw format knows none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip { level: u32 },
    Zstd { level: i32 },
}

impl Compression {
    /// That of `format`.
    ///
    /// # Errors
    /// `Usage` for a level that the format does not have.
    pub(super) fn new(format: PackFormat, level: Option<u32>) -> Result<Self> {
        match (format, level) {
            (PackFormat::Raw | PackFormat::Tar, None) => Ok(Self::None),
            (PackFormat::TarGzip, None) => Ok(Self::Gzip { level: 6 }),
            (PackFormat::TarGzip, Some(level @ 0..=9)) => Ok(Self::Gzip { level }),
            (PackFormat::TarZstd, None) => Ok(Self::Zstd { level: 3 }),
            (PackFormat::TarZstd, Some(level @ 1..=19)) => Ok(Self::Zstd { level: level.cast_signed() }),
            (PackFormat::Raw | PackFormat::Tar, Some(_)) => Err(usage(
                "--level is for --format tar+gzip and tar+zstd; this format is not compressed".into(),
            )),
            (PackFormat::TarGzip, Some(level)) => {
                Err(usage(format!("gzip has no level {level}; give --level 0 to 9")))
            }
            (PackFormat::TarZstd, Some(level)) => {
                Err(usage(format!("--level {level} is not supported for zstd; give 1 to 19")))
            }
        }
    }

    /// Its name among those that layers have.
    pub(super) fn codec(self) -> Option<Codec> {
        match self {
            Self::None => None,
            Self::Gzip { .. } => Some(Codec::Gzip),
            Self::Zstd { .. } => Some(Codec::Zstd),
        }
    }

    /// What `archive` yields, compressed. Depends on its bytes alone: no time and no name goes into it.
    ///
    /// # Errors
    /// `Io` when the compressor cannot be made.
    pub(super) fn of<'a>(self, archive: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(archive),
            Self::Gzip { level } => Box::new(GzipBlocks::new(archive, level)),
            Self::Zstd { level } => Box::new(ZstdFrames::new(archive, level)?),
        })
    }
}

/// A reader's bytes as one gzip member in which a block ends after each [`BLOCK_BYTES`].
struct GzipBlocks<R> {
    reader: R,
    /// Writes to `packed`; none once the member has ended.
    encoder: Option<flate2::write::GzEncoder<Vec<u8>>>,
    plain: Vec<u8>,
    packed: Vec<u8>,
    /// Bytes of `packed` that have gone out.
    taken: usize,
}

impl<R: Read> GzipBlocks<R> {
    fn new(reader: R, level: u32) -> Self {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        Self { reader, encoder: Some(encoder), plain: Vec::new(), packed: Vec::new(), taken: 0 }
    }

    /// Packs some more; nothing at the end.
    fn refill(&mut self) -> io::Result<()> {
        self.packed.clear();
        self.taken = 0;
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        self.plain.clear();
        (&mut self.reader).take(BLOCK_BYTES as u64).read_to_end(&mut self.plain)?;
        if self.plain.is_empty() {
            self.packed = encoder.finish()?;
            return Ok(());
        }
        encoder.write_all(&self.plain)?;
        // A flush ends the block, and comes to the next byte (RFC 1951, section 3.2.4).
        encoder.flush()?;
        std::mem::swap(encoder.get_mut(), &mut self.packed);
        self.encoder = Some(encoder);
        Ok(())
    }
}

impl<R: Read> Read for GzipBlocks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.packed.len() {
            self.refill()?;
        }
        let count = (&self.packed[self.taken..]).read(buffer)?;
        self.taken += count;
        Ok(count)
    }
}

/// A reader's bytes as zstd frames of [`FRAME_BYTES`] each.
struct ZstdFrames<R> {
    reader: R,
    compressor: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
    frame: Vec<u8>,
    /// Bytes of `frame` that have gone out.
    taken: usize,
}

impl<R: Read> ZstdFrames<R> {
    fn new(reader: R, level: i32) -> Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.include_checksum(true)?;
        Ok(Self { reader, compressor, plain: Vec::new(), frame: Vec::new(), taken: 0 })
    }
}

impl<R: Read> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.frame.len() {
            self.plain.clear();
            (&mut self.reader).take(FRAME_BYTES as u64).read_to_end(&mut self.plain)?;
            if self.plain.is_empty() {
                return Ok(0);
            }
            self.frame = self.compressor.compress(&self.plain)?;
            self.taken = 0;
        }
        let count = (&self.frame[self.taken..]).read(buffer)?;
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::gzip::GzipDecoder;

    #[test]
    fn levels_that_a_format_has_are_taken_and_others_refused() {
        for (format, level, taken) in [
            (PackFormat::Raw, None, true),
            (PackFormat::Raw, Some(1), false),
            (PackFormat::Tar, Some(1), false),
            (PackFormat::TarGzip, Some(0), true),
            (PackFormat::TarGzip, Some(10), false),
            (PackFormat::TarZstd, Some(0), false),
            (PackFormat::TarZstd, Some(19), true),
            (PackFormat::TarZstd, Some(20), false),
        ] {
            assert_eq!(Compression::new(format, level).is_ok(), taken, "{format:?} {level:?}");
        }
    }

    #[test]
    fn gzip_of_every_level_can_be_entered_in_its_middle() {
        // Bytes of which even the lowest level makes less.
        let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at.wrapping_mul(at) >> 13) as u8 & 0x3f).collect();
        for level in [0, 1, 6] {
            let mut packed = Vec::new();
            Compression::Gzip { level }.of(&bytes[..]).unwrap().read_to_end(&mut packed).unwrap();
            let mut decoder = GzipDecoder::new().unwrap();
            let (mut window, mut at) = (vec![0; 1 << 20], 0);
            let mut given = 0;
            while at < bytes.len() {
                let progress = decoder.decode(&packed[given..], &mut window).unwrap();
                assert!(window[..progress.written] == bytes[at..at + progress.written], "level {level}");
                given += progress.consumed;
                at += progress.written;
            }
            let points = decoder.take_points();
            let last = points.last().unwrap();
            assert!(points.len() >= 5 && last.stream_offset > 15_000_000, "level {level}: {points:?}");
        }
    }

    #[test]
    fn zstd_frames_are_small_and_give_the_bytes_back() {
        for length in [1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 77] {
            let bytes: Vec<u8> = (0..length).map(|at| ((at * at) >> 7) as u8).collect();
            let mut packed = Vec::new();
            let mut reader = Compression::Zstd { level: 1 }.of(&bytes[..]).unwrap();
            reader.read_to_end(&mut packed).unwrap();
            assert!(zstd::decode_all(&packed[..]).unwrap() == bytes, "{length}");
            let magic = 0xFD2F_B528_u32.to_le_bytes();
            let frames = packed.windows(4).filter(|window| *window == magic).count();
            assert!(frames >= length.div_ceil(FRAME_BYTES), "{length}: {frames} frames");
        }
    }
}
