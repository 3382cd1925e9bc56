//! The opening of an index: where its sections lie, and one pass over all records, after which each of them holds
//! what its reader assumes.
//!
//! What is wrong comes back as a text; the callers know whether it was stored or is being made. Nothing is allocated
//! but what the index keeps, and the pass is linear in the bytes whatever they are: records refer to what lies beside
//! them in their order, so that nothing is looked at twice.

use std::ops::Range;

use bytes::Bytes;

use super::record::{
    ATTRIBUTES_BYTES, AttributesRecord, ENTRY_BYTES, EXTENT_BYTES, EntryRecord, FLAG_CARRIED, FLAG_DIFF_ID,
    FLAG_ROOT, FLAG_TRUSTED, FLAGS, HEADER_BYTES, Kind, MAGIC, MEMBER_RECORD_BYTES, VERSION, extent, i64_at,
    next_xattr, u32_at, u64_at,
};
use super::{LayerIndex, LayerStream, RootAttributes, Sections, Timestamp, paths};
use crate::base::Digest;

type Result<T> = std::result::Result<T, String>;

const PERMISSIONS_MAX: u32 = 0o7777;
const SECOND_NANOSECONDS: u32 = 1_000_000_000;

/// Opens the index of `layer`; or says what is wrong with it.
pub(super) fn open(bytes: Bytes, layer: &Digest) -> Result<LayerIndex> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or("no header")?;
    if header[..8] != MAGIC || u32_at(header, 8) != VERSION {
        return Err("another format or version".to_owned());
    }
    let flags = u32_at(header, 12);
    if flags & !FLAGS != 0 || u32_at(header, 116) != 0 {
        return Err("unknown flags".to_owned());
    }
    let mut cut = Cut { at: HEADER_BYTES, end: bytes.len() };
    let texts = cut.take(u64_at(header, 32), 1)?;
    let sections = Sections {
        members: cut.take(u64_at(header, 40), MEMBER_RECORD_BYTES)?,
        attributes: cut.take(u64_at(header, 48), ATTRIBUTES_BYTES)?,
        xattrs: cut.take(u64_at(header, 56), 1)?,
        entries: cut.take(u64_at(header, 64), ENTRY_BYTES)?,
        side: cut.take(u64_at(header, 72), 1)?,
        names: cut.take(u64_at(header, 80), 1)?,
    };
    let stream = cut.take(u64_at(header, 88), 1)?;
    if cut.at != bytes.len() {
        return Err("bytes after the end".to_owned());
    }
    let (blob_bytes, stream_bytes) = (u64_at(header, 16), u64_at(header, 24));
    let texts = Texts::read(&bytes[texts], flags)?;
    if texts.layer != *layer {
        return Err(format!("it is that of {}", texts.layer));
    }
    let stream = LayerStream::decode(u32_at(header, 96), bytes.slice(stream), blob_bytes, stream_bytes)?;
    let root = Root {
        attributes: u32_at(header, 100),
        mtime: Timestamp { seconds: i64_at(header, 104), nanoseconds: u32_at(header, 112) },
    };
    let mut index = LayerIndex {
        layer: texts.layer,
        blob_bytes,
        stream_bytes,
        diff_id: texts.diff_id,
        carried: texts.carried,
        trusted: flags & FLAG_TRUSTED != 0,
        warnings: texts.warnings,
        stream,
        root: None,
        sections,
        bytes,
    };
    check_members(&index)?;
    check_attributes(&index)?;
    check_entries(&index)?;
    index.root = root.of(&index, flags & FLAG_ROOT != 0)?;
    Ok(index)
}

/// Cuts sections off the bytes up to `end`.
struct Cut {
    at: usize,
    end: usize,
}

impl Cut {
    /// The next `count` records of `record_bytes`.
    fn take(&mut self, count: u64, record_bytes: usize) -> Result<Range<usize>> {
        let end = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(record_bytes))
            .and_then(|bytes| bytes.checked_add(self.at))
            .filter(|end| *end <= self.end)
            .ok_or("it is cut short")?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }
}

struct Texts {
    layer: Digest,
    diff_id: Option<Digest>,
    carried: Option<String>,
    warnings: Vec<String>,
}

impl Texts {
    fn read(mut rest: &[u8], flags: u32) -> Result<Self> {
        let mut next = || -> Result<Option<&str>> {
            if rest.is_empty() {
                return Ok(None);
            }
            let (length, after) = rest.split_first_chunk::<4>().ok_or("a text is cut short")?;
            let (text, after) =
                after.split_at_checked(u32_at(length, 0) as usize).ok_or("a text is cut short")?;
            rest = after;
            std::str::from_utf8(text).map(Some).map_err(|_| "a text is no text".to_owned())
        };
        let [layer, diff_id, carried] = [next()?, next()?, next()?].map(Option::unwrap_or_default);
        let digest = |text: &str| text.parse::<Digest>().map_err(|error| error.to_string());
        let layer = digest(layer)?;
        let known = |text: &str, flag: u32| match (flags & flag != 0, text.is_empty()) {
            (false, false) => Err("a text that the flags deny".to_owned()),
            (is_known, _) => Ok(is_known),
        };
        let diff_id = if known(diff_id, FLAG_DIFF_ID)? { Some(digest(diff_id)?) } else { None };
        let carried = known(carried, FLAG_CARRIED)?.then(|| carried.to_owned());
        let mut warnings = Vec::new();
        while let Some(warning) = next()? {
            warnings.push(warning.to_owned());
        }
        Ok(Self { layer, diff_id, carried, warnings })
    }
}

/// The root as the header has it.
struct Root {
    attributes: u32,
    mtime: Timestamp,
}

impl Root {
    fn of(&self, index: &LayerIndex, is_described: bool) -> Result<Option<RootAttributes>> {
        let mtime = self.mtime;
        if !is_described {
            let is_zero = self.attributes == 0 && mtime == Timestamp::default();
            return if is_zero { Ok(None) } else { Err("a root that the flags deny".to_owned()) };
        }
        let attributes = index.attributes_of(self.attributes);
        if attributes.kind != Kind::Directory || mtime.nanoseconds >= SECOND_NANOSECONDS {
            return Err("a root that is no directory".to_owned());
        }
        Ok(Some(RootAttributes {
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime,
            xattrs: attributes.xattrs(),
        }))
    }
}

fn check_members(index: &LayerIndex) -> Result<()> {
    let mut end = 0;
    for at in 0..index.member_count() {
        let member = index.member(at);
        if member.stream_offset < end || member.bytes == 0 {
            return Err(format!("member {at} is empty or out of order"));
        }
        end = end_within(member.stream_offset, member.bytes, index.stream_bytes)
            .ok_or_else(|| format!("member {at} reaches beyond the stream"))?;
    }
    Ok(())
}

fn check_attributes(index: &LayerIndex) -> Result<()> {
    let xattrs = &index.bytes[index.sections.xattrs.clone()];
    let mut start = 0;
    for (at, record) in index.attributes().iter().map(AttributesRecord).enumerate() {
        let wrong = |what: &str| format!("attributes {at} with {what}");
        if record.kind().is_none() || record.spare() != 0 || record.mode() > PERMISSIONS_MAX {
            return Err(wrong("an unknown kind or mode"));
        }
        let mut rest = xattrs.get(start..record.xattrs_end()).ok_or_else(|| wrong("xattrs out of order"))?;
        start = record.xattrs_end();
        let mut before: &[u8] = &[];
        while !rest.is_empty() {
            let (name, _) = next_xattr(&mut rest).ok_or_else(|| wrong("an xattr that is cut short"))?;
            // The first one too must have a name.
            if name <= before || name.contains(&0) {
                return Err(wrong("xattrs that are not in the order of their names"));
            }
            before = name;
        }
    }
    if start == xattrs.len() { Ok(()) } else { Err("xattrs of nothing".to_owned()) }
}

fn check_entries(index: &LayerIndex) -> Result<()> {
    let names = index.names();
    if !paths::are_plain(names) {
        return Err("a path that is none".to_owned());
    }
    let mut side = 0;
    // Where the slash before the next path stands.
    let mut slash = 0;
    let mut before: &[u8] = &[];
    for (at, record) in index.entries().iter().map(EntryRecord).enumerate() {
        let end = record.path_end();
        let path = names.get(slash + 1..end).unwrap_or_default();
        if names.get(end) != Some(&b'/') || path.is_empty() || !paths::fits(path) {
            return Err(format!("entry {at} has a path that is none"));
        }
        // An empty one comes before all of them.
        if paths::order(before, path).is_ge() {
            return Err(format!("entry {at} is out of order"));
        }
        before = path;
        slash = end;
        side = check_entry(index, &record, side).map_err(|what| format!("entry {at} {what}"))?;
    }
    if slash + 1 != names.len() || side != index.sections.side.len() as u64 {
        return Err("names or side data of nothing".to_owned());
    }
    Ok(())
}

/// Checks the record whose side data, if it has any, begin at `side`; says where they end.
fn check_entry(
    index: &LayerIndex,
    record: &EntryRecord<'_>,
    side: u64,
) -> std::result::Result<u64, &'static str> {
    let kind = usize::try_from(record.attributes()).ok().and_then(|at| index.attributes().get(at));
    let kind = kind.and_then(|record| AttributesRecord(record).kind()).ok_or("has no attributes")?;
    if record.mtime().nanoseconds >= SECOND_NANOSECONDS {
        return Err("has a time that is none");
    }
    let (size, place) = (record.size(), record.place());
    let (is_right, end) = match kind {
        Kind::File => (end_within(place, size, index.stream_bytes).is_some(), side),
        Kind::SparseFile => {
            let extents = index.side_extents(side).ok_or("has extents that are cut short")?;
            let end = side + 8 + (extents.len() * EXTENT_BYTES) as u64;
            (place == side && are_extents(extents, size, index.stream_bytes), end)
        }
        Kind::Symlink | Kind::HardLink => {
            index.side(side, size).ok_or("has a target that is cut short")?;
            (place == side, side + size)
        }
        Kind::CharDevice | Kind::BlockDevice => (place == 0, side),
        Kind::Directory | Kind::Fifo => (place == 0 && size == 0, side),
    };
    if is_right { Ok(end) } else { Err("has bytes that lie nowhere, out of order or beyond the stream") }
}

fn are_extents(extents: &[[u8; EXTENT_BYTES]], file_bytes: u64, stream_bytes: u64) -> bool {
    let mut end = 0;
    extents.iter().map(extent).all(|extent| {
        let follows = extent.file_offset >= end && extent.length > 0;
        let in_stream = end_within(extent.stream_offset, extent.length, stream_bytes).is_some();
        match end_within(extent.file_offset, extent.length, file_bytes) {
            Some(own_end) if follows && in_stream => {
                end = own_end;
                true
            }
            _ => false,
        }
    })
}

/// The end of `bytes` bytes at `start`, if it is not beyond `bytes_max`.
fn end_within(start: u64, bytes: u64, bytes_max: u64) -> Option<u64> {
    start.checked_add(bytes).filter(|end| *end <= bytes_max)
}
