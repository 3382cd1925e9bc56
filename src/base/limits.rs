//! The bounds on what comes from outside. Each stops one way of making us use memory, time or disk
//! without end, and each error that one of them causes names it.

/// Bytes of a manifest or an index. Registries refuse larger ones (distribution-spec, "Pushing Manifests":
/// 4 MiB is what clients may expect to be accepted).
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// How deep an index may refer to further indexes.
pub const INDEX_DEPTH_MAX: u32 = 4;

/// Layers of one manifest. The largest model artifacts have about a thousand files.
pub const LAYERS_MAX: usize = 16_384;

/// Bytes of one name in a directory: the kernel's `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a path in an artifact: the kernel's `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;

/// Bytes of a blob, so that offsets fit into a signed 64-bit file offset with room to spare.
pub const BLOB_BYTES_MAX: u64 = 1 << 62;

/// Bytes of an answer of a token server or of an error document.
pub const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// Redirects followed for one request.
pub const REDIRECTS_MAX: u32 = 5;
