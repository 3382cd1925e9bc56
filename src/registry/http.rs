//! [`RegistrySource`]: a repository of a registry over HTTP (distribution-spec v1.1, "Pull").
//!
//! Manifests are asked for again within the retry budget and are always checked. A blob is one attempt, and
//! its bytes are not checked here: only that they are those of the range that was asked for.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
};
use url::Url;

use crate::base::backoff::Backoff;
use crate::base::limits::MANIFEST_BYTES_MAX;
use crate::base::{Algorithm, Digest, Error, ErrorKind, Result, clock};
use crate::oci::{Descriptor, RegistryRef};

use super::answer::{ContentRange, shown_status, status_error};
use super::auth::Authority;
use super::body::{collect, pieces};
use super::credentials::Logins;
use super::endpoint::{Endpoint, shown_host};
use super::redirect::{Targets, is_stale};
use super::transport::{Landed, Transport, is_unreachable, may_lack_tls};
use super::{BlobBody, BlobSource, RawManifest, SourceOptions};

/// The first pause between attempts; a reader waits, so it is short.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause, also where a registry asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a registry that nothing listens at is tried: a mistyped name should not take the whole budget to
/// be reported.
const UNREACHABLE_ATTEMPTS_MAX: u32 = 3;

/// Grants tried for one request. The second is the usual renewal; a third covers a grant that ended between
/// two requests that share it.
const GRANTS_MAX: u32 = 3;

/// Media types that say nothing; some registries serve every manifest under one of them.
const GENERIC_TYPES: [&str; 4] =
    ["application/json", "application/octet-stream", "binary/octet-stream", "text/plain"];

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
    /// `Invalid` for a malformed credential file, `NotFound` for a missing one that is required, `Usage` for a host
    /// that no URL can hold.
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
        while let Some(base) = bases.next() {
            let url = base.join(&format!("v2/{repository}/{path}")).map_err(|error| {
                Error::with_source(ErrorKind::Usage, format!("{what}: the name fits in no URL"), error)
            })?;
            match self.transport.get(url, headers, authorization, what).await {
                Ok(landed) => {
                    self.endpoint.settle(base);
                    return Ok(landed);
                }
                Err(error) if bases.peek().is_some() && may_lack_tls(&error) => {
                    tracing::debug!(host = %self.reference.host, "nothing speaks TLS there; trying plain HTTP");
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

    /// Fetches the manifest `wanted`, within the retry budget.
    async fn manifest_retried(&self, wanted: &Wanted<'_>) -> Result<RawManifest> {
        let deadline = clock::now() + self.retry_budget;
        let mut backoff = Backoff::new(FIRST_PAUSE, PAUSE_MAX);
        let mut unreachable = 0;
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            let what = format!("GET manifest {} from {}", wanted.name(), self.place());
            let attempt = tokio::time::timeout(left, self.manifest_once(wanted, &what)).await;
            let error = match attempt {
                Ok(Ok(manifest)) => return Ok(manifest),
                Ok(Err(error)) => error,
                Err(_) => {
                    let seconds = self.retry_budget.as_secs_f32();
                    return Err(Error::new(
                        ErrorKind::TimedOut,
                        format!("{what}: no answer within {seconds} s"),
                    ));
                }
            };
            unreachable += u32::from(is_unreachable(&error));
            let pause = backoff.pause(error.retry_after());
            let is_over = !error.kind().is_transient() || unreachable == UNREACHABLE_ATTEMPTS_MAX;
            if is_over || clock::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(error = %error.chain(), ?pause, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn manifest_once(&self, wanted: &Wanted<'_>, what: &str) -> Result<RawManifest> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let landed = self.ask(&format!("manifests/{}", wanted.name()), &headers, what).await?;
        match landed.response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let error = self.refusal(what, landed).await;
                return Err(error.context(format!(
                    "{} not found in {}; check the name and the tag",
                    wanted.name(),
                    self.place()
                )));
            }
            _ => return Err(self.refusal(what, landed).await),
        }
        let headers = landed.response.headers().clone();
        let bytes = collect(landed.response, MANIFEST_BYTES_MAX, what).await?;
        let digest = wanted
            .check(&bytes, &headers)
            .map_err(|why| Error::new(ErrorKind::Corrupt, format!("{what}: {why}")))?;
        let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let declared = declared.and_then(|value| value.split(';').next()).map(str::trim);
        let specific = declared.filter(|name| !name.is_empty() && !GENERIC_TYPES.contains(name));
        let media_type = specific.or(wanted.media_type()).map(str::to_owned);
        Ok(RawManifest { digest, media_type, bytes })
    }

    /// Host and repository, for messages.
    fn place(&self) -> String {
        format!("{}/{}", self.reference.host, self.reference.repository)
    }

    /// Opens a blob where it was last found, or asks the registry; one fresh redirect where a store does not
    /// take its URL any more.
    async fn blob_answer(&self, digest: &Digest, headers: &HeaderMap, what: &str) -> Result<Landed> {
        let mut is_renewal = false;
        if let Some(url) = self.targets.get(digest) {
            let answer = self.transport.get(Url::clone(&url), headers, None, what).await;
            // Seen from the registry, where the request would have begun.
            match answer.map(|landed| Landed { at_origin: false, ..landed }) {
                Ok(landed) if landed.response.status().is_success() => return Ok(landed),
                Ok(landed) if is_stale(landed.response.status()) => {
                    self.targets.forget(digest, &url);
                    is_renewal = true;
                }
                // A store that is ill may be one of many; the registry chooses anew next time.
                other => {
                    self.targets.forget(digest, &url);
                    return other;
                }
            }
        }
        loop {
            let landed = self.ask(&format!("blobs/{digest}"), headers, what).await?;
            let status = landed.response.status();
            if landed.at_origin || !is_stale(status) {
                return Ok(landed);
            }
            if is_renewal {
                let message = format!(
                    "{what}: {}, where the registry redirects to, refuses its fresh URL with {}",
                    shown_host(&landed.url),
                    shown_status(status)
                );
                let is_missing = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
                let kind = if is_missing { ErrorKind::NotFound } else { ErrorKind::Unavailable };
                return Err(Error::new(kind, message));
            }
            is_renewal = true;
        }
    }

    async fn blob_once(
        &self,
        digest: &Digest,
        size: u64,
        range: &Range<u64>,
        what: &str,
    ) -> Result<BlobBody> {
        let mut headers = HeaderMap::new();
        let asked = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1))
            .map_err(|error| Error::with_source(ErrorKind::Usage, format!("{what}: bad range"), error))?;
        headers.insert(RANGE, asked);
        // Offsets are those of the blob itself.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let landed = self.blob_answer(digest, &headers, what).await?;
        let what = match landed.at_origin {
            true => what.to_owned(),
            false => format!("{what}, redirected to {}", shown_host(&landed.url)),
        };
        let target = self.target_of(digest, &landed);
        let (targets, digest) = (self.targets.clone(), digest.clone());
        let failed = move || {
            if let Some(target) = target {
                targets.forget(&digest, &target);
            }
        };
        match held_range(&landed, size, range, &what) {
            Ok(Some(range)) => {
                let pieces = pieces(landed.response, &range, what, failed);
                Ok(BlobBody { range, pieces })
            }
            Ok(None) => {
                failed();
                Err(self.refusal(&what, landed).await)
            }
            Err(error) => {
                failed();
                Err(error)
            }
        }
    }

    /// Remembers where the answer came from, if it was not the registry.
    fn target_of(&self, digest: &Digest, landed: &Landed) -> Option<Arc<Url>> {
        // The same URL, remembered before: keep its identity, by which it is forgotten.
        if let Some(known) = self.targets.get(digest).filter(|known| **known == landed.url) {
            return Some(known);
        }
        let target = (!landed.at_origin).then(|| Arc::new(landed.url.clone()))?;
        self.targets.remember(digest, Arc::clone(&target));
        Some(target)
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

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        let Range { start, end } = range;
        if start >= end || end > size {
            let message = format!("bytes {start}..{end} of a blob of {size} bytes cannot be asked for");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let what = format!("GET blob {digest} bytes {start}-{} from {}", end - 1, self.place());
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

/// The media types of [`crate::oci::media_type::MANIFESTS`] as one header.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// Which manifest is asked for, and what it is checked against.
#[derive(Debug)]
enum Wanted<'a> {
    Tag(&'a str),
    Digest(&'a Digest),
    Descriptor(&'a Descriptor),
}

impl Wanted<'_> {
    /// The last part of the manifest's URL.
    fn name(&self) -> &str {
        match self {
            Self::Tag(tag) => tag,
            Self::Digest(digest) => digest.as_str(),
            Self::Descriptor(descriptor) => descriptor.digest.as_str(),
        }
    }

    fn media_type(&self) -> Option<&str> {
        match self {
            Self::Descriptor(descriptor) => Some(&descriptor.media_type),
            Self::Tag(_) | Self::Digest(_) => None,
        }
    }

    /// The digest of `bytes`, if it is the one that was promised; otherwise what is wrong.
    fn check(&self, bytes: &[u8], headers: &HeaderMap) -> Result<Digest, String> {
        let declared;
        let promised = match self {
            Self::Digest(digest) => Some(*digest),
            Self::Descriptor(descriptor) => {
                if descriptor.size != bytes.len() as u64 {
                    let (there, claimed) = (bytes.len(), descriptor.size);
                    return Err(format!("it has {there} bytes where its descriptor says {claimed}"));
                }
                Some(&descriptor.digest)
            }
            Self::Tag(_) => {
                declared = declared_digest(headers)?;
                declared.as_ref()
            }
        };
        let found = Digest::of(promised.map_or(Algorithm::Sha256, Digest::algorithm), bytes);
        match promised {
            Some(promised) if *promised != found => {
                Err(format!("the bytes have the digest {found}, promised was {promised}"))
            }
            _ => Ok(found),
        }
    }
}

fn declared_digest(headers: &HeaderMap) -> Result<Option<Digest>, String> {
    let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
    let text = value.to_str().map_err(|_| "Docker-Content-Digest is not text".to_owned())?;
    text.parse().map(Some).map_err(|error: Error| format!("Docker-Content-Digest: {error}"))
}

/// The bytes that a blob's answer holds; `None` for one that is a refusal.
fn held_range(landed: &Landed, size: u64, asked: &Range<u64>, what: &str) -> Result<Option<Range<u64>>> {
    match landed.response.status() {
        StatusCode::PARTIAL_CONTENT => check_partial(landed, size, asked, what).map(Some),
        StatusCode::OK => check_whole(landed, size, what).map(Some),
        StatusCode::RANGE_NOT_SATISFIABLE => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{what}: status 416, the blob is shorter than its descriptor's {size} bytes"),
        )),
        status if status.is_success() => Err(Error::new(
            ErrorKind::Unavailable,
            format!("{what}: unexpected status {}", shown_status(status)),
        )),
        _ => Ok(None),
    }
}

/// The range of a 206: exactly what was asked for.
fn check_partial(landed: &Landed, size: u64, asked: &Range<u64>, what: &str) -> Result<Range<u64>> {
    let headers = landed.response.headers();
    check_encoding(headers, what)?;
    let wrong = |why: String| Error::new(ErrorKind::Unavailable, format!("{what}: status 206 with {why}"));
    let ContentRange { range, total } = ContentRange::of(headers).map_err(wrong)?;
    if range != *asked {
        return Err(wrong(format!("the wrong bytes {}-{}", range.start, range.end - 1)));
    }
    if let Some(total) = total.filter(|total| *total != size) {
        return Err(wrong(format!("a total of {total} bytes where the descriptor says {size}")));
    }
    let length = range.end - range.start;
    match landed.response.content_length() {
        Some(declared) if declared != length => Err(wrong(format!("a Content-Length of {declared}"))),
        _ => Ok(range),
    }
}

/// The range of a 200: the whole blob.
fn check_whole(landed: &Landed, size: u64, what: &str) -> Result<Range<u64>> {
    check_encoding(landed.response.headers(), what)?;
    match landed.response.content_length() {
        Some(declared) if declared != size => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{what}: the blob has {declared} bytes where its descriptor says {size}"),
        )),
        _ => Ok(0..size),
    }
}

/// Compressed on the way, the bytes would be others than those of the blob.
fn check_encoding(headers: &HeaderMap, what: &str) -> Result<()> {
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    match encoding.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")) {
        Some(name) => {
            Err(Error::new(ErrorKind::Unavailable, format!("{what}: compressed on the way ({name:?})")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;

    #[test]
    fn every_kind_of_manifest_is_accepted() {
        assert_eq!(ACCEPTED.split(", ").collect::<Vec<_>>(), media_type::MANIFESTS);
    }
}
