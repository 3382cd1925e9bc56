//! What is under way for one blob: the runs, and the slots in which readers wait for chunks.
//!
//! Pure bookkeeping under one lock: nothing here fetches, waits or touches the disk. A slot belongs to the
//! run that is expected to fill it; whichever run brings the chunk first does.
//!
//! What is brought belongs to an [`Epoch`](crate::cache::Epoch), the segment's when it was asked for. Where the segment
//! as a whole is found wrong, another one begins, and of the one before
//!
//! | a chunk that                       | is                                                                     |
//! |------------------------------------|------------------------------------------------------------------------|
//! | is cached, or being written        | removed by the cache, now or when it is written                        |
//! | waits for its store                | refused by the cache                                                   |
//! | is in a slot, or remembered        | forgotten; whoever took it from there before is told                   |
//! | is still on its way                | not brought: the run asks for it again, and its readers wait that long |
//!
//! So that nothing slips through, the epoch begins first, and whoever puts something into a slot or remembers it looks
//! at the epoch under the lock of this state, which is taken for the forgetting after that.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::base::{Error, clock};

use super::counters::Cause;
use super::slot::Slot;

/// How far before a chunk a run may be for a reader to wait for it: 8 MiB pass in about the time that a
/// request of its own would take.
const NEAR: u64 = 8;

/// On whose behalf a run fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunKind {
    /// A reader waits.
    Demand,
    /// Nobody waits yet, but somebody will probably come to it.
    Ahead,
    /// Nobody waits, and perhaps nobody ever will.
    Prefetch,
}

impl RunKind {
    /// Whether nobody waits for what it brings, so that those come first for whom somebody does.
    pub(super) fn is_ahead(self) -> bool {
        match self {
            Self::Demand => false,
            Self::Ahead | Self::Prefetch => true,
        }
    }

    /// On whose account it fetches.
    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Demand => Cause::Demand,
            Self::Ahead => Cause::ReadAhead,
            Self::Prefetch => Cause::Prefetch,
        }
    }
}

/// One walk forward through a blob.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: u64,
    pub(super) kind: RunKind,
    /// The next chunk that it will bring.
    pub(super) next: u64,
    /// Where it stops for now; moved forward as the reader advances.
    pub(super) end: u64,
    /// Where its request ends; never before `end`.
    pub(super) request_end: u64,
    /// Whether its request is on its way or answered. Waiting for its first byte is no longer than for that of
    /// a request of one's own.
    pub(super) is_under_way: bool,
    /// Whether it is reading the whole blob, from a source that does not do ranges or because it is a passage.
    pub(super) is_whole: bool,
    /// Whether somebody else feeds it: see [`super::passage`].
    pub(super) is_passage: bool,
    /// Told when `end` moves.
    pub(super) wake: Arc<Notify>,
    pub(super) abort: Option<AbortHandle>,
    /// What its last attempt failed with, if nothing has come since.
    pub(super) last_failure: Option<Error>,
}

impl Run {
    fn brings(&self, chunk: u64) -> bool {
        let near = chunk.checked_sub(self.next).is_some_and(|distance| distance < NEAR || self.is_whole);
        near && chunk < self.request_end && (self.is_under_way || self.kind == RunKind::Demand)
    }

    fn covers(&self, chunk: u64) -> bool {
        self.next <= chunk && chunk < self.end
    }
}

/// A slot and the run that is expected to fill it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) slot: Arc<Slot>,
    pub(super) run: u64,
    /// When somebody last asked for it.
    pub(super) wanted_at: Instant,
    /// Whether anybody ever did.
    pub(super) is_wanted: bool,
}

impl Pending {
    /// An empty slot that a reader has just opened, for run `run` to fill.
    pub(super) fn new(run: u64) -> Self {
        Self { slot: Arc::new(Slot::new()), run, wanted_at: clock::now(), is_wanted: true }
    }

    /// A slot that nobody has opened, for what run `run` brings.
    fn unwanted(run: u64) -> Self {
        Self { is_wanted: false, ..Self::new(run) }
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) slots: HashMap<u64, Pending>,
    pub(super) runs: Vec<Run>,
    /// Whether a source answered a range request with the whole blob.
    pub(super) ranges_ignored: bool,
    /// Completed when everything is here, while somebody fetches the whole blob.
    pub(super) filling: Option<Arc<Slot>>,
    ids: u64,
}

impl State {
    /// A number that was not given before.
    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Notes a new run over `chunks` whose request may go on to `request_end`.
    pub(super) fn add_run(&mut self, kind: RunKind, chunks: Range<u64>, request_end: u64) -> u64 {
        let id = self.next_id();
        self.runs.push(Run {
            id,
            kind,
            next: chunks.start,
            end: chunks.end,
            request_end: request_end.max(chunks.end),
            is_under_way: false,
            is_whole: false,
            is_passage: false,
            wake: Arc::new(Notify::new()),
            abort: None,
            last_failure: None,
        });
        id
    }

    pub(super) fn run(&mut self, id: u64) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }

    /// The run that will soon bring `chunk`, which is made to go that far.
    pub(super) fn run_that_brings(&mut self, chunk: u64) -> Option<u64> {
        let run = self.runs.iter_mut().find(|run| run.brings(chunk))?;
        if run.end <= chunk {
            run.end = chunk + 1;
            run.wake.notify_one();
        }
        Some(run.id)
    }

    /// Lets the run whose present end is `from` go on to `to`, as far as its request allows. Returns how far
    /// it will go; `from` where there is no such run.
    pub(super) fn extend_run(&mut self, from: u64, to: u64) -> u64 {
        let extends = |run: &&mut Run| run.end == from && run.next <= from && run.request_end > from;
        match self.runs.iter_mut().find(extends) {
            None => from,
            Some(run) => {
                run.end = to.min(run.request_end);
                run.wake.notify_one();
                run.end
            }
        }
    }

    /// Where a run other than `id` that is under way ends, if it brings `chunk` anyway.
    pub(super) fn covered_by_another(&self, id: u64, chunk: u64) -> Option<u64> {
        self.runs.iter().find(|run| run.id != id && run.is_under_way && run.covers(chunk)).map(|run| run.end)
    }

    /// Where a run other than `id` ends that will ask for `chunk`, or has. One for a reader does, though it may not have
    /// had its turn yet.
    pub(super) fn left_to_another(&self, id: u64, chunk: u64) -> Option<u64> {
        let asks = |run: &&Run| run.is_under_way || run.kind == RunKind::Demand;
        self.runs.iter().filter(asks).find(|run| run.id != id && run.covers(chunk)).map(|run| run.end)
    }

    /// Whether somebody waits for `chunk`.
    pub(super) fn is_awaited(&self, chunk: u64) -> bool {
        self.slots.get(&chunk).is_some_and(|pending| !pending.slot.is_complete())
    }

    /// Puts `chunk`, which run `id` has brought, into its slot, where readers find it until it is settled. A
    /// run that nobody expects anything of any more leaves nothing behind. Returns whether somebody waited.
    pub(super) fn bring(&mut self, id: u64, chunk: u64, bytes: &Bytes) -> bool {
        let Some(run) = self.run(id) else { return false };
        run.next = run.next.max(chunk + 1);
        let was_awaited = self.is_awaited(chunk);
        self.slots.entry(chunk).or_insert_with(|| Pending::unwanted(id)).slot.complete(Ok(bytes.clone()));
        was_awaited
    }

    /// Closes the slot of a chunk that the cache has got, or has refused. A slot that waits is a later
    /// reader's, opened after the chunk was settled once and evicted again. Says whether a reader has got the chunk out of
    /// its slot, or is about to.
    pub(super) fn settle(&mut self, chunk: u64) -> bool {
        if self.is_awaited(chunk) {
            return false;
        }
        self.slots.remove(&chunk).is_some_and(|pending| pending.is_wanted)
    }

    /// Closes the slots of all chunks that the cache has not got yet: what comes of them is decided by their stores.
    pub(super) fn forget_brought(&mut self) {
        self.slots.retain(|_, pending| !pending.slot.is_complete());
    }

    /// What stands between `chunk` and those that wait for it: the failure of the run that should bring it, or
    /// while that one has had no turn yet, of any other.
    pub(super) fn last_failure(&self, chunk: u64) -> Option<Error> {
        let pending = self.slots.get(&chunk)?;
        let its_own = self.runs.iter().filter(|run| run.id == pending.run);
        its_own.chain(&self.runs).find_map(|run| run.last_failure.clone())
    }

    /// Ends run `id` and returns the chunks that readers still expected of it, in order.
    pub(super) fn end_run(&mut self, id: u64) -> Vec<u64> {
        self.runs.retain(|run| run.id != id);
        let mut expected: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, pending)| pending.run == id && !pending.slot.is_complete())
            .map(|(chunk, _)| *chunk)
            .collect();
        expected.sort_unstable();
        expected
    }

    /// Another run that reads the whole blob takes over what is expected of run `id`, if it has not passed
    /// any of it yet.
    pub(super) fn hand_to_whole_run(&mut self, id: u64) -> bool {
        let expected =
            self.slots.iter().filter(|(_, pending)| pending.run == id && !pending.slot.is_complete());
        let first = expected.map(|(chunk, _)| *chunk).min().unwrap_or(u64::MAX);
        let whole = self.runs.iter().find(|run| run.is_whole && run.id != id && run.next <= first);
        let Some(heir) = whole.map(|run| run.id) else { return false };
        for pending in self.slots.values_mut().filter(|pending| pending.run == id) {
            pending.run = heir;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Error, ErrorKind};

    fn bytes() -> Bytes {
        Bytes::from_static(b"chunk")
    }

    #[test]
    fn a_late_store_does_not_close_the_slot_of_a_later_reader() {
        let mut state = State::default();
        let first = state.add_run(RunKind::Demand, 0..4, 4);
        let second = state.add_run(RunKind::Ahead, 0..4, 4);
        state.bring(first, 2, &bytes());
        state.bring(second, 2, &bytes());
        state.settle(2);
        state.slots.insert(2, Pending::new(first));
        state.settle(2);
        assert!(state.is_awaited(2), "the second store belongs to the first reader");
    }

    #[test]
    fn a_chunk_that_was_asked_for_before_it_was_stored_is_known_to_have_been() {
        let mut state = State::default();
        let run = state.add_run(RunKind::Ahead, 0..4, 4);
        state.slots.insert(0, Pending::new(run));
        for chunk in 0..3 {
            assert_eq!(state.bring(run, chunk, &bytes()), chunk == 0);
        }
        if let Some(pending) = state.slots.get_mut(&1) {
            pending.is_wanted = true;
        }
        assert_eq!([0, 1, 2].map(|chunk| state.settle(chunk)), [true, true, false]);
    }

    #[test]
    fn a_run_that_was_given_up_leaves_no_slot_behind() {
        let mut state = State::default();
        let run = state.add_run(RunKind::Demand, 0..4, 4);
        state.end_run(run);
        assert!(!state.bring(run, 0, &bytes()));
        assert!(state.slots.is_empty());
    }

    #[test]
    fn what_a_run_did_not_bring_is_reported_in_order() {
        let mut state = State::default();
        let run = state.add_run(RunKind::Demand, 0..4, 4);
        for chunk in [3, 1, 2] {
            state.slots.insert(chunk, Pending::new(run));
        }
        state.bring(run, 1, &bytes());
        assert_eq!(state.end_run(run), [2, 3]);
    }

    #[test]
    fn a_reader_rides_on_a_run_that_is_near_and_not_on_one_that_is_far() {
        let mut state = State::default();
        let run = state.add_run(RunKind::Ahead, 0..2, 100);
        assert_eq!(state.run_that_brings(1), None, "it may have to wait for its turn");
        state.run(run).unwrap().is_under_way = true;
        assert_eq!(state.run_that_brings(5), Some(run));
        assert_eq!(state.run(run).unwrap().end, 6, "it is made to go that far");
        assert_eq!(state.run_that_brings(NEAR), None);
        assert_eq!(state.extend_run(6, 50), 50);
        assert_eq!(state.extend_run(6, 50), 6, "no run ends there any more");
    }

    #[test]
    fn what_a_reader_has_to_ask_for_itself_is_left_to_it_by_a_run_that_has_not_begun() {
        let mut state = State::default();
        let ahead = state.add_run(RunKind::Ahead, 4..8, 8);
        assert_eq!(state.run_that_brings(4), None);
        let demand = state.add_run(RunKind::Demand, 4..5, 5);
        assert_eq!(state.left_to_another(ahead, 4), Some(5));
        assert_eq!(state.left_to_another(demand, 4), None, "or neither would ask");
        assert_eq!(state.covered_by_another(ahead, 4), None, "what is open already goes on");
    }

    #[test]
    fn a_whole_run_inherits_what_it_has_not_passed() {
        let mut state = State::default();
        let whole = state.add_run(RunKind::Demand, 0..10, 10);
        state.run(whole).unwrap().is_whole = true;
        state.run(whole).unwrap().next = 5;
        let late = state.add_run(RunKind::Demand, 3..4, 4);
        state.slots.insert(3, Pending::new(late));
        assert!(!state.hand_to_whole_run(late), "chunk 3 has gone by");
        let early = state.add_run(RunKind::Demand, 7..8, 8);
        state.slots.insert(7, Pending::new(early));
        assert!(state.hand_to_whole_run(early));
        assert!(state.end_run(early).is_empty());
        let failed = Error::new(ErrorKind::Io, "failed");
        state.slots[&7].slot.complete(Err(failed));
        assert!(!state.is_awaited(7));
    }
}
