//! The kernel's table of mounts (proc_pid_mountinfo(5)), which unlike `stat` never asks the filesystem and
//! so works for dead ones too.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::{Result, ResultExt as _};

/// The type that our mounts have.
pub const MOUNT_TYPE: &str = "fuse.refmount";

const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountEntry {
    /// Unique among the mounts that exist now.
    pub id: u64,
    /// The mount that this one stands on.
    pub parent: u64,
    /// Major and minor number of the filesystem's device.
    pub device: (u32, u32),
    /// The mount point.
    pub target: PathBuf,
    /// The type, for example `fuse.refmount`.
    pub mount_type: String,
    /// What is mounted, as the filesystem calls it: a reference, for our mounts.
    pub source: OsString,
}

/// All mounts that this process sees.
///
/// # Errors
/// `Io` when the table can't be read.
pub fn mounts() -> Result<Vec<MountEntry>> {
    let table = std::fs::read(TABLE).context(|| format!("cannot read {TABLE}"))?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

/// The topmost mount at `target`, which must be canonical.
///
/// # Errors
/// As [`mounts`].
pub fn mount_at(target: &Path) -> Result<Option<MountEntry>> {
    Ok(topmost(mounts()?, target))
}

fn topmost(mounts: Vec<MountEntry>, target: &Path) -> Option<MountEntry> {
    let mut here: Vec<MountEntry> = mounts.into_iter().filter(|entry| entry.target == target).collect();
    let top = here.iter().rposition(|entry| !here.iter().any(|other| other.parent == entry.id))?;
    Some(here.swap_remove(top))
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let target = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    // Options and any number of optional fields come before the dash.
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let mount_type = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    let source = OsString::from_vec(unescape(fields.next()?));
    Some(MountEntry { id, parent, device, target, mount_type, source })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the octal escapes of blank, tab, newline, hash and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// `path` for messages of a shell command.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", String::from_utf8_lossy(path.as_os_str().as_bytes()).replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> MountEntry {
        parse_line(line.as_bytes()).unwrap()
    }

    #[test]
    fn escapes_and_optional_fields() {
        let parsed = entry(
            "36 35 0:52 / /mnt/a\\040b\\134 ro,nosuid shared:1 master:2 - fuse.refmount host/m:v\\0401 ro,x=- y",
        );
        assert_eq!((parsed.id, parsed.parent, parsed.device), (36, 35, (0, 52)));
        assert_eq!(parsed.target, Path::new("/mnt/a b\\"));
        assert_eq!((parsed.mount_type.as_str(), parsed.source.to_str()), (MOUNT_TYPE, Some("host/m:v 1")));
        assert_eq!(entry("1 0 8:1 / / rw - ext4 /dev/sda rw").target, Path::new("/"));
        for broken in ["", "36", "36 35 0 / /x rw - a b c", "36 35 0:1 / /x rw shared:1"] {
            assert_eq!(parse_line(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn the_topmost_mount_is_the_one_that_none_stands_on() {
        let lower = entry("10 1 0:5 / /x rw - tmpfs a rw");
        let upper = entry("7 10 0:6 / /x rw - tmpfs b rw");
        let other = entry("11 7 0:7 / /x/y rw - tmpfs c rw");
        for order in [[&lower, &upper, &other], [&other, &upper, &lower]] {
            let mounts = order.into_iter().cloned().collect();
            assert_eq!(topmost(mounts, Path::new("/x")), Some(upper.clone()));
        }
        assert_eq!(topmost(vec![lower], Path::new("/z")), None);
    }

    #[test]
    fn the_real_table_has_a_root() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
    }
}
