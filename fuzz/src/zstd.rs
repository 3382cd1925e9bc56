//! The zstd decoder: the same stream in any pieces and from any frame, and libzstd's for what is accepted.

use refmount::base::ErrorKind;
use refmount::layer::decoder::Decoder;
use refmount::layer::encoding::Codec;
use refmount::layer::zstd::ZstdDecoder;

use super::decoding::{self, Ending, OTHER_STREAM_BYTES_MAX};
use super::splits::Splits;

/// Decodes `data` as one layer, in several ways.
pub fn check(data: &[u8]) {
    let mut splits = Splits::of(data);
    let decoder = || Decoder::Zstd(ZstdDecoder::new().unwrap());
    let first = decoding::whole(decoder(), data);
    decoding::check_pieces(&first, decoder(), data, &mut splits);
    decoding::check_points(&first, Codec::Zstd, data, &mut splits);
    match (first.ending, by_libzstd(data)) {
        (Ending::Complete, Some(stream)) => assert!(first.stream == stream, "libzstd decodes other bytes"),
        (Ending::Complete, None) => panic!("libzstd refuses what was accepted"),
        // A layer of no frame at all is none; windows are only limited where memory is taken for them.
        (Ending::Failed(kind), Some(_)) => {
            let may_be_refused = data.is_empty() || kind == ErrorKind::Unsupported;
            assert!(may_be_refused, "what libzstd accepts was refused: {kind:?}");
        }
        (Ending::Failed(_) | Ending::Unfinished, _) => {}
    }
}

/// The stream of all frames, if it is not too long. In one call, because libzstd looks at the size in a frame's header
/// more strictly then.
fn by_libzstd(data: &[u8]) -> Option<Vec<u8>> {
    ::zstd::bulk::decompress(data, OTHER_STREAM_BYTES_MAX).ok()
}
