//! Any sequence of operations against a model that knows what must be there.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SEGMENTS: u32 = 3;
const LENGTHS: [u64; SEGMENTS as usize] = [3 * CHUNK_BYTES, 2 * CHUNK_BYTES + 1, 100];
const BUDGET: u64 = 4 * CHUNK_BYTES;

#[derive(Clone, Debug)]
enum Step {
    Store(u32, u64),
    Read(u32, u64, u64),
    Remove(u32, u64),
    RemoveAll(u32),
    Prune(u64),
    Sync,
    Kill,
    Reboot,
    /// A byte of a chunk on disk is flipped, and the process started anew.
    Flip(u32, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let segment = 0..SEGMENTS;
    let step = prop_oneof![
        8 => (segment.clone(), 0..3_u64).prop_map(|(segment, chunk)| Step::Store(segment, chunk)),
        6 => (segment.clone(), 0..3 * CHUNK_BYTES, 1..2 * CHUNK_BYTES).prop_map(|(segment, start, bytes)| {
            Step::Read(segment, start, bytes)
        }),
        1 => (segment.clone(), 0..3_u64).prop_map(|(segment, chunk)| Step::Remove(segment, chunk)),
        1 => segment.clone().prop_map(Step::RemoveAll),
        1 => (0..BUDGET).prop_map(Step::Prune),
        1 => Just(Step::Sync),
        1 => Just(Step::Kill),
        1 => Just(Step::Reboot),
        1 => (segment, 0..3_u64).prop_map(|(segment, chunk)| Step::Flip(segment, chunk)),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What the model knows of a chunk that is present.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    durable: bool,
    damaged: bool,
}

struct World {
    directory: tempfile::TempDir,
    boot: u8,
    cache: Option<Arc<Cache>>,
    contents: Vec<Vec<u8>>,
    model: BTreeMap<(u32, u64), Known>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Some(open_at(directory.path(), BUDGET, BootId([1; 16])));
        let contents = (0..).zip(LENGTHS).map(|(seed, bytes)| content(seed, bytes)).collect();
        Self { directory, boot: 1, cache, contents, model: BTreeMap::new() }
    }

    fn cache(&self) -> &Arc<Cache> {
        self.cache.as_ref().unwrap()
    }

    fn segment(&self, segment: u32) -> Arc<Segment> {
        self.cache().segment(&id(segment), LENGTHS[segment as usize]).unwrap()
    }

    fn restart(&mut self) {
        self.cache = None;
        self.cache = Some(open_at(self.directory.path(), BUDGET, BootId([self.boot; 16])));
    }

    /// Drops from the model what was evicted: nothing may appear that it does not know.
    fn follow_evictions(&mut self) {
        for number in 0..SEGMENTS {
            let segment = self.segment(number);
            for chunk in 0..3 {
                let known = self.model.contains_key(&(number, chunk));
                match segment.is_present(chunk) {
                    true => assert!(known, "chunk {chunk} of {number} came from nowhere"),
                    false => drop(self.model.remove(&(number, chunk))),
                }
            }
        }
    }

    fn complete(&self, number: u32) -> bool {
        (0..crate::base::chunk_count(LENGTHS[number as usize]))
            .all(|chunk| self.model.contains_key(&(number, chunk)))
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Store(number, chunk) => {
                let segment = self.segment(number);
                let before = self.model.contains_key(&(number, chunk));
                if chunk >= segment.chunk_count() {
                    return;
                }
                let expected =
                    if before { Stored::Skipped(SkipReason::AlreadyThere) } else { Stored::Stored };
                assert_eq!(store(&segment, &self.contents[number as usize], chunk), expected);
                self.follow_evictions_but((number, chunk));
                if self.complete(number) {
                    self.synced(number);
                }
            }
            Step::Read(number, start, bytes) => {
                let length = LENGTHS[number as usize];
                let start = start % length;
                let range = start..(start + bytes).min(length);
                let chunks = crate::base::chunk::chunks_of(&range);
                let known: Vec<_> = chunks.map(|chunk| self.model.get(&(number, chunk)).copied()).collect();
                let expected = known.iter().all(|known| known.is_some_and(|known| !known.damaged));
                assert_eq!(hit(&self.segment(number), &self.contents[number as usize], range), expected);
                self.forget_dropped(number);
            }
            Step::Remove(number, chunk) => {
                self.segment(number).remove(chunk..chunk + 1);
                self.model.remove(&(number, chunk));
            }
            Step::RemoveAll(number) => {
                self.segment(number).remove_all();
                self.model.retain(|(segment, _), _| *segment != number);
            }
            Step::Prune(bytes) => {
                let report = self.cache().prune(Prune::DownTo(bytes)).unwrap();
                assert!(report.kept_bytes <= bytes);
                self.follow_evictions();
            }
            Step::Sync => {
                self.cache().sync();
                (0..SEGMENTS).for_each(|number| self.synced(number));
            }
            Step::Kill => self.restart(),
            Step::Reboot => {
                self.boot += 1;
                self.model.retain(|_, known| known.durable);
                self.restart();
            }
            Step::Flip(number, chunk) => {
                if let Some(known) = self.model.get_mut(&(number, chunk)) {
                    known.damaged = !known.damaged;
                    self.cache = None;
                    let path = crate::cache::CachePaths::new(self.directory.path()).data(&id(number));
                    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
                    flip(&file, chunk_range(chunk, LENGTHS[number as usize]).end - 1);
                }
                self.restart();
            }
        }
    }

    fn follow_evictions_but(&mut self, stored: (u32, u64)) {
        self.model.entry(stored).or_default();
        self.follow_evictions();
        assert!(self.model.contains_key(&stored), "what was stored is there");
    }

    fn synced(&mut self, number: u32) {
        for ((segment, _), known) in &mut self.model {
            known.durable |= *segment == number;
        }
    }

    /// Damaged chunks may be gone; others may not.
    fn forget_dropped(&mut self, number: u32) {
        let segment = self.segment(number);
        self.model.retain(|(owner, chunk), known| {
            let present = *owner != number || segment.is_present(*chunk);
            assert!(present || known.damaged, "a good chunk was dropped");
            present
        });
    }

    fn check(&self) {
        let model: u64 = self
            .model
            .keys()
            .map(|(number, chunk)| {
                let range = chunk_range(*chunk, LENGTHS[*number as usize]);
                range.end - range.start
            })
            .sum();
        let info = self.cache().info();
        assert_eq!(info.used_bytes, model);
        assert_eq!(info.chunks, self.model.len() as u64);
        assert!(info.used_bytes <= BUDGET);
        assert_eq!(info.degraded, None);
    }
}

fn flip(file: &std::fs::File, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_gives_the_bytes_of_the_source_or_a_miss(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
    }
}
