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
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::fuse::mountinfo::{self, MountPoint};

/// The attribute of a mount's root that holds the path of its owner's control socket.
pub const OWNER_XATTR: &str = "user.refmount.owner";

/// How long a mount may take to answer. It answers from memory, so that more means that it is hung.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long fusermount3 may take to unmount lazily.
const FUSERMOUNT_LIMIT: Duration = Duration::from_secs(10);

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
pub fn mounts() -> Result<Vec<MountPoint>> {
    let mut all = mountinfo::read()?;
    all.retain(|mount| mount.fs_type == mountinfo::FS_TYPE);
    Ok(all)
}

/// `path` as the kernel's table has it: absolute, and no symbolic links in it.
///
/// # Errors
/// `NotFound` when it does not exist.
pub async fn resolve(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).context(|| format!("bad path {}", path.display()))?;
    let whole = absolute.clone();
    let resolved = match answer_of(move || std::fs::canonicalize(whole)).await {
        Some(Ok(resolved)) => return Ok(resolved),
        Some(Err(error)) => Err(error),
        None => Err(std::io::ErrorKind::TimedOut.into()),
    };
    // A dead or hung mount may refuse to be looked at, but not the directory that it is in.
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) {
        let parent = parent.to_owned();
        if let Some(Ok(parent)) = answer_of(move || std::fs::canonicalize(parent)).await
            && mountinfo::read()?.iter().any(|mount| mount.target == parent.join(name))
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
    require_refmount(target, &mountinfo::read()?)?;
    let path = target.to_owned();
    Ok(match answer_of(move || read_owner(&path)).await {
        None => OwnerOf::Hung,
        Some(Ok(socket)) => OwnerOf::Socket(socket),
        Some(Err(Errno::NOTCONN | Errno::CONNABORTED)) => OwnerOf::Dead,
        Some(Err(Errno::ACCESS | Errno::PERM)) => OwnerOf::Foreign,
        Some(Err(error)) => {
            return Err(std::io::Error::from(error))
                .context(|| format!("cannot ask the mount on {} for its owner", target.display()));
        }
    })
}

/// Checks that the topmost mount on `target` is one of refmount.
fn require_refmount(target: &Path, table: &[MountPoint]) -> Result<()> {
    let shown = target.display();
    // Later lines lie above earlier ones.
    match table.iter().rfind(|mount| mount.target == target) {
        Some(mount) if mount.fs_type == mountinfo::FS_TYPE => Ok(()),
        Some(mount) => Err(Error::new(
            ErrorKind::Invalid,
            format!("{shown} is no mount of refmount, but one of type {} of {}", mount.fs_type, mount.source),
        )),
        None => {
            let around = table
                .iter()
                .rfind(|mount| mount.fs_type == mountinfo::FS_TYPE && target.starts_with(&mount.target));
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

/// Takes `target` out of the tree of files; whoever has files of it open keeps them.
///
/// # Errors
/// `Io`, with what fusermount3 said where it had to be asked.
pub async fn detach(target: &Path) -> Result<()> {
    let cannot = || format!("cannot unmount {}", target.display());
    let path = target.to_owned();
    let direct =
        answer_of(move || rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW));
    match direct.await {
        Some(Ok(())) => return Ok(()),
        Some(Err(Errno::PERM)) => {}
        Some(Err(error)) => return Err(std::io::Error::from(error)).context(cannot),
        None => {
            return Err(Error::new(ErrorKind::TimedOut, format!("{}: the kernel does not answer", cannot())));
        }
    }
    let mut command = Command::new("fusermount3");
    command.args(["-u", "-z", "--"]).arg(target).kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = timeout(FUSERMOUNT_LIMIT, command.output())
        .await
        .map_err(|_| Error::new(ErrorKind::TimedOut, format!("{}: fusermount3 does not end", cannot())))?
        .context(|| format!("{}: cannot run fusermount3 (Debian package fuse3)", cannot()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(ErrorKind::Io, format!("{}: {}", cannot(), said.trim())))
}

/// What `ask` says, or nothing if it takes longer than [`ANSWER_LIMIT`]; its thread is left behind then, and ends
/// with the process.
async fn answer_of<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("ask-mount".into()).spawn(move || {
        // Nobody listens any more once the limit has passed.
        let _ = sender.send(ask());
    });
    thread.ok()?;
    timeout(ANSWER_LIMIT, receiver).await.ok()?.ok()
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
    fn the_topmost_mount_counts() {
        let mount = |fs_type: &str| MountPoint {
            target: "/m".into(),
            fs_type: fs_type.into(),
            source: "x".into(),
            ..MountPoint::default()
        };
        let ours = mount(mountinfo::FS_TYPE);
        require_refmount(Path::new("/m"), &[mount("ext4"), ours.clone()]).unwrap();
        let error = require_refmount(Path::new("/m"), &[ours.clone(), mount("ext4")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = require_refmount(Path::new("/m/below"), &[ours]).unwrap_err();
        assert!(error.to_string().contains("it lies in the mount on /m"), "{error}");
    }
}
