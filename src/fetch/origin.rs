//! How the bytes of a segment come out of the blob that they are of.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::base::{Digest, Result};
use crate::registry::{BlobBody, BlobSource};

/// Counts the bytes of a blob as they come from its source, whatever is made of them. Cheap to clone.
#[derive(Clone)]
pub struct BlobBytes(Arc<dyn Fn(u64) + Send + Sync>);

impl BlobBytes {
    /// Has `count` told of each piece's length.
    #[must_use]
    pub fn new(count: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }

    /// `body`, whose pieces are counted when they are taken.
    #[must_use]
    pub fn counted(&self, body: BlobBody) -> BlobBody {
        let count = Arc::clone(&self.0);
        let pieces = body.pieces.inspect(move |piece: &Result<Bytes>| {
            if let Ok(piece) = piece {
                count(piece.len() as u64);
            }
        });
        BlobBody { range: body.range, pieces: pieces.boxed() }
    }
}

impl Debug for BlobBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobBytes")
    }
}

/// A segment whose bytes have to be made from those of a blob.
#[async_trait]
pub trait SegmentSource: Debug + Send + Sync {
    /// Opens `range` of the segment through `source`; what comes from there is counted by `counter`. The body holds
    /// exactly `range`.
    ///
    /// # Errors
    /// As [`BlobSource::blob`]; `Corrupt` or `Invalid` when the blob's bytes do not make what they should.
    async fn open(
        &self,
        source: &Arc<dyn BlobSource>,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Result<BlobBody>;

    /// Bytes of the segment that are worth fetching before anybody asks: nothing but zeros follows them.
    fn filled_bytes(&self) -> u64 {
        u64::MAX
    }
}

/// Where the bytes of a segment come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// From a blob, as they are: the segment is all of it.
    Blob {
        /// Its name.
        digest: Digest,
        /// Its bytes.
        bytes: u64,
    },
    /// They are made.
    Made(Arc<dyn SegmentSource>),
}

impl Origin {
    /// The whole blob `digest` of `bytes` bytes.
    #[must_use]
    pub fn blob(digest: Digest, bytes: u64) -> Self {
        Self::Blob { digest, bytes }
    }

    /// See [`SegmentSource::filled_bytes`].
    pub(super) fn filled_bytes(&self) -> u64 {
        match self {
            Self::Blob { bytes, .. } => *bytes,
            Self::Made(made) => made.filled_bytes(),
        }
    }

    /// Opens `range` of the segment. The body may hold the whole segment instead, as [`BlobBody::range`] says.
    pub(super) async fn open(
        &self,
        source: &Arc<dyn BlobSource>,
        range: Range<u64>,
        counter: BlobBytes,
    ) -> Result<BlobBody> {
        match self {
            Self::Blob { digest, bytes } => Ok(counter.counted(source.blob(digest, *bytes, range).await?)),
            Self::Made(made) => made.open(source, range, counter).await,
        }
    }
}
