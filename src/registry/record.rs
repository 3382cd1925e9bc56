//! What is known of one host from its answers: what it has served, and for what it is set aside and until when.
//!
//! | from     | to        | when                                                                    |
//! |----------|-----------|-------------------------------------------------------------------------|
//! | in use   | set aside | an attempt failed; for all blobs, or for the one that the host lacks     |
//! | in use   | set aside | what it sent of a blob makes little sense: for that blob                 |
//! | set aside| in use    | its pause is over. The next failure's pause is twice as long             |
//! | set aside| in use    | it served something well: the pauses begin anew. What it lacks, it lacks |
//! | any      | suspected | bytes of a blob that several have served did not match its digest        |
//! | any      | distrusted| the same, and it has served them alone, or was suspected before          |
//!
//! Set aside and suspected mean later, not never: where all others fail too, such a host is asked all the same. One that
//! is distrusted for a blob is not asked for it as long as there is any other, however ill that one is: it would only
//! send the same bytes again, and again.

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
    /// Blobs whose bytes, as it served them, did not match their digest; without those of which others have served a part.
    pub distrusted_blobs: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Record {
    requests: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    /// Raised whenever what it has served of a blob is forgotten.
    accusations: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: for everything.
    aside: HashMap<Option<Digest>, Aside>,
    /// Blobs of which something came since they were last found to be wrong.
    served: HashSet<Digest>,
    accused: HashMap<Digest, Accused>,
    has_served_well: bool,
    last_failure: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Aside {
    pause: Duration,
    until: Instant,
}

/// What a failure of a host means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetAside {
    /// For how long it is set aside.
    pub(super) pause: Duration,
    /// Whether it was in use before; otherwise it was asked for want of others, or together with the one that failed first.
    pub(super) was_in_use: bool,
}

/// How certain it is that a host sent wrong bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accused {
    Suspected,
    Distrusted,
}

/// In which place a host is asked: lower ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// In the order of the configuration.
    InUse,
    /// The one that is back soonest first.
    Aside(Instant),
    Suspected,
    Distrusted,
}

impl Record {
    /// Its turn for `digest`, or for what a tag means.
    pub(super) fn turn(&self, digest: Option<&Digest>) -> Turn {
        self.turn_at(clock::now(), digest)
    }

    fn turn_at(&self, now: Instant, digest: Option<&Digest>) -> Turn {
        let state = self.state();
        match digest.and_then(|digest| state.accused.get(digest)) {
            Some(Accused::Distrusted) => return Turn::Distrusted,
            Some(Accused::Suspected) => return Turn::Suspected,
            None => {}
        }
        let scopes = [None, digest.cloned()];
        let until = scopes.iter().filter_map(|scope| state.aside.get(scope)).map(|aside| aside.until).max();
        until.filter(|until| *until > now).map_or(Turn::InUse, Turn::Aside)
    }

    /// Notes that a request is being sent.
    pub(super) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that `bytes` of a body came.
    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that bytes of `digest` came. It is to be said again when [`Self::accusations`] has moved: a body that goes
    /// on while its host is accused brings what it has no part in yet.
    pub(super) fn serves(&self, digest: &Digest) {
        self.state().served.insert(digest.clone());
    }

    pub(super) fn accusations(&self) -> u64 {
        self.accusations.load(Ordering::Acquire)
    }

    /// Notes that it has served something well: of the blob `digest`, or what a tag means.
    pub(super) fn succeeded(&self, digest: Option<&Digest>) {
        let mut state = self.state();
        state.has_served_well = true;
        state.aside.remove(&None);
        if digest.is_some() {
            state.aside.remove(&digest.cloned());
        }
    }

    /// Whether it ever did.
    pub(super) fn has_served_well(&self) -> bool {
        self.state().has_served_well
    }

    /// Notes a failure, for which the host is set aside. For `digest` alone, if that is what it lacks.
    pub(super) fn failed(&self, digest: Option<&Digest>, error: &Error) -> SetAside {
        self.failed_at(clock::now(), digest, error)
    }

    fn failed_at(&self, now: Instant, digest: Option<&Digest>, error: &Error) -> SetAside {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let scope = digest.filter(|_| error.kind() == ErrorKind::NotFound).cloned();
        let mut state = self.state();
        state.last_failure = Some(error.chain());
        let (next, was_in_use) = match state.aside.get(&scope) {
            None => (PAUSE_FIRST, true),
            // Requests that were under way together fail together, and for one reason.
            Some(aside) if aside.until > now => (aside.pause, false),
            Some(aside) => (aside.pause * 2, true),
        };
        let pause = next.max(error.retry_after().unwrap_or_default()).min(PAUSE_MAX);
        state.aside.insert(scope, Aside { pause, until: now + pause });
        SetAside { pause, was_in_use }
    }

    /// Notes that what came of `digest` makes little sense, which nobody can prove; says whether this host had a part in
    /// it. Somebody else may see whether it is the same there.
    pub(super) fn doubt(&self, digest: &Digest) -> bool {
        let mut state = self.state();
        let has_served = state.served.contains(digest);
        if has_served {
            let aside = Aside { pause: PAUSE_FIRST, until: clock::now() + PAUSE_FIRST };
            state.aside.insert(Some(digest.clone()), aside);
        }
        has_served
    }

    /// Whether it had a part in what came of `digest` until now.
    pub(super) fn take_part(&self, digest: &Digest) -> bool {
        let has_served = self.state().served.remove(digest);
        self.accusations.fetch_add(1, Ordering::Release);
        has_served
    }

    /// Notes that what came of `digest` was wrong, and that this host had a part in it, or sent all of it.
    pub(super) fn accuse(&self, digest: &Digest, is_alone: bool) {
        let mut state = self.state();
        let is_certain = is_alone || state.accused.contains_key(digest);
        let accused = if is_certain { Accused::Distrusted } else { Accused::Suspected };
        state.accused.insert(digest.clone(), accused);
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
            distrusted_blobs: state
                .accused
                .values()
                .filter(|accused| **accused == Accused::Distrusted)
                .count() as u64,
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
        let mut now = clock::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = record.failed_at(now, None, &failure).pause;
            assert_eq!(record.turn_at(now, None), Turn::Aside(now + pause));
            now += pause;
            assert_eq!(record.turn_at(now, None), Turn::InUse, "it is used again after its pause");
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        record.succeeded(None);
        assert_eq!(record.failed_at(now, None, &failure).pause, PAUSE_FIRST);
        record.succeeded(None);
        assert_eq!(record.turn_at(now, None), Turn::InUse);
        assert_eq!(record.failed(None, &failure.after(Duration::from_secs(77))).pause.as_secs(), 77);
    }

    #[test]
    fn requests_that_fail_together_are_one_failure() {
        let record = Record::default();
        let failure = Error::new(ErrorKind::Unavailable, "reset");
        let now = clock::now();
        for turn in 0..16 {
            let aside = SetAside { pause: PAUSE_FIRST, was_in_use: turn == 0 };
            assert_eq!(record.failed_at(now, None, &failure), aside);
        }
        assert_eq!(record.turn_at(now + PAUSE_FIRST, None), Turn::InUse);
        assert_eq!(record.status().failures, 16);
    }

    fn digests() -> [Digest; 2] {
        [&b"a"[..], b"b"].map(|bytes| Digest::of(Algorithm::Sha256, bytes))
    }

    #[test]
    fn a_blob_that_is_missing_says_nothing_about_the_others() {
        let record = Record::default();
        let digests = digests();
        record.failed(Some(&digests[0]), &Error::new(ErrorKind::NotFound, "404"));
        assert!(matches!(record.turn(Some(&digests[0])), Turn::Aside(_)));
        assert_eq!(record.turn(Some(&digests[1])), Turn::InUse);
        assert_eq!(record.status().set_aside_seconds, None);
        record.succeeded(Some(&digests[1]));
        assert!(matches!(record.turn(Some(&digests[0])), Turn::Aside(_)), "nor do they about it");
        record.succeeded(Some(&digests[0]));
        assert_eq!(record.turn(Some(&digests[0])), Turn::InUse);
    }

    #[test]
    fn who_served_a_blob_alone_is_distrusted_for_it_and_several_are_suspected_first() {
        let digest = &digests()[0];
        let record = Record::default();
        assert!(!record.take_part(digest));
        record.serves(digest);
        assert!(record.take_part(digest) && !record.take_part(digest));
        record.accuse(digest, false);
        assert_eq!((record.turn(Some(digest)), record.turn(None)), (Turn::Suspected, Turn::InUse));
        assert_eq!(record.status().distrusted_blobs, 0);
        record.accuse(digest, false);
        assert_eq!((record.turn(Some(digest)), record.status().distrusted_blobs), (Turn::Distrusted, 1));
        let alone = Record::default();
        alone.accuse(digest, true);
        assert_eq!(alone.turn(Some(digest)), Turn::Distrusted);
    }

    #[test]
    fn a_doubt_is_for_one_blob_and_passes() {
        let [digest, other] = &digests();
        let record = Record::default();
        assert!(!record.doubt(digest));
        record.serves(digest);
        assert!(record.doubt(digest));
        assert!(matches!(record.turn(Some(digest)), Turn::Aside(_)));
        assert_eq!(record.turn(Some(other)), Turn::InUse);
        assert_eq!(record.turn_at(clock::now() + PAUSE_FIRST, Some(digest)), Turn::InUse);
        assert_eq!(record.status().failures, 0);
    }
}
