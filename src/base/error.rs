//! The one error type of the library: a kind that tells the caller what to do, and a message that tells
//! the user what was tried, what came back and what to do next.
//!
//! An error is cheap to clone, because one failed fetch answers every reader that waits for it. No
//! message ever holds a credential, a token or the query of a signed URL (see [`super::redact`]).

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// What happened, in terms of what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// An argument or a setting does not make sense; asking again the same way cannot work.
    Usage,
    /// The reference, tag, blob or path does not exist.
    NotFound,
    /// The registry wants credentials, or other ones.
    Unauthorized,
    /// Valid, but of a format that is not served.
    Unsupported,
    /// Somebody else uses it: a cache directory, a mount point.
    Busy,
    /// Malformed input: a manifest, a name, an archive.
    Invalid,
    /// Bytes that are not those that were promised: a digest or a size does not match.
    Corrupt,
    /// A passing failure of the network or of the registry; worth another attempt.
    Unavailable,
    /// Nothing came within the time allowed; worth another attempt.
    TimedOut,
    /// The disk is full, or a quota is reached.
    NoSpace,
    /// An operation of this machine failed.
    Io,
}

impl ErrorKind {
    /// Whether the same request may succeed a little later.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::TimedOut)
    }
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its kind, its message and its cause. See the module's text.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a cause of its own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: None }
    }

    /// An error that explains `source`.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: Some(Arc::new(source)) }
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// How long the registry asked us to wait, if it did.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same error, with the pause that the registry asked for.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// The same kind of error, explained one level further out.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            message: message.into(),
            retry_after: self.retry_after,
            source: Some(Arc::new(self)),
        }
    }

    /// The message and those of all causes, joined by `: `, as one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        text
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::new(io_kind(&error), error.to_string())
    }
}

fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::StorageFull | Io::QuotaExceeded | Io::ReadOnlyFilesystem => ErrorKind::NoSpace,
        Io::ResourceBusy | Io::WouldBlock => ErrorKind::Busy,
        Io::TimedOut => ErrorKind::TimedOut,
        _ => ErrorKind::Io,
    }
}

/// Adds an explanation to a result's error.
pub trait ResultExt<T> {
    /// The error explained by `message`, which is only made when there is one. An I/O error keeps the kind
    /// that [`From`] gives it.
    ///
    /// # Errors
    /// The same ones, explained.
    fn context<M: Display>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context<M: Display>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.into().context(message().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_every_cause_once() {
        let io = std::io::Error::from_raw_os_error(28);
        let error = Error::from(io).context("cannot write x").context("cannot mount");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(error.chain(), "cannot mount: cannot write x: No space left on device (os error 28)");
    }
}
