//! See `refmount_fuzz::manifest`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::manifest::check(data));
