//! A task that goes on no longer than whoever started it wants it to.

use std::future::Future;

use tokio::task::JoinHandle;

/// See the module's text. Broken off when it is dropped, wherever it waits.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<()>);

impl Task {
    /// Runs `work` in the background.
    pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Waits until it has come to its end, or broke off.
    pub(super) async fn ended(mut self) {
        // A panic has been reported already.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_a_dropped_task_holds_goes_also_when_another_task_waits_for_it() {
        let (held, gone) = oneshot::channel::<()>();
        let inner = Task::spawn(async move {
            let _held = held;
            std::future::pending().await
        });
        let outer = Task::spawn(inner.ended());
        tokio::task::yield_now().await;
        drop(outer);
        assert!(gone.await.is_err());
    }
}
