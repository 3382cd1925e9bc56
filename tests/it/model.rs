//! Cache and fetch against a model: whatever happens, a read gives the bytes of the source or an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use refmount::base::{CHUNK_BYTES, Digest, ErrorKind};
use refmount::cache::{Cache, CacheSettings, FreeSpaceFloor, Prune};
use refmount::content::{Content, ContentSettings};
use refmount::fetch::Fetcher;
use refmount::registry::BlobSource;
use tokio::runtime::Handle;

use crate::content::{body, random_bytes};
use crate::support::memory_source::{Fault, MemorySource};

mod disproved;

/// Blobs of odd lengths: one short chunk, a few chunks, and more than the cache holds.
const LENGTHS: [u64; 3] = [1000, 3 * CHUNK_BYTES + 77, 7 * CHUNK_BYTES + 1];

#[derive(Clone, Debug)]
enum Step {
    Read {
        blob: usize,
        start: u64,
        bytes: u64,
    },
    ReadThrough {
        blob: usize,
    },
    Fault(Fault),
    Prune,
    FlipCachedByte {
        at: u64,
    },
    /// Opens the cache directory again; `killed`: as a copy taken under the running owner's feet.
    Restart {
        killed: bool,
    },
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Refused(ErrorKind::Unavailable)),
        Just(Fault::Refused(ErrorKind::Unauthorized)),
        (0..2 * CHUNK_BYTES).prop_map(Fault::Truncated),
        (0..2 * CHUNK_BYTES).prop_map(Fault::Stalled),
        Just(Fault::Whole),
        (0..2 * CHUNK_BYTES).prop_map(Fault::WrongByte),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..LENGTHS.len(), any::<u64>(), 1..2 * CHUNK_BYTES)
            .prop_map(|(blob, start, bytes)| Step::Read { blob, start: start % LENGTHS[blob], bytes }),
        2 => (0..LENGTHS.len()).prop_map(|blob| Step::ReadThrough { blob }),
        4 => fault().prop_map(Step::Fault),
        1 => Just(Step::Prune),
        1 => any::<u64>().prop_map(|at| Step::FlipCachedByte { at }),
        1 => any::<bool>().prop_map(|killed| Step::Restart { killed }),
    ]
}

struct World {
    /// Wrong bytes are part of the game only where none may be served before the blob is verified.
    before_read: bool,
    /// Whether a blob may have been given up for wrong bytes, until the next start.
    may_be_rejected: bool,
    blobs: Vec<Vec<u8>>,
    digests: Vec<Digest>,
    source: Arc<MemorySource>,
    home: tempfile::TempDir,
    directory: PathBuf,
    generation: u32,
    cache: Option<Arc<Cache>>,
    content: Option<Content>,
}

impl World {
    fn new(before_read: bool) -> Self {
        let blobs: Vec<Vec<u8>> = LENGTHS.iter().map(|bytes| random_bytes(*bytes, *bytes)).collect();
        let (source, digests) = MemorySource::new(blobs.clone());
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("0");
        let source = Arc::new(source);
        let mut world = Self {
            before_read,
            may_be_rejected: false,
            blobs,
            digests,
            source,
            home,
            directory,
            generation: 0,
            cache: None,
            content: None,
        };
        world.open();
        world
    }

    fn cache_settings(&self) -> CacheSettings {
        // Verified before they are read, blobs must fit; otherwise the cache is too small on purpose.
        let chunks = if self.before_read { 14 } else { 6 };
        CacheSettings {
            directory: self.directory.clone(),
            bytes_max: chunks * CHUNK_BYTES,
            free_space_min: FreeSpaceFloor::Bytes(0),
        }
    }

    fn open(&mut self) {
        // What was scheduled before a restart and not met yet is met after it.
        self.may_be_rejected = self.source.wrong_bytes_left();
        let cache = Cache::open(self.cache_settings()).unwrap();
        let fetcher = Fetcher::new(cache.clone(), Handle::current());
        let source: Arc<dyn BlobSource> = self.source.clone();
        let layers = self.digests.iter().cloned().zip(LENGTHS);
        let settings = ContentSettings {
            verify_before_read: self.before_read,
            whole_files: true,
            // Longer than a stall, or a read would fail for the fault that an earlier one has met.
            read_timeout: Duration::from_secs(120),
        };
        self.content = Some(Content::new(&fetcher, &source, layers, settings).unwrap());
        self.cache = Some(cache);
    }

    async fn read(&self, blob: usize, start: u64, bytes: u64) -> Result<(), TestCaseError> {
        let end = (start + bytes).min(LENGTHS[blob]);
        let content = self.content.as_ref().unwrap();
        let had_faults = self.source.faults_left() > 0;
        let mut buffer = Vec::new();
        let result = match content.read_cached(&body(blob), start..end, &mut buffer) {
            Ok(true) => Ok(buffer),
            Ok(false) => content.read(&body(blob), start..end).await.map(Vec::from),
            Err(error) => Err(error),
        };
        match result {
            Ok(bytes) => prop_assert!(
                bytes == self.blobs[blob][start as usize..end as usize],
                "wrong bytes of blob {blob} at {start}..{end}"
            ),
            Err(error) => {
                prop_assert!(had_faults || self.may_be_rejected, "failed without a fault: {}", error.chain())
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Read { blob, start, bytes } => self.read(blob, start, bytes).await?,
            Step::ReadThrough { blob } => {
                for start in (0..LENGTHS[blob]).step_by(300_000) {
                    self.read(blob, start, 300_000).await?;
                }
            }
            Step::Fault(Fault::WrongByte(_)) if !self.before_read => {}
            Step::Fault(fault) => {
                self.may_be_rejected |= matches!(fault, Fault::WrongByte(_));
                self.source.schedule([fault]);
            }
            Step::Prune => drop(self.cache.as_ref().unwrap().prune(Prune::All).unwrap()),
            Step::FlipCachedByte { at } => {
                // What is damaged under a running owner is found at the next start, at the latest.
                self.restart(false).await;
                let directory = self.directory.clone();
                self.content = None;
                self.cache = None;
                flip_a_byte(&directory, at);
                self.open_again().await;
            }
            Step::Restart { killed } => self.restart(killed).await,
        }
        Ok(())
    }

    async fn restart(&mut self, killed: bool) {
        if killed {
            self.generation += 1;
            let copy = self.home.path().join(self.generation.to_string());
            copy_directory(&self.directory, &copy);
            self.directory = copy;
        }
        self.content = None;
        self.cache = None;
        self.open_again().await;
    }

    /// Tasks of the last owner may hold its lock for a moment longer.
    async fn open_again(&mut self) {
        for _ in 0..1000 {
            match Cache::open(self.cache_settings()) {
                Ok(cache) => {
                    drop(cache);
                    return self.open();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{}", error.chain()),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the cache is never given back");
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

/// Sparse files stay sparse enough: the test's blobs are small.
fn copy_directory(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        if !target.ends_with("control.sock") {
            // A file may vanish while it is copied, as it may when power fails.
            let _ = std::fs::copy(&file, &target);
        }
    }
}

fn flip_a_byte(directory: &Path, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let files = files_below(&directory.join("v1"));
    let Some(path) = files.get((at % files.len().max(1) as u64) as usize) else { return };
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    if length > 0 {
        let offset = (at / 7) % length;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        byte[0] ^= 0x10;
        file.write_all_at(&byte, offset).unwrap();
    }
}

/// Enough for each run of the suite; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_gives_the_bytes_of_the_source_or_an_error(
        before_read: bool,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        // Time stands still but for waits that nothing else can end, so that pauses and timeouts cost none.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(before_read);
            for step in &steps {
                world.carry_out(step).await?;
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}
