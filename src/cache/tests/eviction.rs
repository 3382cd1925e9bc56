//! What goes when room is wanted, and what stays.

use std::os::unix::fs::FileExt as _;

use rand::Rng as _;

use super::*;

fn present(segment: &Segment) -> Vec<u64> {
    (0..segment.chunk_count()).filter(|chunk| segment.is_present(*chunk)).collect()
}

#[test]
fn the_least_recently_used_chunk_goes_first_over_all_segments() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), 4 * CHUNK_BYTES, BOOT);
    let (one, other) = (content(1, 9 * CHUNK_BYTES), content(2, 9 * CHUNK_BYTES));
    let first = cache.segment(&id(0), one.len() as u64).unwrap();
    let second = cache.segment(&id(1), other.len() as u64).unwrap();
    store(&first, &one, 0);
    store(&second, &other, 0);
    store(&first, &one, 1);
    store(&second, &other, 1);
    assert!(hit_chunk(&first, &one, 0));
    second.touch(0..1);
    store(&first, &one, 2);
    assert_eq!((present(&first), present(&second)), (vec![0, 2], vec![0, 1]));
    store(&second, &other, 5);
    assert_eq!((present(&first), present(&second)), (vec![0, 2], vec![0, 5]));
    assert_eq!(cache.info().used_bytes, 4 * CHUNK_BYTES);
    assert_eq!(cache.info().counters.evicted_chunks, 2);
    assert!(hit_chunk(&first, &one, 0) && hit_chunk(&second, &other, 5));
    assert!(!hit_chunk(&first, &one, 1));
    assert!(blocks_bytes(&cache.paths().data(&id(0))) <= 2 * CHUNK_BYTES + 8192);
}

#[test]
fn a_long_pass_keeps_the_bound_and_the_latest_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), 5 * CHUNK_BYTES + 17, BOOT);
    let content = content(1, 90 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    for chunk in 0..90 {
        assert_eq!(store(&segment, &content, chunk), Stored::Stored);
        assert!(cache.info().used_bytes <= 5 * CHUNK_BYTES + 17);
    }
    assert_eq!(present(&segment), [85, 86, 87, 88, 89]);
}

#[test]
fn a_complete_segment_goes_as_one_and_its_readers_keep_the_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), 4 * CHUNK_BYTES, BOOT);
    let (one, other) = (content(1, 3 * CHUNK_BYTES), content(2, 4 * CHUNK_BYTES));
    let first = cache.segment(&id(0), one.len() as u64).unwrap();
    store_all(&first, &one);
    let file = first.open_direct().unwrap().file;
    let second = cache.segment(&id(1), other.len() as u64).unwrap();
    store(&second, &other, 0);
    assert!(first.is_complete());
    store(&second, &other, 1);
    assert_eq!((present(&first), present(&second)), (vec![], vec![0, 1]));
    assert_eq!(cache.info().used_bytes, 2 * CHUNK_BYTES);
    assert_eq!(cache.info().counters.evicted_chunks, 3);
    let mut bytes = vec![0; one.len()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == one);
    assert!(!cache.paths().data(&id(0)).exists() && !cache.paths().map(&id(0)).exists());
    // The segment is empty and usable.
    assert_eq!(store(&first, &one, 2), Stored::Stored);
    assert!(hit_chunk(&first, &one, 2));
}

#[test]
fn what_is_pinned_stays_and_then_there_is_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), 3 * CHUNK_BYTES, BOOT);
    let (one, other) = (content(1, 2 * CHUNK_BYTES), content(2, 4 * CHUNK_BYTES));
    let first = cache.segment(&id(0), one.len() as u64).unwrap();
    let second = cache.segment(&id(1), other.len() as u64).unwrap();
    store_all(&first, &one);
    let direct = first.open_direct().unwrap();
    let pin = second.pin();
    store(&second, &other, 0);
    assert_eq!(store(&second, &other, 1), Stored::Skipped(SkipReason::NoRoom));
    assert!(!second.is_present(1));
    let report = cache.prune(Prune::All).unwrap();
    assert_eq!((report.removed_chunks, report.kept_bytes), (0, 3 * CHUNK_BYTES));
    assert!(hit_chunk(&second, &other, 0) && hit_chunk(&first, &one, 1));
    assert_eq!(cache.info().counters.skipped_stores, 1);
    drop(pin);
    assert_eq!(store(&second, &other, 1), Stored::Stored);
    assert!(first.is_complete() && !second.is_present(0));
    drop(direct);
    assert_eq!(store(&second, &other, 2), Stored::Stored);
    assert_eq!(store(&second, &other, 3), Stored::Stored);
    assert!(present(&first).is_empty());
}

#[test]
fn a_chunk_larger_than_the_cache_evicts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), CHUNK_BYTES - 1, BOOT);
    let content = content(1, CHUNK_BYTES + 9);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert_eq!(store(&segment, &content, 1), Stored::Stored);
    assert_eq!(store(&segment, &content, 0), Stored::Skipped(SkipReason::NoRoom));
    assert!(hit_chunk(&segment, &content, 1));
}

#[test]
fn the_floor_of_free_space_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let open_with = |free_space_min| {
        let directory = directory.path().to_owned();
        let settings = CacheSettings { directory, bytes_max: PLENTY, free_space_min };
        Cache::open_in(settings, Surroundings { boot: Some(BOOT), retry_pause: Duration::ZERO }, None)
            .unwrap()
    };
    let content = content(1, 3 * CHUNK_BYTES);
    for floor in [FreeSpaceFloor::Bytes(u64::MAX / 2), FreeSpaceFloor::Percent(100.0)] {
        let cache = open(directory.path());
        let segment = cache.segment(&id(0), content.len() as u64).unwrap();
        store(&segment, &content, 0);
        drop((segment, cache));
        let cache = open_with(floor);
        let segment = cache.segment(&id(0), content.len() as u64).unwrap();
        assert!(segment.is_present(0));
        assert_eq!(store(&segment, &content, 1), Stored::Skipped(SkipReason::NoRoom), "{floor:?}");
        assert_eq!(cache.info().used_bytes, 0, "what is ours gives way");
        assert!(cache.info().degraded.unwrap().contains("would stay free"));
    }
    let cache = open_with(FreeSpaceFloor::Percent(0.0));
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert_eq!(store(&segment, &content, 1), Stored::Stored);
}

#[test]
fn prune_removes_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 4 * CHUNK_BYTES);
    let held = cache.segment(&id(0), content.len() as u64).unwrap();
    for chunk in 0..3 {
        store(&held, &content, chunk);
    }
    store_all(&cache.segment(&id(1), content.len() as u64).unwrap(), &content);
    cache.write_document(DocumentKind::Manifest, &id(0).layer, b"{}").unwrap();
    let report = cache.prune(Prune::Unused).unwrap();
    assert_eq!((report.removed_chunks, report.removed_bytes), (4, 4 * CHUNK_BYTES));
    assert_eq!(present(&held), [0, 1, 2]);
    let report = cache.prune(Prune::DownTo(CHUNK_BYTES + 50)).unwrap();
    assert_eq!((report.removed_chunks, report.kept_bytes), (2, CHUNK_BYTES + 50));
    assert_eq!(present(&held), [2]);
    let report = cache.prune(Prune::All).unwrap();
    assert_eq!((report.removed_bytes, report.kept_bytes), (CHUNK_BYTES + 50, 0));
    assert_eq!(cache.info().used_bytes, 0);
    assert_eq!(files_below(&cache.paths().versioned()), Vec::<PathBuf>::new());
    store(&held, &content, 2);
    assert!(hit_chunk(&held, &content, 2));
}

/// Eight threads do everything at once in a cache a quarter of what they want; every hit is compared.
#[test]
fn a_reader_never_gets_a_hole_while_everything_else_goes_on() {
    const SEGMENTS: u32 = 4;
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let directory = tempfile::tempdir().unwrap();
    let contents: Vec<_> = (0..SEGMENTS)
        .map(|number| content(u64::from(number), (8 - u64::from(number)) * CHUNK_BYTES - 77))
        .collect();
    let cache = open_at(directory.path(), 6 * CHUNK_BYTES, BOOT);
    let hits = std::sync::atomic::AtomicU64::new(0);
    let work = |thread: u64| {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ thread);
        for _ in 0..400 {
            let number = random.random_range(0..SEGMENTS);
            let content = &contents[number as usize];
            let segment = cache.segment(&id(number), content.len() as u64).unwrap();
            let chunk = random.random_range(0..segment.chunk_count());
            match random.random_range(0..100) {
                0..40 => {
                    store(&segment, content, chunk);
                }
                40..90 => {
                    let start = random.random_range(0..content.len() as u64);
                    let end = (start + random.random_range(1..2 * CHUNK_BYTES)).min(content.len() as u64);
                    let start = if random.random() { start } else { end.saturating_sub(4096) };
                    hits.fetch_add(
                        u64::from(hit(&segment, content, start..end)),
                        std::sync::atomic::Ordering::Relaxed,
                    );
                }
                90..93 => segment.remove(chunk..chunk + 2),
                93 => segment.remove_all(),
                94..96 => cache.sync(),
                96 => {
                    cache.prune(Prune::DownTo(4 * CHUNK_BYTES)).unwrap();
                }
                97 => {
                    segment.check_all();
                }
                _ => {
                    if let Some(direct) = segment.open_direct() {
                        let mut bytes = vec![0; content.len()];
                        direct.file.read_exact_at(&mut bytes, 0).unwrap();
                        assert!(bytes == *content);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || work(thread));
        }
    });
    assert!(hits.into_inner() > 0);
    let info = cache.info();
    assert_eq!(info.counters.damaged_chunks, 0);
    assert_eq!(info.degraded, None);
    assert!(info.used_bytes <= 6 * CHUNK_BYTES);
    let present: u64 = (0..SEGMENTS)
        .map(|number| {
            cache.segment(&id(number), contents[number as usize].len() as u64).unwrap().cached_bytes()
        })
        .sum();
    assert_eq!(info.used_bytes, present);
    drop(cache);
    let cache = open(directory.path());
    assert_eq!(cache.info().used_bytes, present, "disk and memory agree");
    for number in 0..SEGMENTS {
        let content = &contents[number as usize];
        let segment = cache.segment(&id(number), content.len() as u64).unwrap();
        for chunk in 0..segment.chunk_count() {
            assert_eq!(segment.is_present(chunk), hit_chunk(&segment, content, chunk));
        }
    }
}
