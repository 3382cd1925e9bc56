//! The disk cache.

/// The disk cache of one directory.
#[derive(Debug)]
pub struct Cache {}
