//! What readers got, from where, and how long they had to wait for it.
//!
//! A read that the cache answers costs one atomic addition here. One that waits is noted under a lock for as long as it
//! does, so that the oldest can be told; beside a request to a registry, that is nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::base::{Histogram, clock};

use super::lock;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Readers {
    disk_bytes: AtomicU64,
    network_bytes: AtomicU64,
    waits: Histogram,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By numbers that grow, so that the first one is the oldest.
    since: BTreeMap<u64, Instant>,
    next: u64,
}

/// From where the bytes of one read came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// From the cache's disk.
    pub disk_bytes: u64,
    /// From the network, or from where in memory it had left them.
    pub network_bytes: u64,
}

impl Served {
    pub(super) fn add(&mut self, from_network: bool, bytes: u64) {
        match from_network {
            true => self.network_bytes += bytes,
            false => self.disk_bytes += bytes,
        }
    }
}

impl std::ops::AddAssign for Served {
    fn add_assign(&mut self, other: Self) {
        self.disk_bytes += other.disk_bytes;
        self.network_bytes += other.network_bytes;
    }
}

impl Readers {
    /// Notes that a reader got `bytes` from the cache.
    pub fn got_cached(&self, bytes: u64) {
        self.disk_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that a reader that may have waited got what `served` says.
    pub fn got(&self, served: Served) {
        self.got_cached(served.disk_bytes);
        self.network_bytes.fetch_add(served.network_bytes, Ordering::Relaxed);
    }

    /// Notes that a reader waits from now on, until what is returned is dropped; its wait is then added to `own` too.
    #[must_use]
    pub fn wait(self: &Arc<Self>, own: &Arc<Histogram>) -> Wait {
        let since = clock::now();
        let mut waiting = lock(&self.waiting);
        let number = waiting.next;
        waiting.next += 1;
        waiting.since.insert(number, since);
        drop(waiting);
        Wait { readers: Arc::clone(self), own: Arc::clone(own), number, since }
    }

    /// What readers got so far.
    #[must_use]
    pub fn served(&self) -> Served {
        Served {
            disk_bytes: self.disk_bytes.load(Ordering::Relaxed),
            network_bytes: self.network_bytes.load(Ordering::Relaxed),
        }
    }

    /// The waits that are over.
    #[must_use]
    pub fn waits(&self) -> &Histogram {
        &self.waits
    }

    /// How long the one has waited that has waited longest and still does.
    #[must_use]
    pub fn longest_waiting(&self) -> Option<Duration> {
        let oldest = lock(&self.waiting).since.first_key_value().map(|(_, since)| *since)?;
        Some(clock::now().saturating_duration_since(oldest))
    }
}

/// A reader that waits.
#[derive(Debug)]
pub struct Wait {
    readers: Arc<Readers>,
    own: Arc<Histogram>,
    number: u64,
    since: Instant,
}

impl Drop for Wait {
    fn drop(&mut self) {
        lock(&self.readers.waiting).since.remove(&self.number);
        let waited = clock::now().saturating_duration_since(self.since);
        self.readers.waits.add(waited);
        self.own.add(waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seen_while_it_lasts_and_counted_when_it_is_over() {
        let (readers, own) = (Arc::new(Readers::default()), Arc::default());
        assert_eq!(readers.longest_waiting(), None);
        let (first, second) = (readers.wait(&own), readers.wait(&own));
        assert!(readers.longest_waiting() >= Some(second.since.elapsed()));
        drop(first);
        assert_eq!(readers.waits().observed().count(), 1);
        assert!(readers.longest_waiting().is_some());
        drop(second);
        assert_eq!(readers.longest_waiting(), None);
        assert_eq!((own.observed().count(), readers.waits().observed()), (2, own.observed()));
    }
}
