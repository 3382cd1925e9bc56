//! What the tests share: servers, sources, data and guards.

pub mod memory_source;
