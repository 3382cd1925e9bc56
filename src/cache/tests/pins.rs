//! What is pinned stays, also in later processes, and what cannot be pinned is refused with numbers.

use super::*;
use crate::cache::{PinnedArtifact, PinnedContent};

fn pin(reference: &str, segment: Option<u32>, bytes: u64) -> PinnedArtifact {
    let SegmentId { layer, .. } = id(0);
    PinnedArtifact {
        reference: reference.into(),
        digest: Digest::of(Algorithm::Sha256, b"manifest"),
        subpaths: Vec::new(),
        since: 1,
        documents: vec![layer.clone()],
        content: vec![PinnedContent { layer, segment, bytes }],
    }
}

#[test]
fn a_pinned_segment_outlives_eviction_pruning_and_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (content(1, 2 * CHUNK_BYTES), content(2, 8 * CHUNK_BYTES));
    {
        let cache = open_at(directory.path(), 4 * CHUNK_BYTES, BOOT);
        // Pinned before any of it is here.
        cache.pin(pin("r.example/m:v1", Some(0), one.len() as u64)).unwrap();
        let pinned = cache.segment(&id(0), one.len() as u64).unwrap();
        store_all(&pinned, &one);
        let rest = cache.segment(&id(1), other.len() as u64).unwrap();
        for chunk in 0..8 {
            store(&rest, &other, chunk);
        }
        assert!(pinned.is_complete());
        cache.prune(Prune::All).unwrap();
        assert!(pinned.is_complete());
        cache.sync();
    }
    // Into a process for which it is too much.
    let cache = open_at(directory.path(), CHUNK_BYTES, BOOT);
    assert_eq!(cache.pins(), [pin("r.example/m:v1", Some(0), one.len() as u64)]);
    let pinned = cache.segment(&id(0), one.len() as u64).unwrap();
    assert!(pinned.is_complete());
    drop(pinned);
    cache.prune(Prune::Unused).unwrap();
    cache.prune(Prune::DownTo(0)).unwrap();
    let pinned = cache.segment(&id(0), one.len() as u64).unwrap();
    assert!(hit_chunk(&pinned, &one, 1));
    assert_eq!(cache.unpin(|pin| pin.reference == "r.example/other").unwrap(), []);
    assert_eq!(cache.unpin(|pin| pin.reference == "r.example/m:v1").unwrap().len(), 1);
    cache.prune(Prune::DownTo(0)).unwrap();
    assert!(!pinned.is_present(0));
    drop((pinned, cache));
    assert_eq!(open(directory.path()).pins(), []);
}

#[test]
fn a_cache_full_of_pins_says_so_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), 8 * CHUNK_BYTES, BOOT);
    let (one, other) = (content(1, 7 * CHUNK_BYTES), content(2, 3 * CHUNK_BYTES));
    cache.pin(pin("r.example/m:v1", None, one.len() as u64)).unwrap();
    let pinned = cache.segment(&id(0), one.len() as u64).unwrap();
    let layer = Digest::of(Algorithm::Sha256, b"another layer");
    let rest = cache.segment(&SegmentId { layer, number: 0 }, other.len() as u64).unwrap();
    store_all(&pinned, &one);
    let _read = rest.pin();
    store(&rest, &other, 0);
    assert_eq!(cache.degraded(), None);
    assert_eq!(store(&rest, &other, 1), Stored::Skipped(SkipReason::NoRoom));
    let said = cache.degraded().unwrap();
    assert!(said.contains(&format!("{} are pinned", 7 * CHUNK_BYTES)), "{said}");
    assert_eq!(cache.info().degraded, Some(said));
    cache.unpin(|_| true).unwrap();
    assert_eq!(cache.degraded(), None);
    assert_eq!(store(&rest, &other, 1), Stored::Stored);
}

#[test]
fn more_than_the_cache_holds_is_not_pinned() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open_at(directory.path(), 8 * CHUNK_BYTES, BOOT);
    cache.pin(pin("r.example/m:v1", Some(0), 4 * CHUNK_BYTES)).unwrap();
    let error = cache.pin(pin("r.example/n:v1", Some(2), 4 * CHUNK_BYTES)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    for number in [4, 8, 7].map(|chunks: u64| (chunks * CHUNK_BYTES).to_string()) {
        assert!(error.to_string().contains(&number), "{error}");
    }
    assert_eq!(cache.pins().len(), 1);
    // The same content by another name needs no room.
    cache.pin(pin("r.example/n:v1", Some(0), 4 * CHUNK_BYTES)).unwrap();
}

#[test]
fn documents_of_a_pin_stay_and_one_that_is_damaged_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let cache = open(directory.path());
    let (kept, other) = (id(0).layer, Digest::of(Algorithm::Sha256, b"other"));
    let variant = DocumentKey::variant(&kept, &other);
    for key in [DocumentKey::from(&kept), variant, DocumentKey::from(&other)] {
        cache.write_document(DocumentKind::LayerIndex, key, b"index").unwrap();
    }
    cache.pin(pin("r.example/m:v1", None, 1)).unwrap();
    cache.prune(Prune::All).unwrap();
    assert!(cache.read_document(DocumentKind::LayerIndex, &kept).is_some());
    assert!(cache.read_document(DocumentKind::LayerIndex, variant).is_some());
    assert!(cache.read_document(DocumentKind::LayerIndex, &other).is_none());
    let pins = cache.paths().pins();
    drop(cache);
    crate::base::durable::write(&pins.join("damaged.json"), b"{").unwrap();
    assert_eq!(open(directory.path()).pins().len(), 1);
    assert!(pins.join("damaged.json").exists());
}
