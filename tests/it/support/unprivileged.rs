//! Programs run as another user than root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// The user and the group `nobody`.
pub(crate) const NOBODY: u32 = 65_534;

/// `program` as nobody.
pub(crate) fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    at_home(command)
}

/// Nobody has a home, and none of root's files.
fn at_home(mut command: Command) -> Command {
    command.env("HOME", "/nonexistent");
    command
}

/// Another user of every Debian, `news`, who has no other processes than those of one test.
pub(crate) const NEWS: u32 = 9;

/// And another one.
pub(crate) const UUCP: u32 = 10;

/// Gives a program a device that every user may open, as most machines have it, without changing the
/// machine: DIRECTORY USER PROGRAM ARGUMENTS.
const OWN_DEVICE: &str = r#"
set -e
mount -t tmpfs -o mode=755,dev tmpfs "$1"
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
user=$2
shift 2
exec setpriv --reuid="$user" --regid="$user" --clear-groups -- "$@"
"#;

/// `program` as nobody, in a mount namespace of its own where everybody may use FUSE. `directory` is for the
/// device, and has to be empty.
pub(crate) fn as_nobody_with_fuse(directory: &Path, program: impl AsRef<OsStr>) -> Command {
    as_user_with_fuse(NOBODY, directory, program)
}

/// As [`as_nobody_with_fuse`], as `user`.
pub(crate) fn as_user_with_fuse(user: u32, directory: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", OWN_DEVICE, "sh"]).arg(directory).arg(user.to_string());
    command.arg(program);
    at_home(command)
}

/// Lets everybody pass through `directory`.
pub(crate) fn let_pass(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}
