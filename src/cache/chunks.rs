//! Which chunks of a segment are here, and who may touch their bytes: the state machine of a chunk.
//!
//! The table is kept under a lock that is held for its own work only. Reading, writing and punching happen
//! outside of the lock, and the states keep them apart:
//!
//! ```text
//! from      to         by                 meanwhile
//! Absent    Writing    begin_store        the storer alone writes bytes and record
//! Writing   Present    finish_store       record written; checked, since the bytes were just here
//! Writing   Absent     abandon_store      a write failed, or there is no room
//! Writing   Evicting   finish_store       it was removed meanwhile: the storer clears what it wrote
//! Present   Present    begin_read         readers + 1: no one clears or punches until end_read
//! Present   Evicting   begin_eviction     only without readers and pins; new readers miss, stores skip
//! Present   Evicting   begin_removal      even with readers; the last one to leave clears and punches
//! Evicting  Absent     finish_departure   record cleared first, hole punched after
//! Evicting  Present    keep               the record could not be cleared: nothing has happened
//! any       Absent     take_all           the files are unlinked; who has them open keeps the bytes
//! ```
//!
//! `take_all` starts a new incarnation: whoever began something under the old one holds files that no longer
//! have a name, may finish with them, and changes nothing here any more.
//!
//! `begin_epoch` says that all bytes that were asked for so far are wrong: those that are here or being written go by
//! `take_all`, at once or right after it with the files, and those that have not come yet are refused by `begin_store`,
//! however late they come. So wrong bytes do not outlive the check that found them, nor keep others out of their place.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{chunk_count, chunk_range};

use super::map::Record;
use super::{Epoch, SkipReason};

/// Bytes of a segment of which anything is stored; larger ones are read without the cache. 8 TiB make a table
/// of 400 MB, and no file of a model comes near; without a bound, a size that somebody wrote into a manifest
/// would decide about our memory.
pub(super) const SEGMENT_BYTES_MAX: u64 = 8 << 40;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Absent,
    Writing,
    Present,
    Evicting,
}

/// One chunk; 48 bytes, so that 1 TiB of cache costs 48 MiB of memory.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    state: State,
    /// Whether the bytes matched the digest since the start.
    checked: bool,
    /// Whether bytes and record were synced.
    durable: bool,
    /// Whether `last_use` is newer than the record.
    used: bool,
    /// Removed while it was being written.
    doomed: bool,
    /// Stored before anybody asked for it, and not read since.
    unread: bool,
    readers: u32,
    last_use: u64,
    digest: [u8; 32],
}

/// What a removal left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Nothing was there, or somebody else does it.
    NotOurs,
    /// The caller clears and punches.
    Ours,
}

/// The chunks of one segment.
#[derive(Debug)]
pub(super) struct Chunks {
    bytes: u64,
    /// Empty until something is stored: a mount of a thousand files that are not read costs nothing.
    slots: Vec<Slot>,
    present: u64,
    present_bytes: u64,
    unchecked: u64,
    writing: u64,
    last_use: u64,
    /// Something is not durable, or a use not recorded.
    dirty: bool,
    /// How many pins keep the segment for as long as they live.
    pub(super) pins: u64,
    /// Whether it is kept until that is taken back, in later processes too.
    pub(super) kept: bool,
    /// Somebody else may be reading the data file: it may only be unlinked.
    pub(super) handed_over: bool,
    /// The files are being unlinked; nothing may be stored.
    pub(super) leaving: bool,
    /// There are files under the segment's names.
    pub(super) on_disk: bool,
    /// The files' names were synced.
    pub(super) names_durable: bool,
    /// Counts the times that the files were given up.
    pub(super) incarnation: u64,
    /// Counts the times that all of it was found wrong.
    epoch: Epoch,
    /// For reading; opened at the first use.
    pub(super) data: Option<Arc<File>>,
    /// Bytes of chunks that went unread.
    unread_gone: u64,
    /// The same of all segments together.
    unread_gone_of_all: Arc<AtomicU64>,
}

impl Chunks {
    /// A segment of `bytes` bytes of which nothing is here.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            slots: Vec::new(),
            present: 0,
            present_bytes: 0,
            unchecked: 0,
            writing: 0,
            last_use: 0,
            dirty: false,
            pins: 0,
            kept: false,
            handed_over: false,
            leaving: false,
            on_disk: false,
            names_durable: false,
            incarnation: 0,
            epoch: Epoch::default(),
            data: None,
            unread_gone: 0,
            unread_gone_of_all: Arc::default(),
        }
    }

    /// The same, which also counts in `of_all` what goes unread.
    pub(super) fn counting_unread_in(self, of_all: &Arc<AtomicU64>) -> Self {
        Self { unread_gone_of_all: Arc::clone(of_all), ..self }
    }

    /// Takes over a record found at the start; unchecked.
    pub(super) fn recover(&mut self, chunk: u64, record: Record) {
        let bytes = self.length(chunk);
        if bytes == 0 {
            return;
        }
        self.last_use = self.last_use.max(record.last_use);
        self.present += 1;
        self.present_bytes += bytes;
        self.unchecked += 1;
        self.dirty |= !record.durable;
        let slot = self.slot_made(chunk);
        slot.state = State::Present;
        slot.durable = record.durable;
        slot.last_use = record.last_use;
        slot.digest = record.digest;
    }

    fn length(&self, chunk: u64) -> u64 {
        let range = chunk_range(chunk, self.bytes);
        range.end - range.start
    }

    fn slot(&self, chunk: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(chunk).ok()?)
    }

    fn slot_mut(&mut self, chunk: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(chunk).ok()?)
    }

    /// The slot of a chunk that exists.
    fn slot_made(&mut self, chunk: u64) -> &mut Slot {
        if self.slots.is_empty() {
            self.slots = vec![Slot::default(); chunk_count(self.bytes) as usize];
        }
        &mut self.slots[chunk as usize]
    }

    fn is(&self, chunk: u64, state: State) -> bool {
        self.slot(chunk).is_some_and(|slot| slot.state == state)
    }

    /// Whether `chunk` is here, and not just about to go with its files.
    pub(super) fn is_present(&self, chunk: u64) -> bool {
        !self.leaving && self.is(chunk, State::Present)
    }

    /// The BLAKE3 of a chunk that is here.
    pub(super) fn digest(&self, chunk: u64) -> Option<[u8; 32]> {
        self.slot(chunk).filter(|slot| slot.state == State::Present).map(|slot| slot.digest)
    }

    /// How many chunks are here.
    pub(super) fn present(&self) -> u64 {
        self.present
    }

    /// Bytes of the chunks that are here.
    pub(super) fn present_bytes(&self) -> u64 {
        self.present_bytes
    }

    /// Whether all chunks are here. An empty segment never is: there is no file of it.
    pub(super) fn is_complete(&self) -> bool {
        self.present > 0 && self.present == chunk_count(self.bytes)
    }

    /// Whether all chunks are here and matched their digests since the start.
    pub(super) fn is_checked(&self) -> bool {
        self.is_complete() && self.unchecked == 0
    }

    /// Whether the files hold nothing and nobody is about to change that.
    pub(super) fn is_vacant(&self) -> bool {
        self.on_disk && self.present == 0 && self.writing == 0 && !self.leaving
    }

    /// The most recent use of any chunk.
    pub(super) fn last_use(&self) -> u64 {
        self.last_use
    }

    /// Whether nothing of the segment may be evicted or pruned.
    pub(super) fn is_pinned(&self) -> bool {
        self.pins > 0 || self.kept
    }

    /// Whether the segment is evicted as one, by unlinking it.
    pub(super) fn is_unit(&self) -> bool {
        self.is_complete() || self.handed_over
    }

    /// Chunks that could be evicted one by one, with their last use.
    pub(super) fn evictable(&self) -> impl Iterator<Item = (u64, u64)> {
        let idle = |slot: &Slot| slot.state == State::Present && slot.readers == 0;
        (0..).zip(&self.slots).filter(move |(_, slot)| idle(slot)).map(|(chunk, slot)| (chunk, slot.last_use))
    }

    /// Chunks of `range` that are here and were not checked since the start.
    pub(super) fn unchecked(&self, range: Range<u64>) -> Vec<u64> {
        if self.unchecked == 0 {
            return Vec::new();
        }
        range
            .filter(|chunk| self.slot(*chunk).is_some_and(|s| s.state == State::Present && !s.checked))
            .collect()
    }

    /// The longest runs of chunks of which nothing is here.
    pub(super) fn absent_runs(&self) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        let mut start = 0;
        for chunk in 0..=chunk_count(self.bytes) {
            let here = self.slot(chunk).is_some_and(|slot| slot.state != State::Absent);
            if here || chunk == chunk_count(self.bytes) {
                if start < chunk {
                    runs.push(start..chunk);
                }
                start = chunk + 1;
            }
        }
        runs
    }

    /// As of when what is asked for now is.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// All that was asked for so far is wrong. If there are files, the caller unlinks them.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch.0 += 1;
        if !self.on_disk {
            // Their storers are about to make the first files.
            self.take_all();
        }
    }

    /// Absent → Writing, for one storer of what was asked for in `epoch`.
    pub(super) fn begin_store(&mut self, chunk: u64, epoch: Epoch) -> Result<(), SkipReason> {
        if self.length(chunk) == 0 {
            return Err(SkipReason::WrongLength);
        }
        if self.epoch != epoch {
            return Err(SkipReason::Outdated);
        }
        if self.leaving {
            return Err(SkipReason::BeingEvicted);
        }
        if self.bytes > SEGMENT_BYTES_MAX {
            return Err(SkipReason::NoRoom);
        }
        match self.slot(chunk).map_or(State::Absent, |slot| slot.state) {
            State::Absent => {}
            State::Writing | State::Present => return Err(SkipReason::AlreadyThere),
            State::Evicting => return Err(SkipReason::BeingEvicted),
        }
        *self.slot_made(chunk) = Slot { state: State::Writing, ..Slot::default() };
        self.writing += 1;
        Ok(())
    }

    /// Notes that nobody has asked for `chunk`, which is being stored.
    pub(super) fn note_unread(&mut self, chunk: u64) {
        if let Some(slot) = self.slot_mut(chunk) {
            slot.unread = true;
        }
    }

    /// Notes that somebody has read `chunks`.
    pub(super) fn note_read(&mut self, chunks: Range<u64>) {
        for chunk in chunks.start..chunks.end.min(self.slots.len() as u64) {
            if let Some(slot) = self.slot_mut(chunk) {
                slot.unread = false;
            }
        }
    }

    /// Bytes of chunks that were stored before anybody asked for them, and went without having been read.
    pub(super) fn unread_gone(&self) -> u64 {
        self.unread_gone
    }

    fn went_unread(&mut self, bytes: u64) {
        self.unread_gone += bytes;
        self.unread_gone_of_all.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Writing → Present, or → Evicting (`Ours`) if it was removed meanwhile.
    pub(super) fn finish_store(&mut self, chunk: u64, digest: [u8; 32], tick: u64) -> Removal {
        if !self.is(chunk, State::Writing) {
            return Removal::NotOurs;
        }
        self.writing -= 1;
        let bytes = self.length(chunk);
        let slot = self.slot_made(chunk);
        let unread = slot.unread;
        if slot.doomed {
            *slot = Slot { state: State::Evicting, unread, ..Slot::default() };
            return Removal::Ours;
        }
        let state = State::Present;
        *slot = Slot { state, checked: true, last_use: tick, digest, unread, ..Slot::default() };
        self.present += 1;
        self.present_bytes += bytes;
        self.last_use = self.last_use.max(tick);
        self.dirty = true;
        Removal::NotOurs
    }

    /// Writing → Absent.
    pub(super) fn abandon_store(&mut self, chunk: u64) {
        if let Some(slot) = self.slot_mut(chunk)
            && slot.state == State::Writing
        {
            *slot = Slot::default();
            self.writing -= 1;
        }
    }

    /// Enters as a reader of all of `chunks`, if all of them are here.
    pub(super) fn begin_read(&mut self, chunks: Range<u64>, tick: u64) -> bool {
        if chunks.clone().any(|chunk| !self.is_present(chunk)) {
            return false;
        }
        for chunk in chunks.clone() {
            if let Some(slot) = self.slot_mut(chunk) {
                slot.readers += 1;
            }
        }
        self.touch(chunks, tick);
        true
    }

    /// Counts as a use of those of `chunks` that are here.
    pub(super) fn touch(&mut self, chunks: Range<u64>, tick: u64) {
        let end = chunks.end.min(self.slots.len() as u64);
        for chunk in chunks.start..end {
            if let Some(slot) = self.slot_mut(chunk)
                && slot.state == State::Present
                && slot.last_use < tick
            {
                slot.last_use = tick;
                slot.used = true;
                self.dirty = true;
                self.last_use = self.last_use.max(tick);
            }
        }
    }

    /// Leaves as a reader of `chunks`; returns those which the caller now has to clear and punch.
    pub(super) fn end_read(&mut self, chunks: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut ours = Vec::new();
        for chunk in chunks {
            if let Some(slot) = self.slot_mut(chunk) {
                slot.readers = slot.readers.saturating_sub(1);
                if slot.state == State::Evicting && slot.readers == 0 {
                    ours.push(chunk);
                }
            }
        }
        ours
    }

    /// The bytes of `chunk` matched its digest. Only for a reader of it.
    pub(super) fn mark_checked(&mut self, chunk: u64) {
        if let Some(slot) = self.slot_mut(chunk)
            && slot.state == State::Present
            && !slot.checked
        {
            slot.checked = true;
            self.unchecked -= 1;
        }
    }

    /// The disk may have lost what was not durable: to be checked again before it is believed.
    pub(super) fn distrust_unsynced(&mut self) {
        for slot in &mut self.slots {
            if slot.state == State::Present && !slot.durable && slot.checked {
                slot.checked = false;
                self.unchecked += 1;
            }
        }
    }

    /// Present → Evicting, unless it is in use, was used after `tick`, or goes with the whole segment only.
    pub(super) fn begin_eviction(&mut self, chunk: u64, tick: u64) -> bool {
        let idle = self
            .slot(chunk)
            .is_some_and(|slot| slot.state == State::Present && slot.readers == 0 && slot.last_use <= tick);
        if !idle || self.is_pinned() || self.leaving || self.is_unit() {
            return false;
        }
        self.depart(chunk);
        true
    }

    /// Present → Evicting whoever reads it, Writing → Evicting when the storer is done.
    pub(super) fn begin_removal(&mut self, chunk: u64) -> Removal {
        let Some(slot) = self.slot_mut(chunk) else { return Removal::NotOurs };
        match slot.state {
            State::Absent | State::Evicting => Removal::NotOurs,
            State::Writing => {
                slot.doomed = true;
                Removal::NotOurs
            }
            State::Present => {
                let idle = slot.readers == 0;
                self.depart(chunk);
                if idle { Removal::Ours } else { Removal::NotOurs }
            }
        }
    }

    fn depart(&mut self, chunk: u64) {
        self.present -= 1;
        self.present_bytes -= self.length(chunk);
        let slot = self.slot_made(chunk);
        slot.state = State::Evicting;
        if !slot.checked {
            self.unchecked -= 1;
        }
    }

    /// Evicting → Absent.
    pub(super) fn finish_departure(&mut self, chunk: u64) {
        if self.is(chunk, State::Evicting) {
            let gone = std::mem::take(self.slot_made(chunk));
            if gone.unread {
                self.went_unread(self.length(chunk));
            }
        }
    }

    /// Evicting → Present: the record still says so.
    pub(super) fn keep(&mut self, chunk: u64) {
        if !self.is(chunk, State::Evicting) {
            return;
        }
        self.present += 1;
        self.present_bytes += self.length(chunk);
        let slot = self.slot_made(chunk);
        slot.state = State::Present;
        if !slot.checked {
            self.unchecked += 1;
        }
    }

    /// Any → Absent, in a new incarnation; returns how many chunks and bytes were present.
    pub(super) fn take_all(&mut self) -> (u64, u64) {
        let taken = (self.present, self.present_bytes);
        let is_gone = |slot: &Slot| slot.unread && matches!(slot.state, State::Present | State::Evicting);
        let gone = (0..).zip(&self.slots).filter(|(_, slot)| is_gone(slot));
        let unread = gone.map(|(chunk, _)| self.length(chunk)).sum();
        self.went_unread(unread);
        self.slots = Vec::new();
        (self.present, self.present_bytes, self.unchecked, self.writing) = (0, 0, 0, 0);
        self.dirty = false;
        self.handed_over = false;
        self.on_disk = false;
        self.names_durable = false;
        self.incarnation += 1;
        self.data = None;
        taken
    }

    /// The records that are behind: of chunks not durable yet, or used since. Enters as a reader of each, so
    /// that none departs until [`Self::end_sync`].
    pub(super) fn begin_sync(&mut self) -> Vec<(u64, Record)> {
        if !self.dirty || self.leaving {
            return Vec::new();
        }
        self.dirty = false;
        let mut behind = Vec::new();
        for (chunk, slot) in (0..).zip(&mut self.slots) {
            if slot.state == State::Present && (!slot.durable || slot.used) {
                slot.readers += 1;
                slot.used = false;
                behind.push((chunk, Record { durable: true, last_use: slot.last_use, digest: slot.digest }));
            }
        }
        behind
    }

    /// Leaves after [`Self::begin_sync`]; as [`Self::end_read`].
    pub(super) fn end_sync(&mut self, records: &[(u64, Record)], synced: bool) -> Vec<u64> {
        self.dirty |= !synced;
        for (chunk, _) in records {
            if let Some(slot) = self.slot_mut(*chunk) {
                if synced {
                    slot.durable = true;
                } else {
                    slot.used = true;
                }
            }
        }
        self.end_read(records.iter().map(|(chunk, _)| *chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::CHUNK_BYTES;

    fn with_chunk() -> Chunks {
        let mut chunks = Chunks::new(3 * CHUNK_BYTES - 1);
        chunks.begin_store(0, Epoch::default()).unwrap();
        assert_eq!(chunks.finish_store(0, [1; 32], 5), Removal::NotOurs);
        chunks
    }

    #[test]
    fn a_chunk_being_read_is_not_evicted_and_its_removal_waits_for_the_last_reader() {
        let mut chunks = with_chunk();
        assert!(chunks.begin_read(0..1, 6));
        assert!(chunks.begin_read(0..1, 6));
        assert!(!chunks.begin_eviction(0, 6));
        assert_eq!(chunks.begin_removal(0), Removal::NotOurs);
        assert!(!chunks.begin_read(0..1, 7), "new readers miss");
        assert_eq!(chunks.begin_store(0, Epoch::default()), Err(SkipReason::BeingEvicted));
        assert_eq!(chunks.end_read(0..1), Vec::<u64>::new());
        assert_eq!(chunks.end_read(0..1), vec![0]);
        chunks.finish_departure(0);
        chunks.begin_store(0, Epoch::default()).unwrap();
    }

    #[test]
    fn a_chunk_whose_files_are_being_unlinked_is_not_promised_to_a_reader_who_could_not_have_it() {
        let mut chunks = with_chunk();
        chunks.leaving = true;
        assert!(!chunks.begin_read(0..1, 6));
        assert!(!chunks.is_present(0));
        chunks.leaving = false;
        assert!(chunks.is_present(0), "they could not be unlinked");
    }

    #[test]
    fn one_storer_writes_a_chunk_and_a_removal_meanwhile_takes_it_away_from_it() {
        let mut chunks = with_chunk();
        chunks.begin_store(1, Epoch::default()).unwrap();
        assert_eq!(chunks.begin_store(1, Epoch::default()), Err(SkipReason::AlreadyThere));
        assert!(!chunks.begin_read(1..2, 6));
        assert_eq!(chunks.begin_removal(1), Removal::NotOurs);
        assert_eq!(chunks.finish_store(1, [2; 32], 7), Removal::Ours);
        assert!(!chunks.is_present(1));
        assert_eq!(chunks.begin_store(3, Epoch::default()), Err(SkipReason::WrongLength));
    }

    #[test]
    fn what_was_asked_for_before_all_was_found_wrong_is_neither_kept_nor_taken() {
        let mut chunks = Chunks::new(3 * CHUNK_BYTES);
        let (before, incarnation) = (chunks.epoch(), chunks.incarnation);
        chunks.begin_store(1, before).unwrap();
        chunks.begin_epoch();
        assert_eq!(chunks.begin_store(2, before), Err(SkipReason::Outdated));
        assert_ne!(chunks.incarnation, incarnation, "its storer changes nothing any more");
        let now = chunks.epoch();
        chunks.begin_store(1, now).unwrap();
        assert_eq!(chunks.finish_store(1, [3; 32], 8), Removal::NotOurs);
        assert!(chunks.is_present(1), "and is in nobody's way");
    }

    #[test]
    fn a_complete_or_pinned_segment_loses_no_single_chunk() {
        let mut chunks = with_chunk();
        chunks.pins = 1;
        assert!(!chunks.begin_eviction(0, 9));
        chunks.pins = 0;
        for chunk in 1..3 {
            chunks.begin_store(chunk, Epoch::default()).unwrap();
            chunks.finish_store(chunk, [1; 32], 5);
        }
        assert!(chunks.is_complete());
        assert_eq!(chunks.present_bytes(), 3 * CHUNK_BYTES - 1);
        assert!(!chunks.begin_eviction(0, 9));
        assert_eq!(chunks.begin_removal(0), Removal::Ours);
        chunks.keep(0);
        assert!(chunks.is_complete());
        assert_eq!(chunks.take_all(), (3, 3 * CHUNK_BYTES - 1));
        assert_eq!(chunks.end_read(0..3), Vec::<u64>::new(), "readers of the old incarnation change nothing");
    }

    #[test]
    fn what_goes_unread_is_counted_once_and_what_was_read_is_not() {
        let of_all = Arc::default();
        let mut chunks = Chunks::new(4 * CHUNK_BYTES - 1).counting_unread_in(&of_all);
        for chunk in 0..4 {
            chunks.begin_store(chunk, Epoch::default()).unwrap();
            chunks.note_unread(chunk);
            // Read out of memory before it was stored.
            if chunk == 0 {
                chunks.note_read(0..1);
            }
            chunks.finish_store(chunk, [1; 32], 5);
        }
        chunks.note_read(1..2);
        assert_eq!(chunks.begin_removal(2), Removal::Ours);
        chunks.keep(2);
        assert_eq!(chunks.unread_gone(), 0, "it stays");
        for chunk in 0..3 {
            chunks.begin_removal(chunk);
            chunks.finish_departure(chunk);
        }
        assert_eq!(chunks.unread_gone(), CHUNK_BYTES);
        chunks.take_all();
        assert_eq!(chunks.unread_gone(), 2 * CHUNK_BYTES - 1);
        assert_eq!(of_all.load(Ordering::Relaxed), 2 * CHUNK_BYTES - 1);
    }

    #[test]
    fn what_is_being_synced_stays_and_what_was_used_since_is_behind_again() {
        let mut chunks = with_chunk();
        let records = chunks.begin_sync();
        assert_eq!(records.len(), 1);
        assert!(!chunks.begin_eviction(0, 9));
        chunks.end_sync(&records, true);
        assert!(chunks.begin_sync().is_empty());
        chunks.touch(0..9, 8);
        let records = chunks.begin_sync();
        assert_eq!(records[0].1.last_use, 8);
        chunks.end_sync(&records, false);
        assert_eq!(chunks.begin_sync().len(), 1);
    }

    #[test]
    fn what_a_failed_sync_may_have_lost_is_checked_again_and_the_rest_is_not() {
        let mut chunks = with_chunk();
        let records = chunks.begin_sync();
        chunks.end_sync(&records, true);
        chunks.begin_store(1, Epoch::default()).unwrap();
        chunks.finish_store(1, [2; 32], 7);
        assert!(chunks.unchecked(0..3).is_empty());
        let records = chunks.begin_sync();
        chunks.end_sync(&records, false);
        chunks.distrust_unsynced();
        assert_eq!(chunks.unchecked(0..3), [1]);
        chunks.mark_checked(1);
        assert!(chunks.unchecked(0..3).is_empty());
    }

    #[test]
    fn absent_runs_are_what_lies_between_chunks() {
        let mut chunks = Chunks::new(5 * CHUNK_BYTES);
        let record = Record { durable: true, last_use: 1, digest: [0; 32] };
        chunks.recover(2, record);
        assert_eq!(chunks.absent_runs(), [0..2, 3..5]);
        chunks.recover(0, record);
        chunks.recover(4, record);
        assert_eq!(chunks.absent_runs(), [1..2, 3..4]);
    }
}
