//! What the fuzz targets check, as plain functions of bytes.
//!
//! Each of them panics when a promise of the code under test is broken for this input. The fuzzer calls them through
//! `fuzz_targets/`; the ordinary tests include this file and replay the committed corpus. They are pure: whatever they
//! choose, they choose by the input alone, so that a reproducer is one file.

#![expect(clippy::unwrap_used, reason = "a target fails by panicking")]

mod decoding;
pub mod estargz;
pub mod gzip;
pub mod layer_index;
pub mod manifest;
pub mod proof;
pub mod reference;
pub mod restart_table;
pub mod seek_table;
pub mod spans;
mod splits;
pub mod tar;
mod toc;
pub mod zstd;
pub mod zstd_chunked;
pub mod ztoc;

/// The name of a target, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; each has its seeds in `corpus/NAME`.
pub const TARGETS: [Target; 13] = [
    ("estargz", estargz::check),
    ("gzip", gzip::check),
    ("layer_index", layer_index::check),
    ("manifest", manifest::check),
    ("proof", proof::check),
    ("reference", reference::check),
    ("restart_table", restart_table::check),
    ("seek_table", seek_table::check),
    ("spans", spans::check),
    ("tar", tar::check),
    ("zstd", zstd::check),
    ("zstd_chunked", zstd_chunked::check),
    ("ztoc", ztoc::check),
];
