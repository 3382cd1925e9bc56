//! The ownership of a cache directory: an advisory lock on one file in it, which ends with the process.
//!
//! The lock's holder may believe that nobody else changes the directory. Nothing here waits for another
//! owner to go; only a lock that nobody alive has written his number in is waited for, and not for long.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

use super::CachePaths;
use super::disk::lock;

/// How often the lock of nobody is looked at, in some more than a second: a fork and an exec on a machine that is busy.
/// A number of times, since one that stands still for a while comes no further with either.
const LEFT_LOCK_LOOKS: u32 = 100;

/// The pause between two of them.
const LEFT_LOCK_PAUSE: Duration = Duration::from_millis(10);

/// That another process holds the directory for this one, and for those that come after it.
#[derive(Debug)]
pub struct HeldBy {
    /// That process, which is the owner for everybody else.
    pub pid: u32,
    /// The lock, as the process before this one has left it.
    pub lock: Option<OwnedFd>,
}

/// The held lock.
#[derive(Debug)]
pub(super) struct Owner {
    /// The process that others know as the owner.
    pid: u32,
    /// The directory as it was when it was taken over.
    root: (u64, u64),
    lock_file: Mutex<File>,
}

impl Owner {
    /// Makes the directory if it is missing and becomes its owner, or goes on as the one that has left its lock.
    pub(super) fn take(paths: &CachePaths, held_by: Option<HeldBy>) -> Result<Self> {
        let (pid, held) = held_by.map_or((std::process::id(), None), |by| (by.pid, by.lock.map(File::from)));
        let root = paths.root();
        make_directory(root).context(|| format!("cannot make the cache directory {}", root.display()))?;
        let cannot = || format!("cannot take over the cache directory {}", root.display());
        let metadata = std::fs::metadata(root).context(cannot)?;
        refuse_shared(root, &metadata)?;
        let lock_file = match held {
            Some(file) if is_at(&file, &paths.owner_lock()) => {
                // Another process may hold it by now.
                write_pid(&paths.owner_lock(), pid);
                Ok(file)
            }
            // It was removed with everything else, so it locks nothing any more.
            _ => take_lock_in_time(&paths.owner_lock(), pid).context(cannot)?,
        };
        match lock_file {
            Ok(file) => Ok(Self { pid, root: identity(&metadata), lock_file: Mutex::new(file) }),
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

    /// The lock, for whoever keeps it beyond this process.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        Ok(lock(&self.lock_file).try_clone()?.into())
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match take_lock(&paths.owner_lock(), self.pid)? {
                    Ok(file) => {
                        *lock(&self.lock_file) = file;
                        Ok(())
                    }
                    Err(pid) => {
                        Err(io::Error::other(format!("the cache directory belongs to process {pid} now")))
                    }
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Refuses a directory in which somebody else could put files that we would believe.
pub(super) fn refuse_shared(root: &Path, metadata: &Metadata) -> Result<()> {
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if is_ours && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!(
            "others may write to the cache directory {0} (owner {1}, mode {2:03o}); choose another --cache-dir, or \
             make it yours alone: chown {3} {0} && chmod go-w {0}",
            root.display(),
            metadata.uid(),
            metadata.mode() & 0o777,
            rustix::process::geteuid().as_raw()
        ),
    ))
}

/// Makes a directory and those above it, for its owner alone.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// As [`take_lock`], but not put off by the lock of nobody: a child holds the lock of the process that started
/// it from its fork to its exec, even when that process has given it back or has died.
fn take_lock_in_time(path: &Path, own_pid: u32) -> io::Result<std::result::Result<File, String>> {
    for _ in 0..LEFT_LOCK_LOOKS {
        match take_lock(path, own_pid)? {
            Err(pid) if is_left(&pid, own_pid) => std::thread::sleep(LEFT_LOCK_PAUSE),
            taken => return Ok(taken),
        }
    }
    take_lock(path, own_pid)
}

/// Whether the process `pid` cannot be the owner: it is this one, which is only just asking, or it is gone.
fn is_left(pid: &str, own_pid: u32) -> bool {
    pid == own_pid.to_string() || !Path::new("/proc").join(pid).exists()
}

/// The locked file, or the process id that is written in it by who has it.
fn take_lock(path: &Path, own_pid: u32) -> io::Result<std::result::Result<File, String>> {
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
            note_pid(path, &mut writer, own_pid);
            return Ok(Ok(file));
        }
    }
}

/// Notes a process in the file of a lock that was taken before, unless it stands there.
fn write_pid(path: &Path, pid: u32) {
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == pid.to_string()) {
        return;
    }
    match OpenOptions::new().write(true).open(path) {
        Ok(mut writer) => note_pid(path, &mut writer, pid),
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot write the owner's process id"),
    }
}

fn note_pid(path: &Path, writer: &mut File, pid: u32) {
    if let Err(error) = writer.set_len(0).and_then(|()| writeln!(writer, "{pid}")) {
        tracing::warn!(path = %path.display(), %error, "cannot write the owner's process id");
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let named = std::fs::symlink_metadata(path).map(|metadata| identity(&metadata));
    file.metadata().is_ok_and(|held| named.is_ok_and(|named| named == identity(&held)))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let paths = CachePaths::new(directory.path());
        for (mode, is_refused) in [(0o777, true), (0o770, true), (0o755, false), (0o700, false)] {
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let taken = Owner::take(&paths, None);
            assert_eq!(taken.is_err(), is_refused, "{mode:o}");
            if let Err(error) = taken {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
    }

    #[test]
    fn a_lock_that_a_starting_child_still_holds_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let paths = CachePaths::new(directory.path());
        let owner = Owner::take(&paths, None).unwrap();
        // What a fork does: the same open file in a second place, which outlives the owner's own.
        let copy = lock(&owner.lock_file).try_clone().unwrap();
        drop(owner);
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(copy);
        });
        assert!(Owner::take(&paths, None).is_ok());
        child.join().unwrap();
    }
}
