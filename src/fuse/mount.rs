//! Mounting and unmounting: by the system calls as root, through `fusermount3` otherwise.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::base::{CHUNK_BYTES, Error, ErrorKind, Result, ResultExt as _};

use super::attachment::{Attachment, detach, is_dead};
use super::device;
use super::mountinfo::{MOUNT_TYPE, mount_at, quoted};
use super::{MountSpec, fusermount};

/// Mounts of ours that are cleared away at one mount point before giving up: each crash leaves one.
const DEAD_MOUNTS_MAX: usize = 16;

/// Checks that something can be mounted on `target`: a regular file if `wants_file`, else a directory; and
/// clears away mounts of ours whose process is gone. Returns the canonical path.
///
/// # Errors
/// `NotFound`, `Usage` for the wrong kind, `Busy` for a mount point in use.
pub fn check_target(target: &Path, wants_file: bool) -> Result<PathBuf> {
    let canonical = canonical(target)?;
    let mut metadata = std::fs::metadata(&canonical);
    for _ in 0..DEAD_MOUNTS_MAX {
        if !is_dead(&metadata) {
            break;
        }
        clear_dead_mount(&canonical)?;
        metadata = std::fs::metadata(&canonical);
    }
    let metadata = metadata.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(target, wants_file),
        _ => Error::from(error).context(format!("cannot look at the mount point {}", target.display())),
    })?;
    if let Some(entry) = mount_at(&canonical)? {
        return Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{} is a mount point already ({} of type {}); unmount it first or choose another directory",
                target.display(),
                entry.source.display(),
                entry.mount_type,
            ),
        ));
    }
    match (wants_file, metadata.is_file(), metadata.is_dir()) {
        (true, true, _) | (false, _, true) => Ok(canonical),
        (true, ..) => Err(Error::new(
            ErrorKind::Usage,
            format!("{} is not a regular file, which a mount of one file needs", target.display()),
        )),
        (false, ..) => Err(Error::new(ErrorKind::Usage, format!("{} is not a directory", target.display()))),
    }
}

/// Unmounts the refmount mount at `target`, dead or alive, lazily; whoever serves it. Returns `false` when
/// there is none.
///
/// # Errors
/// `Usage` when a mount of another type is there; `Io` when the kernel refuses.
pub fn unmount_target(target: &Path) -> Result<bool> {
    let canonical = canonical(target)?;
    match mount_at(&canonical)? {
        None => Ok(false),
        Some(entry) if entry.mount_type == MOUNT_TYPE => detach(&canonical).map(|()| true),
        Some(entry) => Err(Error::new(
            ErrorKind::Usage,
            format!("{} is a mount of type {}, not {MOUNT_TYPE}", target.display(), entry.mount_type),
        )),
    }
}

/// Mounts at `target`, a result of [`check_target`]; the device's requests wait to be served.
pub(super) fn mount(target: &Path, spec: &MountSpec, is_file: bool) -> Result<(OwnedFd, Attachment)> {
    let device = match rustix::process::geteuid().is_root() {
        true => match mount_directly(target, spec, is_file)? {
            Some(device) => device,
            // A root without the privilege, as in most containers.
            None => fusermount::mount(target, spec).map_err(|error| {
                error.context(
                    "the kernel does not let this process mount (for a container: --cap-add SYS_ADMIN \
                     --device /dev/fuse), and without that right",
                )
            })?,
        },
        false => fusermount::mount(target, spec)?,
    };
    let entry = mount_at(target)?.filter(|entry| entry.mount_type == MOUNT_TYPE).ok_or_else(|| {
        Error::new(
            ErrorKind::Io,
            format!("{} was mounted but is not in the table of mounts", target.display()),
        )
    })?;
    Ok((device, Attachment::new(entry)))
}

/// Opens the device.
pub(super) fn open_device() -> Result<File> {
    device::open().map_err(|error| device_error(&error))
}

/// `None` when the kernel does not allow it.
fn mount_directly(target: &Path, spec: &MountSpec, is_file: bool) -> Result<Option<OwnedFd>> {
    let device = open_device()?;
    let root_mode = if is_file { "100000" } else { "40000" };
    let mut data = format!(
        "fd={},rootmode={root_mode},user_id={},group_id={},default_permissions,max_read={CHUNK_BYTES}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if spec.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(|_| Error::new(ErrorKind::Io, "mount options with NUL"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    match rustix::mount::mount(&*spec.source_name, target, MOUNT_TYPE, flags, data.as_c_str()) {
        Ok(()) => Ok(Some(device.into())),
        // The second is what AppArmor answers.
        Err(Errno::PERM | Errno::ACCESS) => Ok(None),
        Err(Errno::NODEV) => {
            Err(Error::new(ErrorKind::Unsupported, "the kernel has no FUSE: load its module (modprobe fuse)"))
        }
        Err(errno) => Err(std::io::Error::from(errno))
            .context(|| format!("cannot mount on {}: the kernel refuses", target.display())),
    }
}

fn device_error(error: &std::io::Error) -> Error {
    let remedy = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "load the kernel's module (modprobe fuse); for a container, pass the device in (--device /dev/fuse)"
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "the container or user may not use it; pass it in (--device /dev/fuse) or grant access"
        }
        _ => "see whether the kernel's fuse module works",
    };
    Error::new(ErrorKind::Unsupported, format!("cannot open {}: {error}; {remedy}", device::PATH))
}

/// The path without links, without asking what is mounted there, which may be dead.
fn canonical(target: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(target).context(|| format!("bad mount point {}", target.display()))?;
    let whole = || std::fs::canonicalize(&absolute);
    let path =
        match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => std::fs::canonicalize(parent)
                .map(|parent| parent.join(name))
                .and_then(|path| match std::fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_symlink() => whole(),
                    _ => Ok(path),
                }),
            _ => whole(),
        };
    path.context(|| format!("cannot find the mount point {}", target.display()))
}

fn clear_dead_mount(target: &Path) -> Result<()> {
    match mount_at(target)? {
        Some(entry) if entry.mount_type == MOUNT_TYPE => {
            tracing::info!(mountpoint = %target.display(), "unmounting what a process that is gone has left");
            detach(target)
        }
        _ => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "{} is a dead mount of another program; remove it with: umount --lazy {}",
                target.display(),
                quoted(target),
            ),
        )),
    }
}

fn missing(target: &Path, wants_file: bool) -> Error {
    let command = if wants_file { "touch" } else { "mkdir -p" };
    Error::new(
        ErrorKind::NotFound,
        format!(
            "the mount point {} does not exist; create it: {command} {}",
            target.display(),
            quoted(target)
        ),
    )
}
