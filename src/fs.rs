//! The filesystem operations of one mount, without FUSE: names, attributes, links, directories, extended
//! attributes and reads.
//!
//! Everything but a read is answered from memory, and at once unless the tree is still growing: what is not known
//! yet then is [`FsError::NotYet`], and [`Filesystem::when_known`] waits for it. Content comes through [`FileContent`]; a reply is never
//! short before the end of a file, whatever the content does. Nothing here changes anything: the tree is
//! immutable and every write is refused by the adapter above.

mod attributes;
mod content;
mod error;
mod failure_log;
mod open_files;
mod open_table;
mod xattr;

use std::ffi::OsStr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::base::{Digest, Error, ErrorKind};
use crate::layer::FileBody;
use crate::tree::{Ino, InodeKind, Shown, ShownInode, Unknown};

use failure_log::FailureLog;
use open_files::DIRECT_BYTES_MIN;

pub use attributes::{Attributes, BLOCK_BYTES, FileKind, Statistics};
pub use content::FileContent;
pub use error::{FsError, FsResult};
pub use open_files::{Handed, OpenFiles, OpenMode, Registration};
pub use open_table::{Left, OpenTable};

/// What a mount says about itself through the extended attributes of its root.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The reference, normalised.
    pub reference: String,
    /// The manifest's digest that the reference was pinned to.
    pub digest: Digest,
    /// The control socket of the process that serves the mount.
    pub owner: Option<PathBuf>,
}

/// One name of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryEntry<'a> {
    /// The name; `.` and `..` come first.
    pub name: &'a OsStr,
    /// Where a listing goes on after this entry.
    pub next_offset: u64,
    /// What the name leads to.
    pub attributes: Attributes,
}

/// See the module's text.
#[derive(Debug)]
pub struct Filesystem {
    view: Shown,
    content: Arc<dyn FileContent>,
    identity: Identity,
    failures: FailureLog,
    only_small: OnceLock<bool>,
}

impl Filesystem {
    /// The filesystem that shows `view`, whose files' bytes `content` has.
    #[must_use]
    pub fn new(view: impl Into<Shown>, content: Arc<dyn FileContent>, identity: Identity) -> Self {
        let (view, failures, only_small) = (view.into(), FailureLog::default(), OnceLock::new());
        Self { view, content, identity, failures, only_small }
    }

    /// What is shown.
    #[must_use]
    pub fn view(&self) -> &Shown {
        &self.view
    }

    /// Runs `operation` until it ends otherwise than with `NotYet`: again whenever more of the tree may be known.
    /// Gives up when nothing comes any more, and after `limit`; it needs a runtime with timers then.
    ///
    /// # Errors
    /// Those of `operation`; `Content` with `TimedOut` when it gives up.
    pub async fn when_known<T>(
        &self,
        limit: Option<Duration>,
        mut operation: impl FnMut(&Self) -> FsResult<T>,
    ) -> FsResult<T> {
        let Some((mut progress, stall_timeout)) = self.view.progress() else { return operation(self) };
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            // Marked as seen before it is looked at, so that what comes in between is not missed.
            progress.borrow_and_update();
            match operation(self) {
                Err(FsError::NotYet) => {}
                answer => return answer,
            }
            let left = end.map_or(stall_timeout, |end| end.saturating_duration_since(Instant::now()));
            if tokio::time::timeout(stall_timeout.min(left), progress.changed()).await.is_err() {
                let error = Shown::stalled(stall_timeout.min(left));
                self.failures.report_unknown(&self.identity.reference, &error);
                return Err(FsError::Content(error));
            }
        }
    }

    fn unknown(&self, unknown: Unknown) -> FsError {
        match unknown {
            Unknown::NotYet => FsError::NotYet,
            Unknown::Failed(error) => {
                self.failures.report_end(&self.identity.reference, &error);
                FsError::Content(error)
            }
        }
    }

    /// Where the bytes come from.
    #[must_use]
    pub fn content(&self) -> &Arc<dyn FileContent> {
        &self.content
    }

    /// What the mount says about itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What `name` in the directory `parent` leads to.
    ///
    /// # Errors
    /// `NotFound`; `NotDirectory` when `parent` is none; `NotYet`.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attributes> {
        self.directory(parent)?;
        let found = self.view.lookup(parent, name).map_err(|unknown| self.unknown(unknown))?;
        self.attributes(found.ok_or(FsError::NotFound)?)
    }

    /// What is known about `ino`.
    ///
    /// # Errors
    /// `NotFound` for a number that the view does not have.
    pub fn attributes(&self, ino: Ino) -> FsResult<Attributes> {
        Ok(Attributes::of(ino, &*self.inode(ino)?))
    }

    /// Shows the entries of the directory `ino` from `offset` on (0, or an entry's `next_offset`) to `show`,
    /// until that returns `false`.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotYet`.
    pub fn read_directory(
        &self,
        ino: Ino,
        offset: u64,
        mut show: impl FnMut(DirectoryEntry<'_>) -> bool,
    ) -> FsResult<()> {
        self.directory(ino)?;
        let parent = self.view.parent(ino).unwrap_or(Ino::ROOT);
        let dots = [(OsStr::new("."), ino), (OsStr::new(".."), parent)];
        let from = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        let children = self.view.children(ino, from).map_err(|unknown| self.unknown(unknown))?;
        let dots = dots.into_iter().skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for ((name, ino), next_offset) in dots.chain(children).zip(offset.saturating_add(1)..) {
            let attributes = self.attributes(ino)?;
            if !show(DirectoryEntry { name, next_offset, attributes }) {
                break;
            }
        }
        Ok(())
    }

    /// The bytes that the link `ino` holds.
    ///
    /// # Errors
    /// `NotFound`; `NotLink` for anything else.
    pub fn read_link(&self, ino: Ino) -> FsResult<Box<[u8]>> {
        match &self.inode(ino)?.kind {
            InodeKind::Symlink { target } => Ok(target.clone()),
            _ => Err(FsError::NotLink),
        }
    }

    /// The size of the view, for `df`.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics::of(&self.view)
    }

    /// Checks that `ino` is a file, tells the content that it is opened, and returns its body.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `NotFile`.
    pub fn opened(&self, ino: Ino) -> FsResult<FileBody> {
        let file = self.file(ino)?;
        Arc::clone(&self.content).opened(&file);
        Ok(file)
    }

    /// Whether all of the tree is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.view.is_complete()
    }

    /// Whether all files are known, and each is too small to be handed to the kernel: then nothing depends on which are open.
    #[must_use]
    pub fn has_only_small_files(&self) -> bool {
        if self.only_small.get().is_none() && !self.view.is_complete() {
            return false;
        }
        *self.only_small.get_or_init(|| self.view.files().all(|file| file.body.size < DIRECT_BYTES_MIN))
    }

    /// Answers a read of `length` bytes at `offset` without waiting for the network: fills `buffer` (cleared
    /// first) and returns `true`, or returns `false` for [`Self::read`] to do it. What lies past the end of
    /// the file is left out.
    ///
    /// # Errors
    /// Those of [`Self::opened`]; `Content` when the bytes are known to be wrong.
    pub fn read_cached(&self, ino: Ino, offset: u64, length: u32, buffer: &mut Vec<u8>) -> FsResult<bool> {
        let (file, range) = self.range(ino, offset, length)?;
        buffer.clear();
        if range.is_empty() {
            return Ok(true);
        }
        let expected = range.end - range.start;
        match self.content.read_cached(&file, range.clone(), buffer) {
            Ok(false) => Ok(false),
            Ok(true) => whole(buffer.len(), expected).map(|()| true),
            Err(error) => Err(error),
        }
        .map_err(|error| self.failed(ino, file.layer, range.start, error))
    }

    /// The `length` bytes at `offset`, from cache or network; only those before the end of the file. Gives up
    /// after `limit`, for callers that must answer sooner than the content would; it needs a runtime with
    /// timers then.
    ///
    /// # Errors
    /// Those of [`Self::opened`]; `Content` with what the content failed with.
    pub async fn read(&self, ino: Ino, offset: u64, length: u32, limit: Option<Duration>) -> FsResult<Bytes> {
        let (file, range) = self.range(ino, offset, length)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let expected = range.end - range.start;
        let read = Arc::clone(&self.content).read(&file, range.clone());
        let read = match limit {
            None => read.await,
            Some(limit) => tokio::time::timeout(limit, read).await.unwrap_or_else(|_| {
                let why = format!("no bytes came within {:?}, all that the kernel allows here", limit);
                Err(Error::new(ErrorKind::TimedOut, why))
            }),
        };
        read.and_then(|bytes| whole(bytes.len(), expected).map(|()| bytes))
            .map_err(|error| self.failed(ino, file.layer, range.start, error))
    }

    /// The inodes whose bytes layer `layer` holds, as far as they are known.
    #[must_use]
    pub fn inodes_of(&self, layer: usize) -> Vec<Ino> {
        self.view.inodes_of(layer)
    }

    fn inode(&self, ino: Ino) -> FsResult<ShownInode<'_>> {
        self.view.inode(ino).ok_or(FsError::NotFound)
    }

    fn directory(&self, ino: Ino) -> FsResult<()> {
        match self.inode(ino)?.kind {
            InodeKind::Directory => Ok(()),
            _ => Err(FsError::NotDirectory),
        }
    }

    /// The bytes of the file `ino`.
    fn file(&self, ino: Ino) -> FsResult<FileBody> {
        match &self.inode(ino)?.kind {
            InodeKind::File(body) => Ok(body.clone()),
            InodeKind::Directory => Err(FsError::IsDirectory),
            InodeKind::Symlink { .. }
            | InodeKind::CharDevice { .. }
            | InodeKind::BlockDevice { .. }
            | InodeKind::Fifo => Err(FsError::NotFile),
        }
    }

    fn range(&self, ino: Ino, offset: u64, length: u32) -> FsResult<(FileBody, Range<u64>)> {
        let file = self.file(ino)?;
        let end = offset.saturating_add(u64::from(length)).min(file.size);
        Ok((file, offset.min(end)..end))
    }

    fn failed(&self, ino: Ino, layer: usize, file_offset: u64, error: Error) -> FsError {
        self.failures.report(&failure_log::Failure {
            reference: &self.identity.reference,
            path: &String::from_utf8_lossy(&self.view.path_of(ino)),
            digest: self.content.digest(layer),
            file_offset,
            error: &error,
        });
        FsError::Content(error)
    }
}

/// The kernel takes a short reply for the end of the file, for every later reader too.
fn whole(length: usize, expected: u64) -> Result<(), Error> {
    match u64::try_from(length) == Ok(expected) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the content gave {length} bytes where {expected} were asked for"),
        )),
    }
}

#[cfg(test)]
mod tests;
