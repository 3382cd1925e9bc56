//! Who may mount and who may look.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::atomic::Ordering;

use refmount::fuse::{MOUNT_TYPE, mount_at, unmount_target};

use super::content::Behaviour;
use super::fixture::{Fixture, Options, SHARD, filesystem, run, start};
use crate::support::program_file::write_program;
use crate::support::unprivileged::{NOBODY, as_nobody, as_nobody_with_fuse, let_pass};

#[test]
fn another_user_looks_only_with_allow_other() {
    for allow_other in [false, true] {
        let fixture = Fixture::with(Options { allow_other, ..Options::default() });
        let_pass(fixture.target.parent().unwrap());
        let output = as_nobody("cat").arg(fixture.path(0)).output().unwrap();
        assert_eq!(output.status.success(), allow_other, "{output:?}");
        let expected: &[u8] = if allow_other { &fixture.files[0] } else { b"" };
        assert_eq!(output.stdout, expected);
        assert_eq!(fs::read(fixture.path(0)).unwrap(), fixture.files[0]);
    }
}

/// As root, runs itself again as another user.
#[test]
fn a_user_mounts_through_fusermount() {
    const NAME: &str = "fuse::users::a_user_mounts_through_fusermount";
    const PLACE: &str = "REFMOUNT_TEST_PLACE";
    if rustix::process::geteuid().is_root() {
        let directory = tempfile::tempdir().unwrap();
        let_pass(directory.path());
        let binary = directory.path().join("tests");
        write_program(&binary, &fs::read(std::env::current_exe().unwrap()).unwrap());
        let place = directory.path().join("place, with a comma");
        fs::create_dir(&place).unwrap();
        chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
        let device = directory.path().join("device");
        fs::create_dir(&device).unwrap();
        let mut command = as_nobody_with_fuse(&device, &binary);
        let printed = run(command.args([NAME, "--exact", "--nocapture"]).env(PLACE, &place));
        assert!(printed.contains("1 passed"), "{printed}");
        return;
    }
    let place = match std::env::var_os(PLACE) {
        Some(place) => place.into(),
        None => tempfile::tempdir().unwrap().keep(),
    };
    let (shown, content, files) = filesystem(Options::default());
    // A user may not give files to the kernel, which must not be noticed.
    content.behave(SHARD, Behaviour::MaybeDirect);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mount = start(shown, &place, false, &runtime).unwrap();
    for (path, bytes) in [("config.json", &files[0]), ("model/one.safetensors", &files[1])] {
        assert!(fs::read(place.join(path)).unwrap() == *bytes);
    }
    assert!(content.handed_over() > 0 && content.layers[SHARD].reads.load(Ordering::SeqCst) > 0);
    let entry = mount_at(&fs::canonicalize(&place).unwrap()).unwrap().unwrap();
    assert_eq!(entry.mount_type, MOUNT_TYPE);
    assert_eq!(entry.source.to_str(), Some(super::fixture::REFERENCE));
    runtime.block_on(mount.unmount()).unwrap();
    runtime.block_on(mount.ended());
    assert!(!unmount_target(&place).unwrap());

    let one_file = place.join("model");
    fs::File::create(&one_file).unwrap();
    let (shown, _, files) = filesystem(Options { subpath: Some("config.json"), ..Options::default() });
    let mount = start(shown, &one_file, false, &runtime).unwrap();
    assert_eq!(fs::read(&one_file).unwrap(), files[0]);
    drop(mount);
    assert_eq!(fs::read(&one_file).unwrap(), b"");

    let (refused, ..) = filesystem(Options::default());
    let error = start(refused, &place, true, &runtime).map(drop).unwrap_err();
    assert!(error.to_string().contains("/etc/fuse.conf"), "{error}");
    let (refused, ..) = filesystem(Options::default());
    let error = start(refused, Path::new("/usr"), false, &runtime).map(drop).unwrap_err();
    assert!(error.to_string().contains("has to belong to you"), "{error}");
}
