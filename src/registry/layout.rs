//! [`LayoutSource`]: an OCI layout directory as a source (image-spec, image-layout.md).
//!
//! Assumes that blobs do not change once they are written. Nothing here writes, and nothing here touches
//! the network; file reads run on tokio's blocking threads.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;

use crate::base::limits::MANIFEST_BYTES_MAX;
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::{Descriptor, LayoutRef};

use super::layout_index::{LayoutIndex, blob_path, check_marker, open_regular, read_bounded};
use super::{BlobBody, BlobSource, RawManifest, check_range};

/// Bytes of one read: large enough that the hop to a blocking thread does not count, small enough that the
/// first piece of a long range comes soon.
const PIECE_BYTES: u64 = 256 << 10;

/// One reference into an OCI layout directory.
#[derive(Debug)]
pub struct LayoutSource {
    reference: LayoutRef,
    name: String,
}

impl LayoutSource {
    /// Opens the layout that `reference` names. What its tag means is looked up by each
    /// [`BlobSource::resolve`] anew.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` or `Unsupported` for a directory that is no layout, naming what is missing.
    pub fn open(reference: &LayoutRef) -> Result<Self> {
        check_marker(&reference.directory)?;
        let name = reference.directory.display().to_string();
        Ok(Self { reference: reference.clone(), name })
    }
}

#[async_trait]
impl BlobSource for LayoutSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn resolve(&self) -> Result<RawManifest> {
        let reference = self.reference.clone();
        blocking(move || {
            let directory = &reference.directory;
            let index = LayoutIndex::read(directory)?;
            match &reference.digest {
                // The index need not list it: a manifest below a nested index may be named as well.
                Some(digest) => match index.by_digest(digest) {
                    Some(descriptor) => read_manifest(directory, descriptor),
                    None => read_document(directory, digest, None),
                },
                None => read_manifest(directory, index.find(reference.tag.as_deref(), directory)?),
            }
        })
        .await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let (directory, descriptor) = (self.reference.directory.clone(), descriptor.clone());
        blocking(move || read_manifest(&directory, &descriptor)).await
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        check_range(size, &range)?;
        let path = blob_path(&self.reference.directory, digest);
        let blob = blocking(move || Blob::open(path, size)).await?;
        let pieces = stream::try_unfold((Arc::new(blob), range.clone()), |(blob, left)| async move {
            if left.is_empty() {
                return Ok(None);
            }
            let piece = left.start..left.end.min(left.start + PIECE_BYTES);
            let rest = piece.end..left.end;
            let reader = Arc::clone(&blob);
            let bytes = blocking(move || reader.read(piece)).await?;
            Ok(Some((bytes, (blob, rest))))
        });
        Ok(BlobBody { range, pieces: pieces.boxed() })
    }
}

/// An open blob file of the size that its descriptor claims.
#[derive(Debug)]
struct Blob {
    file: File,
    path: PathBuf,
}

impl Blob {
    fn open(path: PathBuf, size: u64) -> Result<Self> {
        let file = open_regular(&path)?;
        let there = file.metadata()?.len();
        if there != size {
            return Err(wrong_size(&path, there, size));
        }
        Ok(Self { file, path })
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut buffer = vec![0; length];
        self.file.read_exact_at(&mut buffer, range.start).map_err(|error| {
            let what =
                format!("cannot read bytes {}-{} of {}", range.start, range.end - 1, self.path.display());
            match error.kind() {
                // The file had its full size when it was opened, so somebody has cut it since.
                std::io::ErrorKind::UnexpectedEof => {
                    Error::new(ErrorKind::Corrupt, format!("{what}: the file was truncated"))
                }
                _ => Error::from(error).context(what),
            }
        })?;
        Ok(buffer.into())
    }
}

fn read_manifest(directory: &Path, descriptor: &Descriptor) -> Result<RawManifest> {
    let path = blob_path(directory, &descriptor.digest);
    let there = open_regular(&path)?.metadata()?.len();
    if there != descriptor.size {
        return Err(wrong_size(&path, there, descriptor.size));
    }
    read_document(directory, &descriptor.digest, Some(descriptor.media_type.clone()))
}

fn read_document(directory: &Path, digest: &Digest, media_type: Option<String>) -> Result<RawManifest> {
    let path = blob_path(directory, digest);
    let bytes = read_bounded(&path, MANIFEST_BYTES_MAX)?;
    let found = Digest::of(digest.algorithm(), &bytes);
    if found != *digest {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} is damaged: its digest is {found}", path.display()),
        ));
    }
    Ok(RawManifest { digest: found, media_type, bytes: bytes.into() })
}

fn wrong_size(path: &Path, there: u64, claimed: u64) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{} has {there} bytes where its descriptor says {claimed}", path.display()),
    )
}

/// Runs file system work where it may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::with_source(ErrorKind::Io, "a file system task ended without an answer", error))
    })
}
