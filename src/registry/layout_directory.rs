//! [`DirectoryStore`]: the files of an OCI layout in a directory.
//!
//! Every look is a new one, since others may write to the directory at the same time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Digest, Result};

use super::layout::LayoutStore;
use super::layout_index::{LayoutIndex, blob_path, check_marker, read_index};
use super::local_file::{LocalFile, StoredBlob};

/// A directory that says of itself that it is a layout.
#[derive(Debug)]
pub(super) struct DirectoryStore {
    directory: PathBuf,
}

impl DirectoryStore {
    /// Checks that `directory` is a layout.
    ///
    /// # Errors
    /// As [`check_marker`].
    pub(super) fn open(directory: &Path) -> Result<Self> {
        check_marker(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }
}

impl LayoutStore for DirectoryStore {
    fn index(&self) -> Result<Arc<LayoutIndex>> {
        read_index(&self.directory).map(Arc::new)
    }

    fn blob(&self, digest: &Digest) -> Result<StoredBlob> {
        let file = LocalFile::open(&blob_path(&self.directory, digest))?;
        let name = file.path().display().to_string();
        Ok(StoredBlob { file_range: 0..file.bytes(), file: Arc::new(file), name })
    }
}
