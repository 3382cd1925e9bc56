//! Stored proofs: what opens for a layer says one digest for each chunk, and is what is written for it.

use std::collections::BTreeMap;

use refmount::base::{Algorithm, Digest, ErrorKind, chunk_count};
use refmount::layer::LayerProof;

/// Opens `data` as the stored proof of the layer that it names, or of any.
pub fn check(data: &[u8]) {
    let layer = named(data);
    let proof = match LayerProof::decode(data, &layer) {
        Ok(proof) => proof,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            return;
        }
    };
    assert_eq!((proof.layer(), proof.encode().as_slice()), (&layer, data));
    let mut segments = BTreeMap::new();
    for (number, segment) in proof.segments() {
        let chunks = chunk_count(segment.bytes());
        assert!(data.len() as u64 / 32 >= chunks);
        for chunk in 0..chunks {
            assert!(segment.chunk_digest(chunk).is_some(), "chunk {chunk} of {chunks}");
        }
        assert!(segment.chunk_digest(chunks).is_none() && segment.chunk_digest(u64::MAX).is_none());
        assert_eq!(proof.segment(number), Some(segment));
        segments.insert(number, segment.clone());
    }
    assert_eq!(LayerProof::of_segments(layer, segments), proof);
    let other = Digest::of(Algorithm::Sha512, data);
    assert!(LayerProof::decode(data, &other).is_err(), "it is another layer's proof, too");
}

/// The layer that `data` names, if it does.
fn named(data: &[u8]) -> Digest {
    let length = data.get(12..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes);
    let text = data.get(16..).and_then(|rest| rest.get(..length as usize));
    let layer = text.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    layer.unwrap_or_else(|| Digest::of(Algorithm::Sha256, b"layer"))
}
