//! The gzip decoder: the same stream in any pieces and from any restart point, and flate2's for what is accepted.

use std::io::Read as _;

use flate2::bufread::GzDecoder as Flate2Decoder;
use refmount::layer::decoder::Decoder;
use refmount::layer::encoding::Codec;
use refmount::layer::gzip::GzipDecoder;

use super::decoding::{self, Ending, OTHER_STREAM_BYTES_MAX};
use super::splits::Splits;

/// Decodes `data` as one layer, in several ways.
pub fn check(data: &[u8]) {
    let mut splits = Splits::of(data);
    // Close enough together for small inputs to have several.
    let spacing = [1, 100, 4 << 10, 100 << 10][splits.below(4) as usize];
    let decoder = || Decoder::Gzip(GzipDecoder::with_spacing(spacing).unwrap());
    let first = decoding::whole(decoder(), data);
    decoding::check_pieces(&first, decoder(), data, &mut splits);
    decoding::check_points(&first, Codec::Gzip, data, &mut splits);
    match (first.ending, by_flate2(data)) {
        (Ending::Complete, Some(stream)) => assert!(first.stream == stream, "flate2 decodes other bytes"),
        (Ending::Complete, None) => panic!("flate2 refuses what was accepted"),
        (Ending::Failed(_), Some(_)) => assert!(may_be_refused(data), "what flate2 accepts was refused"),
        (Ending::Failed(_) | Ending::Unfinished, _) => {}
    }
}

/// The stream of all members, if it is not too long; zeros after the last one are padding.
fn by_flate2(data: &[u8]) -> Option<Vec<u8>> {
    let mut stream = Vec::new();
    let mut rest = data;
    loop {
        let mut decoder = Flate2Decoder::new(rest);
        let room = (OTHER_STREAM_BYTES_MAX - stream.len()) as u64;
        decoder.by_ref().take(room).read_to_end(&mut stream).ok()?;
        // The checksum is only looked at when the end is read.
        if decoder.read(&mut [0]).ok()? > 0 {
            return None;
        }
        rest = decoder.into_inner();
        if rest.iter().all(|byte| *byte == 0) {
            return Some(stream);
        }
    }
}

/// Whether a member has reserved flags, which flate2 passes over and RFC 1952 has refused.
fn may_be_refused(data: &[u8]) -> bool {
    data.windows(4).any(|header| matches!(header, [0x1f, 0x8b, 8, flags] if flags & 0xe0 != 0))
}
