//! What all decoders of compressed layers have in common: how far a call came, and how far a stream may go.
//!
//! A **stream** is what a layer's blob decompresses to. Offsets into it and into the blob are counted from their
//! starts, also by a decoder that began in the middle, so that errors and limits speak of the same places.

use crate::base::limits::{LAYER_STREAM_BYTES_MAX, STREAM_BYTES_FREE, STREAM_RATIO_MAX};
use crate::base::{Error, ErrorKind, Result};

/// How far one call to a decoder came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken from the front of the input.
    pub consumed: usize,
    /// Bytes put at the front of the output. Fewer than its length only when all of the input was taken and
    /// nothing more can be made of it.
    pub written: usize,
}

/// What one step of a decoder came to: bytes moved, and whether there may be another one.
pub(super) struct Step {
    pub(super) progress: Progress,
    pub(super) again: bool,
}

/// Takes steps until the output is full or no further one is to be had.
///
/// # Errors
/// The first one of `step`.
pub(super) fn repeat(
    input: &[u8],
    output: &mut [u8],
    mut step: impl FnMut(&[u8], &mut [u8]) -> Result<Step>,
) -> Result<Progress> {
    let mut sum = Progress::default();
    while sum.written < output.len() {
        let step = step(&input[sum.consumed..], &mut output[sum.written..])?;
        sum.consumed += step.progress.consumed;
        sum.written += step.progress.written;
        if !step.again {
            break;
        }
    }
    Ok(sum)
}

/// Where a decoder stands, in both spaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes of the blob that were taken, from its start.
    pub compressed_offset: u64,
    /// Bytes of the stream that were made, from its start.
    pub stream_offset: u64,
}

impl Position {
    /// Notes `progress`.
    ///
    /// # Errors
    /// `Invalid` when the stream goes beyond the limits of [`crate::base::limits`]; the bytes in hand must not be
    /// used then.
    pub(super) fn advance(&mut self, progress: Progress) -> Result<()> {
        self.compressed_offset = self.compressed_offset.saturating_add(progress.consumed as u64);
        self.stream_offset = self.stream_offset.saturating_add(progress.written as u64);
        let by_ratio =
            self.compressed_offset.saturating_mul(STREAM_RATIO_MAX).saturating_add(STREAM_BYTES_FREE);
        let limit = if self.stream_offset > LAYER_STREAM_BYTES_MAX {
            format!("more than {LAYER_STREAM_BYTES_MAX} bytes (LAYER_STREAM_BYTES_MAX)")
        } else if self.stream_offset > by_ratio {
            format!(
                "more than {STREAM_BYTES_FREE} bytes and {STREAM_RATIO_MAX} for each compressed byte \
                 (STREAM_RATIO_MAX)"
            )
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, format!("the layer decompresses to {limit}, {self}")))
    }

    /// An error of `kind` at this place.
    pub(super) fn error(&self, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("{what}, {self}"))
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at compressed offset {} (stream offset {})", self.compressed_offset, self.stream_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_at_its_ratio_and_at_its_total() {
        let at = |compressed_offset, stream_offset| {
            Position { compressed_offset, stream_offset }.advance(Progress::default())
        };
        let bomb = 10 << 20;
        let most = STREAM_BYTES_FREE + STREAM_RATIO_MAX * bomb;
        assert!(at(bomb, most).is_ok());
        let error = at(bomb, most + 1).unwrap_err().to_string();
        assert!(
            error.contains("STREAM_RATIO_MAX") && error.contains("compressed offset 10485760"),
            "{error}"
        );
        assert!(at(1 << 40, LAYER_STREAM_BYTES_MAX).is_ok());
        let error = at(1 << 40, LAYER_STREAM_BYTES_MAX + 1).unwrap_err().to_string();
        assert!(error.contains("LAYER_STREAM_BYTES_MAX"), "{error}");
    }
}
