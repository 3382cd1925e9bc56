//! Cache, fetch and content together, over a source in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use refmount::base::{CHUNK_BYTES, Digest, ErrorKind, Joined};
use refmount::cache::{Cache, CacheSettings, FreeSpaceFloor, Prune, SegmentId};
use refmount::content::{Content, ContentSettings, Standing};
use refmount::fetch::{Fetcher, Origin, Proving, SegmentSpec, Sources};
use refmount::layer::{Extents, FileBody, SegmentProof};
use refmount::registry::BlobSource;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::support::memory_source::{Fault, MemorySource};

pub const SETTINGS: ContentSettings =
    ContentSettings { verify_before_read: false, whole_files: false, read_timeout: Duration::from_secs(60) };

/// The file that layer `layer` is. Content takes what a mount's tree says of a raw layer for granted.
pub fn body(layer: usize) -> FileBody {
    FileBody { layer, size: u64::MAX, extents: Extents::Contiguous { stream_offset: 0 } }
}

pub fn random_bytes(seed: u64, bytes: u64) -> Vec<u8> {
    let mut data = vec![0; bytes as usize];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// Tasks of one that was opened there before may hold the directory for a moment longer.
pub fn open_cache(directory: &TempDir, chunks: u64) -> Arc<Cache> {
    let settings = CacheSettings {
        directory: directory.path().join("cache"),
        bytes_max: chunks * CHUNK_BYTES,
        free_space_min: FreeSpaceFloor::Bytes(0),
    };
    // Each attempt waits for a second itself.
    for _ in 0..60 {
        match Cache::open(settings.clone()) {
            Err(error) if error.kind() == ErrorKind::Busy => {}
            opened => return opened.unwrap(),
        }
    }
    panic!("the cache is never given back");
}

/// One blob, its source and a content over a fresh cache.
struct Setting {
    data: Vec<u8>,
    digest: Digest,
    source: Arc<MemorySource>,
    directory: TempDir,
}

impl Setting {
    fn new(bytes: u64) -> Self {
        let data = random_bytes(bytes, bytes);
        let (source, digests) = MemorySource::new([data.clone()]);
        Self {
            data,
            digest: digests[0].clone(),
            source: Arc::new(source),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn content(&self, settings: ContentSettings) -> Content {
        self.content_in(&open_cache(&self.directory, 1024), settings)
    }

    fn content_in(&self, cache: &Arc<Cache>, settings: ContentSettings) -> Content {
        let fetcher = Fetcher::new(cache.clone(), Handle::current());
        let source: Arc<dyn BlobSource> = self.source.clone();
        Content::new(&fetcher, &source, [(self.digest.clone(), self.data.len() as u64)], settings).unwrap()
    }

    async fn read_all(&self, content: &Content) {
        for start in (0..self.data.len()).step_by(128 << 10) {
            let end = self.data.len().min(start + (128 << 10));
            let mut buffer = Vec::new();
            if !content.read_cached(&body(0), start as u64..end as u64, &mut buffer).unwrap() {
                buffer = content.read(&body(0), start as u64..end as u64).await.unwrap().into();
            }
            assert!(buffer == self.data[start..end], "bytes {start}..{end}");
        }
    }
}

/// Waits for what comes about on its own time; fails the test after a time that no machine needs.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scattered_read_fetches_its_chunks_and_no_more() {
    let setting = Setting::new(40 * CHUNK_BYTES + 5);
    let content = setting.content(SETTINGS);
    for start in [31 * CHUNK_BYTES + 7, 5 * CHUNK_BYTES - 100, 17 * CHUNK_BYTES] {
        let range = start..start + (64 << 10);
        let bytes = content.read(&body(0), range.clone()).await.unwrap();
        assert!(bytes == setting.data[range.start as usize..range.end as usize]);
    }
    assert_eq!(content.network_bytes(), 4 * CHUNK_BYTES);
    assert_eq!(setting.source.requests().len(), 3, "neighbours come in one request");
    let tail = setting.data.len() as u64 - 3..setting.data.len() as u64;
    assert_eq!(content.read(&body(0), tail).await.unwrap(), setting.data[setting.data.len() - 3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_chunk_make_one_request() {
    let setting = Setting::new(4 * CHUNK_BYTES);
    let content = Arc::new(setting.content(SETTINGS));
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let content = content.clone();
            tokio::spawn(async move { content.read(&body(0), CHUNK_BYTES..CHUNK_BYTES + 4096).await })
        })
        .collect();
    for reader in readers {
        let bytes = reader.await.unwrap().unwrap();
        assert!(bytes == setting.data[CHUNK_BYTES as usize..CHUNK_BYTES as usize + 4096]);
    }
    assert_eq!(setting.source.requests().len(), 1);
    assert_eq!(content.network_bytes(), CHUNK_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mounts_of_one_blob_fetch_it_once() {
    let setting = Setting::new(4 * CHUNK_BYTES);
    let cache = open_cache(&setting.directory, 64);
    let fetcher = Fetcher::new(cache, Handle::current());
    let source: Arc<dyn BlobSource> = setting.source.clone();
    let layer = || [(setting.digest.clone(), setting.data.len() as u64)];
    let one = Content::new(&fetcher, &source, layer(), SETTINGS).unwrap();
    let two = Content::new(&fetcher, &source, layer(), SETTINGS).unwrap();
    let file = body(0);
    let (left, right) = tokio::join!(one.read(&file, 0..4096), two.read(&file, 0..4096));
    assert!(left.unwrap() == right.unwrap());
    assert_eq!(setting.source.requests().len(), 1);
    drop(one);
    assert!(
        two.read(&body(0), 3 * CHUNK_BYTES..3 * CHUNK_BYTES + 1).await.is_ok(),
        "the other mount goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_reader_is_served_by_few_requests_and_the_blob_is_proven_at_the_end() {
    let setting = Setting::new(200 * CHUNK_BYTES + 17);
    let content = setting.content(SETTINGS);
    setting.read_all(&content).await;
    // About 18; and one more, of a single chunk, each time that the reader comes to what is read ahead before that has
    // begun, as happens on a machine that has much else to do.
    let requests = setting.source.requests();
    assert!(requests.len() <= 40, "{} requests for 200 chunks: {requests:?}", requests.len());
    let wasted = content.network_bytes() - setting.data.len() as u64;
    assert!(wasted <= 8 * CHUNK_BYTES, "{wasted} bytes fetched twice");
    until("the check of the complete blob", || content.standing(&body(0)) == Standing::Proven).await;
    let mut direct = content.direct(&body(0)).expect("complete and verified").file;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut direct, &mut bytes).unwrap();
    assert!(bytes == setting.data);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_through_fetches_the_rest_of_the_file() {
    let setting = Setting::new(160 * CHUNK_BYTES);
    let content = setting.content(ContentSettings { whole_files: true, ..SETTINGS });
    for chunk in 0..24 {
        content.read(&body(0), chunk * CHUNK_BYTES..(chunk + 1) * CHUNK_BYTES).await.unwrap();
    }
    until("the rest", || content.cached_bytes(&body(0)) == setting.data.len() as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_body_is_resumed_at_the_next_byte() {
    let setting = Setting::new(3 * CHUNK_BYTES);
    setting.source.schedule([
        Fault::Truncated(700_000),
        Fault::Refused(ErrorKind::Unavailable),
        Fault::Truncated(1),
        Fault::None,
    ]);
    let content = setting.content(SETTINGS);
    let bytes = content.read(&body(0), 0..4096).await.unwrap();
    assert!(bytes == setting.data[..4096]);
    let starts: Vec<u64> = setting.source.requests().iter().map(|(_, range)| range.start).collect();
    assert_eq!(starts, [0, 700_000, 700_000, 700_001]);
    assert_eq!(content.network_bytes(), CHUNK_BYTES);
}

/// Each time something has come: what it fails with next is not the continuation of what it failed with before.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_breaks_off_every_body_does_not_use_up_the_patience_of_its_readers() {
    let setting = Setting::new(12 * CHUNK_BYTES);
    setting.source.schedule([Fault::Truncated(CHUNK_BYTES + 1); 12]);
    let content = setting.content(ContentSettings { read_timeout: Duration::from_secs(8), ..SETTINGS });
    content.fill(&body(0)).await.unwrap();
    setting.read_all(&content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ignores_ranges_is_read_whole_and_once() {
    let setting = Setting::new(20 * CHUNK_BYTES + 1);
    setting.source.schedule([Fault::Whole; 64]);
    let content = Arc::new(setting.content(SETTINGS));
    let first = content.read(&body(0), 9 * CHUNK_BYTES..9 * CHUNK_BYTES + 10).await.unwrap();
    assert!(first == setting.data[9 * CHUNK_BYTES as usize..9 * CHUNK_BYTES as usize + 10]);
    setting.read_all(&content).await;
    assert!(content.network_bytes() <= 2 * setting.data.len() as u64);
    assert!(setting.source.requests().len() <= 2, "{:?}", setting.source.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_away_ends_in_an_error_that_names_it() {
    let setting = Setting::new(3 * CHUNK_BYTES);
    let settings = ContentSettings { read_timeout: Duration::from_secs(2), ..SETTINGS };
    let content = setting.content(settings);
    setting.source.schedule([Fault::Refused(ErrorKind::Unavailable); 100]);
    let error = content.read(&body(0), CHUNK_BYTES..CHUNK_BYTES + 1).await.unwrap_err();
    let text = error.chain();
    assert!(text.contains(setting.digest.as_str()) && text.contains("1048576"), "{text}");
    assert!(text.contains("memory") && text.contains("refused as scheduled"), "{text}");

    setting.source.clear_faults();
    setting.source.schedule([Fault::Stalled(5)]);
    let error = content.read(&body(0), 0..1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[tokio::test]
async fn a_blob_that_is_said_to_be_empty_is_not_shown_as_an_empty_file() {
    let setting = Setting::new(5);
    let fetcher = Fetcher::new(open_cache(&setting.directory, 4), Handle::current());
    let source: Arc<dyn BlobSource> = setting.source.clone();
    let layer = |digest| Content::new(&fetcher, &source, [(digest, 0)], SETTINGS);
    let error = layer(setting.digest.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(setting.digest.as_str()), "{error}");
    let empty = Digest::of(refmount::base::Algorithm::Sha256, b"");
    assert_eq!(layer(empty).unwrap().standing(&body(0)), Standing::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_blob_fails_at_once() {
    let setting = Setting::new(CHUNK_BYTES);
    setting.source.schedule([Fault::Refused(ErrorKind::NotFound)]);
    let content = setting.content(SETTINGS);
    assert_eq!(content.read(&body(0), 0..1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(content.read(&body(0), 0..1).await.is_ok(), "a later read tries again");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_dropped_fetched_again_and_told_to_those_that_read_them() {
    let setting = Setting::new(4 * CHUNK_BYTES);
    setting.source.schedule([Fault::WrongByte(2 * CHUNK_BYTES + 5)]);
    let content = setting.content(SETTINGS);
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = told.clone();
    content.on_rejected(Box::new(move |layer| {
        assert_eq!(layer, 0);
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }));
    let _ = content.read(&body(0), 0..setting.data.len() as u64).await;
    until("the rejection", || told.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    // It is counted last.
    until("the count", || content.rejected_chunks() == 4).await;
    setting.read_all(&content).await;
    until("the proof", || content.standing(&body(0)) == Standing::Proven).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_wrong_twice_is_an_error_from_then_on() {
    let data = random_bytes(1, 3 * CHUNK_BYTES);
    let (mut source, _) = MemorySource::new([]);
    let digest = Digest::of(refmount::base::Algorithm::Sha256, b"other");
    source.add_wrong(digest.clone(), data.clone());
    let setting = Setting { data, digest, source: Arc::new(source), directory: tempfile::tempdir().unwrap() };
    let before_read = ContentSettings { verify_before_read: true, ..SETTINGS };
    let content = setting.content(before_read);
    let error = content.read(&body(0), 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(content.standing(&body(0)), Standing::Rejected);
    assert_eq!(content.cached_bytes(&body(0)), 0, "wrong bytes are not kept");
    assert_eq!(content.read_cached(&body(0), 0..10, &mut Vec::new()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_read_serves_nothing_that_is_not_verified() {
    let setting = Setting::new(5 * CHUNK_BYTES + 9);
    setting.source.schedule([Fault::WrongByte(3), Fault::Truncated(2 * CHUNK_BYTES)]);
    let content = setting.content(ContentSettings { verify_before_read: true, ..SETTINGS });
    let bytes = content.read(&body(0), 100..200).await.unwrap();
    assert!(bytes == setting.data[100..200]);
    assert_eq!(content.standing(&body(0)), Standing::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_read_says_when_the_cache_is_too_small_for_it() {
    let setting = Setting::new(12 * CHUNK_BYTES);
    let cache = open_cache(&setting.directory, 4);
    let content = setting.content_in(&cache, ContentSettings { verify_before_read: true, ..SETTINGS });
    let error = content.read(&body(0), 0..1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("--cache-size"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_only_fit_one_after_the_other_wait_for_each_other() {
    let blobs: Vec<Vec<u8>> = (0..8).map(|seed| random_bytes(seed, 6 * CHUNK_BYTES + seed)).collect();
    let (source, digests) = MemorySource::new(blobs.clone());
    let source: Arc<dyn BlobSource> = Arc::new(source);
    let directory = tempfile::tempdir().unwrap();
    let fetcher = Fetcher::new(open_cache(&directory, 16), Handle::current());
    let layers = digests.into_iter().zip(blobs.iter().map(|blob| blob.len() as u64));
    let settings = ContentSettings { verify_before_read: true, ..SETTINGS };
    let content = Arc::new(Content::new(&fetcher, &source, layers, settings).unwrap());
    let readers = (0..blobs.len()).map(|layer| {
        let content = content.clone();
        tokio::spawn(async move { content.read(&body(layer), 7..4096).await })
    });
    for (reader, blob) in readers.collect::<Vec<_>>().into_iter().zip(&blobs) {
        assert!(reader.await.unwrap().expect("there is room for each of them") == blob[7..4096]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_one_verification_every_chunk_is_checked_by_itself() {
    let setting = Setting::new(6 * CHUNK_BYTES);
    let cache = open_cache(&setting.directory, 64);
    {
        let content = setting.content_in(&cache, ContentSettings { verify_before_read: true, ..SETTINGS });
        content.read(&body(0), 0..1).await.unwrap();
    }
    until("the last reader's end", || cache.prune(Prune::Unused).unwrap().removed_chunks == 6).await;
    let content = setting.content_in(&cache, SETTINGS);
    assert_eq!(content.cached_bytes(&body(0)), 0);
    setting.source.schedule([Fault::WrongByte(9)]);
    let bytes = content.read(&body(0), CHUNK_BYTES..CHUNK_BYTES + 20).await.unwrap();
    assert!(bytes == setting.data[CHUNK_BYTES as usize..CHUNK_BYTES as usize + 20]);
    assert_eq!(content.rejected_chunks(), 1);
    until("the chunk's proof", || content.standing(&body(0)) == Standing::Proven).await;

    setting.source.schedule([Fault::WrongByte(9), Fault::WrongByte(9)]);
    let error = content.read(&body(0), 5 * CHUNK_BYTES..5 * CHUNK_BYTES + 20).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(content.read(&body(0), 5 * CHUNK_BYTES..5 * CHUNK_BYTES + 20).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_without_room_still_reads_right() {
    let setting = Setting::new(64 * CHUNK_BYTES);
    let cache = open_cache(&setting.directory, 3);
    let content = setting.content_in(&cache, SETTINGS);
    setting.read_all(&content).await;
    // A chunk for which room is still being made counts already.
    until("the cache keeps to its size", || cache.info().used_bytes <= 3 * CHUNK_BYTES).await;
}

#[tokio::test]
async fn a_source_that_has_too_much_to_do_is_spared_read_ahead_first() {
    let pauses = [
        (Fault::Busy(Duration::from_millis(300)), Duration::from_millis(300)),
        // The shortest that the first pause of the backoff may be.
        (Fault::Refused(ErrorKind::Unavailable), Duration::from_millis(50)),
    ];
    for (fault, pause) in pauses {
        let setting = Setting::new(40 * CHUNK_BYTES);
        let content = setting.content(SETTINGS);
        content.read(&body(0), 0..1).await.unwrap();
        setting.source.schedule([fault]);
        content.read(&body(0), CHUNK_BYTES..CHUNK_BYTES + 1).await.unwrap();
        let ahead = || {
            let requests = setting.source.requests();
            requests.iter().position(|(_, range)| range.start == 2 * CHUNK_BYTES)
        };
        until("what lies ahead is fetched", || ahead().is_some()).await;
        let times = setting.source.request_times();
        assert_eq!(setting.source.requests()[1].1.start, CHUNK_BYTES, "the one that was refused");
        assert!(times[ahead().unwrap()] >= times[1] + pause, "{:?}", setting.source.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_what_a_later_proof_disproves_are_told() {
    // Of two caches, one takes the chunk and one does not.
    for chunks in [64, 0] {
        let setting = Setting::new(2 * CHUNK_BYTES);
        let fetcher = Fetcher::new(open_cache(&setting.directory, chunks), Handle::current());
        let sources = Arc::new(Sources::default());
        sources.add(&fetcher, setting.source.clone(), SETTINGS.fetch());
        let spec = SegmentSpec {
            id: SegmentId { layer: setting.digest.clone(), number: 0 },
            blob: setting.digest.clone(),
            bytes: setting.data.len() as u64,
            origin: Origin::blob(setting.digest.clone(), setting.data.len() as u64),
            sources,
            proving: Proving::Part(Arc::new(|| {})),
            proof: None,
        };
        let feed = fetcher.feed(spec, false).unwrap();
        let told = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&told);
        feed.on_rejected(Arc::new(move || {
            tell.fetch_add(1, Ordering::SeqCst);
        }));
        setting.source.schedule([Fault::WrongByte(5)]);
        let read = async || {
            let mut bytes = Joined::default();
            feed.read_quietly(0..CHUNK_BYTES, SETTINGS.read_timeout, &mut bytes).await.unwrap();
            Bytes::from(bytes)
        };
        assert!(read().await != setting.data[..CHUNK_BYTES as usize]);
        let digests = setting.data.chunks(CHUNK_BYTES as usize).map(|chunk| *blake3::hash(chunk).as_bytes());
        feed.prove(SegmentProof::new(setting.data.len() as u64, digests.collect()).unwrap());
        // The store may still be under way.
        let told_within = async {
            while told.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), told_within).await.expect("they are told");
        assert!(read().await == setting.data[..CHUNK_BYTES as usize]);
    }
}
