//! Exponential backoff with full jitter: each pause is drawn from the upper half of a doubling interval, so
//! that clients that failed together do not come back together.

use std::time::Duration;

use rand::Rng as _;

/// The pauses between the attempts of one request.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    pause_max: Duration,
}

impl Backoff {
    /// Pauses that start around `first` and never exceed `pause_max`.
    #[must_use]
    pub fn new(first: Duration, pause_max: Duration) -> Self {
        Self { next: first, pause_max }
    }

    /// The next pause. A registry's own wish (`Retry-After`) counts when it is longer, and is capped too.
    pub fn pause(&mut self, retry_after: Option<Duration>) -> Duration {
        let ceiling = self.next.min(self.pause_max);
        self.next = ceiling.saturating_mul(2);
        let drawn = ceiling.mul_f64(rand::rng().random_range(0.5..=1.0));
        drawn.max(retry_after.unwrap_or_default()).min(self.pause_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_honours_retry_after() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let first = backoff.pause(None);
        assert!(first >= Duration::from_millis(50) && first <= Duration::from_millis(100));
        for _ in 0..8 {
            backoff.pause(None);
        }
        let late = backoff.pause(None);
        assert!(late >= Duration::from_millis(500) && late <= Duration::from_secs(1));
        assert_eq!(backoff.pause(Some(Duration::from_secs(60))), Duration::from_secs(1));
    }
}
