//! Writing files so that a crash or a power loss leaves the old one or the new one, never a part.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::{Result, ResultExt as _};

/// Replaces the file at `path` by `bytes`: a temporary file beside it, synced, renamed over it, and the
/// directory synced. The directory must exist.
///
/// # Errors
/// Any failure of the file system, naming `path`; the old file is then still whole.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_parts(path, &[bytes])
}

/// As [`write()`], with the bytes of all `parts` in a row.
///
/// # Errors
/// Those of [`write()`].
pub fn write_parts(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let replace = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(directory)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.as_file().sync_data()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_directory(directory)
    };
    replace().context(|| format!("cannot write {}", path.display()))
}

/// Makes renames and removals in `directory` durable.
///
/// # Errors
/// Any failure of the file system.
pub fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, b"one").unwrap();
        write_parts(&path, &[b"tw", b"", b"o"]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
