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

/// Bytes of a layer's stream, once it is decompressed: a terabyte-sized model still fits, and whatever a
/// compressed layer inflates to ends here.
pub const LAYER_STREAM_BYTES_MAX: u64 = 4 << 40;

/// Stream bytes for each compressed byte that a layer may have beyond [`STREAM_BYTES_FREE`]. Weights compress to
/// 0.8, text to 0.2, sparse disk images seldom below 0.01; deflate reaches 1,032 and zstd 32,000 only on bytes
/// that say nothing.
pub const STREAM_RATIO_MAX: u64 = 200;

/// Stream bytes that a layer may have whatever its compressed size: a few files of zeros are no attack, and this
/// much fits into any cache.
pub const STREAM_BYTES_FREE: u64 = 4 << 30;

/// The logarithm of the largest zstd window: 128 MiB, which is what `zstd -d` accepts unless told otherwise, and
/// the memory that a decoder of such a frame holds.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Frames of a zstd seek table. At 12 bytes for each, the table is then 48 MiB.
pub const ZSTD_SEEK_FRAMES_MAX: u32 = 1 << 22;

/// Entries of one archive. The largest images hold about a million.
pub const ARCHIVE_ENTRIES_MAX: u64 = 2 << 20;

/// Bytes of memory that the entries of one archive take together: the largest number of entries with paths of
/// seventy bytes, or a million with the longest of real images, and room to work beside them in 512 MiB.
pub const ARCHIVE_METADATA_BYTES_MAX: u64 = 384 << 20;

/// Bytes of all extended headers of one archive entry (PAX records, GNU long names). An entry with the longest
/// path, the longest link target and several of the largest extended attributes stays below it.
pub const ARCHIVE_EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Pieces of one sparse file: a file of 64 GiB of which every other 32 KiB is a hole.
pub const SPARSE_EXTENTS_MAX: usize = 1 << 20;

/// Bytes of an extended attribute's name: the kernel's `XATTR_NAME_MAX`.
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Bytes of an extended attribute's value: the kernel's `XATTR_SIZE_MAX`.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;

/// Bytes of the names of one file's extended attributes, a NUL after each: the kernel's `XATTR_LIST_MAX`.
pub const XATTR_LIST_BYTES_MAX: usize = 64 << 10;

/// Names walked through symbolic links to find where the entries of an image land, over all its layers. Entries
/// behind links are rare in real images; a hostile one would make each of two million walk forty links of two
/// thousand names. This many take a second or two.
pub const LINKED_NAMES_MAX: u64 = 8 << 20;

/// Bytes of a layer's table of contents, compressed and decompressed: what containers/storage accepts. At 150 bytes
/// for each chunk it is a million of them.
pub const TOC_BYTES_MAX: u64 = 150 << 20;

/// Spans of one layer. At 72 bytes for each, their table is then 72 MiB; with the 64 KiB that the smallest chunks in
/// use have on average, the layer has 64 GiB.
pub const SPANS_MAX: usize = 1 << 20;

/// Bytes that may have to be decoded in vain before a span begins. Writers put chunks into a common gzip member up to
/// some 50 KB of compressed bytes; this much takes a third of a second.
pub const SPAN_SKIP_BYTES_MAX: u64 = 256 << 20;

/// Bytes of a SOCI zTOC. Its windows are not compressed: 32 KiB for each 4 MiB of a stream of 32 GiB.
pub const ZTOC_BYTES_MAX: u64 = 256 << 20;

/// Inodes shown of a tree that still grows; those beyond have to be waited for. Each takes about 250 bytes until the
/// end, beside what the layers' indexes take.
pub const GROWING_NODES_MAX: usize = 512 << 10;
