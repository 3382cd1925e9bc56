//! Seek tables of zstd layers: what is parsed tells the frames that the table lists, read here once more.

use refmount::base::ErrorKind;
use refmount::base::limits::{LAYER_STREAM_BYTES_MAX, ZSTD_SEEK_FRAMES_MAX};
use refmount::layer::restart::RestartTable;
use refmount::layer::zstd::seek_table::{FOOTER_BYTES, length, parse};

/// Frames whose ranges are compared, out of all that there are.
const FRAMES_MAX: usize = 256;

/// Takes `data` for the end of a layer, from the seek table on, of a blob of just the length that it tells of.
pub fn check(data: &[u8]) {
    let Some(footer) = data.last_chunk::<FOOTER_BYTES>() else {
        assert_eq!(parse(data, data.len() as u64).unwrap_err().kind(), ErrorKind::Invalid);
        return;
    };
    let told = length(footer).map_err(|error| error.kind());
    let frames = frames(data);
    let blob_bytes = frames.iter().map(|(compressed, _)| compressed).sum::<u64>() + data.len() as u64;
    match parse(data, blob_bytes) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{error}"),
        Ok(table) => {
            assert_eq!(told, Ok(Some(data.len() as u64)), "a table of another length than its footer says");
            assert!(frames.len() <= ZSTD_SEEK_FRAMES_MAX as usize);
            check_table(&table, &frames, blob_bytes);
            for other in [blob_bytes - 1, blob_bytes + 1, data.len() as u64 - 1, u64::MAX] {
                assert!(parse(data, other).is_err(), "a blob of {other} bytes is accepted, too");
            }
            assert!(parse(&data[1..], blob_bytes).is_err());
        }
    }
}

/// Compressed and stream bytes of each frame that `table` lists, if it is one.
fn frames(table: &[u8]) -> Vec<(u64, u64)> {
    let number = |bytes: &[u8]| u64::from(u32::from_le_bytes(*bytes.first_chunk().unwrap()));
    let entry_bytes = match table[table.len() - 5] & 0x80 {
        0 => 8,
        _ => 12,
    };
    let Some(entries) = table.get(8..table.len() - FOOTER_BYTES) else { return Vec::new() };
    entries.chunks_exact(entry_bytes).map(|entry| (number(entry), number(&entry[4..]))).collect()
}

fn check_table(table: &RestartTable, frames: &[(u64, u64)], blob_bytes: u64) {
    let stream_bytes: u64 = frames.iter().map(|(_, stream)| stream).sum();
    assert_eq!((table.stream_bytes(), table.compressed_bytes()), (stream_bytes, blob_bytes));
    assert!(stream_bytes <= LAYER_STREAM_BYTES_MAX);
    let mut starts = vec![(0, 0)];
    for (compressed, stream) in frames {
        let (compressed_offset, stream_offset) = *starts.last().unwrap();
        starts.push((compressed_offset + compressed, stream_offset + stream));
    }
    for point in table.points() {
        let place = (point.compressed_offset, point.stream_offset);
        assert!(starts.contains(&place) || place.0 == 0, "{point:?} is no start of a frame");
    }
    for pair in starts.windows(2).step_by(starts.len().div_ceil(FRAMES_MAX)) {
        let ((from, stream_from), (to, stream_to)) = (pair[0], pair[1]);
        if stream_from < stream_to {
            let range = table.compressed_range(&(stream_from..stream_to));
            assert!(range.start <= from && to <= range.end && range.end <= blob_bytes, "{pair:?}: {range:?}");
        }
    }
}
