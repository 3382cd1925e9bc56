//! One decoder for whatever a layer is compressed with.
//!
//! Fed with pieces of a blob, it writes pieces of the stream and collects the points from which another one can begin;
//! see [`super::gzip`] and [`super::zstd`].

use super::encoding::Codec;
use super::gzip::GzipDecoder;
use super::restart::RestartPoint;
use super::stream::{Position, Progress};
use super::zstd::ZstdDecoder;
use crate::base::Result;

/// A decoder of either compression.
#[derive(Debug)]
pub enum Decoder {
    /// Of gzip.
    Gzip(GzipDecoder),
    /// Of zstd.
    Zstd(ZstdDecoder),
}

impl Decoder {
    /// A decoder of a whole layer, which notes restart points on its way.
    ///
    /// # Errors
    /// `Io` when there is no memory.
    pub fn new(codec: Codec) -> Result<Self> {
        Ok(match codec {
            Codec::Gzip => Self::Gzip(GzipDecoder::new()?),
            Codec::Zstd => Self::Zstd(ZstdDecoder::new()?),
        })
    }

    /// A decoder whose input begins at `point.compressed_offset` and whose output begins at `point.stream_offset`. It
    /// notes no points.
    ///
    /// # Errors
    /// `Corrupt` when `point` is damaged or not one of this codec; `Io` when there is no memory.
    pub fn resume(codec: Codec, point: &RestartPoint) -> Result<Self> {
        Ok(match codec {
            Codec::Gzip => Self::Gzip(GzipDecoder::resume(point)?),
            Codec::Zstd => Self::Zstd(ZstdDecoder::resume(point)?),
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Gzip(decoder) => decoder.position(),
            Self::Zstd(decoder) => decoder.position(),
        }
    }

    /// Decodes from `input` into `output`: until all of the one is taken and nothing more can be made of it, or the
    /// other is full.
    ///
    /// # Errors
    /// `Invalid` for what is not of this codec or goes beyond a limit, `Corrupt` for a checksum that does not match,
    /// `Unsupported` for what a decoder could read but not this one; each with the offset in the blob.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        match self {
            Self::Gzip(decoder) => decoder.decode(input, output),
            Self::Zstd(decoder) => decoder.decode(input, output),
        }
    }

    /// To be called when all of the blob was taken and [`Self::decode`] left room in the output.
    ///
    /// # Errors
    /// `Invalid` when the blob ends too early.
    pub fn finish(&self) -> Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.finish(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }

    /// The points that were passed since the last call, in their order.
    pub fn take_points(&mut self) -> Vec<RestartPoint> {
        match self {
            Self::Gzip(decoder) => decoder.take_points(),
            Self::Zstd(decoder) => decoder.take_points(),
        }
    }
}
