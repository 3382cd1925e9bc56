//! Files as memory: a file's bytes where the kernel caches them, without a copy of our own.
//!
//! Only for files that nobody changes while they are mapped: ours, in a directory that only their owner may enter,
//! written beside their place and renamed into it ([`super::durable`]), and removed but never written again. A
//! removed file's map keeps its bytes.

#![expect(
    unsafe_code,
    reason = "nothing stops another process from changing a mapped file; docs/decisions/0006"
)]

use std::fs::File;
use std::io;

use bytes::Bytes;

/// The bytes of `file`, which must be one of those that the module's text speaks of. They are read when they are
/// touched; a disk that then fails ends the process, as it does for a program's own code.
///
/// # Errors
/// What the file system says; an empty file is an error on some.
pub fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: a map is sound as long as the file under it keeps its length and its bytes. The files that this is
    // called with lie in a directory of mode 0700 that one process owns (an advisory lock), are renamed into place
    // when they are whole, and are never opened for writing afterwards.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::durable;

    #[test]
    fn a_map_keeps_its_bytes_when_its_file_is_replaced_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        durable::write(&path, b"the first one").unwrap();
        let bytes = map(&File::open(&path).unwrap()).unwrap();
        let tail = bytes.slice(4..);
        drop(bytes);
        durable::write(&path, b"another").unwrap();
        assert_eq!(&tail[..], b"first one");
        let bytes = map(&File::open(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&bytes[..], b"another");
    }
}
