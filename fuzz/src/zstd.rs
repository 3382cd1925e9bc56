//! The zstd decoder: the same stream in any pieces and from any frame, and libzstd's for what is accepted.

use std::io::Read as _;

use refmount::base::ErrorKind;
use refmount::base::limits::ZSTD_WINDOW_LOG_MAX;
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
    // Each way of libzstd's looks at something that the other does not: the one at once at the size in a frame's header
    // and at empty compressed blocks, the one in pieces at the size of a repeated byte. What both accept is right; what
    // we accept, the one in pieces does.
    let (at_once, in_pieces) = (at_once(data), in_pieces(data));
    match first.ending {
        Ending::Complete => {
            assert!(in_pieces.is_some(), "libzstd refuses what was accepted");
            for stream in at_once.iter().chain(&in_pieces) {
                assert!(first.stream == *stream, "libzstd decodes other bytes");
            }
        }
        // A layer of no frame at all is none; windows are only limited where memory is taken for them.
        Ending::Failed(kind) => {
            let must_be_right = at_once.is_some() && in_pieces.is_some();
            let may_be_refused = data.is_empty() || kind == ErrorKind::Unsupported;
            assert!(!must_be_right || may_be_refused, "what libzstd accepts was refused: {kind:?}");
        }
        Ending::Unfinished => {}
    }
}

/// The stream of all frames, if it is not too long.
fn at_once(data: &[u8]) -> Option<Vec<u8>> {
    ::zstd::bulk::decompress(data, OTHER_STREAM_BYTES_MAX).ok()
}

/// The same by libzstd's streaming decoder, byte by byte: a frame that it sees whole it decodes at once.
fn in_pieces(data: &[u8]) -> Option<Vec<u8>> {
    let bytes = std::io::BufReader::with_capacity(1, data);
    let mut decoder = ::zstd::stream::read::Decoder::with_buffer(bytes).ok()?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).ok()?;
    let mut stream = Vec::new();
    decoder.take(OTHER_STREAM_BYTES_MAX as u64).read_to_end(&mut stream).ok()?;
    Some(stream)
}
