//! What every table of contents must come to, whoever wrote it.

use refmount::base::{ErrorKind, RelPath};
use refmount::layer::spans::SpanTable;
use refmount::layer::toc::Toc;
use refmount::layer::{Entry, EntryKind, MEMBER_BYTES_MIN, Member};

use super::layer_index::check_extents;
use super::spans;

/// Bytes of the blob that documents are taken to be of.
pub(crate) const BLOB_BYTES: u64 = 8 << 20;

/// Where in it the contents end.
pub(crate) const PAYLOAD_BYTES: u64 = 7 << 20;

pub(crate) fn check_refusal(error: &refmount::base::Error) {
    let kind = error.kind();
    assert!(
        matches!(kind, ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Corrupt),
        "{kind:?}: {error}"
    );
}

pub(crate) fn check(toc: &Toc) {
    assert_eq!(toc.stream_bytes, toc.spans.stream_bytes());
    check_spans(&toc.spans);
    check_entries(&toc.entries, toc.stream_bytes);
    check_members(&toc.members, toc.stream_bytes);
}

fn check_spans(table: &SpanTable) {
    spans::check_table(table);
    for span in table.spans() {
        assert!(span.compressed_range().end <= PAYLOAD_BYTES, "{span:?} is beyond the contents");
    }
}

/// Every entry can be served from a stream of `stream_bytes`.
pub(crate) fn check_entries(entries: &[Entry], stream_bytes: u64) {
    for entry in entries {
        assert_eq!(RelPath::parse(entry.path.as_bytes()).unwrap(), entry.path);
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000, "{entry:?}");
        assert!(entry.xattrs.is_sorted_by(|a, b| a.name < b.name), "{entry:?}");
        match &entry.kind {
            EntryKind::File { size, extents } => check_extents(*size, extents, stream_bytes),
            EntryKind::Symlink { target } | EntryKind::HardLink { target } => {
                assert!(!target.is_empty() && !target.contains(&0), "{entry:?}");
            }
            _ => {}
        }
    }
}

/// Members lie one after the other.
pub(crate) fn check_members(members: &[Member], stream_bytes: u64) {
    let mut before = 0;
    for member in members {
        assert!(
            member.bytes >= MEMBER_BYTES_MIN && member.stream_offset >= before,
            "{member:?} after {before}"
        );
        before = member.stream_offset.checked_add(member.bytes).unwrap();
        assert!(before <= stream_bytes, "{member:?} of {stream_bytes}");
    }
}
