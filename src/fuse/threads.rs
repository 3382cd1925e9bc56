//! Starting threads, also where there are too many just now.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use crate::base::{Result, ResultExt as _, clock};

/// How long whoever takes over a mount waits for a thread: as many were there a moment ago, and those that waited for a
/// disk last end after 10 s without work (tokio's default).
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// The pause before it is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Starts a thread for `work`; where the system has no more of them, tries it again for as long as `patience`. The handle
/// always has a result.
///
/// # Errors
/// What the system says in the end.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>> {
    let deadline = clock::now() + patience;
    // A thread that does not come about takes what it was to do with it.
    let work = Arc::new(Mutex::new(Some(work)));
    loop {
        let work = Arc::clone(&work);
        let taken = move || {
            let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
            work.map(|work| work())
        };
        match Builder::new().name(name.to_owned()).spawn(taken) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && clock::now() < deadline => {
                sleep(PAUSE);
            }
            started => return started.context(|| "cannot start a thread"),
        }
    }
}
