//! [`LayoutSource`]: an OCI layout on disk as a source (image-spec, image-layout.md), be it a directory or a tar
//! archive of one.
//!
//! Assumes that blobs do not change once they are written; where one does, its readers get an error. Nothing here
//! writes, and nothing here touches the network; file reads run on tokio's blocking threads.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::base::limits::MANIFEST_BYTES_MAX;
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::{Descriptor, LayoutContainer, LayoutRef};

use super::archive::ArchiveStore;
use super::layout_directory::DirectoryStore;
use super::layout_index::LayoutIndex;
use super::layout_referrers;
use super::local_file::{LocalFile, StoredBlob, blocking, check_bytes};
use super::{BlobBody, BlobSource, RawManifest, check_range};

/// The files of a layout, wherever they lie. Its functions wait for the disk.
pub(super) trait LayoutStore: Debug + Send + Sync {
    /// The manifests that it lists now.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` and `Unsupported`, naming the file and what is wrong with it.
    fn index(&self) -> Result<Arc<LayoutIndex>>;

    /// The blob `digest`, of whatever size it is there.
    ///
    /// # Errors
    /// `NotFound`, naming it and the layout; failures of the file system.
    fn blob(&self, digest: &Digest) -> Result<StoredBlob>;
}

/// One reference into an OCI layout.
#[derive(Debug)]
pub struct LayoutSource {
    reference: LayoutRef,
    name: String,
    opened: Opened,
}

/// What was found at the path of the reference.
#[derive(Debug)]
enum Opened {
    Directory(Arc<dyn LayoutStore>),
    /// What is where in the archive is found out when it is needed first, and only once: it takes a read for
    /// each entry, and the caller may be a thread that must not wait.
    Archive(Arc<LocalFile>, OnceCell<Arc<dyn LayoutStore>>),
}

impl LayoutSource {
    /// Opens the layout that `reference` names. What its tag means is looked up by each
    /// [`BlobSource::resolve`] anew in a directory; an archive stays as it is now, or is an error.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` or `Unsupported` for what is no layout, naming what is missing.
    pub fn open(reference: &LayoutRef) -> Result<Self> {
        let opened = match reference.container {
            LayoutContainer::Directory => Opened::Directory(Arc::new(DirectoryStore::open(&reference.path)?)),
            LayoutContainer::Archive => {
                Opened::Archive(Arc::new(ArchiveStore::open_file(&reference.path)?), OnceCell::new())
            }
        };
        let name = reference.path.display().to_string();
        Ok(Self { reference: reference.clone(), name, opened })
    }

    async fn store(&self) -> Result<Arc<dyn LayoutStore>> {
        match &self.opened {
            Opened::Directory(store) => Ok(Arc::clone(store)),
            Opened::Archive(file, store) => {
                let read = || {
                    let file = Arc::clone(file);
                    blocking(move || Ok(Arc::new(ArchiveStore::read(file)?) as Arc<dyn LayoutStore>))
                };
                store.get_or_try_init(read).await.cloned()
            }
        }
    }
}

#[async_trait]
impl BlobSource for LayoutSource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn resolve(&self) -> Result<RawManifest> {
        let (store, reference) = (self.store().await?, self.reference.clone());
        blocking(move || {
            let index = store.index()?;
            match &reference.digest {
                // The index need not list it: a manifest below a nested index may be named as well.
                Some(digest) => match index.by_digest(digest) {
                    Some(descriptor) => read_manifest(&*store, descriptor),
                    None => read_document(&store.blob(digest)?, digest, None),
                },
                None => read_manifest(&*store, index.find(&reference)?),
            }
        })
        .await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let (store, descriptor) = (self.store().await?, descriptor.clone());
        blocking(move || read_manifest(&*store, &descriptor)).await
    }

    async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
        let store = self.store().await?;
        let (subject, artifact_type) = (subject.clone(), artifact_type.to_owned());
        blocking(move || layout_referrers::of(&*store, &subject, &artifact_type)).await
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        check_range(size, &range)?;
        let (store, digest) = (self.store().await?, digest.clone());
        let blob = blocking(move || sized(&*store, &digest, size)).await?;
        Ok(blob.body(range))
    }
}

/// The blob `digest`, which must have `size` bytes.
fn sized(store: &dyn LayoutStore, digest: &Digest, size: u64) -> Result<StoredBlob> {
    let blob = store.blob(digest)?;
    if blob.bytes() != size {
        let (name, there) = (&blob.name, blob.bytes());
        let what = format!("{name} has {there} bytes where its descriptor says {size}");
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    Ok(blob)
}

pub(super) fn read_manifest(store: &dyn LayoutStore, descriptor: &Descriptor) -> Result<RawManifest> {
    let blob = sized(store, &descriptor.digest, descriptor.size)?;
    read_document(&blob, &descriptor.digest, Some(descriptor.media_type.clone()))
}

fn read_document(blob: &StoredBlob, digest: &Digest, media_type: Option<String>) -> Result<RawManifest> {
    check_bytes(&blob.name, blob.bytes(), MANIFEST_BYTES_MAX)?;
    let bytes = blob.read(0..blob.bytes())?;
    let found = Digest::of(digest.algorithm(), &bytes);
    if found != *digest {
        let what = format!("{} is damaged: its digest is {found}", blob.name);
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    Ok(RawManifest { digest: found, media_type, bytes })
}
