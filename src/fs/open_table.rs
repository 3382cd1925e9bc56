//! What outlives the process of its open inodes: how often each is open, and what the kernel reads it from.
//!
//! The table is a file that another process keeps open, in memory or without a name; this one may be killed between any
//! two instructions. So each change is one write of one record, made before the kernel gets its answer, and a record
//! names the last requests that changed it: one that comes again, since its answer was never given, changes nothing.
//!
//! ```text
//!  0  8  the inode
//!  8  4  how often it is open; 0: the record is free
//! 12  4  the registration that the kernel reads it by; 0: requests come to us
//! 16 64  the requests that changed it last, in a ring of 8
//! 80  4  where the ring goes on
//! 84  4  the highest registration that any record has named
//! 88  8  zero
//! ```
//!
//! All in the order of bytes of the machine, which both processes run on.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::tree::Ino;

const RECORD_BYTES: usize = 96;

/// As many as threads serve a mount: a request that is not among the last of its inode has been answered.
const RING: usize = 8;

/// Free records that are left alone, so that what they name is still known when it is asked for.
const FREE_MIN: usize = 2 * RING;

/// The bit that the kernel sets in the number of a request that it sends again (`FUSE_UNIQUE_RESEND`, linux/fuse.h).
const RESENT: u64 = 1 << 63;

/// An inode that was open when the process before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRecord {
    /// The inode.
    pub ino: Ino,
    /// How often it is open.
    pub opens: u32,
    /// The registration that the kernel reads it by.
    pub backing: Option<u32>,
}

/// Requests that were carried out, though perhaps not answered, by the process before this one.
#[derive(Debug, Default)]
pub struct CarriedOut(HashSet<u64>);

impl CarriedOut {
    /// Whether the request with the number `unique` is one of them and comes again.
    #[must_use]
    pub fn contains(&self, unique: u64) -> bool {
        unique & RESENT != 0 && self.0.contains(&(unique & !RESENT))
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct OpenTable {
    file: File,
    slots: HashMap<Ino, Slot>,
    free: VecDeque<u64>,
    len: u64,
    backing_max: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    place: u64,
    ring: [u64; RING],
    next: u32,
}

/// What a table tells that another process has left.
#[derive(Debug, Default)]
pub struct Left {
    /// What is open.
    pub open: Vec<OpenRecord>,
    /// What was done last.
    pub carried_out: CarriedOut,
    /// The highest registration that was ever noted.
    pub backing_max: u32,
}

impl OpenTable {
    /// An empty table in `file`, which is empty.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file, slots: HashMap::new(), free: VecDeque::new(), len: 0, backing_max: 0 }
    }

    /// The table in `file`, with what is in it.
    ///
    /// # Errors
    /// What reading says; `InvalidData` for what no table holds.
    pub fn load(file: File) -> io::Result<(Self, Left)> {
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        let mut left = Left::default();
        let mut table = Self::new(file);
        for record in bytes.chunks(RECORD_BYTES) {
            let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a table of open files is cut short");
            let record: &[u8; RECORD_BYTES] = record.try_into().map_err(|_| invalid())?;
            table.take(record, &mut left);
        }
        left.backing_max = table.backing_max;
        Ok((table, left))
    }

    fn take(&mut self, record: &[u8; RECORD_BYTES], left: &mut Left) {
        let word = |at: usize| record[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        let long = |at: usize| record[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        let ring: [u64; RING] = std::array::from_fn(|at| long(16 + 8 * at));
        let slot = Slot { place: self.len, ring, next: word(80) };
        self.len += 1;
        self.backing_max = self.backing_max.max(word(84));
        left.carried_out.0.extend(ring.iter().filter(|unique| **unique != 0));
        let (ino, opens, backing) = (Ino(long(0)), word(8), word(12));
        if opens == 0 {
            self.free.push_back(slot.place);
            return;
        }
        self.slots.insert(ino, slot);
        left.open.push(OpenRecord { ino, opens, backing: (backing != 0).then_some(backing) });
    }

    /// Notes that `record` is so from now on, by the request `unique`.
    ///
    /// # Errors
    /// What writing says. What is noted is not known any more then.
    pub fn write(&mut self, record: OpenRecord, unique: u64) -> io::Result<()> {
        let mut slot = match self.slots.get(&record.ino) {
            Some(slot) => *slot,
            None => Slot { place: self.free_place(), ..Slot::default() },
        };
        if let Some(place) = slot.ring.get_mut(slot.next as usize % RING) {
            *place = unique & !RESENT;
        }
        slot.next = slot.next.wrapping_add(1);
        self.backing_max = self.backing_max.max(record.backing.unwrap_or(0));
        if record.opens == 0 {
            self.slots.remove(&record.ino);
            self.free.push_back(slot.place);
        } else {
            self.slots.insert(record.ino, slot);
        }
        self.file.write_all_at(&self.encoded(record, slot), slot.place * RECORD_BYTES as u64)
    }

    fn encoded(&self, record: OpenRecord, slot: Slot) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0..8].copy_from_slice(&record.ino.0.to_ne_bytes());
        bytes[8..12].copy_from_slice(&record.opens.to_ne_bytes());
        bytes[12..16].copy_from_slice(&record.backing.unwrap_or(0).to_ne_bytes());
        for (place, unique) in bytes[16..80].chunks_exact_mut(8).zip(slot.ring) {
            place.copy_from_slice(&unique.to_ne_bytes());
        }
        bytes[80..84].copy_from_slice(&slot.next.to_ne_bytes());
        bytes[84..88].copy_from_slice(&self.backing_max.to_ne_bytes());
        bytes
    }

    fn free_place(&mut self) -> u64 {
        if self.free.len() > FREE_MIN
            && let Some(place) = self.free.pop_front()
        {
            return place;
        }
        self.len += 1;
        self.len - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ino: u64, opens: u32, backing: Option<u32>) -> OpenRecord {
        OpenRecord { ino: Ino(ino), opens, backing }
    }

    fn open(left: &Left) -> Vec<OpenRecord> {
        let mut open = left.open.clone();
        open.sort_by_key(|record| record.ino.0);
        open
    }

    #[test]
    fn what_is_open_is_found_again_by_the_next_process() {
        let file = tempfile::tempfile().unwrap();
        let (mut table, left) = OpenTable::load(file.try_clone().unwrap()).unwrap();
        assert!(left.open.is_empty());
        for (record, unique) in [
            (record(5, 1, None), 2),
            (record(6, 1, Some(3)), 4),
            (record(5, 2, None), 6),
            (record(7, 1, Some(9)), 8),
            (record(7, 0, None), 10),
        ] {
            table.write(record, unique).unwrap();
        }
        let (_, left) = OpenTable::load(file).unwrap();
        assert_eq!(open(&left), [record(5, 2, None), record(6, 1, Some(3))]);
        assert_eq!(left.backing_max, 9);
        for unique in [2, 4, 6, 8, 10] {
            assert!(left.carried_out.contains(unique | RESENT), "{unique}");
            assert!(!left.carried_out.contains(unique), "a new request is none of them");
        }
        assert!(!left.carried_out.contains(12 | RESENT));
    }

    #[test]
    fn a_table_takes_no_more_room_than_was_needed_at_once() {
        let file = tempfile::tempfile().unwrap();
        let (mut table, _) = OpenTable::load(file.try_clone().unwrap()).unwrap();
        for ino in 0..10_000 {
            table.write(record(ino, 1, None), 2 * ino).unwrap();
            table.write(record(ino, 0, None), 2 * ino + 1).unwrap();
        }
        assert!(file.metadata().unwrap().len() <= 32 * RECORD_BYTES as u64);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; RECORD_BYTES + 1], 0).unwrap();
        assert!(OpenTable::load(file).is_err());
    }
}
