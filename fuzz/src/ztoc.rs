//! SOCI's zTOCs.

use refmount::layer::toc::ztoc::{Ztoc, parse};

use super::restart_table;
use super::splits::Splits;
use super::toc;

/// Takes `data` for a zTOC of a layer of just the length that it tells of.
pub fn check(data: &[u8]) {
    // The refusal names the length, and nothing else here knows where in the flatbuffer it stands.
    let blob_bytes = match parse(data, 1) {
        Ok(ztoc) => return check_ztoc(&ztoc, 1, data),
        Err(error) => {
            toc::check_refusal(&error);
            stated(&error.chain())
        }
    };
    match parse(data, blob_bytes) {
        Ok(ztoc) => check_ztoc(&ztoc, blob_bytes, data),
        Err(error) => toc::check_refusal(&error),
    }
}

/// The length in "it is of a layer of N bytes", if that is what was wrong.
fn stated(message: &str) -> u64 {
    let rest = message.split("of a layer of ").nth(1).unwrap_or_default();
    rest.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(1000)
}

fn check_ztoc(ztoc: &Ztoc, blob_bytes: u64, data: &[u8]) {
    assert_eq!(ztoc.blob_bytes, blob_bytes);
    assert_eq!((ztoc.points.compressed_bytes(), ztoc.points.stream_bytes()), (blob_bytes, ztoc.stream_bytes));
    restart_table::check_table(&ztoc.points, &mut Splits::of(data));
    let mut before = 0;
    for span in &ztoc.spans {
        let range = &span.range;
        assert!(range.start < range.end && range.end <= blob_bytes, "{span:?} of {blob_bytes}");
        // Neighbours may share a byte.
        assert!(range.start + 1 >= before, "{span:?} after {before}");
        before = range.end;
    }
    toc::check_entries(&ztoc.entries, ztoc.stream_bytes);
    toc::check_members(&ztoc.members, ztoc.stream_bytes);
}
