use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;
use crate::base::limits::{LAYER_STREAM_BYTES_MAX, STREAM_BYTES_FREE, STREAM_RATIO_MAX};
use crate::layer::decoder::Decoder;
use crate::layer::encoding::Codec;
use crate::layer::samples::{self, Decoded, check_points, filter};

fn decoder(spacing: u64) -> Decoder {
    Decoder::Gzip(GzipDecoder::with_spacing(spacing).unwrap())
}

fn decode(blob: &[u8]) -> Result<Decoded> {
    samples::decode(decoder(CHECKPOINT_SPACING_BYTES), blob, 1 << 16, 1 << 16)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// Python's zlib with every strategy, window and flush, as one gzip member.
const PYTHON: &str = "
import sys, zlib
level, bits, memory, strategy, flush = map(int, sys.argv[1:])
data = sys.stdin.buffer.read()
z = zlib.compressobj(level, zlib.DEFLATED, 16 + bits, memory, strategy)
out = sys.stdout.buffer
for at in range(0, len(data), 100000):
    out.write(z.compress(data[at:at + 100000]))
    if flush: out.write(z.flush(flush))
out.write(z.flush())
";

#[test]
fn what_every_writer_makes_comes_out_whole_and_again_from_every_point() {
    let writers: [&[&str]; 11] = [
        &["gzip", "-1"],
        &["gzip", "-6"],
        &["gzip", "-9"],
        &["pigz", "-6", "-b", "128"],
        &["pigz", "-2", "-i"],
        // Stored; small windows and blocks; Huffman only; run lengths; fixed codes; with partial, sync and full flush.
        &["python3", "-c", PYTHON, "0", "15", "8", "0", "0"],
        &["python3", "-c", PYTHON, "6", "9", "1", "0", "0"],
        &["python3", "-c", PYTHON, "6", "15", "9", "2", "1"],
        &["python3", "-c", PYTHON, "6", "15", "9", "3", "5"],
        &["python3", "-c", PYTHON, "6", "15", "8", "4", "2"],
        &["python3", "-c", PYTHON, "1", "12", "3", "0", "3"],
    ];
    let mut used_bits = BTreeSet::new();
    for (kind, stream) in samples::kinds((1 << 20) + 12_345) {
        for writer in writers {
            let what = format!("{kind} by {:?}", writer.iter().filter(|word| !word.contains('\n')));
            let blob = filter(writer, &stream).unwrap();
            let pass = samples::decode(decoder(96 << 10), &blob, 50_000, 300_000).unwrap();
            check_points(&what, Codec::Gzip, &blob, &stream, &pass);
            assert!(pass.points.len() > 2 || blob.len() < 20_000, "{what}: {} points", pass.points.len());
            for point in pass.points {
                if let RestartState::Block(state) = point.state {
                    used_bits.insert(state.used_bits);
                }
            }
        }
    }
    assert_eq!(used_bits, (0..8).collect(), "not every place within a byte was tried");
}

/// A header with every field, before the deflate data and trailer of `bytes`.
fn with_every_field(bytes: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0x1e, 1, 2, 3, 4, 2, 3, 5, 0];
    member.extend_from_slice(b"extraname\0comment\0");
    let crc = zlib_rs::crc32::crc32(0, &member);
    member.extend_from_slice(&crc.to_le_bytes()[..2]);
    member.extend_from_slice(&gzip(bytes)[10..]);
    member
}

/// Small layers of every shape, right and wrong.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let one = gzip(b"one stream, one stream, one stream");
    let full = with_every_field(b"with every field");
    let edited = |at: usize, byte: u8| {
        let mut blob = full.clone();
        blob[at] ^= byte;
        blob
    };
    let mut no_extra = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 3, 0, 0];
    no_extra.extend_from_slice(&one[10..]);
    let last = full.len() - 1;
    vec![
        ("one member", one.clone()),
        ("every field", full.clone()),
        ("an empty extra field", no_extra),
        ("an empty stream", gzip(b"")),
        ("members and empty members", [gzip(b""), one.clone(), gzip(b""), full.clone(), gzip(b"")].concat()),
        ("padding", [one.clone(), vec![0; 1000]].concat()),
        ("one zero", [one.clone(), vec![0]].concat()),
        ("garbage", [&one[..], b"garbage"].concat()),
        ("half a magic", [&one[..], &[0x1f]].concat()),
        ("padding, then garbage", [&one[..], &[0; 100], b"x"].concat()),
        ("padding, then a member", [&one[..], &[0; 100], &one].concat()),
        ("no magic", edited(0, 1)),
        ("another magic", edited(1, 1)),
        ("another method", edited(2, 1)),
        ("a reserved flag", edited(3, 0x20)),
        ("a header that does not match its checksum", edited(5, 1)),
        ("a checksum that does not match its header", edited(30, 1)),
        ("another CRC-32", edited(last - 7, 1)),
        ("another length", edited(last, 1)),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 20]),
    ]
}

#[test]
fn what_gnu_gzip_takes_without_complaint_is_taken_and_nothing_else() {
    for (what, blob) in shapes() {
        // The one thing on which we are stricter: GNU gzip takes nothing at all for an empty stream.
        let theirs = filter(&["gzip", "-dc"], &blob).filter(|_| !blob.is_empty());
        let ours = decode(&blob).map(|decoded| decoded.stream);
        assert_eq!(ours.as_ref().ok(), theirs.as_ref(), "{what}: {ours:?}");
        let bytewise = samples::decode(decoder(1), &blob, 1, 1).map(|decoded| decoded.stream);
        assert_eq!(bytewise.as_ref().ok(), theirs.as_ref(), "{what}, byte by byte");
        if let Err(error) = ours {
            assert!(error.to_string().contains("compressed offset"), "{what}: {error}");
        }
    }
}

#[test]
fn a_layer_that_is_cut_short_anywhere_is_an_error() {
    let blob = [with_every_field(b"first"), gzip(&samples::text(500))].concat();
    let boundary = with_every_field(b"first").len();
    for cut in (0..blob.len()).filter(|cut| *cut != boundary) {
        let error = decode(&blob[..cut]).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{cut}: {error}");
    }
    assert_eq!(decode(&blob[..boundary]).unwrap().stream, b"first");
}

#[test]
fn small_members_are_points_without_windows_at_their_spacing() {
    let stream = samples::weights(5 << 20);
    let blob: Vec<u8> = stream.chunks(100_000).flat_map(gzip).collect();
    let pass = samples::decode(Decoder::new(Codec::Gzip).unwrap(), &blob, 1 << 16, 1 << 20).unwrap();
    let table = check_points("small members", Codec::Gzip, &blob, &stream, &pass);
    assert!(table.points().all(|point| point.state == RestartState::FrameStart));
    assert_eq!(table.count(), 5);
}

#[test]
fn a_bomb_ends_at_its_limit() {
    let blob = gzip(&vec![0; 3 << 20]);
    for (compressed_offset, stream_offset, limit) in [
        (10, STREAM_BYTES_FREE + STREAM_RATIO_MAX * 10, "STREAM_RATIO_MAX"),
        (1 << 40, LAYER_STREAM_BYTES_MAX - (2 << 20), "LAYER_STREAM_BYTES_MAX"),
    ] {
        let point = RestartPoint { compressed_offset, stream_offset, state: RestartState::FrameStart };
        let mut decoder = Decoder::resume(Codec::Gzip, &point).unwrap();
        let error = samples::feed(&mut decoder, &blob, 1 << 16, 1 << 20).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(limit), "{error}");
        // It stays an error.
        assert!(decoder.decode(&blob, &mut [0; 10]).is_err() && decoder.finish().is_err());
    }
}

#[test]
fn a_damaged_point_is_an_error_or_its_bytes_do_not_match() {
    let stream = samples::text(2 << 20);
    let blob = gzip(&stream);
    let pass = samples::decode(decoder(512 << 10), &blob, 1 << 16, 1 << 16).unwrap();
    let point = &pass.points[1];
    let RestartState::Block(state) = &point.state else { panic!("{point:?}") };
    let sum = state.member.unwrap();
    let states = [
        BlockState { member: Some(MemberSum { crc: sum.crc ^ 1, ..sum }), ..state.clone() },
        BlockState { member: Some(MemberSum { bytes: sum.bytes ^ 1, ..sum }), ..state.clone() },
        BlockState { used_bits: (state.used_bits + 1) % 8, ..state.clone() },
        BlockState { window: Window::pack(&[7; 32 << 10]).unwrap(), ..state.clone() },
        BlockState { window: Window::pack(b"").unwrap(), ..state.clone() },
    ];
    let rest = &blob[usize::try_from(point.compressed_offset).unwrap()..];
    for state in states {
        let point = RestartPoint { state: RestartState::Block(state), ..point.clone() };
        let resumed = Decoder::resume(Codec::Gzip, &point)
            .and_then(|decoder| samples::decode(decoder, rest, 1 << 16, 1 << 16));
        assert!(resumed.is_err(), "{point:?}");
    }
}

#[test]
fn a_point_that_knows_nothing_of_its_member_checks_only_those_after_it() {
    let stream = samples::text(2 << 20);
    let (first, second) = (gzip(&stream), gzip(b"second"));
    let blob = [first.clone(), second].concat();
    let pass = samples::decode(decoder(512 << 10), &blob, 1 << 16, 1 << 16).unwrap();
    let point = &pass.points[1];
    let RestartState::Block(state) = &point.state else { panic!("{point:?}") };
    let unknown = BlockState { member: None, ..state.clone() };
    let point = RestartPoint { state: RestartState::Block(unknown), ..point.clone() };
    let read = |blob: &[u8]| {
        let decoder = Decoder::resume(Codec::Gzip, &point).unwrap();
        samples::decode(decoder, &blob[usize::try_from(point.compressed_offset).unwrap()..], 1 << 16, 1 << 16)
    };
    let expected = [&stream[usize::try_from(point.stream_offset).unwrap()..], b"second"].concat();
    assert_eq!(read(&blob).unwrap().stream, expected);
    let flipped = |at: usize| {
        let mut blob = blob.clone();
        blob[at] ^= 1;
        blob
    };
    // The trailer of the first member, which nothing can be compared with, and that of the second.
    assert_eq!(read(&flipped(first.len() - 1)).unwrap().stream, expected);
    assert_eq!(read(&flipped(blob.len() - 1)).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// What flate2 makes of the same bytes.
fn oracle(blob: &[u8]) -> Option<Vec<u8>> {
    let mut stream = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut stream).ok().map(|_| stream)
}

proptest! {
    #[test]
    fn any_split_of_input_and_output_gives_the_same_stream_and_the_same_points(
        lengths in prop::collection::vec(0_usize..40_000, 1..5),
        piece_in in 1_usize..5000,
        piece_out in 1_usize..5000,
        padding in 0_usize..20,
    ) {
        let stream = samples::text(lengths.iter().sum());
        let mut rest = &stream[..];
        let mut blob = Vec::new();
        for length in lengths {
            blob.extend(gzip(&rest[..length]));
            rest = &rest[length..];
        }
        blob.extend(vec![0; padding]);
        let whole = samples::decode(decoder(8192), &blob, usize::MAX, 1 << 20).unwrap();
        let split = samples::decode(decoder(8192), &blob, piece_in, piece_out).unwrap();
        prop_assert!(whole.stream == stream && split.stream == stream);
        prop_assert_eq!(whole.points, split.points);
    }

    #[test]
    fn mutated_layers_are_an_error_or_the_same_stream(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..4),
        cut in any::<prop::sample::Index>(),
        kind in 0_usize..4,
    ) {
        let stream = &samples::kinds(20_000)[kind].1;
        let mut blob = [gzip(&stream[..9000]), gzip(&stream[9000..])].concat();
        let at = at.index(blob.len());
        for (byte, new) in blob[at..].iter_mut().zip(&bytes) {
            *byte ^= new;
        }
        if let Ok(decoded) = decode(&blob) {
            prop_assert!(decoded.stream == *stream);
        }
        let cut = &blob[..cut.index(blob.len())];
        if let Ok(decoded) = samples::decode(decoder(4096), cut, 777, 999) {
            prop_assert_eq!(Some(decoded.stream), oracle(cut));
        }
    }

    #[test]
    fn random_bytes_never_do_more_than_fail(
        mut blob in prop::collection::vec(any::<u8>(), 0..3000),
        piece_in in 1_usize..50,
        piece_out in 1_usize..50,
    ) {
        prop_assert!(decode(&blob).is_err());
        blob.splice(..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0]);
        let ours = samples::decode(decoder(16), &blob, piece_in, piece_out).ok().map(|decoded| decoded.stream);
        if ours.is_some() {
            prop_assert_eq!(ours, oracle(&blob));
        }
        // From the middle of a block, with a window.
        let state = BlockState {
            used_bits: 3,
            member: Some(MemberSum::default()),
            window: Window::pack(&blob).unwrap(),
        };
        let point = RestartPoint { compressed_offset: 0, stream_offset: 0, state: RestartState::Block(state) };
        let mut decoder = Decoder::resume(Codec::Gzip, &point).unwrap();
        samples::feed(&mut decoder, &blob, piece_in, piece_out).ok();
    }
}
