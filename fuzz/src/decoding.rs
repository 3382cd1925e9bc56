//! What the targets of both decoders do: a whole pass, the same in pieces, and again from every restart point.

use refmount::base::ErrorKind;
use refmount::layer::decoder::Decoder;
use refmount::layer::encoding::Codec;
use refmount::layer::restart::{RestartPoint, RestartTable, RestartTableBuilder};

use super::splits::Splits;

/// Bytes of a stream after which a pass ends, so that no input takes long.
const STREAM_BYTES_MAX: usize = 4 << 20;

/// Bytes of a stream that another decoder is asked for: all that a pass can come to, whose last call may go beyond.
pub(crate) const OTHER_STREAM_BYTES_MAX: usize = STREAM_BYTES_MAX + (128 << 10);

/// Restart points that are tried, out of all that there are.
const POINTS_MAX: usize = 12;

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At the end of the blob, where its end may be.
    Complete,
    /// With an error.
    Failed(ErrorKind),
    /// At [`STREAM_BYTES_MAX`].
    Unfinished,
}

/// What a pass came to.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) stream: Vec<u8>,
    pub(crate) points: Vec<RestartPoint>,
    pub(crate) ending: Ending,
}

/// Decodes `blob` in one piece.
pub(crate) fn whole(decoder: Decoder, blob: &[u8]) -> Pass {
    pass(decoder, blob, || (usize::MAX, 64 << 10))
}

/// Decodes `blob` in pieces of input and output whose lengths are those that `next` gives.
fn pass(mut decoder: Decoder, blob: &[u8], mut next: impl FnMut() -> (usize, usize)) -> Pass {
    let mut pass = Pass { stream: Vec::new(), points: Vec::new(), ending: Ending::Unfinished };
    let start = decoder.position();
    let mut output = vec![0; 64 << 10];
    let mut at = 0;
    while pass.stream.len() < STREAM_BYTES_MAX {
        let (length_in, length_out) = next();
        let input = &blob[at..at + length_in.min(blob.len() - at)];
        let output = &mut output[..length_out.clamp(1, 64 << 10)];
        let progress = match decoder.decode(input, output) {
            Ok(progress) => progress,
            Err(error) => {
                assert_eq!(
                    decoder.decode(blob, output).unwrap_err().kind(),
                    error.kind(),
                    "it does not stay"
                );
                pass.ending = Ending::Failed(error.kind());
                return pass;
            }
        };
        at += progress.consumed;
        pass.stream.extend_from_slice(&output[..progress.written]);
        pass.points.extend(decoder.take_points());
        let position = decoder.position();
        assert_eq!(position.compressed_offset - start.compressed_offset, at as u64);
        assert_eq!(position.stream_offset - start.stream_offset, pass.stream.len() as u64);
        if progress.written < output.len() {
            assert_eq!(progress.consumed, input.len(), "input is left over though there is room");
            if at == blob.len() {
                pass.ending =
                    decoder.finish().map_or_else(|error| Ending::Failed(error.kind()), |()| Ending::Complete);
                return pass;
            }
        }
    }
    pass
}

/// Checks that `again` gives what `first` gave from stream offset `from` on.
fn check_same(first: &Pass, from: usize, again: &Pass) {
    let expected = &first.stream[from..];
    match (first.ending, again.ending) {
        (Ending::Complete, Ending::Complete) => assert!(again.stream == expected, "other bytes"),
        // The bytes before an error may not have been handed out.
        (Ending::Failed(kind), Ending::Failed(other)) => {
            assert_eq!(kind, other);
            assert!(again.stream.starts_with(expected) || expected.starts_with(&again.stream), "other bytes");
        }
        // One of them went further than the other.
        (Ending::Unfinished, _) | (_, Ending::Unfinished) => {
            let length = expected.len().min(again.stream.len());
            assert!(again.stream[..length] == expected[..length], "other bytes");
        }
        (first, again) => panic!("the first pass ended {first:?}, another {again:?}"),
    }
}

/// Checks that decoding in pieces gives what `first` gave, which is the pass of `decoder` over all of `blob` at once.
pub(crate) fn check_pieces(first: &Pass, decoder: Decoder, blob: &[u8], splits: &mut Splits) {
    let again = pass(decoder, blob, || (splits.length(), splits.length() * 4));
    check_same(first, 0, &again);
    if (first.ending, again.ending) == (Ending::Complete, Ending::Complete) {
        assert_eq!(first.points, again.points, "pieces change the restart points");
    }
}

/// Checks that from each point the rest of the stream comes out, and that a table keeps the points of a whole layer.
pub(crate) fn check_points(first: &Pass, codec: Codec, blob: &[u8], splits: &mut Splits) {
    let ordered = |a: &RestartPoint, b: &RestartPoint| {
        a.stream_offset < b.stream_offset && a.compressed_offset < b.compressed_offset
    };
    assert!(first.points.is_sorted_by(ordered), "{:?}", first.points);
    let table = (first.ending == Ending::Complete && !first.points.is_empty()).then(|| {
        let mut builder = RestartTableBuilder::new(codec);
        first.points.iter().for_each(|point| builder.push(point));
        builder.finish(blob.len() as u64, first.stream.len() as u64).unwrap()
    });
    if let Some(table) = &table {
        assert!(table.points().eq(first.points.iter().cloned()), "the table holds other points");
    }
    for (at, point) in first.points.iter().enumerate().step_by(first.points.len().div_ceil(POINTS_MAX).max(1))
    {
        let rest = &blob[usize::try_from(point.compressed_offset).unwrap()..];
        let from = usize::try_from(point.stream_offset).unwrap();
        if from > first.stream.len() {
            // Noted in the call that failed.
            continue;
        }
        let decoder = Decoder::resume(codec, point).unwrap();
        let again = pass(decoder, rest, || (splits.length(), splits.length() * 8));
        assert!(again.points.is_empty(), "a decoder that was resumed notes points");
        check_same(first, from, &again);
        if let Some(table) = &table {
            let next = first.points.get(at + 1).map_or(first.stream.len() as u64, |next| next.stream_offset);
            check_span(table, codec, blob, &first.stream, point.stream_offset..next);
        }
    }
}

/// Checks that the bytes which `table` names for the span `range` are enough for it.
fn check_span(table: &RestartTable, codec: Codec, blob: &[u8], stream: &[u8], range: std::ops::Range<u64>) {
    let point = table.nearest(range.start);
    assert_eq!(point.stream_offset, range.start);
    let compressed = table.compressed_range(&range);
    let place = |range: &std::ops::Range<u64>| {
        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
    };
    let mut decoder = Decoder::resume(codec, &point).unwrap();
    let mut input = &blob[place(&compressed)];
    let expected = &stream[place(&range)];
    let mut made = Vec::new();
    let mut output = vec![0; 32 << 10];
    while made.len() < expected.len() {
        let progress = decoder.decode(input, &mut output).unwrap();
        assert!(progress.written > 0, "the bytes of a span are not enough for it");
        input = &input[progress.consumed..];
        made.extend_from_slice(&output[..progress.written]);
    }
    assert!(made.starts_with(expected), "a span gives other bytes");
}
