//! Redirects: whether one may be followed, and where a blob's last one led.
//!
//! A signed URL is a secret: it is kept in memory, and shown only without its query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};
use url::Url;

use crate::base::{Digest, Error, ErrorKind, Result};

use super::endpoint::{is_loopback, shown_host};

/// Whether `status` sends a GET elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether a store that answers so does not take the URL any more.
pub(super) fn is_stale(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 401 | 403 | 404 | 410)
}

/// Where an answer from `from` redirects to.
///
/// # Errors
/// `Invalid` for a target that is none, and for one that leaves TLS.
pub(super) fn target(from: &Url, headers: &HeaderMap) -> Result<Url> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let joined = location.and_then(|location| from.join(location).ok());
    let Some(mut to) = joined.filter(|to| matches!(to.scheme(), "http" | "https") && to.has_host()) else {
        let message = format!("{} redirects without saying to which URL", shown_host(from));
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    if from.scheme() == "https" && to.scheme() == "http" && !(is_loopback(from) && is_loopback(&to)) {
        let message = format!(
            "{} redirects from https to plain http at {}, which is not followed",
            shown_host(from),
            shown_host(&to)
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    // Whoever wrote the redirect has no business in choosing what we log in with.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    to.set_fragment(None);
    Ok(to)
}

/// Where each blob was last found, if not at the registry. Clones share what they know.
#[derive(Clone, Default)]
pub(super) struct Targets(Arc<Mutex<HashMap<Digest, Arc<Url>>>>);

impl Targets {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Url>> {
        self.lock().get(digest).cloned()
    }

    pub(super) fn remember(&self, digest: &Digest, url: Arc<Url>) {
        self.lock().insert(digest.clone(), url);
    }

    /// Forgets `url`; a newer one stays.
    pub(super) fn forget(&self, digest: &Digest, url: &Arc<Url>) {
        let mut targets = self.lock();
        if targets.get(digest).is_some_and(|there| Arc::ptr_eq(there, url)) {
            targets.remove(digest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Url>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Targets({})", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(from: &str, location: &str) -> Result<String> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        target(&Url::parse(from).unwrap(), &headers).map(|url| url.to_string())
    }

    #[test]
    fn relative_and_absolute_targets() {
        assert_eq!(follow("https://r.example/v2/a", "/b?x=1#f").unwrap(), "https://r.example/b?x=1");
        assert_eq!(follow("http://r.example/", "https://s.example/").unwrap(), "https://s.example/");
        assert_eq!(follow("https://r.example/", "//user:pass@s.example/").unwrap(), "https://s.example/");
        assert_eq!(follow("https://127.0.0.1/", "http://localhost/").unwrap(), "http://localhost/");
    }

    #[test]
    fn tls_is_never_left_and_the_error_hides_the_signature() {
        for from in ["https://r.example/", "https://localhost/"] {
            let error = follow(from, "http://s.example/b?signature=secret").unwrap_err();
            assert!(error.to_string().contains("s.example"), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for location in ["file:///etc/passwd", "ftp://s.example/", "data:,x"] {
            follow("https://r.example/", location).unwrap_err();
        }
        target(&Url::parse("https://r.example/").unwrap(), &HeaderMap::new()).unwrap_err();
    }

    #[test]
    fn a_newer_target_survives_the_end_of_an_older_one() {
        let targets = Targets::default();
        let digest = Digest::of(crate::base::Algorithm::Sha256, b"");
        let url = |text: &str| Arc::new(Url::parse(text).unwrap());
        let (old, new) = (url("https://s.example/1"), url("https://s.example/2"));
        targets.remember(&digest, old.clone());
        targets.remember(&digest, new.clone());
        targets.forget(&digest, &old);
        assert_eq!(targets.get(&digest), Some(new.clone()));
        targets.forget(&digest, &new);
        assert_eq!(targets.get(&digest), None);
    }
}
