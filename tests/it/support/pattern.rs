//! Content that costs next to nothing to make, and of which every part can be made again.

use std::ops::Range;
use std::sync::OnceLock;

use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const PAGE_BYTES: u64 = 4096;

/// What pages are taken from. No two of its pages are the same, and no two places in a page look alike.
const TILE_BYTES: u64 = 1 << 20;

/// A file of random-looking bytes in which no page is like another one of this or another number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    pub(crate) number: u32,
    pub(crate) bytes: u64,
}

impl Pattern {
    /// The bytes of `range`, which has to lie within the file.
    pub(crate) fn read(&self, range: Range<u64>) -> Vec<u8> {
        assert!(range.end <= self.bytes, "{range:?} of {} bytes", self.bytes);
        let first = range.start / PAGE_BYTES;
        let pages = first..range.end.div_ceil(PAGE_BYTES);
        let mut bytes = Vec::with_capacity(((pages.end - pages.start) * PAGE_BYTES) as usize);
        for page in pages {
            let from = (page * PAGE_BYTES % TILE_BYTES) as usize;
            let start = bytes.len();
            bytes.extend_from_slice(&tile()[from..from + PAGE_BYTES as usize]);
            // Mixed, so that pages whose numbers are near differ in every byte of the stamp.
            let stamp = (page << 32 | u64::from(self.number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bytes[start..start + 8].copy_from_slice(&stamp.to_le_bytes());
        }
        bytes.truncate((range.end - first * PAGE_BYTES) as usize);
        bytes.drain(..(range.start - first * PAGE_BYTES) as usize);
        bytes
    }

    /// All of it.
    pub(crate) fn whole(&self) -> Vec<u8> {
        self.read(0..self.bytes)
    }
}

fn tile() -> &'static [u8] {
    static TILE: OnceLock<Vec<u8>> = OnceLock::new();
    TILE.get_or_init(|| {
        let mut bytes = vec![0; TILE_BYTES as usize];
        ChaCha8Rng::seed_from_u64(0).fill_bytes(&mut bytes);
        bytes
    })
}

#[test]
fn a_part_is_made_as_the_whole_is() {
    let pattern = Pattern { number: 3, bytes: TILE_BYTES + 10_001 };
    let whole = pattern.whole();
    assert_eq!(whole.len() as u64, pattern.bytes);
    for range in [0..1, 4095..4097, 5..5, TILE_BYTES - 1..TILE_BYTES + 4096, 1_000_000..pattern.bytes] {
        assert!(pattern.read(range.clone()) == whole[range.start as usize..range.end as usize], "{range:?}");
    }
    assert_ne!(pattern.read(0..8), Pattern { number: 4, ..pattern }.read(0..8));
    assert_ne!(pattern.read(0..8), pattern.read(TILE_BYTES..TILE_BYTES + 8));
}
