//! See `refmount_fuzz::restart_table`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refmount_fuzz::restart_table::check(data));
