//! One host of a registry: from its name to its manifest. What depends on a step that failed is not tried.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;

use crate::artifact::{self, Artifact};
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::{SourceRef, WantedPlatform};
use crate::registry::BlobSource as _;
use crate::registry::probe::{self, Hop, HostProbe, Scheme};

use super::finding::Finding;
use super::reference::{CONNECT_LIMIT, STEP_LIMIT};
use super::speed;

/// What was found of a host.
#[derive(Debug)]
pub(super) struct Host {
    /// `HOST[:PORT]`.
    pub(super) name: String,
    pub(super) is_mirror: bool,
    pub(super) found: Vec<Finding>,
    /// What the reference names there.
    pub(super) resolved: Option<Digest>,
    /// What that leads to.
    pub(super) artifact: Option<Artifact>,
}

/// Takes the steps of a mount there, one after the other.
pub(super) async fn check(probe: HostProbe, reference: &SourceRef, platform: &WantedPlatform) -> Host {
    let is_mirror = probe.is_mirror();
    let mut host =
        Host { name: probe.name().to_owned(), is_mirror, found: Vec::new(), resolved: None, artifact: None };
    if is_mirror {
        host.found.push(Finding::ok("mirror", &host.name, "stands in for the registry"));
    }
    if !host.reach(&probe).await
        || !host.resolve(&probe).await
        || !host.load(&probe, reference, platform).await
    {
        return host;
    }
    let layers = host.artifact.iter().flat_map(|artifact| &artifact.layers);
    match layers.max_by_key(|layer| layer.descriptor.size) {
        Some(largest) => host.found.extend(speed::check(&probe, &host.name, &largest.descriptor).await),
        None => host.found.push(Finding::note("range", &host.name, "there is no layer to ask for a part of")),
    }
    host
}

impl Host {
    /// Looks its name up and connects to each address, or to those of the proxy before it.
    async fn reach(&mut self, probe: &HostProbe) -> bool {
        let Some(hop) = probe.hop() else { return true };
        let name = &self.name;
        if hop.is_proxy {
            let text =
                format!("is reached through the proxy {}:{} (from the environment)", hop.host, hop.port);
            let remedy = "nothing, if it is meant; else add the registry to NO_PROXY";
            self.found.push(Finding::note("proxy", name, text).remedy(remedy));
        }
        let addresses = match tokio::time::timeout(CONNECT_LIMIT, hop.addresses()).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                self.found.push(unknown_name(name, &hop, &error.to_string()));
                return false;
            }
            Err(_) => {
                let late = format!("the resolver did not answer within {} s", CONNECT_LIMIT.as_secs());
                self.found.push(unknown_name(name, &hop, &late));
                return false;
            }
        };
        if !is_address(&hop) {
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            self.found.push(Finding::ok("name", name, format!("{} is {}", hop.host, shown.join(", "))));
        }
        let attempts = addresses.iter().map(|address| probe::connect(*address, CONNECT_LIMIT));
        let (is_reached, finding) = connections(name, &addresses, &join_all(attempts).await);
        self.found.push(finding);
        is_reached
    }

    /// Asks for the manifest: the first request, which shows the protocol and the authentication too.
    async fn resolve(&mut self, probe: &HostProbe) -> bool {
        let answer = within("the manifest", probe.resolve()).await;
        let name = &self.name;
        match (probe.answered_with_tls(), &answer) {
            (None, Err(error)) => {
                self.found.push(Finding::error("tls", name, error.chain()).remedy(remedy_for(error.kind())));
                return false;
            }
            (Some(false), _) => self.found.push(Finding::note("tls", name, "plain HTTP, without TLS")),
            (Some(true) | None, _) if probe.checks_certificate() => {
                self.found.push(Finding::ok("tls", name, "HTTPS, and its certificate is trusted"));
            }
            (Some(true) | None, _) => {
                let text = "HTTPS, with whatever certificate: the configuration says that it is not checked";
                let remedy = "have the configuration name its authority in place of insecure or skip_verify";
                self.found.push(Finding::warning("tls", name, text).remedy(remedy));
            }
        }
        self.found.push(authentication(name, probe, answer.as_ref().err()));
        match answer {
            Ok(manifest) => {
                let media_type = manifest.media_type.as_deref().unwrap_or("no media type");
                let text = format!("{} ({media_type})", manifest.digest);
                self.found.push(Finding::ok("manifest", name, text));
                self.resolved = Some(manifest.digest);
                true
            }
            Err(error) => {
                if error.kind() != ErrorKind::Unauthorized {
                    let finding = Finding::error("manifest", name, error.chain());
                    self.found.push(finding.remedy(remedy_for(error.kind())));
                }
                false
            }
        }
    }

    /// Goes on from the manifest to the artifact, through an index to the platform.
    async fn load(&mut self, probe: &HostProbe, reference: &SourceRef, platform: &WantedPlatform) -> bool {
        let name = &self.name;
        match within("the artifact's manifests", artifact::load_from(probe, reference, platform)).await {
            Ok(artifact) => {
                if self.resolved.as_ref() != Some(&artifact.digest) {
                    let text = format!("{platform} is {} ({})", artifact.digest, artifact.media_type);
                    self.found.push(Finding::ok("platform", name, text));
                }
                self.artifact = Some(artifact);
                true
            }
            Err(error) => {
                let remedy = match error.kind() {
                    ErrorKind::NotFound => "choose one of those that there are with --platform",
                    kind => remedy_for(kind),
                };
                self.found.push(Finding::error("artifact", name, error.chain()).remedy(remedy));
                false
            }
        }
    }
}

/// `step`, or an error after the limit.
pub(super) async fn within<T>(what: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(STEP_LIMIT, step).await.unwrap_or_else(|_| {
        let text = format!("{what} did not come within {} s", STEP_LIMIT.as_secs());
        Err(Error::new(ErrorKind::TimedOut, text))
    })
}

/// What to do about an error of a registry.
pub(super) fn remedy_for(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "check the name and the tag",
        ErrorKind::Unauthorized => "log in with podman login, or name a credentials file with --authfile",
        ErrorKind::Unavailable | ErrorKind::TimedOut => {
            "see whether a registry runs there, and whether a firewall or a proxy stands before it; then try again"
        }
        ErrorKind::Invalid => {
            "for a certificate that is not trusted, add its authority to the system's; for a registry without TLS, \
             give --plain-http; else see what the host serves"
        }
        ErrorKind::Corrupt => {
            "have the artifact pushed again, or ask another registry: what this one has is damaged"
        }
        ErrorKind::Unsupported => {
            "have the artifact made in a format that is served; refmount inspect says more"
        }
        ErrorKind::Usage | ErrorKind::Busy | ErrorKind::NoSpace | ErrorKind::Io => "see the message",
    }
}

fn unknown_name(name: &str, hop: &Hop, why: &str) -> Finding {
    let remedy = format!("check the name, and what resolves it: getent hosts {}, /etc/resolv.conf", hop.host);
    Finding::error("name", name, format!("{} cannot be looked up: {why}", hop.host)).remedy(remedy)
}

fn is_address(hop: &Hop) -> bool {
    hop.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// Whether one of the addresses takes connections, and what is to be said about them.
fn connections(name: &str, addresses: &[SocketAddr], answers: &[Result<Duration>]) -> (bool, Finding) {
    let fastest =
        addresses.iter().zip(answers).filter_map(|(address, answer)| Some((answer.as_ref().ok()?, address)));
    let refusals: Vec<String> =
        answers.iter().filter_map(|answer| Some(answer.as_ref().err()?.chain())).collect();
    let Some((took, address)) = fastest.min() else {
        let why = if refusals.is_empty() { "it has no address".to_owned() } else { refusals.join("; ") };
        let remedy = remedy_for(ErrorKind::Unavailable);
        return (
            false,
            Finding::error("connection", name, format!("cannot be reached: {why}")).remedy(remedy),
        );
    };
    let text = format!("{address} answers in {}", speed::milliseconds(*took));
    let finding = match refusals.is_empty() {
        true => Finding::ok("connection", name, text),
        false => {
            let text = format!("{text}, but not every address does: {}", refusals.join("; "));
            Finding::warning("connection", name, text)
                .remedy("repair the route to it (IPv6?), or have the name lead only to addresses that answer")
        }
    };
    (true, finding)
}

/// What the host asked for, what it was sent, and whether that was enough.
fn authentication(name: &str, probe: &HostProbe, error: Option<&Error>) -> Finding {
    let account = probe.authentication();
    let wanted = match &account.scheme {
        Some(Scheme::Bearer { token_server }) => {
            format!("wants a token from {token_server}; {}", account.sent)
        }
        Some(Scheme::Basic) => format!("wants user and password; {}", account.sent),
        None => "wants none".to_owned(),
    };
    match error.filter(|error| error.kind() == ErrorKind::Unauthorized) {
        None => Finding::ok("authentication", name, wanted),
        Some(error) => {
            // It stands below.
            let why = error.chain().replacen(&format!("; {}", account.remedy), "", 1);
            Finding::error("authentication", name, format!("{wanted}: refused: {why}")).remedy(account.remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn refused() -> Result<Duration> {
        Err(Error::new(ErrorKind::Unavailable, "refused"))
    }

    #[test]
    fn one_address_of_two_is_a_warning_and_none_an_error() {
        let addresses: [SocketAddr; 2] =
            ["192.0.2.1:443", "[2001:db8::1]:443"].map(|text| text.parse().unwrap());
        let took = |milliseconds| Ok(Duration::from_millis(milliseconds));
        let (is_reached, finding) = connections("r", &addresses, &[took(7), took(3)]);
        assert_eq!((is_reached, finding.level), (true, Level::Ok));
        assert_eq!(finding.finding, "[2001:db8::1]:443 answers in 3.0 ms");
        let (is_reached, finding) = connections("r", &addresses, &[took(7), refused()]);
        assert_eq!((is_reached, finding.level), (true, Level::Warning));
        let (is_reached, finding) = connections("r", &addresses, &[refused(), refused()]);
        assert_eq!((is_reached, finding.level), (false, Level::Error));
        assert!(!connections("r", &[], &[]).0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_hangs_ends_at_its_limit() {
        let error = within("the manifest", std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "the manifest did not come within 15 s");
    }

    #[test]
    fn addresses_are_told_from_names() {
        let hop = |host: &str| Hop { host: host.into(), port: 443, is_proxy: false };
        assert!(is_address(&hop("[::1]")) && is_address(&hop("127.0.0.1")) && !is_address(&hop("r.example")));
    }
}
