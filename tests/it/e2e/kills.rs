//! The owner is killed in the middle of reads, again and again, and each next one lives on what it left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use refmount::base::{Digest, chunk_count, chunk_range};
use refmount::cache::{Cache, CachePaths, CacheSettings, FreeSpaceFloor, SegmentId};
use refmount::oci::SourceRef;
use rustix::fs::FlockOperation;
use rustix::process::Signal;

use super::{mount, push, registry, seed, status};
use crate::support::artifact::ModelArtifact;
use crate::support::pattern::Pattern;
use crate::support::recording_proxy::RecordingProxy;
use crate::workplace::{Workplace, assert_done, wait_until};

const KILLS: usize = 50;
const FILES: [(&str, u64); 3] =
    [("one.bin", (30 << 20) + 5), ("two.bin", (17 << 20) - 3), ("config.json", 2000)];
const TOTAL: u64 = (47 << 20) + 2002;

/// How much the readers get before the kill, at most: some kills come before the first chunk is stored, some after
/// the last blob was verified.
const PROGRESS_MAX: u64 = 24 << 20;

/// The longest time between that moment and the kill: some of what is then under way takes less, some more.
const DELAY_MAX_US: u64 = 3000;

/// Bytes that a kill may cost on average: what was fetched and is not in the cache is on its way to the disk, at
/// most sixteen chunks, or in a socket, or one of the few that are being put together.
const LOST_MEAN_MAX: u64 = 16 << 20;

/// The chunks that the cache has whole, by layer.
type Complete = BTreeMap<Digest, BTreeSet<u64>>;

struct Scene {
    workplace: Workplace,
    artifact: ModelArtifact,
    /// Of the files, in their order.
    layers: Vec<Digest>,
    reference: SourceRef,
    proxy: RecordingProxy,
}

#[test]
fn an_owner_killed_fifty_times_leaves_what_the_next_one_goes_on_with() {
    let seed = seed();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (pushed, artifact) = push("models/kills", &FILES);
    let proxy = RecordingProxy::start(registry().host());
    let reference = pushed.to_string().replace(registry().host(), &proxy.host()).parse().unwrap();
    let layers = FILES.iter().map(|(path, _)| artifact.layer(path)).collect();
    let scene = Scene { workplace: Workplace::new(), artifact, layers, reference, proxy };
    std::fs::create_dir(scene.workplace.path("cache")).unwrap();
    let (mut kept, mut interrupted, mut fetched, mut gained) = (0, 0, 0, 0);
    for kill in 0..KILLS {
        let before = scene.complete();
        let answered_before = scene.proxy.answered_bytes();
        scene.begin_life(&before);
        kept += u64::from(!before.is_empty());
        let seen = scene.read_and_kill(&mut random);
        let after = scene.complete();
        let left = scene.bytes(&after);
        assert!(left >= seen, "kill {kill}: {seen} bytes were cached, {left} are left");
        scene.assert_nothing_fetched_again(&before, &format!("kill {kill}"));
        let gain = left - scene.bytes(&before);
        gained += gain;
        fetched += scene.proxy.answered_bytes() - answered_before;
        interrupted += u64::from(gain > 0 && left < TOTAL);
        if scene.bytes(&before) == TOTAL {
            assert_done(&scene.workplace.run(&["cache", "prune", "--all"]));
            assert!(scene.complete().is_empty());
        }
    }
    let lost_max = KILLS as u64 * LOST_MEAN_MAX;
    println!(
        "{fetched} bytes fetched, {gained} kept; {kept} lives with a cache, {interrupted} within a fetch"
    );
    assert!(fetched <= gained + lost_max, "{fetched} bytes fetched, of which {gained} were kept");
    // Otherwise the kills came at moments that show nothing.
    assert!(kept >= 10 && interrupted >= 10, "{kept} lives with a cache, {interrupted} within a fetch");

    let before = scene.complete();
    scene.begin_life(&before);
    for (path, _) in FILES {
        assert!(std::fs::read(scene.workplace.path("mnt").join(path)).unwrap() == scene.artifact.file(path));
    }
    scene.assert_nothing_fetched_again(&before, "the last life");
    assert_done(&scene.workplace.run(&["umount", "mnt"]));
    wait_until("the owner has ended", || scene.workplace.owner().is_none());
    scene.assert_all_owned();
    assert_eq!(scene.bytes(&scene.complete()), TOTAL);
}

impl Scene {
    /// Mounts, over the dead mount of the life before if there was one; `complete` is what it left.
    fn begin_life(&self, complete: &Complete) {
        self.proxy.take_requests();
        // The mount point of a dead mount can't be looked at.
        match self.workplace.is_mounted("mnt") {
            true => assert_done(&self.workplace.run(&["mount", &self.reference.to_string(), "mnt"])),
            false => mount(&self.workplace, &[], &self.reference, "mnt"),
        }
        self.assert_all_owned();
        let status = status(&self.workplace, "mnt");
        assert_eq!(
            status["cached_bytes"],
            self.bytes(complete),
            "what was complete is here, and nothing else"
        );
    }

    /// Reads in two threads, compares, and kills the owner after a random part of it. Returns how many bytes the
    /// owner said were cached just before.
    fn read_and_kill(&self, random: &mut ChaCha8Rng) -> u64 {
        let target = random.random_range(0..PROGRESS_MAX);
        let delay = Duration::from_micros(random.random_range(0..DELAY_MAX_US));
        let seeds: [u64; 2] = random.random();
        let progress = AtomicU64::new(0);
        let (reached, is_reached) = mpsc::channel();
        let seen = std::thread::scope(|scope| {
            for (reader, seed) in seeds.into_iter().enumerate() {
                let (progress, reached) = (&progress, reached.clone());
                scope.spawn(move || {
                    let tell = |bytes: u64| {
                        if progress.fetch_add(bytes, Ordering::SeqCst) + bytes >= target {
                            let _ = reached.send(());
                        }
                    };
                    self.read_until_it_fails(reader == 0, seed, &tell);
                });
            }
            drop(reached);
            let outcome = is_reached.recv();
            let seen: u64 = FILES.iter().map(|(path, _)| self.cached_bytes(path)).sum();
            std::thread::sleep(delay);
            self.workplace.signal_all(Signal::KILL);
            outcome.expect("a read failed before the kill");
            seen
        });
        // Freed when the last thread of the owner is gone, and what it was writing is written.
        let lock = File::open(CachePaths::new(self.workplace.path("cache")).owner_lock()).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        seen
    }

    /// What the owner says of a file, through the mount.
    fn cached_bytes(&self, path: &str) -> u64 {
        let mut text = [0; 32];
        let path = self.workplace.path("mnt").join(path);
        let length = rustix::fs::getxattr(path, "user.refmount.cached_bytes", &mut text[..]).unwrap();
        str::from_utf8(&text[..length]).unwrap().parse().unwrap()
    }

    /// Reads forward, file after file, or at random places; what succeeds has to be right.
    fn read_until_it_fails(&self, forward: bool, seed: u64, tell: &dyn Fn(u64)) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut number = random.random_range(0..FILES.len());
        let mut offset = 0;
        let mut buffer = Vec::new();
        loop {
            let (path, bytes) = FILES[number];
            if !forward {
                offset = random.random_range(0..bytes);
            }
            let length = random.random_range(1..300_000).min(bytes - offset);
            buffer.resize(length as usize, 0);
            let Ok(file) = File::open(self.workplace.path("mnt").join(path)) else { return };
            if file.read_exact_at(&mut buffer, offset).is_err() {
                return;
            }
            let expected = Pattern { number: number as u32, bytes }.read(offset..offset + length);
            assert!(buffer == expected, "wrong bytes in {path} at {offset}");
            tell(length);
            offset += length;
            if offset == bytes || !forward {
                (number, offset) = ((number + 1) % FILES.len(), 0);
            }
        }
    }

    /// No request since the last life's begin was for a chunk that was complete then.
    fn assert_nothing_fetched_again(&self, complete: &Complete, when: &str) {
        for request in self.proxy.take_requests() {
            for ((path, size), digest) in FILES.into_iter().zip(&self.layers) {
                if !request.path.ends_with(digest.as_str()) {
                    continue;
                }
                let range = request.range.clone().unwrap_or(0..size);
                let again = complete.get(digest).into_iter().flatten().find(|chunk| {
                    let chunk = chunk_range(**chunk, size);
                    chunk.start < range.end && range.start < chunk.end
                });
                assert_eq!(again, None, "{when}: {path} was complete there, and {range:?} was asked for");
            }
        }
    }

    /// What a next owner would believe. Recovery reads nothing but the maps and the lengths, so it is given copies
    /// of those: the cache itself is left to the real next owner.
    fn complete(&self) -> Complete {
        let copy = tempfile::tempdir().unwrap();
        let (paths, copied) = (CachePaths::new(self.workplace.path("cache")), CachePaths::new(copy.path()));
        for path in files_below(&paths.segments()) {
            let to = copied.segments().join(path.strip_prefix(paths.segments()).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            if path.extension().is_some_and(|extension| extension == "map") {
                std::fs::copy(&path, to).unwrap();
            } else {
                File::create(to).unwrap().set_len(std::fs::metadata(path).unwrap().len()).unwrap();
            }
        }
        let cache = Cache::open(CacheSettings {
            directory: copy.path().to_owned(),
            bytes_max: u64::MAX,
            free_space_min: FreeSpaceFloor::Bytes(0),
        });
        let cache = cache.unwrap();
        let mut complete = Complete::new();
        for ((_, bytes), layer) in FILES.into_iter().zip(&self.layers) {
            let segment = cache.segment(&SegmentId { layer: layer.clone(), number: 0 }, bytes).unwrap();
            let present: BTreeSet<u64> =
                (0..chunk_count(bytes)).filter(|chunk| segment.is_present(*chunk)).collect();
            if !present.is_empty() {
                complete.insert(layer.clone(), present);
            }
        }
        complete
    }

    fn bytes(&self, complete: &Complete) -> u64 {
        let of = |layer: &Digest, bytes: u64| -> u64 {
            let chunks = complete.get(layer).into_iter().flatten();
            chunks.map(|chunk| chunk_range(*chunk, bytes)).map(|range| range.end - range.start).sum()
        };
        self.layers.iter().zip(FILES).map(|(layer, (_, bytes))| of(layer, bytes)).sum()
    }

    /// Every file of the cache is one that its owner knows; nothing unfinished is left over. What an owner that lives is
    /// about to write is finished some time.
    fn assert_all_owned(&self) {
        let root = self.workplace.path("cache");
        wait_until("everything is finished", || {
            let is_unfinished =
                |path: &PathBuf| path.file_name().unwrap().as_encoded_bytes().starts_with(b".tmp-");
            !files_below(&root).iter().any(is_unfinished)
        });
        let mut maps = BTreeSet::new();
        let mut datas = BTreeSet::new();
        for path in files_below(&root) {
            let below = path.strip_prefix(&root).unwrap().to_str().unwrap();
            let parts: Vec<&str> = below.split('/').collect();
            match parts[..] {
                ["owner.lock" | "owner.log" | "control.sock"] => {}
                ["v1", "segments", "sha256", _, file] => {
                    let (name, suffix) = file.rsplit_once('.').unwrap_or_default();
                    let known = self.layers.iter().any(|layer| name == format!("{}.0", layer.hex()));
                    assert!(known && ["map", "data"].contains(&suffix), "{below} belongs to nothing");
                    if suffix == "map" { &mut maps } else { &mut datas }.insert(name.to_owned());
                }
                // What the reference stands for and what it is made of, and the key of those who may know it.
                ["v1", "keys", "access"]
                | ["v1", "artifacts" | "manifests" | "resolutions", "sha256", ..] => {}
                ["v1", "layers" | "proofs", "sha256", _, file] => {
                    assert!(
                        self.layers.iter().any(|layer| layer.hex() == file),
                        "{below} belongs to nothing"
                    );
                }
                _ => panic!("{below} belongs to nothing"),
            }
        }
        assert_eq!(maps, datas, "each map has its data, and each data its map");
    }
}

/// The files below a directory, which may be missing.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return files };
    for entry in entries.map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}
