//! Manifests: asked for within the retry budget, bounded, and checked against what was promised.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::base::backoff::Backoff;
use crate::base::limits::MANIFEST_BYTES_MAX;
use crate::base::{Algorithm, Digest, Error, ErrorKind, Result, clock};
use crate::oci::Descriptor;
use crate::registry::RawManifest;
use crate::registry::body::collect;
use crate::registry::transport::is_unreachable;

use super::Remote;

/// The first pause between attempts; a reader waits, so it is short.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause, also where a registry asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a registry that nothing listens at is tried: a mistyped name should not take the whole budget to
/// be reported.
const UNREACHABLE_ATTEMPTS_MAX: u32 = 3;

/// Media types that say nothing; some registries serve every manifest under one of them.
const GENERIC_TYPES: [&str; 4] =
    ["application/json", "application/octet-stream", "binary/octet-stream", "text/plain"];

/// The media types of [`crate::oci::media_type::MANIFESTS`] as one header.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

impl Remote {
    /// Fetches the manifest `wanted`, within the retry budget.
    pub(in crate::registry) async fn manifest_retried(&self, wanted: &Wanted<'_>) -> Result<RawManifest> {
        let what = self.what(wanted);
        self.retried(&what, || self.manifest_attempt(wanted, &what)).await
    }

    /// Fetches the manifest `wanted` in one attempt.
    pub(in crate::registry) async fn manifest_once(&self, wanted: &Wanted<'_>) -> Result<RawManifest> {
        let what = self.what(wanted);
        self.answered(&what, self.manifest_attempt(wanted, &what)).await
    }

    fn what(&self, wanted: &Wanted<'_>) -> String {
        format!("GET manifest {} from {}", wanted.name(), self.place())
    }

    /// Makes attempts at `what` until one goes well or fails for good, within the retry budget.
    pub(super) async fn retried<T, F: Future<Output = Result<T>>>(
        &self,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        let deadline = clock::now() + self.retry_budget;
        let mut backoff = Backoff::new(FIRST_PAUSE, PAUSE_MAX);
        let mut unreachable = 0;
        let mut earlier: Option<Error> = None;
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            let error = match tokio::time::timeout(left, attempt()).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(error)) => error,
                Err(_) => {
                    let seconds = self.retry_budget.as_secs_f32();
                    let text = format!("{what}: no answer within {seconds} s");
                    return Err(match earlier {
                        Some(error) => error.context(text),
                        None => Error::new(ErrorKind::TimedOut, text),
                    });
                }
            };
            unreachable += u32::from(is_unreachable(&error));
            let pause = backoff.pause(error.retry_after());
            let is_over = !error.kind().is_transient() || unreachable == UNREACHABLE_ATTEMPTS_MAX;
            if is_over || clock::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(error = %error.chain(), ?pause, "trying again");
            earlier = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    async fn manifest_attempt(&self, wanted: &Wanted<'_>, what: &str) -> Result<RawManifest> {
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
        let bytes = collect(landed, MANIFEST_BYTES_MAX, what).await?;
        let digest = wanted
            .check(&bytes, &headers)
            .map_err(|why| Error::new(ErrorKind::Corrupt, format!("{what}: {why}")))?;
        let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let declared = declared.and_then(|value| value.split(';').next()).map(str::trim);
        let specific = declared.filter(|name| !name.is_empty() && !GENERIC_TYPES.contains(name));
        let media_type = specific.or(wanted.media_type()).map(str::to_owned);
        Ok(RawManifest { digest, media_type, bytes })
    }
}

/// Which manifest is asked for, and what it is checked against.
#[derive(Debug)]
pub(in crate::registry) enum Wanted<'a> {
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

    /// The digest by which it is asked for; none by tag.
    pub(in crate::registry) fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Tag(_) => None,
            Self::Digest(digest) => Some(digest),
            Self::Descriptor(descriptor) => Some(&descriptor.digest),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::media_type;

    #[test]
    fn every_kind_of_manifest_is_accepted() {
        assert_eq!(ACCEPTED.split(", ").collect::<Vec<_>>(), media_type::MANIFESTS);
    }
}
