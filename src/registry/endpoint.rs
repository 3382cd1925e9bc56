//! Where a registry's host is reached: scheme, host, port and the path of its API.
//!
//! HTTPS unless told otherwise; on loopback addresses HTTPS first and plain HTTP where nothing speaks TLS,
//! which is remembered. Nothing here touches the network.

use std::sync::OnceLock;

use url::{Host, Url};

use crate::base::{Error, ErrorKind, Result};

/// The addresses of one host's API.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// In the order in which they are tried; at least one.
    candidates: Vec<Url>,
    settled: OnceLock<Url>,
}

/// The addresses of the API of `host` (with its port), as a reference names it, where nothing is configured.
///
/// # Errors
/// `Usage` for a host that no URL can hold.
pub(super) fn default_bases(host: &str, plain_http: bool) -> Result<Vec<Url>> {
    let secure = base("https", host)?;
    Ok(match (plain_http, is_loopback(&secure)) {
        (true, _) => vec![base("http", host)?],
        (false, true) => vec![secure, base("http", host)?],
        (false, false) => vec![secure],
    })
}

/// The addresses of the API of `host` where TLS may be missing.
///
/// # Errors
/// As [`default_bases`].
pub(super) fn insecure_bases(host: &str, plain_http: bool) -> Result<Vec<Url>> {
    let plain = base("http", host)?;
    Ok(if plain_http { vec![plain] } else { vec![base("https", host)?, plain] })
}

fn base(scheme: &str, host: &str) -> Result<Url> {
    Url::parse(&format!("{scheme}://{}/v2/", server_of(host))).map_err(|error| {
        Error::with_source(ErrorKind::Usage, format!("{host:?} is no registry's host"), error)
    })
}

/// The server of `host`: Docker Hub's has another name than its references.
pub(super) fn server_of(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    }
}

impl Endpoint {
    /// The endpoint that is reached at one of `bases`.
    pub(super) fn new(bases: Vec<Url>) -> Self {
        Self { candidates: bases, settled: OnceLock::new() }
    }

    /// The one that answered, once one did.
    pub(super) fn settled(&self) -> Option<&Url> {
        self.settled.get()
    }

    /// The base URLs to try, in their order: one, once it is known.
    pub(super) fn bases(&self) -> &[Url] {
        match self.settled.get() {
            Some(base) => std::slice::from_ref(base),
            None => &self.candidates,
        }
    }

    /// Remembers that `base` answered.
    pub(super) fn settle(&self, base: &Url) {
        // Another request may have been faster, with the same answer.
        let _ = self.settled.set(base.clone());
    }
}

/// Whether `url` leads to this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Host and port as errors show them.
pub(super) fn shown_host(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(host: &str, plain_http: bool) -> Vec<String> {
        default_bases(host, plain_http).unwrap().iter().map(Url::to_string).collect()
    }

    #[test]
    fn plain_http_only_when_asked_for_or_on_loopback() {
        assert_eq!(bases("ghcr.io", false), ["https://ghcr.io/v2/"]);
        assert_eq!(bases("docker.io", false), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(bases("r.example:5000", true), ["http://r.example:5000/v2/"]);
        for host in ["localhost:5000", "127.0.0.1:5000", "127.8.8.8:5000", "[::1]:5000"] {
            assert_eq!(bases(host, false), [format!("https://{host}/v2/"), format!("http://{host}/v2/")]);
        }
        for host in ["localhost.example", "128.0.0.1", "0.0.0.0", "[::2]", "127.0.0.1.example"] {
            assert_eq!(bases(host, false), [format!("https://{host}/v2/")]);
        }
    }

    #[test]
    fn tls_may_be_missing_where_that_is_allowed() {
        let bases = |plain_http| insecure_bases("r.example", plain_http).unwrap();
        assert_eq!(bases(false).iter().map(Url::scheme).collect::<Vec<_>>(), ["https", "http"]);
        assert_eq!(bases(true).iter().map(Url::scheme).collect::<Vec<_>>(), ["http"]);
    }

    #[test]
    fn the_base_that_answered_is_remembered() {
        let endpoint = Endpoint::new(default_bases("localhost:5000", false).unwrap());
        assert_eq!(endpoint.settled(), None);
        endpoint.settle(&Url::parse("http://localhost:5000/v2/").unwrap());
        assert_eq!(endpoint.bases().len(), 1);
        assert_eq!(endpoint.settled(), endpoint.bases().first());
        assert_eq!(endpoint.bases()[0].scheme(), "http");
    }
}
