//! Disks that refuse: reads go on, stores are skipped, and it is said why.

use rustix::mount::{MountFlags, UnmountFlags};

use super::*;

/// A small file system of its own.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).unwrap();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .unwrap();
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn remount(&self, flags: MountFlags) {
        rustix::mount::mount_remount(self.path(), flags, "").unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_skips_stores_until_there_is_room_again() {
    let disk = SmallDisk::new(4 * CHUNK_BYTES);
    let cache = open(disk.path());
    let content = content(1, 8 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    let stored: Vec<_> = (0..8).map(|chunk| store(&segment, &content, chunk)).collect();
    assert_eq!(stored[..3], [Stored::Stored; 3]);
    // No room in the file system although the budget has some: the floor of 0 bytes, or the write, says so.
    assert!(
        stored[4..].iter().all(|stored| matches!(stored, Stored::Skipped(_)) || *stored == Stored::Stored)
    );
    for chunk in 0..8 {
        assert_eq!(segment.is_present(chunk), hit_chunk(&segment, &content, chunk), "chunk {chunk}");
    }
    let used = cache.info().used_bytes;
    assert!(used > 0 && used <= 4 * CHUNK_BYTES);
}

#[test]
fn a_disk_that_others_fill_degrades_the_cache_and_the_failed_chunk_is_absent() {
    let disk = SmallDisk::new(4 * CHUNK_BYTES);
    let cache = open(disk.path());
    let content = content(1, 8 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    assert_eq!(store(&segment, &content, 0), Stored::Stored);
    // Behind the back of the last measurement of free space.
    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[1; 65536]).is_ok_and(|written| written > 0) {}
    drop(file);
    assert_eq!(store(&segment, &content, 5), Stored::Skipped(SkipReason::Degraded));
    assert!(cache.info().degraded.unwrap().contains("No space left"));
    assert!(!segment.is_present(5));
    assert!(hit_chunk(&segment, &content, 0));
    assert_eq!(cache.info().used_bytes, CHUNK_BYTES);
    std::fs::remove_file(filler).unwrap();
    assert_eq!(store(&segment, &content, 5), Stored::Stored);
    assert_eq!(cache.info().degraded, None);
    assert!(hit_chunk(&segment, &content, 5));
}

#[test]
fn a_refusal_stops_stores_for_the_pause() {
    let disk = SmallDisk::new(4 * CHUNK_BYTES);
    let settings = CacheSettings {
        directory: disk.path().to_owned(),
        bytes_max: PLENTY,
        free_space_min: FreeSpaceFloor::Bytes(0),
    };
    let surroundings = Surroundings { boot: Some(BOOT), retry_pause: Duration::from_secs(3600) };
    let cache = Cache::open_in(settings, surroundings, None).unwrap();
    let content = content(1, 2 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    disk.remount(MountFlags::RDONLY);
    assert_eq!(store(&segment, &content, 0), Stored::Skipped(SkipReason::Degraded));
    disk.remount(MountFlags::empty());
    assert_eq!(store(&segment, &content, 0), Stored::Skipped(SkipReason::Degraded), "not tried");
    assert!(cache.info().degraded.unwrap().contains("Read-only file system"));
}

#[test]
fn a_read_only_disk_still_serves_what_it_has() {
    let disk = SmallDisk::new(16 * CHUNK_BYTES);
    let cache = open_at(disk.path(), 3 * CHUNK_BYTES, BOOT);
    let (one, other) = (content(1, CHUNK_BYTES), content(2, 8 * CHUNK_BYTES));
    let complete = cache.segment(&id(0), one.len() as u64).unwrap();
    store_all(&complete, &one);
    let segment = cache.segment(&id(1), other.len() as u64).unwrap();
    store(&segment, &other, 0);
    store(&segment, &other, 1);
    disk.remount(MountFlags::RDONLY);
    for _ in 0..3 {
        // It would have to evict, first the complete segment and then a chunk, and can't.
        assert!(matches!(store(&segment, &other, 2), Stored::Skipped(_)));
    }
    assert!(cache.info().degraded.unwrap().contains("Read-only file system"));
    cache.sync();
    assert!(hit_chunk(&complete, &one, 0) && hit(&segment, &other, 5..2 * CHUNK_BYTES));
    assert_eq!(cache.info().used_bytes, 3 * CHUNK_BYTES);
    assert!(cache.write_document(DocumentKind::Manifest, &id(0).layer, b"{}").is_err());
    segment.remove(0..1);
    assert!(!hit_chunk(&segment, &other, 0), "rejected content is not served, whatever the disk says");
    complete.remove_all();
    assert!(!hit_chunk(&complete, &one, 0));
    disk.remount(MountFlags::empty());
    assert_eq!(store(&segment, &other, 2), Stored::Stored);
    assert_eq!(cache.info().degraded, None);
    assert!(hit(&segment, &other, CHUNK_BYTES..3 * CHUNK_BYTES));
}

#[test]
fn a_removed_directory_never_stops_reads_and_is_not_made_again() {
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("cache");
    let cache = open(&directory);
    let content = content(1, 4 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 0);
    assert!(hit_chunk(&segment, &content, 0));
    let unread = cache.segment(&id(1), content.len() as u64).unwrap();
    store(&unread, &content, 0);
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(hit_chunk(&segment, &content, 0), "its file is still open");
    assert!(!hit_chunk(&unread, &content, 0), "its file is not");
    for _ in 0..2 {
        assert_eq!(store(&segment, &content, 1), Stored::Skipped(SkipReason::Degraded));
        assert!(cache.info().degraded.is_some());
    }
    assert!(cache.info().degraded.unwrap().contains("removed or replaced"));
    assert!(!directory.exists(), "another process may own what comes there next");
    assert_eq!(cache.info().used_bytes, 0);
    cache.sync();
    cache.prune(Prune::All).unwrap();
}

#[test]
fn an_emptied_directory_is_used_again_and_still_ours() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 4 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 0);
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    assert_eq!(store(&segment, &content, 1), Stored::Skipped(SkipReason::Degraded));
    assert_eq!(store(&segment, &content, 1), Stored::Stored);
    assert_eq!(cache.info().degraded, None);
    assert!(hit_chunk(&segment, &content, 1) && !hit_chunk(&segment, &content, 0));
    assert_eq!(cache.info().used_bytes, CHUNK_BYTES);
    let settings = CacheSettings {
        directory: directory.path().to_owned(),
        bytes_max: PLENTY,
        free_space_min: FreeSpaceFloor::Bytes(0),
    };
    assert_eq!(Cache::open(settings).unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn a_data_file_cut_short_while_it_is_read_is_a_miss_and_never_a_short_read() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let content = content(1, 3 * CHUNK_BYTES);
    let segment = cache.segment(&id(0), content.len() as u64).unwrap();
    store(&segment, &content, 0);
    store(&segment, &content, 2);
    assert!(hit_chunk(&segment, &content, 2));
    let path = cache.paths().data(&id(0));
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(2 * CHUNK_BYTES + 10).unwrap();
    assert!(!hit_chunk(&segment, &content, 2));
    assert!(!segment.is_present(2) && hit_chunk(&segment, &content, 0));
    assert_eq!(cache.info().counters.damaged_chunks, 1);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::File::create(&file).unwrap();
    let settings = CacheSettings {
        directory: file.join("cache"),
        bytes_max: PLENTY,
        free_space_min: FreeSpaceFloor::Bytes(0),
    };
    let error = Cache::open(settings).unwrap_err();
    assert!(error.chain().contains("file/cache"), "{}", error.chain());
}
