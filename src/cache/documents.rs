//! Small documents by digest: manifests, and what is known about layers.
//!
//! ```text
//!  0   8  magic "rfmdocum"
//!  8   8  bytes of the document, little-endian
//! 16  32  BLAKE3 of the document
//! 48      the document
//! ```
//!
//! The digest in the name is that of what the document speaks of, which for a layer is not that of the
//! document; so it has its own. A document that does not match it is as one that is missing.

use std::io;
use std::path::Path;

use crate::base::{Digest, Result, ResultExt as _, durable};

use super::DocumentKind;
use super::disk::{Disk, count};
use super::owner::make_directory;

const MAGIC: &[u8; 8] = b"rfmdocum";
const HEADER_BYTES: usize = 48;

/// The document, if it is there and whole; a damaged one is removed.
pub(super) fn read(disk: &Disk, kind: DocumentKind, digest: &Digest) -> Option<Vec<u8>> {
    let path = disk.paths.document(kind, digest);
    let mut bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read a cached document");
            return None;
        }
    };
    if is_whole(&bytes) {
        return Some(bytes.split_off(HEADER_BYTES));
    }
    count(&disk.counters.damaged_chunks);
    tracing::warn!(path = %path.display(), "a damaged document is dropped");
    if std::fs::remove_file(&path).is_ok() {
        disk.sub_used(bytes.len() as u64);
    }
    None
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some((header, document)) = bytes.split_at_checked(HEADER_BYTES) else { return false };
    header[0..8] == *MAGIC
        && header[8..16] == (document.len() as u64).to_le_bytes()
        && header[16..48] == *blake3::hash(document).as_bytes()
}

/// Writes the document durably; an older one is replaced.
pub(super) fn write(disk: &Disk, kind: DocumentKind, digest: &Digest, document: &[u8]) -> Result<()> {
    let path = disk.paths.document(kind, digest);
    let cannot = || format!("cannot keep {digest} in the cache");
    disk.owner.ensure(&disk.paths).context(cannot)?;
    if let Some(directory) = path.parent() {
        make_directory(directory).context(cannot)?;
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + document.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(document.len() as u64).to_le_bytes());
    bytes.extend_from_slice(blake3::hash(document).as_bytes());
    bytes.extend_from_slice(document);
    let before = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    durable::write(&path, &bytes).context(cannot)?;
    disk.add_used(bytes.len() as u64);
    disk.sub_used(before);
    Ok(())
}

/// Removes all documents; returns their bytes.
pub(super) fn remove_all(disk: &Disk) -> io::Result<u64> {
    let mut removed = 0;
    for kind in [DocumentKind::Manifest, DocumentKind::LayerIndex] {
        each_file(&disk.paths.documents(kind), &mut |path, bytes| {
            std::fs::remove_file(path)?;
            disk.sub_used(bytes);
            removed += bytes;
            Ok(())
        })?;
    }
    Ok(removed)
}

/// Counts what is there as used, and removes what a write that was cut short left behind.
pub(super) fn recover(disk: &Disk) -> io::Result<()> {
    for kind in [DocumentKind::Manifest, DocumentKind::LayerIndex] {
        each_file(&disk.paths.documents(kind), &mut |path, bytes| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(".tmp-") {
                return std::fs::remove_file(path);
            }
            disk.add_used(bytes);
            Ok(())
        })?;
    }
    Ok(())
}

/// Calls `visit` with every file below `directory` and its bytes. Follows no links.
fn each_file(directory: &Path, visit: &mut dyn FnMut(&Path, u64) -> io::Result<()>) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path(), metadata.len())?;
        }
    }
    Ok(())
}
