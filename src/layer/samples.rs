//! What the tests of the decoders share: bytes of several kinds, the tools that compress them, and loops that feed a
//! decoder in pieces.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::decoder::Decoder;
use super::encoding::Codec;
use super::restart::{RestartPoint, RestartTable, RestartTableBuilder};
use crate::base::Result;

/// Words, of which some come often.
pub(super) fn text(length: usize) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        let rank = random.random_range(1..4000_u32).min(random.random_range(1..4000));
        bytes.extend_from_slice(format!("{:x} ", rank.wrapping_mul(2_654_435_761)).as_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Weights in bf16: a random low byte, a high byte of few values.
pub(super) fn weights(length: usize) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut bytes = vec![0; length];
    random.fill_bytes(&mut bytes);
    for byte in bytes.iter_mut().skip(1).step_by(2) {
        *byte = 0x3c ^ (*byte & 0x80) ^ (byte.trailing_ones() as u8);
    }
    bytes
}

/// Bytes that nothing makes smaller.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(3).fill_bytes(&mut bytes);
    bytes
}

/// One of each kind, with its name.
pub(super) fn kinds(length: usize) -> [(&'static str, Vec<u8>); 4] {
    [
        ("text", text(length)),
        ("weights", weights(length)),
        ("noise", noise(length)),
        ("zeros", vec![0; length]),
    ]
}

/// What `command` writes when it reads `input`; none when it does not end with status 0.
pub(super) fn filter(command: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", command[0]));
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = Vec::new();
    std::thread::scope(|scope| {
        // A tool that has refused its input does not read the rest.
        scope.spawn(move || stdin.write_all(input).ok());
        stdout.read_to_end(&mut output).unwrap();
    });
    child.wait().unwrap().success().then_some(output)
}

/// What a decoder made of a blob.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) stream: Vec<u8>,
    pub(super) points: Vec<RestartPoint>,
}

/// Feeds `input` to `decoder` in pieces of `piece_in` and takes pieces of `piece_out`, without its end.
pub(super) fn feed(
    decoder: &mut Decoder,
    input: &[u8],
    piece_in: usize,
    piece_out: usize,
) -> Result<Decoded> {
    let mut decoded = Decoded { stream: Vec::new(), points: Vec::new() };
    let mut output = vec![0; piece_out];
    let start = decoder.position();
    for piece in input.chunks(piece_in) {
        let mut rest = piece;
        loop {
            let progress = decoder.decode(rest, &mut output)?;
            rest = &rest[progress.consumed..];
            decoded.stream.extend_from_slice(&output[..progress.written]);
            decoded.points.extend(decoder.take_points());
            if progress.written < output.len() {
                assert!(rest.is_empty(), "input was left over though there was room");
                break;
            }
        }
    }
    let end = decoder.position();
    assert_eq!(end.compressed_offset - start.compressed_offset, input.len() as u64);
    assert_eq!(end.stream_offset - start.stream_offset, decoded.stream.len() as u64);
    Ok(decoded)
}

/// Decodes a whole blob in pieces.
pub(super) fn decode(
    mut decoder: Decoder,
    input: &[u8],
    piece_in: usize,
    piece_out: usize,
) -> Result<Decoded> {
    let decoded = feed(&mut decoder, input, piece_in, piece_out)?;
    decoder.finish()?;
    Ok(decoded)
}

/// Checks that the pass over `blob` gave `stream`, that its points are kept by a table, and that from each of them the
/// rest of the stream comes out, and also up to the next one from the bytes that the table names for it.
pub(super) fn check_points(
    what: &str,
    codec: Codec,
    blob: &[u8],
    stream: &[u8],
    pass: &Decoded,
) -> RestartTable {
    assert!(pass.stream == stream, "{what}: the pass gives other bytes");
    let mut builder = RestartTableBuilder::new(codec);
    pass.points.iter().for_each(|point| builder.push(point));
    let table = builder.finish(blob.len() as u64, stream.len() as u64).unwrap();
    let points: Vec<_> = table.points().collect();
    assert_eq!(points, pass.points, "{what}");
    for (at, point) in points.iter().enumerate() {
        let from = usize::try_from(point.stream_offset).unwrap();
        assert_eq!(&table.nearest(point.stream_offset), point);
        let decoder = Decoder::resume(codec, point).unwrap();
        let rest = &blob[usize::try_from(point.compressed_offset).unwrap()..];
        let resumed =
            decode(decoder, rest, 1 << 16, 1 << 16).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(resumed.stream == stream[from..], "{what}: the rest from {from} is other bytes");

        let end = points.get(at + 1).map_or(stream.len() as u64, |next| next.stream_offset);
        let range = table.compressed_range(&(point.stream_offset..end));
        let mut decoder = Decoder::resume(codec, point).unwrap();
        let span = &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let resumed = feed(&mut decoder, span, 4096, 1 << 16).unwrap();
        let expected = &stream[from..usize::try_from(end).unwrap()];
        assert!(resumed.stream.starts_with(expected), "{what}: the span from {from} is not enough");
    }
    table
}
