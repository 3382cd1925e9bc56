//! Our words in fuser's.

use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo};

use crate::fs::{Attributes, BLOCK_BYTES, FileKind, FsError};
use crate::layer::Timestamp;

/// What every answer about names and attributes is good for: without end, since nothing ever changes. Ten
/// years stay clear of the overflows of the kernel's clock arithmetic.
pub(super) const TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// `attributes` for the kernel. All its times are the one we know.
pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
    let time = system_time(attributes.mtime);
    FileAttr {
        ino: INodeNo(attributes.ino.0),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.kind),
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or_default(),
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: device_number(attributes.device),
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The attributes in an answer that says that a name does not exist: number 0 makes the kernel remember
/// that (`struct fuse_entry_out`).
pub(super) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
    }
}

/// A device's number as the kernel packs it in 32 bits (`new_encode_dev`): 12 bits of the driver's number, 20 of
/// the device's. Larger ones, which no kernel has, lose their upper bits.
fn device_number((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}

pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

fn system_time(timestamp: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(timestamp.seconds.unsigned_abs());
    let whole = match timestamp.seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    };
    whole
        .and_then(|time| time.checked_add(Duration::from_nanos(u64::from(timestamp.nanoseconds))))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_devices() {
        assert_eq!(device_number((1, 3)), 0x103);
        assert_eq!(device_number((8, 0x12345)), 0x1230_0845);
        assert_eq!(device_number((u32::MAX, u32::MAX)), u32::MAX);
    }

    #[test]
    fn times_before_1970_and_beyond_all_bounds() {
        let time = |seconds, nanoseconds| system_time(Timestamp { seconds, nanoseconds });
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(time(1, 5), epoch + Duration::new(1, 5));
        assert_eq!(time(-1, 250_000_000), epoch - Duration::from_millis(750));
        assert_eq!(time(i64::MAX, 999_999_999).duration_since(epoch).unwrap().as_secs(), i64::MAX as u64);
        assert!(time(i64::MIN, 0) <= epoch);
    }
}
