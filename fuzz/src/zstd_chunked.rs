//! zstd:chunked: the annotations, tables of contents in their frame, and the JSON itself.

use std::collections::BTreeMap;

use refmount::base::{Algorithm, Digest};
use refmount::layer::toc::zstd_chunked::{Position, parse, position, read_toc};

use super::toc::{self, BLOB_BYTES, PAYLOAD_BYTES};

/// Takes `data` for the annotation of a position, for a compressed table of contents, and for its JSON.
pub fn check(data: &[u8]) {
    let digest = Digest::of(Algorithm::Sha256, data);
    if let Ok(text) = std::str::from_utf8(data) {
        let annotation = |name: &str| format!("io.github.containers.zstd-chunked.{name}");
        let annotations = BTreeMap::from([
            (annotation("manifest-position"), text.to_owned()),
            (annotation("manifest-checksum"), digest.to_string()),
        ]);
        match position(&annotations, BLOB_BYTES) {
            Err(error) => toc::check_refusal(&error),
            Ok(None) => panic!("there is a position"),
            Ok(Some(position)) => {
                let range = position.toc_range();
                assert!(range.start < range.end && range.end <= BLOB_BYTES, "{position:?}");
            }
        }
    }
    let place = |json_bytes| Position {
        offset: PAYLOAD_BYTES + 8,
        compressed_bytes: data.len() as u64,
        json_bytes,
        digest: digest.clone(),
    };
    // As many as the frame says.
    let json_bytes = ::zstd::zstd_safe::get_frame_content_size(data).ok().flatten().unwrap_or(100);
    let position = place(json_bytes.min(1 << 20));
    let json = match read_toc(data, &position) {
        Err(error) => {
            toc::check_refusal(&error);
            None
        }
        Ok(json) => {
            assert_eq!(json.len() as u64, position.json_bytes);
            Some(json)
        }
    };
    match parse(json.as_deref().unwrap_or(data), &position, BLOB_BYTES) {
        Err(error) => toc::check_refusal(&error),
        Ok(toc) => toc::check(&toc),
    }
}
