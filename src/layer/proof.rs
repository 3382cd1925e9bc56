//! The proof of a layer: what makes each chunk that is fetched later checkable by itself.
//!
//! For a raw layer that is the BLAKE3 digest of every chunk, recorded at the moment in which the whole blob
//! matched its own digest. With them, every chunk that is fetched later is proven by itself.

use crate::base::{Digest, Error, ErrorKind, Result, chunk_count};

/// A chunk's digest.
pub type ChunkDigest = [u8; 32];

/// First bytes of the encoding.
const MAGIC: [u8; 8] = *b"rfmproof";
/// Raised whenever the meaning of the bytes changes; other versions are not read.
const VERSION: u32 = 1;
/// Bytes before the layer's digest.
const HEADER_BYTES: usize = 8 + 4 + 4 + 8;

/// What is known of one layer. Immutable; made when its blob has been verified.
///
/// # Bytes on disk
///
/// Little endian, in this order: magic (8), version (u32), length of the layer's digest text (u32), bytes of
/// the stream (u64), the digest's text, and 32 bytes for each chunk in the stream's order. The fixed records
/// come last so that their offsets follow from the header. Whoever stores it guards it with a checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProof {
    layer: Digest,
    stream_bytes: u64,
    chunk_digests: Vec<ChunkDigest>,
}

impl LayerProof {
    /// The index of a layer whose blob was verified while `chunk_digests` were taken of the same bytes.
    ///
    /// # Errors
    /// `Invalid` when there is not exactly one digest for each chunk.
    pub fn new(layer: Digest, stream_bytes: u64, chunk_digests: Vec<ChunkDigest>) -> Result<Self> {
        if chunk_digests.len() as u64 != chunk_count(stream_bytes) {
            let text = format!("{} chunk digests for {stream_bytes} bytes of {layer}", chunk_digests.len());
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(Self { layer, stream_bytes, chunk_digests })
    }

    /// The digest of chunk `chunk`; none past the end.
    #[must_use]
    pub fn chunk_digest(&self, chunk: u64) -> Option<&ChunkDigest> {
        self.chunk_digests.get(usize::try_from(chunk).ok()?)
    }

    /// The bytes that [`Self::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let name = self.layer.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + name.len() + 32 * self.chunk_digests.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&self.stream_bytes.to_le_bytes());
        bytes.extend_from_slice(name);
        for digest in &self.chunk_digests {
            bytes.extend_from_slice(digest);
        }
        bytes
    }

    /// Reads the index of the layer `layer` of `stream_bytes` bytes.
    ///
    /// # Errors
    /// `Corrupt` for anything else than what [`Self::encode`] wrote for this layer.
    pub fn decode(bytes: &[u8], layer: &Digest, stream_bytes: u64) -> Result<Self> {
        let expected = Self { layer: layer.clone(), stream_bytes, chunk_digests: Vec::new() }.encode();
        let digests = bytes.strip_prefix(expected.as_slice()).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the stored index of {layer} has another header"))
        })?;
        let (records, rest) = digests.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, format!("the stored index of {layer} is cut short")));
        }
        Self::new(layer.clone(), stream_bytes, records.to_vec())
            .map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, CHUNK_BYTES};

    #[test]
    fn decodes_what_it_encodes_and_nothing_else() {
        let layer = Digest::of(Algorithm::Sha256, b"layer");
        let bytes = CHUNK_BYTES + 1;
        let index = LayerProof::new(layer.clone(), bytes, vec![[1; 32], [2; 32]]).unwrap();
        let encoded = index.encode();
        assert_eq!(LayerProof::decode(&encoded, &layer, bytes).unwrap(), index);
        assert_eq!(index.chunk_digest(1), Some(&[2; 32]));
        assert_eq!(index.chunk_digest(2), None);

        let other = Digest::of(Algorithm::Sha256, b"other");
        assert!(LayerProof::decode(&encoded, &other, bytes).is_err());
        assert!(LayerProof::decode(&encoded, &layer, bytes + CHUNK_BYTES).is_err());
        for cut in 0..encoded.len() {
            assert!(LayerProof::decode(&encoded[..cut], &layer, bytes).is_err(), "{cut}");
        }
        assert!(LayerProof::new(layer, bytes, vec![[0; 32]]).is_err());
    }
}
