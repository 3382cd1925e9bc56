//! [`Members`]: where in an archive the files of an OCI layout are.
//!
//! An entry that leads out of the archive, or stands where a file of the layout belongs and is none, makes the whole
//! archive refused: it was not made by a tool for layouts. Of several entries of one name the last counts, as for
//! every reader of tar. Files that layouts do not know are passed over.

use std::collections::HashMap;
use std::ops::Range;

use tar_core::EntryType;

use crate::base::{Digest, Error, ErrorKind, RelPath, Result};
use crate::registry::local_file::LocalFile;

use super::headers::{Entry, Headers};

/// Where the bodies are, as byte ranges of the archive.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) blobs: HashMap<Digest, Range<u64>>,
    /// `index.json`.
    pub(super) index: Option<Range<u64>>,
    /// `oci-layout`.
    pub(super) marker: Option<Range<u64>>,
    /// Whether it has the manifest of `docker save`.
    pub(super) is_dockers: bool,
}

impl Members {
    /// Reads the headers of the archive `file`, of at most `entries_max` entries.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported`, naming the entry; those of [`LocalFile::read`].
    pub(super) fn read(file: &LocalFile, entries_max: usize) -> Result<Self> {
        let mut members = Self::default();
        let mut headers = Headers::new(file, entries_max);
        while let Some(entry) = headers.next()? {
            let name = || format!("the entry {:?}", String::from_utf8_lossy(&entry.path));
            members.add(&entry).map_err(|error| error.context(name()))?;
        }
        Ok(members)
    }

    fn add(&mut self, entry: &Entry) -> Result<()> {
        // Old archives have directories as files whose name ends in a slash.
        let is_directory = entry.kind == EntryType::Directory || entry.path.ends_with(b"/");
        let is_file = matches!(entry.kind, EntryType::Regular | EntryType::Continuous) && !is_directory;
        if !is_file && !entry.body.is_empty() {
            // Readers of tar do not agree whether such a body is there.
            return Err(invalid("it is no file and has a body"));
        }
        if is_directory && matches!(&*entry.path, b"." | b"./") {
            return Ok(());
        }
        let path = RelPath::parse(&entry.path)?;
        let names: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').collect();
        let place = match names[..] {
            [b"index.json"] => &mut self.index,
            [b"oci-layout"] => &mut self.marker,
            [b"blobs"] | [b"blobs", _] if is_directory => return Ok(()),
            [b"blobs", algorithm, hex] => {
                if is_file {
                    self.blobs.insert(digest(algorithm, hex)?, entry.body.clone());
                    return Ok(());
                }
                return Err(invalid("it stands in the place of a blob and is no regular file"));
            }
            [b"blobs", ..] => return Err(invalid("blobs are called blobs/ALGORITHM/HEX")),
            [b"manifest.json"] => {
                self.is_dockers = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        if !is_file {
            return Err(invalid("it is no regular file"));
        }
        *place = Some(entry.body.clone());
        Ok(())
    }
}

fn digest(algorithm: &[u8], hex: &[u8]) -> Result<Digest> {
    let text = format!("{}:{}", String::from_utf8_lossy(algorithm), String::from_utf8_lossy(hex));
    text.parse().map_err(|error: Error| error.context("it is not called as a blob is"))
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An archive of `count` empty files, ended.
    fn archive(count: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for number in 0..count {
            let mut header = tar_core::Header::new_ustar();
            header.set_path(format!("file{number}").as_bytes()).unwrap();
            header.set_mode(0o644).unwrap();
            header.set_size(0).unwrap();
            header.set_checksum();
            file.write_all(header.as_bytes()).unwrap();
        }
        file.write_all(&[0; 1024]).unwrap();
        file
    }

    #[test]
    fn an_archive_of_too_many_entries_is_refused_and_one_less_is_not() {
        let file = archive(100);
        let file = LocalFile::open(file.path()).unwrap();
        assert!(Members::read(&file, 100).is_ok());
        let error = Members::read(&file, 99).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.chain().contains("more entries than are read"), "{}", error.chain());
    }
}
