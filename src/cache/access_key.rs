//! The key of a cache directory, by which it knows credentials again without holding them.
//!
//! 32 random bytes in a file of their own, readable by its owner alone. Without it, whatever was marked with it is as
//! if it were not there.

use std::io;

use crate::base::{Result, ResultExt as _, durable};

use super::disk::Disk;
use super::documents::is_temporary;
use super::owner::make_directory;

/// The key that is there, or a new one.
pub(super) fn read_or_make(disk: &Disk) -> Result<[u8; 32]> {
    let path = disk.paths.access_key();
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(key) = bytes.try_into()
    {
        return Ok(key);
    }
    let cannot = || format!("cannot keep a key in {}", disk.paths.keys().display());
    disk.owner.ensure(&disk.paths).context(cannot)?;
    make_directory(&disk.paths.keys()).context(cannot)?;
    let key: [u8; 32] = rand::random();
    durable::write(&path, &key).context(cannot)?;
    Ok(key)
}

/// Removes what a write that was cut short left behind.
pub(super) fn recover(disk: &Disk) -> io::Result<()> {
    let entries = match std::fs::read_dir(disk.paths.keys()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if is_temporary(&path) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use crate::base::durable;
    use crate::cache::{Cache, CacheSettings, FreeSpaceFloor};

    fn key_of(directory: &Path) -> [u8; 32] {
        let settings = CacheSettings {
            directory: directory.to_owned(),
            bytes_max: 1 << 20,
            free_space_min: FreeSpaceFloor::Bytes(0),
        };
        let cache = Cache::open(settings).unwrap();
        let key = cache.access_key().unwrap();
        assert_eq!(cache.access_key().unwrap(), key);
        let path = cache.paths().access_key();
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        key
    }

    #[test]
    fn each_directory_has_one_that_stays() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = key_of(one.path());
        assert_eq!(key_of(one.path()), key);
        assert_ne!(key_of(other.path()), key);
        let left = one.path().join("v1/keys/.tmp-left");
        durable::write(&left, b"").unwrap();
        durable::write(&one.path().join("v1/keys/access"), b"cut short").unwrap();
        assert_ne!(key_of(one.path()), key);
        assert!(!left.exists());
    }
}
