//! See `refmount_fuzz::ztoc`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::ztoc::check(data));
