//! What this process has asked of which host, counted for as long as it lives: mounts come and go, and their sources
//! with them.
//!
//! A host is what a route calls it (`HOST[:PORT]`). What it redirects to, and who gives out its tokens, is counted as
//! asked on its behalf: the names of stores are many and say little. At most [`HOSTS_MAX`] hosts are told apart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Hosts that are told apart; more than any configuration names, and few enough for whoever stores metrics.
const HOSTS_MAX: usize = 64;

/// What the hosts beyond those are called.
const OTHERS: &str = "others";

/// The statuses that HTTP knows (RFC 9110, section 15).
const CODES: std::ops::Range<u16> = 100..600;

static HOSTS: Mutex<BTreeMap<String, Arc<HostTraffic>>> = Mutex::new(BTreeMap::new());

/// What one host was asked.
#[derive(Debug)]
pub(super) struct HostTraffic {
    /// By status; the last one is of requests without an answer.
    answers: [AtomicU64; (CODES.end - CODES.start) as usize + 1],
    bytes: AtomicU64,
    set_aside: AtomicU64,
}

/// What was counted for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTotals {
    /// `HOST[:PORT]`.
    pub host: String,
    /// Requests by the status of their answer, without those that never happened; none: there was no answer.
    pub requests: Vec<(Option<u16>, u64)>,
    /// Bytes of blobs.
    pub bytes: u64,
    /// How often it was set aside as a mirror.
    pub set_aside: u64,
}

/// The counters of `host`.
pub(super) fn of(host: &str) -> Arc<HostTraffic> {
    let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    let name = if hosts.len() < HOSTS_MAX || hosts.contains_key(host) { host } else { OTHERS };
    Arc::clone(hosts.entry(name.to_owned()).or_default())
}

/// What was counted for each host since the process began.
#[must_use]
pub fn traffic() -> Vec<HostTotals> {
    let hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    hosts.iter().map(|(host, traffic)| traffic.totals(host)).collect()
}

impl Default for HostTraffic {
    fn default() -> Self {
        let answers = [const { AtomicU64::new(0) }; _];
        Self { answers, bytes: AtomicU64::new(0), set_aside: AtomicU64::new(0) }
    }
}

impl HostTraffic {
    /// Notes that a request was answered with the status `code`, or not at all.
    pub(super) fn answered(&self, code: Option<u16>) {
        let code = code.filter(|code| CODES.contains(code)).unwrap_or(CODES.end);
        self.answers[usize::from(code - CODES.start)].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that `bytes` of a blob came.
    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the host is set aside.
    pub(super) fn set_aside(&self) {
        self.set_aside.fetch_add(1, Ordering::Relaxed);
    }

    fn totals(&self, host: &str) -> HostTotals {
        let counts = self.answers.iter().map(|count| count.load(Ordering::Relaxed));
        let requests = (CODES.start..).zip(counts).filter(|(_, count)| *count > 0);
        HostTotals {
            host: host.to_owned(),
            requests: requests.map(|(code, count)| ((code < CODES.end).then_some(code), count)).collect(),
            bytes: self.bytes.load(Ordering::Relaxed),
            set_aside: self.set_aside.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_their_status() {
        let traffic = HostTraffic::default();
        for code in [Some(206), Some(206), Some(599), Some(7), None] {
            traffic.answered(code);
        }
        traffic.came(5);
        let totals = traffic.totals("h");
        assert_eq!(totals.requests, [(Some(206), 2), (Some(599), 1), (None, 2)]);
        assert_eq!((totals.bytes, totals.set_aside), (5, 0));
    }

    #[test]
    fn the_hosts_that_are_told_apart_have_a_bound() {
        for number in 0..3 * HOSTS_MAX {
            of(&format!("host-{number}.example")).came(1);
        }
        let hosts = traffic();
        assert!(hosts.len() <= HOSTS_MAX + 1);
        assert!(hosts.iter().any(|host| host.host == OTHERS && host.bytes >= 2 * HOSTS_MAX as u64 - 10));
    }
}
