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
use crate::mount::{MountRequest, MountStatus, MountSummary};

use super::api::{self, Ended, ErrorBody, MountBody, OwnerInfo, PruneRequest, TargetQuery, WantedLimits};

/// How long a request that only looks something up may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long dropping the content of a cache may take: a terabyte is a million chunks to give back.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(300);

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

    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, Unanswered> {
        let answer = request.send().await.map_err(|error| self.unanswered(error))?;
        let status = answer.status();
        let bytes = self.body(answer).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        let body: ErrorBody =
            serde_json::from_slice(&bytes).map_err(|error| Unanswered::Failed(self.nonsense(&error)))?;
        if status.as_u16() == api::STATUS_ENDING {
            return Err(Unanswered::NoOwner(body.into()));
        }
        Err(Unanswered::Failed(body.into()))
    }

    async fn body(&self, answer: Response) -> Result<Vec<u8>, Unanswered> {
        let mut bytes = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.unanswered(error))?;
            if bytes.len() + piece.len() > api::ANSWER_BYTES_MAX {
                return Err(Unanswered::Failed(self.nonsense(&"the answer is too long")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn unanswered(&self, error: reqwest::Error) -> Unanswered {
        let socket = self.socket.display();
        if error.is_timeout() {
            return Unanswered::Failed(Error::new(
                ErrorKind::TimedOut,
                format!("the owner of the cache did not answer in time on {socket}"),
            ));
        }
        if error.is_builder() {
            return Unanswered::Failed(Error::with_source(
                ErrorKind::Usage,
                "this cannot be asked for; paths and references must be UTF-8",
                error.without_url(),
            ));
        }
        // It is gone, or went away while it was asked.
        Unanswered::NoOwner(Error::with_source(
            ErrorKind::Unavailable,
            format!("no owner answers on {socket}"),
            error.without_url(),
        ))
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
