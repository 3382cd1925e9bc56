//! Runs over sources that answer or do not.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::base::{Algorithm, CHUNK_BYTES, Digest, Joined};
use crate::cache::{Cache, CacheSettings, FreeSpaceFloor, SegmentId};
use crate::fetch::{
    Coming, FetchSettings, Fetcher, Origin, Passage, Proving, STORES_MAX, SegmentSpec, Sources, Wanted,
};
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

/// Sends the wrong blob until it is told not to, and each body only when it may.
#[derive(Debug)]
struct Wrong {
    right: Bytes,
    wrong: Bytes,
    is_wrong: AtomicBool,
    /// A permit for each body.
    gate: Arc<Semaphore>,
    requests: Semaphore,
}

/// Asks for the first chunk, which has to be fetched.
fn first_chunk(feed: &Arc<Feed>) -> Coming {
    match feed.want(0..1).unwrap().pop() {
        Some(Wanted::Coming(coming)) => coming,
        other => panic!("not fetched: {other:?}"),
    }
}

impl Wrong {
    fn new(bodies: usize) -> Arc<Self> {
        Arc::new(Self {
            right: blob_of(1).0,
            wrong: blob_of(2).0,
            is_wrong: AtomicBool::new(true),
            gate: Arc::new(Semaphore::new(bodies)),
            requests: Semaphore::new(0),
        })
    }

    /// The blob as a part of something larger.
    fn feed(self: &Arc<Self>, fetcher: &Arc<Fetcher>) -> Arc<Feed> {
        let sources = Arc::new(Sources::default());
        sources.add(fetcher, Arc::clone(self) as Arc<dyn BlobSource>, SETTINGS);
        let digest = blob_of(1).1;
        let spec = SegmentSpec {
            id: SegmentId { layer: digest.clone(), number: 1 },
            blob: digest.clone(),
            bytes: CHUNK_BYTES,
            origin: Origin::blob(digest, CHUNK_BYTES),
            sources,
            proving: Proving::Part(Arc::new(|| {})),
            proof: None,
        };
        fetcher.feed(spec, false).unwrap()
    }

    fn mend(&self) {
        self.is_wrong.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl BlobSource for Wrong {
    fn name(&self) -> &str {
        "wrong"
    }

    async fn resolve(&self) -> Result<RawManifest> {
        unreachable!("only blobs are asked for")
    }

    async fn manifest(&self, _: &Descriptor) -> Result<RawManifest> {
        unreachable!("only blobs are asked for")
    }

    async fn blob(&self, _: &Digest, _: u64, range: Range<u64>) -> Result<BlobBody> {
        let blob = if self.is_wrong.load(Ordering::SeqCst) { &self.wrong } else { &self.right };
        let (bytes, gate) = (blob.slice(range.start as usize..range.end as usize), Arc::clone(&self.gate));
        self.requests.add_permits(1);
        let pieces = futures_util::stream::once(async move {
            gate.acquire().await.unwrap().forget();
            Ok(bytes)
        });
        Ok(BlobBody { range, pieces: pieces.boxed() })
    }
}

/// The chunk on its way, with a bound.
async fn arrival(coming: Coming) -> Bytes {
    tokio::time::timeout(Duration::from_secs(60), coming.bytes()).await.expect("it never came").unwrap()
}

/// What a new reader of the only chunk gets.
async fn read(feed: &Arc<Feed>) -> Bytes {
    let mut bytes = Joined::default();
    feed.read_quietly(0..CHUNK_BYTES, Duration::from_secs(60), &mut bytes).await.unwrap();
    bytes.into()
}

/// Waits until nothing is fetched or stored any more.
async fn until_idle(feed: &Feed) {
    while !lock(&feed.state).runs.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
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

/// Of a chunk that a reader waits for.
const AWAITED: Arrival = Arrival { was_awaited: true, is_ahead: false };

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
    let epoch = blob.segment().epoch();
    blob.store(0, wrong.clone(), blake3::hash(&wrong), epoch, AWAITED);
    assert!(!blob.segment().is_present(0));
    blob.store(0, bytes.clone(), blake3::hash(&bytes), epoch, AWAITED);
    assert!(blob.segment().is_present(0));
}

#[tokio::test]
async fn what_an_earlier_process_left_to_check_keeps_no_blob_from_being_verified() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = fetcher(&directory, 16 * CHUNK_BYTES);
    let turns = fetcher.rechecks.available_permits() as u32;
    let _endless = fetcher.rechecks.clone().acquire_many_owned(turns).await.unwrap();
    let (bytes, digest) = blob_of(1);
    let source = Arc::new(Stub { name: "healthy", blob: Some(bytes) });
    let lease = fetcher.blob(&digest, CHUNK_BYTES, source, SETTINGS).unwrap();
    let verified = tokio::time::timeout(Duration::from_secs(60), lease.feed().verified()).await;
    verified.expect("waited for another check").unwrap();
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
    let coming = first_chunk(lease.feed());
    let arrived = tokio::time::timeout(Duration::from_secs(60), coming.bytes()).await;
    assert!(arrived.expect("waited for another source").unwrap() == bytes);
    drop(hanging);
}

#[tokio::test]
async fn what_was_handed_out_and_is_not_stored_yet_goes_with_all_that_was_found_wrong() {
    // Of two caches, one takes the chunk and one does not.
    for bytes_max in [64 * CHUNK_BYTES, 0] {
        let directory = tempfile::tempdir().unwrap();
        let fetcher = fetcher(&directory, bytes_max);
        let source = Wrong::new(9);
        let feed = source.feed(&fetcher);
        let no_store = Arc::clone(&fetcher.stores).acquire_many_owned(STORES_MAX as u32).await.unwrap();
        assert!(read(&feed).await == source.wrong);
        source.mend();
        Feed::disprove(std::slice::from_ref(&feed), false);
        assert!(read(&feed).await == source.right, "the slot still holds it");
        drop(no_store);
        until_idle(&feed).await;
        assert!(read(&feed).await == source.right, "its store came later");
        assert_eq!(feed.segment().is_present(0), bytes_max > 0);
    }
}

#[tokio::test]
async fn what_was_asked_for_before_all_was_found_wrong_is_asked_for_again_when_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = fetcher(&directory, 64 * CHUNK_BYTES);
    let source = Wrong::new(0);
    let feed = source.feed(&fetcher);
    let coming = first_chunk(&feed);
    source.requests.acquire().await.unwrap().forget();
    source.mend();
    Feed::disprove(std::slice::from_ref(&feed), false);
    source.gate.add_permits(2);
    assert!(arrival(coming).await == source.right);
    until_idle(&feed).await;
    assert!(read(&feed).await == source.right);
}

#[tokio::test]
async fn who_waits_for_a_chunk_of_what_is_given_up_for_wrong_gets_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = fetcher(&directory, 64 * CHUNK_BYTES);
    let source = Wrong::new(0);
    let feed = source.feed(&fetcher);
    let coming = first_chunk(&feed);
    source.requests.acquire().await.unwrap().forget();
    Feed::disprove(std::slice::from_ref(&feed), true);
    source.gate.add_permits(2);
    assert_eq!(coming.bytes().await.unwrap_err().kind(), ErrorKind::Corrupt);
    until_idle(&feed).await;
    assert!(!feed.segment().is_present(0));
}

#[tokio::test]
async fn what_goes_by_of_a_reading_that_was_begun_before_all_was_found_wrong_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = fetcher(&directory, 64 * CHUNK_BYTES);
    let source = Wrong::new(9);
    let feed = source.feed(&fetcher);
    let passage = Passage::begin(Arc::clone(&feed));
    let coming = first_chunk(&feed);
    source.mend();
    Feed::disprove(std::slice::from_ref(&feed), false);
    let kept = passage.bring(0, source.wrong.clone(), blake3::hash(&source.wrong), true);
    assert!(!kept.unwrap());
    drop(passage);
    assert!(arrival(coming).await == source.right, "whoever waited gets what is fetched after the reading");
}
