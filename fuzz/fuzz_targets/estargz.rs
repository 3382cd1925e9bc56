//! See `refmount_fuzz::estargz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::estargz::check(data));
