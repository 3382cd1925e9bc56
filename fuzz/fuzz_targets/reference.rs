//! See `refmount_fuzz::reference`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::reference::check(data));
