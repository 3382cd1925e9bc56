//! Stored layer indexes: whatever opens answers every question, in order and within the layer.

use bytes::Bytes;
use refmount::base::{Algorithm, Digest, ErrorKind, RelPath};
use refmount::layer::{EntryKind, EntryRef, Extents, LayerIndex, LayerStream};

use super::restart_table;
use super::spans;
use super::splits::Splits;

/// The layer that all inputs are opened for.
#[must_use]
pub fn layer() -> Digest {
    Digest::of(Algorithm::Sha256, b"layer")
}

/// Opens `data` as the stored index of [`layer`].
pub fn check(data: &[u8]) {
    let index = match LayerIndex::decode(Bytes::copy_from_slice(data), &layer()) {
        Ok(index) => index,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            return;
        }
    };
    assert_eq!(index.layer(), &layer());
    assert_eq!(index.bytes(), data, "another encoding was opened");
    let other = Digest::of(Algorithm::Sha256, b"other");
    assert!(LayerIndex::decode(Bytes::copy_from_slice(data), &other).is_err(), "it is another layer's, too");
    assert_eq!(index.is_empty(), (0..index.len()).next().is_none());
    let stream_bytes = index.stream_bytes();
    let _ = (index.diff_id(), index.root(), index.warnings(), index.carried(), index.is_trusted());
    match index.stream() {
        LayerStream::Plain => assert_eq!(stream_bytes, index.blob_bytes()),
        LayerStream::Spans(table) => {
            assert_eq!((table.blob_bytes(), table.stream_bytes()), (index.blob_bytes(), stream_bytes));
            spans::check_table(table);
        }
        LayerStream::Restart(table) => {
            assert_eq!((table.compressed_bytes(), table.stream_bytes()), (index.blob_bytes(), stream_bytes));
            restart_table::check_table(table, &mut Splits::of(data));
        }
    }
    check_entries(&index);
    let mut before = 0;
    for member in (0..index.member_count()).map(|at| index.member(at)) {
        assert!(member.bytes > 0 && member.stream_offset >= before, "{member:?} after {before}");
        before = member.stream_offset.checked_add(member.bytes).unwrap();
        assert!(before <= stream_bytes, "{member:?}");
    }
}

fn check_entries(index: &LayerIndex) {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let mut before: Option<EntryRef<'_>> = None;
    for at in 0..index.len() {
        let entry = index.entry(at);
        assert_eq!((index.path(at), index.find(entry.path)), (entry.path, Some(at)));
        assert_eq!(RelPath::parse(entry.path).unwrap().as_bytes(), entry.path);
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000, "{entry:?}");
        assert!(entry.xattrs.is_sorted_by(|a, b| a.name < b.name), "{entry:?}");
        if let Some(before) = &before {
            assert!(before.path.iter().map(rank).lt(entry.path.iter().map(rank)), "{before:?}, {entry:?}");
        }
        if let EntryKind::File { size, extents } = &entry.kind {
            check_extents(*size, extents, index.stream_bytes());
        }
        before = Some(entry);
    }
}

/// What a file's extents say is within the file and within the stream.
pub(crate) fn check_extents(size: u64, extents: &Extents, stream_bytes: u64) {
    match extents {
        Extents::Contiguous { stream_offset } => {
            let end = stream_offset.checked_add(size);
            assert!(end.is_some_and(|end| end <= stream_bytes), "{size} {extents:?} of {stream_bytes}");
        }
        Extents::Sparse(extents) => {
            let mut after = None;
            for extent in extents.iter() {
                assert!(
                    extent.length > 0 && after.is_none_or(|after| extent.file_offset >= after),
                    "{extents:?}"
                );
                after = extent.file_offset.checked_add(extent.length);
                let end = extent.stream_offset.checked_add(extent.length);
                assert!(after.is_some_and(|end| end <= size), "{extents:?} of {size}");
                assert!(end.is_some_and(|end| end <= stream_bytes), "{extents:?} in {stream_bytes}");
            }
        }
    }
}
