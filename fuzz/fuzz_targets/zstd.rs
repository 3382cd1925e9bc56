//! See `refmount_fuzz::zstd`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::zstd::check(data));
