//! What the cache holds, by artifact.
//!
//! A cache knows layers and not what they are parts of. So whoever opens an artifact notes its layers, in a document
//! of the cache; what was never opened here, or so long ago that its note is gone, is nobody's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::base::{Algorithm, Digest, Error, ErrorKind, Result, clock};
use crate::cache::{Cache, DocumentKind, PinnedArtifact};
use crate::content::Content;
use crate::layer::LayerIndex;

/// The document about an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Note {
    reference: String,
    digest: Digest,
    layers: Vec<NotedLayer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct NotedLayer {
    /// What the layer is called in the cache.
    cached_as: Digest,
    blob: Digest,
    blob_bytes: u64,
}

/// What the cache holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CacheContent {
    /// By artifact, the last used first. Those that share layers each have them.
    pub artifacts: Vec<HeldArtifact>,
    /// Bytes of layers that belong to none of them.
    pub other_bytes: u64,
    /// The number of those layers.
    pub other_layers: u64,
}

/// What the cache holds of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HeldArtifact {
    /// By which reference it was opened.
    pub reference: String,
    /// What that stood for.
    pub digest: Digest,
    /// Bytes of its layers that are here.
    pub cached_bytes: u64,
    /// Bytes of its layers. Of an archive that was not read yet, those of the blob.
    pub total_bytes: u64,
    /// Whether it is pinned, or parts of it.
    pub pinned: bool,
    /// The parts; none where all of it is.
    pub pinned_subpaths: Vec<String>,
    /// How many mounts show it.
    pub mounts: u64,
    /// When it was last opened or let go, in RFC 3339; now, while it is mounted.
    pub last_used: String,
}

/// The name of the document about an artifact.
pub(super) fn key(reference: &str, digest: &Digest) -> Digest {
    Digest::of(Algorithm::Sha256, format!("{reference}@{digest}").as_bytes())
}

/// Notes which layers `artifact` has, whose content is `content`. What cannot be noted is nobody's.
pub(super) async fn note(cache: &Arc<Cache>, artifact: &Artifact, content: &Content) {
    let layers = artifact.layers.iter().enumerate().map(|(at, layer)| NotedLayer {
        cached_as: content.cached_as(at).clone(),
        blob: layer.descriptor.digest.clone(),
        blob_bytes: layer.descriptor.size,
    });
    let note = Note {
        reference: artifact.reference.to_string(),
        digest: artifact.digest.clone(),
        layers: layers.collect(),
    };
    let cache = Arc::clone(cache);
    let written = tokio::task::spawn_blocking(move || write(&cache, &note)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(error = error.chain(), "which layers belong to an artifact is not noted");
    }
}

fn write(cache: &Cache, note: &Note) -> Result<()> {
    let key = key(&note.reference, &note.digest);
    let bytes = serde_json::to_vec(note)
        .map_err(|error| Error::with_source(ErrorKind::Io, "it cannot be written as JSON", error))?;
    if cache.read_document(DocumentKind::Artifact, &key).is_some_and(|there| there == bytes) {
        return cache.touch_document(DocumentKind::Artifact, &key);
    }
    cache.write_document(DocumentKind::Artifact, &key, &bytes)
}

/// Notes that the artifact was in use until now.
pub(super) fn let_go(cache: &Cache, reference: &str, digest: &Digest) {
    // Without a note there is nothing to be told.
    let _ = cache.touch_document(DocumentKind::Artifact, &key(reference, digest));
}

/// What `cache` holds; `mounted` says by which references and digests it is being shown. Waits for the disk.
///
/// # Errors
/// What the file system says.
pub fn content(cache: &Cache, mounted: &[(String, Digest)]) -> Result<CacheContent> {
    let mut cached = cache.layers();
    let pins = cache.pins();
    let mut notes: Vec<(Note, SystemTime)> = Vec::new();
    for (bytes, changed) in cache.documents(DocumentKind::Artifact)? {
        if let Ok(note) = serde_json::from_slice(&bytes) {
            notes.push((note, changed));
        }
    }
    notes.sort_by_key(|(_, changed)| Reverse(*changed));
    let mut artifacts = Vec::new();
    let mut owned = HashSet::new();
    for (note, changed) in notes {
        owned.extend(note.layers.iter().map(|layer| layer.cached_as.clone()));
        let held = held(cache, &cached, &pins, mounted, note, changed);
        if held.cached_bytes > 0 || held.pinned || held.mounts > 0 {
            artifacts.push(held);
        }
    }
    artifacts.sort_by_key(|held| held.mounts == 0);
    cached.retain(|layer, _| !owned.contains(layer));
    Ok(CacheContent { artifacts, other_bytes: cached.values().sum(), other_layers: cached.len() as u64 })
}

fn held(
    cache: &Cache,
    cached: &BTreeMap<Digest, u64>,
    pins: &[PinnedArtifact],
    mounted: &[(String, Digest)],
    note: Note,
    changed: SystemTime,
) -> HeldArtifact {
    let mut seen = HashSet::new();
    let (mut cached_bytes, mut total_bytes) = (0, 0_u64);
    for layer in note.layers.iter().filter(|layer| seen.insert(&layer.cached_as)) {
        let total = stream_bytes(cache, layer);
        total_bytes = total_bytes.saturating_add(total);
        // A chunk between two large files of an archive is there for each of them.
        cached_bytes += cached.get(&layer.cached_as).copied().unwrap_or_default().min(total);
    }
    let is_this =
        |reference: &String, digest: &Digest| (reference, digest) == (&note.reference, &note.digest);
    let mounts = mounted.iter().filter(|(reference, digest)| is_this(reference, digest)).count() as u64;
    let pin = pins.iter().find(|pin| is_this(&pin.reference, &pin.digest));
    let last_used = match mounts {
        0 => changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        _ => clock::unix_time(),
    };
    HeldArtifact {
        cached_bytes,
        total_bytes,
        pinned: pin.is_some(),
        pinned_subpaths: pin.map(|pin| pin.subpaths.clone()).unwrap_or_default(),
        mounts,
        last_used: rfc3339(last_used),
        reference: note.reference,
        digest: note.digest,
    }
}

fn stream_bytes(cache: &Cache, layer: &NotedLayer) -> u64 {
    let index = cache.map_document(DocumentKind::LayerIndex, &layer.cached_as);
    let index = index.and_then(|bytes| LayerIndex::decode(bytes, &layer.blob).ok());
    index.map_or(layer.blob_bytes, |index| index.stream_bytes())
}

/// A time since 1970, to the second, in RFC 3339.
#[must_use]
pub fn rfc3339(time: Duration) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheSettings, FreeSpaceFloor, PinnedContent, SegmentId};

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn noted(name: &str, layers: &[&str]) -> Note {
        let layer = |name: &&str| NotedLayer { cached_as: digest(name), blob: digest(name), blob_bytes: 10 };
        Note { reference: name.into(), digest: digest(name), layers: layers.iter().map(layer).collect() }
    }

    #[test]
    fn layers_belong_to_artifacts_or_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheSettings {
            directory: directory.path().to_owned(),
            bytes_max: 1 << 30,
            free_space_min: FreeSpaceFloor::Bytes(0),
        })
        .unwrap();
        for layer in ["shared", "own", "nobodys"] {
            let id = SegmentId { layer: digest(layer), number: 0 };
            let segment = cache.segment(&id, 10).unwrap();
            segment.store(0, &[7; 10], blake3::hash(&[7; 10]), segment.epoch());
        }
        write(&cache, &noted("a", &["shared", "own", "missing", "own"])).unwrap();
        write(&cache, &noted("b", &["shared"])).unwrap();
        write(&cache, &noted("gone", &["missing"])).unwrap();
        write(&cache, &noted("mounted", &["missing"])).unwrap();
        cache
            .pin(PinnedArtifact {
                reference: "b".into(),
                digest: digest("b"),
                subpaths: vec!["x".into()],
                since: 1,
                content: vec![PinnedContent { layer: digest("shared"), segment: None, bytes: 10 }],
                documents: Vec::new(),
            })
            .unwrap();
        let held = content(&cache, &[("mounted".into(), digest("mounted"))]).unwrap();
        assert_eq!((held.other_bytes, held.other_layers), (10, 1));
        let mut of: Vec<_> = held
            .artifacts
            .iter()
            .map(|held| {
                (held.reference.as_str(), held.cached_bytes, held.total_bytes, held.pinned, held.mounts)
            })
            .collect();
        assert_eq!(of.remove(0), ("mounted", 0, 10, false, 1));
        of.sort_unstable();
        assert_eq!(of, [("a", 20, 30, false, 0), ("b", 10, 10, true, 0)]);
    }
}
