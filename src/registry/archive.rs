//! [`ArchiveStore`]: the files of an OCI layout in a tar archive, as `skopeo copy … oci-archive:FILE` makes it.
//!
//! A blob is a range of the archive, so nothing is unpacked. The archive's headers are read once, its bodies only
//! when they are asked for. Assumes that the archive stays as it was when it was opened; [`LocalFile`] makes an error
//! of one that does not. A compressed archive has no such ranges and is refused.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::base::limits::{LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::base::{Digest, Error, ErrorKind, Result};

use super::layout::LayoutStore;
use super::layout_index::{LayoutIndex, MARKER_BYTES_MAX, check_version, parse};
use super::local_file::{LocalFile, StoredBlob, check_bytes};

mod headers;
mod members;

use members::Members;

/// Entries of one archive: sixteen of the largest artifacts. Some 40 MiB of memory hold their places.
const ENTRIES_MAX: usize = 16 * LAYERS_MAX;

/// How compressed files begin, and what makes an archive of them.
const COMPRESSIONS: [(&[u8], &str, &str); 4] = [
    (b"\x1f\x8b", "gzip", "gzip -d"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"\xfd7zXZ\0", "xz", "xz -d"),
    (b"BZh", "bzip2", "bzip2 -d"),
];

/// An archive, and what is where in it.
#[derive(Debug)]
pub(super) struct ArchiveStore {
    file: Arc<LocalFile>,
    index: Arc<LayoutIndex>,
    /// Where in the archive the blobs are.
    blobs: HashMap<Digest, Range<u64>>,
}

impl ArchiveStore {
    /// Opens the file at `path`, of which no more than its first bytes are read yet.
    ///
    /// # Errors
    /// `NotFound`; `Usage` for a directory; `Unsupported` for a compressed file, naming the remedy.
    pub(super) fn open_file(path: &Path) -> Result<LocalFile> {
        let shown = path.display();
        if path.is_dir() {
            let what = format!("{shown} is a directory and no archive; use oci:DIR for an OCI layout");
            return Err(Error::new(ErrorKind::Usage, what));
        }
        let file = LocalFile::open(path)
            .map_err(|error| error.context(format!("there is no OCI archive at {shown}")))?;
        let beginning = file.read(0..file.bytes().min(8))?;
        for (magic, name, command) in COMPRESSIONS {
            if beginning.starts_with(magic) {
                let what = format!(
                    "{shown} is compressed with {name}, so that no part of it can be read by itself; \
                     decompress it ({command} < FILE > FILE.tar) and use the result"
                );
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        }
        Ok(file)
    }

    /// Reads the archive's headers and its `index.json`.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported` for what is no archive of an OCI layout, naming the entry and what is wrong with
    /// it; `Corrupt` for a file that has changed; failures of the file system.
    pub(super) fn read(file: Arc<LocalFile>) -> Result<Self> {
        let shown = file.path().display();
        let Members { blobs, index, marker, is_dockers } =
            Members::read(&file, ENTRIES_MAX).map_err(|error| match error.kind() {
                ErrorKind::Invalid | ErrorKind::Unsupported => error.context(format!(
                    "archive {shown} is refused; make it anew, as with skopeo copy SOURCE oci-archive:FILE"
                )),
                _ => error.context(format!("cannot read archive {shown}")),
            })?;
        let lacks = |name: &str| {
            let remedy = if is_dockers {
                "; it seems to be one of docker save: convert it with skopeo copy docker-archive:FILE oci-archive:OTHER"
            } else {
                "; these stand at the top of an archive: tar -C LAYOUT -cf FILE ."
            };
            let what = format!("archive {shown} holds no OCI layout, it lacks the file {name}{remedy}");
            Error::new(ErrorKind::Invalid, what)
        };
        let read = |name: &str, place: Option<Range<u64>>, bytes_max| {
            let blob = StoredBlob {
                file: Arc::clone(&file),
                file_range: place.ok_or_else(|| lacks(name))?,
                name: format!("{name} in archive {shown}"),
            };
            check_bytes(&blob.name, blob.bytes(), bytes_max)?;
            Ok::<_, Error>((blob.read(0..blob.bytes())?, blob.name))
        };
        let (bytes, name) = read("oci-layout", marker, MARKER_BYTES_MAX)?;
        check_version(name, &bytes)?;
        let (bytes, name) = read("index.json", index, MANIFEST_BYTES_MAX)?;
        let index = Arc::new(parse(name, &bytes)?);
        Ok(Self { file, index, blobs })
    }
}

impl LayoutStore for ArchiveStore {
    fn index(&self) -> Result<Arc<LayoutIndex>> {
        Ok(Arc::clone(&self.index))
    }

    fn blob(&self, digest: &Digest) -> Result<StoredBlob> {
        let archive = self.file.path().display();
        let file_range = self.blobs.get(digest).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("archive {archive} has no blob {digest}"))
        })?;
        let name = format!("blob {digest} in archive {archive}");
        Ok(StoredBlob { file: Arc::clone(&self.file), file_range, name })
    }
}
