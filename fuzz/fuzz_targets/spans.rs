//! See `refmount_fuzz::spans`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::spans::check(data));
