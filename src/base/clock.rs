//! The one place that asks what time it is.

use std::time::{Duration, Instant, SystemTime};

/// Monotonic time, for intervals and deadlines.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one home of ambient time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970 by the wall clock; zero if the clock stands before that.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one home of ambient time")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
