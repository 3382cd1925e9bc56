//! A large artifact is mounted without its bytes, and read without most of them.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, chown};
use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use refmount::base::Digest;
use refmount::oci::SourceRef;

use super::{SEED, mount, registry, seed, status};
use crate::support::artifact::documents;
use crate::support::pattern::Pattern;
use crate::support::program_file::write_program;
use crate::support::unprivileged::{NOBODY, as_nobody_with_fuse, let_pass};
use crate::workplace::{Workplace, assert_done, wait_until};

const SHARDS: u32 = 4;
const SHARD_BYTES: u64 = 256 << 20;
const READS: u64 = 10;
const READ_BYTES: u64 = 64 << 10;

/// What one such read may cost: the two chunks that it can touch, and one that the kernel may want ahead.
const COST_MAX: u64 = 3 << 20;

fn shard(number: u32) -> (String, Pattern) {
    (format!("model-{:05}-of-{SHARDS:05}.bin", number + 1), Pattern { number, bytes: SHARD_BYTES })
}

/// Pushes the artifact of 1 GiB once, and shows it as `repository:v1` too, so that each test has a log.
fn pushed_as(repository: &str) -> SourceRef {
    const FIRST: &str = "models/large";
    static PUSHED: OnceLock<(Bytes, Vec<Digest>)> = OnceLock::new();
    let (manifest, blobs) = PUSHED.get_or_init(|| {
        let mut layers = Vec::new();
        for (path, pattern) in (0..SHARDS).map(shard) {
            let digest = registry().push_blob(FIRST, &pattern.whole().into());
            layers.push((path, digest, SHARD_BYTES));
        }
        let (config, manifest) = documents(&layers);
        let config = registry().push_blob(FIRST, &config);
        let digests = layers.into_iter().map(|(_, digest, _)| digest).chain([config]);
        (manifest, digests.collect())
    });
    for digest in blobs {
        registry().share_blob(repository, FIRST, digest);
    }
    registry().push_manifest(repository, "v1", manifest)
}

/// Reads at random places of a mount that has not been read from yet.
fn read_here_and_there(workplace: &Workplace, target: &str, seed: u64) {
    let fetched = || status(workplace, target)["network_bytes"].as_u64().unwrap();
    assert_eq!(fetched(), 0, "a mount fetches nothing");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..READS {
        let (path, pattern) = shard(random.random_range(0..SHARDS));
        let offset = random.random_range(0..SHARD_BYTES - READ_BYTES);
        let mut bytes = vec![0; READ_BYTES as usize];
        let before = fetched();
        let file = File::open(workplace.path(target).join(&path)).unwrap();
        file.read_exact_at(&mut bytes, offset).unwrap();
        assert!(bytes == pattern.read(offset..offset + READ_BYTES), "wrong bytes in {path} at {offset}");
        let cost = fetched() - before;
        assert!(cost <= COST_MAX, "{cost} bytes fetched for {path} at {offset}");
    }
}

/// Bytes of blobs that `repository` has been asked for; all that has to do with a mount is in the log once its
/// owner has ended.
fn blob_bytes_sent(repository: &str) -> u64 {
    registry().accesses(repository).iter().filter(|access| access.is_blob()).map(|access| access.bytes).sum()
}

#[test]
fn a_mount_fetches_no_blob_and_a_small_read_little() {
    const REPOSITORY: &str = "models/as-root";
    let (seed, reference, workplace) = (seed(), pushed_as(REPOSITORY), Workplace::new());
    let end = || {
        assert_done(&workplace.run(&["umount", "mnt"]));
        wait_until("the owner has ended", || workplace.owner().is_none());
    };
    mount(&workplace, &[], &reference, "mnt");
    assert_eq!(std::fs::read_dir(workplace.path("mnt")).unwrap().count(), SHARDS as usize);
    assert_eq!(status(&workplace, "mnt")["total_bytes"], u64::from(SHARDS) * SHARD_BYTES);
    end();
    let log = registry().accesses(REPOSITORY);
    assert!(log.iter().any(|access| access.method == "GET" && access.path.contains("/manifests/")));
    assert!(!log.iter().any(|access| access.is_blob()), "{log:?}");

    mount(&workplace, &[], &reference, "mnt");
    read_here_and_there(&workplace, "mnt", seed);
    end();
    let sent = blob_bytes_sent(REPOSITORY);
    assert!((READ_BYTES..=READS * COST_MAX).contains(&sent), "{sent} bytes sent for ten reads");
}

/// As root, runs itself again as another user.
#[test]
fn a_user_mounts_through_fusermount_and_reads_little() {
    const NAME: &str = "e2e::lazy::a_user_mounts_through_fusermount_and_reads_little";
    const REPOSITORY: &str = "models/as-user";
    const PROGRAM: &str = "E2E_PROGRAM";
    const REFERENCE: &str = "E2E_REFERENCE";
    let seed = seed();
    if let (Ok(program), Ok(reference)) = (std::env::var(PROGRAM), std::env::var(REFERENCE)) {
        return mount_as_a_user(&program, &reference, seed);
    }
    let reference = pushed_as(REPOSITORY).to_string();
    if rustix::process::geteuid().is_root() {
        let directory = tempfile::tempdir().unwrap();
        let_pass(directory.path());
        let copy = |name: &str, from: &std::path::Path| {
            let path = directory.path().join(name);
            write_program(&path, &std::fs::read(from).unwrap());
            path
        };
        let tests = copy("tests", &std::env::current_exe().unwrap());
        let program = copy("refmount", env!("CARGO_BIN_EXE_refmount").as_ref());
        let (device, home) = (directory.path().join("device"), directory.path().join("home"));
        std::fs::create_dir(&device).unwrap();
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        let mut command: Command = as_nobody_with_fuse(&device, tests);
        command.args([NAME, "--exact", "--nocapture"]).env("TMPDIR", &home).env("HOME", &home);
        command.env(PROGRAM, program).env(REFERENCE, reference).env(SEED, seed.to_string());
        let output = command.output().unwrap();
        assert_done(&output);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains("1 passed"), "{printed}");
    } else {
        mount_as_a_user(env!("CARGO_BIN_EXE_refmount"), &reference, seed);
    }
    let sent = blob_bytes_sent(REPOSITORY);
    assert!((READ_BYTES..=READS * COST_MAX).contains(&sent), "{sent} bytes sent for ten reads");
}

fn mount_as_a_user(program: &str, reference: &str, seed: u64) {
    assert!(!rustix::process::geteuid().is_root());
    let mut workplace = Workplace::new();
    workplace.program = program.into();
    std::fs::create_dir(workplace.path("mnt")).unwrap();
    assert_done(&workplace.run(&["mount", reference, "mnt"]));
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = workplace.path("mnt");
    let line = table.lines().find(|line| line.contains(place.to_str().unwrap())).unwrap();
    let user = rustix::process::geteuid().as_raw();
    assert!(line.contains(" fuse.refmount ") && line.contains(&format!("user_id={user}")), "{line}");
    read_here_and_there(&workplace, "mnt", seed);
    assert_done(&workplace.run(&["umount", "mnt"]));
    assert!(!workplace.is_mounted("mnt"));
    wait_until("the owner has ended", || workplace.owner().is_none());
}
