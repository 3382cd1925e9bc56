//! A turn at reading a whole layer: there are few, because each keeps a core busy.
//!
//! Whoever has one and gets nothing from its source lends it to others meanwhile: a registry that is away must not keep
//! the layers of all others from being read.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long nothing may come before the turn is lent: longer than any answer of a registry that is well.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module's text. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Semaphore>,
    /// None while it is lent.
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Waits for one of `turns`.
    pub(super) async fn take(turns: &Arc<Semaphore>) -> Self {
        let mut turn = Self { turns: Arc::clone(turns), permit: None };
        turn.take_back().await;
        turn
    }

    async fn take_back(&mut self) {
        // Nobody closes it.
        self.permit = Arc::clone(&self.turns).acquire_owned().await.ok();
    }

    /// Waits for `coming`, which costs no time of a core. If that takes long, others have the turn until it is there, and
    /// it is waited for again.
    pub(super) async fn lend_while<F: Future>(&mut self, coming: F) -> F::Output {
        tokio::pin!(coming);
        if let Ok(came) = tokio::time::timeout(PATIENCE, &mut coming).await {
            return came;
        }
        self.permit = None;
        let came = coming.await;
        self.take_back().await;
        came
    }
}
