//! Tokens: how a token server is asked for one (distribution, "Token Authentication" and "OAuth2 Token
//! Authentication"), and which token servers may see credentials.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Deserialize;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::base::limits::TOKEN_BYTES_MAX;
use crate::base::{Error, ErrorKind, Result, clock};

use super::answer::status_error;
use super::body::collect;
use super::credentials::Secret;
use super::endpoint::{is_loopback, shown_host};
use super::transport::Transport;

/// How long a token lives whose server does not say (distribution, "Token Response Fields").
const LIFE_DEFAULT: Duration = Duration::from_secs(60);

/// No server means a token to outlive a year; more would only overflow.
const LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long before its end a long-lived token is renewed: time for a few attempts.
const RENEWAL_MARGIN: Duration = Duration::from_secs(30);

/// The name under which token servers know this program.
const CLIENT_ID: &str = "refmount";

/// A bearer token's header, and when it ends.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    pub(super) renew_at: Instant,
    pub(super) expires_at: Instant,
}

/// What a token is asked for.
#[derive(Debug)]
pub(super) struct TokenRequest<'a> {
    /// The token server, from the challenge.
    pub(super) realm: &'a str,
    pub(super) service: Option<&'a str>,
    /// `repository:NAME:pull`.
    pub(super) scope: &'a str,
    /// The registry that sent the challenge.
    pub(super) registry: &'a Url,
    pub(super) secret: Option<&'a Secret>,
}

impl TokenRequest<'_> {
    /// Asks the token server.
    ///
    /// # Errors
    /// `Unauthorized` when it refuses, or must not be asked; those of the connection; `Invalid` for an answer
    /// that holds no token.
    pub(super) async fn send(&self, transport: &Transport) -> Result<Token> {
        let realm = checked_realm(self.realm, self.registry)?;
        let what = format!("GET token for {} from {}", self.scope, shown_host(&realm));
        let asked_at = clock::now();
        let landed = match self.secret {
            Some(Secret::IdentityToken(token)) => {
                let form = self.form(Serializer::new(String::new()), token);
                transport.post(realm, form, &what).await?
            }
            Some(Secret::Password { username, password }) => {
                let private = HeaderMap::from_iter([(AUTHORIZATION, basic_header(username, password)?)]);
                transport.get(self.query(realm, Some(username)), &HeaderMap::new(), &private, &what).await?
            }
            None => {
                let none = HeaderMap::new();
                transport.get(self.query(realm, None), &none, &none, &what).await?
            }
        };
        if landed.response.status() != StatusCode::OK {
            return Err(status_error(&what, landed).await);
        }
        let bytes = collect(landed, TOKEN_BYTES_MAX, &what).await?;
        parse(&bytes, asked_at).map_err(|why| Error::new(ErrorKind::Invalid, format!("{what}: {why}")))
    }

    fn query(&self, mut realm: Url, account: Option<&str>) -> Url {
        let mut pairs = realm.query_pairs_mut();
        if let Some(service) = self.service {
            pairs.append_pair("service", service);
        }
        pairs.append_pair("scope", self.scope);
        if let Some(account) = account {
            pairs.append_pair("account", account);
        }
        drop(pairs);
        realm
    }

    fn form(&self, mut form: Serializer<'_, String>, refresh_token: &str) -> String {
        form.append_pair("grant_type", "refresh_token");
        if let Some(service) = self.service {
            form.append_pair("service", service);
        }
        form.append_pair("client_id", CLIENT_ID);
        form.append_pair("scope", self.scope);
        form.append_pair("refresh_token", refresh_token);
        form.finish()
    }
}

/// The token server's URL, if it may be asked: over https, or over plain http where the registry itself is
/// reached so and is the same host, or both are on this machine.
fn checked_realm(realm: &str, registry: &Url) -> Result<Url> {
    let refused = |why: String| {
        let host = shown_host(registry);
        Error::new(
            ErrorKind::Unauthorized,
            format!("{host} sends to a token server that cannot be used: {why}"),
        )
    };
    let mut url = Url::parse(realm).map_err(|error| refused(format!("its URL is malformed, {error}")))?;
    let both_local = is_loopback(&url) && is_loopback(registry);
    let is_allowed = match url.scheme() {
        "https" => true,
        "http" => both_local || (registry.scheme() == "http" && url.host() == registry.host()),
        _ => false,
    };
    if !is_allowed {
        let place = format!("{}://{}", url.scheme(), shown_host(&url));
        return Err(refused(format!("{place} would see the credentials unencrypted")));
    }
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(url)
}

/// `Basic …`, marked as secret.
///
/// # Errors
/// Never for any user and password: base64 is always a header's value.
pub(super) fn basic_header(username: &str, password: &str) -> Result<HeaderValue> {
    secret_header(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn secret_header(text: &str) -> Result<HeaderValue> {
    let mut header = HeaderValue::from_str(text)
        .map_err(|_| Error::new(ErrorKind::Invalid, "the token holds characters that no header can hold"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn parse(bytes: &[u8], asked_at: Instant) -> Result<Token, String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<f64>,
    }
    // The parser's own message may quote the token.
    let answer: Answer =
        serde_json::from_slice(bytes).map_err(|_| "the answer is not the JSON it should be")?;
    let given = |field: Option<String>| field.filter(|token| !token.is_empty());
    let token =
        given(answer.token).or_else(|| given(answer.access_token)).ok_or("the answer holds no token")?;
    let seconds = answer.expires_in.filter(|seconds| *seconds > 0.0);
    let life =
        seconds.map_or(LIFE_DEFAULT, |seconds| Duration::from_secs_f64(seconds.min(LIFE_MAX.as_secs_f64())));
    // A short-lived token would be renewed all the time with the margin alone.
    let renewed_after = life.mul_f64(0.75).max(life.saturating_sub(RENEWAL_MARGIN));
    Ok(Token {
        header: secret_header(&format!("Bearer {token}")).map_err(|error| error.to_string())?,
        renew_at: asked_at + renewed_after,
        expires_at: asked_at + life,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(realm: &str, registry: &str) -> Result<Url> {
        checked_realm(realm, &Url::parse(registry).unwrap())
    }

    #[test]
    fn credentials_go_to_another_host_only_over_tls() {
        for (server, registry) in [
            ("https://auth.example/token", "https://r.example/"),
            ("https://auth.example/token", "http://r.example/"),
            ("http://r.example:5001/token", "http://r.example:5000/"),
            ("http://127.0.0.1:1/token", "http://localhost:2/"),
        ] {
            realm(server, registry).unwrap();
        }
        for (server, registry) in [
            ("http://auth.example/token", "https://r.example/"),
            ("http://auth.example/token", "http://r.example/"),
            ("http://r.example/token", "https://r.example/"),
            ("http://auth.example/token", "http://127.0.0.1/"),
            ("http://127.0.0.1/token", "https://r.example/"),
            ("file:///etc/passwd", "https://r.example/"),
            ("/token", "https://r.example/"),
        ] {
            let error = realm(server, registry).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{server}");
            assert!(
                error.to_string().contains(shown_host(&Url::parse(registry).unwrap()).as_str()),
                "{error}"
            );
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        let start = clock::now();
        let times = |text: &str| {
            let token = parse(text.as_bytes(), start).unwrap();
            ((token.renew_at - start).as_secs(), (token.expires_at - start).as_secs())
        };
        assert_eq!(times(r#"{"token":"t","expires_in":300}"#), (270, 300));
        assert_eq!(times(r#"{"access_token":"t","expires_in":8}"#), (6, 8));
        assert_eq!(times(r#"{"token":"t"}"#), (45, 60));
        assert_eq!(times(r#"{"token":"","access_token":"t","expires_in":-1}"#), (45, 60));
        times(r#"{"token":"t","expires_in":1e300}"#);
    }

    #[test]
    fn an_answer_without_a_token_is_an_error_that_does_not_quote_it() {
        for text in ["", "{}", r#"{"token":["hunter2"]}"#, r#"{"token":"hunter2\n"}"#, "hunter2"] {
            let why = parse(text.as_bytes(), clock::now()).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn headers_do_not_show_themselves() {
        let token = parse(br#"{"token":"hunter2"}"#, clock::now()).unwrap();
        assert_eq!(token.header, "Bearer hunter2");
        assert!(!format!("{token:?}{:?}", basic_header("user", "hunter2").unwrap()).contains("hunter2"));
    }
}
