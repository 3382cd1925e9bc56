//! The tar reader: the same entries in any pieces and with bodies skipped, whose extents lie in their own bodies.

use refmount::base::limits::{
    ARCHIVE_ENTRIES_MAX, BLOB_BYTES_MAX, PATH_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use refmount::base::{ErrorKind, RelPath};
use refmount::layer::tar::{BLOCK_BYTES, TarEnd, TarItem, TarReader};
use refmount::layer::{EntryKind, Extents, Xattr};

use super::splits::Splits;

/// An item with the stream offsets at which its headers and its body end.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    item: TarItem,
    headers_end: u64,
    body_end: u64,
}

/// All that a reader says: the items, and the end or the error with its text.
type Reading = (Vec<Read>, Result<TarEnd, (ErrorKind, String)>);

/// Reads `data` as one archive, in several ways.
pub fn check(data: &[u8]) {
    let whole = read(data, |_, _| Step::Feed(usize::MAX));
    check_items(data.len() as u64, &whole);
    let mut splits = Splits::of(data);
    let pieces = read(data, |_, _| Step::Feed(splits.length()));
    assert_eq!(pieces, whole, "pieces change what is read");
    let skipped = read(data, |_, body_left| Step::Skip(body_left));
    assert_eq!(skipped, whole, "skipped bodies change what is read");
    let mixed = read(data, |_, body_left| match splits.below(2) {
        0 => Step::Feed(splits.length()),
        _ => Step::Skip(splits.below(body_left.saturating_add(1))),
    });
    assert_eq!(mixed, whole, "bodies that are skipped in part change what is read");
}

/// What a driver does next.
enum Step {
    /// Feeds at most so many bytes.
    Feed(usize),
    /// Skips so many bytes of the body, or feeds all there is where there is no body.
    Skip(u64),
}

/// Drives a reader through `data`, as `next` says at each offset with so many bytes of a body left.
fn read(data: &[u8], mut next: impl FnMut(usize, u64) -> Step) -> Reading {
    let mut reader = TarReader::new();
    let mut items = Vec::new();
    let mut at = 0;
    while at < data.len() {
        assert_eq!(reader.stream_offset(), at as u64);
        let body_left = reader.body_left();
        let rest = &data[at..];
        let length = match next(at, body_left) {
            Step::Skip(bytes) if body_left > 0 => {
                let bytes = bytes.min(rest.len() as u64);
                reader.skip(bytes).unwrap();
                assert_eq!(reader.body_left(), body_left - bytes);
                at += bytes as usize;
                continue;
            }
            Step::Skip(_) => rest.len(),
            Step::Feed(length) => length.min(rest.len()),
        };
        assert_eq!(reader.skip(body_left.saturating_add(1)).map_err(|error| error.kind()), beyond(body_left));
        let fed = match reader.feed(&rest[..length]) {
            Ok(fed) => fed,
            Err(error) => {
                // It stays.
                assert_eq!(reader.feed(rest).unwrap_err().chain(), error.chain());
                assert_eq!(reader.finish().unwrap_err().chain(), error.chain());
                return (items, Err((error.kind(), error.chain())));
            }
        };
        at += fed.taken;
        match fed.item {
            None => assert_eq!(fed.taken, length, "bytes are left though there is no item"),
            Some(item) => {
                let headers_end = reader.stream_offset();
                items.push(Read { item, headers_end, body_end: headers_end + reader.body_left() });
            }
        }
    }
    let end = reader.finish().map_err(|error| (error.kind(), error.chain()));
    assert!(matches!(end, Ok(TarEnd::Marked)) == (reader.has_ended() && end.is_ok()), "{end:?}");
    (items, end)
}

/// What skipping one byte more than `body_left` comes to.
fn beyond(body_left: u64) -> Result<(), ErrorKind> {
    if body_left == u64::MAX { Ok(()) } else { Err(ErrorKind::Usage) }
}

fn check_items(bytes: u64, (items, end): &Reading) {
    assert!(items.len() as u64 <= ARCHIVE_ENTRIES_MAX);
    let mut before = 0;
    for (index, read) in items.iter().enumerate() {
        let Read { item, headers_end, body_end } = read;
        assert!(*headers_end >= before + BLOCK_BYTES, "headers in the body before them: {read:?}");
        assert!(headers_end.is_multiple_of(BLOCK_BYTES) && body_end.is_multiple_of(BLOCK_BYTES), "{read:?}");
        assert!(*body_end <= BLOB_BYTES_MAX, "{read:?}");
        // Only the last one can be cut short.
        assert!(index + 1 == items.len() && end.is_err() || *body_end <= bytes, "{read:?}");
        check_item(item, *headers_end, *body_end);
        before = *body_end;
    }
    if let Err((kind, text)) = end {
        assert!(matches!(kind, ErrorKind::Invalid | ErrorKind::Unsupported), "{kind:?}: {text}");
    }
}

fn check_item(item: &TarItem, headers_end: u64, body_end: u64) {
    let (mode, mtime, xattrs) = match item {
        TarItem::Root(root) => {
            assert_eq!(headers_end, body_end, "the root has a body");
            (root.mode, root.mtime, &root.xattrs)
        }
        TarItem::Entry(entry) => {
            assert_eq!(RelPath::parse(entry.path.as_bytes()).unwrap(), entry.path);
            check_kind(&entry.kind, headers_end, body_end);
            (entry.mode, entry.mtime, &entry.xattrs)
        }
    };
    assert!(mode <= 0o7777 && mtime.nanoseconds < 1_000_000_000, "{item:?}");
    assert!(xattrs.is_sorted_by(|a, b| a.name < b.name), "{item:?}");
    for Xattr { name, value } in xattrs {
        assert!(!name.is_empty() && !name.contains(&0) && name.len() <= XATTR_NAME_BYTES_MAX, "{item:?}");
        assert!(value.len() <= XATTR_VALUE_BYTES_MAX, "{item:?}");
    }
}

fn check_kind(kind: &EntryKind, headers_end: u64, body_end: u64) {
    match kind {
        EntryKind::File { size, extents } => check_extents(*size, extents, headers_end, body_end),
        _ => assert_eq!(headers_end, body_end, "no file, and has a body: {kind:?}"),
    }
    if let EntryKind::Symlink { target } | EntryKind::HardLink { target } = kind {
        assert!(!target.is_empty() && !target.contains(&0) && target.len() <= PATH_BYTES_MAX, "{kind:?}");
    }
}

/// The extents cover exactly the body, but for what fills up its last block, and no byte of the file twice.
fn check_extents(size: u64, extents: &Extents, body_start: u64, body_end: u64) {
    assert!(size <= BLOB_BYTES_MAX);
    let stored_end = match extents {
        Extents::Contiguous { stream_offset } => {
            assert_eq!(*stream_offset, body_start);
            body_start.checked_add(size).unwrap()
        }
        Extents::Sparse(extents) => {
            let (mut stream_offset, mut after) = (body_start, None);
            for extent in extents.iter() {
                assert!(extent.length > 0 && extent.stream_offset == stream_offset, "{extents:?}");
                assert!(after.is_none_or(|after| extent.file_offset > after), "{extents:?}");
                after = extent.file_offset.checked_add(extent.length);
                assert!(after.is_some_and(|end| end <= size), "{extents:?} of {size}");
                stream_offset = stream_offset.checked_add(extent.length).unwrap();
            }
            stream_offset
        }
    };
    assert_eq!(stored_end.next_multiple_of(BLOCK_BYTES), body_end, "{size} {extents:?}");
}
