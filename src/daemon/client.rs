//! The other end of the control socket.
//!
//! Every request has a time limit and every answer a bound on its bytes: the owner may be hung, and the socket may
//! not be an owner's at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::base::{Error, ErrorKind, Result};
use crate::cache::{CacheInfo, PruneReport};
use crate::mount::{CacheContent, MountRequest, MountStatus, MountSummary, WarmStatus};

use super::api::{
    self, Ended, ErrorBody, Health, OwnerInfo, PinSummary, ReferenceQuery, TargetQuery, WantedLimits,
    WarmQuery, WarmStatusQuery,
};
use super::bodies::{ArtifactBody, MountBody, PruneRequest, UpgradeRequest};
use super::persisted::Pending;
use super::upgrade::UpgradeBegun;

/// How long a request that only looks something up may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long whoever wants a mount waits for a sign of life. Longer: where a node wants all its mounts at the same moment,
/// everybody who asks shares the machine with the owner.
const LIFE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long dropping the content of a cache may take: a terabyte is a million chunks to give back.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long it may take until it is clear whether an upgrade begins: the new program is asked what it is.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(20);

/// Processes that take a request and die with it, one after the other, before it is given up.
const SERVERS_MAX: u32 = 5;

/// What an answer may take beyond what the owner allows itself.
const MARGIN: Duration = Duration::from_secs(5);

/// A way to an owner.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    http: reqwest::Client,
}

/// Why an owner did not answer.
#[derive(Debug)]
pub enum Unanswered {
    /// There is none, or it was just ending: a new one should be asked. The request had no effect, or can be
    /// repeated.
    NoOwner(Error),
    /// It said no, or nothing in time.
    Failed(Error),
}

/// Why one attempt has no answer.
enum Broken {
    /// Whoever took the request is gone.
    CutOff(Error),
    Unanswered(Unanswered),
}

impl Broken {
    fn into_unanswered(self) -> Unanswered {
        match self {
            Self::CutOff(error) => Unanswered::NoOwner(error),
            Self::Unanswered(unanswered) => unanswered,
        }
    }
}

/// An answer that makes no sense.
impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Unanswered(Unanswered::Failed(error))
    }
}

impl From<Unanswered> for Error {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::NoOwner(error) | Unanswered::Failed(error) => error,
        }
    }
}

impl Client {
    /// A client of the owner behind `socket`. Nothing is sent yet.
    ///
    /// # Errors
    /// `Io` when the HTTP client cannot be made.
    pub fn new(socket: &Path) -> Result<Self> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            // No TLS is spoken here, so no roots need to be looked for.
            .tls_certs_only([])
            .connect_timeout(LOOK_TIMEOUT)
            .build()
            .map_err(|error| Error::with_source(ErrorKind::Io, "cannot make the control client", error))?;
        Ok(Self { socket: socket.to_owned(), http })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who answers.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn version(&self) -> Result<OwnerInfo, Unanswered> {
        self.json(self.request(Method::GET, api::VERSION, LOOK_TIMEOUT)).await
    }

    /// Whether it answers at all.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn sign_of_life(&self) -> Result<(), Unanswered> {
        self.send(self.request(Method::GET, api::VERSION, LIFE_TIMEOUT)).await.map(drop)
    }

    /// Mounts, whatever the bounds of the owner's cache are.
    ///
    /// # Errors
    /// See [`Unanswered`]; those of [`super::Mounts::mount`].
    pub async fn mount(&self, request: &MountRequest) -> Result<MountSummary, Unanswered> {
        self.mount_within(request, WantedLimits::default()).await
    }

    /// Mounts, in a cache with these bounds unless its owner has mounts already.
    ///
    /// # Errors
    /// As [`Self::mount`].
    pub async fn mount_within(
        &self,
        request: &MountRequest,
        limits: WantedLimits,
    ) -> Result<MountSummary, Unanswered> {
        let limit = api::mount_timeout(request) + MARGIN;
        let body = MountBody { request: request.clone(), limits };
        self.json(self.request(Method::POST, api::MOUNTS, limit).json(&body)).await
    }

    /// What is mounted.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn list(&self) -> Result<Vec<MountSummary>, Unanswered> {
        self.json(self.request(Method::GET, api::MOUNTS, LOOK_TIMEOUT)).await
    }

    /// What is known about the mount on `target`.
    ///
    /// # Errors
    /// See [`Unanswered`]; `NotFound`.
    pub async fn status(&self, target: &Path) -> Result<MountStatus, Unanswered> {
        self.json(self.on_target(Method::GET, api::STATUS, target, LOOK_TIMEOUT)).await
    }

    /// Unmounts `target`.
    ///
    /// # Errors
    /// See [`Unanswered`]; those of [`super::Mounts::unmount`].
    pub async fn unmount(&self, target: &Path) -> Result<(), Unanswered> {
        let limit = api::UNMOUNT_TIMEOUT + MARGIN;
        self.send(self.on_target(Method::DELETE, api::MOUNTS, target, limit)).await.map(drop)
    }

    /// Whether the mount on `target` is gone; waits for it up to [`api::ENDED_WAIT`].
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn ended(&self, target: &Path) -> Result<bool, Unanswered> {
        let limit = api::ENDED_WAIT + MARGIN;
        let answer: Ended = self.json(self.on_target(Method::GET, api::ENDED, target, limit)).await?;
        Ok(answer.ended)
    }

    /// What is still to be mounted again.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn pending(&self) -> Result<Vec<Pending>, Unanswered> {
        self.json(self.request(Method::GET, api::PENDING, LOOK_TIMEOUT)).await
    }

    /// What the cache says of itself.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn cache_info(&self) -> Result<CacheInfo, Unanswered> {
        self.json(self.request(Method::GET, api::CACHE, LOOK_TIMEOUT)).await
    }

    /// Drops content of the cache.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn prune(&self, request: PruneRequest) -> Result<PruneReport, Unanswered> {
        self.json(self.request(Method::POST, api::PRUNE, PRUNE_TIMEOUT).json(&request)).await
    }

    /// How the owner is.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn health(&self) -> Result<Health, Unanswered> {
        self.json(self.request(Method::GET, api::HEALTH, LOOK_TIMEOUT)).await
    }

    /// What the cache holds, by artifact.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn cache_content(&self) -> Result<CacheContent, Unanswered> {
        self.json(self.request(Method::GET, api::CONTENT, LOOK_TIMEOUT)).await
    }

    /// What is pinned.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn pins(&self) -> Result<Vec<PinSummary>, Unanswered> {
        self.json(self.request(Method::GET, api::PINS, LOOK_TIMEOUT)).await
    }

    /// Pins an artifact.
    ///
    /// # Errors
    /// See [`Unanswered`]; those of [`crate::mount::pin`].
    pub async fn pin(&self, body: &ArtifactBody) -> Result<PinSummary, Unanswered> {
        let limit = api::artifact_timeout(&body.request) + MARGIN;
        self.json(self.request(Method::POST, api::PINS, limit).json(body)).await
    }

    /// Takes the pins of an artifact back, and returns them.
    ///
    /// # Errors
    /// See [`Unanswered`]; `NotFound`.
    pub async fn unpin(&self, query: &ReferenceQuery) -> Result<Vec<PinSummary>, Unanswered> {
        self.json(self.request(Method::DELETE, api::PINS, LOOK_TIMEOUT).query(query)).await
    }

    /// Begins to fetch an artifact, or finds that this goes on.
    ///
    /// # Errors
    /// See [`Unanswered`]; those of [`crate::mount::Warming::begin`].
    pub async fn warm(&self, body: &ArtifactBody) -> Result<WarmStatus, Unanswered> {
        let limit = api::artifact_timeout(&body.request) + MARGIN;
        self.json(self.request(Method::POST, api::WARMS, limit).json(body)).await
    }

    /// What is being fetched, and what was lately.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn warms(&self) -> Result<Vec<WarmStatus>, Unanswered> {
        self.json(self.request(Method::GET, api::WARMS, LOOK_TIMEOUT)).await
    }

    /// How far a warming is.
    ///
    /// # Errors
    /// See [`Unanswered`]; `NotFound`.
    pub async fn warm_status(&self, query: &WarmStatusQuery) -> Result<WarmStatus, Unanswered> {
        self.json(self.request(Method::GET, api::WARM_STATUS, LOOK_TIMEOUT).query(query)).await
    }

    /// Ends a warming.
    ///
    /// # Errors
    /// See [`Unanswered`]; `NotFound`.
    pub async fn cancel_warm(&self, query: &WarmQuery) -> Result<(), Unanswered> {
        self.send(self.request(Method::DELETE, api::WARMS, LOOK_TIMEOUT).query(query)).await.map(drop)
    }

    /// Has the process that serves replaced by another program. Sent once: the answer comes from the one that leaves.
    ///
    /// # Errors
    /// See [`Unanswered`]; those of [`super::upgrade::begin`].
    pub async fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeBegun, Unanswered> {
        let request = self.request(Method::POST, api::UPGRADE, UPGRADE_TIMEOUT).json(request);
        let bytes = self.send_once(request).await.map_err(Broken::into_unanswered)?;
        serde_json::from_slice(&bytes).map_err(|error| Unanswered::Failed(self.nonsense(&error)))
    }

    fn request(&self, method: Method, path: &str, limit: Duration) -> RequestBuilder {
        self.http.request(method, format!("http://owner{path}")).timeout(limit)
    }

    fn on_target(&self, method: Method, path: &str, target: &Path, limit: Duration) -> RequestBuilder {
        self.request(method, path, limit).query(&TargetQuery { target: target.to_owned() })
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Unanswered> {
        let bytes = self.send(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| Unanswered::Failed(self.nonsense(&error)))
    }

    /// Sends `request`, and again if whoever took it has died: another one goes on for it. There is no request that does
    /// harm when it comes twice.
    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, Unanswered> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let again = request.try_clone();
            let attempt = match again {
                Some(again) if attempts < SERVERS_MAX => again,
                // The last one, or one that cannot be repeated.
                _ => return self.send_once(request).await.map_err(Broken::into_unanswered),
            };
            match self.send_once(attempt).await {
                Err(Broken::CutOff(error)) => tracing::debug!("asking once more: {}", error.chain()),
                other => return other.map_err(Broken::into_unanswered),
            }
        }
    }

    async fn send_once(&self, request: RequestBuilder) -> Result<Vec<u8>, Broken> {
        let answer = request.send().await.map_err(|error| self.broken(error))?;
        let status = answer.status();
        let bytes = self.body(answer).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        let body: ErrorBody = serde_json::from_slice(&bytes).map_err(|error| self.nonsense(&error))?;
        Err(Broken::Unanswered(match status.as_u16() {
            api::STATUS_ENDING => Unanswered::NoOwner(body.into()),
            _ => Unanswered::Failed(body.into()),
        }))
    }

    async fn body(&self, answer: Response) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.broken(error))?;
            if bytes.len() + piece.len() > api::ANSWER_BYTES_MAX {
                return Err(self.nonsense(&"the answer is too long").into());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn broken(&self, error: reqwest::Error) -> Broken {
        let socket = self.socket.display();
        let failed = |error| Broken::Unanswered(Unanswered::Failed(error));
        if error.is_timeout() {
            let text = format!("the owner of the cache did not answer in time on {socket}");
            return failed(Error::new(ErrorKind::TimedOut, text));
        }
        if error.is_builder() {
            let text = "this cannot be asked for; paths and references must be UTF-8";
            return failed(Error::with_source(ErrorKind::Usage, text, error.without_url()));
        }
        let is_gone = error.is_connect();
        let text = format!("no owner answers on {socket}");
        let error = Error::with_source(ErrorKind::Unavailable, text, error.without_url());
        match is_gone {
            true => Broken::Unanswered(Unanswered::NoOwner(error)),
            false => Broken::CutOff(error),
        }
    }

    fn nonsense(&self, why: &dyn std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::Invalid,
            format!("the answer on {} is not one of refmount: {why}", self.socket.display()),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;
    use crate::daemon::mounts::tests::request;

    /// Mistaken for a missing owner, it would have owners started without end.
    #[tokio::test]
    async fn a_path_that_json_can_not_hold_is_an_error_at_once() {
        let client = Client::new(Path::new("/nowhere/control.sock")).unwrap();
        let target = PathBuf::from(OsStr::from_bytes(b"/m\xff"));
        let bad = MountRequest { target: target.clone(), ..request("/m") };
        let Err(Unanswered::Failed(error)) = client.mount(&bad).await else { panic!() };
        assert_eq!(error.kind(), ErrorKind::Usage);
        let Err(Unanswered::Failed(error)) = client.status(&target).await else { panic!() };
        assert_eq!(error.kind(), ErrorKind::Usage);
    }

    #[tokio::test]
    async fn an_owner_that_does_not_answer_is_an_error_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        // Accepts, as the kernel does for a stopped process, and never answers.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client = Client::new(&socket).unwrap();
        let request = client.request(Method::GET, api::VERSION, Duration::from_millis(50));
        let Err(Unanswered::Failed(error)) = client.send(request).await else { panic!() };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_socket_that_is_no_owners_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let other = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = listener.accept().unwrap();
            let read = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").unwrap();
            read
        });
        let Err(Unanswered::Failed(error)) = Client::new(&socket).unwrap().version().await else { panic!() };
        assert!(error.to_string().contains("is not one of refmount"), "{error}");
        assert!(other.join().unwrap() > 0);
    }
}
