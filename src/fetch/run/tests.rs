//! Runs over sources that answer or do not.

use async_trait::async_trait;

use crate::base::{Algorithm, CHUNK_BYTES, Digest};
use crate::cache::{Cache, CacheSettings, FreeSpaceFloor};
use crate::fetch::{FetchSettings, Fetcher, Wanted};
use crate::layer::SegmentProof;
use crate::oci::Descriptor;
use crate::registry::{BlobSource, RawManifest};

use super::*;

/// Holds a blob, or never answers.
#[derive(Debug)]
struct Stub {
    name: &'static str,
    blob: Option<Bytes>,
}

#[async_trait]
impl BlobSource for Stub {
    fn name(&self) -> &str {
        self.name
    }

    async fn resolve(&self) -> Result<RawManifest> {
        unreachable!("only blobs are asked for")
    }

    async fn manifest(&self, _: &Descriptor) -> Result<RawManifest> {
        unreachable!("only blobs are asked for")
    }

    async fn blob(&self, _: &Digest, _: u64, range: Range<u64>) -> Result<BlobBody> {
        let Some(blob) = &self.blob else { return std::future::pending().await };
        let bytes = blob.slice(range.start as usize..range.end as usize);
        Ok(BlobBody { range, pieces: futures_util::stream::iter([Ok(bytes)]).boxed() })
    }
}

/// A fetcher into a cache with room for `bytes_max`.
fn fetcher(directory: &tempfile::TempDir, bytes_max: u64) -> Arc<Fetcher> {
    let cache = Cache::open(CacheSettings {
        directory: directory.path().to_owned(),
        bytes_max,
        free_space_min: FreeSpaceFloor::Bytes(0),
    });
    Fetcher::new(cache.unwrap(), tokio::runtime::Handle::current())
}

/// A blob of one chunk, and its name.
fn blob_of(number: u8) -> (Bytes, Digest) {
    let bytes = Bytes::from(vec![number; CHUNK_BYTES as usize]);
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    (bytes, digest)
}

const SETTINGS: FetchSettings = FetchSettings { retry_budget: Duration::from_secs(100), whole_files: false };

#[tokio::test]
async fn wrong_bytes_that_are_stored_only_after_the_blob_was_verified_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = fetcher(&directory, CHUNK_BYTES);
    let (bytes, digest) = blob_of(1);
    let source = Arc::new(Stub { name: "silent", blob: None });
    let lease = fetcher.blob(&digest, CHUNK_BYTES, source, SETTINGS).unwrap();
    let blob = lease.feed();
    let chunk_digests = vec![*blake3::hash(&bytes).as_bytes()];
    blob.prove(SegmentProof::new(CHUNK_BYTES, chunk_digests).unwrap());
    let wrong = blob_of(2).0;
    blob.store(0, wrong.clone(), blake3::hash(&wrong), true);
    assert!(!blob.segment().is_present(0));
    blob.store(0, bytes.clone(), blake3::hash(&bytes), true);
    assert!(blob.segment().is_present(0));
}

#[tokio::test]
async fn requests_that_hang_at_one_source_do_not_hold_up_another() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = fetcher(&directory, 0);
    let silent: Arc<dyn BlobSource> = Arc::new(Stub { name: "silent", blob: None });
    let hanging: Vec<_> = (0..40)
        .map(|number| {
            let lease = fetcher.blob(&blob_of(number).1, CHUNK_BYTES, silent.clone(), SETTINGS).unwrap();
            lease.feed().want(0..1).unwrap();
            lease
        })
        .collect();
    let (bytes, digest) = blob_of(99);
    let source = Arc::new(Stub { name: "healthy", blob: Some(bytes.clone()) });
    let lease = fetcher.blob(&digest, CHUNK_BYTES, source, SETTINGS).unwrap();
    let Some(Wanted::Coming(coming)) = lease.feed().want(0..1).unwrap().pop() else { panic!("not fetched") };
    let arrived = tokio::time::timeout(Duration::from_secs(10), coming.bytes()).await;
    assert!(arrived.expect("waited for another source").unwrap() == bytes);
    drop(hanging);
}
