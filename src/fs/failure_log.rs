//! The log of failed reads: every one names what failed, but a reader that tries again and again does not
//! fill the disk with it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::base::{Digest, Error, clock};

/// Lines written in one [`WINDOW`]; 128 threads that fail together say the same thing.
const LINES_MAX: u32 = 16;

/// After this a new count begins.
const WINDOW: Duration = Duration::from_secs(10);

/// One failed read.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub(super) reference: &'a str,
    pub(super) path: &'a str,
    pub(super) digest: &'a Digest,
    pub(super) file_offset: u64,
    pub(super) error: &'a Error,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    window: Mutex<Option<Window>>,
    /// Whether the end of a growing tree has been written of.
    end: OnceLock<()>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    failures: u32,
}

impl FailureLog {
    /// Writes `failure`, unless many were written just now.
    pub(super) fn report(&self, failure: &Failure<'_>) {
        let Admission::Write { suppressed } = self.admit(clock::now()) else { return };
        if suppressed > 0 {
            tracing::warn!(reference = failure.reference, "{suppressed} more reads failed meanwhile");
        }
        tracing::error!(
            reference = failure.reference,
            path = failure.path,
            digest = %failure.digest,
            offset = failure.file_offset,
            "a read failed: {}",
            failure.error.chain(),
        );
    }

    /// Writes that a tree that was growing will never be whole, once.
    pub(super) fn report_end(&self, reference: &str, error: &Error) {
        self.end.get_or_init(|| {
            tracing::error!(reference, "the layers could not be read to their end: {}", error.chain());
        });
    }

    /// Writes that something did not become known, unless many failures were written just now.
    pub(super) fn report_unknown(&self, reference: &str, error: &Error) {
        let Admission::Write { suppressed } = self.admit(clock::now()) else { return };
        if suppressed > 0 {
            tracing::warn!(reference, "{suppressed} more reads failed meanwhile");
        }
        tracing::error!(reference, "a name was waited for in vain: {}", error.chain());
    }

    fn admit(&self, now: Instant) -> Admission {
        let mut window = self.lock();
        match window.as_mut() {
            Some(current) if now.saturating_duration_since(current.start) < WINDOW => {
                current.failures = current.failures.saturating_add(1);
                match current.failures <= LINES_MAX {
                    true => Admission::Write { suppressed: 0 },
                    false => Admission::Suppress,
                }
            }
            past => {
                let suppressed = past.map_or(0, |past| past.failures.saturating_sub(LINES_MAX));
                *window = Some(Window { start: now, failures: 1 });
                Admission::Write { suppressed }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Window>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Write { suppressed: u32 },
    Suppress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_short_and_counted_afterwards() {
        let log = FailureLog::default();
        let start = clock::now();
        for _ in 0..LINES_MAX {
            assert_eq!(log.admit(start), Admission::Write { suppressed: 0 });
        }
        for _ in 0..5 {
            assert_eq!(log.admit(start), Admission::Suppress);
        }
        assert_eq!(log.admit(start + WINDOW), Admission::Write { suppressed: 5 });
        assert_eq!(log.admit(start + WINDOW * 3), Admission::Write { suppressed: 0 });
    }
}
