//! A registry in this process that goes wrong on schedule, and a store that it may redirect to.
//!
//! It is stricter than real ones: what no client should ever send is noted as a violation, and fails the
//! test when the registry is dropped.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use refmount::base::Digest;
use refmount::oci::{SourceRef, media_type};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::artifact::{ModelArtifact, digest_of};
use super::connection::{Answer, Connection, Delivery, Request};
use super::port::Port;
use super::producers::Product;

/// The repository that everything is in.
pub(crate) const REPOSITORY: &str = "models/test";

/// Begins everything that must never be seen in a log or an error.
pub(crate) const SECRET: &str = "hush-hush";

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Manifest,
    Blob,
    Token,
    /// A blob at the store.
    Store,
    /// The list of those that refer to a manifest.
    Referrers,
}

/// What goes wrong with one answer.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The body does not come as it should.
    Delivery(Delivery),
    /// This status and these headers, with an error document.
    Status(u16, Vec<(&'static str, String)>),
    /// This status, with an error document that holds all headers of the request.
    Echo(u16),
    /// A header of another value, or one more.
    Header(&'static str, String),
    /// A 206 that claims and holds the bytes one further on.
    ShiftedRange,
    MissingContentRange,
    /// A 200 with the whole blob.
    IgnoredRange,
    /// The same, cut off after so many bytes.
    IgnoredRangeCut(usize),
    /// One byte of the body, this far into it, is another one.
    WrongByte(usize),
}

/// What the registry wants to see.
#[derive(Clone, Debug, Default)]
pub(crate) enum Auth {
    #[default]
    Open,
    /// This user and password.
    Basic(&'static str, &'static str),
    /// A token from this realm (default: here).
    Bearer {
        realm: Option<String>,
        /// What the token server wants: `Basic` or nothing.
        login: Option<(&'static str, &'static str)>,
        /// Or a refresh token.
        identity_token: Option<&'static str>,
        /// How many requests a token is good for.
        uses: usize,
        /// What the token server says about its life, in seconds.
        expires_in: f64,
    },
}

impl Auth {
    /// Tokens for anyone, that stay valid.
    pub(crate) fn anonymous_bearer() -> Self {
        Self::Bearer { realm: None, login: None, identity_token: None, uses: usize::MAX, expires_in: 300.0 }
    }
}

/// A request that came, and what it got.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) target: Target,
    pub(crate) digest: Option<Digest>,
    pub(crate) range: Option<Range<u64>>,
    pub(crate) is_authorized: bool,
    /// Of the headers, by their names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) status: u16,
    /// Of the body, had it been delivered whole.
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    /// By tag and by digest: media type and bytes.
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<Digest, Bytes>,
    /// By subject: pages, of which each but the last links to the next.
    referrers: HashMap<Digest, Vec<Bytes>>,
    auth: Auth,
    /// Uses left.
    tokens: HashMap<String, usize>,
    /// Uses of a signed URL, and what the store answers afterwards; none: no redirects.
    redirect: Option<(usize, u16)>,
    signatures: HashMap<String, usize>,
    /// Target, answers that still go well, answers that go wrong.
    faults: Vec<(Target, usize, usize, Fault)>,
    records: Vec<Record>,
    violations: Vec<String>,
    secrets: usize,
}

/// The registry; ends with this value.
#[derive(Debug)]
pub(crate) struct FaultRegistry {
    server: Arc<Server>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Server {
    registry: String,
    store: String,
    /// Of the registry and of the store. Nobody else listens there while they are away.
    ports: [Port; 2],
    state: Mutex<State>,
}

impl FaultRegistry {
    pub(crate) fn start() -> Self {
        let ports = [Port::new(), Port::new()];
        let [registry, store] = [0, 1].map(|at: usize| ports[at].address().to_string());
        let server = Arc::new(Server { registry, store, ports, state: Mutex::default() });
        let (stop, thread) = serve(&server);
        Self { server, stop: Some(stop), thread: Some(thread) }
    }

    /// A registry that holds `artifact` under the tag `v1`.
    pub(crate) fn with(artifact: &ModelArtifact) -> Self {
        let registry = Self::start();
        registry.put(artifact, "v1");
        registry
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        &self.server.registry
    }

    /// The reference to what is tagged `tag` here.
    pub(crate) fn reference(&self, tag: &str) -> SourceRef {
        format!("{}/{REPOSITORY}:{tag}", self.host()).parse().unwrap()
    }

    pub(crate) fn put(&self, artifact: &ModelArtifact, tag: &str) {
        for blob in artifact.blobs() {
            self.state().blobs.insert(digest_of(blob), blob.clone());
        }
        self.put_manifest(tag, media_type::OCI_MANIFEST, &artifact.manifest);
    }

    pub(crate) fn put_product(&self, product: &Product, tag: &str) {
        for blob in product.blobs() {
            self.state().blobs.insert(digest_of(blob), blob.clone());
        }
        self.put_manifest(tag, media_type::OCI_MANIFEST, &product.manifest());
    }

    pub(crate) fn put_manifest(&self, tag: &str, media_type: &str, bytes: &Bytes) {
        let mut state = self.state();
        for name in [tag.to_owned(), digest_of(bytes).to_string()] {
            state.manifests.insert(name, (media_type.to_owned(), bytes.clone()));
        }
    }

    /// What is asked for as the blob `digest` is `bytes` from now on, whatever that is; or nothing.
    pub(crate) fn replace_blob(&self, digest: &Digest, bytes: Option<Bytes>) {
        let mut state = self.state();
        match bytes {
            Some(bytes) => state.blobs.insert(digest.clone(), bytes),
            None => state.blobs.remove(digest),
        };
    }

    /// What is asked for as the manifest `name` is `bytes` from now on, whatever that is.
    pub(crate) fn replace_manifest(&self, name: &str, media_type: &str, bytes: &Bytes) {
        self.state().manifests.insert(name.to_owned(), (media_type.to_owned(), bytes.clone()));
    }

    /// What refers to `subject` is listed on these pages.
    pub(crate) fn put_referrers(&self, subject: &Digest, pages: &[Bytes]) {
        self.state().referrers.insert(subject.clone(), pages.to_vec());
    }

    pub(crate) fn set_auth(&self, auth: Auth) {
        self.state().auth = auth;
    }

    /// Blobs are redirected to the store, by URLs that are good for `uses` requests and are then answered
    /// with `refusal`.
    pub(crate) fn redirect(&self, uses: usize, refusal: u16) {
        self.state().redirect = Some((uses, refusal));
    }

    /// No signed URL is good any more.
    pub(crate) fn expire_signatures(&self) {
        self.state().signatures.clear();
    }

    /// No token is good any more.
    pub(crate) fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }

    /// The next answer about `target` goes wrong.
    pub(crate) fn fault(&self, target: Target, fault: Fault) {
        self.faults(target, 0, 1, fault);
    }

    /// After `skip` answers about `target`, the next `times` go wrong.
    pub(crate) fn faults(&self, target: Target, skip: usize, times: usize, fault: Fault) {
        self.state().faults.push((target, skip, times, fault));
    }

    /// Nothing goes wrong any more.
    pub(crate) fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Ends: connections break off, new ones are refused.
    pub(crate) fn go_away(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }

    /// Is there again, at the same address.
    pub(crate) fn come_back(&mut self) {
        let (stop, thread) = serve(&self.server);
        (self.stop, self.thread) = (Some(stop), Some(thread));
    }

    /// The requests about `target`, in their order.
    pub(crate) fn requests(&self, target: Target) -> Vec<Record> {
        self.state().records.iter().filter(|record| record.target == target).cloned().collect()
    }

    /// How many requests asked for the blob `digest`, and how many bytes they were answered with.
    pub(crate) fn blob_traffic(&self, digest: &Digest) -> (usize, u64) {
        let state = self.state();
        let of_blob = state.records.iter().filter(|record| record.digest.as_ref() == Some(digest));
        of_blob.fold((0, 0), |(requests, bytes), record| (requests + 1, bytes + record.bytes))
    }

    /// What no client should have sent; the caller answers for it.
    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.state().violations)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.server.state()
    }
}

impl Drop for FaultRegistry {
    fn drop(&mut self) {
        drop(self.stop.take());
        // None while it is away.
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_ok(), "the fault registry itself failed");
            assert_eq!(self.take_violations(), Vec::<String>::new(), "what no client should send");
        }
    }
}

fn serve(server: &Arc<Server>) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let [registry, store] = server.ports.each_ref().map(Port::listen);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shared = Arc::clone(server);
    let thread = std::thread::spawn(move || {
        runtime.spawn(accept(Arc::clone(&shared), registry, false));
        runtime.spawn(accept(shared, store, true));
        let _ = runtime.block_on(stopped);
    });
    (stop, thread)
}

async fn accept(server: Arc<Server>, listener: std::net::TcpListener, is_store: bool) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let mut connection = Connection::new(stream);
            // Clients break off whenever they like.
            while let Ok(Some(request)) = connection.request().await {
                let answer = server.answer(&request, is_store);
                if !connection.answer(&answer).await.unwrap_or(false) {
                    break;
                }
            }
        });
    }
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request, is_store: bool) -> Answer {
        let mut state = self.state();
        let prefix = format!("/v2/{REPOSITORY}/");
        let rest = request.path.strip_prefix(&prefix).and_then(|rest| rest.split_once('/'));
        let (target, name) = match (is_store, request.path.as_str(), rest) {
            (true, path, _) => (Target::Store, path.trim_start_matches('/')),
            (false, "/token", _) => (Target::Token, ""),
            (false, _, Some(("manifests", name))) => (Target::Manifest, name),
            (false, _, Some(("blobs", name))) => (Target::Blob, name),
            (false, _, Some(("referrers", name))) => (Target::Referrers, name),
            _ => {
                state.violations.push(format!("{} {} is none of ours", request.method, request.path));
                return Answer::new(404, "");
            }
        };
        let digest: Option<Digest> = name.parse().ok();
        state.check(request, target, digest.is_some());
        let fault = state.next_fault(target);
        let range = request.header("range").and_then(range_of);
        let mut answer = match (&fault, target) {
            (Some(Fault::Status(status, headers)), _) => {
                let body = r#"{"errors":[{"code":"FAULT","message":"on schedule"}]}"#;
                let answer = Answer::new(*status, body);
                headers.iter().fold(answer, |answer, (name, value)| answer.with(name, value.clone()))
            }
            (Some(Fault::Echo(status)), _) => {
                let message: Vec<&str> = request.headers.iter().map(|(_, value)| value.as_str()).collect();
                let document = json!({ "errors": [{ "code": "ECHO", "message": message.join(" ") }] });
                Answer::new(*status, document.to_string())
            }
            (_, Target::Token) => state.token(request),
            (_, Target::Store) => state.stored(request, digest.as_ref(), range.clone(), fault.as_ref()),
            _ if !state.admits(request) => state.challenge(&self.registry),
            (_, Target::Manifest) => state.manifest(name),
            (_, Target::Referrers) => state.referrers(request, digest.as_ref()),
            (_, Target::Blob) => match state.redirect {
                Some((uses, _)) => {
                    let signature = state.secret("signature");
                    state.signatures.insert(signature.clone(), uses);
                    let location = format!("http://{}/{name}?signature={signature}", self.store);
                    Answer::new(307, "").with("Location", location)
                }
                None => state.blob(digest.as_ref(), range.clone(), fault.as_ref()),
            },
        };
        match fault {
            Some(Fault::Delivery(delivery)) => answer.delivery = delivery,
            Some(Fault::IgnoredRangeCut(bytes)) => answer.delivery = Delivery::Truncate(bytes),
            Some(Fault::Header(name, value)) => {
                answer.headers.retain(|(there, _)| !there.eq_ignore_ascii_case(name));
                answer.headers.push((name.to_owned(), value));
            }
            Some(Fault::WrongByte(offset)) => {
                let mut bytes = answer.body.to_vec();
                bytes[offset] ^= 1;
                answer.body = bytes.into();
            }
            _ => {}
        }
        let is_authorized = request.header("authorization").is_some();
        let (status, bytes) = (answer.status, answer.body.len() as u64);
        let headers = request.headers.clone();
        state.records.push(Record { target, digest, range, is_authorized, headers, status, bytes });
        answer
    }
}

impl State {
    fn check(&mut self, request: &Request, target: Target, is_digest: bool) {
        let mut violate =
            |what: &str| self.violations.push(format!("{} {}: {what}", request.method, request.path));
        let range = request.header("range");
        let is_blob = matches!(target, Target::Blob | Target::Store);
        if target == Target::Store && request.header("authorization").is_some() {
            violate("Authorization at the store");
        }
        if is_blob && !is_digest {
            violate("no digest in the path");
        }
        if range.is_some_and(|text| range_of(text).is_none()) || (is_blob && range.is_none()) {
            violate("a malformed Range, or none");
        }
        let accept = request.header("accept").unwrap_or_default();
        if target == Target::Manifest && !media_type::MANIFESTS.iter().all(|name| accept.contains(name)) {
            violate("Accept lacks a kind of manifest");
        }
        if target == Target::Referrers
            && (accept != media_type::OCI_INDEX || request.field("artifactType").is_none())
        {
            violate("no Accept of an index, or no artifactType");
        }
        let wanted_method = if request.body.is_empty() { "GET" } else { "POST" };
        if request.method != wanted_method || (target != Target::Token && request.method != "GET") {
            violate("the wrong method");
        }
        if request.header("user-agent").is_none_or(|name| !name.starts_with("refmount/")) {
            violate("no User-Agent");
        }
    }

    fn referrers(&self, request: &Request, subject: Option<&Digest>) -> Answer {
        let Some(pages) = subject.and_then(|subject| self.referrers.get(subject)) else {
            return Answer::new(404, "");
        };
        let page: usize = request.field("page").map_or(0, |page| page.parse().unwrap());
        let answer =
            Answer::new(200, pages[page].clone()).with("Content-Type", media_type::OCI_INDEX.to_owned());
        if page + 1 == pages.len() {
            return answer;
        }
        let next = format!("<{}?{}&page={}>; rel=\"next\"", request.path, "artifactType=x", page + 1);
        answer.with("Link", next)
    }

    fn next_fault(&mut self, target: Target) -> Option<Fault> {
        let (_, skip, times, fault) =
            self.faults.iter_mut().find(|(there, _, times, _)| *there == target && *times > 0)?;
        if *skip > 0 {
            *skip -= 1;
            return None;
        }
        *times -= 1;
        Some(fault.clone())
    }

    fn secret(&mut self, kind: &str) -> String {
        self.secrets += 1;
        format!("{SECRET}-{kind}-{}", self.secrets)
    }

    /// Whether the request may see what is protected.
    fn admits(&mut self, request: &Request) -> bool {
        let sent = request.header("authorization");
        match &self.auth {
            Auth::Open => {
                if sent.is_some() {
                    self.violations.push("Authorization where none was asked for".to_owned());
                }
                true
            }
            Auth::Basic(user, password) => sent == Some(&basic(user, password)),
            Auth::Bearer { .. } => {
                let token = sent.and_then(|sent| sent.strip_prefix("Bearer "));
                match token.and_then(|token| self.tokens.get_mut(token)) {
                    Some(0) | None => false,
                    Some(uses) => {
                        *uses -= 1;
                        true
                    }
                }
            }
        }
    }

    fn challenge(&self, registry: &str) -> Answer {
        let challenge = match &self.auth {
            Auth::Bearer { realm, .. } => {
                let realm = realm.clone().unwrap_or_else(|| format!("http://{registry}/token"));
                format!(r#"Bearer realm="{realm}",service="test, service",scope="repository:other:pull""#)
            }
            _ => r#"Basic realm="test""#.to_owned(),
        };
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        Answer::new(401, body).with("WWW-Authenticate", challenge)
    }

    fn token(&mut self, request: &Request) -> Answer {
        let Auth::Bearer { login, identity_token, uses, expires_in, .. } = self.auth.clone() else {
            self.violations.push("a token where none is needed".to_owned());
            return Answer::new(404, "");
        };
        if request.field("service").as_deref() != Some("test, service")
            || request.field("scope") != Some(format!("repository:{REPOSITORY}:pull"))
        {
            self.violations.push("a token request without service or scope".to_owned());
        }
        let (sent, refresh) = (request.header("authorization"), request.field("refresh_token"));
        let admitted = match (login, identity_token) {
            (Some((user, password)), _) => sent == Some(&basic(user, password)),
            (None, Some(token)) => refresh.as_deref() == Some(token) && request.method == "POST",
            (None, None) => true,
        };
        if !admitted {
            return Answer::new(401, r#"{"errors":[{"code":"DENIED","message":"wrong password"}]}"#);
        }
        let token = self.secret("token");
        self.tokens.insert(token.clone(), uses);
        let field = if refresh.is_some() { "access_token" } else { "token" };
        Answer::new(200, format!(r#"{{"{field}":"{token}","expires_in":{expires_in}}}"#))
    }

    fn manifest(&self, name: &str) -> Answer {
        match self.manifests.get(name) {
            Some((media_type, bytes)) => Answer::new(200, bytes.clone())
                .with("Content-Type", media_type)
                .with("Docker-Content-Digest", digest_of(bytes).to_string()),
            None => {
                Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
            }
        }
    }

    fn stored(
        &mut self,
        request: &Request,
        digest: Option<&Digest>,
        range: Option<Range<u64>>,
        fault: Option<&Fault>,
    ) -> Answer {
        let refusal = self.redirect.map_or(403, |(_, refusal)| refusal);
        let signature = request.field("signature").unwrap_or_default();
        match self.signatures.get_mut(&signature) {
            Some(uses) if *uses > 0 => *uses -= 1,
            _ => return Answer::new(refusal, format!("<Error><Signature>{signature}</Signature></Error>")),
        }
        self.blob(digest, range, fault)
    }

    fn blob(&self, digest: Option<&Digest>, range: Option<Range<u64>>, fault: Option<&Fault>) -> Answer {
        let Some(bytes) = digest.and_then(|digest| self.blobs.get(digest)) else {
            return Answer::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#);
        };
        let size = bytes.len() as u64;
        let Some(mut range) = range.filter(|_| !ignores_ranges(fault)) else {
            return Answer::new(200, bytes.clone());
        };
        range.end = range.end.min(size);
        if range.is_empty() {
            return Answer::new(416, "").with("Content-Range", format!("bytes */{size}"));
        }
        if matches!(fault, Some(Fault::ShiftedRange)) {
            range = range.start + 1..range.end + 1;
        }
        let answer = Answer::new(206, bytes.slice(range.start as usize..range.end as usize));
        match fault {
            Some(Fault::MissingContentRange) => answer,
            _ => answer.with("Content-Range", format!("bytes {}-{}/{size}", range.start, range.end - 1)),
        }
    }
}

fn ignores_ranges(fault: Option<&Fault>) -> bool {
    matches!(fault, Some(Fault::IgnoredRange | Fault::IgnoredRangeCut(_)))
}

/// `Basic …` for this user and password.
fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `bytes=FIRST-[LAST]` as a half-open range.
fn range_of(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (
        first.parse::<u64>().ok()?,
        last.parse::<u64>().or(last.is_empty().then_some(u64::MAX - 1).ok_or(())).ok()?,
    );
    (first <= last).then_some(first..last + 1)
}
