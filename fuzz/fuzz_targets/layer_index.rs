//! See `refmount_fuzz::layer_index`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::layer_index::check(data));
