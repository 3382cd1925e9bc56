//! `cat`: a file of an artifact from its source to standard output, without mount or cache.
//!
//! What was written can't be taken back, so that a whole file whose digest does not match ends with an error
//! after its last byte. A part of a file can't be checked, and neither can a file of an archive before all of it was
//! read.

use std::io::Write as _;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::artifact::{ArtifactLayer, LayerFormat};
use crate::base::backoff::Backoff;
use crate::base::{Error, ErrorKind, Hasher, Result, clock};
use crate::layer::FileBody;

use super::args::{CatArgs, GlobalArgs};
use super::exit::Failure;
use super::progress::Progress;
use super::source::{Files, Opened};
use super::{log, output, source};

/// The first pause before a broken transfer goes on.
const PAUSE_FIRST: Duration = Duration::from_millis(200);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Bytes of a file, as HTTP counts them (RFC 9110, section 14.1.2): both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeArg {
    /// `A-B`.
    FromTo(u64, u64),
    /// `A-`.
    From(u64),
    /// `-N`.
    Last(u64),
}

impl FromStr for RangeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?}: {why}; write A-B, A- or -N, in bytes");
        let number = |digits: &str| {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(bad("not a range"));
            }
            digits.parse::<u64>().map_err(|_| bad("the number is too large"))
        };
        match text.split_once('-').ok_or_else(|| bad("not a range"))? {
            ("", last) => Ok(Self::Last(number(last)?)),
            (from, "") => Ok(Self::From(number(from)?)),
            (from, to) => match (number(from)?, number(to)?) {
                (from, to) if from <= to => Ok(Self::FromTo(from, to)),
                _ => Err(bad("it ends before it begins")),
            },
        }
    }
}

impl RangeArg {
    /// The bytes meant, in a file of `size` bytes. An end past the file's counts as the file's.
    ///
    /// # Errors
    /// `Usage` for a range that begins past the end.
    fn within(self, size: u64) -> Result<Range<u64>> {
        let range = match self {
            Self::FromTo(from, to) => from..to.saturating_add(1).min(size),
            Self::From(from) => from..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        if range.start > size || (range.start == size && !matches!(self, Self::Last(_))) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("--range begins at byte {}, but the file has {size} bytes", range.start),
            ));
        }
        Ok(range)
    }
}

/// Bytes of an archive's file that are asked for at once.
const STEP_BYTES: u64 = 1 << 20;

/// Writes a file to standard output.
///
/// # Errors
/// `NotFound`; what the source failed with once its attempts were used up; `Corrupt` when the whole file was
/// written and is not what its digest says.
pub(super) async fn run(global: &GlobalArgs, arguments: &CatArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let opened = source::open(&arguments.reference, &arguments.source).await?;
    let files = source::files(&opened).await?;
    let file = files.file(&opened.artifact, &arguments.path)?;
    let range = match arguments.range {
        Some(range) => range.within(file.size)?,
        None => 0..file.size,
    };
    let progress = Progress::bytes(range.end - range.start);
    let layer = &opened.artifact.layers[file.layer];
    if layer.format != LayerFormat::Raw {
        return part(&files, file, range, &progress).await;
    }
    let mut transfer = Transfer {
        opened: &opened,
        layer,
        position: range.start,
        end: range.end,
        hasher: (range == (0..file.size)).then(|| Hasher::new(layer.descriptor.digest.algorithm())),
        progress,
    };
    transfer.run().await?;
    let Transfer { hasher, .. } = transfer;
    if let Some(found) = hasher.map(Hasher::finish)
        && found != layer.descriptor.digest
    {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "what was written is not {}: its digest is {found}, {} promised {}",
                arguments.path,
                opened.source.name(),
                layer.descriptor.digest
            ),
        )
        .into());
    }
    Ok(())
}

/// Writes `range` of a file of an archive.
async fn part(files: &Files, file: &FileBody, range: Range<u64>, progress: &Progress) -> Result<(), Failure> {
    let mut start = range.start;
    while start < range.end {
        let end = range.end.min((start / STEP_BYTES + 1) * STEP_BYTES);
        let bytes = files.content.read(file, start..end).await?;
        std::io::stdout().lock().write_all(&bytes).map_err(|error| output::write_failure(&error))?;
        progress.advance(end - start);
        start = end;
    }
    Ok(())
}

/// A part of a blob on its way to standard output.
struct Transfer<'a> {
    opened: &'a Opened,
    layer: &'a ArtifactLayer,
    /// The next byte to be written, of the blob.
    position: u64,
    end: u64,
    /// Of all bytes written so far, if they are to be checked.
    hasher: Option<Hasher>,
    progress: Progress,
}

impl Transfer<'_> {
    /// Writes everything; what broke off goes on from the last byte, for as long as something still comes within
    /// the time that the source is given.
    async fn run(&mut self) -> Result<(), Failure> {
        let budget = self.opened.options.retry_budget;
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut deadline = clock::now() + budget;
        while self.position < self.end {
            let before = self.position;
            let Err(failure) = self.attempt().await else { continue };
            let Failure::Error(error) = failure else { return Err(failure) };
            if self.position > before {
                deadline = clock::now() + budget;
                backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
            }
            let pause = backoff.pause(error.retry_after());
            if !error.kind().is_transient() || clock::now() + pause > deadline {
                let digest = &self.layer.descriptor.digest;
                let position = self.position;
                return Err(error.context(format!("cannot read {digest} from byte {position} on")).into());
            }
            tracing::info!("going on from byte {} after: {}", self.position, error.chain());
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        let descriptor = &self.layer.descriptor;
        let wanted = self.position..self.end;
        let mut body = self.opened.source.blob(&descriptor.digest, descriptor.size, wanted).await?;
        let mut offset = body.range.start;
        while self.position < self.end {
            let Some(piece) = body.pieces.next().await else {
                return Err(Error::new(ErrorKind::Unavailable, "the body ended early").into());
            };
            let piece = piece?;
            let piece_end = offset + piece.len() as u64;
            // A source without ranges sends the whole blob.
            if piece_end > self.position && offset <= self.position {
                let from = (self.position - offset) as usize;
                let to = (piece_end.min(self.end) - offset) as usize;
                self.write(&piece[from..to])?;
            }
            offset = piece_end;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        std::io::stdout().lock().write_all(bytes).map_err(|error| output::write_failure(&error))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.position += bytes.len() as u64;
        self.progress.advance(bytes.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_http_counts_them() {
        for (text, size, expected) in [
            ("0-0", 10, 0..1),
            ("2-5", 10, 2..6),
            ("2-500", 10, 2..10),
            ("7-", 10, 7..10),
            ("-3", 10, 7..10),
            ("-30", 10, 0..10),
            ("-3", 0, 0..0),
            ("0-18446744073709551615", 10, 0..10),
        ] {
            assert_eq!(text.parse::<RangeArg>().unwrap().within(size).unwrap(), expected, "{text}");
        }
        for text in ["10-", "10-12", "11-"] {
            let error = text.parse::<RangeArg>().unwrap().within(10).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
        for text in ["", "-", "5", "5-2", "a-b", "1-2-3", "+1-2", "--1", "99999999999999999999-"] {
            assert!(text.parse::<RangeArg>().is_err(), "{text}");
        }
    }
}
