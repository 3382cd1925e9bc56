//! Pinning an artifact: from a reference to the segments that stay in the cache.
//!
//! Of archives, what tells their entries is read first, so that it is known what there is to keep. Nothing else is
//! fetched: what is not here is kept as it comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Result, chunk_range, clock};
use crate::cache::{PinnedArtifact, PinnedContent, SegmentId};
use crate::indexing::Layers;

use super::chosen::{ArtifactRequest, Chosen, Resolved};
use super::held;

/// Pins what `request` names in the cache of `layers`.
///
/// # Errors
/// Those of resolving and opening it; `NoSpace` when the pins would be more than the cache has room for.
pub async fn pin(request: &ArtifactRequest, layers: &Arc<Layers>) -> Result<PinnedArtifact> {
    let cache = layers.fetcher().cache();
    let resolved = Resolved::of(request, cache).await?;
    let chosen = Chosen::open(&resolved, request, layers).await?;
    let content = if chosen.is_whole { whole(&chosen) } else { parts(&chosen)? };
    let (reference, digest) = (resolved.artifact.reference.to_string(), resolved.artifact.digest.clone());
    let mut documents = resolved.manifests();
    documents.push(held::key(&reference, &digest));
    documents.extend(content.iter().map(|part| part.layer.clone()));
    documents.sort();
    documents.dedup();
    let subpaths = request.subpaths.clone();
    let since = clock::unix_time().as_secs();
    let pin = PinnedArtifact { reference, digest, subpaths, since, content, documents };
    let cache = Arc::clone(cache);
    let pinned = tokio::task::spawn_blocking(move || cache.pin(pin)).await;
    pinned.unwrap_or_else(|error| Err(super::broke_off("pinning", &error)))
}

fn whole(chosen: &Chosen) -> Vec<PinnedContent> {
    let of = |at| PinnedContent {
        layer: chosen.content.cached_as(at).clone(),
        segment: None,
        bytes: chosen.content.stream_bytes(at).unwrap_or_default(),
    };
    (0..chosen.content.layer_count()).map(of).collect()
}

fn parts(chosen: &Chosen) -> Result<Vec<PinnedContent>> {
    let mut segments: BTreeMap<SegmentId, BTreeMap<u64, u64>> = BTreeMap::new();
    for file in &chosen.files {
        for (id, chunks, bytes) in chosen.content.segments(file)? {
            let of_chunk = |chunk| {
                let range = chunk_range(chunk, bytes);
                (chunk, range.end - range.start)
            };
            segments.entry(id).or_default().extend(chunks.map(of_chunk));
        }
    }
    let of = |(id, chunks): (SegmentId, BTreeMap<u64, u64>)| PinnedContent {
        layer: id.layer,
        segment: Some(id.number),
        bytes: chunks.values().sum(),
    };
    Ok(segments.into_iter().map(of).collect())
}
