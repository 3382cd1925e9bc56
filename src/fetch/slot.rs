//! A chunk on its way: one fetch completes it, every reader that wants it waits for it.

use bytes::Bytes;
use tokio::sync::watch;

use crate::base::{Error, ErrorKind, Result};

/// The place where a chunk will be. Completed once; later completions are ignored, so that whichever fetch
/// comes first wins.
#[derive(Debug)]
pub(super) struct Slot {
    state: watch::Sender<Option<Result<Bytes>>>,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(None) }
    }

    /// A slot whose chunk is here already.
    pub(super) fn filled(bytes: Bytes) -> Self {
        Self { state: watch::Sender::new(Some(Ok(bytes))) }
    }

    /// Hands `result` to all that wait now or later.
    pub(super) fn complete(&self, result: Result<Bytes>) {
        self.state.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(result);
            }
            first
        });
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state.borrow().is_some()
    }

    /// Waits for the chunk's bytes, without a bound of its own.
    pub(super) async fn wait(&self) -> Result<Bytes> {
        let mut receiver = self.state.subscribe();
        let state = receiver.wait_for(Option::is_some).await;
        match state.as_deref() {
            Ok(Some(result)) => result.clone(),
            // The sender is `self`, so it cannot be gone while this waits.
            Ok(None) | Err(_) => Err(Error::new(ErrorKind::Unavailable, "the fetch was given up")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_completion_wins_and_late_waiters_get_it_too() {
        let slot = std::sync::Arc::new(Slot::new());
        let early = tokio::spawn({
            let slot = slot.clone();
            async move { slot.wait().await }
        });
        tokio::task::yield_now().await;
        slot.complete(Ok(Bytes::from_static(b"one")));
        slot.complete(Err(Error::new(ErrorKind::Io, "too late")));
        assert_eq!(early.await.unwrap().unwrap(), "one");
        assert_eq!(slot.wait().await.unwrap(), "one");
    }
}
