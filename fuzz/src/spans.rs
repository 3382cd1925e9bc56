//! Stored tables of spans: whatever opens answers every question within the layer, and is what a builder makes.

use bytes::Bytes;
use refmount::base::ErrorKind;
use refmount::layer::spans::{Span, SpanTable, SpanTableBuilder};

/// Opens `data` as a stored table.
pub fn check(data: &[u8]) {
    match SpanTable::decode(Bytes::copy_from_slice(data)) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        Ok(table) => {
            assert_eq!(table.bytes(), data);
            check_table(&table);
        }
    }
}

/// Checks all that `table` says of itself.
pub(crate) fn check_table(table: &SpanTable) {
    let spans: Vec<Span> = table.spans().collect();
    assert_eq!(spans.len(), table.count());
    assert!(table.get(spans.len()).is_none());
    let mut before = 0;
    for (at, span) in spans.iter().enumerate() {
        assert!(span.stream_offset == before && span.bytes > 0, "{span:?} after {before}");
        before = span.stream_offset.checked_add(span.bytes).unwrap();
        let compressed = span.compressed_range();
        assert!(compressed.start < compressed.end && compressed.end <= table.blob_bytes(), "{span:?}");
        assert!(span.codec.is_some() || span.skip + span.bytes <= span.compressed_bytes, "{span:?}");
        assert_eq!(table.get(at).as_ref(), Some(span));
        assert_eq!(table.nearest(span.stream_offset).as_ref(), Some(span));
        assert_eq!(table.nearest(before - 1).as_ref(), Some(span));
        assert!(table.spans_of(&span.stream_range()).eq([span.clone()]));
    }
    assert_eq!(before, table.stream_bytes());
    assert!(table.nearest(before).is_none() && table.nearest(u64::MAX).is_none());
    assert!(table.spans_of(&(0..u64::MAX)).eq(spans.iter().cloned()));
    let mut builder = SpanTableBuilder::new();
    let pushed = spans.iter().all(|span| builder.push(span).is_ok());
    // A stored table may go beyond what is made.
    if pushed {
        assert!(builder.finish(table.blob_bytes()).unwrap() == *table, "another encoding was opened");
    }
}
