//! [`Remote`]: one repository on one host over HTTP (distribution-spec v1.1, "Pull").
//!
//! Manifests are asked for again within the retry budget and are always checked. A blob is one attempt, and
//! its bytes are not checked here: only that they are those of the range that was asked for.

mod blob;
mod manifest;
mod probe;
mod referrers;

use std::ops::Range;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::Descriptor;

use super::access::Fingerprinter;
use super::answer::status_error;
use super::auth::Authority;
use super::config::HelperName;
use super::credentials::Logins;
use super::endpoint::Endpoint;
use super::redirect::Targets;
use super::route::HostRoute;
use super::transport::{Landed, Patience, Transport, may_lack_tls, mirror_share};
use super::{BlobBody, SourceOptions};

pub(super) use manifest::Wanted;

/// Grants tried for one request. The second is the usual renewal; a third covers a grant that ended between
/// two requests that share it.
const GRANTS_MAX: u32 = 3;

/// How long an attempt at a mirror may take until its answer begins: a token, a redirect and the answer itself.
const MIRROR_ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Characters of a header's value from which on it may be a secret.
const SECRET_CHARACTERS_MIN: usize = 6;

/// One repository on one host, with one set of credentials.
#[derive(Debug)]
pub(super) struct Remote {
    route: HostRoute,
    endpoint: Endpoint,
    transport: Transport,
    authority: Authority,
    targets: Targets,
    retry_budget: Duration,
    /// How long one attempt may take until its answer begins.
    answer_limit: Duration,
}

impl Remote {
    /// The one that `route` leads to, among so many `mirrors`; `helpers` are those of the registries' configuration. Reads
    /// the credential files and those of TLS, to find what is wrong with them early: of a mirror, it would only lead past
    /// it. Sends nothing yet.
    ///
    /// # Errors
    /// `Invalid` for a malformed file, `NotFound` for a missing one that is required.
    pub(super) fn open(
        route: HostRoute,
        mirrors: usize,
        options: &SourceOptions,
        helpers: &[HelperName],
    ) -> Result<Self> {
        let HostRoute { host, repository, .. } = &route;
        let logins = Logins::open(host, repository, options, helpers)?;
        let trust = route.tls.read()?;
        let patience = Patience::with(&route, mirrors, options);
        Ok(Self {
            endpoint: Endpoint::new(route.bases.clone()),
            transport: Transport::new(&route, trust, patience),
            authority: Authority::new(host, repository, logins, options.retry_budget),
            targets: Targets::default(),
            retry_budget: options.retry_budget,
            answer_limit: match route.is_mirror {
                true => MIRROR_ANSWER_LIMIT.min(mirror_share(mirrors, options)).min(options.retry_budget),
                false => options.retry_budget,
            },
            route,
        })
    }

    /// How it is reached.
    pub(super) fn route(&self) -> &HostRoute {
        &self.route
    }

    /// Sends a request to the registry, with what it accepts as proof. Statuses are the caller's matter.
    async fn ask(&self, path: &str, headers: &HeaderMap, what: &str) -> Result<Landed> {
        let mut grant = self.authority.current(&self.transport).await?;
        let mut grants = 1;
        loop {
            let landed = self.send(path, headers, grant.header(), what).await?;
            let status = landed.response.status();
            // A store's refusal says nothing about what the registry accepts.
            let refused =
                matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) && landed.at_origin;
            if !refused {
                // A limit or a proxy may have answered in the registry's place, before it looked.
                let is_its_word = status.is_success() || matches!(status.as_u16(), 404 | 416);
                if is_its_word || !landed.at_origin {
                    grant.accept();
                }
                return Ok(landed);
            }
            if grants == GRANTS_MAX {
                return Ok(landed);
            }
            let headers = landed.response.headers();
            match self.authority.after_refusal(&grant, headers, &landed.url, &self.transport).await? {
                Some(next) => grant = next,
                None => return Ok(landed),
            }
            grants += 1;
        }
    }

    /// Sends a request to the first of the registry's addresses that answers.
    async fn send(
        &self,
        path: &str,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        what: &str,
    ) -> Result<Landed> {
        let repository = &self.route.repository;
        let mut bases = self.endpoint.bases().iter().peekable();
        let mut private = self.route.headers.clone();
        if let Some(value) = authorization {
            private.insert(AUTHORIZATION, value.clone());
        }
        let mut without_tls = None;
        while let Some(base) = bases.next() {
            let mut url = base.join(&format!("{repository}/{path}")).map_err(|error| {
                Error::with_source(ErrorKind::Usage, format!("{what}: the name fits in no URL"), error)
            })?;
            if let Some(namespace) = &self.route.namespace {
                url.query_pairs_mut().append_pair("ns", namespace);
            }
            match self.transport.get(url, headers, &private, what).await {
                Ok(landed) => {
                    // It is what servers answer that do speak TLS; then its failure was a passing one.
                    if let Some(error) =
                        without_tls.filter(|_| landed.response.status() == StatusCode::BAD_REQUEST)
                    {
                        return Err(error);
                    }
                    self.endpoint.settle(base);
                    return Ok(landed);
                }
                Err(error) if bases.peek().is_some() && may_lack_tls(&error) => {
                    tracing::debug!(host = %self.route.host, "nothing speaks TLS there; trying plain HTTP");
                    without_tls = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Usage, format!("{what}: the registry has no address")))
    }

    /// The error for an answer that is not what `what` asked for.
    async fn refusal(&self, what: &str, landed: Landed) -> Error {
        let error = status_error(what, landed).await;
        let kind = error.kind();
        let mut message = self.scrub(&self.authority.scrub(&error.to_string()));
        if kind == ErrorKind::Unauthorized {
            message = format!("{message}; {}", self.authority.advice());
        }
        let explained = Error::new(kind, message);
        match error.retry_after() {
            Some(pause) => explained.after(pause),
            None => explained,
        }
    }

    /// `text` without what the configuration has us send, should a server echo it.
    fn scrub(&self, text: &str) -> String {
        let values = self.route.headers.values().filter_map(|value| value.to_str().ok());
        // A scheme may come before the secret, and what is short is no secret but a word of ours.
        let secrets =
            values.flat_map(str::split_whitespace).filter(|part| part.len() >= SECRET_CHARACTERS_MIN);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }

    /// Forgets which store was redirected to for the blob `digest`.
    pub(super) fn forget_store(&self, digest: &Digest) {
        if let Some(url) = self.targets.get(digest) {
            self.targets.forget(digest, &url);
        }
    }

    /// Host and repository, for messages.
    fn place(&self) -> String {
        format!("{}/{}", self.route.host, self.route.repository)
    }

    /// Adds to `way` how the host is reached, and to `credentials` what it would be shown.
    ///
    /// # Errors
    /// `Unauthorized` for files of credentials that cannot be read any more.
    pub(super) async fn fingerprint(
        &self,
        way: &mut Fingerprinter,
        credentials: &mut Fingerprinter,
    ) -> Result<()> {
        let HostRoute { host, bases, repository, namespace, tls, headers, .. } = &self.route;
        way.add(host).add(repository).add(namespace.as_deref().unwrap_or_default());
        way.add(format!("{:?}", bases.iter().map(url::Url::as_str).collect::<Vec<_>>()));
        // By the names of its files; with those of our own certificate, though it is more than the way.
        way.add(format!("{tls:?}"));
        credentials.add(host);
        for (name, value) in headers {
            credentials.add("header").add(name).add(value);
        }
        self.authority.fingerprint(credentials).await
    }

    /// Whether the host was shown what others may not have.
    pub(super) fn was_proven(&self) -> bool {
        // What a configured header says, nobody knows.
        self.authority.is_secret_used() || !self.route.headers.is_empty()
    }

    /// The referrers of `subject` of one artifact type, within the retry budget.
    ///
    /// # Errors
    /// As [`super::BlobSource::referrers`].
    pub(super) async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
        // Each page has the budget; together they have no more.
        let what = format!("GET referrers of {subject} from {}", self.place());
        self.answered(&what, self.referrers_retried(subject, artifact_type)).await
    }

    /// `attempt` at `what`, whose steps have bounds of their own, within the bound of their number.
    async fn answered<T>(&self, what: &str, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.answer_limit, attempt).await.unwrap_or_else(|_| {
            let seconds = self.answer_limit.as_secs_f32();
            Err(Error::new(ErrorKind::TimedOut, format!("{what}: no answer within {seconds} s")))
        })
    }

    /// One attempt at `range` of a blob.
    ///
    /// # Errors
    /// As [`super::BlobSource::blob`].
    pub(super) async fn blob(&self, digest: &Digest, size: u64, range: &Range<u64>) -> Result<BlobBody> {
        let what = format!("GET blob {digest} bytes {}-{} from {}", range.start, range.end - 1, self.place());
        self.answered(&what, self.blob_once(digest, size, range, &what)).await
    }
}
