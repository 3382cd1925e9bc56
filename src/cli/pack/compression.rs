//! How archives are compressed while they are read.

use std::io::{self, Read};

use super::usage;
use crate::base::Result;
use crate::cli::args::PackFormat;
use crate::layer::encoding::Codec;

/// Bytes of an archive that become a zstd frame of their own, so that a reader in the middle of a layer begins at
/// most so far before its place. Weights lose nothing by it, text about a hundredth.
const FRAME_BYTES: usize = 4 << 20;

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
            Self::Gzip { level } => {
                Box::new(flate2::read::GzEncoder::new(archive, flate2::Compression::new(level)))
            }
            Self::Zstd { level } => Box::new(ZstdFrames::new(archive, level)?),
        })
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
