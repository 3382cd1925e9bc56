//! An owner as a service: it stays without mounts, mounts again what was mounted before, and tells the service manager
//! how it is, through its holder.
//!
//! It is ready when its socket answers and everything that was mounted is mounted again, or was tried. The watchdog is
//! fed by a question to the control socket, as anybody would ask it: an owner that does not answer gets no more time.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::base::Result;
use crate::cache::CacheSettings;
use crate::daemon::Client;
use crate::daemon::mounts::Mounts;
use crate::daemon::persisted::Records;
use crate::daemon::restore;
use crate::keeper::{self, Inherited, Keeper};

use super::{Owner, Told, UNMOUNT_LIMIT, leave, sync_now_and_then};

/// How long readiness may wait for what is mounted again; the rest goes on.
const RESTORE_LIMIT: Duration = Duration::from_secs(30);

/// How often the status is looked at, beside every change of the mounts' number.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The pause before the own socket is asked again.
const ANSWER_PAUSE: Duration = Duration::from_millis(50);

/// How an owner is a service.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Whether SIGTERM leaves the mounts to the next one.
    pub keeps_mounts: bool,
    /// Whether what was mounted before is mounted again.
    pub restores: bool,
}

/// A service, and what it works with.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) service: Service,
    pub(super) records: Arc<Records>,
    pub(super) keeper: Arc<Keeper>,
    /// Whether another program serves on if this one does not come to it.
    pub(super) is_on_trial: bool,
    /// Told when the holder is gone.
    pub(super) holder_gone: Option<oneshot::Receiver<()>>,
}

impl Owner {
    /// As [`Self::start_held`], for a service, which notes what is mounted.
    ///
    /// # Errors
    /// As [`Self::start_held`]; `Io` when nothing can be noted.
    pub fn start_service(
        settings: CacheSettings,
        metrics_addr: Option<SocketAddr>,
        keeper: Keeper,
        inherited: Inherited,
        service: Service,
    ) -> Result<Self> {
        Self::take_over(settings, metrics_addr, keeper, inherited, Some(service))
    }

    /// Serves until a signal comes, and ends: SIGTERM unmounts everything, or leaves it as the service says; SIGINT
    /// unmounts everything. Without its holder, which is what the service manager knows, the service is over as well, and
    /// only that manager can start another one: what it has stored is left to that, the rest ends as by SIGTERM.
    pub async fn serve(mut self) {
        let Some(running) = self.service.take() else { return self.run().await };
        let sync = tokio::spawn(sync_now_and_then(Arc::clone(&self.cache)));
        let (records, keeper, service) =
            (Arc::clone(&running.records), Arc::clone(&running.keeper), running.service);
        let telling = tokio::spawn(tell(Arc::clone(&self.mounts), running, self.socket.clone()));
        let told = loop {
            match self.signals.any().await {
                // The holder's, which has the same terminal; it says by itself what is to be done.
                Told::HangUp => {}
                told => break told,
            }
        };
        let count = self.mounts.mount_count();
        let is_stored = keeper::stores_descriptors();
        if told == Told::HolderGone {
            let then = match (is_stored, count) {
                (true, _) => "leaving what is mounted to the service manager, which has it stored",
                (false, 1..) if service.keeps_mounts => "serving on until the last mount is unmounted",
                (false, _) => "ending",
            };
            tracing::error!(mounts = count, "the main process of this service is gone; {then}");
        } else {
            tracing::info!(?told, "told to end");
        }
        let leaves = match told {
            Told::HolderGone => is_stored,
            // What is being warmed goes on then too.
            _ => {
                is_stored
                    && told == Told::Terminate
                    && service.keeps_mounts
                    && *self.mounts.count().borrow() > 0
            }
        };
        if leaves {
            let cache = Arc::clone(&self.cache);
            let _ = tokio::task::spawn_blocking(move || leave(&cache)).await;
        }
        if told != Told::Interrupt && service.keeps_mounts && count > 0 {
            self.stay(&keeper, told, count).await;
        }
        telling.abort();
        sync.abort();
        // From now on, an unmount says nothing about what is wanted.
        records.close();
        self.mounts.close(UNMOUNT_LIMIT).await;
        self.end().await;
    }

    /// Serves on until the last mount is gone, or another signal comes.
    async fn stay(&mut self, keeper: &Keeper, told: Told, count: usize) {
        if told != Told::HolderGone {
            if let Err(error) = keeper.stays() {
                tracing::warn!("{}", error.chain());
            }
            tracing::warn!(
                "no service manager stores descriptors (FDSTORE), so this process goes on until its {count} mounts are \
                 unmounted; a second SIGTERM unmounts them"
            );
        }
        while self.told(self.last_mount_grace).await == Some(Told::HolderGone) {}
    }
}

/// Mounts again what is to be mounted again, says that the service is ready, and from then on how it is; and all the time
/// that it lives.
async fn tell(mounts: Arc<Mounts>, running: Running, socket: PathBuf) {
    // From the start: a reload is one for a service that was ready before, whose manager goes on counting.
    let feeding = feed_watchdog(&running.keeper, &socket);
    tokio::join!(feeding, tell_state(&mounts, &running, &socket));
}

async fn tell_state(mounts: &Arc<Mounts>, running: &Running, socket: &Path) {
    let Running { service, records, keeper, is_on_trial, .. } = running;
    mounts.settled().await;
    if *is_on_trial {
        // It may be that it is to leave everything to the program before it; what that can serve is not lost, and not
        // to be mounted again. It answers when that is settled.
        wait_for_answer(socket).await;
    }
    if service.restores {
        let restored = restore::mount_again(mounts, records);
        if timeout(RESTORE_LIMIT, restored).await.is_err() {
            tracing::warn!("some mounts are not back yet; going on with them in the background");
        }
    }
    wait_for_answer(socket).await;
    let mut status = shown_status(mounts, records);
    let mut is_told = keeper.tell(&format!("READY=1\nSTATUS={status}")).is_ok();
    let mut count = mounts.count();
    while is_told {
        tokio::select! {
            () = sleep(STATUS_INTERVAL) => {}
            _ = count.changed() => {}
        }
        let now = shown_status(mounts, records);
        if now != status {
            is_told = keeper.tell(&format!("STATUS={now}")).is_ok();
            status = now;
        }
    }
}

async fn feed_watchdog(keeper: &Keeper, socket: &Path) {
    let Some(interval) = watchdog_interval() else { return };
    let mut is_told = true;
    while is_told {
        // A server that does not answer is restarted; so it is asked by a new connection each time. Without a socket, since the
        // cache directory was removed, nobody can ask it; but it goes on with its mounts, and as far as this.
        if !socket.exists() || answers(socket).await {
            is_told = keeper.tell("WATCHDOG=1").is_ok();
        }
        sleep(interval).await;
    }
}

async fn wait_for_answer(socket: &Path) {
    while !answers(socket).await {
        sleep(ANSWER_PAUSE).await;
    }
}

async fn answers(socket: &Path) -> bool {
    match Client::new(socket) {
        Ok(client) => client.version().await.is_ok(),
        Err(_) => false,
    }
}

fn shown_status(mounts: &Mounts, records: &Records) -> String {
    let count = mounts.mount_count();
    let serving = format!("Serving {count} mount{}", if count == 1 { "" } else { "s" });
    let pending = records.pending();
    match pending.iter().find_map(|pending| Some((pending, pending.error.as_ref()?))) {
        None if pending.is_empty() => serving,
        None => format!("{serving}, mounting {} again", pending.len()),
        Some((first, error)) => {
            let text = format!(
                "{serving}, mounting {} again, such as {}: {error}",
                pending.len(),
                first.mountpoint.display()
            );
            // One line, whatever stands in an error.
            text.replace(char::is_control, " ")
        }
    }
}

/// How often the service manager wants a sign of life: three times within what it waits.
fn watchdog_interval() -> Option<Duration> {
    let microseconds: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (microseconds > 0).then(|| Duration::from_micros(microseconds / 3))
}
