//! [`HostProbe`]: one host of a route, asked alone, so that what each of them answers can be told apart.
//!
//! It sends what a mount would send, in single attempts, and in the same way: with the same credentials, through the
//! same proxy. Tokens and the queries of redirects do not leave this module.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::net::TcpStream;
use url::Url;

use crate::base::{Digest, Error, ErrorKind, Result, clock};
use crate::oci::{Descriptor, RegistryRef};

use super::config::RegistryConfig;
use super::endpoint::is_loopback;
use super::remote::{Remote, Wanted};
use super::{BlobBody, BlobSource, RawManifest, SourceOptions, check_range};

pub use super::auth::{Authentication, Scheme};

/// The hosts that `reference` is asked for at, in their order: mirrors first. Reads the files of configuration and
/// credentials; sends nothing yet.
///
/// # Errors
/// As [`super::open`].
pub fn hosts(reference: &RegistryRef, options: &SourceOptions) -> Result<Vec<HostProbe>> {
    let config = RegistryConfig::read(options)?;
    let route = config.route(reference, options)?;
    let probe = |route| {
        // Each is asked alone, as if there were no other mirror.
        let remote = Remote::open(route, 1, options, config.credential_helpers())?;
        Ok(HostProbe { reference: reference.clone(), remote })
    };
    route.hosts.into_iter().map(probe).collect()
}

/// See the module's text.
#[derive(Debug)]
pub struct HostProbe {
    reference: RegistryRef,
    remote: Remote,
}

/// Where connections to a host go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// A name or an address; an IPv6 address in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether it is a proxy of the environment.
    pub is_proxy: bool,
}

impl HostProbe {
    /// Whether it stands in for another host.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.remote.route().is_mirror
    }

    /// Whether it is asked for what the reference names as it stands: not by a tag, where only digests are asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        let serves = self.remote.route().serves;
        if self.reference.digest.is_some() { serves.digests } else { serves.tags }
    }

    /// The same, asked for `digest` in place of what the tag means.
    pub fn pin(&mut self, digest: Digest) {
        self.reference.digest = Some(digest);
    }

    /// Where connections to it go to; none for an address without a host.
    #[must_use]
    pub fn hop(&self) -> Option<Hop> {
        hop(self.remote.route().bases.first()?, &Matcher::from_env())
    }

    /// Whether it answered with TLS; none as long as it has not answered at all.
    #[must_use]
    pub fn answered_with_tls(&self) -> Option<bool> {
        self.remote.answering().map(|base| base.scheme() == "https")
    }

    /// Whether a certificate of its has to be one that is trusted.
    #[must_use]
    pub fn checks_certificate(&self) -> bool {
        !self.remote.route().tls.skip_verify
    }

    /// What it asked for by way of authentication so far, and what it was sent.
    #[must_use]
    pub fn authentication(&self) -> Authentication {
        self.remote.authentication()
    }

    /// The host that it redirected to when it was asked for the blob `digest`, if it did.
    #[must_use]
    pub fn store_of(&self, digest: &Digest) -> Option<String> {
        self.remote.store_of(digest)
    }
}

/// Like a source of which this host is the only one.
#[async_trait]
impl BlobSource for HostProbe {
    fn name(&self) -> &str {
        &self.remote.route().host
    }

    async fn resolve(&self) -> Result<RawManifest> {
        let RegistryRef { digest, tag, .. } = &self.reference;
        let wanted = match digest {
            Some(digest) => Wanted::Digest(digest),
            None => Wanted::Tag(tag.as_deref().unwrap_or("latest")),
        };
        self.remote.manifest_once(&wanted).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.remote.manifest_once(&Wanted::Descriptor(descriptor)).await
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        check_range(size, &range)?;
        self.remote.blob(digest, size, &range).await
    }
}

impl Hop {
    /// The addresses of the host.
    ///
    /// # Errors
    /// What the resolver says.
    pub async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let mut addresses: Vec<_> = tokio::net::lookup_host((host, self.port)).await?.collect();
        // Resolvers say one twice that stands in two of their files.
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        Ok(addresses)
    }
}

/// How long a connection to `address` takes to come about.
///
/// # Errors
/// `Unavailable`, or `TimedOut` after `limit`.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<Duration> {
    let begun = clock::now();
    match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(clock::now().duration_since(begun)),
        Ok(Err(error)) => Err(Error::new(ErrorKind::Unavailable, format!("{address}: {error}"))),
        Err(_) => {
            let text = format!("{address}: no connection within {} s", limit.as_secs_f32());
            Err(Error::new(ErrorKind::TimedOut, text))
        }
    }
}

/// The proxy that `proxies` has for `base`, else its host itself.
fn hop(base: &Url, proxies: &Matcher) -> Option<Hop> {
    let hop = |host: &str, port, is_proxy| Hop { host: host.to_owned(), port, is_proxy };
    let proxy = match is_loopback(base) {
        true => None,
        false => base.as_str().parse().ok().and_then(|uri| proxies.intercept(&uri)),
    };
    match proxy {
        Some(proxy) => {
            let uri = proxy.uri();
            let default = match uri.scheme_str() {
                Some("https") => 443,
                Some("socks4" | "socks4a" | "socks5" | "socks5h") => 1080,
                _ => 80,
            };
            Some(hop(uri.host()?, uri.port_u16().unwrap_or(default), true))
        }
        None => Some(hop(base.host_str()?, base.port_or_known_default()?, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_without_what_it_is_logged_in_with() {
        let proxies = Matcher::builder()
            .https("http://user:hush@proxy.example:3128")
            .http("proxy.example")
            .no("internal.example")
            .build();
        let hop = |url: &str| {
            let Hop { host, port, is_proxy } = hop(&Url::parse(url).unwrap(), &proxies).unwrap();
            (format!("{host}:{port}"), is_proxy)
        };
        assert_eq!(hop("https://r.example/v2/"), ("proxy.example:3128".into(), true));
        assert_eq!(hop("http://r.example/v2/"), ("proxy.example:80".into(), true));
        assert_eq!(hop("https://r.internal.example:5000/v2/"), ("r.internal.example:5000".into(), false));
        assert_eq!(hop("https://localhost:5000/v2/"), ("localhost:5000".into(), false));
        assert_eq!(hop("https://[::1]/v2/"), ("[::1]:443".into(), false));
    }
}
