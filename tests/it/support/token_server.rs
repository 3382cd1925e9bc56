//! The token server of a registry (distribution, "Token Authentication" and "Token Authentication Implementation"),
//! whose tokens docker-registry checks.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use refmount::base::clock;
use serde_json::json;

use super::authority::{Authority, openssl};
use super::connection::{Answer, Request};
use super::http_server::HttpServer;

const ISSUER: &str = "refmount test";
const SERVICE: &str = "refmount test registry";

/// Seconds for which docker-registry takes a token that has ended, because clocks differ.
const LEEWAY: u64 = 60;

/// What tokens are made of.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    /// Seconds after which the registry refuses one; up to one less, since such times are whole seconds.
    pub(crate) life: u64,
    /// Whether the server says so.
    pub(crate) is_life_told: bool,
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
}

/// A running token server.
#[derive(Debug)]
pub(crate) struct TokenServer {
    server: HttpServer,
    issuer: Arc<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    authority: Authority,
    tokens: Tokens,
    issued: Mutex<Vec<String>>,
}

impl TokenServer {
    pub(crate) fn start(tokens: Tokens) -> Self {
        let issuer = Issuer { authority: Authority::new(), tokens, issued: Mutex::default() };
        let issuer = Arc::new(issuer);
        let shared = issuer.clone();
        let server = HttpServer::start(move |request| {
            let answer = shared.answer(&request);
            async { answer }
        });
        Self { server, issuer }
    }

    /// The section `auth` of the registry that takes these tokens.
    pub(crate) fn settings(&self) -> String {
        format!(
            "auth: {{token: {{realm: 'http://{}/token', service: '{SERVICE}', issuer: '{ISSUER}', \
             rootcertbundle: '{}'}}}}\n",
            self.server.host(),
            self.issuer.authority.certificate("authority").display()
        )
    }

    /// Every token that was issued.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.issuer.issued.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Issuer {
    fn answer(&self, request: &Request) -> Answer {
        let Tokens { user, password, life, is_life_told, .. } = self.tokens;
        let login = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        if request.header("authorization") != Some(&login) {
            return Answer::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#);
        }
        let scope = request.field("scope").unwrap_or_default();
        let mut answer = json!({ "token": self.token(&scope) });
        if is_life_told {
            answer["expires_in"] = life.into();
        }
        Answer::new(200, answer.to_string()).with("Content-Type", "application/json")
    }

    /// A token for `scope`, `TYPE:NAME:ACTION,…`.
    fn token(&self, scope: &str) -> String {
        let (kind, rest) = scope.split_once(':').unwrap();
        let (name, actions) = rest.rsplit_once(':').unwrap();
        let actions: Vec<&str> = actions.split(',').collect();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::unix_time().as_secs();
        let certificate = std::fs::read_to_string(self.authority.certificate("signer")).unwrap();
        // Between its first and its last line a certificate in PEM is what belongs here.
        let certificate: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [certificate] });
        let claims = json!({
            "iss": ISSUER,
            "sub": self.tokens.user,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - LEEWAY,
            "exp": now + self.tokens.life - LEEWAY,
            "jti": issued.len().to_string(),
            "access": [{ "type": kind, "name": name, "actions": actions }],
        });
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let key = self.authority.key("signer");
        let signature =
            openssl(&["dgst", "-sha256", "-sign", key.to_str().unwrap(), "-binary"], signed.as_bytes());
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        issued.push(token.clone());
        token
    }
}
