//! What is known of one host from its answers: what it has served, and for what it is set aside and until when.
//!
//! | from     | to        | when                                                                    |
//! |----------|-----------|-------------------------------------------------------------------------|
//! | in use   | set aside | an attempt failed; for all blobs, or for the one that the host lacks     |
//! | set aside| in use    | its pause is over. The next failure's pause is twice as long             |
//! | any      | in use    | it served something well: the pauses begin anew                          |
//! | any      | distrusted| bytes of a blob did not match its digest: for that blob, and for good    |
//!
//! Set aside means last, not never: where all others fail too, it is asked all the same.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::{Digest, Error, ErrorKind, clock};

/// The first pause: long enough not to ask a dead mirror for every range, short enough for one that restarts.
const PAUSE_FIRST: Duration = Duration::from_secs(5);

/// The longest pause, also where a host asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What `status` tells of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// `HOST[:PORT]`.
    pub host: String,
    /// Whether it stands in for another one.
    pub is_mirror: bool,
    /// Requests that it was sent, for manifests and ranges of blobs.
    pub requests: u64,
    /// Bytes of blobs that it served.
    pub bytes: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// What the last one of these failed with.
    pub last_failure: Option<String>,
    /// How many more seconds it is set aside, for everything.
    pub set_aside_seconds: Option<u64>,
    /// Blobs whose bytes, as it served them, did not match their digest.
    pub distrusted_blobs: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Record {
    requests: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: for everything.
    aside: HashMap<Option<Digest>, Aside>,
    /// Blobs of which something came.
    served: HashSet<Digest>,
    distrusted: HashSet<Digest>,
    last_failure: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Aside {
    pause: Duration,
    until: Instant,
}

/// In which place a host is asked: lower ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// In the order of the configuration.
    InUse,
    /// The one that is back soonest first.
    Aside(Instant),
    Distrusted,
}

impl Record {
    /// Its turn for `digest`, or for what a tag means.
    pub(super) fn turn(&self, digest: Option<&Digest>) -> Turn {
        let state = self.state();
        if digest.is_some_and(|digest| state.distrusted.contains(digest)) {
            return Turn::Distrusted;
        }
        let scopes = [None, digest.cloned()];
        let until = scopes.iter().filter_map(|scope| state.aside.get(scope)).map(|aside| aside.until).max();
        until.filter(|until| *until > clock::now()).map_or(Turn::InUse, Turn::Aside)
    }

    /// Notes that a request is being sent.
    pub(super) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that bytes of `digest` are coming.
    pub(super) fn serves(&self, digest: &Digest) {
        self.state().served.insert(digest.clone());
    }

    /// Notes that `bytes` came.
    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that it has served something well.
    pub(super) fn succeeded(&self) {
        self.state().aside.clear();
    }

    /// Notes a failure; returns the pause for which it is set aside. For `digest` alone, if that is what it lacks.
    pub(super) fn failed(&self, digest: Option<&Digest>, error: &Error) -> Duration {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let scope = digest.filter(|_| error.kind() == ErrorKind::NotFound).cloned();
        let mut state = self.state();
        state.last_failure = Some(error.chain());
        let next = state.aside.get(&scope).map_or(PAUSE_FIRST, |aside| aside.pause * 2);
        let pause = next.max(error.retry_after().unwrap_or_default()).min(PAUSE_MAX);
        state.aside.insert(scope, Aside { pause, until: clock::now() + pause });
        pause
    }

    /// Notes that what came of `digest` was wrong; says whether this host had a part in it.
    pub(super) fn distrust(&self, digest: &Digest) -> bool {
        let mut state = self.state();
        let has_served = state.served.remove(digest);
        if has_served {
            state.distrusted.insert(digest.clone());
        }
        has_served
    }

    /// What `status` tells; whoever asks knows which host it is.
    pub(super) fn status(&self) -> HostStatus {
        let state = self.state();
        let left = state.aside.get(&None).map(|aside| aside.until.saturating_duration_since(clock::now()));
        HostStatus {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            last_failure: state.last_failure.clone(),
            set_aside_seconds: left.filter(|left| !left.is_zero()).map(|left| left.as_secs() + 1),
            distrusted_blobs: state.distrusted.len() as u64,
            ..HostStatus::default()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Algorithm;

    #[test]
    fn pauses_grow_until_something_is_served_well() {
        let record = Record::default();
        let failure = Error::new(ErrorKind::Unavailable, "no answer");
        assert_eq!(record.turn(None), Turn::InUse);
        let pauses: Vec<u64> = (0..8).map(|_| record.failed(None, &failure).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert!(matches!(record.turn(None), Turn::Aside(_)));
        record.succeeded();
        assert_eq!(record.turn(None), Turn::InUse);
        assert_eq!(record.failed(None, &failure.after(Duration::from_secs(77))).as_secs(), 77);
    }

    #[test]
    fn a_blob_that_is_missing_says_nothing_about_the_others() {
        let record = Record::default();
        let digests = [&b"a"[..], b"b"].map(|bytes| Digest::of(Algorithm::Sha256, bytes));
        record.failed(Some(&digests[0]), &Error::new(ErrorKind::NotFound, "404"));
        assert!(matches!(record.turn(Some(&digests[0])), Turn::Aside(_)));
        assert_eq!(record.turn(Some(&digests[1])), Turn::InUse);
        assert_eq!(record.status().set_aside_seconds, None);
    }

    #[test]
    fn only_who_served_a_blob_is_distrusted_for_it() {
        let (served, other) = (Record::default(), Record::default());
        let digest = Digest::of(Algorithm::Sha256, b"a");
        served.serves(&digest);
        assert!(served.distrust(&digest) && !other.distrust(&digest));
        assert_eq!((served.turn(Some(&digest)), other.turn(Some(&digest))), (Turn::Distrusted, Turn::InUse));
        assert_eq!(served.turn(None), Turn::InUse);
    }
}
