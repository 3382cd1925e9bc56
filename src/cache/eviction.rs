//! Room: how much the cache may still take, and what goes first when that is too little.
//!
//! The least recently used goes first, over all segments: chunk by chunk, or as a whole where a segment may
//! only be unlinked. Nothing is reordered at a use. Instead, when room is wanted, one look over all chunks
//! collects the oldest of them, in order, to be used up before the next look. Since a use only ever makes a
//! chunk newer, and one used since is passed over, the order is that of an exact list; and a look costs a few
//! nanoseconds a chunk, for a sixty-fourth of all chunks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::clock;

use super::chunks::Chunks;
use super::disk::{Disk, lock};
use super::stored::{Freed, StoredSegment};
use super::{CachePaths, FreeSpaceFloor};

/// Which part of all chunks one look collects.
const LOOK_PART: usize = 64;

/// What one look collects at least, so that small caches do not look for each chunk.
const LOOK_MIN: usize = 64;

/// What a single store may evict. A store needs one chunk's room; more is owed only when the disk is filled
/// by others, and then it is paid off over many stores and not by one reader alone.
const EVICTIONS_PER_STORE_MAX: u32 = 64;

/// How long an answer of `statvfs` is good for, our own changes reckoned in.
const FREE_SPACE_AGE_MAX: Duration = Duration::from_secs(1);

/// Something that could go.
#[derive(Debug)]
struct Candidate {
    segment: Arc<StoredSegment>,
    /// None: the whole segment.
    chunk: Option<u64>,
    last_use: u64,
}

impl Candidate {
    /// Evicts it, if it was not used since.
    fn evict(&self, disk: &Disk) -> Freed {
        match self.chunk {
            Some(chunk) => self.segment.evict(disk, chunk, self.last_use),
            None => self.segment.unlink_if(disk, |chunks| {
                chunks.is_unit() && !chunks.is_pinned() && chunks.last_use() <= self.last_use
            }),
        }
    }
}

/// The oldest chunks, oldest first.
#[derive(Debug, Default)]
pub(super) struct Oldest {
    queue: Mutex<VecDeque<Candidate>>,
}

impl Oldest {
    /// Evicts the least recently used chunk or unit of `segments`; nothing if nothing may go.
    pub(super) fn evict(&self, disk: &Disk, segments: impl Fn() -> Vec<Arc<StoredSegment>>) -> Option<Freed> {
        let mut looked = false;
        loop {
            let candidate = {
                let mut queue = lock(&self.queue);
                if queue.is_empty() {
                    if looked {
                        return None;
                    }
                    looked = true;
                    *queue = look(&segments());
                }
                queue.pop_front()?
            };
            let freed = candidate.evict(disk);
            if freed.chunks > 0 {
                return Some(freed);
            }
        }
    }

    /// Whether nothing may go.
    pub(super) fn is_none(segments: &[Arc<StoredSegment>]) -> bool {
        look(segments).is_empty()
    }

    /// Forgets what was collected, after everything has changed.
    pub(super) fn forget(&self) {
        lock(&self.queue).clear();
    }
}

fn look(segments: &[Arc<StoredSegment>]) -> VecDeque<Candidate> {
    /// Stands for the whole segment among chunk numbers.
    const WHOLE: u64 = u64::MAX;
    let mut all: Vec<(u64, u32, u64)> = Vec::new();
    for (number, segment) in (0..).zip(segments) {
        let chunks: &Chunks = &segment.chunks();
        if chunks.is_pinned() || chunks.leaving {
            continue;
        }
        if chunks.is_unit() {
            all.push((chunks.last_use(), number, WHOLE));
        } else {
            all.extend(chunks.evictable().map(|(chunk, last_use)| (last_use, number, chunk)));
        }
    }
    let wanted = (all.len() / LOOK_PART).max(LOOK_MIN);
    if wanted < all.len() {
        all.select_nth_unstable(wanted);
        all.truncate(wanted);
    }
    all.sort_unstable();
    all.into_iter()
        .map(|(last_use, number, chunk)| Candidate {
            segment: Arc::clone(&segments[number as usize]),
            chunk: (chunk != WHOLE).then_some(chunk),
            last_use,
        })
        .collect()
}

/// The bounds, and what is known about the file system's free space.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) bytes_max: u64,
    free_space_min: FreeSpaceFloor,
    measured: Mutex<Option<Measured>>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Instant,
    /// Bytes free for us, less what we wrote and more what we gave back since.
    free: i128,
    floor: i128,
}

impl Limits {
    pub(super) fn new(bytes_max: u64, free_space_min: FreeSpaceFloor) -> Self {
        Self { bytes_max, free_space_min, measured: Mutex::new(None) }
    }

    /// Bytes free for us on the directory's file system; 0 if it does not answer.
    pub(super) fn free_bytes(paths: &CachePaths) -> u64 {
        rustix::fs::statvfs(paths.root()).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// How many bytes less than its floor the file system would have free after `bytes` more; zero or negative
    /// if that is allowed.
    fn lacking(&self, disk: &Disk, bytes: u64) -> i128 {
        let known = *lock(&self.measured);
        let now = clock::now();
        let measured = match known {
            Some(measured) if now.duration_since(measured.at) < FREE_SPACE_AGE_MAX => measured,
            _ => {
                let Ok(stat) = rustix::fs::statvfs(disk.paths.root()) else {
                    // The store itself will say what is wrong.
                    return 0;
                };
                let total = stat.f_blocks.saturating_mul(stat.f_frsize);
                let floor = i128::from(self.free_space_min.bytes_of(total));
                let free = i128::from(stat.f_bavail) * i128::from(stat.f_frsize);
                let measured = Measured { at: now, free, floor };
                *lock(&self.measured) = Some(measured);
                measured
            }
        };
        measured.floor + i128::from(bytes) - measured.free
    }

    /// Reckons in what we changed since the last measurement.
    fn changed(&self, bytes: i128) {
        if let Some(measured) = &mut *lock(&self.measured) {
            measured.free += bytes;
        }
    }

    /// Counts `bytes` as used and makes room for them by `evict`; false, and nothing counted, if there is none.
    pub(super) fn make_room(&self, disk: &Disk, bytes: u64, evict: impl Fn() -> Option<Freed>) -> bool {
        if bytes > self.bytes_max {
            return false;
        }
        disk.add_used(bytes);
        for _ in 0..=EVICTIONS_PER_STORE_MAX {
            if disk.used() <= self.bytes_max && self.lacking(disk, bytes) <= 0 {
                self.changed(-i128::from(bytes));
                return true;
            }
            let Some(freed) = evict() else { break };
            self.changed(i128::from(freed.bytes));
        }
        disk.sub_used(bytes);
        // A file system that others fill is to be known; that all is pinned or in use is for the caller to say.
        if self.lacking(disk, bytes) > 0 {
            let error = std::io::Error::other("less would stay free on the file system than is asked for");
            disk.health.refused(&format!("cannot store in {}", disk.paths.root().display()), &error);
        }
        false
    }
}
