//! The control socket: who may connect, and which request does what.
//!
//! The socket is made beside its place with mode 0600 and renamed into it, so that it is never there for
//! others; and every connection's peer must be the owner's user or root, which holds even where a mode does not.

use std::error::Error as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use tokio::net::{UnixListener, UnixStream};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::cache::{Cache, Prune};
use crate::keeper::Keeper;

use super::api::{self, Ended, ErrorBody, Health, HealthStatus, OwnerInfo, TargetQuery, WantedLimits};
use super::bodies::{MountBody, PruneRequest, UpgradeRequest};
use super::content;
use super::locate::{self, OwnerOf};
use super::mounts::{Answer, Mounts};
use super::persisted::{Pending, Records};
use super::upgrade::{self, UpgradeBegun};
use super::warms::Warms;
use super::watch::{self, Watch};

/// Bytes of a path to a Unix socket: `sun_path` without its closing NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What the requests work on.
#[derive(Clone, Debug)]
pub struct Served {
    /// The mounts.
    pub mounts: Arc<Mounts>,
    /// What is brought into the cache without a mount.
    pub warms: Arc<Warms>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// Who holds for this process, if anybody does.
    pub keeper: Option<Arc<Keeper>>,
    /// Who answers.
    pub info: OwnerInfo,
    /// What is mounted again when the owner is started anew, if it is.
    pub records: Option<Arc<Records>>,
    /// What can be watched of them.
    pub watch: Arc<Watch>,
}

/// Makes the socket at `path`, in place of any that is there. The caller holds the lock of the directory, so what
/// is there is a dead owner's.
///
/// # Errors
/// `Usage` for a path that is too long for a socket; `Io`.
pub fn bind(path: &Path) -> Result<ControlListener> {
    let beside = path.with_extension(format!("sock.{}", std::process::id()));
    if beside.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "the path of the control socket, {}, is too long for a socket; choose a shorter --cache-dir",
                path.display()
            ),
        ));
    }
    let bind = || -> io::Result<UnixListener> {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(listener)
    };
    let inner = bind().context(|| format!("cannot make the control socket {}", path.display()))?;
    Ok(ControlListener { inner, owner_uid: rustix::process::geteuid().as_raw() })
}

impl ControlListener {
    /// The one that a process before this one has made.
    ///
    /// # Errors
    /// `Io` when it is none.
    pub fn inherited(socket: OwnedFd) -> Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        let inner = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        let inner = inner.context(|| "cannot take over the control socket")?;
        Ok(Self { inner, owner_uid: rustix::process::geteuid().as_raw() })
    }
}

impl AsFd for ControlListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Accepts connections of the owner's user and of root.
#[derive(Debug)]
pub struct ControlListener {
    inner: UnixListener,
    owner_uid: u32,
}

impl axum::serve::Listener for ControlListener {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            let stream = match self.inner.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others must end before the next one can begin.
                    tracing::warn!("cannot accept on the control socket: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            match stream.peer_cred() {
                Ok(peer) if may_connect(peer.uid(), self.owner_uid) => return (stream, ()),
                Ok(peer) => {
                    tracing::warn!("refused a connection of user {} to the control socket", peer.uid())
                }
                Err(error) => tracing::warn!("refused a connection of an unknown user: {error}"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

fn may_connect(peer_uid: u32, owner_uid: u32) -> bool {
    peer_uid == owner_uid || peer_uid == 0
}

/// A request that is understood.
struct Route {
    method: &'static str,
    path: &'static str,
    answer: MethodRouter<Served>,
}

impl Route {
    fn new(method: &'static str, path: &'static str, answer: MethodRouter<Served>) -> Self {
        Self { method, path, answer }
    }
}

fn known_routes() -> Vec<Route> {
    vec![
        Route::new("get", api::VERSION, get(version)),
        Route::new("get", api::HEALTH, get(health)),
        Route::new("get", api::MOUNTS, get(list)),
        Route::new("post", api::MOUNTS, post(mount)),
        Route::new("delete", api::MOUNTS, delete(unmount)),
        Route::new("get", api::STATUS, get(status)),
        Route::new("get", api::ENDED, get(ended)),
        Route::new("get", api::PENDING, get(pending)),
        Route::new("get", api::WARMS, get(content::warms)),
        Route::new("post", api::WARMS, post(content::warm)),
        Route::new("delete", api::WARMS, delete(content::cancel)),
        Route::new("get", api::WARM_STATUS, get(content::warm_status)),
        Route::new("get", api::CACHE, get(cache_info)),
        Route::new("get", api::CONTENT, get(content::list)),
        Route::new("post", api::PRUNE, post(cache_prune)),
        Route::new("get", api::PINS, get(content::pins)),
        Route::new("post", api::PINS, post(content::pin)),
        Route::new("delete", api::PINS, delete(content::unpin)),
        Route::new("post", api::UPGRADE, post(begin_upgrade)),
    ]
}

/// The methods and paths of all requests, as docs/api/openapi.json has them.
#[must_use]
pub fn routes() -> Vec<(&'static str, &'static str)> {
    known_routes().iter().map(|route| (route.method, route.path)).collect()
}

/// Answers the requests that are understood.
pub fn router(served: Served) -> axum::Router {
    let add = |router: axum::Router<Served>, route: Route| router.route(route.path, route.answer);
    known_routes()
        .into_iter()
        .fold(axum::Router::new(), add)
        .merge(watch::router(&served.watch))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(api::REQUEST_BYTES_MAX))
        .with_state(served)
}

/// An error as an answer.
pub(super) struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        // What is wrong with the body, without how we came to read it.
        Self::not_understood(&rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string))
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::not_understood(&rejection.body_text())
    }
}

impl Refusal {
    fn not_understood(why: &str) -> Self {
        Self(Error::new(ErrorKind::Usage, format!("{} does not understand the request: {why}", own_name())))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(api::http_status(self.0.kind()));
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody::from(&self.0))).into_response()
    }
}

/// A JSON body, or why it is none; refused as JSON too.
pub(super) type Body<T> = Result<Json<T>, JsonRejection>;

/// A query, or why it is none; refused as JSON too.
pub(super) type Asked<T> = Result<Query<T>, QueryRejection>;

async fn unknown(method: Method, uri: Uri) -> Response {
    refused(StatusCode::NOT_FOUND, &format!("{method} {}", uri.path()))
}

async fn not_allowed(method: Method, uri: Uri) -> Response {
    refused(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} {}", uri.path()))
}

/// This program, for a client that may be newer: it is not its arguments that are wrong then.
fn own_name() -> String {
    format!("the owner of the cache (refmount {})", env!("CARGO_PKG_VERSION"))
}

fn refused(status: StatusCode, what: &str) -> Response {
    let text = format!("{} does not know the request {what}", own_name());
    let error = Error::new(ErrorKind::Unsupported, text);
    (status, Json(ErrorBody::from(&error))).into_response()
}

/// The answer of an owner that takes nothing more.
pub(super) fn ending() -> Response {
    let ending = Error::new(ErrorKind::Unavailable, "this owner is ending; ask again");
    (StatusCode::GONE, Json(ErrorBody::from(&ending))).into_response()
}

impl Served {
    /// Kept alive by nothing but its grace, this owner gives way to one with the bounds that are asked for. A service has
    /// no grace: it stays, and keeps its own.
    pub(super) fn give_way(&self, limits: &WantedLimits) {
        if self.records.is_none() && !self.info.keeps_to(limits) {
            self.mounts.close_if_done();
        }
    }

    /// Gives up what was mounted on `target` before and is not now; says whether there was something.
    async fn give_up(&self, target: &Path) -> Result<bool> {
        if self.mounts.is_lost(target) && matches!(locate::owner_of(target).await, Ok(OwnerOf::Dead)) {
            locate::detach(target).await?;
        }
        let was_lost = self.mounts.forget_lost(target);
        let Some(records) = &self.records else { return Ok(was_lost) };
        let was_noted = records.cancel(target).await;
        if was_lost && !was_noted {
            // Otherwise a service that mounts again what was mounted would begin with it.
            records.forget(target, None).await;
        }
        Ok(was_lost || was_noted)
    }

    /// `target` as the kernel's table has it, which is what mounts are known by; as it is where it leads nowhere.
    async fn resolved(&self, target: PathBuf) -> PathBuf {
        // What is mounted is not looked at: it may hang.
        if self.mounts.has(&target) || !target.is_absolute() {
            return target;
        }
        locate::resolve(&target).await.unwrap_or(target)
    }
}

async fn health(State(served): State<Served>) -> Result<Json<Health>, Refusal> {
    let mounts = served.mounts.list();
    let cache = Arc::clone(&served.cache);
    let degraded = on_disk(move || cache.degraded()).await?;
    let mounts_failed = mounts.iter().filter(|mount| mount.failed.is_some()).count() as u64;
    let OwnerInfo { deaths, went_back, .. } = served.info;
    let unrestored = served.watch.unrestored();
    let is_well = degraded.is_none() && mounts_failed == 0 && unrestored.is_empty() && went_back.is_none();
    Ok(Json(Health {
        status: if is_well { HealthStatus::Ok } else { HealthStatus::Degraded },
        cache: degraded,
        mounts: mounts.len() as u64,
        mounts_failed,
        unrestored,
        deaths,
        went_back,
    }))
}

async fn version(State(served): State<Served>) -> Json<OwnerInfo> {
    Json(OwnerInfo { metrics_addr: served.watch.address(), ..served.info })
}

async fn list(State(served): State<Served>) -> Response {
    Json(served.mounts.list()).into_response()
}

async fn mount(State(served): State<Served>, body: Body<MountBody>) -> Result<Response, Refusal> {
    let Json(MountBody { mut request, limits }) = body?;
    require_absolute(&request.target)?;
    request.target = served.resolved(request.target).await;
    served.give_way(&limits);
    Ok(match served.mounts.mount(request).await? {
        Answer::Mounted(summary) => Json(summary).into_response(),
        Answer::Ending => ending(),
    })
}

async fn unmount(State(served): State<Served>, query: Asked<TargetQuery>) -> Result<StatusCode, Refusal> {
    let Query(query) = query?;
    let target = served.resolved(query.target).await;
    match served.mounts.unmount(&target).await {
        Ok(()) => {}
        Err(error) if !served.give_up(&target).await? => return Err(error.into()),
        // What is not there yet will not come.
        Err(_) => {}
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn pending(State(served): State<Served>) -> Json<Vec<Pending>> {
    Json(served.records.map(|records| records.pending()).unwrap_or_default())
}

async fn status(State(served): State<Served>, query: Asked<TargetQuery>) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let mount = served.mounts.get(&served.resolved(query.target).await)?;
    let status = on_disk(move || mount.status()).await?;
    Ok(Json(status).into_response())
}

async fn ended(State(served): State<Served>, query: Asked<TargetQuery>) -> Result<Json<Ended>, Refusal> {
    let Query(query) = query?;
    let target = served.resolved(query.target).await;
    let ended = served.mounts.ended(&target, api::ENDED_WAIT).await;
    Ok(Json(Ended { ended }))
}

async fn cache_info(State(served): State<Served>) -> Result<Response, Refusal> {
    let info = on_disk(move || served.cache.info()).await?;
    Ok(Json(info).into_response())
}

async fn cache_prune(State(served): State<Served>, body: Body<PruneRequest>) -> Result<Response, Refusal> {
    let Json(request) = body?;
    let what = prune_of(request);
    let report = on_disk(move || served.cache.prune(what)).await??;
    Ok(Json(report).into_response())
}

async fn begin_upgrade(
    State(served): State<Served>,
    body: Body<UpgradeRequest>,
) -> Result<(StatusCode, Json<UpgradeBegun>), Refusal> {
    let Json(request) = body?;
    let begun = upgrade::begin(served.keeper.as_ref(), request).await?;
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

/// What the cache is told to drop.
#[must_use]
pub fn prune_of(request: PruneRequest) -> Prune {
    if request.all { Prune::All } else { Prune::Unused }
}

/// Runs what may wait for the disk, where that holds up nobody else.
pub(super) async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::with_source(ErrorKind::Io, "the request was given up inside the owner", error)
    })
}

fn require_absolute(target: &Path) -> Result<PathBuf> {
    if target.is_absolute() {
        return Ok(target.to_owned());
    }
    Err(Error::new(ErrorKind::Usage, format!("the mount point {} is not absolute", target.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_is_refused() {
        assert!(may_connect(1000, 1000));
        assert!(may_connect(0, 1000));
        assert!(!may_connect(1001, 1000));
        assert!(!may_connect(1000, 0));
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_owner_is_replaced_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(bind(&path).unwrap());
        let _alive = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).await.unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_an_error_that_says_so() {
        let error = bind(&Path::new("/tmp").join("x".repeat(100)).join("control.sock")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("--cache-dir"), "{error}");
    }
}
