//! See `refmount_fuzz::seek_table`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::seek_table::check(data));
