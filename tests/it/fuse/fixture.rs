//! A mount for one test, taken down whatever happens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use refmount::base::{Algorithm, Digest, Result, clock};
use refmount::fs::{FileContent, Filesystem, Identity};
use refmount::fuse::{FuseMount, MountSpec};
use refmount::layer::{Entry, EntryKind, LayerIndex, Timestamp};
use refmount::tree::{LayerRole, Shown, Tree, TreeLayer, View};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::content::MemoryContent;

pub(super) const REFERENCE: &str = "host.example/models/m:v1, with a comma";

/// The artifact that most tests mount: paths in the order of their layers.
pub(super) const SMALL: usize = 0;
pub(super) const SHARD: usize = 1;
pub(super) const OTHER_SHARD: usize = 2;
const PATHS: [&str; 4] = ["config.json", "model/one.safetensors", "model/two.safetensors", "empty"];

/// Three chunks and a bit, so that reads cross chunks and the end is nowhere round.
pub(super) const SHARD_BYTES: usize = 3 * (1 << 20) + 12_345;

pub(super) struct Fixture {
    // In the order in which they have to go.
    pub(super) mount: Option<FuseMount>,
    pub(super) content: Arc<MemoryContent>,
    pub(super) files: Vec<Vec<u8>>,
    pub(super) runtime: Runtime,
    pub(super) target: PathBuf,
    pub(super) _directory: TempDir,
}

/// How [`Fixture::with`] mounts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options<'a> {
    pub(super) subpath: Option<&'a str>,
    pub(super) allow_other: bool,
    /// Names in a directory `many`, each an empty link.
    pub(super) many: usize,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("mount point");
        match options.subpath.is_some_and(|path| path.contains('.')) {
            true => drop(std::fs::File::create(&target).unwrap()),
            false => std::fs::create_dir(&target).unwrap(),
        }
        let (filesystem, content, files) = filesystem(options);
        let runtime = runtime();
        let mount = start(filesystem, &target, options.allow_other, &runtime).unwrap();
        Self { mount: Some(mount), content, files, runtime, target, _directory: directory }
    }

    /// A mount of `shown`, whose only layer has the stream `stream`.
    pub(super) fn of(shown: impl Into<Shown>, stream: Vec<u8>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("mount point");
        std::fs::create_dir(&target).unwrap();
        let files = vec![stream];
        let content = Arc::new(MemoryContent::new(&files));
        let shared: Arc<dyn FileContent> = Arc::<MemoryContent>::clone(&content);
        let filesystem = Arc::new(Filesystem::new(shown, shared, identity()));
        let runtime = runtime();
        let mount = start(filesystem, &target, false, &runtime).unwrap();
        Self { mount: Some(mount), content, files, runtime, target, _directory: directory }
    }

    pub(super) fn path(&self, layer: usize) -> PathBuf {
        self.target.join(PATHS[layer])
    }

    pub(super) fn mount(&self) -> &FuseMount {
        self.mount.as_ref().unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.content.release();
        drop(self.mount.take());
    }
}

pub(super) fn start(
    filesystem: Arc<Filesystem>,
    target: &Path,
    allow_other: bool,
    runtime: &Runtime,
) -> Result<FuseMount> {
    let spec = MountSpec { target: target.to_owned(), source_name: REFERENCE.to_owned(), allow_other };
    FuseMount::start(filesystem, &spec, runtime.handle(), None)
}

pub(super) fn filesystem(options: Options<'_>) -> (Arc<Filesystem>, Arc<MemoryContent>, Vec<Vec<u8>>) {
    let files = vec![
        br#"{"model_type": "test"}"#.to_vec(),
        random_bytes(1, SHARD_BYTES),
        random_bytes(2, SHARD_BYTES),
        Vec::new(),
    ];
    let content = Arc::new(MemoryContent::new(&files));
    let mtime = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
    let entry = |path: &str, kind| Entry {
        path: path.parse().unwrap(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Box::default(),
    };
    let link =
        |path: &str, target: &str| entry(path, EntryKind::Symlink { target: target.as_bytes().into() });
    let file = |digest: &Digest, entry: Entry| {
        let index = LayerIndex::of_raw_file(digest, 1 << 40, entry).unwrap();
        TreeLayer { index: Arc::new(index), directory: None, role: LayerRole::File }
    };
    let mut layers: Vec<TreeLayer> = PATHS
        .iter()
        .zip(&files)
        .zip(&content.layers)
        .map(|((path, bytes), layer)| {
            file(&layer.digest, entry(path, EntryKind::whole_stream(bytes.len() as u64)))
        })
        .collect();
    let links = [link("model/config.json", "../config.json")]
        .into_iter()
        .chain((0..options.many).map(|number| link(&format!("many/{number:06}"), "x")));
    layers.extend(links.map(|link| file(&content.layers[0].digest, link)));
    let tree = Arc::new(Tree::build(&layers).unwrap());
    let shared: Arc<dyn FileContent> = Arc::<MemoryContent>::clone(&content);
    let view = View::new(tree, options.subpath, REFERENCE).unwrap();
    (Arc::new(Filesystem::new(view, shared, identity())), content, files)
}

fn identity() -> Identity {
    Identity {
        reference: REFERENCE.to_owned(),
        digest: Digest::of(Algorithm::Sha256, b"manifest"),
        owner: Some("/run/refmount/owner.sock".into()),
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(super) fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Runs a Python script, which fails by an exception, and returns what it printed.
pub(super) fn python(script: &str, arguments: &[&Path]) -> String {
    run(Command::new("python3").arg("-c").arg(script).args(arguments))
}

/// Runs `command`, which must succeed, and returns its output.
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// Waits for what another thread or the kernel does on its own time; its absence fails the test.
pub(super) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = clock::now() + Duration::from_secs(60);
    while !happened() {
        assert!(clock::now() < deadline, "in a minute it has not come to pass that {what}");
        std::thread::yield_now();
    }
}
