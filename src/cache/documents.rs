//! Documents by digest: manifests, what references were resolved to, and what is known about layers.
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

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;

use crate::base::{Result, ResultExt as _, clock, durable, mapped};

use super::disk::{Disk, count};
use super::owner::make_directory;
use super::paths::{DocumentKey, DocumentKind};
use super::stored::remove_file;

const MAGIC: &[u8; 8] = b"rfmdocum";
const HEADER_BYTES: usize = 48;
const KINDS: [DocumentKind; 6] = [
    DocumentKind::Manifest,
    DocumentKind::LayerIndex,
    DocumentKind::Proof,
    DocumentKind::Resolution,
    DocumentKind::Referrers,
    DocumentKind::Artifact,
];

/// Documents take an eighth of the cache at most; the oldest go first. They are a few ten-thousandths of
/// the content that they speak of, so only a cache that is tiny or very old comes there.
pub(super) const PART: u64 = 8;

/// The document, if it is there and whole; a damaged one is removed.
pub(super) fn read(disk: &Disk, kind: DocumentKind, key: DocumentKey<'_>) -> Option<Vec<u8>> {
    let path = disk.paths.document(kind, key);
    let mut bytes = whole(disk, &path, std::fs::read(&path))?;
    Some(bytes.split_off(HEADER_BYTES))
}

/// As [`read`], without reading more than the check does.
pub(super) fn map(disk: &Disk, kind: DocumentKind, key: DocumentKey<'_>) -> Option<Bytes> {
    let path = disk.paths.document(kind, key);
    let open = || {
        let file = File::open(&path)?;
        // What has no bytes cannot be mapped.
        if file.metadata()?.len() == 0 { Ok(Bytes::new()) } else { mapped::map(&file) }
    };
    let bytes = whole(disk, &path, open())?;
    Some(bytes.slice(HEADER_BYTES..))
}

/// The bytes of the file at `path`, as they were had, if they are those of a whole document; what is damaged is
/// removed.
fn whole<B: AsRef<[u8]>>(disk: &Disk, path: &Path, bytes: io::Result<B>) -> Option<B> {
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read a cached document");
            return None;
        }
    };
    if is_whole(bytes.as_ref()) {
        return Some(bytes);
    }
    count(&disk.counters.damaged_chunks);
    tracing::warn!(path = %path.display(), "a damaged document is dropped");
    if std::fs::remove_file(path).is_ok() {
        disk.document_changed(bytes.as_ref().len() as u64, 0);
    }
    None
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some((header, document)) = bytes.split_at_checked(HEADER_BYTES) else { return false };
    header[0..8] == *MAGIC
        && header[8..16] == (document.len() as u64).to_le_bytes()
        && header[16..48] == *blake3::hash(document).as_bytes()
}

/// All whole documents of a kind, each with the time of its last change, or of the last [`touch`].
pub(super) fn all(disk: &Disk, kind: DocumentKind) -> io::Result<Vec<(Vec<u8>, SystemTime)>> {
    let mut all = Vec::new();
    each_file(&disk.paths.documents(kind), &mut |path, metadata| {
        if !is_temporary(path)
            && let Some(mut bytes) = whole(disk, path, std::fs::read(path))
        {
            all.push((bytes.split_off(HEADER_BYTES), metadata.modified()?));
        }
        Ok(())
    })?;
    Ok(all)
}

/// Counts as a change of the document, so that it is not the next one to go.
pub(super) fn touch(disk: &Disk, kind: DocumentKind, key: DocumentKey<'_>) -> io::Result<()> {
    let now = SystemTime::UNIX_EPOCH + clock::unix_time();
    File::options().write(true).open(disk.paths.document(kind, key))?.set_modified(now)
}

/// Writes the document durably; an older one is replaced. Older others go if there are too many.
pub(super) fn write(
    disk: &Disk,
    bytes_max: u64,
    kind: DocumentKind,
    key: DocumentKey<'_>,
    document: &[u8],
) -> Result<()> {
    let path = disk.paths.document(kind, key);
    let cannot = || format!("cannot keep what is known of {} in the cache", key.digest);
    disk.owner.ensure(&disk.paths).context(cannot)?;
    if let Some(directory) = path.parent() {
        make_directory(directory).context(cannot)?;
    }
    let mut header = [0; HEADER_BYTES];
    header[0..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&(document.len() as u64).to_le_bytes());
    header[16..48].copy_from_slice(blake3::hash(document).as_bytes());
    let before = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    durable::write_parts(&path, &[&header, document]).context(cannot)?;
    disk.document_changed(before, (header.len() + document.len()) as u64);
    if disk.document_bytes() > bytes_max / PART {
        // The document is there; what is too much is tried again with the next one.
        if let Err(error) = trim(disk, bytes_max, Some(&path)) {
            tracing::warn!(path = %disk.paths.versioned().display(), %error, "cannot remove old documents");
        }
    }
    Ok(())
}

/// Counts what is there, and removes the oldest, but neither `keep` nor those of pins, while it takes more than its part of
/// `bytes_max`.
fn trim(disk: &Disk, bytes_max: u64, keep: Option<&Path>) -> io::Result<()> {
    let mut all = Vec::new();
    each_document(disk, &mut |path, metadata| {
        all.push((metadata.modified()?, path.to_owned(), metadata.len()));
        Ok(())
    })?;
    all.sort();
    let mut sum: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
    let may_go = |path: &Path| Some(path) != keep && !disk.pins.keep_document(path);
    for (_, path, bytes) in all.into_iter().filter(|(_, path, _)| may_go(path)) {
        if sum <= bytes_max / PART {
            break;
        }
        tracing::debug!(path = %path.display(), "an old document is removed");
        remove_file(&path)?;
        sum -= bytes;
    }
    disk.documents_counted(sum);
    Ok(())
}

/// Removes all documents but those of pins; returns their bytes.
pub(super) fn remove_all(disk: &Disk) -> io::Result<u64> {
    let mut removed = 0;
    each_document(disk, &mut |path, metadata| {
        if disk.pins.keep_document(path) {
            return Ok(());
        }
        remove_file(path)?;
        disk.document_changed(metadata.len(), 0);
        removed += metadata.len();
        Ok(())
    })?;
    Ok(removed)
}

/// Counts what is there as used, within its part of `bytes_max`, and removes what a write that was cut short
/// left behind.
pub(super) fn recover(disk: &Disk, bytes_max: u64) -> io::Result<()> {
    for kind in KINDS {
        each_file(&disk.paths.documents(kind), &mut |path, _| {
            if is_temporary(path) { std::fs::remove_file(path) } else { Ok(()) }
        })?;
    }
    trim(disk, bytes_max, None)
}

pub(super) fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".tmp-"))
}

/// Calls `visit` with every document.
fn each_document(disk: &Disk, visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    for kind in KINDS {
        each_file(&disk.paths.documents(kind), &mut |path, metadata| {
            // Being written by somebody right now.
            if is_temporary(path) { Ok(()) } else { visit(path, metadata) }
        })?;
    }
    Ok(())
}

/// Calls `visit` with every file below `directory`. Follows no links; what goes meanwhile is passed over.
fn each_file(directory: &Path, visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path(), &metadata)?;
        }
    }
    Ok(())
}
