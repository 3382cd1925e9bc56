//! A part of something larger that is found wrong as a whole, again and again: whatever was asked for, handed out or
//! being stored just then, what is read afterwards is what the source has by then.

use std::ops::Range;

use bytes::Bytes;
use refmount::base::{Joined, chunk_count};
use refmount::cache::SegmentId;
use refmount::content::ContentSettings;
use refmount::fetch::{Feed, Origin, Proving, SegmentSpec, Sources};

use super::*;
use crate::content::SETTINGS;

const LENGTH: u64 = 2 * CHUNK_BYTES + 77;

#[derive(Clone, Debug)]
enum Step {
    /// Has chunks fetched and waits for none of them.
    Ask(Range<u64>),
    Read(Range<u64>),
    /// Lets the others go on for a moment.
    Yield(u8),
    Fault(Fault),
    /// From now on, the byte at this place comes wrong.
    Damage(u64),
    /// The source is right again, and what came until now is found wrong.
    Disprove,
    Prune,
}

fn step() -> impl Strategy<Value = Step> {
    let chunks = chunk_count(LENGTH);
    prop_oneof![
        4 => (0..chunks, 1..4_u64).prop_map(move |(first, more)| Step::Ask(first..(first + more).min(chunks))),
        4 => (0..LENGTH, 1..2 * CHUNK_BYTES)
            .prop_map(|(start, bytes)| Step::Read(start..(start + bytes).min(LENGTH))),
        6 => (1..40_u8).prop_map(Step::Yield),
        1 => (0..2 * CHUNK_BYTES).prop_map(|bytes| Step::Fault(Fault::Truncated(bytes))),
        1 => Just(Step::Fault(Fault::Whole)),
        4 => (0..LENGTH).prop_map(Step::Damage),
        4 => Just(Step::Disprove),
        1 => Just(Step::Prune),
    ]
}

struct World {
    blob: Vec<u8>,
    source: Arc<MemorySource>,
    cache: Arc<Cache>,
    feed: Arc<Feed>,
    /// Whether wrong bytes may have come since all was found wrong last.
    is_damaged: bool,
    _home: tempfile::TempDir,
}

impl World {
    fn new(cache_chunks: u64) -> Self {
        let blob = random_bytes(1, LENGTH);
        let (source, digests) = MemorySource::new([blob.clone()]);
        source.go_slowly();
        let source = Arc::new(source);
        let home = tempfile::tempdir().unwrap();
        let cache = crate::content::open_cache(&home, cache_chunks);
        let fetcher = Fetcher::new(cache.clone(), Handle::current());
        let sources = Arc::new(Sources::default());
        let settings = ContentSettings { whole_files: true, ..SETTINGS };
        sources.add(&fetcher, source.clone(), settings.fetch());
        let spec = SegmentSpec {
            id: SegmentId { layer: digests[0].clone(), number: 1 },
            blob: digests[0].clone(),
            bytes: LENGTH,
            origin: Origin::blob(digests[0].clone(), LENGTH),
            sources,
            proving: Proving::Part(Arc::new(|| {})),
            proof: None,
        };
        let feed = fetcher.feed(spec, true).unwrap();
        Self { blob, source, cache, feed, is_damaged: false, _home: home }
    }

    async fn read(&self, range: Range<u64>) -> Result<(), TestCaseError> {
        let mut bytes = Joined::default();
        let result = self.feed.read(range.clone(), Duration::from_secs(120), &mut bytes).await;
        prop_assert!(result.is_ok(), "{result:?}");
        let is_right = Bytes::from(bytes) == self.blob[range.start as usize..range.end as usize];
        prop_assert!(is_right || self.is_damaged, "wrong bytes at {range:?}");
        Ok(())
    }

    fn disprove(&mut self) {
        self.source.damage(None);
        Feed::disprove(std::slice::from_ref(&self.feed), false);
        self.is_damaged = false;
    }

    async fn carry_out(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step.clone() {
            Step::Ask(chunks) => drop(self.feed.want(chunks).unwrap()),
            Step::Read(range) => self.read(range).await?,
            Step::Yield(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Step::Fault(fault) => self.source.schedule([fault]),
            Step::Damage(offset) => {
                self.source.damage(Some(offset));
                self.is_damaged = true;
            }
            Step::Disprove => self.disprove(),
            Step::Prune => drop(self.cache.prune(Prune::All).unwrap()),
        }
        Ok(())
    }
}

proptest! {
    // Four times as many as elsewhere: they are short, and little of what can meet does so in each.
    #![proptest_config(ProptestConfig { cases: 4 * cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_came_before_all_was_found_wrong_is_never_read_after_it(
        cache_chunks in prop_oneof![Just(64_u64), Just(4), Just(0)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(cache_chunks);
            for step in &steps {
                world.carry_out(step).await?;
            }
            world.disprove();
            world.read(0..LENGTH).await?;
            // The clock goes on when nothing else does, stores among it.
            tokio::time::sleep(Duration::from_secs(60)).await;
            world.read(0..LENGTH).await
        })?;
    }
}
