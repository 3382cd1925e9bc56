//! Blobs: opened where they were last found, and never taken for other bytes than those asked for.

use std::ops::Range;
use std::sync::Arc;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue, RANGE};
use url::Url;

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::registry::BlobBody;
use crate::registry::answer::{ContentRange, shown_status};
use crate::registry::body::pieces;
use crate::registry::endpoint::shown_host;
use crate::registry::redirect::is_stale;
use crate::registry::transport::Landed;

use super::Remote;

impl Remote {
    /// Opens a blob where it was last found, or asks the registry; one fresh redirect where a store does not
    /// take its URL any more.
    async fn blob_answer(&self, digest: &Digest, headers: &HeaderMap, what: &str) -> Result<Landed> {
        let mut is_renewal = false;
        if let Some(url) = self.targets.get(digest) {
            let answer = self.transport.get(Url::clone(&url), headers, &HeaderMap::new(), what).await;
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

    pub(super) async fn blob_once(
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
                let pieces = pieces(landed, &range, what, failed);
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
    // First, since it is also why the end may be another one.
    if let Some(total) = total.filter(|total| *total != size) {
        return Err(wrong(format!("a total of {total} bytes where the descriptor says {size}")));
    }
    if range != *asked {
        return Err(wrong(format!("the wrong bytes {}-{}", range.start, range.end - 1)));
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
