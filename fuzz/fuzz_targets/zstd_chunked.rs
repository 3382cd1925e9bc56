//! See `refmount_fuzz::zstd_chunked`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::zstd_chunked::check(data));
