//! The open inodes and how each of them is read: through the page cache of the mount, or by the kernel
//! straight from a file of the cache.
//!
//! The kernel refuses an inode that is open both ways, so the first open decides, and its choice holds
//! until the last close. For the same reason an inode has one registration with the kernel at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::content::DirectFile;
use crate::tree::Ino;

/// A file that was handed to the kernel; `B` is what the kernel knows it by.
#[derive(Debug)]
pub struct Handed<B> {
    /// The registration, undone when this is dropped.
    pub backing: B,
    /// Keeps the file in the cache for as long.
    pub file: DirectFile,
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
    opens: u64,
    mode: OpenMode<B>,
}

/// See the module's text.
#[derive(Debug)]
pub struct OpenFiles<B> {
    table: Mutex<HashMap<Ino, OpenFile<B>>>,
}

impl<B> Default for OpenFiles<B> {
    fn default() -> Self {
        Self { table: Mutex::default() }
    }
}

impl<B> OpenFiles<B> {
    /// Counts one more open of `ino` and returns its mode. `hand_over` is asked on the first one: it gives
    /// the file to the kernel, if there is one to give.
    pub fn open(&self, ino: Ino, hand_over: impl FnOnce() -> Option<Handed<B>>) -> OpenMode<B> {
        if let Some(mode) = Self::join(&mut self.lock(), ino) {
            return mode;
        }
        // Without the lock, as this may wait for the disk. Another open may decide meanwhile; then ours
        // gives way, and is undone when the lock is free again.
        let mode = hand_over().map_or(OpenMode::Cached, |handed| OpenMode::Direct(Arc::new(handed)));
        let mut table = self.lock();
        if let Some(decided) = Self::join(&mut table, ino) {
            drop(table);
            return decided;
        }
        table.insert(ino, OpenFile { opens: 1, mode: mode.clone() });
        mode
    }

    /// Counts one close of `ino`; the last one forgets its mode.
    pub fn close(&self, ino: Ino) {
        let mut table = self.lock();
        let Some(open) = table.get_mut(&ino) else { return };
        open.opens -= 1;
        if open.opens == 0 {
            let last = table.remove(&ino);
            drop(table);
            drop(last);
        }
    }

    /// Whether the kernel reads `ino` itself right now.
    #[must_use]
    pub fn is_direct(&self, ino: Ino) -> bool {
        self.lock().get(&ino).is_some_and(|open| matches!(open.mode, OpenMode::Direct(_)))
    }

    /// How many inodes are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn join(table: &mut HashMap<Ino, OpenFile<B>>, ino: Ino) -> Option<OpenMode<B>> {
        let open = table.get_mut(&ino)?;
        open.opens += 1;
        Some(open.mode.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ino, OpenFile<B>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(backing: u32) -> Option<Handed<u32>> {
        Some(Handed { backing, file: DirectFile::unpinned(tempfile::tempfile().unwrap()) })
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
        assert_eq!(backing(&files.open(ino, || None)), None);
        assert_eq!(backing(&files.open(ino, || panic!("decided already"))), None);
        files.close(ino);
        assert_eq!(backing(&files.open(ino, || panic!("still open"))), None);
        files.close(ino);
        files.close(ino);
        assert_eq!(files.count(), 0);
        assert_eq!(backing(&files.open(ino, || handed(3))), Some(3));
        assert_eq!(backing(&files.open(ino, || panic!("one registration"))), Some(3));
        assert!(files.is_direct(ino) && !files.is_direct(Ino(8)));
        files.close(ino);
        files.close(ino);
        files.close(ino);
        assert_eq!(files.count(), 0);
    }

    #[test]
    fn an_open_that_was_overtaken_takes_the_mode_of_the_other() {
        let files = OpenFiles::default();
        let ino = Ino(7);
        let overtaken = files.open(ino, || {
            assert_eq!(backing(&files.open(ino, || handed(1))), Some(1));
            handed(2)
        });
        assert_eq!(backing(&overtaken), Some(1));
        files.close(ino);
        assert!(files.is_direct(ino));
        files.close(ino);
        assert_eq!(files.count(), 0);
    }
}
