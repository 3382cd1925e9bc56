//! What a filesystem operation fails with, and what the caller of a system call sees of it.

use rustix::io::Errno;

use crate::base::{Error, ErrorKind};

/// A result of a filesystem operation.
pub type FsResult<T> = Result<T, FsError>;

/// Why a filesystem operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FsError {
    /// There is no such name or inode.
    #[error("no such file or directory")]
    NotFound,
    /// The operation needs a directory.
    #[error("not a directory")]
    NotDirectory,
    /// The operation needs a file, and this is a directory.
    #[error("is a directory")]
    IsDirectory,
    /// The operation needs a symbolic link.
    #[error("not a symbolic link")]
    NotLink,
    /// The operation needs a regular file.
    #[error("not a regular file")]
    NotFile,
    /// It would change something.
    #[error("read-only file system")]
    ReadOnly,
    /// The inode has no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small for the value.
    #[error("the buffer is too small")]
    Range,
    /// The tree is still growing, and what was asked for is not known yet; see
    /// [`super::Filesystem::when_known`].
    #[error("not known yet")]
    NotYet,
    /// The bytes, or the tree, can't be had.
    #[error(transparent)]
    Content(#[from] Error),
}

impl FsError {
    /// The number that the system call fails with.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::NotFound => Errno::NOENT,
            Self::NotDirectory => Errno::NOTDIR,
            Self::IsDirectory => Errno::ISDIR,
            Self::NotLink | Self::NotFile => Errno::INVAL,
            Self::ReadOnly => Errno::ROFS,
            Self::NoAttribute => Errno::NODATA,
            Self::Range => Errno::RANGE,
            Self::NotYet => Errno::IO,
            Self::Content(error) => content_errno(error.kind()),
        }
    }
}

/// A reader's file exists and may be read, whatever happened on the way to its bytes; so a blob that the
/// registry has lost is no ENOENT and an expired credential no EACCES. The log has the cause.
fn content_errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::Usage
        | ErrorKind::NotFound
        | ErrorKind::Unauthorized
        | ErrorKind::Unsupported
        | ErrorKind::Busy
        | ErrorKind::Invalid
        | ErrorKind::Corrupt
        | ErrorKind::Unavailable
        | ErrorKind::TimedOut
        | ErrorKind::NoSpace
        | ErrorKind::Io => Errno::IO,
    }
}
