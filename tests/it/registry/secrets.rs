//! What must never be seen.

use refmount::base::durable;
use refmount::registry::SourceOptions;
use serde_json::json;

use super::{assert_reads, options, read, small, source_with};
use crate::support::fault_registry::{Auth, Fault, FaultRegistry, SECRET, Target};
use crate::support::trace_log;

const PASSWORD: &str = "hush-hush-password";

#[tokio::test]
async fn no_secret_is_logged_or_told() {
    trace_log::start();
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(Auth::Bearer {
        realm: None,
        login: Some(("user", PASSWORD)),
        identity_token: None,
        uses: 3,
        expires_in: 300.0,
    });
    registry.redirect(2, 403);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth.json");
    let text = json!({ "auths": { registry.host(): { "username": "user", "password": PASSWORD } } });
    durable::write(&file, text.to_string().as_bytes()).unwrap();
    let source = source_with(&registry, &SourceOptions { auth_files: vec![file], ..options() });
    registry.fault(Target::Manifest, Fault::Status(503, vec![]));
    source.resolve().await.unwrap();
    for start in 0..6 {
        assert_reads(&*source, &artifact, start..start + 10).await;
    }
    registry.redirect(usize::MAX, 403);
    registry.expire_signatures();
    assert_reads(&*source, &artifact, 0..10).await;
    let mut shown = format!("{source:?}");
    for fault in [Fault::ShiftedRange, Fault::Status(500, vec![]), Fault::Status(418, vec![])] {
        registry.fault(Target::Store, fault);
        shown += &read(&*source, &artifact, 0..10).await.unwrap_err().chain();
    }
    let echo = ("X-Echo", "x".to_owned());
    registry.fault(Target::Blob, Fault::Status(418, vec![echo]));
    shown += &read(&*source, &artifact, 0..10).await.unwrap_err().chain();
    let log = trace_log::text();
    assert!(log.contains("TRACE"), "the log holds what libraries say as well");
    let encoded =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("user:{PASSWORD}"));
    for secret in [SECRET, &encoded] {
        for (name, text) in [("an error", &shown), ("the log", &log)] {
            let place = text.find(secret);
            assert_eq!(
                place,
                None,
                "{name}: {}",
                &text[place.unwrap_or(0).saturating_sub(200)..][..400.min(text.len())]
            );
        }
    }
}
