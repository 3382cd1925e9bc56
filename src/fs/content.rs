//! The role that the filesystem needs filled by whatever has the files' bytes.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::{Digest, Result};
use crate::content::{Content, DirectFile, Kept, Standing};
use crate::layer::FileBody;

/// The bytes of a mount's files, each of them named by its layer. See [`Content`], whose methods these are.
#[async_trait]
pub trait FileContent: Debug + Send + Sync {
    /// See [`Content::read_cached`].
    ///
    /// # Errors
    /// See there.
    fn read_cached(&self, file: &FileBody, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool>;

    /// See [`Content::read`].
    ///
    /// # Errors
    /// See there.
    async fn read(self: Arc<Self>, file: &FileBody, range: Range<u64>) -> Result<Bytes>;

    /// See [`Content::opened`].
    fn opened(self: Arc<Self>, file: &FileBody);

    /// See [`Content::direct`].
    fn direct(&self, file: &FileBody) -> Option<DirectFile>;

    /// See [`Content::keep`].
    fn keep(&self, file: &FileBody) -> Kept {
        let _ = file;
        Kept::default()
    }

    /// See [`Content::digest`].
    fn digest(&self, layer: usize) -> &Digest;

    /// See [`Content::cached_bytes`].
    fn cached_bytes(&self, file: &FileBody) -> u64;

    /// See [`Content::standing`].
    fn standing(&self, file: &FileBody) -> Standing;

    /// See [`Content::on_rejected`].
    fn on_rejected(&self, callback: Box<dyn Fn(usize) + Send + Sync>);
}

#[async_trait]
impl FileContent for Content {
    fn read_cached(&self, file: &FileBody, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
        Content::read_cached(self, file, range, buffer)
    }

    async fn read(self: Arc<Self>, file: &FileBody, range: Range<u64>) -> Result<Bytes> {
        Content::read(&self, file, range).await
    }

    fn opened(self: Arc<Self>, file: &FileBody) {
        Content::opened(&self, file);
    }

    fn direct(&self, file: &FileBody) -> Option<DirectFile> {
        Content::direct(self, file)
    }

    fn keep(&self, file: &FileBody) -> Kept {
        Content::keep(self, file)
    }

    fn digest(&self, layer: usize) -> &Digest {
        Content::digest(self, layer)
    }

    fn cached_bytes(&self, file: &FileBody) -> u64 {
        Content::cached_bytes(self, file)
    }

    fn standing(&self, file: &FileBody) -> Standing {
        Content::standing(self, file)
    }

    fn on_rejected(&self, callback: Box<dyn Fn(usize) + Send + Sync>) {
        Content::on_rejected(self, callback);
    }
}
