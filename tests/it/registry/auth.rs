//! What a registry wants to see, and what it gets.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use refmount::base::{ErrorKind, durable};
use refmount::registry::SourceOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{assert_reads, assert_says, options, read, small, source, source_with};
use crate::support::fault_registry::{Auth, Fault, FaultRegistry, SECRET, Target};

const PASSWORD: &str = "hush-hush-password";

/// Options with a credentials file that says `entry` about `registry`.
fn with_entry(registry: &FaultRegistry, entry: Value) -> (SourceOptions, PathBuf, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth.json");
    put_entry(&file, registry, entry);
    (
        SourceOptions { auth_files: vec![file.clone()], auth_files_required: true, ..options() },
        file,
        directory,
    )
}

fn put_entry(file: &Path, registry: &FaultRegistry, entry: Value) {
    let text = json!({ "auths": { registry.host(): entry } }).to_string();
    durable::write(file, text.as_bytes()).unwrap();
}

fn login(password: &str) -> Value {
    json!({ "auth": STANDARD.encode(format!("user:{password}")) })
}

fn bearer(login: Option<(&'static str, &'static str)>, uses: usize) -> Auth {
    Auth::Bearer { realm: None, login, identity_token: None, uses, expires_in: 300.0 }
}

#[tokio::test]
async fn basic_bearer_and_identity_tokens() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let identity = Auth::Bearer {
        realm: None,
        login: None,
        identity_token: Some("hush-hush-identity"),
        uses: 99,
        expires_in: 300.0,
    };
    for (auth, entry) in [
        (Auth::Basic("user", PASSWORD), login(PASSWORD)),
        (bearer(Some(("user", PASSWORD)), 99), login(PASSWORD)),
        (identity, json!({ "identitytoken": "hush-hush-identity" })),
    ] {
        registry.set_auth(auth);
        let (options, _, _directory) = with_entry(&registry, entry);
        let source = source_with(&registry, &options);
        assert_eq!(source.resolve().await.unwrap().bytes, artifact.manifest);
        assert_reads(&*source, &artifact, 5..1000).await;
    }
    assert_eq!(registry.requests(Target::Token).len(), 2);
}

#[tokio::test]
async fn many_refused_reads_share_one_new_token() {
    const READERS: u64 = 16;
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(Auth::anonymous_bearer());
    let source = source(&registry);
    for round in 1..=3 {
        let reads =
            (0..READERS).map(|reader| assert_reads(&*source, &artifact, reader * 100..reader * 100 + 100));
        join_all(reads).await;
        assert_eq!(registry.requests(Target::Token).len(), round);
        registry.revoke_tokens();
    }
}

#[tokio::test]
async fn tokens_that_end_after_each_request_are_renewed() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(bearer(None, 1));
    let source = source(&registry);
    for start in 0..5 {
        assert_reads(&*source, &artifact, start..start + 10).await;
    }
    assert_eq!(registry.requests(Target::Token).len(), 5);
}

#[tokio::test]
async fn a_token_that_is_about_to_end_is_renewed_without_being_refused() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(Auth::Bearer {
        realm: None,
        login: None,
        identity_token: None,
        uses: 9,
        expires_in: 0.001,
    });
    let source = source(&registry);
    assert_reads(&*source, &artifact, 0..10).await;
    assert_reads(&*source, &artifact, 0..10).await;
    let refused = registry.requests(Target::Blob).iter().filter(|request| request.status == 401).count();
    assert_eq!((refused, registry.requests(Target::Token).len()), (1, 2));
}

#[tokio::test]
async fn a_refusal_without_credentials_says_where_they_were_looked_for() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    for auth in [Auth::Basic("user", PASSWORD), bearer(Some(("user", PASSWORD)), 9)] {
        registry.set_auth(auth);
        let error = source(&registry).resolve().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert_says(&error, &[registry.host(), "no credentials", "podman login", "--authfile"]);
        let error = read(&*source(&registry), &artifact, 0..10).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
    }
}

#[tokio::test]
async fn wrong_credentials_are_refused_once_and_named_by_file() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let (options, file, _directory) = with_entry(&registry, login("hush-hush-wrong"));
    for auth in [Auth::Basic("user", PASSWORD), bearer(Some(("user", PASSWORD)), 9), bearer(None, 0)] {
        let before = registry.requests(Target::Manifest).len();
        registry.set_auth(auth);
        let error = source_with(&registry, &options).resolve().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert_says(&error, &[registry.host(), &file.display().to_string(), "podman login"]);
        assert!(!error.chain().contains(SECRET), "{}", error.chain());
        assert!(registry.requests(Target::Manifest).len() <= before + 2);
    }
}

#[tokio::test]
async fn a_new_password_is_taken_from_the_file_while_the_old_one_is_tried_once() {
    const NEW: &str = "hush-hush-new";
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    for (old, new, token_requests) in [
        (bearer(Some(("user", PASSWORD)), 99), bearer(Some(("user", NEW)), 99), 2),
        (Auth::Basic("user", PASSWORD), Auth::Basic("user", NEW), 0),
    ] {
        registry.set_auth(old);
        let before = registry.requests(Target::Token).len();
        let (options, file, _directory) = with_entry(&registry, login(PASSWORD));
        let source = source_with(&registry, &options);
        assert_reads(&*source, &artifact, 0..10).await;
        registry.set_auth(new);
        registry.revoke_tokens();
        for _ in 0..3 {
            let error = read(&*source, &artifact, 0..10).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert_says(&error, &[&file.display().to_string()]);
        }
        assert_eq!(registry.requests(Target::Token).len() - before, token_requests);
        put_entry(&file, &registry, login(NEW));
        join_all((0..8).map(|_| assert_reads(&*source, &artifact, 0..10))).await;
        // One more, for all readers.
        assert_eq!(registry.requests(Target::Token).len() - before, token_requests + token_requests / 2);
    }
}

#[tokio::test]
async fn a_token_that_was_never_accepted_is_renewed_when_the_file_has_changed() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(bearer(None, 0));
    let (options, file, _directory) = with_entry(&registry, login(PASSWORD));
    let source = source_with(&registry, &options);
    for _ in 0..2 {
        let error = source.resolve().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
    }
    assert_eq!(registry.requests(Target::Token).len(), 1);
    registry.set_auth(bearer(None, 99));
    assert_eq!(source.resolve().await.unwrap_err().kind(), ErrorKind::Unauthorized);
    put_entry(&file, &registry, login(PASSWORD));
    source.resolve().await.unwrap();
    assert_eq!(registry.requests(Target::Token).len(), 2);
}

#[tokio::test]
async fn a_token_outlives_a_file_that_cannot_be_read_any_more() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(bearer(Some(("user", PASSWORD)), 99));
    let (options, file, _directory) = with_entry(&registry, login(PASSWORD));
    let source = source_with(&registry, &options);
    assert_reads(&*source, &artifact, 0..10).await;
    std::fs::remove_file(&file).unwrap();
    assert_reads(&*source, &artifact, 0..10).await;
    registry.revoke_tokens();
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_says(&error, &[registry.host(), &file.display().to_string()]);
    put_entry(&file, &registry, login(PASSWORD));
    assert_reads(&*source, &artifact, 0..10).await;
}

#[tokio::test]
async fn pull_secrets_of_kubernetes_are_credentials() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(Auth::Basic("user", PASSWORD));
    let directory = tempfile::tempdir().unwrap();
    let (_, port) = registry.host().split_once(':').unwrap();
    for (name, text) in [
        (".dockerconfigjson", json!({ "auths": { format!("127.*.*.1:{port}"): login(PASSWORD) } })),
        (".dockercfg", json!({ format!("http://{}/models", registry.host()): login(PASSWORD) })),
    ] {
        let file = directory.path().join(name);
        durable::write(&file, text.to_string().as_bytes()).unwrap();
        let options = SourceOptions { auth_files: vec![file], ..options() };
        assert_reads(&*source_with(&registry, &options), &artifact, 0..10).await;
    }
}

#[tokio::test]
async fn a_token_server_that_fails_is_tried_again() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(Auth::anonymous_bearer());
    registry.fault(Target::Token, Fault::Status(503, vec![]));
    let source = source(&registry);
    assert_eq!(source.resolve().await.unwrap().bytes, artifact.manifest);
    registry.revoke_tokens();
    registry.fault(Target::Token, Fault::Status(500, vec![]));
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_reads(&*source, &artifact, 0..10).await;
}

#[tokio::test]
async fn credentials_do_not_go_to_a_realm_without_tls() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let (options, _, _directory) = with_entry(&registry, login(PASSWORD));
    registry.set_auth(Auth::Bearer {
        realm: Some("http://auth.example.invalid/token".into()),
        login: None,
        identity_token: None,
        uses: 9,
        expires_in: 9.0,
    });
    let error = source_with(&registry, &options).resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_says(&error, &["auth.example.invalid", "unencrypted", registry.host()]);
}

#[tokio::test]
async fn a_redirected_token_request_leaves_the_password_behind() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let elsewhere = FaultRegistry::start();
    let (options, _, _directory) = with_entry(&registry, login(PASSWORD));
    registry.set_auth(bearer(Some(("user", PASSWORD)), 9));
    let target = format!(
        "http://{}/token?service=test,%20service&scope=repository:models/test:pull",
        elsewhere.host()
    );
    elsewhere.set_auth(bearer(Some(("user", PASSWORD)), 9));
    registry.fault(Target::Token, Fault::Status(307, vec![("Location", target)]));
    let error = source_with(&registry, &options).resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let requests = elsewhere.requests(Target::Token);
    assert_eq!(requests.len(), 1);
    assert!(!requests[0].is_authorized);
}

#[tokio::test]
async fn unknown_schemes_are_named() {
    let registry = FaultRegistry::with(&small());
    registry.fault(Target::Manifest, Fault::Status(401, vec![("WWW-Authenticate", "Negotiate".into())]));
    let error = source(&registry).resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_says(&error, &["negotiate", "Bearer and Basic"]);
}
