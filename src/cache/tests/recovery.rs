//! What a start finds after a process ended anyhow.

use std::os::unix::fs::FileExt as _;

use super::*;
use crate::cache::map::{self, Header};

/// Three segments: one complete, one with two of four chunks, one with one of two.
fn filled(cache: &Arc<Cache>) -> Vec<(Arc<Segment>, Vec<u8>)> {
    let mut filled = Vec::new();
    for (number, bytes, chunks) in
        [(0, 2 * CHUNK_BYTES + 5, 0..3), (1, 4 * CHUNK_BYTES, 1..3), (2, CHUNK_BYTES + 1, 1..2)]
    {
        let content = content(u64::from(number), bytes);
        let segment = cache.segment(&id(number), bytes).unwrap();
        for chunk in chunks {
            assert_eq!(store(&segment, &content, chunk), Stored::Stored);
        }
        filled.push((segment, content));
    }
    filled
}

fn reopened(cache: &Arc<Cache>, contents: &[Vec<u8>]) -> Vec<Arc<Segment>> {
    (0..)
        .zip(contents)
        .map(|(number, content)| cache.segment(&id(number), content.len() as u64).unwrap())
        .collect()
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        // A hole becomes zeros: what must not be believed is not told apart by chance.
        std::fs::copy(&file, &target).unwrap();
    }
}

#[test]
fn nothing_that_was_stored_is_lost_with_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let filled = filled(&cache);
    let used = cache.info().used_bytes;
    let contents: Vec<_> = filled.iter().map(|(_, content)| content.clone()).collect();
    // No sync: the page cache has it all, as after kill -9.
    drop((filled, cache));
    let cache = open(directory.path());
    assert_eq!(cache.info().used_bytes, used);
    assert_eq!((cache.info().segments, cache.info().complete_segments, cache.info().chunks), (3, 1, 6));
    let segments = reopened(&cache, &contents);
    for chunk in 0..3 {
        assert!(hit_chunk(&segments[0], &contents[0], chunk));
    }
    assert!(hit(&segments[1], &contents[1], CHUNK_BYTES + 9..3 * CHUNK_BYTES - 9));
    assert!(!hit_chunk(&segments[1], &contents[1], 0) && !hit_chunk(&segments[1], &contents[1], 3));
    assert!(hit_chunk(&segments[2], &contents[2], 1) && !hit_chunk(&segments[2], &contents[2], 0));
    assert_eq!(cache.info().counters.damaged_chunks, 0);
    assert!(segments[0].check_all() && !segments[1].check_all());
    assert!(segments[0].open_direct().is_some());
}

#[test]
fn after_a_reboot_only_what_was_synced_is_believed() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 4 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 0);
    store(&segment, &content, 1);
    cache.sync();
    store(&segment, &content, 2);
    drop((segment, cache));
    let cache = open_at(directory.path(), PLENTY, BootId([2; 16]));
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert!(segment.is_present(0) && segment.is_present(1) && !segment.is_present(2));
    assert_eq!(cache.info().used_bytes, 2 * CHUNK_BYTES);
    assert_eq!(cache.info().counters.damaged_chunks, 0);
    assert!(hit(&segment, &content, 3..2 * CHUNK_BYTES));
    store(&segment, &content, 3);
    drop((segment, cache));
    // What the first boot had written must not come back under the second one's name.
    let cache = open_at(directory.path(), PLENTY, BootId([2; 16]));
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert!(segment.is_present(3) && !segment.is_present(2));
    assert!(hit_chunk(&segment, &content, 3));
}

#[test]
fn a_complete_segment_is_durable_without_a_sync_of_the_cache() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 2 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store_all(&segment, &content);
    drop((segment, cache));
    let cache = open_at(directory.path(), PLENTY, BootId([2; 16]));
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert!(segment.is_complete() && segment.check_all());
}

#[test]
fn without_a_boot_id_only_what_was_synced_is_believed() {
    let directory = tempfile::tempdir().unwrap();
    let settings = || CacheSettings {
        directory: directory.path().to_owned(),
        bytes_max: PLENTY,
        free_space_min: FreeSpaceFloor::Bytes(0),
    };
    let unknown = Surroundings { boot: None, retry_pause: Duration::ZERO };
    let cache = Cache::open_in(settings(), unknown, None).unwrap();
    let content = content(1, 2 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 0);
    drop((segment, cache));
    let cache = Cache::open_in(settings(), unknown, None).unwrap();
    assert_eq!(cache.info().chunks, 0);
}

#[test]
fn a_flipped_byte_of_data_is_found_at_the_first_use_and_costs_its_chunk_only() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 3 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store_all(&segment, &content);
    drop((segment, cache));
    let cache = open(directory.path());
    flip(&cache.paths().data(&id(0)), CHUNK_BYTES + 4711);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert!(segment.is_present(1));
    assert!(!hit(&segment, &content, CHUNK_BYTES..CHUNK_BYTES + 1), "even where it was not flipped");
    assert!(!segment.is_present(1));
    assert_eq!(cache.info().counters.damaged_chunks, 1);
    assert_eq!(cache.info().used_bytes, 2 * CHUNK_BYTES);
    assert!(hit_chunk(&segment, &content, 0) && hit_chunk(&segment, &content, 2));
    assert!(!segment.check_all());
    assert_eq!(store(&segment, &content, 1), Stored::Stored);
    assert!(hit_chunk(&segment, &content, 1) && segment.check_all());
}

#[test]
fn a_flipped_byte_anywhere_in_a_map_never_gives_a_wrong_byte() {
    let directory = tempfile::tempdir().unwrap();
    let content = content(1, 2 * CHUNK_BYTES + 5);
    let length = content.len() as u64;
    let cache = open(directory.path());
    let map = cache.paths().map(&id(0));
    drop(cache);
    for at in 0..map::record_offset(3) {
        let cache = open(directory.path());
        let segment = cache.segment(&id(0), length).unwrap();
        for chunk in 0..3 {
            store(&segment, &content, chunk);
        }
        drop((segment, cache));
        flip(&map, at);
        let cache = open(directory.path());
        let segment = cache.segment(&id(0), length).unwrap();
        let lost = (0..3).filter(|chunk| !hit_chunk(&segment, &content, *chunk)).count();
        let expected = if at < map::HEADER_BYTES as u64 { 3 } else { 1 };
        assert_eq!(lost, expected, "byte {at}");
        assert_eq!(cache.info().counters.damaged_chunks, 1, "byte {at}");
    }
}

#[test]
fn what_belongs_to_nothing_is_removed_inside_the_segments_and_left_alone_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let filled = filled(&cache);
    let paths = cache.paths().clone();
    let contents: Vec<_> = filled.iter().map(|(_, content)| content.clone()).collect();
    drop((filled, cache));
    let shard = paths.data(&id(0)).parent().unwrap().to_owned();
    let touch = |path: PathBuf| std::fs::File::create(path).unwrap().set_len(CHUNK_BYTES).unwrap();
    let unowned = [
        paths.data(&id(7)),
        paths.map(&id(8)),
        shard.join(".tmp-123"),
        shard.join("x.0.data"),
        shard.join(format!("{}.00.data", id(0).layer.hex())),
        paths.segments().join("what"),
    ];
    unowned.iter().cloned().for_each(touch);
    std::os::unix::fs::symlink("/etc/passwd", paths.data(&id(9))).unwrap();
    std::fs::remove_file(paths.data(&id(1))).unwrap();
    std::fs::remove_file(paths.map(&id(2))).unwrap();
    let ours = [paths.root().join("notes.txt"), paths.versioned().join("notes.txt")];
    ours.iter().cloned().for_each(touch);
    std::fs::create_dir_all(paths.documents(DocumentKind::Manifest)).unwrap();
    touch(paths.documents(DocumentKind::Manifest).join(".tmp-456"));

    let cache = open(directory.path());
    assert_eq!(files_below(&paths.segments()), vec![paths.data(&id(0)), paths.map(&id(0))]);
    assert!(ours.iter().all(|path| path.exists()));
    assert_eq!(files_below(&paths.documents(DocumentKind::Manifest)), Vec::<PathBuf>::new());
    assert!(Path::new("/etc/passwd").exists());
    let segments = reopened(&cache, &contents);
    assert!(hit_chunk(&segments[0], &contents[0], 2));
    assert!(!segments[1].is_present(1) && !segments[2].is_present(1));
    assert_eq!(cache.info().used_bytes, contents[0].len() as u64);
}

/// Killed after it had made both files, and before it had written anything into them.
#[test]
fn a_segment_that_was_only_just_being_made_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 2 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 0);
    let map = cache.paths().map(&id(0));
    drop((segment, cache));
    std::fs::OpenOptions::new().write(true).open(map).unwrap().set_len(0).unwrap();
    let cache = open(directory.path());
    assert_eq!((cache.info().counters.damaged_chunks, cache.info().used_bytes), (0, 0));
    assert_eq!(files_below(&cache.paths().segments()), Vec::<PathBuf>::new());
}

#[test]
fn chunks_beyond_the_end_of_a_short_data_file_are_absent() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 3 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store_all(&segment, &content);
    let path = cache.paths().data(&id(0));
    drop((segment, cache));
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * CHUNK_BYTES - 1).unwrap();
    let cache = open(directory.path());
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert!(segment.is_present(0) && !segment.is_present(1) && !segment.is_present(2));
    store(&segment, &content, 1);
    store(&segment, &content, 2);
    assert!(hit(&segment, &content, 0..3 * CHUNK_BYTES));
}

#[test]
fn a_file_handed_over_before_the_kill_is_not_punched_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 2 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store_all(&segment, &content);
    // The holder's kernel goes on reading it when this process is gone.
    let direct = segment.open_direct().unwrap().file;
    let path = cache.paths().map(&id(0));
    drop((segment, cache));
    assert!(Header::decode(&std::fs::read(&path).unwrap()).unwrap().handed_over);
    let cache = open(directory.path());
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    segment.remove(1..2);
    let mut bytes = vec![0; content.len()];
    direct.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == content);
    assert_eq!(segment.cached_bytes(), 0);
}

#[test]
fn a_copy_taken_at_any_moment_opens_to_right_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let content = content(3, 40 * CHUNK_BYTES);
    let length = content.len() as u64;
    let cache = open_at(directory.path(), 12 * CHUNK_BYTES, BOOT);
    let segment = cache.segment(&id(0), length).unwrap();
    std::thread::scope(|scope| {
        let storing = scope.spawn(|| {
            for round in 0..4 {
                for chunk in 0..40 {
                    store(&segment, &content, (chunk * 7 + round) % 40);
                    if chunk == 20 {
                        cache.sync();
                    }
                }
            }
        });
        let mut copies = 0;
        while !storing.is_finished() || copies == 0 {
            let copy = tempfile::tempdir().unwrap();
            copy_tree(&directory.path().join("v1"), &copy.path().join("v1"));
            let cache = open(copy.path());
            let segment = cache.segment(&id(0), length).unwrap();
            for chunk in 0..40 {
                hit_chunk(&segment, &content, chunk);
            }
            copies += 1;
        }
    });
}

#[test]
fn the_order_of_uses_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), 4 * CHUNK_BYTES, BOOT);
    let content = content(1, 8 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    for chunk in 0..4 {
        store(&segment, &content, chunk);
    }
    assert!(hit_chunk(&segment, &content, 0));
    cache.sync();
    drop((segment, cache));
    let cache = open_at(directory.path(), 4 * CHUNK_BYTES, BOOT);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 5);
    store(&segment, &content, 6);
    let present: Vec<_> = (0..8).filter(|chunk| segment.is_present(*chunk)).collect();
    assert_eq!(present, [0, 3, 5, 6]);
}

#[test]
fn a_smaller_bound_than_before_holds_from_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    drop((filled(&cache), cache));
    let cache = open_at(directory.path(), 2 * CHUNK_BYTES, BOOT);
    assert!(cache.info().used_bytes <= 2 * CHUNK_BYTES);
    assert!(cache.info().chunks > 0);
}

#[test]
fn bytes_without_a_record_are_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 9 * CHUNK_BYTES + 5);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 4);
    let path = cache.paths().data(&id(0));
    drop((segment, cache));
    // As after a kill between the bytes of a chunk and its record, many times.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&content[..3 * CHUNK_BYTES as usize], 0).unwrap();
    file.write_all_at(part(&content, 8 * CHUNK_BYTES..9 * CHUNK_BYTES + 5), 8 * CHUNK_BYTES).unwrap();
    file.sync_data().unwrap();
    let cache = open(directory.path());
    assert!(blocks_bytes(&path) <= CHUNK_BYTES + 8192, "{}", blocks_bytes(&path));
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert!(hit_chunk(&segment, &content, 4));
    store_all_but(&segment, &content, 4);
    assert!(hit(&segment, &content, 0..content.len() as u64));
}

fn store_all_but(segment: &Segment, content: &[u8], but: u64) {
    for chunk in (0..segment.chunk_count()).filter(|chunk| *chunk != but) {
        assert_eq!(store(segment, content, chunk), Stored::Stored);
    }
}

/// Where the process that is to be killed finds its cache; it is this same test.
const KILLED: &str = "REFMOUNT_TEST_KILLED_CACHE";

/// Stores in a shuffled order, and says what it stored, until it is killed or all is there.
fn store_until_killed(directory: &Path, contents: &[Vec<u8>]) {
    use std::io::Write as _;

    use rand::seq::SliceRandom as _;
    let cache = open(directory);
    let mut order: Vec<_> =
        (0..3_u32).flat_map(|number| (0..8_u64).map(move |chunk| (number, chunk))).collect();
    order.shuffle(&mut rand::rng());
    for (number, chunk) in order {
        let content = &contents[number as usize];
        let segment = cache.segment(&id(number), content.len() as u64).unwrap();
        let stored = store(&segment, content, chunk);
        assert!(matches!(stored, Stored::Stored | Stored::Skipped(SkipReason::AlreadyThere)), "{stored:?}");
        // In one write, so that no half of it is seen.
        std::io::stderr().write_all(format!("stored {number} {chunk}\n").as_bytes()).unwrap();
    }
}

#[test]
fn kill_9_at_any_moment_loses_no_chunk_and_leaves_no_file_unowned() {
    use std::io::BufRead as _;
    let contents: Vec<_> = (0..3).map(|seed| content(seed, 8 * CHUNK_BYTES - seed)).collect();
    if let Some(directory) = std::env::var_os(KILLED) {
        store_until_killed(Path::new(&directory), &contents);
        return;
    }
    let name = "cache::tests::recovery::kill_9_at_any_moment_loses_no_chunk_and_leaves_no_file_unowned";
    for round in 0..6 {
        let directory = tempfile::tempdir().unwrap();
        let mut stored = std::collections::BTreeSet::new();
        for lines in [round, 2 * round + 1] {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--nocapture", "--test-threads=1"])
                .env(KILLED, directory.path())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
            let mut before: Vec<_> = said.by_ref().take(lines).collect();
            child.kill().unwrap();
            child.wait().unwrap();
            before.extend(said);
            for line in before {
                let line = line.unwrap();
                let Some((number, chunk)) =
                    line.strip_prefix("stored ").and_then(|line| line.split_once(' '))
                else {
                    panic!("the process failed: {line}");
                };
                stored.insert((number.parse::<u32>().unwrap(), chunk.parse::<u64>().unwrap()));
            }
        }
        let cache = open(directory.path());
        let segments = reopened(&cache, &contents);
        for (number, chunk) in &stored {
            let at = *number as usize;
            assert!(hit_chunk(&segments[at], &contents[at], *chunk), "chunk {chunk} of {number} was lost");
        }
        let mut owned = 0;
        for (segment, content) in segments.iter().zip(&contents) {
            for chunk in 0..8 {
                assert_eq!(segment.is_present(chunk), hit_chunk(segment, content, chunk));
            }
            owned += usize::from(segment.cached_bytes() > 0) * 2;
        }
        assert_eq!(files_below(&cache.paths().segments()).len(), owned);
        assert_eq!(cache.info().counters.damaged_chunks, 0);
        assert_eq!(
            cache.info().used_bytes,
            segments.iter().map(|segment| segment.cached_bytes()).sum::<u64>()
        );
    }
}
