//! [`RegistrySource`]: a repository of a registry over HTTP (distribution-spec v1.1, "Pull").
//!
//! Manifests are asked for again within the retry budget and are always checked. A blob is one attempt, and
//! its bytes are not checked here: only that they are those of the range that was asked for.

mod blob;
mod manifest;
mod referrers;

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue};

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::{Descriptor, RegistryRef};

use super::answer::status_error;
use super::auth::Authority;
use super::credentials::Logins;
use super::endpoint::Endpoint;
use super::redirect::Targets;
use super::transport::{Landed, Transport, may_lack_tls};
use super::{BlobBody, BlobSource, RawManifest, SourceOptions, check_range};
use manifest::Wanted;

/// Grants tried for one request. The second is the usual renewal; a third covers a grant that ended between
/// two requests that share it.
const GRANTS_MAX: u32 = 3;

/// One repository of a registry, with one set of credentials.
#[derive(Debug)]
pub struct RegistrySource {
    reference: RegistryRef,
    endpoint: Endpoint,
    transport: Transport,
    authority: Authority,
    targets: Targets,
    retry_budget: Duration,
}

impl RegistrySource {
    /// A source for `reference`. Reads the credential files; sends nothing yet.
    ///
    /// # Errors
    /// `Invalid` for a malformed credential file, `NotFound` for a missing one that is required, `Usage` for
    /// a host that no URL can hold.
    pub fn open(reference: &RegistryRef, options: &SourceOptions) -> Result<Self> {
        let RegistryRef { host, repository, .. } = reference;
        let logins = Logins::read(host, repository, options)?;
        Ok(Self {
            reference: reference.clone(),
            endpoint: Endpoint::new(host, options.plain_http)?,
            transport: Transport::new(options),
            authority: Authority::new(host, repository, logins, options.retry_budget),
            targets: Targets::default(),
            retry_budget: options.retry_budget,
        })
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
        let repository = &self.reference.repository;
        let mut bases = self.endpoint.bases().iter().peekable();
        let mut without_tls = None;
        while let Some(base) = bases.next() {
            let url = base.join(&format!("v2/{repository}/{path}")).map_err(|error| {
                Error::with_source(ErrorKind::Usage, format!("{what}: the name fits in no URL"), error)
            })?;
            match self.transport.get(url, headers, authorization, what).await {
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
                    tracing::debug!(host = %self.reference.host, "nothing speaks TLS there; trying plain HTTP");
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
        let mut message = self.authority.scrub(&error.to_string());
        if kind == ErrorKind::Unauthorized {
            message = format!("{message}; {}", self.authority.advice());
        }
        let explained = Error::new(kind, message);
        match error.retry_after() {
            Some(pause) => explained.after(pause),
            None => explained,
        }
    }

    /// Host and repository, for messages.
    fn place(&self) -> String {
        format!("{}/{}", self.reference.host, self.reference.repository)
    }
}

#[async_trait]
impl BlobSource for RegistrySource {
    fn name(&self) -> &str {
        &self.reference.host
    }

    async fn resolve(&self) -> Result<RawManifest> {
        let wanted = match (&self.reference.digest, &self.reference.tag) {
            (Some(digest), _) => Wanted::Digest(digest),
            (None, Some(tag)) => Wanted::Tag(tag),
            (None, None) => Wanted::Tag("latest"),
        };
        self.manifest_retried(&wanted).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.manifest_retried(&Wanted::Descriptor(descriptor)).await
    }

    async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
        // Each page has the budget; together they have no more.
        match tokio::time::timeout(self.retry_budget, self.referrers_retried(subject, artifact_type)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let (place, seconds) = (self.place(), self.retry_budget.as_secs_f32());
                let text = format!("GET referrers of {subject} from {place}: no end within {seconds} s");
                Err(Error::new(ErrorKind::TimedOut, text))
            }
        }
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        check_range(size, &range)?;
        let what = format!("GET blob {digest} bytes {}-{} from {}", range.start, range.end - 1, self.place());
        // Every step has its own bound; this one bounds their number.
        match tokio::time::timeout(self.retry_budget, self.blob_once(digest, size, &range, &what)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let seconds = self.retry_budget.as_secs_f32();
                Err(Error::new(ErrorKind::TimedOut, format!("{what}: no answer within {seconds} s")))
            }
        }
    }
}
