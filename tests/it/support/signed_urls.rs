//! A registry whose blobs lie in a store that is asked with signed URLs, as those over an object store do it.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use refmount::base::{Digest, clock};
use reqwest::header::ACCEPT;

use super::authority::openssl;
use super::connection::{Answer, Request};
use super::docker_registry::DockerRegistry;
use super::http_server::HttpServer;
use super::nginx::Nginx;

/// What URLs are signed with.
const KEY: &str = "the-store-and-the-registry-know-it";

/// How the store is told to take what [`Signer::sign`] makes. A wrong signature is refused in another way than one that
/// has ended, so that one is not taken for the other.
const STORE: &str = "
root @ROOT@;
secure_link $arg_md5,$arg_expires;
secure_link_md5 '$secure_link_expires$uri @KEY@';
if ($secure_link = '') { return 418; }
if ($secure_link = '0') { return @REFUSAL@; }
";

/// Both servers; they end with this value.
#[derive(Debug)]
pub(crate) struct SignedUrls {
    front: HttpServer,
    store: Nginx,
    signer: Arc<Signer>,
}

#[derive(Debug)]
struct Signer {
    registry: String,
    store: String,
    /// Of a URL, in seconds.
    life: u64,
    client: reqwest::Client,
    /// Parts of the queries that were signed.
    issued: Mutex<Vec<String>>,
}

impl SignedUrls {
    /// What `registry` holds, with URLs that are good for `life` seconds, and for up to one more, since such times are
    /// whole seconds; afterwards the store answers `refusal`.
    pub(crate) fn before(registry: &DockerRegistry, life: u64, refusal: u16) -> Self {
        let root = registry.data().join("docker/registry/v2");
        let settings = STORE
            .replace("@ROOT@", root.to_str().unwrap())
            .replace("@KEY@", KEY)
            .replace("@REFUSAL@", &refusal.to_string());
        let store = Nginx::start("", &settings);
        let signer = Arc::new(Signer {
            registry: registry.host().to_owned(),
            store: store.host().to_owned(),
            life,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            issued: Mutex::default(),
        });
        let shared = signer.clone();
        let front = HttpServer::start(move |request| {
            let signer = shared.clone();
            async move { signer.answer(&request).await }
        });
        Self { front, store, signer }
    }

    /// Address and port of the registry.
    pub(crate) fn host(&self) -> &str {
        self.front.host()
    }

    /// Statuses that the store has answered with.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.store.passages().iter().map(|passage| passage.status).collect()
    }

    /// The parts of the queries that were signed which nobody else may see.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.signer.issued.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Signer {
    async fn answer(&self, request: &Request) -> Answer {
        match request.path.split_once("/blobs/").and_then(|(_, digest)| digest.parse().ok()) {
            Some(digest) => Answer::new(307, "").with("Location", self.sign(&digest)),
            None => self.pass_on(request).await,
        }
    }

    /// The URL at which `digest` can be had for a while.
    fn sign(&self, digest: &Digest) -> String {
        let hex = digest.as_str().strip_prefix("sha256:").unwrap();
        let path = format!("/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let expires = clock::unix_time().as_secs() + self.life;
        let md5 = openssl(&["dgst", "-md5", "-binary"], format!("{expires}{path} {KEY}").as_bytes());
        let (md5, expires) = (URL_SAFE_NO_PAD.encode(md5), format!("expires={expires}"));
        let url = format!("http://{}{path}?md5={md5}&{expires}", self.store);
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).extend([md5, expires]);
        url
    }

    /// What the registry itself says.
    async fn pass_on(&self, request: &Request) -> Answer {
        let mut onward = self.client.get(format!("http://{}{}", self.registry, request.path));
        if let Some(accept) = request.header("accept") {
            onward = onward.header(ACCEPT, accept);
        }
        let theirs = onward.send().await.unwrap();
        let (status, headers) = (theirs.status().as_u16(), theirs.headers().clone());
        let answer = Answer::new(status, theirs.bytes().await.unwrap());
        ["Content-Type", "Docker-Content-Digest"].iter().fold(answer, |answer, name| {
            match headers.get(*name).and_then(|value| value.to_str().ok()) {
                Some(value) => answer.with(name, value),
                None => answer,
            }
        })
    }
}
