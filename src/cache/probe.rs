//! Whether a directory is fit for a cache, tried out without making or changing anything in it that stays.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::base::{CHUNK_BYTES, Result, ResultExt as _};

use super::FreeSpaceFloor;
use super::owner::refuse_shared;

/// Where the one chunk of the file lies with which a disk is tried out; before it is a hole.
const CHUNK_OFFSET: u64 = 8 * CHUNK_BYTES;

/// The path itself, or what there is of the directories above it.
#[must_use]
pub fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Checks that nobody else can put anything into the directory `path`, as its owner does when it takes it over.
///
/// # Errors
/// `Usage`, with what to do; `Io` and `NotFound` for a directory that cannot be looked at.
pub fn check_private(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path)
        .context(|| format!("cannot look at the cache directory {}", path.display()))?;
    refuse_shared(path, &metadata)
}

/// The room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are free for this user.
    pub free_bytes: u64,
    /// Bytes that are to stay free.
    pub floor_bytes: u64,
}

impl Room {
    /// That of the file system that `path` lies on.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of(path: &Path, floor: FreeSpaceFloor) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            floor_bytes: floor.bytes_of(stat.f_blocks.saturating_mul(stat.f_frsize)),
        })
    }

    /// What a cache may take of it.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.free_bytes.saturating_sub(self.floor_bytes)
    }
}

/// What a file system is, as far as it matters to a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// On a disk of this machine, and the kernel can read its files on our behalf.
    Disk(&'static str),
    /// In memory: it counts as such, and is gone after a restart.
    Memory,
    /// On top of other file systems, so that the kernel takes no file of it for passthrough.
    Stacked(&'static str),
    /// Behind a network or a process, as slow and as reliable as that.
    Remote(&'static str),
    /// One that is not known here, by its number (statfs(2)).
    Unknown(u64),
}

impl Medium {
    /// What `path` lies on.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of(path: &Path) -> io::Result<Self> {
        // The number's type is another one on other architectures.
        Ok(Self::of_number(rustix::fs::statfs(path)?.f_type as u64))
    }

    /// Numbers from statfs(2); those of 32 bits may come with a sign.
    fn of_number(number: u64) -> Self {
        match number & 0xFFFF_FFFF {
            0xEF53 => Self::Disk("ext4"),
            0x5846_5342 => Self::Disk("xfs"),
            0x9123_683E => Self::Disk("btrfs"),
            0x2FC1_2FC1 => Self::Disk("zfs"),
            0xF2F5_2010 => Self::Disk("f2fs"),
            0xCA45_1A4E => Self::Disk("bcachefs"),
            0x0102_1994 | 0x8584_58F6 => Self::Memory,
            0x794C_7630 => Self::Stacked("overlay"),
            0xF15F => Self::Stacked("ecryptfs"),
            0x6969 => Self::Remote("nfs"),
            0xFF53_4D42 | 0xFE53_4D42 | 0x517B => Self::Remote("smb"),
            0x00C3_6400 => Self::Remote("ceph"),
            0x0102_1997 => Self::Remote("9p"),
            0x6573_5546 => Self::Remote("fuse"),
            number => Self::Unknown(number),
        }
    }
}

/// Something that a cache needs of its disk and that did not work.
#[derive(Debug)]
pub enum Lack {
    /// Files cannot be made or written.
    Writing(io::Error),
    /// What was written cannot be made durable.
    Syncing(io::Error),
    /// A hole takes as much room as bytes do.
    SparseFiles,
    /// Room cannot be given back out of the middle of a file.
    PunchingHoles(io::Error),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writing(error) => write!(f, "cannot write a file: {error}"),
            Self::Syncing(error) => write!(f, "cannot make a file durable (fsync): {error}"),
            Self::SparseFiles => f.write_str("files are not sparse: holes take room"),
            Self::PunchingHoles(error) => write!(f, "cannot punch holes into a file: {error}"),
        }
    }
}

/// Tries in `directory` what a cache does with its files, on one that has no name; returns what does not work.
#[must_use]
pub fn try_out(directory: &Path) -> Vec<Lack> {
    let written = tempfile::tempfile_in(directory).and_then(|file| {
        file.write_all_at(&[0xA5; CHUNK_BYTES as usize], CHUNK_OFFSET)?;
        Ok(file)
    });
    let file = match written {
        Ok(file) => file,
        Err(error) => return vec![Lack::Writing(error)],
    };
    let mut lacks = Vec::new();
    if let Err(error) = file.sync_data() {
        lacks.push(Lack::Syncing(error));
    }
    // The unit of the count is the same on every file system (stat(2)).
    if file.metadata().is_ok_and(|metadata| metadata.blocks() * 512 > CHUNK_OFFSET) {
        lacks.push(Lack::SparseFiles);
    }
    if let Err(error) = punch(&file) {
        lacks.push(Lack::PunchingHoles(error));
    }
    lacks
}

fn punch(file: &File) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, CHUNK_OFFSET, CHUNK_BYTES)?;
    let mut byte = [0xFF];
    file.read_exact_at(&mut byte, CHUNK_OFFSET)?;
    if byte == [0] { Ok(()) } else { Err(io::Error::other("the bytes are still there")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_tried_out_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        assert!(try_out(directory.path()).is_empty());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let missing = directory.path().join("a/b");
        assert_eq!(nearest_existing(&missing), directory.path());
        assert!(matches!(try_out(&missing)[..], [Lack::Writing(_)]));
    }

    #[test]
    fn file_systems_by_their_numbers() {
        assert_eq!(Medium::of(Path::new("/proc")).unwrap(), Medium::Unknown(0x9FA0));
        assert_eq!(Medium::of_number(0x794C_7630), Medium::Stacked("overlay"));
        assert_eq!(Medium::of_number(0xFFFF_FFFF_9123_683E), Medium::Disk("btrfs"));
    }

    #[test]
    fn what_is_to_stay_free_is_not_usable() {
        let room = |free_bytes, floor_bytes| Room { free_bytes, floor_bytes }.usable_bytes();
        assert_eq!((room(10, 3), room(3, 10)), (7, 0));
        let whole = Room::of(Path::new("/"), FreeSpaceFloor::Percent(100.0)).unwrap();
        assert_eq!(whole.usable_bytes(), 0);
    }
}
