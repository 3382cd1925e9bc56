//! The cache's disk is damaged, full, read-only or gone; or the process that wrote to it was killed.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Signal, kill_process};

use super::{CONFIG, MIB, OTHER, PATIENT, SHARD, Site};
use crate::workplace::{assert_done, json, stdout, wait_until};

/// The files below `directory` whose names end so.
pub(super) fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path(), ending)),
            false if entry.path().to_str().unwrap().ends_with(ending) => found.push(entry.path()),
            false => {}
        }
    }
    found
}

pub(super) fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn end_owner(site: &Site, signal: Signal) {
    match signal {
        Signal::KILL => site.workplace.signal_all(signal),
        _ => kill_process(site.workplace.owner().unwrap(), signal).unwrap(),
    }
    wait_until("the owner has ended", || site.workplace.owner().is_none());
}

/// Rounds of reading that end by a kill at another moment each.
#[test]
fn after_a_kill_everything_whole_is_used_again_and_nothing_else() {
    let site = Site::mounted(&[PATIENT]);
    site.assert_reads(SHARD, 0..2 * MIB);
    let mut whole = 0;
    wait_until("what came is stored", || {
        let (status, came) = (site.status_of(SHARD), site.status()["network_bytes"].as_u64().unwrap());
        whole = status["cached_bytes"].as_u64().unwrap();
        whole >= 2 * MIB && whole == came
    });
    for round in 1..5 {
        thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|reader| {
                    let (site, start) = (&site, (round * 2 + reader * 3) % 12 * MIB);
                    scope.spawn(move || match site.read(SHARD, start..start + MIB) {
                        Ok(bytes) => assert!(bytes == site.truth(SHARD, start..start + MIB)),
                        Err(error) => drop(error),
                    })
                })
                .collect();
            thread::sleep(std::time::Duration::from_millis(round * 3));
            end_owner(&site, Signal::KILL);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        site.mount(&[PATIENT]);
        let before = site.ranges(SHARD).len();
        let kept = site.status_of(SHARD)["cached_bytes"].as_u64().unwrap();
        assert!(kept >= whole, "{kept} of {whole} bytes were kept");
        whole = kept;
        site.assert_reads(SHARD, 0..2 * MIB);
        let again = site.ranges(SHARD)[before..].iter().any(|range| range.start < 2 * MIB);
        assert!(!again, "what was whole was fetched again");
    }
    site.assert_reads_whole(SHARD);
}

#[test]
fn bytes_flipped_on_disk_between_two_runs_are_found_and_fetched_again() {
    let site = Site::mounted(&[PATIENT]);
    for file in [CONFIG, SHARD, OTHER] {
        site.assert_reads_whole(file);
        wait_until("the blob is verified", || site.status_of(file)["standing"] == "proven");
    }
    let whole = site.status()["cached_bytes"].as_u64().unwrap();
    let versioned = site.workplace.path("cache/v1");
    let of = |file: &str, ending: &str| {
        let ending = format!("{}.0.{ending}", site.artifact.layer(file).hex());
        files(&versioned.join("segments"), &ending).pop().unwrap()
    };
    for (what, flipped, fetched_max) in [
        ("the data", vec![(of(SHARD, "data"), 5 * MIB + 77), (of(OTHER, "data"), 9)], 4 * MIB),
        ("the map's header", vec![(of(SHARD, "map"), 3)], 2 * whole),
        (
            "the map's end",
            vec![(of(SHARD, "map"), fs::metadata(of(SHARD, "map")).unwrap().len() - 3)],
            2 * whole,
        ),
        (
            "the index",
            files(&versioned.join("proofs"), "").into_iter().map(|path| (path, 40)).collect(),
            2 * whole,
        ),
    ] {
        site.umount();
        wait_until("the owner has ended", || site.workplace.owner().is_none());
        assert!(!flipped.is_empty());
        flipped.iter().for_each(|(path, offset)| flip(path, *offset));
        site.mount(&[PATIENT]);
        for file in [SHARD, OTHER, CONFIG] {
            site.assert_reads_whole(file);
        }
        let fetched = site.status()["network_bytes"].as_u64().unwrap();
        let ranges = [SHARD, OTHER, CONFIG].map(|file| site.ranges(file));
        assert!(fetched <= fetched_max, "{what}: {fetched} bytes were fetched: {ranges:?}");
        if what == "the data" {
            let info = json(&site.workplace.run(&["cache", "info", "-o", "json"]));
            // A reader and the check in the background may both find one.
            let damaged = info["counters"]["damaged_chunks"].as_u64().unwrap();
            assert!((2..=4).contains(&damaged) && fetched >= 2 * MIB, "{fetched} bytes, {info}");
        }
        for file in [SHARD, OTHER, CONFIG] {
            wait_until("the blob is verified", || site.status_of(file)["standing"] == "proven");
        }
    }
}

/// A file system of its own for the cache.
struct Disk(PathBuf);

impl Disk {
    fn under_the_cache_of(site: &Site, bytes: u64) -> Self {
        let path = site.workplace.path("cache");
        fs::create_dir(&path).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},mode=0700")).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Removes a directory in which something may still be written.
pub(super) fn remove(directory: &Path) {
    wait_until("all of it is removed", || fs::remove_dir_all(directory).is_ok() || !directory.exists());
}

/// Leaves no room on the disk of `directory`.
pub(super) fn fill(directory: &Path) {
    let filler = fs::File::create(directory.join("filler")).unwrap();
    let mut offset = 0;
    while filler.write_at(&[1; 65536], offset).is_ok_and(|written| written > 0) {
        offset += 65536;
    }
}

fn degraded(site: &Site) -> String {
    site.status()["degraded"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn on_a_full_disk_everything_is_read_and_status_says_why_nothing_is_kept() {
    let site = Site::new();
    let disk = Disk::under_the_cache_of(&site, 8 * MIB);
    site.mount(&[PATIENT, "--cache-min-free=0"]);
    fill(&disk.0);
    site.assert_reads_whole(SHARD);
    site.assert_reads_whole(OTHER);
    // The disk itself says so, or the measurement of its free space did before.
    let is_named = |text: &str| text.contains("No space left") || text.contains("less would stay free");
    wait_until("the full disk is noticed", || is_named(&degraded(&site)));
    let text = site.workplace.run(&["status", "mnt"]);
    assert!(is_named(&stdout(&text)), "{}", stdout(&text));
}

#[test]
fn the_floor_of_free_space_is_kept_while_everything_is_read() {
    let site = Site::new();
    let disk = Disk::under_the_cache_of(&site, 16 * MIB);
    site.mount(&[PATIENT, "--cache-min-free=10MiB"]);
    site.assert_reads_whole(SHARD);
    site.assert_reads_whole(OTHER);
    let free = rustix::fs::statvfs(&disk.0).unwrap();
    // Chunks that are being written when the space is measured are not seen by each other.
    assert!(free.f_bavail * free.f_frsize >= 8 * MIB, "{} bytes are free", free.f_bavail * free.f_frsize);
}

/// In the foreground, where no log is open on the disk, which would keep it writable.
#[test]
fn with_a_read_only_disk_everything_is_read() {
    let site = Site::new();
    let disk = Disk::under_the_cache_of(&site, 64 * MIB);
    let arguments = ["mount", "-f", "--prefetch=off", PATIENT, &site.reference(), "mnt"];
    let mut owner =
        site.workplace.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is mounted", || site.path(CONFIG).exists());
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    wait_until("the chunk is stored", || site.status_of(SHARD)["cached_bytes"] == MIB);
    wait_until("nothing is open for writing", || {
        rustix::mount::mount_remount(&disk.0, MountFlags::RDONLY, "").is_ok()
    });
    let fetched = site.ranges(SHARD).len();
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    assert_eq!(site.ranges(SHARD).len(), fetched, "what is cached is still read from the cache");
    site.assert_reads_whole(SHARD);
    site.assert_reads_whole(OTHER);
    wait_until("the refusal is noticed", || degraded(&site).contains("Read-only file system"));
    site.umount();
    assert!(owner.wait().unwrap().success());
}

#[test]
fn with_the_cache_directory_removed_everything_is_read_and_umount_works() {
    let site = Site::mounted(&[PATIENT]);
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    wait_until("the chunk is stored", || site.status_of(SHARD)["cached_bytes"] == MIB);
    let cache = site.workplace.path("cache");
    let socket = cache.join("control.sock");
    // The socket is how status is asked for.
    for entry in fs::read_dir(cache.join("v1")).unwrap() {
        remove(&entry.unwrap().path());
    }
    assert!(socket.exists());
    site.assert_reads_whole(SHARD);
    remove(&cache);
    site.assert_reads_whole(OTHER);
    site.assert_reads_whole(SHARD);
    assert!(!cache.exists(), "another process may own what comes there next");
    assert_done(&site.workplace.run(&["umount", "mnt"]));
    assert!(!site.workplace.is_mounted("mnt"));
}

#[test]
fn while_chunks_are_evicted_readers_get_the_right_bytes() {
    let site = Site::mounted(&[PATIENT, "--cache-size=3MiB"]);
    thread::scope(|scope| {
        for reader in 0..6 {
            let site = &site;
            scope.spawn(move || site.assert_reads_here_and_there(reader, 15));
        }
        scope.spawn(|| (0..3).for_each(|_| site.assert_reads_whole(OTHER)));
    });
    let info = json(&site.workplace.run(&["cache", "info", "-o", "json"]));
    assert!(info["counters"]["evicted_chunks"].as_u64().unwrap() > 20, "{info}");
    assert!(info["used_bytes"].as_u64().unwrap() <= 3 * MIB, "{info}");
}
