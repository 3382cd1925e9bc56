//! The open inodes and how each of them is read: through the page cache of the mount, or by the kernel
//! straight from a file of the cache.
//!
//! The kernel refuses an inode that is open both ways, so the first open decides, and its choice holds
//! until the last close. For the same reason an inode has one registration with the kernel at a time.
//!
//! Files below [`DIRECT_BYTES_MIN`] are never handed to the kernel, so nothing has to be known about their opens; there
//! may be a hundred thousand of them in an archive, each opened for one read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::CHUNK_BYTES;
use crate::content::Kept;
use crate::tree::Ino;

use super::open_table::{CarriedOut, Left, OpenRecord, OpenTable};

/// Bytes from which on a file may be read by the kernel itself. A smaller one is in the page cache after one request.
pub(super) const DIRECT_BYTES_MIN: u64 = CHUNK_BYTES;

/// What the kernel knows a file by that it reads itself.
pub trait Registration {
    /// Its number.
    fn number(&self) -> u32;
}

/// A file that was handed to the kernel; `B` is what the kernel knows it by.
#[derive(Debug)]
pub struct Handed<B> {
    /// The registration, undone when this is dropped.
    pub backing: B,
    /// Keeps the file in the cache for as long.
    pub kept: Kept,
}

/// How an inode is read.
#[derive(Debug)]
pub enum OpenMode<B> {
    /// Requests come to this process.
    Cached,
    /// The kernel reads the file itself.
    Direct(Arc<Handed<B>>),
}

impl<B> Clone for OpenMode<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Cached => Self::Cached,
            Self::Direct(handed) => Self::Direct(Arc::clone(handed)),
        }
    }
}

#[derive(Debug)]
struct OpenFile<B> {
    opens: u32,
    mode: OpenMode<B>,
}

/// See the module's text.
#[derive(Debug)]
pub struct OpenFiles<B> {
    table: Mutex<Table<B>>,
    carried_out: CarriedOut,
    /// What was open, of whatever size, when this process took over.
    inherited: HashSet<Ino>,
}

#[derive(Debug)]
struct Table<B> {
    open: HashMap<Ino, OpenFile<B>>,
    /// Where it is noted for the next process; none where nobody keeps it.
    noted: Option<OpenTable>,
}

impl<B> Default for OpenFiles<B> {
    fn default() -> Self {
        let table = Table { open: HashMap::new(), noted: None };
        Self { table: Mutex::new(table), carried_out: CarriedOut::default(), inherited: HashSet::new() }
    }
}

impl<B: Registration> OpenFiles<B> {
    /// Nothing yet; what comes is noted in `noted`.
    #[must_use]
    pub fn noted(noted: OpenTable) -> Self {
        let table = Table { open: HashMap::new(), noted: Some(noted) };
        Self { table: Mutex::new(table), carried_out: CarriedOut::default(), inherited: HashSet::new() }
    }

    /// What is noted in `noted`, of which `left` is what a process before this one has left. `inherit` makes the
    /// registration of an inode and what keeps its file.
    pub fn noted_in(noted: OpenTable, left: Left, inherit: impl Fn(Ino, u32) -> Handed<B>) -> Self {
        let of_record = |record: OpenRecord| {
            let mode = match record.backing {
                None => OpenMode::Cached,
                Some(number) => OpenMode::Direct(Arc::new(inherit(record.ino, number))),
            };
            (record.ino, OpenFile { opens: record.opens, mode })
        };
        let open: HashMap<_, _> = left.open.into_iter().map(of_record).collect();
        let inherited = open.keys().copied().collect();
        let table = Table { open, noted: Some(noted) };
        Self { table: Mutex::new(table), carried_out: left.carried_out, inherited }
    }

    /// Whether nothing was open, of whatever size, when this process took over.
    #[must_use]
    pub fn began_with_none(&self) -> bool {
        self.inherited.is_empty()
    }

    /// Whether opens of `ino`, a file of `bytes` bytes, are counted by [`Self::open`] and [`Self::close`]; if not, it is
    /// [`OpenMode::Cached`].
    #[must_use]
    pub fn counts(&self, ino: Ino, bytes: u64) -> bool {
        bytes >= DIRECT_BYTES_MIN || self.inherited.contains(&ino)
    }

    /// Counts one more open of `ino`, by the request `unique`, and returns its mode. `hand_over` is asked on the first
    /// one: it gives the file to the kernel, if there is one to give.
    pub fn open(&self, ino: Ino, unique: u64, hand_over: impl FnOnce() -> Option<Handed<B>>) -> OpenMode<B> {
        let counts = !self.carried_out.contains(unique);
        if let Some(mode) = self.lock().join(ino, unique, counts) {
            return mode;
        }
        // Without the lock, as this may wait for the disk. Another open may decide meanwhile; then ours
        // gives way, and is undone when the lock is free again.
        let mode = hand_over().map_or(OpenMode::Cached, |handed| OpenMode::Direct(Arc::new(handed)));
        let mut table = self.lock();
        if let Some(decided) = table.join(ino, unique, true) {
            drop(table);
            return decided;
        }
        table.open.insert(ino, OpenFile { opens: 1, mode: mode.clone() });
        table.note(ino, unique);
        mode
    }

    /// Counts one close of `ino`, by the request `unique`; the last one forgets its mode.
    pub fn close(&self, ino: Ino, unique: u64) {
        if self.carried_out.contains(unique) {
            return;
        }
        let mut table = self.lock();
        let Some(open) = table.open.get_mut(&ino) else { return };
        open.opens -= 1;
        let is_last = open.opens == 0;
        table.note(ino, unique);
        if is_last {
            let last = table.open.remove(&ino);
            drop(table);
            drop(last);
        }
    }
}

impl<B> OpenFiles<B> {
    /// Whether the kernel reads `ino` itself right now.
    #[must_use]
    pub fn is_direct(&self, ino: Ino) -> bool {
        self.lock().open.get(&ino).is_some_and(|open| matches!(open.mode, OpenMode::Direct(_)))
    }

    /// How many inodes are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table<B>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Registration> Table<B> {
    /// The mode of `ino`, if it is open; it is open once more then, if that `counts`.
    fn join(&mut self, ino: Ino, unique: u64, counts: bool) -> Option<OpenMode<B>> {
        let open = self.open.get_mut(&ino)?;
        let mode = open.mode.clone();
        if counts {
            open.opens += 1;
            self.note(ino, unique);
        }
        Some(mode)
    }

    /// Notes how it stands with `ino`, before the kernel is told.
    fn note(&mut self, ino: Ino, unique: u64) {
        let (Some(noted), Some(open)) = (&mut self.noted, self.open.get(&ino)) else { return };
        let backing = match &open.mode {
            OpenMode::Cached => None,
            OpenMode::Direct(handed) => Some(handed.backing.number()),
        };
        if let Err(error) = noted.write(OpenRecord { ino, opens: open.opens, backing }, unique) {
            tracing::error!(%ino, %error, "cannot note an open file; the next process will not know it");
            self.noted = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Registration for u32 {
        fn number(&self) -> u32 {
            *self
        }
    }

    fn handed(backing: u32) -> Option<Handed<u32>> {
        Some(Handed { backing, kept: Kept::default() })
    }

    fn backing(mode: &OpenMode<u32>) -> Option<u32> {
        match mode {
            OpenMode::Cached => None,
            OpenMode::Direct(handed) => Some(handed.backing),
        }
    }

    #[test]
    fn the_first_open_decides_until_the_last_close() {
        let files = OpenFiles::default();
        let ino = Ino(7);
        assert_eq!(backing(&files.open(ino, 0, || None)), None);
        assert_eq!(backing(&files.open(ino, 0, || panic!("decided already"))), None);
        files.close(ino, 0);
        assert_eq!(backing(&files.open(ino, 0, || panic!("still open"))), None);
        files.close(ino, 0);
        files.close(ino, 0);
        assert_eq!(files.count(), 0);
        assert_eq!(backing(&files.open(ino, 0, || handed(3))), Some(3));
        assert_eq!(backing(&files.open(ino, 0, || panic!("one registration"))), Some(3));
        assert!(files.is_direct(ino) && !files.is_direct(Ino(8)));
        files.close(ino, 0);
        files.close(ino, 0);
        files.close(ino, 0);
        assert_eq!(files.count(), 0);
    }

    #[test]
    fn an_open_that_was_overtaken_takes_the_mode_of_the_other() {
        let files = OpenFiles::default();
        let ino = Ino(7);
        let overtaken = files.open(ino, 0, || {
            assert_eq!(backing(&files.open(ino, 0, || handed(1))), Some(1));
            handed(2)
        });
        assert_eq!(backing(&overtaken), Some(1));
        files.close(ino, 0);
        assert!(files.is_direct(ino));
        files.close(ino, 0);
        assert_eq!(files.count(), 0);
    }

    #[test]
    fn a_request_that_comes_again_counts_once() {
        const RESENT: u64 = 1 << 63;
        let file = tempfile::tempfile().unwrap();
        let next = || {
            let (noted, left) = OpenTable::load(file.try_clone().unwrap()).unwrap();
            OpenFiles::noted_in(noted, left, |_, number| handed(number).unwrap())
        };
        let (cached, direct) = (Ino(7), Ino(8));
        let files = next();
        files.open(cached, 2, || None);
        files.open(cached, 4, || panic!("decided already"));
        files.open(direct, 6, || handed(3));
        // The process ends here, and the kernel never got the answers to the last two.
        let files = next();
        assert!(files.counts(direct, 0) && files.counts(cached, 0), "what is open stays counted");
        assert_eq!(backing(&files.open(cached, 4 | RESENT, || panic!("open"))), None);
        assert_eq!(backing(&files.open(direct, 6 | RESENT, || panic!("open"))), Some(3));
        files.close(cached, 8);
        files.close(cached, 10);
        files.close(direct, 12);
        assert_eq!(files.count(), 0);
        assert!(!files.counts(Ino(9), DIRECT_BYTES_MIN - 1) && files.counts(Ino(9), DIRECT_BYTES_MIN));
        // Nor does it get the answer to a close.
        let files = next();
        files.open(direct, 14, || handed(4));
        files.close(direct, 12 | RESENT);
        assert_eq!(files.count(), 1);
    }
}
