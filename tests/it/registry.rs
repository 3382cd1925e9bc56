//! Sources: layouts and archives of them, a real registry, and one that goes wrong.

mod archives;
mod auth;
mod configuration;
mod faults;
mod hostile_archives;
mod layouts;
mod manifests;
mod redirects;
mod referrers;
mod secrets;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use refmount::base::{Digest, Error, Result};
use refmount::registry::{BlobSource, SourceOptions};

use crate::support::artifact::ModelArtifact;
use crate::support::docker_registry::DockerRegistry;
use crate::support::fault_registry::FaultRegistry;

/// Long enough for a busy machine: no test waits this long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a test waits for on purpose; what is to come meanwhile comes on a busy machine too.
const SHORT: Duration = Duration::from_secs(5);

fn options() -> SourceOptions {
    SourceOptions {
        connect_timeout: PATIENCE,
        inactivity_timeout: PATIENCE,
        retry_budget: PATIENCE,
        ..Default::default()
    }
}

fn source(registry: &FaultRegistry) -> Arc<dyn BlobSource> {
    source_with(registry, &options())
}

fn source_with(registry: &FaultRegistry, options: &SourceOptions) -> Arc<dyn BlobSource> {
    refmount::registry::open(&registry.reference("v1"), options).unwrap()
}

/// One file of 200,000 bytes called `model`.
fn small() -> ModelArtifact {
    ModelArtifact::new(1, &[("model", 200_000)])
}

/// Reads a range of the small artifact's file to its end: what came, and what the body claims to hold.
async fn read(
    source: &dyn BlobSource,
    artifact: &ModelArtifact,
    range: Range<u64>,
) -> Result<(Range<u64>, Vec<u8>)> {
    let size = artifact.file("model").len() as u64;
    read_blob(source, &artifact.layer("model"), size, range).await
}

async fn read_blob(
    source: &dyn BlobSource,
    digest: &Digest,
    size: u64,
    range: Range<u64>,
) -> Result<(Range<u64>, Vec<u8>)> {
    let mut body = source.blob(digest, size, range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.pieces.next().await {
        bytes.extend_from_slice(&piece?);
        assert!(bytes.len() as u64 <= body.range.end - body.range.start, "more than was promised");
    }
    assert_eq!(bytes.len() as u64, body.range.end - body.range.start, "an end without an error");
    Ok((body.range, bytes))
}

/// Asserts that `range` is read as it is in the artifact.
async fn assert_reads(source: &dyn BlobSource, artifact: &ModelArtifact, range: Range<u64>) {
    let (held, bytes) =
        read(source, artifact, range.clone()).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(held, range);
    assert!(bytes == artifact.file("model")[range.start as usize..range.end as usize], "wrong bytes");
}

fn assert_says(error: &Error, parts: &[&str]) {
    let chain = error.chain();
    for part in parts {
        assert!(chain.contains(part), "{part:?} is not in: {chain}");
    }
}

#[tokio::test]
async fn a_real_registry_serves_manifests_and_ranges() {
    let artifact = small();
    let registry = DockerRegistry::start();
    let reference = registry.push(&artifact, "models/small", "v1");
    let source = refmount::registry::open(&reference, &options()).unwrap();
    let manifest = source.resolve().await.unwrap();
    assert_eq!(manifest.bytes, artifact.manifest);
    assert_eq!(manifest.digest, artifact.descriptor().digest);
    let pinned = refmount::registry::open(&reference.pinned(&manifest.digest), &options()).unwrap();
    assert_eq!(pinned.resolve().await.unwrap().bytes, artifact.manifest);
    for range in [0..1, 199_999..200_000, 0..200_000, 1000..66_000] {
        assert_reads(&*source, &artifact, range).await;
    }
}
