//! How much is asked of one source at once.
//!
//! Each source has its own limits: requests that hang at one registry, or a limit that it sets, are nothing to
//! the mounts of another.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::clock;

use super::lock;
use super::state::RunKind;

/// Requests under way for readers at once. A registry spends about 5 ms of CPU on each, so that more in
/// parallel only wait for each other there; this many cover links with delay.
const DEMAND_REQUESTS_MAX: usize = 16;

/// Requests under way for read-ahead at once, apart from those for readers, which never wait for these.
const AHEAD_REQUESTS_MAX: usize = 6;

/// See the module's text.
#[derive(Debug)]
pub(super) struct SourceLimits {
    demand_requests: Arc<Semaphore>,
    ahead_requests: Arc<Semaphore>,
    slowed_until: Mutex<Option<Instant>>,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self {
            demand_requests: Arc::new(Semaphore::new(DEMAND_REQUESTS_MAX)),
            ahead_requests: Arc::new(Semaphore::new(AHEAD_REQUESTS_MAX)),
            slowed_until: Mutex::new(None),
        }
    }
}

impl SourceLimits {
    /// Waits for a turn to make a request. The limits are never closed, so there is always one in the end.
    pub(super) async fn permit(&self, kind: RunKind) -> Option<OwnedSemaphorePermit> {
        let requests = match kind {
            RunKind::Demand => &self.demand_requests,
            RunKind::Ahead | RunKind::Prefetch => {
                self.wait_while_slowed().await;
                &self.ahead_requests
            }
        };
        requests.clone().acquire_owned().await.ok()
    }

    /// Lets no read-ahead begin for `pause`.
    pub(super) fn slow_read_ahead(&self, pause: Duration) {
        let until = clock::now() + pause;
        let mut slowed = lock(&self.slowed_until);
        *slowed = Some(slowed.map_or(until, |before| before.max(until)));
    }

    async fn wait_while_slowed(&self) {
        let until = *lock(&self.slowed_until);
        if let Some(until) = until {
            tokio::time::sleep_until(until.into()).await;
        }
    }
}
