//! The owner process: from taking the cache directory to the end of its last mount.
//!
//! An owner without mounts waits a grace before it ends, and ends only if none came meanwhile: whoever asks
//! after that moment is told to ask the next owner, and nobody is told that after having been served. Told to end
//! (SIGTERM, SIGINT), it unmounts everything and is gone within [`EXIT_LIMIT`]; one that a single mount was the reason
//! for unmounts only that one on the first Ctrl-C.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::base::{ErrorKind, Result, ResultExt as _, process};
use crate::cache::{Cache, CacheSettings, HeldBy};
use crate::fetch::Fetcher;
use crate::fuse;
use crate::indexing::Layers;
use crate::keeper::{self, Inherited, Keeper};
use crate::mount::{KeptAs, LeftBehind, MountRecord, MountRequest, Mounted, NotUnderstood};

use super::api::OwnerInfo;
use super::losses::Losses;
use super::mounts::{Mount, Mounter, Mounts};
use super::persisted::{Recording, Records};
use super::server::{self, ControlListener, Served};
use super::warms::Warms;
use super::watch::{Watch, WatchListener};

/// How long an owner waits for its first mount. Whoever started it is about to ask.
const FIRST_MOUNT_GRACE: Duration = Duration::from_secs(10);

/// How long an owner outlives its last mount: enough for a script that unmounts and mounts again.
const LAST_MOUNT_GRACE: Duration = Duration::from_secs(1);

/// How often what was stored is made durable.
const SYNC_INTERVAL: Duration = Duration::from_secs(30);

/// How long an owner takes to end when it is told to. Of that, a server has [`keeper::END_LIMIT`]; the rest is its holder's.
pub const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// Of a server's time: unmounting, and waiting for readers, which an unmount does for a few seconds by itself.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(5);

/// Of a server's time: making the cache durable.
const SYNC_LIMIT: Duration = Duration::from_millis(2500);

/// Of a server's time: answers that are still on their way.
const ANSWERS_LIMIT: Duration = Duration::from_millis(500);

const _: () = {
    let server = UNMOUNT_LIMIT.as_millis() + SYNC_LIMIT.as_millis() + ANSWERS_LIMIT.as_millis();
    assert!(server < keeper::END_LIMIT.as_millis() && keeper::END_LIMIT.as_millis() < EXIT_LIMIT.as_millis());
};

/// Mounts for real, into one cache.
#[derive(Debug)]
struct KernelMounter {
    layers: Arc<Layers>,
    keeper: Option<Arc<Keeper>>,
    /// That of the next mount's name.
    next_number: AtomicU64,
}

/// What a mount's name begins with where it is kept.
pub(super) const MOUNT_NAME: &str = "mount-";

impl KernelMounter {
    /// `inherited`: what is kept under other names already.
    fn new(layers: Arc<Layers>, keeper: Option<Arc<Keeper>>, inherited: &Inherited) -> Self {
        let next_number = inherited.numbers(MOUNT_NAME).max().map_or(0, |number| number + 1);
        let next_number = AtomicU64::new(next_number);
        Self { layers, keeper, next_number }
    }

    fn kept_as(&self) -> Option<KeptAs> {
        let keeper = Arc::clone(self.keeper.as_ref()?);
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        Some(KeptAs { keeper, name: format!("{MOUNT_NAME}{number}") })
    }
}

#[async_trait]
impl Mounter for KernelMounter {
    async fn mount(&self, request: &MountRequest) -> Result<Arc<dyn Mount>> {
        let mounted = Mounted::start(request, &self.layers, self.kept_as()).await?;
        Ok(mounted)
    }

    async fn mount_again(&self, record: MountRecord) -> Result<Arc<dyn Mount>> {
        let mounted = Mounted::start_again(record, &self.layers, self.kept_as()).await?;
        Ok(mounted)
    }

    async fn resume(&self, left: LeftBehind) -> Result<Arc<dyn Mount>> {
        let mounted = Mounted::resume(left, &self.layers, self.keeper.clone()).await?;
        Ok(mounted)
    }

    fn is_mounted(&self, target: &Path) -> bool {
        // What cannot be read can't say that it is gone.
        fuse::mount_at(target)
            .map_or(true, |entry| entry.is_some_and(|entry| entry.mount_type == fuse::MOUNT_TYPE))
    }
}

/// An owner that has its directory and answers on its socket.
#[derive(Debug)]
pub struct Owner {
    cache: Arc<Cache>,
    mounts: Arc<Mounts>,
    socket: PathBuf,
    server: JoinHandle<()>,
    stop_server: oneshot::Sender<()>,
    signals: Signals,
    service: Option<service::Running>,
    /// [`LAST_MOUNT_GRACE`]; tests have what a busy machine needs between two requests.
    last_mount_grace: Duration,
}

#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Told when the holder is gone, of a service.
    holder_gone: Option<oneshot::Receiver<()>>,
}

impl Signals {
    fn new(holder_gone: Option<oneshot::Receiver<()>>) -> Result<Self> {
        let listen = |kind| signal(kind).context(|| "cannot listen to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            holder_gone,
        })
    }

    async fn any(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Terminate,
            _ = self.interrupt.recv() => Told::Interrupt,
            _ = self.hangup.recv() => Told::HangUp,
            () = told_once(&mut self.holder_gone) => Told::HolderGone,
        }
    }
}

/// Returns when `told` is, and only then.
async fn told_once(told: &mut Option<oneshot::Receiver<()>>) {
    if let Some(receiver) = told {
        let is_told = receiver.await.is_ok();
        *told = None;
        if is_told {
            return;
        }
    }
    std::future::pending().await
}

/// Why the process is to end: by which signal it was told to, mostly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// A service manager's, which kills what does not end.
    Terminate,
    /// Ctrl-C.
    Interrupt,
    /// The end of a terminal.
    HangUp,
    /// By nobody: its holder is gone, which would be told.
    HolderGone,
}

impl Owner {
    /// Takes the cache directory and answers from now on; at `metrics_addr`, what can be watched.
    ///
    /// # Errors
    /// `Busy` when another process owns the directory; those of [`Cache::open`], [`server::bind`] and
    /// [`WatchListener::at`].
    pub fn start(settings: CacheSettings, metrics_addr: Option<SocketAddr>) -> Result<Self> {
        raise_descriptor_limit();
        fuse::keep_request_buffers_small();
        let cache = Cache::open(settings.clone())?;
        let layers = layers(&cache);
        let mounter = KernelMounter::new(Arc::clone(&layers), None, &Inherited::default());
        let mounts = Mounts::new(Arc::new(mounter));
        let watch = Watch::new(Arc::clone(&mounts), None, Arc::clone(layers.fetcher()), 0);
        if let Some(address) = metrics_addr {
            watch.serve(WatchListener::at(address, None)?);
        }
        let warms = Warms::new(layers, mounts, None);
        let begin = std::future::ready(());
        Self::start_with(settings, watch, warms, None, HeldAs::alone(), None, begin)
    }

    /// As [`Self::start`], for a process that `keeper` holds for: goes on with what the process before this one has
    /// left, and leaves everything to the next one when it is told to.
    ///
    /// # Errors
    /// As [`Self::start`]; `Io` when the holder does not answer.
    pub fn start_held(
        settings: CacheSettings,
        metrics_addr: Option<SocketAddr>,
        keeper: Keeper,
        inherited: Inherited,
    ) -> Result<Self> {
        Self::take_over(settings, metrics_addr, keeper, inherited, None)
    }

    fn take_over(
        settings: CacheSettings,
        metrics_addr: Option<SocketAddr>,
        keeper: Keeper,
        mut inherited: Inherited,
        service: Option<Service>,
    ) -> Result<Self> {
        raise_descriptor_limit();
        fuse::keep_request_buffers_small();
        let keeper = Arc::new(keeper);
        let goes_on = !inherited.kept.is_empty();
        let mut take = |name: &str| inherited.kept.remove(name).and_then(|mut kept| kept.pop());
        let (lock, socket, watched) = (take(LOCK), take(SOCKET), take(WATCHED));
        let cache = Cache::open_held(settings.clone(), HeldBy { pid: inherited.holder, lock })?;
        keeper.keep(LOCK, &[cache.lock()?.as_fd()])?;
        let layers = layers(&cache);
        let mounter = KernelMounter::new(Arc::clone(&layers), Some(Arc::clone(&keeper)), &inherited);
        let mut mounter: Arc<dyn Mounter> = Arc::new(mounter);
        let (tell_gone, holder_gone) = oneshot::channel();
        let mut running = None;
        if let Some(service) = service {
            let records = Records::open(&cache.paths().mounts())?;
            if service.restores {
                // Before anybody can ask, who would not hear of them; what is served on is struck off.
                records.expect_all();
            }
            mounter = Recording::new(mounter, Arc::clone(&records));
            let is_on_trial = inherited.is_on_trial;
            keeper.keeps_mounts(service.keeps_mounts)?;
            let keeper = Arc::clone(&keeper);
            let holder_gone = Some(holder_gone);
            running = Some(service::Running { service, records, keeper, is_on_trial, holder_gone });
        }
        let listener = match socket {
            Some(socket) if cache.paths().control_socket().exists() => ControlListener::inherited(socket)?,
            _ => server::bind(cache.paths().control_socket().as_path())?,
        };
        keeper.keep(SOCKET, &[listener.as_fd()])?;
        if let Some(why) = &inherited.went_back {
            tracing::error!("{why}; going on with the program that served before");
        }
        if let Some(died) = &inherited.died {
            let deaths = inherited.deaths;
            tracing::error!(
                deaths,
                died,
                "the process before this one is gone; going on with what it has left"
            );
        }
        let held_as = HeldAs {
            pid: inherited.holder,
            keeper: Some(Arc::clone(&keeper)),
            deaths: inherited.deaths,
            went_back: inherited.went_back.take(),
        };
        let is_on_trial = inherited.is_on_trial;
        // Before anybody can ask; what is served on all the same is struck off.
        let losses = Losses::inherited(Arc::clone(&keeper), &mut inherited);
        let mounts = Mounts::after(mounter, losses);
        let records = running.as_ref().map(|running| Arc::clone(&running.records));
        let watch = Watch::new(Arc::clone(&mounts), records, Arc::clone(layers.fetcher()), inherited.deaths);
        watch_held(&watch, metrics_addr, watched, &keeper, goes_on, is_on_trial)?;
        let warms = Warms::new(layers, Arc::clone(&mounts), Some(Arc::clone(&keeper)));
        warms.resume(&mut inherited);
        for (name, descriptors) in inherited.kept {
            match LeftBehind::read(&name, descriptors) {
                Ok(left) => mounts.resume(left),
                Err(NotUnderstood { request, error }) => {
                    tracing::error!("{}", error.chain());
                    if let Some(request) = request {
                        mounts.lose(&request, &error);
                    }
                    keeper.forget(&name)?;
                }
            }
        }
        leave_when_told(Arc::clone(&keeper), cache, tell_gone);
        let resumed = Arc::clone(&mounts);
        let begin = async move {
            // Whoever asks wants to hear of those too.
            if timeout(RESUME_LIMIT, resumed.settled()).await.is_err() {
                tracing::warn!("some mounts that were taken over do not answer yet");
            }
            match keeper.ready() {
                Ok(()) => {}
                Err(error) if is_on_trial => {
                    tracing::error!("leaving to the program that served before: {}", error.chain());
                    std::process::exit(FAILED_TRIAL);
                }
                Err(error) => tracing::warn!("{}", error.chain()),
            }
        };
        Self::start_with(settings, watch, warms, Some(listener), held_as, running, begin)
    }

    /// Answers on `listener`, or on a new one, once `begin` is done.
    fn start_with(
        settings: CacheSettings,
        watch: Arc<Watch>,
        warms: Arc<Warms>,
        listener: Option<ControlListener>,
        held_as: HeldAs,
        mut service: Option<service::Running>,
        begin: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Self> {
        let signals = Signals::new(service.as_mut().and_then(|running| running.holder_gone.take()))?;
        let (mounts, cache) = (Arc::clone(watch.mounts()), Arc::clone(watch.cache()));
        let info = OwnerInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: held_as.pid,
            server_pid: Some(std::process::id()),
            deaths: held_as.deaths,
            went_back: held_as.went_back,
            cache_dir: settings.directory.clone(),
            cache_bytes_max: settings.bytes_max,
            cache_free_space_min: Some(settings.free_space_min),
            metrics_addr: None,
        };
        let socket = cache.paths().control_socket().to_owned();
        let listener = listener.map_or_else(|| server::bind(&socket), Ok)?;
        let records = service.as_ref().map(|service| Arc::clone(&service.records));
        let served = Served {
            mounts: Arc::clone(&mounts),
            warms,
            cache: Arc::clone(&cache),
            keeper: held_as.keeper,
            info,
            records,
            watch,
        };
        let (stop_server, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let stopped = async move {
                let _ = stopped.await;
            };
            begin.await;
            let service = axum::serve(listener, server::router(served)).with_graceful_shutdown(stopped);
            if let Err(error) = service.await {
                tracing::error!("the control socket failed: {error}");
            }
        });
        let last_mount_grace = LAST_MOUNT_GRACE;
        Ok(Self { cache, mounts, socket, server, stop_server, signals, service, last_mount_grace })
    }

    /// The mounts, for requests that do not come through the socket.
    #[must_use]
    pub fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    /// Serves until the last mount is gone or a signal comes, and ends.
    pub async fn run(mut self) {
        let sync = tokio::spawn(sync_now_and_then(Arc::clone(&self.cache)));
        if self.told(FIRST_MOUNT_GRACE).await.is_some() {
            self.mounts.close(UNMOUNT_LIMIT).await;
        }
        sync.abort();
        self.end().await;
    }

    /// As [`Self::run`], for a process that was started for the mount on `target` alone: the first Ctrl-C unmounts
    /// that one and leaves those that others have handed over, of which `tell_left` is told. A second one, or
    /// SIGTERM, unmounts everything.
    pub async fn run_for(mut self, target: &Path, tell_left: impl FnOnce(&[PathBuf])) {
        let sync = tokio::spawn(sync_now_and_then(Arc::clone(&self.cache)));
        let unmounts_all = match self.told(FIRST_MOUNT_GRACE).await {
            None => false,
            Some(Told::Interrupt) if !self.mounts.close_if_none_but(target) => {
                self.is_told_again(target, tell_left).await
            }
            Some(_) => true,
        };
        if unmounts_all {
            self.mounts.close(UNMOUNT_LIMIT).await;
        }
        sync.abort();
        self.end().await;
    }

    /// Unmounts `target` alone and serves on; says whether another signal came before the last mount was gone.
    async fn is_told_again(&mut self, target: &Path, tell_left: impl FnOnce(&[PathBuf])) -> bool {
        match timeout(UNMOUNT_LIMIT, self.mounts.unmount(target)).await {
            Ok(Ok(())) => {}
            // Unmounted by others already.
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {}
            Ok(Err(error)) => tracing::warn!("cannot unmount {}: {}", target.display(), error.chain()),
            Err(_) => tracing::warn!("{} was not unmounted in time", target.display()),
        }
        tell_left(&self.mounts.others_than(target));
        self.told(self.last_mount_grace).await.is_some()
    }

    /// Waits for the end of the last mount or for a signal, which is returned. Without mounts, the first one may
    /// come within `grace`.
    async fn told(&mut self, grace: Duration) -> Option<Told> {
        tokio::select! {
            () = without_mounts(&self.mounts, grace, self.last_mount_grace) => {
                tracing::info!("no mounts are left");
                None
            }
            told = self.signals.any() => {
                tracing::info!(?told, "told to end");
                Some(told)
            }
        }
    }

    async fn end(self) {
        let cache = Arc::clone(&self.cache);
        let synced = tokio::task::spawn_blocking(move || cache.sync());
        if timeout(SYNC_LIMIT, synced).await.is_err() {
            tracing::warn!("the cache was not made durable in time; what is missing will be fetched again");
        }
        // The socket goes while the lock is held, so that it is ours and not the next owner's.
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!("cannot remove {}: {error}", self.socket.display());
        }
        let _ = self.stop_server.send(());
        let mut server = self.server;
        if timeout(ANSWERS_LIMIT, &mut server).await.is_err() {
            server.abort();
        }
    }
}

/// What brings bytes into `cache`, for mounts and without.
fn layers(cache: &Arc<Cache>) -> Arc<Layers> {
    Layers::new(Fetcher::new(Arc::clone(cache), Handle::current()), Handle::current())
}

/// What this process is to whoever started it.
#[derive(Debug)]
struct HeldAs {
    /// The owner's process for others.
    pid: u32,
    keeper: Option<Arc<Keeper>>,
    /// How many processes before this one have died.
    deaths: u64,
    /// Why this is not the program that was to follow the last one, if it is not.
    went_back: Option<String>,
}

impl HeldAs {
    /// Nobody holds for it.
    fn alone() -> Self {
        Self { pid: std::process::id(), keeper: None, deaths: 0, went_back: None }
    }
}

/// The status of a program on trial that cannot go on with everything.
const FAILED_TRIAL: i32 = 1;

/// How long whoever asks waits for mounts that are being taken over. Each takes some milliseconds, unless a layer of it has
/// to be read again.
const RESUME_LIMIT: Duration = Duration::from_secs(5);

/// The names that the lock and the sockets are kept under.
const LOCK: &str = "lock";
pub(super) const SOCKET: &str = "socket";
const WATCHED: &str = "watched";

/// Tells metrics at `address`, and has `keeper` keep the socket; `kept` is the one that it has kept. A process that goes on
/// with mounts does so without metrics rather than not at all.
fn watch_held(
    watch: &Arc<Watch>,
    address: Option<SocketAddr>,
    kept: Option<OwnedFd>,
    keeper: &Keeper,
    goes_on: bool,
    is_on_trial: bool,
) -> Result<()> {
    // A service reads its configuration anew, so another address may be wanted than before; and as long as the holder has
    // the old socket, it is in the way of others.
    let was_kept = kept.is_some();
    let kept = kept.filter(|kept| address.is_some_and(|address| WatchListener::is_at(kept, address)));
    // A program on trial would fail it by letting go of anything.
    if was_kept && kept.is_none() && !is_on_trial {
        keeper.forget(WATCHED)?;
    }
    let Some(address) = address else { return Ok(()) };
    let listener = match WatchListener::at(address, kept) {
        Err(error) if goes_on => {
            tracing::error!("{}", error.chain());
            return Ok(());
        }
        listener => listener?,
    };
    keeper.keep(WATCHED, &[listener.as_fd()])?;
    watch.serve(listener);
    Ok(())
}

/// Leaves everything to the next process as soon as the holder says so: makes the cache durable and ends, without
/// unmounting anything. Should the holder be gone, `tell_gone` is told.
fn leave_when_told(keeper: Arc<Keeper>, cache: Arc<Cache>, tell_gone: oneshot::Sender<()>) {
    let wait = move || {
        if !keeper.wait_for_hand_over() {
            // A service has its own words for it.
            if tell_gone.send(()).is_err() {
                tracing::warn!("the holder of this process is gone; if this one dies, so do its mounts");
            }
            return;
        }
        leave(&cache);
    };
    if let Err(error) = std::thread::Builder::new().name("hand-over".to_owned()).spawn(wait) {
        tracing::warn!("cannot start a thread: {error}");
    }
}

/// Ends this process and leaves everything as it is to the next one, the cache durable.
fn leave(cache: &Cache) -> ! {
    tracing::info!("leaving everything to the next process");
    cache.sync();
    std::process::exit(i32::from(keeper::HANDED_OVER));
}

/// A mount takes one descriptor for each thread that serves it, and each file that is being read two, which the usual
/// 1024 soon are not enough for.
fn raise_descriptor_limit() {
    if let Err(error) = process::raise_descriptor_limit() {
        tracing::debug!("cannot raise the limit of open files: {error}");
    }
}

/// Returns once there have been no mounts for as long as `grace`, after the last one as `last_grace`, and no more are taken.
async fn without_mounts(mounts: &Mounts, mut grace: Duration, last_grace: Duration) {
    let mut count = mounts.count();
    loop {
        if *count.borrow_and_update() > 0 {
            wait_for_none(&mut count).await;
            grace = last_grace;
        }
        tokio::select! {
            () = sleep(grace) => if mounts.close_if_empty() { return },
            _ = count.changed() => if mounts.is_closed() { return },
        }
    }
}

async fn wait_for_none(count: &mut watch::Receiver<usize>) {
    // The sender lives as long as the mounts, which the caller holds.
    let _ = count.wait_for(|count| *count == 0).await;
}

async fn sync_now_and_then(cache: Arc<Cache>) {
    loop {
        sleep(SYNC_INTERVAL).await;
        let cache = Arc::clone(&cache);
        let _ = tokio::task::spawn_blocking(move || cache.sync()).await;
    }
}

mod service;

pub use service::Service;

#[cfg(test)]
mod tests;
