//! Mount points: which are taken, what is left behind, and how a mount ends.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;

use refmount::base::ErrorKind;
use refmount::fuse::{MOUNT_TYPE, check_target, mount_at, unmount_target};
use rustix::mount::{MountFlags, UnmountFlags};

use super::content::Behaviour;
use super::fixture::{Fixture, Options, REFERENCE, SHARD, filesystem, run, start};

#[test]
fn the_table_of_mounts_says_what_it_is() {
    let fixture = Fixture::new();
    let canonical = fs::canonicalize(&fixture.target).unwrap();
    let entry = mount_at(&canonical).unwrap().unwrap();
    assert_eq!((entry.mount_type.as_str(), entry.source.to_str()), (MOUNT_TYPE, Some(REFERENCE)));
    assert_eq!(fixture.mount().target(), canonical);
    let flags = rustix::fs::statvfs(&fixture.target).unwrap().f_flag;
    let wanted = rustix::fs::StatVfsMountFlags::RDONLY
        | rustix::fs::StatVfsMountFlags::NOSUID
        | rustix::fs::StatVfsMountFlags::NODEV;
    assert!(flags.contains(wanted), "{flags:?}");
    let read_ahead =
        fs::read_to_string(format!("/sys/class/bdi/0:{}/read_ahead_kb", entry.device.1)).unwrap();
    assert_eq!(read_ahead.trim(), "1024");
}

#[test]
fn children_of_the_process_do_not_inherit_the_device() {
    let fixture = Fixture::new();
    assert_eq!(fs::read(fixture.path(0)).unwrap(), fixture.files[0]);
    let open = run(Command::new("ls").args(["-l", "/proc/self/fd"]));
    assert!(open.contains("/proc/") && !open.contains("/dev/fuse"), "{open}");
}

#[test]
fn mount_points_that_will_not_do_are_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    File::create(path.join("file")).unwrap();
    let check = |target: &Path, wants_file| check_target(target, wants_file).unwrap_err();
    let missing = check(&path.join("it's not there"), false);
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("mkdir -p '"), "{missing}");
    assert!(check(&path.join("no/parent"), false).kind() == ErrorKind::NotFound);
    assert!(check(&path.join("none"), true).to_string().contains("touch "));
    assert!(check(&path.join("file"), false).to_string().contains("is not a directory"));
    assert!(check(path, true).to_string().contains("is not a regular file"));
    assert_eq!(check(Path::new("/proc"), false).kind(), ErrorKind::Busy);
    // Links to a mount point are followed, and `..` too.
    std::os::unix::fs::symlink(path, path.join("link")).unwrap();
    let canonical = fs::canonicalize(path).unwrap();
    assert_eq!(check_target(&path.join("link"), false).unwrap(), canonical);
    fs::create_dir(path.join("d")).unwrap();
    assert_eq!(check_target(&path.join("d/.."), false).unwrap(), canonical);
}

#[test]
fn a_mount_point_in_use_is_busy() {
    let fixture = Fixture::new();
    let (other, ..) = filesystem(Options::default());
    let error = start(other, &fixture.target, false, &fixture.runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(REFERENCE), "{error}");
    assert_eq!(fs::read(fixture.path(0)).unwrap(), fixture.files[0]);
}

#[test]
fn one_file_is_mounted_on_a_file() {
    let fixture = Fixture::with(Options { subpath: Some("model/one.safetensors"), ..Options::default() });
    assert!(fs::read(&fixture.target).unwrap() == fixture.files[SHARD]);
    let mut value = [0; 200];
    let length = rustix::fs::getxattr(&fixture.target, "user.refmount.reference", &mut value[..]).unwrap();
    assert_eq!(value[..length], *REFERENCE.as_bytes());
    let (file_view, ..) = filesystem(Options { subpath: Some("config.json"), ..Options::default() });
    let directory = tempfile::tempdir().unwrap();
    let error = start(file_view, directory.path(), false, &fixture.runtime).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn a_subpath_shows_only_what_is_below_it() {
    let fixture = Fixture::with(Options { subpath: Some("model"), ..Options::default() });
    let mut names: Vec<_> =
        fs::read_dir(&fixture.target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "one.safetensors", "two.safetensors"]);
    // The link leads out of what is shown.
    assert!(fs::read(fixture.target.join("config.json")).is_err());
}

#[test]
fn unmounting_ends_the_session_whoever_does_it() {
    let mut fixture = Fixture::new();
    let ended = |fixture: &Fixture| {
        fixture.runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(60), fixture.mount().ended()).await.unwrap();
        });
    };
    assert!(unmount_target(&fixture.target).unwrap());
    ended(&fixture);
    assert!(!unmount_target(&fixture.target).unwrap());
    fixture.runtime.block_on(fixture.mount().unmount()).unwrap();

    let (again, ..) = filesystem(Options::default());
    fixture.mount = Some(start(again, &fixture.target, false, &fixture.runtime).unwrap());
    fixture.runtime.block_on(fixture.mount().unmount()).unwrap();
    ended(&fixture);
    assert_eq!(mount_at(&fs::canonicalize(&fixture.target).unwrap()).unwrap(), None);
}

#[test]
fn open_files_outlive_the_mount() {
    let mut fixture = Fixture::new();
    let mut file = File::open(fixture.path(SHARD)).unwrap();
    drop(fixture.mount.take());
    assert_eq!(fs::read_dir(&fixture.target).unwrap().count(), 0);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == fixture.files[SHARD]);
}

#[test]
fn a_stuck_read_does_not_hold_up_the_unmount() {
    let fixture = Fixture::new();
    fixture.content.behave(SHARD, Behaviour::Stuck);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(fixture.path(SHARD)));
        fixture.content.wait_until_stuck(SHARD);
        fixture.runtime.block_on(fixture.mount().unmount()).unwrap();
        assert_eq!(fs::read_dir(&fixture.target).unwrap().count(), 0);
        fixture.content.release();
        assert!(reader.join().unwrap().unwrap() == fixture.files[SHARD]);
    });
}

#[test]
fn another_mount_on_the_same_place_is_not_unmounted() {
    let mut fixture = Fixture::new();
    rustix::mount::mount("tmpfs", &fixture.target, "tmpfs", MountFlags::empty(), None).unwrap();
    let error = fixture.runtime.block_on(fixture.mount().unmount()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(unmount_target(&fixture.target).unwrap_err().kind(), ErrorKind::Usage);
    drop(fixture.mount.take());
    let canonical = fs::canonicalize(&fixture.target).unwrap();
    assert_eq!(mount_at(&canonical).unwrap().unwrap().mount_type, "tmpfs");
    rustix::mount::unmount(&fixture.target, UnmountFlags::DETACH).unwrap();
    assert!(unmount_target(&fixture.target).unwrap());
}

#[test]
fn a_mount_that_got_the_number_of_an_old_one_is_not_unmounted() {
    let fixture = Fixture::new();
    let target = fixture.target.with_file_name("again");
    fs::create_dir(&target).unwrap();
    for _ in 0..20 {
        let (first, ..) = filesystem(Options::default());
        let first = start(first, &target, false, &fixture.runtime).unwrap();
        // As umount(8) does; the next mount most likely gets the same numbers.
        rustix::mount::unmount(&target, UnmountFlags::empty()).unwrap();
        let (second, _, files) = filesystem(Options::default());
        let second = start(second, &target, false, &fixture.runtime).unwrap();
        fixture.runtime.block_on(first.ended());
        fixture.runtime.block_on(first.unmount()).unwrap();
        drop(first);
        assert_eq!(fs::read(target.join("config.json")).unwrap(), files[0]);
        drop(second);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
}

/// Mounts and goes, as a process does that is killed.
fn leave_a_dead_mount(target: &Path, mount_type: &str) {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let data = std::ffi::CString::new(data).unwrap();
    rustix::mount::mount("dead", target, mount_type, MountFlags::RDONLY, data.as_c_str()).unwrap();
    drop(device);
    let error = fs::metadata(target).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
}

#[test]
fn dead_mounts_are_cleared_away() {
    let fixture = Fixture::new();
    let target = fixture.target.with_file_name("dead");
    fs::create_dir(&target).unwrap();
    leave_a_dead_mount(&target, MOUNT_TYPE);
    let (again, _, files) = filesystem(Options::default());
    let mount = start(again, &target, false, &fixture.runtime).unwrap();
    assert_eq!(fs::read(target.join("config.json")).unwrap(), files[0]);
    drop(mount);

    leave_a_dead_mount(&target, MOUNT_TYPE);
    assert!(unmount_target(&target).unwrap());

    leave_a_dead_mount(&target, "fuse.other");
    let error = check_target(&target, false).unwrap_err();
    rustix::mount::unmount(&target, UnmountFlags::DETACH).unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("umount --lazy"), "{error}");
}
