//! What came back: statuses, `Retry-After`, `Content-Range` and error documents, as errors that say so.
//!
//! Pure but for reading the body of an error. What a server wrote is shown only from error documents of
//! the distribution specification, shortened and without control characters.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use crate::base::clock::unix_time;
use crate::base::limits::TOKEN_BYTES_MAX;
use crate::base::{Error, ErrorKind};

use super::body::collect;
use super::transport::Landed;

/// Characters of a foreign message that are shown: two lines of a terminal.
const MESSAGE_CHARACTERS_MAX: usize = 200;

/// How long the text of an error may take: it is a courtesy, and the reader is waiting.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The error that an answer of this status is, for the request `what`.
pub(super) async fn status_error(what: &str, landed: Landed) -> Error {
    let status = landed.response.status();
    let pause = retry_after(landed.response.headers());
    // A store's documents name buckets and keys and echo signed requests.
    let quoted = if landed.at_origin { error_document(landed).await } else { None };
    let quoted = quoted.map_or_else(String::new, |text| format!(" ({text})"));
    let error = Error::new(kind_of(status), format!("{what}: status {}{quoted}", shown_status(status)));
    match pause {
        Some(pause) => error.after(pause),
        None => error,
    }
}

/// What a status means for the caller.
fn kind_of(status: StatusCode) -> ErrorKind {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => ErrorKind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Unauthorized,
        StatusCode::RANGE_NOT_SATISFIABLE => ErrorKind::Corrupt,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => ErrorKind::Unavailable,
        status if status.is_client_error() => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    }
}

/// A status by number and name.
pub(super) fn shown_status(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// `Retry-After` in either form (RFC 9110, section 10.2.3). The caller caps it.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let at = u64::try_from(date.as_second()).ok()?;
    Some(Duration::from_secs(at).saturating_sub(unix_time()))
}

/// `bytes START-END/TOTAL` (RFC 9110, section 14.4), as a half-open range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) range: std::ops::Range<u64>,
    /// `None` for `*`.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    /// Parses the only `Content-Range` in `headers`.
    ///
    /// # Errors
    /// What is there instead, as a sentence shows it.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut values = headers.get_all(CONTENT_RANGE).iter();
        let value = values.next().ok_or("no Content-Range")?;
        let text = value.to_str().unwrap_or("?");
        if values.next().is_some() {
            return Err("several Content-Range".into());
        }
        Self::parse(text).ok_or_else(|| format!("a malformed Content-Range {:?}", one_line(text)))
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
        let fits =
            unit.eq_ignore_ascii_case("bytes") && first < end && total.is_none_or(|total| end <= total);
        fits.then_some(Self { range: first..end, total })
    }
}

/// Digits alone; `parse` would take a sign as well.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The code and message of an error document (distribution-spec, "Error Codes").
async fn error_document(landed: Landed) -> Option<String> {
    let body = collect(landed, TOKEN_BYTES_MAX, "error document");
    let bytes = tokio::time::timeout(ERROR_BODY_TIMEOUT, body).await.ok()?.ok()?;
    error_text(&bytes)
}

fn error_text(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Document {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let document: Document = serde_json::from_slice(bytes).ok()?;
    let entry = document.errors.first()?;
    let text = format!("{}: {}", entry.code, entry.message);
    Some(one_line(text.trim_matches([':', ' '])))
}

/// Foreign text as one short line.
pub(super) fn one_line(text: &str) -> String {
    let visible: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let visible = visible.trim();
    match visible.char_indices().nth(MESSAGE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &visible[..end]),
        None => visible.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn content_range_is_read_strictly() {
        let of = |values: &[&str]| ContentRange::of(&headers("content-range", values));
        assert_eq!(of(&["bytes 0-9/10"]), Ok(ContentRange { range: 0..10, total: Some(10) }));
        assert_eq!(of(&["Bytes 5-9/*"]), Ok(ContentRange { range: 5..10, total: None }));
        for bad in [
            "bytes 0-9",
            "bytes */10",
            "0-9/10",
            "items 0-9/10",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes +0-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0--9/10",
            "bytes 0-9/10,",
            "",
        ] {
            assert!(of(&[bad]).is_err(), "{bad}");
        }
        assert!(of(&[]).is_err());
        assert!(of(&["bytes 0-9/10", "bytes 0-9/10"]).is_err());
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        assert_eq!(retry_after(&headers("retry-after", &["17"])), Some(Duration::from_secs(17)));
        let past = retry_after(&headers("retry-after", &["Sun, 06 Nov 1994 08:49:37 GMT"]));
        assert_eq!(past, Some(Duration::ZERO));
        let far = retry_after(&headers("retry-after", &["Wed, 31 Dec 2200 23:59:59 GMT"]));
        assert!(far > Some(Duration::from_secs(3600)), "{far:?}");
        assert_eq!(retry_after(&headers("retry-after", &["soon"])), None);
    }

    #[test]
    fn foreign_text_is_short_and_harmless() {
        let long = "x".repeat(1000);
        let text = format!(r#"{{"errors":[{{"code":"DENIED","message":"no\u001b[2Jway\n{long}"}}]}}"#);
        let shown = error_text(text.as_bytes()).unwrap();
        assert!(shown.starts_with("DENIED: no [2Jway xxx"), "{shown}");
        assert!(shown.chars().count() <= MESSAGE_CHARACTERS_MAX + 1);
        assert_eq!(error_text(b"<html>"), None);
        assert_eq!(error_text(br#"{"errors":[]}"#), None);
    }
}
