//! eStargz: footers, tables of contents in their gzip, and the JSON itself.

use refmount::base::{Algorithm, Digest};
use refmount::layer::toc::estargz::{FOOTER_BYTES, Footer, footer, parse, read_toc};

use super::toc::{self, BLOB_BYTES, PAYLOAD_BYTES};

/// Takes `data` for the end of a blob, for a compressed table of contents, and for its JSON.
pub fn check(data: &[u8]) {
    for blob_bytes in [data.len() as u64, BLOB_BYTES] {
        match footer(data, blob_bytes) {
            Err(error) => toc::check_refusal(&error),
            Ok(None) => {}
            Ok(Some(footer)) => {
                let range = footer.toc_range();
                assert!(
                    range.start < range.end && range.end == blob_bytes - FOOTER_BYTES as u64,
                    "{footer:?}"
                );
            }
        }
    }
    let json = match read_toc(data, None) {
        Err(error) => {
            toc::check_refusal(&error);
            None
        }
        Ok(json) => {
            let digest = Digest::of(Algorithm::Sha256, &json);
            assert_eq!(read_toc(data, Some(&digest)).unwrap(), json);
            assert!(read_toc(data, Some(&Digest::of(Algorithm::Sha256, data))).is_err());
            Some(json)
        }
    };
    let footer = Footer { toc_offset: PAYLOAD_BYTES, blob_bytes: BLOB_BYTES };
    match parse(json.as_deref().unwrap_or(data), &footer) {
        Err(error) => toc::check_refusal(&error),
        Ok(toc) => toc::check(&toc),
    }
}
