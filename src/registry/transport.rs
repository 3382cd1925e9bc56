//! One GET, redirects followed: the only place of this module that sends something.
//!
//! `Authorization`, and what else is meant for one host, goes to the origin (scheme, host and port) that it was meant
//! for and nowhere else; once a redirect has left that origin, it does not come back. Proxies of the environment are
//! used, but never for this machine. Ranges of blobs go over HTTP/1.1, everything else over HTTP/2 where it is offered
//! (docs/decisions/0002).

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Client, RequestBuilder, Response, redirect};
use url::{Origin, Url};

use crate::base::limits::REDIRECTS_MAX;
use crate::base::{Error, ErrorKind, Result};

use super::SourceOptions;
use super::endpoint::{is_loopback, shown_host};
use super::pace::Pace;
use super::redirect::{is_redirect, target};
use super::route::HostRoute;
use super::tls::Trust;
use super::traffic::{self, HostTraffic};

/// How long one host is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    connect_timeout: Duration,
    inactivity_timeout: Duration,
    /// Whether there is nobody else to ask.
    is_last: bool,
}

/// How long a mirror may take to be reached, and how long it may make no progress, unless told otherwise: there is
/// somebody else to ask, and a reader is waiting.
const MIRROR_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MIRROR_INACTIVITY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one of so many `mirrors` may keep a reader waiting: all of them together as long as one host that is asked
/// alone, so that there is time left for the registry.
pub(super) fn mirror_share(mirrors: usize, options: &SourceOptions) -> Duration {
    options.inactivity_timeout / u32::try_from(mirrors.max(1)).unwrap_or(u32::MAX)
}

impl Patience {
    /// The patience with the host of `route`, among so many `mirrors`.
    pub(super) fn with(route: &HostRoute, mirrors: usize, options: &SourceOptions) -> Self {
        let (mut connect, mut inactivity) = (options.connect_timeout, options.inactivity_timeout);
        if route.is_mirror {
            connect = connect.min(MIRROR_CONNECT_TIMEOUT);
            inactivity = MIRROR_INACTIVITY_TIMEOUT.min(mirror_share(mirrors, options));
        }
        Self {
            connect_timeout: route.connect_timeout.unwrap_or(connect),
            inactivity_timeout: inactivity,
            is_last: !route.is_mirror,
        }
    }

    /// With which a body comes.
    fn pace(&self) -> Pace {
        Pace::new(self.inactivity_timeout, self.is_last)
    }
}

/// How often a connection of HTTP/2 is tried, and how long that may take. A request that is given up does not end the
/// connection that it shares; without this, later ones would go the same dead way.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How requests are sent.
#[derive(Debug)]
pub(super) struct Transport {
    patience: Patience,
    /// Where the host itself is, and not a store or a token server that it sends to.
    own: Vec<Origin>,
    trust: Trust,
    clients: Mutex<HashMap<ClientKind, Client>>,
    traffic: Arc<HostTraffic>,
}

/// Which of the clients a request goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ClientKind {
    /// To this machine: without a proxy.
    is_local: bool,
    /// TLS may be spoken: by the certificates of the system, which take long to read, or by those that are named.
    is_secure: bool,
    /// To the host that the settings are for, which may see who we are.
    shows_identity: bool,
    /// For a range of a blob: with a connection of its own.
    is_range: bool,
}

/// The answer at the end of all redirects.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) response: Response,
    /// How its body has to come.
    pub(super) pace: Pace,
    /// Where it came from.
    pub(super) url: Url,
    /// Whether every hop stayed at the first one's origin.
    pub(super) at_origin: bool,
}

impl Transport {
    /// How the host of `route` is reached, with the `trust` that its settings lead to.
    pub(super) fn new(route: &HostRoute, trust: Trust, patience: Patience) -> Self {
        let own = route.bases.iter().map(Url::origin).collect();
        let traffic = traffic::of(&route.host);
        Self { patience, own, trust, clients: Mutex::default(), traffic }
    }

    /// GETs `url`, with `private` headers that are meant for its origin alone. Any status but a redirect is a success
    /// here. `what` explains errors.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`; `Invalid` for a certificate that is not trusted, for a server that does not
    /// speak TLS, and for redirects that must not be followed.
    pub(super) async fn get(
        &self,
        url: Url,
        headers: &HeaderMap,
        private: &HeaderMap,
        what: &str,
    ) -> Result<Landed> {
        let (origin, mut url) = (url.origin(), url);
        let mut at_origin = true;
        for _ in 0..=REDIRECTS_MAX {
            let kind = self.kind(&url, headers.contains_key(RANGE));
            let mut request = self.client(kind)?.get(url.clone()).headers(headers.clone());
            if at_origin {
                request = request.headers(private.clone());
            }
            let response = self.send(request, what, &url).await?;
            if !is_redirect(response.status()) {
                return Ok(Landed { response, pace: self.patience.pace(), url, at_origin });
            }
            url = target(&url, response.headers()).map_err(|error| error.context(what))?;
            at_origin &= url.origin() == origin;
        }
        let message =
            format!("{what}: more than {REDIRECTS_MAX} redirects, the last one to {}", shown_host(&url));
        Err(Error::new(ErrorKind::Invalid, message))
    }

    /// POSTs a form to `url`; a redirect is an answer like any other.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) async fn post(&self, url: Url, form: String, what: &str) -> Result<Landed> {
        let request = self
            .client(self.kind(&url, false))?
            .post(url.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        let response = self.send(request, what, &url).await?;
        Ok(Landed { response, pace: self.patience.pace(), url, at_origin: true })
    }

    /// Waits for the head of the answer. The client's own timeout would count the time in which nobody reads
    /// a body as inactivity.
    async fn send(&self, request: RequestBuilder, what: &str, url: &Url) -> Result<Response> {
        let patience = self.patience.connect_timeout + self.patience.inactivity_timeout;
        let answer = tokio::time::timeout(patience, request.send()).await;
        let code = answer.as_ref().ok().and_then(|answer| Some(answer.as_ref().ok()?.status().as_u16()));
        self.traffic.answered(code);
        match answer {
            Ok(answer) => answer.map_err(|error| connection_error(error, what, url)),
            Err(_) => {
                let message = format!("{what}: {} did not answer in time", shown_host(url));
                Err(Error::new(ErrorKind::TimedOut, message))
            }
        }
    }

    fn kind(&self, url: &Url, is_range: bool) -> ClientKind {
        ClientKind {
            is_local: is_loopback(url),
            is_secure: may_speak_tls(url),
            shows_identity: self.own.contains(&url.origin()),
            is_range,
        }
    }

    /// The client of that kind. Made when it is needed.
    fn client(&self, kind: ClientKind) -> Result<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let builder = || {
            let builder = self
                .trust
                .apply(Client::builder(), kind.shows_identity)
                .redirect(redirect::Policy::none())
                .referer(false)
                .retry(reqwest::retry::never())
                .connect_timeout(self.patience.connect_timeout)
                .user_agent(concat!("refmount/", env!("CARGO_PKG_VERSION")));
            let builder = match kind.is_range {
                true => builder.http1_only(),
                false => builder
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .http2_keep_alive_timeout(KEEP_ALIVE)
                    .http2_keep_alive_while_idle(true),
            };
            if kind.is_local { builder.no_proxy() } else { builder }
        };
        let alone = || self.trust.alone(builder()).build();
        // On a machine without certificates TLS trusts nobody but who was named.
        let client = match kind.is_secure {
            true => builder().build().or_else(|_| alone()),
            false => alone(),
        };
        let client = client
            .map_err(|error| Error::with_source(ErrorKind::Io, "cannot set up HTTP", error.without_url()))?;
        clients.insert(kind, client.clone());
        Ok(client)
    }
}

/// Whether TLS may be spoken on the way to `url`: with its host, or with the proxy before it, which the environment may
/// name by an address with TLS whatever is asked for through it.
fn may_speak_tls(url: &Url) -> bool {
    url.scheme() == "https" || !is_loopback(url)
}

/// Whether nothing at all listens where `error` came from, or its name is unknown.
pub(super) fn is_unreachable(error: &Error) -> bool {
    use std::io::ErrorKind as Io;
    causes(error).any(|cause| {
        let refused = cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(error.kind(), Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable)
        });
        refused || cause.to_string().starts_with("failed to lookup address")
    })
}

/// Whether the connection failed in a way in which a server without TLS makes it fail.
pub(super) fn may_lack_tls(error: &Error) -> bool {
    // What explains an error is shared, so the cause that is seen first is the pointer to it.
    let connecting = |cause: &(dyn StdError + 'static)| {
        let shared = cause.downcast_ref::<Arc<dyn StdError + Send + Sync>>();
        shared.and_then(|cause| cause.downcast_ref()).is_some_and(reqwest::Error::is_connect)
    };
    causes(error).any(connecting) && !is_unreachable(error) && !speaks_of(error, "certificate")
}

fn speaks_of(error: &(dyn StdError + 'static), words: &str) -> bool {
    causes(error).any(|cause| cause.to_string().contains(words))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause: &'a (dyn StdError + 'static) = next?;
        next = cause.source();
        Some(cause)
    })
}

/// What a server says that does not want this client (RFC 8446, section 6.2), and will not another time.
const REFUSALS: [&str; 8] = [
    "HandshakeFailure",
    "ProtocolVersion",
    "InsufficientSecurity",
    "CertificateRequired",
    "BadCertificate",
    "UnknownCA",
    "CertificateUnknown",
    "AccessDenied",
];

/// What is wrong with the certificate of `host`, and what to do, as the end of a sentence.
fn certificate_flaw(error: &(dyn StdError + 'static), host: &str) -> String {
    if speaks_of(error, "certificate expired") {
        "that has expired; have it renewed, or set the clock of this machine".to_owned()
    } else if speaks_of(error, "not valid yet") {
        "that is not valid yet; set the clock of this machine".to_owned()
    } else if speaks_of(error, "not valid for name") {
        "for other names; reach it by one of those, or have this one added".to_owned()
    } else {
        let remedy = "add its authority to the system's certificates, or to";
        format!("that is not trusted; {remedy} certs.d/{host} as ca.crt")
    }
}

fn connection_error(error: reqwest::Error, what: &str, url: &Url) -> Error {
    let (error, host) = (error.without_url(), shown_host(url));
    let (kind, why) = if error.is_timeout() {
        let phase = if error.is_connect() { "could not be reached" } else { "did not answer" };
        (ErrorKind::TimedOut, format!("{host} {phase} in time"))
    } else if speaks_of(&error, "tunnel error") {
        let proxy = "the proxy that the environment names (HTTPS_PROXY)";
        (
            ErrorKind::Unavailable,
            format!("{proxy} does not lead to {host}; correct it, or add that to NO_PROXY"),
        )
    } else if speaks_of(&error, "certificate") {
        (ErrorKind::Invalid, format!("{host} has a certificate {}", certificate_flaw(&error, &host)))
    } else if REFUSALS.iter().any(|alert| speaks_of(&error, &format!("fatal alert: {alert}"))) {
        let remedy = format!(
            "of TLS it wants another version, or the certificate of a client that it knows \
                              (NAME.cert and NAME.key in certs.d/{host})"
        );
        (ErrorKind::Invalid, format!("{host} refuses the connection; {remedy}"))
    } else if speaks_of(&error, "corrupt message") {
        (ErrorKind::Invalid, format!("{host} does not speak TLS; to trust it without, use --plain-http"))
    } else {
        (ErrorKind::Unavailable, format!("no answer from {host}"))
    };
    Error::with_source(kind, format!("{what}: {why}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_meets_a_proxy_does_without_the_certificates_of_the_system() {
        let may_speak_tls = |url: &str| may_speak_tls(&Url::parse(url).unwrap());
        assert!(may_speak_tls("https://127.0.0.1:5000/v2/"));
        assert!(may_speak_tls("http://r.example/v2/"), "HTTP_PROXY may be https://proxy.example");
        assert!(!may_speak_tls("http://127.0.0.1:5000/v2/") && !may_speak_tls("http://localhost:5000/v2/"));
    }

    #[test]
    fn each_flaw_of_a_certificate_has_its_own_remedy() {
        for (says, remedy) in [
            (
                "certificate expired: verification time 2 (UNIX), but certificate is not valid after 1",
                "renewed",
            ),
            ("certificate not valid yet: verification time 1 (UNIX)", "clock"),
            ("certificate not valid for name \"r.example\"; certificate is only valid for DnsName", "names"),
            ("UnknownIssuer", "certs.d/r.example as ca.crt"),
        ] {
            let error = std::io::Error::other(format!("invalid peer certificate: {says}"));
            let flaw = certificate_flaw(&error, "r.example");
            assert!(flaw.contains(remedy), "{flaw}");
            assert_eq!(flaw.contains("ca.crt"), says == "UnknownIssuer", "{flaw}");
        }
    }
}
