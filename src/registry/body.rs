//! Bodies on their way: bounded, counted, and with errors that say how far they came.
//!
//! Nothing here yields a byte beyond what was promised, and no body ends early without an error.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use reqwest::Response;

use crate::base::{Error, ErrorKind, Result};

/// Reads a whole body of at most `bytes_max` bytes.
///
/// # Errors
/// `Invalid` for a longer one; those of the connection.
pub(super) async fn collect(mut response: Response, bytes_max: u64, what: &str) -> Result<Bytes> {
    let too_large =
        || Error::new(ErrorKind::Invalid, format!("{what}: the answer is larger than {bytes_max} bytes"));
    if response.content_length().is_some_and(|length| length > bytes_max) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if (bytes.len() + piece.len()) as u64 > bytes_max => return Err(too_large()),
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(bytes.into()),
            Err(error) => return Err(cut(error, &format!("{what}: the body broke off"))),
        }
    }
}

/// The body of a blob's answer that holds `range`, as pieces. `what` explains errors; `failed` is called
/// once when the body does not come as promised.
pub(super) fn pieces(
    response: Response,
    range: &Range<u64>,
    what: String,
    failed: impl FnOnce() + Send + 'static,
) -> BoxStream<'static, Result<Bytes>> {
    let total = range.end - range.start;
    let state = Incoming { response, taken: 0, total, what, failed: Some(failed) };
    stream::unfold(Some(state), |state| async move {
        let mut incoming = state?;
        match incoming.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(incoming))),
            Ok(None) => None,
            Err(error) => {
                if let Some(failed) = incoming.failed.take() {
                    failed();
                }
                Some((Err(error), None))
            }
        }
    })
    .boxed()
}

struct Incoming<F> {
    response: Response,
    taken: u64,
    total: u64,
    what: String,
    failed: Option<F>,
}

impl<F> Incoming<F> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let (taken, total, what) = (self.taken, self.total, &self.what);
        loop {
            match self.response.chunk().await {
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(Some(piece)) if piece.len() as u64 > total - taken => {
                    let message = format!("{what}: the body is longer than the {total} bytes it should have");
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
                Ok(Some(piece)) => {
                    self.taken += piece.len() as u64;
                    return Ok(Some(piece));
                }
                // Whatever happens to the connection now, all that was promised has come.
                _ if taken == total => return Ok(None),
                Ok(None) => {
                    let message = format!("{what}: truncated after {taken} of {total} bytes");
                    return Err(Error::new(ErrorKind::Unavailable, message));
                }
                Err(error) if error.is_timeout() => {
                    return Err(cut(error, &format!("{what}: stalled after {taken} of {total} bytes")));
                }
                Err(error) => {
                    return Err(cut(error, &format!("{what}: truncated after {taken} of {total} bytes")));
                }
            }
        }
    }
}

fn cut(error: reqwest::Error, message: &str) -> Error {
    let kind = if error.is_timeout() { ErrorKind::TimedOut } else { ErrorKind::Unavailable };
    Error::with_source(kind, message, error.without_url())
}
