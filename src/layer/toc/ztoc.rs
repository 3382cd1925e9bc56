//! SOCI v1 (awslabs/soci-snapshotter): a zTOC, which lies beside an ordinary gzip layer in a blob of its own.
//!
//! It is a flatbuffer (ztoc/fbs/ztoc.fbs) with the entries of the tar, places from which the gzip can be decoded, and
//! the digests of the compressed bytes between them. One finds it by the referrers of the image, and **nobody vouches
//! for it but its author**: whoever may push to the repository can push another one. What it says of names and places
//! is taken as a hint that makes reading fast; the digests in it prove that the bytes are those that its author saw and
//! no more. So a caller treats bytes that were found by it as pending, until the layer's own digest has confirmed them.
//!
//! Only the first member of a gzip has points, and no point knows the CRC-32 of its member so far, so that decoders
//! which begin there do not check that member. The tar is read as Go's archive/tar reads it, up to its end mark; what
//! pads the stream after it does not count in its size.

use std::ops::Range;

use super::chunks::sha256_of;
use super::listed::{Kind, Listed, Xattrs, invalid, number, shown};
use super::members_of;
use crate::base::limits::{LAYER_STREAM_BYTES_MAX, ZTOC_BYTES_MAX};
use crate::base::{Error, ErrorKind, Result};
use crate::layer::restart::RestartTable;
use crate::layer::tar::budget::Budget;
use crate::layer::tar::{BLOCK_BYTES, TarItem};
use crate::layer::{Entry, EntryKind, Extents, Member, RootAttributes};
use flatbuffer::{Damaged, Table, Vector};

mod checkpoints;
mod flatbuffer;

/// The artifact type of the referrer that lists the zTOCs of an image's layers.
pub const INDEX_TYPE: &str = "application/vnd.amazon.soci.index.v1+json";

/// The annotation of a zTOC that names its layer.
pub const LAYER_DIGEST: &str = "com.amazon.soci.image-layer-digest";

/// The versions whose schema is the one that is read.
const VERSIONS: [&[u8]; 2] = [b"0.9", b"1.0"];

/// What a zTOC says of its layer.
#[derive(Clone, Debug)]
pub struct Ztoc {
    /// Bytes of the layer's stream up to the end of its tar.
    pub stream_bytes: u64,
    /// Bytes of the layer's blob.
    pub blob_bytes: u64,
    /// The way into the stream.
    pub points: RestartTable,
    /// What is known of the compressed bytes, in their order.
    pub spans: Vec<CompressedSpan>,
    /// What it says of the root.
    pub root: Option<RootAttributes>,
    /// The entries in the order in which it lists them; of several with one path the last one counts.
    pub entries: Vec<Entry>,
    /// The large files in the order of the stream.
    pub members: Vec<Member>,
}

/// Bytes of the blob and their digest. Neighbours may share a byte, in which one deflate block ends and another begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedSpan {
    /// The bytes.
    pub range: Range<u64>,
    /// Their SHA-256.
    pub digest: [u8; 32],
}

/// What the zTOC in `bytes` says of its layer, a gzip of `blob_bytes`.
///
/// # Errors
/// `Invalid` for what is malformed or does not fit the layer; `Unsupported` for another version or compression, for
/// sparse files and beyond a limit. The layer can be read without it.
pub fn parse(bytes: &[u8], blob_bytes: u64) -> Result<Ztoc> {
    if bytes.len() as u64 > ZTOC_BYTES_MAX {
        return Err(unsupported(format!("it is larger than {ZTOC_BYTES_MAX} bytes (ZTOC_BYTES_MAX)")));
    }
    read(bytes, blob_bytes).map_err(|error| error.context("the SOCI zTOC is not used"))
}

fn read(bytes: &[u8], blob_bytes: u64) -> Result<Ztoc> {
    let ztoc = Table::root(bytes)?;
    let version = ztoc.bytes(0)?;
    if !VERSIONS.contains(&version) {
        return Err(unsupported(format!("its version, {}, is unknown", shown(version))));
    }
    let stated_bytes = number("size of the layer", ztoc.i64(2)?)?;
    if stated_bytes != blob_bytes {
        return Err(invalid(format!(
            "it is of a layer of {stated_bytes} bytes, and this one has {blob_bytes}"
        )));
    }
    let stream_bytes = number("size of the stream", ztoc.i64(3)?)?;
    if stream_bytes > LAYER_STREAM_BYTES_MAX {
        return Err(unsupported(format!(
            "the stream has more than {LAYER_STREAM_BYTES_MAX} bytes (LAYER_STREAM_BYTES_MAX)"
        )));
    }
    let compression = ztoc.table(5)?.ok_or_else(|| invalid("it has no checkpoints"))?;
    if compression.u8(0, GZIP)? != GZIP {
        return Err(unsupported("its layer is not compressed with gzip"));
    }
    let checkpoints::Checkpoints { points, ranges } =
        checkpoints::parse(compression.bytes(3)?, blob_bytes, stream_bytes)?;
    let digests = compression.vector(2)?;
    if digests.count() != ranges.len() || i64::from(compression.i32(1)?) != ranges.len() as i64 - 1 {
        return Err(invalid("it does not have one digest for each span"));
    }
    let mut spans = Vec::with_capacity(ranges.len());
    for (at, range) in ranges.into_iter().enumerate() {
        let text = std::str::from_utf8(digests.bytes(at)?).map_err(|_| invalid("a digest is no text"))?;
        let digest = sha256_of(text)?.ok_or_else(|| unsupported("a digest is not SHA-256"))?;
        spans.push(CompressedSpan { range, digest });
    }
    let metadata = ztoc.table(4)?.map(|toc| toc.vector(0)).transpose()?;
    let (root, entries) = match metadata {
        Some(metadata) => Files::new(bytes).read(metadata, stream_bytes)?,
        None => (None, Vec::new()),
    };
    Ok(Ztoc { stream_bytes, blob_bytes, points, spans, root, members: members_of(&entries), entries })
}

/// The number of gzip in the schema, and its default.
const GZIP: u8 = 1;

/// Reads the entries.
struct Files {
    budget: Budget,
    /// PAX records that may still be looked at. Tables may be shared, so that a small document could have many.
    records_left: usize,
    bodies: Vec<Range<u64>>,
}

impl Files {
    fn new(bytes: &[u8]) -> Self {
        // A record that is not shared takes eight bytes and more.
        Self { budget: Budget::default(), records_left: bytes.len() / 8, bodies: Vec::new() }
    }

    fn read(
        mut self,
        metadata: Vector<'_>,
        stream_bytes: u64,
    ) -> Result<(Option<RootAttributes>, Vec<Entry>)> {
        let (mut root, mut entries) = (None, Vec::new());
        for at in 0..metadata.count() {
            let file = metadata.table(at)?;
            let name = file.bytes(0)?;
            let item = self.item(&file, name, stream_bytes);
            match item.map_err(|error| error.context(format!("entry {} of it", shown(name))))? {
                TarItem::Root(attributes) => root = Some(attributes),
                TarItem::Entry(entry) => entries.push(entry),
            }
        }
        self.check_bodies()?;
        Ok((root, entries))
    }

    fn item(&mut self, file: &Table<'_>, name: &[u8], stream_bytes: u64) -> Result<TarItem> {
        let records = file.vector(13)?;
        self.records_left = self
            .records_left
            .checked_sub(records.count())
            .ok_or_else(|| invalid("its PAX records are those of others again"))?;
        let mut xattrs = Xattrs::default();
        for at in 0..records.count() {
            let record = records.table(at)?;
            let key = record.bytes(0)?;
            if key.starts_with(b"GNU.sparse.") {
                return Err(unsupported("it is sparse, and where its pieces lie is not said"));
            }
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                xattrs.push(name, record.bytes(1)?)?;
            }
        }
        let kind = kind_of(file.bytes(1)?)?;
        let listed = Listed {
            name,
            kind,
            size: file.i64(3)?,
            target: file.bytes(4)?,
            mode: file.i64(5)?,
            uid: i64::from(file.u32(6)?),
            gid: i64::from(file.u32(7)?),
            mtime: std::str::from_utf8(file.bytes(10)?).map_err(|_| invalid("its time is no text"))?,
            major: file.i64(11)?,
            minor: file.i64(12)?,
            xattrs,
        };
        let mut item = listed.into_item()?;
        self.budget.charge(&item)?;
        if let TarItem::Entry(Entry { kind: EntryKind::File { size, extents }, .. }) = &mut item {
            let start = number("offset", file.i64(2)?)?;
            let end = start.checked_add(*size).filter(|end| *end <= stream_bytes);
            let Some(end) = end.filter(|_| start.is_multiple_of(BLOCK_BYTES) && start > 0) else {
                return Err(invalid(format!(
                    "its {size} bytes at {start} lie nowhere in a tar of {stream_bytes} bytes"
                )));
            };
            *extents = Extents::Contiguous { stream_offset: start };
            self.bodies.push(start..end);
        }
        Ok(item)
    }

    /// Checks that there is room for a header before each file.
    fn check_bodies(&mut self) -> Result<()> {
        self.bodies.sort_unstable_by_key(|body| (body.start, body.end));
        let mut free = 0_u64;
        for body in &self.bodies {
            if free.checked_add(BLOCK_BYTES).is_none_or(|least| body.start < least) {
                return Err(invalid(format!("two files overlap at {} of the tar", body.start)));
            }
            free = body.end.next_multiple_of(BLOCK_BYTES);
        }
        Ok(())
    }
}

fn kind_of(text: &[u8]) -> Result<Kind> {
    Ok(match text {
        b"reg" => Kind::Reg,
        b"dir" => Kind::Dir,
        b"symlink" => Kind::Symlink,
        b"hardlink" => Kind::Hardlink,
        b"char" => Kind::Char,
        b"block" => Kind::Block,
        b"fifo" => Kind::Fifo,
        other => return Err(invalid(format!("its type, {}, is unknown", shown(other)))),
    })
}

impl From<Damaged> for Error {
    fn from(_: Damaged) -> Self {
        invalid("it is no flatbuffer of its schema")
    }
}

fn unsupported(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, why)
}
