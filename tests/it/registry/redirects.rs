//! Blobs that are kept elsewhere.

use refmount::base::ErrorKind;

use super::{assert_reads, assert_says, read, small, source};
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Auth, Fault, FaultRegistry, SECRET, Target};

#[tokio::test]
async fn a_redirect_is_remembered_and_gets_no_authorization() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.set_auth(Auth::anonymous_bearer());
    registry.redirect(usize::MAX, 403);
    let source = source(&registry);
    for start in 0..4 {
        assert_reads(&*source, &artifact, start..start + 1000).await;
    }
    // The first one is refused, for want of a token.
    assert_eq!(registry.requests(Target::Blob).len(), 2);
    let stored = registry.requests(Target::Store);
    assert_eq!(stored.len(), 4);
    assert!(stored.iter().all(|request| !request.is_authorized));
}

#[tokio::test]
async fn an_expired_url_is_asked_for_again() {
    let artifact = small();
    for refusal in [400, 401, 403, 404, 410] {
        let registry = FaultRegistry::with(&artifact);
        registry.redirect(usize::MAX, refusal);
        let source = source(&registry);
        assert_reads(&*source, &artifact, 0..1000).await;
        registry.expire_signatures();
        assert_reads(&*source, &artifact, 0..1000).await;
        assert_eq!(registry.requests(Target::Blob).len(), 2, "{refusal}");
        assert_eq!(registry.requests(Target::Store).len(), 3, "{refusal}");
    }
}

#[tokio::test]
async fn a_store_that_refuses_fresh_urls_is_asked_twice_and_no_more() {
    let artifact = small();
    for (refusal, kind) in [(403, ErrorKind::Unavailable), (404, ErrorKind::NotFound)] {
        let registry = FaultRegistry::with(&artifact);
        registry.redirect(0, refusal);
        let error = read(&*source(&registry), &artifact, 0..10).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_says(&error, &[&refusal.to_string(), "fresh URL", registry.host()]);
        assert!(!error.chain().contains(SECRET), "{}", error.chain());
        assert_eq!(registry.requests(Target::Store).len(), 2);
    }
}

#[tokio::test]
async fn a_store_that_fails_is_not_asked_directly_again() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.redirect(usize::MAX, 403);
    let source = source(&registry);
    let failures = [
        Fault::Status(503, vec![]),
        Fault::Delivery(Delivery::Reset(0)),
        Fault::Delivery(Delivery::Truncate(10)),
        Fault::ShiftedRange,
    ];
    let asked = failures.len() + 1;
    for fault in failures {
        assert_reads(&*source, &artifact, 0..1000).await;
        registry.fault(Target::Store, fault);
        let error = read(&*source, &artifact, 0..1000).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.chain().contains(SECRET), "{}", error.chain());
    }
    assert_reads(&*source, &artifact, 0..1000).await;
    assert_eq!(registry.requests(Target::Blob).len(), asked);
}

#[tokio::test]
async fn redirects_without_end_or_target_are_errors() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    let path = format!("/v2/models/test/blobs/{}", artifact.layer("model"));
    registry.faults(Target::Blob, 0, 6, Fault::Status(302, vec![("Location", path)]));
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_says(&error, &["more than 5 redirects", registry.host()]);
    assert_eq!(registry.requests(Target::Blob).len(), 6);
    for headers in [vec![], vec![("Location", "file:///etc/passwd".to_owned())]] {
        registry.fault(Target::Blob, Fault::Status(302, headers));
        let error = read(&*source, &artifact, 0..10).await.unwrap_err();
        assert_says(&error, &["redirects without saying"]);
    }
}
