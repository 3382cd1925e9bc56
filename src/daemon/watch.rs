//! What can be watched of an owner: `/metrics` for Prometheus, `/healthz` and `/readyz`, on the control socket and, where
//! it is wanted, over TCP.
//!
//! Nothing here waits for the network, for a disk or for a mount, except `/readyz`, which is there to find out. What is
//! served over TCP is read by anyone who reaches the address: it says how much is read and from which registries, and what
//! only of a mount that is missing or cannot be read. Whoever connects gets one of few connections, and only for a while.

mod connections;
mod families;
mod metrics;
mod process;
mod read_probe;

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::cache::Cache;
use crate::fetch::Fetcher;

use super::Mounts;
use super::persisted::Records;
use super::unrestored::{self, Unrestored};
use connections::BoundedListener;
use process::Began;
use read_probe::ReadProbe;

pub use read_probe::{READ_PROBE, probe_reads};

/// Where Prometheus asks unless it is told otherwise.
pub const METRICS: &str = "/metrics";
/// Says that the process answers.
pub const HEALTHZ: &str = "/healthz";
/// Says whether everything that was mounted before is mounted again, and the mounts can be read.
pub const READYZ: &str = "/readyz";

/// What is watched.
pub struct Watch {
    mounts: Arc<Mounts>,
    /// What is mounted again, if it is.
    records: Option<Arc<Records>>,
    cache: Arc<Cache>,
    fetcher: Arc<Fetcher>,
    /// How often a process that served before this one has died.
    restarts: u64,
    began: Began,
    read_probe: ReadProbe,
    address: OnceLock<SocketAddr>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("mounts", &self.mounts).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches `mounts`, which read through `fetcher`, and of which `records` are kept. `restarts`: how often a process that
    /// served before this one has died.
    #[must_use]
    pub fn new(
        mounts: Arc<Mounts>,
        records: Option<Arc<Records>>,
        fetcher: Arc<Fetcher>,
        restarts: u64,
    ) -> Arc<Self> {
        let cache = Arc::clone(fetcher.cache());
        let (began, read_probe, address) = (Began::now(), ReadProbe::default(), OnceLock::new());
        Arc::new(Self { mounts, records, cache, fetcher, restarts, began, read_probe, address })
    }

    /// What was mounted before this process and is not mounted now.
    #[must_use]
    pub fn unrestored(&self) -> Vec<Unrestored> {
        unrestored::unrestored(&self.mounts, self.records.as_deref())
    }

    /// The mounts.
    #[must_use]
    pub fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    /// The cache that they read through.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Where it answers over TCP, if it does.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    /// Answers on `listener` too, from now on and until the runtime ends.
    pub fn serve(self: &Arc<Self>, listener: WatchListener) {
        let WatchListener { inner, address } = listener;
        // Nobody calls this twice; if somebody did, the first address is as good as the second.
        let _ = self.address.set(address);
        tracing::info!(%address, "metrics can be read");
        let service = axum::serve(BoundedListener::new(inner), router(self));
        tokio::spawn(async move {
            if let Err(error) = service.await {
                tracing::error!("metrics can not be read any more: {error}");
            }
        });
    }
}

/// Whether metrics that are told at `there` are told where they are `wanted`. Port 0 is any.
#[must_use]
pub fn is_wanted(there: SocketAddr, wanted: SocketAddr) -> bool {
    there == wanted || (wanted.port() == 0 && there.ip() == wanted.ip())
}

/// A socket that metrics are asked for on.
#[derive(Debug)]
pub struct WatchListener {
    inner: TcpListener,
    address: SocketAddr,
}

impl WatchListener {
    /// Whether `socket` is one on `address`, as [`is_wanted`] says.
    #[must_use]
    pub fn is_at(socket: &OwnedFd, address: SocketAddr) -> bool {
        let Ok(there) = rustix::net::getsockname(socket) else { return false };
        SocketAddr::try_from(there).is_ok_and(|there| is_wanted(there, address))
    }

    /// One on `address`, or `kept`, which a process before this one had there.
    ///
    /// # Errors
    /// `Usage` for an address that this machine has not, or not for us; `Io`, also for one that somebody else has.
    pub fn at(address: SocketAddr, kept: Option<OwnedFd>) -> Result<Self> {
        let cannot = || format!("cannot answer on --metrics-addr {address}");
        let socket = match kept {
            Some(kept) => std::net::TcpListener::from(kept),
            None => std::net::TcpListener::bind(address).map_err(|error| {
                use std::io::ErrorKind as Io;
                let kind = match error.kind() {
                    Io::AddrNotAvailable | Io::PermissionDenied => ErrorKind::Usage,
                    _ => ErrorKind::Io,
                };
                Error::with_source(kind, format!("{}; choose another one", cannot()), error)
            })?,
        };
        socket.set_nonblocking(true).context(cannot)?;
        let address = socket.local_addr().context(cannot)?;
        let inner = TcpListener::from_std(socket).context(cannot)?;
        Ok(Self { inner, address })
    }
}

impl AsFd for WatchListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// The requests that are understood.
pub fn router<S: Clone + Send + Sync + 'static>(watch: &Arc<Watch>) -> axum::Router<S> {
    axum::Router::new()
        .route(METRICS, get(metrics))
        .route(HEALTHZ, get(async || "ok\n"))
        .route(READYZ, get(readyz))
        .with_state(Arc::clone(watch))
}

async fn metrics(State(watch): State<Arc<Watch>>) -> Response {
    match watch.metrics() {
        Ok(text) => ([(CONTENT_TYPE, families::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readyz(State(watch): State<Arc<Watch>>) -> Response {
    let missing = watch.unrestored();
    if !missing.is_empty() {
        let why = unrestored::text(&missing);
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    }
    let samples = watch.mounts.running().iter().map(|mount| mount.sample()).collect();
    match watch.read_probe.read(samples).await {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
