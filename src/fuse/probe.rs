//! What this machine offers to mounts, found out without serving one.
//!
//! The kernel is asked by mounting in a directory that nobody else may enter, reading the request with which it greets
//! a filesystem, and unmounting without an answer: that shows what it can do and that this user may mount, by the same
//! calls as a real mount. Nothing here writes to a setting of the machine.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fuser::InitFlags;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Access, AtFlags, CWD};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

use super::{MountSpec, fusermount, mount};

/// How long the kernel may take to greet; it does so within the call that mounts.
const GREETING_LIMIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// Bytes of a request; the kernel hands none to a reader with room for less than 8 KiB.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// What non-root users of FUSE are allowed, read by `fusermount3` (mount.fuse3(8), "Configuration").
const USERS_FILE: &str = "/etc/fuse.conf";

/// Where the kernel shows the read-ahead of each mount.
const READ_AHEAD_DIRECTORY: &str = "/sys/class/bdi";

/// What of the kernel mounts can make use of, where it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelFeatures {
    /// It reads complete cache files by itself (`FUSE_PASSTHROUGH`).
    pub passthrough: bool,
    /// It sends requests again that were not answered (`FUSE_NOTIFY_RESEND`).
    pub resend: bool,
    /// Mounts can be shown with other owners, as containers with user namespaces need it (`FUSE_ALLOW_IDMAP`).
    pub idmapped: bool,
}

impl KernelFeatures {
    /// What a kernel of this version has, unless it was built without.
    #[must_use]
    pub fn of_version(version: (u32, u32)) -> Self {
        Self { passthrough: version >= (6, 9), resend: version >= (6, 9), idmapped: version >= (6, 12) }
    }

    fn of_flags(flags: InitFlags) -> Self {
        Self {
            passthrough: flags.contains(InitFlags::FUSE_PASSTHROUGH),
            resend: flags.contains(InitFlags::FUSE_HAS_RESEND),
            idmapped: flags.contains(InitFlags::FUSE_ALLOW_IDMAP),
        }
    }
}

/// The version of the running kernel, and its release as `uname -r` prints it.
///
/// # Errors
/// `Io` when it cannot be read; `Invalid` when it does not begin with two numbers.
pub fn kernel_version() -> Result<((u32, u32), String)> {
    const RELEASE: &str = "/proc/sys/kernel/osrelease";
    let text = std::fs::read_to_string(RELEASE).context(|| format!("cannot read {RELEASE}"))?;
    let release = text.trim().to_owned();
    let version = version_of(&release).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{release:?} is not the release of a kernel"))
    })?;
    Ok((version, release))
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Opens the device that every mount needs, as this user, and closes it again.
///
/// # Errors
/// `Unsupported`, with what to do.
pub fn open_device() -> Result<()> {
    mount::open_device().map(drop)
}

/// The program by which users other than root mount, and whether it has root's rights for that.
#[must_use]
pub fn mount_program() -> Option<(PathBuf, bool)> {
    const SET_USER_ID: u32 = 0o4000;
    let program = fusermount::find_program()?;
    let metadata = std::fs::metadata(&program).ok()?;
    let is_roots = std::os::unix::fs::MetadataExt::uid(&metadata) == 0;
    Some((program, is_roots && metadata.permissions().mode() & SET_USER_ID != 0))
}

/// Mounts for a moment, and says what the kernel offers to the filesystem.
///
/// # Errors
/// As [`super::FuseMount::start`].
pub fn greet() -> Result<KernelFeatures> {
    let directory = tempfile::Builder::new()
        .prefix("refmount-")
        .tempdir()
        .context(|| "cannot make a directory to mount in")?;
    let target = mount::check_target(directory.path(), false)?;
    let spec =
        MountSpec { target: target.clone(), source_name: "refmount doctor".to_owned(), allow_other: false };
    let (device, attachment) = mount::mount(&target, &spec, false)?;
    // The device is closed then, so that whoever looks at the mount gets an error and does not wait.
    let flags = read_greeting(device);
    attachment.detach()?;
    flags.map(KernelFeatures::of_flags)
}

fn read_greeting(device: OwnedFd) -> Result<InitFlags> {
    let failed = || "the kernel's greeting failed";
    let ready = rustix::io::retry_on_intr(|| {
        rustix::event::poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&GREETING_LIMIT))
    });
    if ready.map_err(io::Error::from).context(failed)? == 0 {
        return Err(Error::new(ErrorKind::TimedOut, "the kernel does not greet the filesystem"));
    }
    let mut request = vec![0; REQUEST_BYTES_MAX];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&device, &mut request[..]));
    let length = length.map_err(io::Error::from).context(failed)?;
    capabilities(&request[..length])
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the kernel's greeting is not understood"))
}

/// What an INIT request offers (linux/fuse.h: `fuse_in_header`, then `fuse_init_in`).
fn capabilities(request: &[u8]) -> Option<InitFlags> {
    const INIT: u32 = 26;
    const HEADER_BYTES: usize = 40;
    let number = |at: usize| Some(u32::from_ne_bytes(request.get(at..at + 4)?.try_into().ok()?));
    if number(4)? != INIT {
        return None;
    }
    // Major, minor and read-ahead come first.
    let flags = InitFlags::from_bits_retain(number(HEADER_BYTES + 12)?.into());
    if !flags.contains(InitFlags::FUSE_INIT_EXT) {
        return Some(flags);
    }
    let more = u64::from(number(HEADER_BYTES + 16)?) << 32;
    Some(flags | InitFlags::from_bits_retain(more))
}

/// Whether this process may raise the read-ahead of a mount.
///
/// # Errors
/// Why not.
pub fn may_raise_read_ahead() -> io::Result<()> {
    let Some(any) = std::fs::read_dir(READ_AHEAD_DIRECTORY)?.next() else {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{READ_AHEAD_DIRECTORY} is empty")));
    };
    let file = any?.path().join("read_ahead_kb");
    Ok(rustix::fs::accessat(CWD, file, Access::WRITE_OK, AtFlags::EACCESS)?)
}

/// Whether users other than root may let others look at their mounts, as the machine's configuration says.
#[must_use]
pub fn users_may_allow_other() -> bool {
    std::fs::read_to_string(Path::new(USERS_FILE)).is_ok_and(|text| allows_other(&text))
}

fn allows_other(configuration: &str) -> bool {
    configuration.lines().any(|line| line.trim() == "user_allow_other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_kernels() {
        for (release, version) in [
            ("6.18.44-1-amd64", Some((6, 18))),
            ("6.9-rc3", Some((6, 9))),
            ("5.4.0", Some((5, 4))),
            ("6", None),
            ("", None),
            ("x.y", None),
        ] {
            assert_eq!(version_of(release), version, "{release}");
        }
        let features = |version| KernelFeatures::of_version(version);
        assert_eq!(features((6, 8)), KernelFeatures { passthrough: false, resend: false, idmapped: false });
        assert_eq!(features((6, 9)), KernelFeatures { passthrough: true, resend: true, idmapped: false });
        assert_eq!(features((7, 0)), KernelFeatures { passthrough: true, resend: true, idmapped: true });
    }

    /// An INIT request with these flags, cut off after `length` bytes.
    fn init(flags: u32, more: u32, length: usize) -> Vec<u8> {
        let mut request = vec![0; 40];
        request[4..8].copy_from_slice(&26_u32.to_ne_bytes());
        for number in [7, 45, 131_072, flags, more] {
            request.extend_from_slice(&u32::to_ne_bytes(number));
        }
        request.resize(104, 0);
        request.truncate(length);
        request
    }

    #[test]
    fn the_second_half_of_the_flags_counts_where_the_first_says_so() {
        let extended = InitFlags::FUSE_INIT_EXT.bits() as u32;
        let passthrough = (InitFlags::FUSE_PASSTHROUGH.bits() >> 32) as u32;
        let offered = |request: &[u8]| capabilities(request).map(KernelFeatures::of_flags);
        let with = |passthrough| Some(KernelFeatures { passthrough, resend: false, idmapped: false });
        assert_eq!(offered(&init(extended, passthrough, 104)), with(true));
        assert_eq!(offered(&init(1, passthrough, 104)), with(false));
        assert_eq!(offered(&init(1, 0, 56)), with(false), "as kernels before 5.17 send it");
        assert_eq!(offered(&init(extended, passthrough, 56)), None);
        assert_eq!(offered(&init(extended, passthrough, 0)), None);
        assert_eq!(offered(&[0; 104]), None, "no INIT");
    }

    #[test]
    fn the_option_stands_on_a_line_of_its_own() {
        assert!(allows_other("# x\n  user_allow_other \n"));
        for text in ["", "#user_allow_other\n", "user_allow_other = 1\n", "mount_max = 10\n"] {
            assert!(!allows_other(text), "{text:?}");
        }
    }
}
