//! The proof of a layer: the BLAKE3 digest of every chunk of its segments, recorded at the moment in which the whole
//! blob matched its own digest. With them, every chunk that is fetched later is proven by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Digest, Error, ErrorKind, Result, chunk_count};

/// A chunk's digest.
pub type ChunkDigest = [u8; 32];

/// First bytes of the encoding.
const MAGIC: [u8; 8] = *b"rfmproof";
/// Raised whenever the meaning of the bytes changes; other versions are not read.
const VERSION: u32 = 2;
/// Bytes of a segment's head.
const HEAD_BYTES: usize = 4 + 4 + 8;

/// The digests of all chunks of one segment. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentProof {
    bytes: u64,
    chunk_digests: Arc<[ChunkDigest]>,
}

impl SegmentProof {
    /// The proof of a segment of `bytes` bytes.
    ///
    /// # Errors
    /// `Invalid` when there is not exactly one digest for each chunk.
    pub fn new(bytes: u64, chunk_digests: Vec<ChunkDigest>) -> Result<Self> {
        if chunk_digests.len() as u64 != chunk_count(bytes) {
            let text = format!("{} chunk digests for a segment of {bytes} bytes", chunk_digests.len());
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(Self { bytes, chunk_digests: chunk_digests.into() })
    }

    /// Bytes of the segment.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of chunk `chunk`; none past the end.
    #[must_use]
    pub fn chunk_digest(&self, chunk: u64) -> Option<&ChunkDigest> {
        self.chunk_digests.get(usize::try_from(chunk).ok()?)
    }
}

/// What is known of the segments of one layer. Made when its blob has been verified.
///
/// # Bytes on disk
///
/// Little endian, in this order: magic (8), version (u32), length of the layer's digest text (u32), that text; then for
/// each segment, in the order of their numbers: number (u32), zero (u32), bytes (u64), and 32 bytes for each of its
/// chunks. Whoever stores it guards it with a checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProof {
    layer: Digest,
    segments: BTreeMap<u32, SegmentProof>,
}

impl LayerProof {
    /// What is known of the segment `number` of `layer`.
    #[must_use]
    pub fn of(layer: Digest, number: u32, proof: SegmentProof) -> Self {
        Self { layer, segments: BTreeMap::from([(number, proof)]) }
    }

    /// What is known of several segments of `layer`.
    #[must_use]
    pub fn of_segments(layer: Digest, segments: BTreeMap<u32, SegmentProof>) -> Self {
        Self { layer, segments }
    }

    /// What the segments are of.
    #[must_use]
    pub fn layer(&self) -> &Digest {
        &self.layer
    }

    /// The proof of segment `number`.
    #[must_use]
    pub fn segment(&self, number: u32) -> Option<&SegmentProof> {
        self.segments.get(&number)
    }

    /// The numbers of the segments that something is known of, and that.
    pub fn segments(&self) -> impl Iterator<Item = (u32, &SegmentProof)> {
        self.segments.iter().map(|(number, proof)| (*number, proof))
    }

    /// The same with what `newer` says of its segments.
    #[must_use]
    pub fn with(mut self, newer: &Self) -> Self {
        self.segments.extend(newer.segments.iter().map(|(number, proof)| (*number, proof.clone())));
        self
    }

    /// The bytes that [`Self::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = header(&self.layer);
        for (number, proof) in &self.segments {
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&0_u32.to_le_bytes());
            bytes.extend_from_slice(&proof.bytes.to_le_bytes());
            bytes.extend_from_slice(proof.chunk_digests.as_flattened());
        }
        bytes
    }

    /// Reads the proof of the layer `layer`.
    ///
    /// # Errors
    /// `Corrupt` for anything else than what [`Self::encode`] wrote for this layer.
    pub fn decode(bytes: &[u8], layer: &Digest) -> Result<Self> {
        let corrupt =
            |what: &str| Error::new(ErrorKind::Corrupt, format!("the stored proof of {layer} {what}"));
        let expected = header(layer);
        let mut rest =
            bytes.strip_prefix(expected.as_slice()).ok_or_else(|| corrupt("has another header"))?;
        let mut segments = BTreeMap::new();
        while !rest.is_empty() {
            let (head, body) =
                rest.split_first_chunk::<HEAD_BYTES>().ok_or_else(|| corrupt("is cut short"))?;
            let [a, b, c, d, zero @ .., e, f, g, h, i, j, k, l] = *head;
            let (number, bytes) =
                (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes([e, f, g, h, i, j, k, l]));
            let length = usize::try_from(chunk_count(bytes)).ok().and_then(|count| count.checked_mul(32));
            let (digests, after) = length
                .and_then(|length| body.split_at_checked(length))
                .ok_or_else(|| corrupt("is cut short"))?;
            let follows = segments.last_key_value().is_none_or(|(last, _)| *last < number);
            if !follows || zero != [0; 4] {
                return Err(corrupt("is out of order"));
            }
            segments.insert(number, SegmentProof::new(bytes, digests.as_chunks::<32>().0.to_vec())?);
            rest = after;
        }
        Ok(Self { layer: layer.clone(), segments })
    }
}

fn header(layer: &Digest) -> Vec<u8> {
    let name = layer.as_str().as_bytes();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(name);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, CHUNK_BYTES};

    #[test]
    fn decodes_what_it_encodes_and_nothing_else() {
        let layer = Digest::of(Algorithm::Sha256, b"layer");
        let two = SegmentProof::new(CHUNK_BYTES + 1, vec![[1; 32], [2; 32]]).unwrap();
        let one = SegmentProof::new(7, vec![[3; 32]]).unwrap();
        let proof =
            LayerProof::of(layer.clone(), 4, two).with(&LayerProof::of(layer.clone(), 1, one.clone()));
        let encoded = proof.encode();
        assert_eq!(LayerProof::decode(&encoded, &layer).unwrap(), proof);
        assert_eq!(proof.segment(4).unwrap().chunk_digest(1), Some(&[2; 32]));
        assert_eq!(proof.segment(4).unwrap().chunk_digest(2), None);
        assert_eq!(proof.segment(1), Some(&one));
        assert_eq!(proof.segment(0), None);

        let other = Digest::of(Algorithm::Sha256, b"other");
        assert!(LayerProof::decode(&encoded, &other).is_err());
        // Between two segments a cut shows nothing; the checksum around it does.
        let between = header(&layer).len() + HEAD_BYTES + 32;
        for cut in (0..encoded.len()).filter(|cut| ![header(&layer).len(), between].contains(cut)) {
            assert!(LayerProof::decode(&encoded[..cut], &layer).is_err(), "{cut}");
        }
        assert!(SegmentProof::new(CHUNK_BYTES + 1, vec![[0; 32]]).is_err());
    }
}
