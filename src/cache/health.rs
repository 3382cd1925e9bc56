//! Whether the disk takes what is stored, and since when not.
//!
//! A refusal stops all stores for a pause, so that a full or broken disk costs one failed attempt in that
//! time and not one for each chunk; the first store that works ends it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::base::clock;

use super::disk::lock;

/// How long stores pause after a refusal. Long enough to cost nothing, short against the time in which
/// somebody makes room.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Refusal {
    reason: String,
    /// Seconds since 1970.
    since: u64,
    retry_at: Instant,
}

/// What the disk last said.
#[derive(Debug)]
pub(super) struct Health {
    pause: Duration,
    /// Whether `refusal` holds one, so that the usual case takes no lock.
    refused: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
}

impl Health {
    pub(super) fn new(pause: Duration) -> Self {
        Self { pause, refused: AtomicBool::new(false), refusal: Mutex::new(None) }
    }

    /// Whether a store may be tried now. After a pause, one caller in each pause may.
    pub(super) fn may_try(&self) -> bool {
        if !self.refused.load(Ordering::Acquire) {
            return true;
        }
        let now = clock::now();
        match &mut *lock(&self.refusal) {
            Some(refusal) if now < refusal.retry_at => false,
            Some(refusal) => {
                refusal.retry_at = now + self.pause;
                true
            }
            None => true,
        }
    }

    /// The disk refused to do `what`.
    pub(super) fn refused(&self, what: &str, error: &std::io::Error) {
        let reason = format!("{what}: {error}");
        let mut refusal = lock(&self.refusal);
        let since = match &*refusal {
            Some(before) => before.since,
            None => clock::unix_time().as_secs(),
        };
        if refusal.as_ref().is_none_or(|before| before.reason != reason) {
            tracing::warn!(reason, "the cache is degraded: reads go on without storing");
        }
        *refusal = Some(Refusal { reason, since, retry_at: clock::now() + self.pause });
        self.refused.store(true, Ordering::Release);
    }

    /// A store worked.
    pub(super) fn worked(&self) {
        if self.refused.load(Ordering::Acquire) {
            self.refused.store(false, Ordering::Release);
            if lock(&self.refusal).take().is_some() {
                tracing::info!("the cache stores again");
            }
        }
    }

    /// Why nothing is stored and since when, if so.
    pub(super) fn degraded(&self) -> Option<String> {
        let refusal = lock(&self.refusal);
        refusal.as_ref().map(|refusal| {
            let since =
                i64::try_from(refusal.since).ok().and_then(|since| jiff::Timestamp::from_second(since).ok());
            format!("{} (since {})", refusal.reason, since.unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_refusal_nothing_is_tried_within_the_pause() {
        let health = Health::new(Duration::from_secs(3600));
        assert!(health.may_try());
        health.refused("cannot write x", &std::io::Error::from_raw_os_error(28));
        assert!(!health.may_try());
        assert!(health.degraded().unwrap().contains("cannot write x: No space left on device"));
        health.worked();
        assert!(health.may_try());
        assert_eq!(health.degraded(), None);
    }

    #[test]
    fn after_the_pause_it_is_tried_again() {
        let health = Health::new(Duration::ZERO);
        health.refused("cannot write x", &std::io::Error::from_raw_os_error(28));
        assert!(health.may_try());
        assert!(health.degraded().is_some(), "until one works");
    }
}
