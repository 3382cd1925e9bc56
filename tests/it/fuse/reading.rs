//! Reading through a mount, in all the ways there are.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use refmount::tree::Ino;
use rustix::fs::OFlags;

use super::content::Behaviour;
use super::fixture::{Fixture, OTHER_SHARD, Options, REFERENCE, SHARD, SHARD_BYTES, SMALL, python, until};

fn errno(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(error.raw_os_error().unwrap())
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    String::from_utf8(value).unwrap()
}

#[test]
fn where_all_files_are_small_the_kernel_opens_them_by_itself() {
    let opened = |fixture: &Fixture| fixture.content.layers[SMALL].opened.load(Ordering::SeqCst);
    let small = Fixture::with(Options { subpath: Some("config.json"), ..Options::default() });
    for _ in 0..3 {
        assert_eq!(fs::read(&small.target).unwrap(), small.files[SMALL]);
    }
    let mut file = File::open(&small.target).unwrap();
    let refused = File::options().write(true).open(&small.target).unwrap_err();
    assert_eq!(errno(&refused), rustix::io::Errno::ROFS);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!((bytes == small.files[SMALL], opened(&small)), (true, 0));
    let mixed = Fixture::new();
    fs::read(mixed.path(SMALL)).unwrap();
    until("the open is told", || opened(&mixed) == 1);
}

#[test]
fn names_attributes_links_and_xattrs() {
    let fixture = Fixture::new();
    let mut names: Vec<_> =
        fs::read_dir(&fixture.target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "empty", "model"].map(OsStr::new));
    let shard = fs::metadata(fixture.path(SHARD)).unwrap();
    assert_eq!((shard.len(), shard.mode(), shard.nlink()), (SHARD_BYTES as u64, 0o100_644, 1));
    assert_eq!((shard.mtime(), shard.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!(shard.blocks(), (SHARD_BYTES as u64).div_ceil(512));
    let root = fs::metadata(&fixture.target).unwrap();
    assert_eq!((root.ino(), root.mode(), root.nlink()), (1, 0o40_755, 3));
    let link = fixture.target.join("model/config.json");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../config.json"));
    assert_eq!(fs::read(&link).unwrap(), fixture.files[SMALL]);
    assert_eq!(fs::read(fixture.target.join("empty")).unwrap(), b"");
    for _ in 0..2 {
        let missing = fs::metadata(fixture.target.join("none")).unwrap_err();
        assert_eq!(errno(&missing), rustix::io::Errno::NOENT);
    }

    assert_eq!(xattr(&fixture.target, "user.refmount.reference"), REFERENCE);
    assert_eq!(xattr(&fixture.target, "user.refmount.owner"), "/run/refmount/owner.sock");
    assert_eq!(
        xattr(&fixture.path(SHARD), "user.refmount.digest"),
        fixture.content.layers[SHARD].digest.as_str()
    );
    assert_eq!(xattr(&fixture.path(SHARD), "user.refmount.standing"), "pending");
    let small = rustix::fs::getxattr(fixture.path(SHARD), "user.refmount.digest", &mut [0_u8; 8][..]);
    assert_eq!(small, Err(rustix::io::Errno::RANGE));
    let missing = rustix::fs::getxattr(fixture.path(SHARD), "user.other", &mut [0_u8; 8][..]);
    assert_eq!(missing, Err(rustix::io::Errno::NODATA));
    let mut listed = vec![0; 4096];
    let length = rustix::fs::listxattr(&fixture.target, &mut listed[..]).unwrap();
    assert_eq!(listed[..length], *b"user.refmount.reference\0user.refmount.digest\0user.refmount.owner\0");

    let statistics = rustix::fs::statvfs(&fixture.target).unwrap();
    assert_eq!((statistics.f_bfree, statistics.f_bavail, statistics.f_namemax), (0, 0, 255));
    assert_eq!(statistics.f_blocks, (2 * SHARD_BYTES as u64 + 22).div_ceil(statistics.f_frsize));
}

#[test]
fn a_large_directory_is_listed_whole() {
    let fixture = Fixture::with(Options { many: 20_000, ..Options::default() });
    for _ in 0..2 {
        let mut names: Vec<_> = fs::read_dir(fixture.target.join("many"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names.iter().eq((0..20_000).map(|number| format!("{number:06}")).collect::<Vec<_>>().iter()));
    }
}

#[test]
fn the_end_of_a_file_is_where_it_is() {
    let fixture = Fixture::new();
    for behaviour in [Behaviour::Cached, Behaviour::Remote] {
        fixture.content.behave(OTHER_SHARD, behaviour);
        let file = File::open(fixture.path(OTHER_SHARD)).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(file.read_at(&mut buffer, SHARD_BYTES as u64 - 7).unwrap(), 7);
        assert_eq!(buffer[..7], fixture.files[OTHER_SHARD][SHARD_BYTES - 7..]);
        for offset in [SHARD_BYTES as u64, SHARD_BYTES as u64 + 1, i64::MAX as u64] {
            assert_eq!(file.read_at(&mut buffer, offset).unwrap_or(0), 0);
        }
        assert_eq!((&file).seek(SeekFrom::End(0)).unwrap(), SHARD_BYTES as u64);
        // O_DIRECT reaches the filesystem whatever the page cache holds.
        let direct = open(&fixture.path(OTHER_SHARD), OFlags::DIRECT);
        let mut whole = vec![0; SHARD_BYTES + 4096];
        let mut length = 0;
        while let Ok(read @ 1..) = direct.read_at(&mut whole[length..], length as u64) {
            length += read;
        }
        assert_eq!(length, SHARD_BYTES);
        assert!(whole[..length] == fixture.files[OTHER_SHARD]);
    }
}

fn open(path: &Path, flags: OFlags) -> File {
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | flags, rustix::fs::Mode::empty());
    File::from(opened.unwrap())
}

#[test]
fn mmap_populate_direct_io_and_sendfile_give_the_bytes() {
    for behaviour in [Behaviour::Cached, Behaviour::Remote] {
        let fixture = Fixture::new();
        fixture.content.behave(SHARD, behaviour);
        let source = fixture.target.with_file_name("source");
        let mut file = File::create(&source).unwrap();
        std::io::Write::write_all(&mut file, &fixture.files[SHARD]).unwrap();
        let printed = python(include_str!("loads.py"), &[&fixture.path(SHARD), &source]);
        assert_eq!(printed, "mmap populate direct sendfile\n");
    }
}

#[test]
fn many_threads_fault_one_mapping_while_others_read() {
    let fixture = Fixture::new();
    fixture.content.behave(SHARD, Behaviour::Remote);
    let source = fixture.target.with_file_name("source");
    let mut file = File::create(&source).unwrap();
    std::io::Write::write_all(&mut file, &fixture.files[SHARD]).unwrap();
    let printed = python(include_str!("faults.py"), &[&fixture.path(SHARD), &source]);
    assert_eq!(printed, "128 threads\n");
}

#[test]
fn a_stuck_read_stops_nothing_else() {
    let fixture = Fixture::new();
    fixture.content.behave(SHARD, Behaviour::Stuck);
    // More than there are threads that serve the kernel or run tasks.
    std::thread::scope(|scope| {
        let stuck: Vec<_> = (0..32)
            .map(|_| scope.spawn(|| fs::read(fixture.path(SHARD)).map(|bytes| bytes == fixture.files[SHARD])))
            .collect();
        fixture.content.wait_until_stuck(SHARD);
        // Opened by all, so all are on their way to the read.
        until("all have opened", || fixture.content.layers[SHARD].opened.load(Ordering::SeqCst) == 32);
        assert_eq!(fs::read_dir(fixture.target.join("model")).unwrap().count(), 3);
        assert_eq!(fs::metadata(fixture.path(SHARD)).unwrap().len(), SHARD_BYTES as u64);
        assert!(fs::read(fixture.path(OTHER_SHARD)).unwrap() == fixture.files[OTHER_SHARD]);
        assert_eq!(xattr(&fixture.path(SHARD), "user.refmount.standing"), "pending");
        assert!(stuck.iter().all(|reader| !reader.is_finished()));
        fixture.content.release();
        for reader in stuck {
            assert!(reader.join().unwrap().unwrap());
        }
    });
}

#[test]
fn a_reader_that_waits_for_the_network_can_be_killed() {
    let fixture = Fixture::new();
    let mapping = "import mmap, sys; file = open(sys.argv[1], 'rb'); \
                   mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[5000]";
    for (layer, program) in [(SHARD, &["cat"][..]), (OTHER_SHARD, &["python3", "-c", mapping])] {
        fixture.content.behave(layer, Behaviour::Stuck);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(fixture.path(layer)).stdout(Stdio::null());
        let mut reader = command.spawn().unwrap();
        fixture.content.wait_until_stuck(layer);
        reader.kill().unwrap();
        // Nothing comes until the release, so a reader that could not be killed would be here for ever.
        assert!(!reader.wait().unwrap().success());
    }
    fixture.content.release();
    assert!(fs::read(fixture.path(SHARD)).unwrap() == fixture.files[SHARD]);
}

#[test]
fn a_failed_read_is_an_io_error_and_not_remembered() {
    let fixture = Fixture::new();
    for behaviour in [Behaviour::Failing, Behaviour::Panicking, Behaviour::PanickingRemotely] {
        fixture.content.behave(SHARD, behaviour);
        // More often than there are threads to lose.
        for _ in 0..20 {
            let error = fs::read(fixture.path(SHARD)).unwrap_err();
            assert_eq!(errno(&error), rustix::io::Errno::IO, "{behaviour:?}");
        }
        assert_eq!(fs::read(fixture.path(SMALL)).unwrap(), fixture.files[SMALL]);
    }
    fixture.content.behave(SHARD, Behaviour::Remote);
    assert!(fs::read(fixture.path(SHARD)).unwrap() == fixture.files[SHARD]);
}

#[test]
fn a_complete_file_is_read_by_the_kernel_itself() {
    let fixture = Fixture::new();
    fixture.content.behave(SHARD, Behaviour::Direct);
    let ino = Ino(fs::metadata(fixture.path(SHARD)).unwrap().ino());
    let first = File::open(fixture.path(SHARD)).unwrap();
    let second = File::open(fixture.path(SHARD)).unwrap();
    assert!(fixture.mount().is_passthrough(ino));
    assert_eq!(fixture.content.handed_over(), 1, "one registration for an inode");
    for mut file in [&first, &second] {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == fixture.files[SHARD]);
    }
    assert_eq!(fixture.content.layers[SHARD].reads.load(Ordering::SeqCst), 0);
    let source = fixture.target.with_file_name("source");
    std::io::Write::write_all(&mut File::create(&source).unwrap(), &fixture.files[SHARD]).unwrap();
    let printed = python(include_str!("loads.py"), &[&fixture.path(SHARD), &source]);
    assert_eq!(printed, "mmap populate direct sendfile\n");
    assert_eq!(fixture.content.layers[SHARD].reads.load(Ordering::SeqCst), 0);
}

#[test]
fn the_first_open_decides_how_an_inode_is_read() {
    let fixture = Fixture::new();
    let ino = Ino(fs::metadata(fixture.path(SHARD)).unwrap().ino());
    let before = File::open(fixture.path(SHARD)).unwrap();
    fixture.content.behave(SHARD, Behaviour::Direct);
    let after = File::open(fixture.path(SHARD)).unwrap();
    assert!(!fixture.mount().is_passthrough(ino));
    assert_eq!(fixture.content.handed_over(), 0);
    fixture.content.behave(SHARD, Behaviour::Cached);
    let mut byte = [0];
    for file in [&before, &after] {
        assert_eq!(file.read_at(&mut byte, 2_000_000).unwrap(), 1);
        assert_eq!(byte[0], fixture.files[SHARD][2_000_000]);
    }
    drop((before, after));
    // The kernel tells us of a close after the fact.
    until("all is closed", || fixture.mount().open_file_count() == 0);
    fixture.content.behave(SHARD, Behaviour::Direct);
    let direct = File::open(fixture.path(SHARD)).unwrap();
    assert!(fixture.mount().is_passthrough(ino));
    fixture.content.behave(SHARD, Behaviour::Cached);
    let joined = File::open(fixture.path(SHARD)).unwrap();
    assert!(fixture.mount().is_passthrough(ino));
    for file in [&direct, &joined] {
        assert_eq!(file.read_at(&mut byte, 3_000_000).unwrap(), 1);
        assert_eq!(byte[0], fixture.files[SHARD][3_000_000]);
    }
}

#[test]
fn opening_and_closing_in_both_modes_at_once_never_fails() {
    let fixture = Fixture::new();
    fixture.content.behave(SHARD, Behaviour::MaybeDirect);
    std::thread::scope(|scope| {
        for reader in 0..8_usize {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..200 {
                    let file = File::open(fixture.path(SHARD)).unwrap();
                    let offset = (reader * 200 + round) * 1900;
                    let mut bytes = [0; 5000];
                    let length = file.read_at(&mut bytes, offset as u64).unwrap();
                    let end = (offset + bytes.len()).min(SHARD_BYTES);
                    assert!(bytes[..length] == fixture.files[SHARD][offset..end]);
                }
            });
        }
    });
    assert!(fixture.content.handed_over() > 0);
}

#[test]
fn a_sequential_read_comes_in_large_requests() {
    let fixture = Fixture::new();
    for behaviour in [Behaviour::Cached, Behaviour::Remote] {
        let layer = if behaviour == Behaviour::Cached { SHARD } else { OTHER_SHARD };
        fixture.content.behave(layer, behaviour);
        assert!(fs::read(fixture.path(layer)).unwrap() == fixture.files[layer]);
        let reads = fixture.content.layers[layer].reads.load(Ordering::SeqCst);
        // With the kernel's default read-ahead there are 25.
        assert!(reads <= 8, "{reads} requests for three MiB and a bit");
    }
}

#[test]
fn rejected_bytes_leave_the_page_cache() {
    let fixture = Fixture::new();
    let file = File::open(fixture.path(SHARD)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_500_000).unwrap();
    assert_eq!(byte[0], fixture.files[SHARD][1_500_000]);
    let mut right = fixture.files[SHARD].clone();
    right[1_500_000] ^= 0xff;
    fixture.content.reject(SHARD, right.clone());
    // By a thread of its own, so not at once.
    until("the right byte is served", || {
        file.read_exact_at(&mut byte, 1_500_000).unwrap();
        byte[0] == right[1_500_000]
    });
}
