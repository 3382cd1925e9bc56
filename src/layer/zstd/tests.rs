use proptest::prelude::*;

use super::*;
use crate::base::limits::{LAYER_STREAM_BYTES_MAX, STREAM_BYTES_FREE, STREAM_RATIO_MAX};
use crate::layer::decoder::Decoder;
use crate::layer::encoding::Codec;
use crate::layer::samples::{self, Decoded, check_points, filter};

fn decode(blob: &[u8], piece_in: usize, piece_out: usize) -> Result<Decoded> {
    samples::decode(Decoder::new(Codec::Zstd).unwrap(), blob, piece_in, piece_out)
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut writer = ::zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    writer.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut writer, bytes).unwrap();
    writer.finish().unwrap()
}

fn skippable(bytes: &[u8], number: u32) -> Vec<u8> {
    let mut blob = (SKIPPABLE_MAGIC | number).to_le_bytes().to_vec();
    blob.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
    blob.extend_from_slice(bytes);
    blob
}

#[test]
fn what_the_tool_makes_comes_out_whole() {
    let writers: [&[&str]; 5] = [
        &["zstd", "-1", "-c"],
        &["zstd", "-19", "--no-check", "-c"],
        &["zstd", "--ultra", "-22", "--long=27", "-c"],
        &["zstd", "-3", "-T2", "-B200000", "-c"],
        &["zstd", "--fast=5", "--no-compress-literals", "-c"],
    ];
    for (kind, stream) in samples::kinds((512 << 10) + 12_345) {
        for writer in writers {
            let blob = filter(writer, &stream).unwrap();
            let pass = decode(&blob, 50_000, 300_000).unwrap();
            check_points(&format!("{kind} by {writer:?}"), Codec::Zstd, &blob, &stream, &pass);
            assert_eq!(pass.points, [RestartPoint::START]);
        }
    }
}

#[test]
fn frames_are_points_and_skippable_frames_are_passed_over_wherever_they_stand() {
    let stream = samples::text(5 << 20);
    let mut blob = skippable(b"before", 0);
    for (at, part) in stream.chunks(300_000).enumerate() {
        blob.extend(frame(part));
        blob.extend(skippable(&vec![7; at], 3));
        blob.extend(frame(b""));
    }
    blob.extend(skippable(&samples::noise(100_000), 15));
    assert_eq!(filter(&["zstd", "-dc"], &blob).unwrap(), stream);
    let pass = decode(&blob, 4321, 1 << 20).unwrap();
    let table = check_points("frames", Codec::Zstd, &blob, &stream, &pass);
    let places: Vec<_> = table.points().map(|point| point.stream_offset).collect();
    assert_eq!(places, [0, 1_200_000, 2_400_000, 3_600_000, 4_800_000]);
    assert_eq!(decode(&skippable(b"alone", 5), 3, 3).unwrap().stream, b"");
}

#[test]
fn a_seek_table_tells_the_same_points_as_the_pass() {
    let stream = samples::weights(6 << 20);
    let mut blob = Vec::new();
    let mut content = Vec::new();
    for part in stream.chunks(700_000) {
        let frame = frame(part);
        content.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        content.extend_from_slice(&(part.len() as u32).to_le_bytes());
        blob.extend(frame);
    }
    let frames = (content.len() / 8) as u32;
    content.extend_from_slice(&frames.to_le_bytes());
    content.extend_from_slice(&[0, 0xb1, 0xea, 0x92, 0x8f]);
    let frames_bytes = blob.len();
    blob.extend(skippable(&content, 14));

    let length = seek_table::length(blob.last_chunk().unwrap()).unwrap().unwrap();
    assert_eq!(length, (blob.len() - frames_bytes) as u64);
    let told = seek_table::parse(&blob[frames_bytes..], blob.len() as u64).unwrap();
    let pass = decode(&blob, 1 << 16, 1 << 16).unwrap();
    let passed = check_points("seekable", Codec::Zstd, &blob, &stream, &pass);
    assert!(told.count() > 3);
    assert_eq!(told, passed);
}

#[test]
fn what_is_cut_short_or_followed_by_garbage_is_an_error() {
    let blob = [frame(b"first"), skippable(b"between", 1), frame(&samples::text(500))].concat();
    let boundaries = [frame(b"first").len(), frame(b"first").len() + 15];
    for cut in (0..blob.len()).filter(|cut| !boundaries.contains(cut)) {
        let error = decode(&blob[..cut], 1 << 16, 1 << 16).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{cut}: {error}");
        assert!(decode(&blob[..cut], 1, 1).is_err(), "{cut}, byte by byte");
    }
    for garbage in [&b"garbage"[..], &[0; 100], &[0x1f, 0x8b, 8, 0]] {
        let error = decode(&[&blob, garbage].concat(), 1 << 16, 1 << 16).unwrap_err();
        assert!(error.to_string().contains("garbage after the last zstd frame"), "{error}");
    }
    let error = decode(b"not a frame", 1 << 16, 1 << 16).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("not a zstd layer"), "{error}");
}

#[test]
fn a_frame_of_another_size_than_its_header_says_is_an_error() {
    // Single segment, one byte of content; an empty block, and an empty last one.
    let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 0, 0, 0, 1, 0, 0];
    // Its one byte, stored, and an empty last block.
    let right = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 8, 0, 0, b'x', 1, 0, 0];
    for piece in [1, 5, 100] {
        let error = decode(&empty, piece, 100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("another size"), "{error}");
        assert!(decode(&[frame(b"before"), empty.to_vec()].concat(), piece, 100).is_err());
        assert_eq!(decode(&[right, right].concat(), piece, 100).unwrap().stream, b"xx");
    }
}

#[test]
fn frames_that_take_too_much_memory_or_a_dictionary_are_refused_by_name() {
    let large = filter(&["zstd", "--long=28", "-c"], b"small, but nobody knows").unwrap();
    let error = decode(&large, 1, 100).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("ZSTD_WINDOW_LOG_MAX"),
        "{error}"
    );
    let with_dictionary = [0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x50, 9, 1, 0, 0];
    let error = decode(&with_dictionary, 100, 100).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("dictionary 9"), "{error}");
    let reserved = [0x28, 0xb5, 0x2f, 0xfd, 0x08, 0x50, 1, 0, 0];
    assert_eq!(decode(&reserved, 100, 100).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_bomb_ends_at_its_limit() {
    let blob = frame(&vec![0; 3 << 20]);
    for (compressed_offset, stream_offset, limit) in [
        (10, STREAM_BYTES_FREE + STREAM_RATIO_MAX * 10, "STREAM_RATIO_MAX"),
        (1 << 40, LAYER_STREAM_BYTES_MAX - (2 << 20), "LAYER_STREAM_BYTES_MAX"),
    ] {
        let point = RestartPoint { compressed_offset, stream_offset, state: RestartState::FrameStart };
        let mut decoder = Decoder::resume(Codec::Zstd, &point).unwrap();
        let error = samples::feed(&mut decoder, &blob, 1 << 16, 1 << 20).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(limit), "{error}");
        assert!(decoder.decode(&blob, &mut [0; 10]).is_err() && decoder.finish().is_err());
    }
}

proptest! {
    #[test]
    fn any_split_of_input_and_output_gives_the_same_stream(
        lengths in prop::collection::vec(0_usize..40_000, 1..5),
        piece_in in 1_usize..5000,
        piece_out in 1_usize..5000,
    ) {
        let stream = samples::text(lengths.iter().sum());
        let mut rest = &stream[..];
        let mut blob = Vec::new();
        for length in lengths {
            blob.extend(frame(&rest[..length]));
            blob.extend(skippable(&rest[..length.min(9)], 2));
            rest = &rest[length..];
        }
        prop_assert!(decode(&blob, piece_in, piece_out).unwrap().stream == stream);
    }

    #[test]
    fn mutated_layers_are_an_error_or_the_same_stream(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..4),
        kind in 0_usize..4,
    ) {
        let stream = &samples::kinds(20_000)[kind].1;
        let mut blob = [frame(&stream[..9000]), skippable(b"x", 2), frame(&stream[9000..])].concat();
        let at = at.index(blob.len());
        for (byte, new) in blob[at..].iter_mut().zip(&bytes) {
            *byte ^= new;
        }
        // A frame may become a skippable one, or lose its checksum: then the tool reads it in the same way.
        if let Ok(decoded) = decode(&blob, 777, 999)
            && decoded.stream != *stream
        {
            prop_assert_eq!(filter(&["zstd", "-dc"], &blob), Some(decoded.stream));
        }
    }

    #[test]
    fn random_bytes_never_do_more_than_fail(
        mut blob in prop::collection::vec(any::<u8>(), 1..3000),
        piece_in in 1_usize..50,
        piece_out in 1_usize..50,
    ) {
        prop_assert!(decode(&blob, piece_in, piece_out).is_err());
        blob.splice(..0, FRAME_MAGIC.to_le_bytes());
        decode(&blob, piece_in, piece_out).ok();
        blob.splice(..4, SKIPPABLE_MAGIC.to_le_bytes());
        decode(&blob, piece_in, piece_out).ok();
    }
}
