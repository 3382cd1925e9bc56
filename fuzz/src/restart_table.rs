//! Stored restart points: whatever opens answers every question within the layer, and is what a builder makes.

use bytes::Bytes;
use refmount::base::ErrorKind;
use refmount::layer::decoder::Decoder;
use refmount::layer::restart::{
    RestartPoint, RestartState, RestartTable, RestartTableBuilder, WINDOW_BYTES_MAX,
};

use super::splits::Splits;

/// Points whose windows are unpacked, out of all that there are.
const WINDOWS_MAX: usize = 16;

/// Opens `data` as a stored table.
pub fn check(data: &[u8]) {
    match RestartTable::decode(Bytes::copy_from_slice(data)) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        Ok(table) => {
            assert_eq!(table.bytes(), data);
            check_table(&table, &mut Splits::of(data));
        }
    }
}

/// Checks all that `table` says of itself.
pub(crate) fn check_table(table: &RestartTable, splits: &mut Splits) {
    let points: Vec<RestartPoint> = table.points().collect();
    assert_eq!(points.len(), table.count());
    assert_eq!(points[0].position(), RestartPoint::START.position());
    let ordered = |a: &RestartPoint, b: &RestartPoint| {
        a.stream_offset < b.stream_offset && a.compressed_offset < b.compressed_offset
    };
    assert!(points.is_sorted_by(ordered), "{points:?}");
    check_rebuilt(table, &points);
    check_offsets(table, &points, splits);
    for point in points.iter().step_by(points.len().div_ceil(WINDOWS_MAX)) {
        if let RestartState::Block(block) = &point.state {
            assert!(block.used_bits < 8);
            match block.window.unpack() {
                Ok(window) => assert!(window.len() <= WINDOW_BYTES_MAX),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
        }
        if let Err(error) = Decoder::resume(table.codec(), point) {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}

/// Nothing else is opened than what a builder makes.
fn check_rebuilt(table: &RestartTable, points: &[RestartPoint]) {
    let mut builder = RestartTableBuilder::new(table.codec());
    points.iter().for_each(|point| builder.push(point));
    let rebuilt = builder.finish(table.compressed_bytes(), table.stream_bytes()).unwrap();
    assert!(rebuilt == *table, "another encoding of the same points was opened");
}

fn check_offsets(table: &RestartTable, points: &[RestartPoint], splits: &mut Splits) {
    let last = points.last().unwrap();
    assert!(last.compressed_offset < table.compressed_bytes() && last.stream_offset <= table.stream_bytes());
    let mut offsets = vec![0, table.stream_bytes(), u64::MAX];
    for point in points.iter().step_by(points.len().div_ceil(64)) {
        let at = point.stream_offset;
        offsets.extend([at.saturating_sub(1), at, at.saturating_add(1)]);
    }
    for start in offsets.clone() {
        let expected = points.iter().rev().find(|point| point.stream_offset <= start).unwrap();
        assert_eq!(&table.nearest(start), expected);
        let end = offsets[splits.below(offsets.len() as u64) as usize].max(start);
        let range = table.compressed_range(&(start..end));
        let after = points.iter().find(|point| point.stream_offset >= end && point.stream_offset > start);
        assert_eq!(range.start, expected.compressed_offset);
        assert!(range.start <= range.end && range.end <= table.compressed_bytes(), "{range:?}");
        match after {
            None if end > start => assert_eq!(range.end, table.compressed_bytes()),
            Some(after) if end > start => assert!(range.end >= after.compressed_offset),
            _ => {}
        }
    }
}
