//! The chunk map of a segment, as bytes on disk.
//!
//! A map is a header and one record for each chunk of the segment, in order; all numbers are little-endian.
//! Nothing here does I/O.
//!
//! ```text
//! header                                     record of chunk n, at 128 + 64 n
//!   0   8  magic "rfmchunk"                    0   1  state: 0 absent, 1 written, 2 durable
//!   8   4  version, 1                          1   7  zero
//!  12   4  bytes of a chunk                    8   8  last use, in ticks of the cache's clock
//!  16   8  bytes of the segment               16  32  BLAKE3 of the chunk
//!  24   4  number of the segment              48   8  zero
//!  28   1  1 once the file was handed over    56   8  check of bytes 0..56, segment and chunk
//!  29   1  algorithm: 1 SHA-256, 2 SHA-512
//!  30   2  zero
//!  32  64  layer digest, zeros behind it
//!  96  16  boot id
//! 112   8  zero
//! 120   8  check of bytes 0..120
//! ```
//!
//! Why so: records are 64 bytes on multiples of 64, so that none crosses a sector and each is written by
//! one `pwrite`, whole or not at all. A check is the first 8 bytes of a BLAKE3; that of a record covers the
//! segment and the chunk's number, so that a record is believed in its own place only, and a torn or
//! flipped one is an absent chunk. A chunk's record is written as *written* right behind its bytes: both
//! are in the page cache then and outlive the process. Only after the bytes were synced does it become
//! *durable*. The boot id says whose page cache it was: under another one, *written* means nothing. The last
//! use counts stores, not seconds, so that it orders uses whatever the wall clock does.

use std::str::FromStr as _;

use crate::base::{Algorithm, CHUNK_BYTES, Digest};

use super::SegmentId;

const MAGIC: &[u8; 8] = b"rfmchunk";
const VERSION: u32 = 1;
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 128;
/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = 64;
/// The record of a chunk that is not here.
pub(super) const ABSENT: [u8; RECORD_BYTES] = [0; RECORD_BYTES];

/// Which run of the kernel, and so which page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BootId(pub(super) [u8; 16]);

impl BootId {
    /// The running kernel's; none if it does not say, which is then no boot that could be recognised.
    pub(super) fn current() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(text.trim().replace('-', ""), &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// The header of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: SegmentId,
    /// Bytes of the segment.
    pub(super) bytes: u64,
    /// Whether somebody outside of this program may be reading the data file.
    pub(super) handed_over: bool,
    /// The boot in which records were written last.
    pub(super) boot: Option<BootId>,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(CHUNK_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.id.number.to_le_bytes());
        bytes[28] = u8::from(self.handed_over);
        bytes[29] = algorithm_number(self.id.layer.algorithm());
        let hex = self.id.layer.hex();
        // Cannot fail: a digest is hexadecimal by construction, and 64 bytes are the longest.
        let _ = hex::decode_to_slice(hex, &mut bytes[32..32 + hex.len() / 2]);
        bytes[96..112].copy_from_slice(&self.boot.map_or([0; 16], |boot| boot.0));
        let check = check_of(&bytes[..120]);
        bytes[120..].copy_from_slice(&check);
        bytes
    }

    /// The header that `bytes` hold; none if it is damaged or of another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let right = bytes[0..8] == *MAGIC
            && u32_at(bytes, 8) == VERSION
            && u64::from(u32_at(bytes, 12)) == CHUNK_BYTES
            && bytes[120..] == check_of(&bytes[..120]);
        if !right {
            return None;
        }
        let (name, length) = match bytes[29] {
            1 => (Algorithm::Sha256.name(), 32),
            2 => (Algorithm::Sha512.name(), 64),
            _ => return None,
        };
        let layer = Digest::from_str(&format!("{name}:{}", hex::encode(&bytes[32..32 + length]))).ok()?;
        let mut boot = [0; 16];
        boot.copy_from_slice(&bytes[96..112]);
        Some(Self {
            id: SegmentId { layer, number: u32_at(bytes, 24) },
            bytes: u64_at(bytes, 16),
            handed_over: bytes[28] != 0,
            boot: (boot != [0; 16]).then_some(BootId(boot)),
        })
    }
}

/// What tells one segment's records from another's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt(u64);

impl Salt {
    pub(super) fn new(id: &SegmentId, bytes: u64) -> Self {
        let text = format!("{} {} {bytes}", id.layer, id.number);
        Self(u64::from_le_bytes(check_of(text.as_bytes())))
    }
}

/// The record of a chunk that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Whether the bytes were synced before this was written.
    pub(super) durable: bool,
    /// In ticks of the cache's clock.
    pub(super) last_use: u64,
    /// BLAKE3 of the chunk.
    pub(super) digest: [u8; 32],
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Absent,
    /// Neither absent nor whole.
    Damaged,
    Present(Record),
}

/// Where the record of `chunk` stands in the map.
pub(super) fn record_offset(chunk: u64) -> u64 {
    HEADER_BYTES as u64 + chunk * RECORD_BYTES as u64
}

impl Record {
    pub(super) fn encode(&self, salt: Salt, chunk: u64) -> [u8; RECORD_BYTES] {
        let mut bytes = ABSENT;
        bytes[0] = if self.durable { 2 } else { 1 };
        bytes[8..16].copy_from_slice(&self.last_use.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.digest);
        let check = record_check(&bytes, salt, chunk);
        bytes[56..].copy_from_slice(&check);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], salt: Salt, chunk: u64) -> Recorded {
        if *bytes == ABSENT {
            return Recorded::Absent;
        }
        if !matches!(bytes[0], 1 | 2) || bytes[56..] != record_check(bytes, salt, chunk) {
            return Recorded::Damaged;
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[16..48]);
        Recorded::Present(Record { durable: bytes[0] == 2, last_use: u64_at(bytes, 8), digest })
    }
}

/// One block of BLAKE3, about 60 ns: a million records are checked in far less than a second.
fn record_check(bytes: &[u8; RECORD_BYTES], salt: Salt, chunk: u64) -> [u8; 8] {
    let mut block = *bytes;
    block[56..].copy_from_slice(&(salt.0.wrapping_add(chunk)).to_le_bytes());
    check_of(&block)
}

fn check_of(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(bytes);
    let mut check = [0; 8];
    check.copy_from_slice(&hash.as_bytes()[..8]);
    check
}

fn algorithm_number(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(algorithm: Algorithm) -> Header {
        Header {
            id: SegmentId { layer: Digest::of(algorithm, b"layer"), number: 7 },
            bytes: 5 << 30,
            handed_over: true,
            boot: Some(BootId([9; 16])),
        }
    }

    #[test]
    fn a_header_with_any_flipped_bit_is_not_believed() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let header = header(algorithm);
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes).as_ref(), Some(&header));
            for bit in 0..HEADER_BYTES * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::decode(&flipped), None, "bit {bit}");
            }
            assert_eq!(Header::decode(&bytes[..100]), None);
        }
    }

    #[test]
    fn a_record_is_believed_whole_and_in_its_place_only() {
        let header = header(Algorithm::Sha256);
        let salt = Salt::new(&header.id, header.bytes);
        let record = Record { durable: true, last_use: 77, digest: [5; 32] };
        let bytes = record.encode(salt, 3);
        assert_eq!(Record::decode(&bytes, salt, 3), Recorded::Present(record));
        assert_eq!(Record::decode(&bytes, salt, 4), Recorded::Damaged);
        assert_eq!(Record::decode(&bytes, Salt::new(&header.id, 1), 3), Recorded::Damaged);
        assert_eq!(Record::decode(&ABSENT, salt, 3), Recorded::Absent);
        for bit in 0..RECORD_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&flipped, salt, 3), Recorded::Damaged, "bit {bit}");
        }
    }
}
