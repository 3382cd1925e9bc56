//! [`LocalFile`]: a file on disk that is read by ranges, and must stay as it was when it was opened.
//!
//! Whoever writes to it, or cuts it, gives its readers an error and never other bytes: its length and its time of
//! modification are looked at after each read, so that what was read belongs to the file as it was. A file that is
//! replaced by a rename stays the one that was opened. Nothing here writes.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

use super::BlobBody;

/// Bytes of one read: large enough that the hop to a blocking thread does not count, small enough that the
/// first piece of a long range comes soon.
const PIECE_BYTES: u64 = 256 << 10;

/// An open regular file.
#[derive(Debug)]
pub(super) struct LocalFile {
    file: File,
    path: PathBuf,
    stamp: Stamp,
}

/// What changes with a file's content. (The time of its status does not serve: it changes with names and modes, too.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl LocalFile {
    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// As [`open_regular`].
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path)?;
        let stamp = stamp(&file).context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { file, path: path.to_owned(), stamp })
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// Reads `range` of it, which must lie within its length.
    ///
    /// # Errors
    /// `Corrupt` for a file that is no longer what was opened; failures of the file system.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let what = || {
            let last = range.end.saturating_sub(1);
            format!("cannot read bytes {}-{last} of {}", range.start, self.path.display())
        };
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length];
        let read = self.file.read_exact_at(&mut buffer, range.start);
        if stamp(&self.file).context(what)? != self.stamp {
            let why = "the file has changed since it was opened; restore it, or open or mount it anew";
            return Err(Error::new(ErrorKind::Corrupt, format!("{}: {why}", what())));
        }
        read.context(what)?;
        Ok(buffer)
    }
}

fn stamp(file: &File) -> std::io::Result<Stamp> {
    let metadata = file.metadata()?;
    Ok(Stamp {
        bytes: metadata.len(),
        modified_seconds: metadata.mtime(),
        modified_nanoseconds: metadata.mtime_nsec(),
    })
}

/// A blob that is a part of a file, or all of it.
#[derive(Clone, Debug)]
pub(super) struct StoredBlob {
    /// The file, which may hold other blobs too.
    pub(super) file: Arc<LocalFile>,
    /// The bytes of the file that are the blob, within its length.
    pub(super) file_range: Range<u64>,
    /// How errors call it.
    pub(super) name: String,
}

impl StoredBlob {
    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.file_range.end - self.file_range.start
    }

    /// Reads `blob_range` of it, which must lie within its size.
    ///
    /// # Errors
    /// As [`LocalFile::read`].
    pub(super) fn read(&self, blob_range: Range<u64>) -> Result<Bytes> {
        let start = self.file_range.start;
        let bytes = self.file.read(start + blob_range.start..start + blob_range.end);
        Ok(bytes.map_err(|error| error.context(format!("cannot read {}", self.name)))?.into())
    }

    /// `blob_range` of it, within its size, piece by piece as the pieces are asked for.
    pub(super) fn body(self, blob_range: Range<u64>) -> BlobBody {
        let pieces = stream::try_unfold((Arc::new(self), blob_range.clone()), |(blob, left)| async move {
            if left.is_empty() {
                return Ok(None);
            }
            let piece = left.start..left.end.min(left.start + PIECE_BYTES);
            let rest = piece.end..left.end;
            let reader = Arc::clone(&blob);
            let bytes = blocking(move || reader.read(piece)).await?;
            Ok(Some((bytes, (blob, rest))))
        });
        BlobBody { range: blob_range, pieces: pieces.boxed() }
    }
}

/// Reads a whole regular file of at most `bytes_max` bytes.
///
/// # Errors
/// Failures of the file system, and `Invalid` for a larger file, naming `path`.
pub(super) fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("cannot read {}", path.display()))?;
    check_bytes(path.display(), bytes.len() as u64, bytes_max)?;
    Ok(bytes)
}

/// Checks that what is called `name` and has `bytes` bytes may be taken into memory.
///
/// # Errors
/// `Invalid` for more than `bytes_max` bytes.
pub(super) fn check_bytes(name: impl std::fmt::Display, bytes: u64, bytes_max: u64) -> Result<()> {
    if bytes > bytes_max {
        return Err(Error::new(ErrorKind::Invalid, format!("{name} is larger than {bytes_max} bytes")));
    }
    Ok(())
}

/// Opens a regular file; anything else is refused, since opening a pipe would wait for its writer.
///
/// # Errors
/// Failures of the file system, naming `path`.
fn open_regular(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).context(|| format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Invalid, format!("{} is not a regular file", path.display())));
    }
    File::open(path).context(|| format!("cannot read {}", path.display()))
}

/// Runs file system work where it may wait.
///
/// # Errors
/// Those of `work`.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::with_source(ErrorKind::Io, "a file system task ended without an answer", error))
    })
}
