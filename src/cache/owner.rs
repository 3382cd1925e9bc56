//! The ownership of a cache directory: an advisory lock on one file in it, which ends with the process.
//!
//! The lock's holder may believe that nobody else changes the directory. Nothing here waits for another
//! owner to go.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::FlockOperation;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

use super::CachePaths;
use super::disk::lock;

/// The held lock.
#[derive(Debug)]
pub(super) struct Owner {
    /// The directory as it was when it was taken over.
    root: (u64, u64),
    lock_file: Mutex<File>,
}

impl Owner {
    /// Makes the directory if it is missing and becomes its owner.
    pub(super) fn take(paths: &CachePaths) -> Result<Self> {
        let root = paths.root();
        make_directory(root).context(|| format!("cannot make the cache directory {}", root.display()))?;
        let cannot = || format!("cannot take over the cache directory {}", root.display());
        let lock_file = take_lock(&paths.owner_lock()).context(cannot)?;
        let metadata = std::fs::metadata(root).context(cannot)?;
        match lock_file {
            Ok(file) => Ok(Self { root: identity(&metadata), lock_file: Mutex::new(file) }),
            Err(pid) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "the cache directory {} is in use by process {pid}; mount through it, or choose another \
                     --cache-dir",
                    root.display()
                ),
            )),
        }
    }

    /// Makes sure that the directory is still the one that was taken over, before anything new is made in it.
    /// A lock file that was removed with everything else in the directory is made and locked again.
    pub(super) fn ensure(&self, paths: &CachePaths) -> io::Result<()> {
        let gone = || io::Error::other("the cache directory was removed or replaced; start anew to use it");
        let root = std::fs::metadata(paths.root()).map_err(|_| gone())?;
        if identity(&root) != self.root {
            return Err(gone());
        }
        let held = lock(&self.lock_file).metadata()?;
        match std::fs::symlink_metadata(paths.owner_lock()) {
            Ok(found) if identity(&found) == identity(&held) => Ok(()),
            Ok(_) => Err(io::Error::other("the cache directory has another owner now")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match take_lock(&paths.owner_lock())? {
                Ok(file) => {
                    *lock(&self.lock_file) = file;
                    Ok(())
                }
                Err(pid) => {
                    Err(io::Error::other(format!("the cache directory belongs to process {pid} now")))
                }
            },
            Err(error) => Err(error),
        }
    }
}

/// Makes a directory and those above it, for its owner alone.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The locked file, or the process id that is written in it by who has it.
fn take_lock(path: &Path) -> io::Result<std::result::Result<File, String>> {
    loop {
        let mut options = OpenOptions::new();
        let mut writer = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // Held for reading only, so that the file system can still be remounted read-only.
        let mut file = File::open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                let pid = text.trim();
                return Ok(Err(if pid.is_empty() { "(unknown)".to_owned() } else { pid.to_owned() }));
            }
            Err(error) => return Err(error.into()),
        }
        // Between opening and locking, the name may have been given to another file.
        let held = identity(&file.metadata()?);
        let named = std::fs::symlink_metadata(path);
        if named.is_ok_and(|named| identity(&named) == held) && identity(&writer.metadata()?) == held {
            // For who finds the directory taken; the lock holds without it, on a full disk too.
            let pid = std::process::id();
            if let Err(error) = writer.set_len(0).and_then(|()| writeln!(writer, "{pid}")) {
                tracing::warn!(path = %path.display(), %error, "cannot write the owner's process id");
            }
            return Ok(Ok(file));
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
