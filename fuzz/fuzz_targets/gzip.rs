//! See `refmount_fuzz::gzip`. Most changes to a member would end at its checksum, so this target corrects the trailers
//! of what it mutates.

#![no_main]

use std::io::Read as _;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

/// Bytes that a member is decoded to for its trailer.
const MEMBER_BYTES_MAX: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| refmount_fuzz::gzip::check(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    // Some of them stay wrong.
    if !seed.is_multiple_of(8) {
        seal(&mut data[..size]);
    }
    size
});

/// Writes the right trailer behind each member with a plain header.
fn seal(mut data: &mut [u8]) {
    while data.len() > 18 && data.starts_with(&[0x1f, 0x8b, 8, 0]) {
        let mut decoder = DeflateDecoder::new(&data[10..]);
        let (mut crc, mut buffer) = (Crc::new(), [0; 16 << 10]);
        while u64::from(crc.amount()) < MEMBER_BYTES_MAX {
            match decoder.read(&mut buffer) {
                Err(_) => return,
                Ok(0) => break,
                Ok(length) => crc.update(&buffer[..length]),
            }
        }
        let end = 10 + decoder.total_in() as usize;
        let Some(trailer) = data.get_mut(end..end + 8) else { return };
        trailer[..4].copy_from_slice(&crc.sum().to_le_bytes());
        trailer[4..].copy_from_slice(&crc.amount().to_le_bytes());
        data = &mut data[end + 8..];
    }
}
