//! Bodies on their way: bounded, counted, and with errors that say how far they came.
//!
//! Nothing here yields a byte beyond what was promised, and no body ends early without an error.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};

use crate::base::{Error, ErrorKind, Result, clock};

use super::pace::Trickle;
use super::transport::Landed;

/// Reads a whole body of at most `bytes_max` bytes.
///
/// # Errors
/// `Invalid` for a longer one; those of the connection.
pub(super) async fn collect(mut landed: Landed, bytes_max: u64, what: &str) -> Result<Bytes> {
    let too_large =
        || Error::new(ErrorKind::Invalid, format!("{what}: the answer is larger than {bytes_max} bytes"));
    if landed.response.content_length().is_some_and(|length| length > bytes_max) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        match piece(&mut landed).await {
            Ok(Some(piece)) if (bytes.len() + piece.len()) as u64 > bytes_max => return Err(too_large()),
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(bytes.into()),
            Err(cut) => return Err(cut.explained(what, bytes.len() as u64, None)),
        }
    }
}

/// The body of a blob's answer that holds `range`, as pieces. `what` explains errors; `failed` is called
/// once when the body does not come as promised.
pub(super) fn pieces(
    landed: Landed,
    range: &Range<u64>,
    what: String,
    failed: impl FnOnce() + Send + 'static,
) -> BoxStream<'static, Result<Bytes>> {
    let total = range.end - range.start;
    let state = Incoming { landed, taken: 0, total, what, failed };
    stream::unfold(Some(state), |state| async move {
        let mut incoming = state?;
        match incoming.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(incoming))),
            Ok(None) => None,
            Err(error) => {
                (incoming.failed)();
                Some((Err(error), None))
            }
        }
    })
    .boxed()
}

struct Incoming<F> {
    landed: Landed,
    taken: u64,
    total: u64,
    what: String,
    failed: F,
}

impl<F> Incoming<F> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let (taken, total, what) = (self.taken, self.total, &self.what);
        match piece(&mut self.landed).await {
            Ok(Some(piece)) if piece.len() as u64 > total - taken => {
                let message = format!("{what}: the body is longer than the {total} bytes it should have");
                Err(Error::new(ErrorKind::Corrupt, message))
            }
            Ok(Some(piece)) => {
                self.taken += piece.len() as u64;
                Ok(Some(piece))
            }
            // Whatever happens to the connection now, all that was promised has come.
            _ if taken == total => Ok(None),
            Ok(None) => Err(Cut::Ended(None).explained(what, taken, Some(total))),
            Err(cut) => Err(cut.explained(what, taken, Some(total))),
        }
    }
}

/// Why a body does not go on.
enum Cut {
    Stalled(Duration),
    Trickles(Trickle),
    Ended(Option<reqwest::Error>),
}

impl Cut {
    fn explained(self, what: &str, taken: u64, total: Option<u64>) -> Error {
        let progress = match total {
            Some(total) => format!("after {taken} of {total} bytes"),
            None => format!("after {taken} bytes"),
        };
        match self {
            Self::Stalled(timeout) => {
                let seconds = timeout.as_secs_f32();
                let message = format!("{what}: stalled {progress}, nothing came for {seconds} s");
                Error::new(ErrorKind::TimedOut, message)
            }
            Self::Trickles(Trickle { bytes, waited }) => {
                let seconds = waited.as_secs_f32();
                let message = format!("{what}: too slow {progress}, {bytes} bytes came in {seconds:.1} s");
                Error::new(ErrorKind::TimedOut, message)
            }
            Self::Ended(cause) => {
                let message = format!("{what}: truncated {progress}");
                match cause {
                    Some(cause) => Error::with_source(ErrorKind::Unavailable, message, cause.without_url()),
                    None => Error::new(ErrorKind::Unavailable, message),
                }
            }
        }
    }
}

/// The next piece that is not empty. Only the time in which somebody waits for it counts as inactivity: a
/// reader may take its time between pieces.
async fn piece(landed: &mut Landed) -> Result<Option<Bytes>, Cut> {
    let (begun, timeout) = (clock::now(), landed.pace.inactivity_timeout());
    loop {
        match tokio::time::timeout(timeout, landed.response.chunk()).await {
            Ok(Ok(Some(piece))) if piece.is_empty() => {}
            Ok(Ok(None)) => return Ok(None),
            Ok(Ok(Some(piece))) => {
                landed.pace.came(piece.len(), begun.elapsed()).map_err(Cut::Trickles)?;
                return Ok(Some(piece));
            }
            Ok(Err(error)) => return Err(Cut::Ended(Some(error))),
            Err(_) => return Err(Cut::Stalled(timeout)),
        }
    }
}
