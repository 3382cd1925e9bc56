//! [`Authority`]: what a registry accepts as proof, obtained once for all requests that wait for it.
//!
//! A [`Grant`] is one header with its generation. The first one is empty; a 401 leads to the next
//! generation, and however many requests were refused with one generation, they share one request for the
//! next. What a grant is made of is read from the files of credentials when it is made. A grant that was refused before
//! it was ever accepted is not renewed, and a token server that has refused is not asked again: the credentials are
//! wrong. They may be right once the files have changed, or after a pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;

use crate::base::{Error, ErrorKind, Result, clock};

use super::access::Fingerprinter;
use super::challenge::Challenge;
use super::credentials::{Logins, Secret, Stamp};
use super::endpoint::shown_host;
use super::token::{TokenRequest, basic_header};
use super::transport::Transport;

/// Grants in the making: the current generation, and older ones that late requests still ask for.
const GENERATIONS_KEPT: u64 = 4;

/// After a renewal failed, how long the old grant is used before the next attempt: long enough not to delay
/// every request, short enough for several attempts within the renewal margin.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// How long what was refused is left alone while the files of credentials stay the same. What a helper answers
/// changes without a trace, and rights are granted in a registry; whoever waits for either looks again after about a
/// minute. More often, a wrong password would be tried until the account is locked.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// Asks for proof on behalf of one repository.
#[derive(Debug)]
pub(super) struct Authority {
    host: String,
    scope: String,
    logins: Logins,
    /// How long obtaining a grant may take in all.
    patience: Duration,
    state: Mutex<State>,
    /// By generation.
    pending: Cache<u64, Arc<Grant>>,
}

#[derive(Debug)]
struct State {
    current: Arc<Grant>,
    /// The last challenge, and the registry's URL that sent it.
    challenge: Option<(Challenge, Url)>,
    /// What the last grant was made of, for errors.
    used: String,
    /// Whether that was a secret.
    is_secret_used: bool,
    /// Why there is no next grant.
    refusal: Option<Refusal>,
}

/// When something was made of the files of credentials, and what they were then.
#[derive(Debug, Default)]
struct Made {
    at: Option<Instant>,
    files: Stamp,
}

impl Made {
    /// Whether another attempt at `now`, when the files are `files`, may go otherwise.
    fn is_outdated(&self, now: Instant, files: &Stamp) -> bool {
        *files != self.files || self.at.is_none_or(|at| now >= at + REFUSED_PAUSE)
    }
}

/// The error of an attempt that should not be repeated as it was.
#[derive(Clone, Debug)]
struct Refusal {
    error: Error,
    made: Arc<Made>,
}

/// How a host wants to be asked, and what it was sent; nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// What it asked for; none if it never did.
    pub scheme: Option<Scheme>,
    /// What it was sent, in words that name the file and not the credentials.
    pub sent: String,
    /// What to do where that is refused.
    pub remedy: String,
}

/// A way of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// By a token from this host.
    Bearer {
        /// `HOST[:PORT]`.
        token_server: String,
    },
    /// By user and password.
    Basic,
}

/// A header that a registry accepts for some time.
#[derive(Debug)]
pub(super) struct Grant {
    generation: u64,
    header: Option<HeaderValue>,
    expires_at: Option<Instant>,
    renew_at: Mutex<Option<Instant>>,
    accepted: AtomicBool,
    made: Arc<Made>,
}

impl Grant {
    /// The first one.
    fn none() -> Self {
        Self {
            generation: 0,
            header: None,
            expires_at: None,
            renew_at: Mutex::default(),
            accepted: AtomicBool::new(false),
            made: Arc::default(),
        }
    }

    /// What to send as `Authorization`.
    pub(super) fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    /// Notes that a request with this grant was let through.
    pub(super) fn accept(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    fn is_due(&self) -> bool {
        let renew_at = *self.renew_at.lock().unwrap_or_else(PoisonError::into_inner);
        renew_at.is_some_and(|renew_at| renew_at <= clock::now())
    }

    fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= clock::now())
    }

    fn postpone(&self) {
        *self.renew_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now() + RENEWAL_PAUSE);
    }
}

impl Authority {
    /// The authority for pulling from `repository` of `host`.
    pub(super) fn new(host: &str, repository: &str, logins: Logins, patience: Duration) -> Self {
        let state = State {
            current: Arc::new(Grant::none()),
            challenge: None,
            used: "no credentials".to_owned(),
            is_secret_used: false,
            refusal: None,
        };
        Self {
            host: host.to_owned(),
            scope: format!("repository:{repository}:pull"),
            logins,
            patience,
            state: Mutex::new(state),
            // The default policy refuses what is new in favour of what was asked for often.
            pending: Cache::builder()
                .max_capacity(GENERATIONS_KEPT)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
        }
    }

    /// The grant to send now, renewed if it is about to end. As long as it has not ended, it outlives whatever goes
    /// wrong with the next one.
    ///
    /// # Errors
    /// Those of obtaining one.
    pub(super) async fn current(&self, transport: &Transport) -> Result<Arc<Grant>> {
        let grant = self.with_state(|state| Arc::clone(&state.current));
        if !grant.is_due() {
            return Ok(grant);
        }
        match self.next_after(&grant, transport).await {
            Err(error) if !grant.is_expired() => {
                let error = error.chain();
                tracing::warn!(host = %self.host, %error, "token not renewed, the old one holds");
                grant.postpone();
                Ok(grant)
            }
            renewed => renewed,
        }
    }

    /// What to send instead of `refused`, which a registry at `from` answered with 401 or 403 and `headers`.
    /// `None` when nothing better can be had.
    ///
    /// # Errors
    /// Those of obtaining one.
    pub(super) async fn after_refusal(
        &self,
        refused: &Grant,
        headers: &HeaderMap,
        from: &Url,
        transport: &Transport,
    ) -> Result<Option<Arc<Grant>>> {
        let overtaken = self.with_state(|state| state.current.generation > refused.generation);
        // What was never accepted is wrong, not old.
        let is_new = refused.generation > 0 && !refused.accepted.load(Ordering::Relaxed);
        if is_new && !overtaken && !self.is_outdated(&refused.made).await {
            return Ok(None);
        }
        match Challenge::choose(headers) {
            Ok(challenge) => self.with_state(|state| state.challenge = Some((challenge, from.clone()))),
            // Registries answer 403 to an expired grant without a challenge; the first one still tells how.
            Err(schemes) if schemes.is_empty() => {}
            Err(schemes) => {
                let message = format!(
                    "{} asks for authentication by {}; only Bearer and Basic are supported",
                    self.host,
                    schemes.join(", ")
                );
                return Err(Error::new(ErrorKind::Unauthorized, message));
            }
        }
        if self.with_state(|state| state.challenge.is_none()) {
            return Ok(None);
        }
        self.next_after(refused, transport).await.map(Some)
    }

    /// Adds to `of` what would be sent, by what the files of credentials say now.
    ///
    /// # Errors
    /// Those of reading them.
    pub(super) async fn fingerprint(&self, of: &mut Fingerprinter) -> Result<()> {
        self.logins.read().await?.fingerprint(of);
        Ok(())
    }

    /// Whether the last grant was made of a secret.
    pub(super) fn is_secret_used(&self) -> bool {
        self.with_state(|state| state.is_secret_used)
    }

    /// What was sent and what to do about a refusal, as the end of an error's message.
    pub(super) fn advice(&self) -> String {
        let used = self.with_state(|state| state.used.clone());
        format!("{used} sent; {}", self.remedy())
    }

    fn remedy(&self) -> String {
        format!("log in with `podman login {}` or name a credentials file with --authfile", self.host)
    }

    /// What has happened so far, without secrets.
    pub(super) fn account(&self) -> Authentication {
        let scheme = self.with_state(|state| match &state.challenge {
            Some((Challenge::Bearer { realm, .. }, _)) => {
                let server = Url::parse(realm).ok();
                Some(Scheme::Bearer { token_server: server.as_ref().map_or("?".to_owned(), shown_host) })
            }
            Some((Challenge::Basic, _)) => Some(Scheme::Basic),
            None => None,
        });
        let sent = self.with_state(|state| format!("{} sent", state.used));
        Authentication { scheme, sent, remedy: self.remedy() }
    }

    /// `text` without the secret that is being sent, should a server echo it.
    pub(super) fn scrub(&self, text: &str) -> String {
        let grant = self.with_state(|state| Arc::clone(&state.current));
        let header = grant.header().and_then(|header| header.to_str().ok());
        match header.and_then(|header| header.split_once(' ')) {
            Some((_, secret)) => text.replace(secret, "…"),
            None => text.to_owned(),
        }
    }

    /// The grant that follows `old`: one that is there already, or a new one, made once for all who ask.
    async fn next_after(&self, old: &Grant, transport: &Transport) -> Result<Arc<Grant>> {
        let current = self.with_state(|state| Arc::clone(&state.current));
        if current.generation > old.generation {
            return Ok(current);
        }
        let refusal = self.with_state(|state| state.refusal.clone());
        if let Some(refusal) = refusal
            && !self.is_outdated(&refusal.made).await
        {
            return Err(refusal.error);
        }
        let generation = old.generation + 1;
        let made = self.pending.try_get_with(generation, self.obtain(generation, transport)).await;
        let grant = made.map_err(|error| Error::clone(&error))?;
        self.with_state(|state| {
            if state.current.generation < grant.generation {
                state.current = Arc::clone(&grant);
            }
        });
        Ok(grant)
    }

    async fn is_outdated(&self, made: &Made) -> bool {
        made.is_outdated(clock::now(), &self.logins.stamp().await)
    }

    async fn obtain(&self, generation: u64, transport: &Transport) -> Result<Arc<Grant>> {
        let work = async {
            // Before they are read: a change in between counts as one after it.
            let made = Arc::new(Made { at: Some(clock::now()), files: self.logins.stamp().await });
            (self.make(generation, Arc::clone(&made), transport).await, made)
        };
        let Ok((result, made)) = tokio::time::timeout(self.patience, work).await else {
            let seconds = self.patience.as_secs();
            let error =
                Error::new(ErrorKind::TimedOut, format!("{}: no token within {seconds} s", self.host));
            return Err(self.explained(error));
        };
        let result = result.map(Arc::new).map_err(|error| self.explained(error));
        let refusal = match &result {
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                Some(Refusal { error: error.clone(), made })
            }
            _ => None,
        };
        self.with_state(|state| state.refusal = refusal);
        result
    }

    fn explained(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Unauthorized => error.context(format!("{} refused: {}", self.host, self.advice())),
            _ => error.context(format!("cannot authenticate to {}", self.host)),
        }
    }

    async fn make(&self, generation: u64, made: Arc<Made>, transport: &Transport) -> Result<Grant> {
        let said = self.logins.read().await?;
        let login = said.find().await?;
        let used = match &login {
            Some(login) => format!("the credentials from {} were", login.file.display()),
            None => format!("no credentials for it are in {}, none were", said.files()),
        };
        self.with_state(|state| {
            state.used = used;
            state.is_secret_used = login.is_some();
        });
        let secret = login.as_ref().map(|login| &login.secret);
        let wanted =
            |what: &str| Err(Error::new(ErrorKind::Unauthorized, format!("{} wants {what}", self.host)));
        let grant = Grant { generation, made, ..Grant::none() };
        match self.with_state(|state| state.challenge.clone()) {
            Some((Challenge::Bearer { realm, service }, registry)) => {
                let service = service.as_deref();
                let request =
                    TokenRequest { realm: &realm, service, scope: &self.scope, registry: &registry, secret };
                let token = request.send(transport).await?;
                Ok(Grant {
                    header: Some(token.header),
                    expires_at: Some(token.expires_at),
                    renew_at: Mutex::new(Some(token.renew_at)),
                    ..grant
                })
            }
            Some((Challenge::Basic, _)) => match secret {
                Some(Secret::Password { username, password }) => {
                    Ok(Grant { header: Some(basic_header(username, password)?), ..grant })
                }
                Some(Secret::IdentityToken(_)) => {
                    self.with_state(|state| {
                        state.used = "the identity token that there is was not".to_owned();
                        state.is_secret_used = false;
                    });
                    wanted("user and password")
                }
                None => wanted("user and password"),
            },
            None => wanted("authentication without saying which"),
        }
    }

    /// The lock is never held across an await.
    fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_tried_again_after_a_pause() {
        let at = clock::now();
        let made = Made { at: Some(at), files: Stamp::default() };
        assert!(!made.is_outdated(at + REFUSED_PAUSE - Duration::from_millis(1), &Stamp::default()));
        assert!(made.is_outdated(at + REFUSED_PAUSE, &Stamp::default()));
    }
}
