//! From a mount point to its owner, without trusting either to answer.
//!
//! The kernel's table says what is mounted where; the extended attribute `user.refmount.owner` of a mount's root
//! names its owner's socket. A mount whose process is dead or hung must not hang whoever asks, so everything
//! that touches the mount itself happens on a thread that may be left behind.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::base::{Error, ErrorKind, Result, ResultExt as _, durable};
use crate::fuse::{self, MOUNT_TYPE, MountEntry};

/// The attribute of a mount's root that holds the path of its owner's control socket.
pub const OWNER_XATTR: &str = "user.refmount.owner";

/// How long a mount may take to answer. It answers from memory, so that more means that it is hung.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long an unmount may take, which is lazy: a system call, or fusermount3 with a limit of its own.
const DETACH_LIMIT: Duration = Duration::from_secs(40);

/// Who answers for a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerOf {
    /// The owner behind this socket.
    Socket(PathBuf),
    /// Nobody: its process is gone.
    Dead,
    /// Somebody who does not answer.
    Hung,
    /// Another user, who alone may look.
    Foreign,
}

/// The mounts of refmount in the kernel's table.
///
/// # Errors
/// `Io` when the table cannot be read.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let mut all = fuse::mounts()?;
    all.retain(|mount| mount.mount_type == MOUNT_TYPE);
    Ok(all)
}

/// `path` as the kernel's table has it: absolute, and no symbolic links in it.
///
/// # Errors
/// `NotFound` when it does not exist.
pub async fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).context(|| format!("bad path {}", path.display()))?;
    let whole = absolute.clone();
    let resolved = match answer_of(ANSWER_LIMIT, move || std::fs::canonicalize(whole)).await {
        Some(Ok(resolved)) => return Ok(resolved),
        Some(Err(error)) => Err(error),
        None => Err(std::io::ErrorKind::TimedOut.into()),
    };
    // A dead or hung mount may refuse to be looked at, but not the directory that it is in.
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) {
        let parent = parent.to_owned();
        if let Some(Ok(parent)) = answer_of(ANSWER_LIMIT, move || std::fs::canonicalize(parent)).await
            && fuse::mount_at(&parent.join(name))?.is_some()
        {
            return Ok(parent.join(name));
        }
    }
    resolved.context(|| format!("cannot use {}", path.display()))
}

/// Finds who answers for the mount on `target`, a resolved path.
///
/// # Errors
/// `NotFound` when nothing is mounted there; `Invalid` when something else is, naming it.
pub async fn owner_of(target: &Path) -> Result<OwnerOf> {
    require_refmount(target, fuse::mount_at(target)?, &fuse::mounts()?)?;
    let path = target.to_owned();
    Ok(match answer_of(ANSWER_LIMIT, move || read_owner(&path)).await {
        None => OwnerOf::Hung,
        Some(Ok(socket)) => OwnerOf::Socket(socket),
        Some(Err(Errno::NOTCONN | Errno::CONNABORTED)) => OwnerOf::Dead,
        Some(Err(Errno::ACCESS | Errno::PERM)) => OwnerOf::Foreign,
        // Its root cannot be served, and nothing can be asked through it.
        Some(Err(Errno::IO)) => OwnerOf::Hung,
        Some(Err(error)) => {
            return Err(std::io::Error::from(error))
                .context(|| format!("cannot ask the mount on {} for its owner", target.display()));
        }
    })
}

/// Where it stands that an owner has given up.
fn given_up_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join("owner.failed")
}

/// Notes why the owner of `cache_dir` has given up, or that it tries again.
///
/// # Errors
/// `Io`.
pub fn note_given_up(cache_dir: &Path, why: Option<&str>) -> Result<()> {
    let path = given_up_path(cache_dir);
    match why {
        Some(why) => durable::write(&path, why.as_bytes()),
        None => std::fs::remove_file(&path).map_err(Error::from),
    }
    .context(|| format!("cannot change {}", path.display()))
}

/// Why the owner of `cache_dir` has given up, if it has.
#[must_use]
pub fn given_up(cache_dir: &Path) -> Option<String> {
    std::fs::read_to_string(given_up_path(cache_dir)).ok()
}

/// What is wrong with the mount on `target`, of which [`owner_of`] says that nobody answers for it.
#[must_use]
pub fn dead(target: &Path) -> Error {
    let shown = target.display();
    Error::new(
        ErrorKind::Io,
        format!("the mount on {shown} is dead: its process is gone; unmount it: refmount umount {shown}"),
    )
}

/// Checks that `found`, the topmost mount on `target`, is one of refmount.
fn require_refmount(target: &Path, found: Option<MountEntry>, table: &[MountEntry]) -> Result<()> {
    let shown = target.display();
    match found {
        Some(mount) if mount.mount_type == MOUNT_TYPE => Ok(()),
        Some(mount) => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{shown} is no mount of refmount, but one of type {} of {}",
                mount.mount_type,
                mount.source.display()
            ),
        )),
        None => {
            let around = table
                .iter()
                .rfind(|mount| mount.mount_type == MOUNT_TYPE && target.starts_with(&mount.target));
            let hint = around
                .map(|mount| format!("; it lies in the mount on {}", mount.target.display()))
                .unwrap_or_default();
            Err(Error::new(ErrorKind::NotFound, format!("nothing is mounted on {shown}{hint}")))
        }
    }
}

fn read_owner(target: &Path) -> Result<PathBuf, Errno> {
    // Longer than any path that a socket can have.
    let mut buffer = [0_u8; 4096];
    let length = rustix::fs::getxattr(target, OWNER_XATTR, &mut buffer)?;
    Ok(PathBuf::from(OsString::from_vec(buffer[..length].to_vec())))
}

/// Takes `target`, which [`owner_of`] found to be a mount of refmount, out of the tree of files; whoever has files of it open keeps them. That it is gone already is no
/// failure.
///
/// # Errors
/// `Io` when the kernel refuses; `TimedOut`.
pub async fn detach(target: &Path) -> Result<()> {
    let path = target.to_owned();
    let detach = move || {
        // Root's system call asks nothing of whoever serves the mount, so that it works for a hung one too.
        match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(_) => fuse::unmount_target(&path),
        }
    };
    match answer_of(DETACH_LIMIT, detach).await {
        Some(detached) => detached.map(drop),
        None => Err(Error::new(
            ErrorKind::TimedOut,
            format!("cannot unmount {}: the kernel does not answer", target.display()),
        )),
    }
}

/// What `ask` says, or nothing if it takes longer than `limit`; its thread is left behind then, and ends
/// with the process.
async fn answer_of<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("ask-mount".into()).spawn(move || {
        // Nobody listens any more once the limit has passed.
        let _ = sender.send(ask());
    });
    thread.ok()?;
    timeout(limit, receiver).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_mount_of_ours_is_named() {
        let error = owner_of(Path::new("/proc")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("type proc"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = resolve(directory.path()).await.unwrap();
        assert_eq!(owner_of(&path).await.unwrap_err().kind(), ErrorKind::NotFound);
        let error = resolve(&path.join("missing")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_path_inside_of_a_mount_is_told_where_the_mount_is() {
        let ours = MountEntry {
            id: 1,
            parent: 0,
            device: (0, 1),
            target: "/m".into(),
            mount_type: MOUNT_TYPE.into(),
            source: "x".into(),
        };
        require_refmount(Path::new("/m"), Some(ours.clone()), &[]).unwrap();
        let error = require_refmount(Path::new("/m/below"), None, &[ours]).unwrap_err();
        assert!(error.to_string().contains("it lies in the mount on /m"), "{error}");
    }

    #[tokio::test]
    async fn who_does_not_answer_is_left_behind() {
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        assert_eq!(answer_of(Duration::from_millis(10), move || never.recv().is_ok()).await, None);
        assert_eq!(answer_of(ANSWER_LIMIT, || 7).await, Some(7));
    }
}
