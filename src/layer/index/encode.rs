//! The making of an index's bytes.
//!
//! A million entries take more memory than their encoding; so that nothing else of that size is needed beside the
//! two, entries are put in order by their numbers, the sizes of all sections are known before the first byte is
//! written, and each section goes straight to its place.

use std::collections::HashMap;

use super::record::{
    ATTRIBUTES_BYTES, ATTRIBUTES_MAX, ENTRY_BYTES, EXTENT_BYTES, FLAG_CARRIED, FLAG_DIFF_ID, FLAG_ROOT,
    FLAG_TRUSTED, HEADER_BYTES, Kind, MAGIC, MEMBER_RECORD_BYTES, SECONDS, VERSION,
};
use super::{Entry, EntryKind, Error, ErrorKind, Extents, IndexParts, Result, Timestamp, Xattr, paths};
use crate::base::limits::ARCHIVE_ENTRIES_MAX;
use crate::base::{Digest, ResultExt as _};

/// The bytes of the index of `parts`. What they say is not checked.
///
/// # Errors
/// `Unsupported` beyond a limit; `Invalid` for what has no place in a record.
pub(super) fn encode(parts: IndexParts) -> Result<Vec<u8>> {
    encode_parts(&parts).context(|| format!("cannot index layer {}", parts.layer))
}

fn encode_parts(parts: &IndexParts) -> Result<Vec<u8>> {
    let entries = in_order(&parts.entries)?;
    let mut attributes = AttributesTable::default();
    let mut attributes_of = Vec::with_capacity(entries.len());
    for entry in entries.iter() {
        let kind = Kind::of(&entry.kind);
        attributes_of.push(attributes.place(kind, entry.mode, entry.uid, entry.gid, &entry.xattrs)?);
    }
    let root = match &parts.root {
        Some(root) => attributes.place(Kind::Directory, root.mode, root.uid, root.gid, &root.xattrs)?,
        None => 0,
    };
    let texts = texts(parts)?;
    let side_bytes = entries.iter().try_fold(0, |sum: u64, entry| sum.checked_add(side_bytes(&entry.kind)));
    let names_bytes: u64 =
        1 + entries.iter().map(|entry| entry.path.as_bytes().len() as u64 + 1).sum::<u64>();
    let side_bytes = side_bytes.ok_or_else(|| too_much("link targets and extents"))?;
    if names_bytes > u32::MAX.into() {
        return Err(too_much("paths"));
    }
    let stream = parts.stream.encoding();

    let mut bytes = Vec::with_capacity(
        HEADER_BYTES
            + texts.len()
            + parts.members.len() * MEMBER_RECORD_BYTES
            + attributes.records.len()
            + attributes.xattrs.len()
            + entries.len() * ENTRY_BYTES
            + usize::try_from(side_bytes + names_bytes).unwrap_or_default()
            + stream.len(),
    );
    let mtime = parts.root.as_ref().map(|root| clamped(root.mtime)).unwrap_or_default();
    bytes.extend_from_slice(&MAGIC);
    put(&mut bytes, [VERSION, flags(parts)]);
    put(&mut bytes, [parts.blob_bytes, parts.stream_bytes, texts.len() as u64, parts.members.len() as u64]);
    put(&mut bytes, [(attributes.records.len() / ATTRIBUTES_BYTES) as u64, attributes.xattrs.len() as u64]);
    put(&mut bytes, [entries.len() as u64, side_bytes, names_bytes, stream.len() as u64]);
    put(&mut bytes, [parts.stream.number(), root]);
    put(&mut bytes, [mtime.seconds.cast_unsigned()]);
    put(&mut bytes, [mtime.nanoseconds, 0]);
    bytes.extend_from_slice(&texts);
    for member in &parts.members {
        put(&mut bytes, [member.stream_offset, member.bytes]);
    }
    bytes.extend_from_slice(&attributes.records);
    bytes.extend_from_slice(&attributes.xattrs);
    put_records(&mut bytes, &entries, &attributes_of);
    entries.iter().for_each(|entry| put_side(&mut bytes, &entry.kind));
    bytes.push(b'/');
    for entry in entries.iter() {
        bytes.extend_from_slice(entry.path.as_bytes());
        bytes.push(b'/');
    }
    bytes.extend_from_slice(stream);
    Ok(bytes)
}

/// Entries in the order of their paths, each path once.
struct InOrder<'a> {
    entries: &'a [Entry],
    numbers: Vec<u32>,
}

impl<'a> InOrder<'a> {
    fn iter(&self) -> impl Iterator<Item = &'a Entry> {
        self.numbers.iter().map(|number| &self.entries[*number as usize])
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }
}

fn in_order(entries: &[Entry]) -> Result<InOrder<'_>> {
    let count = u32::try_from(entries.len()).ok().filter(|count| u64::from(*count) <= ARCHIVE_ENTRIES_MAX);
    let Some(count) = count else {
        let text =
            format!("{} entries are more than {ARCHIVE_ENTRIES_MAX} (ARCHIVE_ENTRIES_MAX)", entries.len());
        return Err(Error::new(ErrorKind::Unsupported, text));
    };
    let path = |number: u32| entries[number as usize].path.as_bytes();
    let mut numbers: Vec<u32> = (0..count).collect();
    // Those of one path stay in the order in which they came, and the last of them stays.
    numbers.sort_by(|a, b| paths::order(path(*a), path(*b)));
    numbers.dedup_by(|later, kept| {
        let same = path(*later) == path(*kept);
        if same {
            *kept = *later;
        }
        same
    });
    Ok(InOrder { entries, numbers })
}

/// Attributes, each combination once.
#[derive(Default)]
struct AttributesTable<'a> {
    known: HashMap<(Kind, u32, u32, u32, &'a [Xattr]), u32>,
    records: Vec<u8>,
    xattrs: Vec<u8>,
}

impl<'a> AttributesTable<'a> {
    /// Their place.
    fn place(&mut self, kind: Kind, mode: u32, uid: u32, gid: u32, xattrs: &'a [Xattr]) -> Result<u32> {
        let key = (kind, mode, uid, gid, xattrs);
        if let Some(place) = self.known.get(&key) {
            return Ok(*place);
        }
        let permissions = u16::try_from(mode)
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("{mode:#o} are no permission bits")))?;
        for xattr in xattrs {
            let name = u16::try_from(xattr.name.len()).map_err(|_| too_much("an xattr's name"))?;
            let value = u32::try_from(xattr.value.len()).map_err(|_| too_much("an xattr's value"))?;
            self.xattrs.extend_from_slice(&name.to_le_bytes());
            put(&mut self.xattrs, [value]);
            self.xattrs.extend_from_slice(&xattr.name);
            self.xattrs.extend_from_slice(&xattr.value);
        }
        let end = u32::try_from(self.xattrs.len()).map_err(|_| too_much("extended attributes"))?;
        let place = u32::try_from(self.known.len()).ok().filter(|place| *place < ATTRIBUTES_MAX);
        let place = place.ok_or_else(|| too_much("attributes"))?;
        self.records.extend_from_slice(&[kind as u8, 0]);
        self.records.extend_from_slice(&permissions.to_le_bytes());
        put(&mut self.records, [uid, gid, end]);
        self.known.insert(key, place);
        Ok(place)
    }
}

fn texts(parts: &IndexParts) -> Result<Vec<u8>> {
    let diff_id = parts.diff_id.as_ref().map_or("", Digest::as_str);
    let own = [parts.layer.as_str(), diff_id, parts.carried.as_deref().unwrap_or_default()];
    let mut bytes = Vec::new();
    for text in own.into_iter().chain(parts.warnings.iter().map(String::as_str)) {
        put(&mut bytes, [u32::try_from(text.len()).map_err(|_| too_much("a warning"))?]);
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(bytes)
}

fn flags(parts: &IndexParts) -> u32 {
    let flag = |is: bool, flag: u32| if is { flag } else { 0 };
    flag(parts.trusted, FLAG_TRUSTED)
        | flag(parts.diff_id.is_some(), FLAG_DIFF_ID)
        | flag(parts.carried.is_some(), FLAG_CARRIED)
        | flag(parts.root.is_some(), FLAG_ROOT)
}

fn put_records(bytes: &mut Vec<u8>, entries: &InOrder<'_>, attributes: &[u32]) {
    // Both sums were made before.
    let (mut path_end, mut side) = (0, 0);
    for (entry, attributes) in entries.iter().zip(attributes) {
        path_end += 1 + entry.path.as_bytes().len();
        let (size, place) = match &entry.kind {
            EntryKind::File { size, extents: Extents::Contiguous { stream_offset } } => {
                (*size, *stream_offset)
            }
            EntryKind::File { size, extents: Extents::Sparse(_) } => (*size, side),
            EntryKind::Symlink { target } | EntryKind::HardLink { target } => (target.len() as u64, side),
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                (u64::from(*major) << 32 | u64::from(*minor), 0)
            }
            EntryKind::Directory | EntryKind::Fifo => (0, 0),
        };
        side += side_bytes(&entry.kind);
        put(bytes, [u32::try_from(path_end).unwrap_or(u32::MAX)]);
        put(bytes, [size, place]);
        bytes.extend_from_slice(&clamped(entry.mtime).seconds.to_le_bytes()[..5]);
        put(bytes, [entry.mtime.nanoseconds]);
        bytes.extend_from_slice(&attributes.to_le_bytes()[..3]);
    }
}

/// The nearest time that a record holds: what a file system does with one beyond its own.
fn clamped(time: Timestamp) -> Timestamp {
    Timestamp { seconds: time.seconds.clamp(*SECONDS.start(), *SECONDS.end()), ..time }
}

fn side_bytes(kind: &EntryKind) -> u64 {
    match kind {
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => target.len() as u64,
        EntryKind::File { extents: Extents::Sparse(extents), .. } => {
            8 + extents.len() as u64 * EXTENT_BYTES as u64
        }
        _ => 0,
    }
}

fn put_side(bytes: &mut Vec<u8>, kind: &EntryKind) {
    match kind {
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => bytes.extend_from_slice(target),
        EntryKind::File { extents: Extents::Sparse(extents), .. } => {
            put(bytes, [extents.len() as u64]);
            for extent in extents.iter() {
                put(bytes, [extent.file_offset, extent.stream_offset, extent.length]);
            }
        }
        _ => {}
    }
}

/// A number of the encoding.
trait Number {
    fn append_to(self, bytes: &mut Vec<u8>);
}

impl Number for u32 {
    fn append_to(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }
}

impl Number for u64 {
    fn append_to(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }
}

fn put<N: Number>(bytes: &mut Vec<u8>, numbers: impl IntoIterator<Item = N>) {
    numbers.into_iter().for_each(|number| number.append_to(bytes));
}

fn too_much(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} beyond what one layer's index holds"))
}
