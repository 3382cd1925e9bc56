//! Manifests: retried, bounded, and checked.

use bytes::Bytes;
use refmount::base::ErrorKind;
use refmount::oci::media_type;
use refmount::registry::SourceOptions;

use super::{SHORT, assert_says, options, small, source, source_with};
use crate::support::artifact::{ModelArtifact, digest_of};
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, REPOSITORY, Target};

#[tokio::test]
async fn passing_failures_are_tried_again() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    for fault in [
        Fault::Status(503, vec![]),
        Fault::Status(429, vec![("Retry-After", "1".into())]),
        Fault::Delivery(Delivery::Truncate(10)),
        Fault::Delivery(Delivery::Reset(0)),
    ] {
        registry.fault(Target::Manifest, fault);
    }
    let manifest = source(&registry).resolve().await.unwrap();
    assert_eq!((manifest.bytes, manifest.digest), (artifact.manifest.clone(), artifact.descriptor().digest));
    assert_eq!(manifest.media_type.as_deref(), Some(media_type::OCI_MANIFEST));
    assert_eq!(registry.requests(Target::Manifest).len(), 5);
}

#[tokio::test]
async fn attempts_end_with_the_budget() {
    let registry = FaultRegistry::with(&small());
    registry.faults(Target::Manifest, 0, usize::MAX, Fault::Status(503, vec![]));
    let within = SourceOptions { retry_budget: SHORT, ..options() };
    let error = source_with(&registry, &within).resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_says(&error, &["503", registry.host()]);
}

#[tokio::test]
async fn a_manifest_that_never_ends_is_bounded_in_time() {
    let registry = FaultRegistry::with(&small());
    registry.fault(Target::Manifest, Fault::Delivery(Delivery::Stall(10)));
    let within = SourceOptions { retry_budget: SHORT, ..options() };
    let error = source_with(&registry, &within).resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_missing_tag_is_named_at_once() {
    let registry = FaultRegistry::start();
    let error = source(&registry).resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_says(&error, &["v1", registry.host(), REPOSITORY, "MANIFEST_UNKNOWN: manifest unknown"]);
    assert_eq!(registry.requests(Target::Manifest).len(), 1);
}

#[tokio::test]
async fn wrong_bytes_are_never_a_manifest() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    let pinned = registry.reference("v1").pinned(&artifact.descriptor().digest);
    let pinned = refmount::registry::open(&pinned, &options()).unwrap();
    registry.faults(Target::Manifest, 0, 3, Fault::WrongByte(30));
    let promised = artifact.descriptor().digest;
    let mut wrong = artifact.manifest.to_vec();
    wrong[30] ^= 1;
    for outcome in
        [source.resolve().await, source.manifest(&artifact.descriptor()).await, pinned.resolve().await]
    {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_says(&error, &[promised.as_str(), digest_of(&wrong).as_str()]);
    }
    assert_eq!(pinned.resolve().await.unwrap().bytes, artifact.manifest);
}

#[tokio::test]
async fn a_size_other_than_the_descriptors_is_named() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let mut descriptor = artifact.descriptor();
    descriptor.size += 1;
    let error = source(&registry).manifest(&descriptor).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_says(&error, &[&descriptor.size.to_string(), &artifact.manifest.len().to_string()]);
}

#[tokio::test]
async fn a_manifest_that_is_too_large_is_not_taken() {
    let registry = FaultRegistry::start();
    registry.put_manifest("v1", media_type::OCI_MANIFEST, &Bytes::from(vec![b' '; (4 << 20) + 1]));
    let source = source(&registry);
    for fault in [Fault::Header("X", "y".into()), Fault::Delivery(Delivery::Overlong(0))] {
        registry.fault(Target::Manifest, fault);
        let error = source.resolve().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_says(&error, &["larger than 4194304 bytes"]);
    }
}

#[tokio::test]
async fn a_moved_tag_does_not_move_what_is_pinned() {
    let (old, new) = (small(), ModelArtifact::new(2, &[("model", 10)]));
    let registry = FaultRegistry::with(&old);
    let source = source(&registry);
    let digest = source.resolve().await.unwrap().digest;
    let pinned = refmount::registry::open(&registry.reference("v1").pinned(&digest), &options()).unwrap();
    registry.put(&new, "v1");
    assert_eq!(pinned.resolve().await.unwrap().bytes, old.manifest);
    assert_eq!(source.resolve().await.unwrap().bytes, new.manifest);
}

#[tokio::test]
async fn media_types_that_say_nothing_are_left_out() {
    let registry = FaultRegistry::with(&small());
    let source = source(&registry);
    for (declared, meant) in [
        ("application/octet-stream", None),
        ("application/json; charset=utf-8", None),
        ("application/vnd.oci.image.index.v1+json; charset=utf-8", Some(media_type::OCI_INDEX)),
    ] {
        registry.fault(Target::Manifest, Fault::Header("Content-Type", declared.into()));
        assert_eq!(source.resolve().await.unwrap().media_type.as_deref(), meant);
    }
}

#[tokio::test]
async fn a_malformed_digest_header_is_no_digest() {
    let registry = FaultRegistry::with(&small());
    for digest in ["sha256:../../etc/passwd", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        registry.fault(Target::Manifest, Fault::Header("Docker-Content-Digest", digest.into()));
        let error = source(&registry).resolve().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_says(&error, &["Docker-Content-Digest", digest]);
    }
}

#[tokio::test]
async fn a_server_that_wants_tls_after_all_is_not_taken_for_a_plain_one() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    // What a TLS server answers to plain HTTP, after a handshake that happened to fail.
    registry.fault(Target::Manifest, Fault::Status(400, vec![]));
    assert_eq!(source(&registry).resolve().await.unwrap().bytes, artifact.manifest);
    assert_eq!(registry.requests(Target::Manifest).len(), 2);
}
