//! The vocabulary that every other module shares: errors, digests, paths, chunks, limits, durable writes,
//! histograms, the clock and what a process asks for itself.
//!
//! Nothing here knows a registry, a cache or a file system; nothing here keeps state.

pub mod backoff;
pub mod chunk;
pub mod clock;
pub mod digest;
pub mod durable;
pub mod error;
pub mod histogram;
pub mod joined;
pub mod limits;
pub mod mapped;
pub mod process;
#[cfg(test)]
pub(crate) mod program_file;
pub mod redact;
pub mod rel_path;

pub use chunk::{CHUNK_BYTES, chunk_count, chunk_range};
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Error, ErrorKind, Result, ResultExt};
pub use histogram::Histogram;
pub use joined::Joined;
pub use rel_path::RelPath;
