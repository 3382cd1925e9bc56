//! Answers about blobs that are not what they should be.

use std::time::Duration;

use futures_util::StreamExt as _;
use refmount::base::ErrorKind;
use refmount::registry::SourceOptions;

use super::{SHORT, assert_reads, assert_says, options, read, read_blob, small, source, source_with};
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, Target};

#[tokio::test]
async fn only_what_was_asked_for_is_fetched() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    assert_reads(&*source, &artifact, 1000..3000).await;
    assert_eq!(registry.blob_traffic(&artifact.layer("model")), (1, 2000));
    let requests = registry.requests(Target::Blob);
    assert_eq!((requests[0].range.clone(), requests[0].status), (Some(1000..3000), 206));
}

#[tokio::test]
async fn a_server_without_ranges_gives_the_whole_blob() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    registry.fault(Target::Blob, Fault::IgnoredRange);
    let (range, bytes) = read(&*source(&registry), &artifact, 1000..3000).await.unwrap();
    assert_eq!(range, 0..200_000);
    assert!(bytes == artifact.file("model"));
}

#[tokio::test]
async fn wrong_ranges_are_never_data() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    let content_range = |value: &str| Fault::Header("Content-Range", value.to_owned());
    for fault in [
        Fault::ShiftedRange,
        Fault::MissingContentRange,
        content_range("bytes 1000-2998/200000"),
        content_range("bytes 1000-2999/200001"),
        content_range("bytes 1000-2999"),
        content_range("items 1000-2999/200000"),
        Fault::Header("Content-Encoding", "gzip".into()),
    ] {
        registry.fault(Target::Blob, fault.clone());
        let error = read(&*source, &artifact, 1000..3000).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}");
        assert_says(&error, &[artifact.layer("model").as_str(), "bytes 1000-2999", registry.host()]);
    }
    registry.fault(Target::Blob, content_range("bytes 1000-2999/*"));
    assert_reads(&*source, &artifact, 1000..3000).await;
}

#[tokio::test]
async fn a_size_other_than_the_descriptors_is_corrupt() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    registry.fault(Target::Blob, Fault::IgnoredRange);
    let digest = artifact.layer("model");
    let error = read_blob(&*source, &digest, 200_001, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_says(&error, &["200000", "200001"]);
    let error = read_blob(&*source, &digest, 300_000, 250_000..250_010).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_says(&error, &["416", "300000"]);
    let error = read_blob(&*source, &digest, 200_000, 10..200_001).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[tokio::test]
async fn statuses_tell_whether_another_attempt_makes_sense() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    for (status, kind) in [
        (404, ErrorKind::NotFound),
        (403, ErrorKind::Unauthorized),
        (408, ErrorKind::Unavailable),
        (429, ErrorKind::Unavailable),
        (500, ErrorKind::Unavailable),
        (503, ErrorKind::Unavailable),
        (202, ErrorKind::Unavailable),
    ] {
        registry.fault(Target::Blob, Fault::Status(status, vec![]));
        let error = read(&*source, &artifact, 0..10).await.unwrap_err();
        assert_eq!((error.kind(), error.retry_after()), (kind, None), "{}", error.chain());
        assert_says(&error, &[&status.to_string(), "bytes 0-9", artifact.layer("model").as_str()]);
    }
    registry.fault(Target::Blob, Fault::Status(429, vec![("Retry-After", "7".into())]));
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert_says(&error, &["FAULT: on schedule"]);
}

#[tokio::test]
async fn bodies_that_break_off_say_how_far_they_came() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    for delivery in [Delivery::Truncate(100), Delivery::Truncate(0), Delivery::Reset(0)] {
        registry.fault(Target::Blob, Fault::Delivery(delivery));
        let error = read(&*source, &artifact, 0..150_000).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{delivery:?}");
        assert_says(&error, &["bytes 0-149999"]);
        if let Delivery::Truncate(after) = delivery {
            assert_says(&error, &[&format!("truncated after {after} of 150000 bytes")]);
        }
    }
    assert_reads(&*source, &artifact, 0..150_000).await;
}

#[tokio::test]
async fn a_body_that_is_too_long_is_corrupt() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source(&registry);
    registry.fault(Target::Blob, Fault::Delivery(Delivery::Overlong(1)));
    let error = read(&*source, &artifact, 0..1000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    registry.fault(Target::Blob, Fault::Delivery(Delivery::Overlong(0)));
    assert_reads(&*source, &artifact, 0..1000).await;
}

#[tokio::test]
async fn a_body_that_stalls_times_out() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source_with(&registry, &SourceOptions { inactivity_timeout: SHORT, ..options() });
    registry.fault(Target::Blob, Fault::Delivery(Delivery::Stall(1000)));
    let error = read(&*source, &artifact, 0..150_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_says(&error, &["stalled after 1000 of 150000 bytes"]);
}

#[tokio::test]
async fn a_body_that_trickles_is_not_cut_by_a_total_timeout() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source_with(&registry, &SourceOptions { inactivity_timeout: SHORT, ..options() });
    // More than twice the timeout in all, far below it between pieces.
    registry.fault(Target::Blob, Fault::Delivery(Delivery::Trickle(1000, Duration::from_millis(220))));
    assert_reads(&*source, &artifact, 0..50_000).await;
}

#[tokio::test]
async fn a_registry_that_is_gone_is_unavailable() {
    let artifact = small();
    let mut registry = FaultRegistry::with(&artifact);
    let (source, host) = (source(&registry), registry.host().to_owned());
    assert_reads(&*source, &artifact, 0..10).await;
    registry.go_away();
    let error = read(&*source, &artifact, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_says(&error, &[&host, "bytes 0-9"]);
    let error = source.resolve().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_reader_that_takes_its_time_is_not_a_stall() {
    let artifact = small();
    let registry = FaultRegistry::with(&artifact);
    let source = source_with(&registry, &SourceOptions { inactivity_timeout: SHORT, ..options() });
    let mut body = source.blob(&artifact.layer("model"), 200_000, 0..200_000).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = body.pieces.next().await {
        if bytes.is_empty() {
            tokio::time::sleep(SHORT * 2).await;
        }
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert!(bytes == artifact.file("model"));
}
