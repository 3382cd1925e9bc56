//! The cache as its users see it, on real files.

mod eviction;
mod faults;
mod model;
mod pins;
mod recovery;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::{RngCore as _, SeedableRng as _};

use super::disk::Surroundings;
use super::map::BootId;
use super::{
    Cache, CacheSettings, DocumentKey, DocumentKind, FreeSpaceFloor, Prune, Segment, SegmentId, SkipReason,
    Stored,
};
use crate::base::{Algorithm, CHUNK_BYTES, Digest, ErrorKind, chunk_range};

const BOOT: BootId = BootId([1; 16]);
const PLENTY: u64 = 1 << 30;

fn open_at(directory: &Path, bytes_max: u64, boot: BootId) -> Arc<Cache> {
    let settings = CacheSettings {
        directory: directory.to_owned(),
        bytes_max,
        free_space_min: FreeSpaceFloor::Bytes(0),
    };
    Cache::open_in(settings, Surroundings { boot: Some(boot), retry_pause: Duration::ZERO }, None).unwrap()
}

fn open(directory: &Path) -> Arc<Cache> {
    open_at(directory, PLENTY, BOOT)
}

fn id(number: u32) -> SegmentId {
    SegmentId { layer: Digest::of(Algorithm::Sha256, b"a layer"), number }
}

/// Bytes that differ from segment to segment and from chunk to chunk.
fn content(seed: u64, bytes: u64) -> Vec<u8> {
    let mut content = vec![0; bytes as usize];
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut content);
    content
}

fn part(content: &[u8], range: Range<u64>) -> &[u8] {
    &content[range.start as usize..range.end as usize]
}

fn store(segment: &Segment, content: &[u8], chunk: u64) -> Stored {
    let data = part(content, chunk_range(chunk, content.len() as u64));
    let stored = segment.store(chunk, data, blake3::hash(data), segment.epoch());
    segment.sync_if_complete();
    stored
}

fn store_all(segment: &Segment, content: &[u8]) {
    for chunk in 0..segment.chunk_count() {
        assert_eq!(store(segment, content, chunk), Stored::Stored);
    }
}

/// Whether the range is a hit; if so, it is right.
fn hit(segment: &Segment, content: &[u8], range: Range<u64>) -> bool {
    let mut buffer = vec![0xee; 10];
    let hit = segment.read(range.clone(), &mut buffer);
    if hit {
        assert!(buffer == part(content, range.clone()), "wrong bytes at {range:?}");
    } else {
        assert!(buffer.is_empty());
    }
    hit
}

fn hit_chunk(segment: &Segment, content: &[u8], chunk: u64) -> bool {
    hit(segment, content, chunk_range(chunk, content.len() as u64))
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return files };
    for entry in entries {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

fn blocks_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn what_was_stored_is_read_at_any_offset_and_what_was_not_is_a_miss() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 3 * CHUNK_BYTES + 100);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert_eq!(segment.chunk_count(), 4);
    for chunk in [1, 3] {
        assert_eq!(store(&segment, &content, chunk), Stored::Stored);
    }
    assert!(hit(&segment, &content, CHUNK_BYTES..2 * CHUNK_BYTES));
    assert!(hit(&segment, &content, CHUNK_BYTES + 5..CHUNK_BYTES + 6));
    assert!(hit(&segment, &content, 3 * CHUNK_BYTES..3 * CHUNK_BYTES + 100));
    assert!(!hit(&segment, &content, CHUNK_BYTES - 1..CHUNK_BYTES + 1));
    assert!(!hit(&segment, &content, 2 * CHUNK_BYTES - 1..2 * CHUNK_BYTES + 1));
    assert!(hit(&segment, &content, 7..7));
    let mut buffer = Vec::new();
    assert!(!segment.read(3 * CHUNK_BYTES..3 * CHUNK_BYTES + 101, &mut buffer), "past the end");
    assert_eq!(segment.cached_bytes(), CHUNK_BYTES + 100);
    assert_eq!(cache.info().used_bytes, CHUNK_BYTES + 100);
    assert!(segment.is_present(1) && !segment.is_present(0) && !segment.is_present(99));
    assert_eq!(segment.chunk_digest(3), Some(blake3::hash(&content[3 * CHUNK_BYTES as usize..])));
    assert_eq!(segment.chunk_digest(0), None);
    for chunk in [0, 2] {
        store(&segment, &content, chunk);
    }
    assert!(segment.is_complete() && segment.check_all());
    assert!(hit(&segment, &content, 1..content.len() as u64));
    let info = cache.info();
    assert_eq!((info.segments, info.complete_segments, info.chunks), (1, 1, 4));
    assert_eq!((info.counters.stored_chunks, info.counters.hits, info.counters.misses), (4, 4, 3));
}

#[test]
fn a_chunk_of_the_wrong_length_or_there_already_is_not_stored() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, CHUNK_BYTES + 100);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    let wrong = Stored::Skipped(SkipReason::WrongLength);
    assert_eq!(segment.store(0, b"short", blake3::hash(b"short"), segment.epoch()), wrong);
    assert_eq!(segment.store(2, b"", blake3::hash(b""), segment.epoch()), wrong);
    assert_eq!(segment.store(u64::MAX, b"x", blake3::hash(b"x"), segment.epoch()), wrong);
    assert_eq!(store(&segment, &content, 1), Stored::Stored);
    assert_eq!(store(&segment, &content, 1), Stored::Skipped(SkipReason::AlreadyThere));
    assert_eq!(cache.info().used_bytes, 100);
}

#[test]
fn a_hostile_size_does_not_decide_about_our_memory() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let segment = cache.segment(&id(0), 1 << 61).unwrap();
    let data = content(1, CHUNK_BYTES);
    assert_eq!(
        segment.store(5, &data, blake3::hash(&data), segment.epoch()),
        Stored::Skipped(SkipReason::NoRoom)
    );
    assert!(!segment.is_present(5) && !segment.is_complete());
    assert_eq!(cache.info().used_bytes, 0);
}

#[test]
fn a_segment_is_the_same_for_all_who_hold_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, CHUNK_BYTES);
    let segment = cache.segment(&id(0), CHUNK_BYTES).unwrap();
    assert!(Arc::ptr_eq(&segment, &cache.segment(&id(0), CHUNK_BYTES).unwrap()));
    store_all(&segment, &content);
    drop(segment);
    let segment = cache.segment(&id(0), CHUNK_BYTES).unwrap();
    assert!(hit_chunk(&segment, &content, 0));
}

#[test]
fn a_segment_of_another_length_drops_what_was_recorded_unless_it_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, CHUNK_BYTES);
    let segment = cache.segment(&id(0), CHUNK_BYTES).unwrap();
    store_all(&segment, &content);
    assert_eq!(cache.segment(&id(0), 5).unwrap_err().kind(), ErrorKind::Invalid);
    drop(segment);
    let other = cache.segment(&id(0), 5).unwrap();
    assert_eq!((other.bytes(), other.cached_bytes(), cache.info().used_bytes), (5, 0, 0));
    assert_eq!(other.store(0, b"12345", blake3::hash(b"12345"), other.epoch()), Stored::Stored);
    assert!(hit_chunk(&other, b"12345", 0));
}

#[test]
fn files_and_directories_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("made/here");
    let cache = open(&root);
    let segment = cache.segment(&id(0), CHUNK_BYTES).unwrap();
    store_all(&segment, &content(1, CHUNK_BYTES));
    cache.write_document(DocumentKind::Manifest, &id(0).layer, b"{}").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = files_below(&root);
    assert_eq!(files.len(), 4);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        for above in file.ancestors().skip(1).take_while(|above| above.starts_with(&root)) {
            assert_eq!(mode(above), 0o700, "{}", above.display());
        }
    }
}

#[test]
fn the_second_owner_of_a_directory_is_told_who_the_first_is() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let settings = CacheSettings {
        directory: directory.path().to_owned(),
        bytes_max: PLENTY,
        free_space_min: FreeSpaceFloor::Percent(0.0),
    };
    let error = Cache::open(settings.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    let segment = cache.segment(&id(0), 1).unwrap();
    drop(cache);
    assert!(Cache::open(settings.clone()).is_err(), "a segment still uses the directory");
    drop(segment);
    Cache::open(settings).unwrap();
}

#[test]
fn removed_chunks_are_forgotten_and_can_be_stored_anew() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 4 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store_all(&segment, &content);
    segment.remove(1..3);
    assert!(hit_chunk(&segment, &content, 0) && hit_chunk(&segment, &content, 3));
    assert!(!hit_chunk(&segment, &content, 1) && !hit_chunk(&segment, &content, 2));
    assert_eq!(cache.info().used_bytes, 2 * CHUNK_BYTES);
    assert!(blocks_bytes(&cache.paths().data(&id(0))) <= 2 * CHUNK_BYTES + 8192, "holes are punched");
    assert_eq!(store(&segment, &content, 1), Stored::Stored);
    assert!(hit_chunk(&segment, &content, 1));
    let before = segment.epoch();
    segment.remove_all();
    let late = part(&content, 0..CHUNK_BYTES);
    let outdated = Stored::Skipped(SkipReason::Outdated);
    assert_eq!(segment.store(0, late, blake3::hash(late), before), outdated, "it was asked for before");
    assert_eq!((segment.cached_bytes(), cache.info().used_bytes), (0, 0));
    assert_eq!(files_below(&cache.paths().segments()), Vec::<PathBuf>::new());
    store_all(&segment, &content);
    segment.remove(0..u64::MAX);
    assert_eq!(files_below(&cache.paths().segments()), Vec::<PathBuf>::new());
}

#[test]
fn a_file_that_was_handed_over_is_unlinked_and_never_punched() {
    use std::os::unix::fs::FileExt as _;
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 2 * CHUNK_BYTES + 7);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 0);
    assert!(segment.open_direct().is_none(), "incomplete");
    store(&segment, &content, 1);
    store(&segment, &content, 2);
    let direct = segment.open_direct().unwrap();
    segment.remove(1..2);
    assert!(!segment.is_present(0) && !segment.is_present(1));
    store_all(&segment, &vec![0xaa; content.len()]);
    let mut bytes = vec![0; content.len()];
    direct.file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == content, "the kernel's readers keep the bytes they had");
    assert_eq!(direct.file.metadata().unwrap().len(), content.len() as u64);
    assert!(direct.file.write_at(b"x", 0).is_err(), "opened for reading only");
}

#[test]
fn documents_come_back_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let digest = id(0).layer;
    let cache = open(directory.path());
    assert_eq!(cache.read_document(DocumentKind::LayerIndex, &digest), None);
    cache.write_document(DocumentKind::LayerIndex, &digest, b"one").unwrap();
    cache.write_document(DocumentKind::LayerIndex, &digest, b"other").unwrap();
    cache.write_document(DocumentKind::Manifest, &digest, b"").unwrap();
    assert_eq!(cache.info().used_bytes, 48 + 5 + 48);
    drop(cache);
    let cache = open(directory.path());
    assert_eq!(cache.info().used_bytes, 48 + 5 + 48);
    assert_eq!(cache.read_document(DocumentKind::LayerIndex, &digest).as_deref(), Some(&b"other"[..]));
    assert_eq!(cache.read_document(DocumentKind::Manifest, &digest).as_deref(), Some(&b""[..]));
    assert_eq!(cache.map_document(DocumentKind::LayerIndex, &digest).as_deref(), Some(&b"other"[..]));
    assert_eq!(cache.map_document(DocumentKind::Manifest, &digest).as_deref(), Some(&b""[..]));
    let path = cache.paths().document(DocumentKind::LayerIndex, &digest);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        crate::base::durable::write(&path, &damaged).unwrap();
        if at % 2 == 0 {
            assert_eq!(cache.read_document(DocumentKind::LayerIndex, &digest), None, "byte {at}");
        } else {
            assert_eq!(cache.map_document(DocumentKind::LayerIndex, &digest), None, "byte {at}");
        }
        assert!(!path.exists());
        cache.write_document(DocumentKind::LayerIndex, &digest, b"other").unwrap();
    }
    for cut in [0, 20, 48, whole.len() - 1] {
        crate::base::durable::write(&path, &whole[..cut]).unwrap();
        assert_eq!(cache.read_document(DocumentKind::LayerIndex, &digest), None, "{cut}");
        crate::base::durable::write(&path, &whole[..cut]).unwrap();
        assert_eq!(cache.map_document(DocumentKind::LayerIndex, &digest), None, "{cut}");
        assert!(!path.exists());
    }
    assert_eq!(cache.info().counters.damaged_chunks, whole.len() as u64 + 8);
}

#[test]
fn a_mapped_document_stays_whole_when_it_is_replaced_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let digest = id(0).layer;
    let cache = open(directory.path());
    let content = vec![7; 3 << 20];
    cache.write_document(DocumentKind::LayerIndex, &digest, &content).unwrap();
    let first = cache.map_document(DocumentKind::LayerIndex, &digest).unwrap();
    cache.write_document(DocumentKind::LayerIndex, &digest, &vec![8; 1 << 20]).unwrap();
    let second = cache.map_document(DocumentKind::LayerIndex, &digest).unwrap();
    cache.prune(Prune::All).unwrap();
    assert_eq!(cache.map_document(DocumentKind::LayerIndex, &digest), None);
    drop(cache);
    assert!(first == content && second == vec![8; 1 << 20]);
}

#[test]
fn documents_of_one_digest_are_told_apart_by_what_they_were_made_from() {
    let directory = tempfile::tempdir().unwrap();
    let digest = id(0).layer;
    let [one, other] = [1, 2].map(|number| Digest::of(Algorithm::Sha512, &[number]));
    let cache = open(directory.path());
    let read = |key: DocumentKey<'_>| cache.read_document(DocumentKind::LayerIndex, key);
    cache.write_document(DocumentKind::LayerIndex, DocumentKey::variant(&digest, &one), b"one").unwrap();
    assert_eq!(read((&digest).into()), None);
    assert_eq!(read(DocumentKey::variant(&digest, &other)), None);
    cache.write_document(DocumentKind::LayerIndex, &digest, b"none").unwrap();
    assert_eq!(read(DocumentKey::variant(&digest, &one)).as_deref(), Some(&b"one"[..]));
    assert_eq!(read((&digest).into()).as_deref(), Some(&b"none"[..]));
    assert_eq!(cache.info().used_bytes, 48 + 3 + 48 + 4);
}

#[test]
fn documents_do_not_crowd_out_everything_else() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), CHUNK_BYTES, BOOT);
    let digest = |number: u8| Digest::of(Algorithm::Sha256, &[number]);
    let document = vec![7; 50_000];
    for number in 0..9 {
        cache.write_document(DocumentKind::Manifest, &digest(number), &document).unwrap();
        assert!(cache.info().used_bytes <= CHUNK_BYTES / 8);
        assert!(cache.read_document(DocumentKind::Manifest, &digest(number)).is_some(), "the newest stays");
    }
    assert_eq!(cache.info().used_bytes, 2 * 50_048);
    drop(cache);
    let cache = open_at(directory.path(), CHUNK_BYTES / 2, BOOT);
    assert_eq!(cache.info().used_bytes, 50_048);
    let files = files_below(&cache.paths().documents(DocumentKind::Manifest));
    assert_eq!(files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum::<u64>(), 50_048);
}

#[test]
fn reading_thousands_of_segments_does_not_use_up_the_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let segments: Vec<_> = (0..1000).map(|number| cache.segment(&id(number), 10).unwrap()).collect();
    let mut buffer = Vec::new();
    for _ in 0..2 {
        for (seed, segment) in (0..).zip(&segments) {
            store(segment, &content(seed, 10), 0);
            assert!(segment.read(0..10, &mut buffer));
            assert_eq!(buffer, content(seed, 10));
        }
    }
    let is_ours = |link: &std::fs::DirEntry| {
        std::fs::read_link(link.path()).is_ok_and(|target| target.starts_with(directory.path()))
    };
    let open = std::fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap).filter(is_ours).count();
    assert!((1..300).contains(&open), "{open}");
}
