//! See `refmount_fuzz::tar`. Most changes to a header would end at its checksum, so this target corrects the checksums
//! of what it mutates, and moves whole blocks.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

const BLOCK: usize = 512;

/// Types of entries and of extended headers.
const KINDS: &[u8] = b"0123456\0gxLKSV7";

fuzz_target!(|data: &[u8]| refmount_fuzz::tar::check(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    // Each use takes other bits.
    let bits = |shift: u32| (seed.rotate_right(shift) as usize) >> 3;
    let blocks = size / BLOCK;
    let size = match seed % 8 {
        0 if blocks > 0 => {
            let at = bits(5) % blocks * BLOCK;
            data[at + 156] = KINDS[bits(13) % KINDS.len()];
            size
        }
        1 if blocks > 0 => {
            let at = bits(5) % blocks * BLOCK;
            let value = [0, 1, 511, 512, 513, 1024, 0o1777, usize::MAX >> 31][bits(13) % 8];
            data[at + 124..at + 136].copy_from_slice(format!("{value:011o}\0").as_bytes());
            size
        }
        2 if blocks > 1 => {
            let (from, to) = (bits(5) % blocks * BLOCK, bits(17) % blocks * BLOCK);
            data.copy_within(from..from + BLOCK, to);
            size
        }
        3 if blocks > 1 => {
            let at = bits(5) % blocks * BLOCK;
            data.copy_within(at + BLOCK..size, at);
            size - BLOCK
        }
        4 if blocks > 0 && size + BLOCK <= max_size => {
            let at = bits(5) % blocks * BLOCK;
            data.copy_within(at..size, at + BLOCK);
            size + BLOCK
        }
        _ => fuzzer_mutate(data, size, max_size),
    };
    // Some of them wrong.
    if !bits(23).is_multiple_of(16) {
        data[..size].as_chunks_mut().0.iter_mut().for_each(seal);
    }
    size
});

/// Writes the checksum into what looks like a header.
fn seal(block: &mut [u8; BLOCK]) {
    let is_header = block[257..].starts_with(b"ustar") || block[148..156].ends_with(b"\0 ");
    if is_header {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
