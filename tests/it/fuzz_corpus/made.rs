//! Seeds of the fuzz targets: a few well-formed inputs of each, the same in every run.
//!
//! What is wrong in one place comes from the tests of the tar reader, which make such archives themselves.

use std::io::Write as _;

use flate2::{Compression, GzBuilder};
use refmount::base::{Algorithm, Digest, RelPath, chunk_count};
use refmount::layer::decoder::Decoder;
use refmount::layer::encoding::Codec;
use refmount::layer::gzip::GzipDecoder;
use refmount::layer::restart::{RestartPoint, RestartTable, RestartTableBuilder};
use refmount::layer::tar::{TarItem, TarReader};
use refmount::layer::{IndexParts, LayerIndex, LayerProof, LayerStream, SegmentProof};

use super::targets;
use crate::tar::archive::{Block, LINK, MAGIC, MAJOR, PREFIX, archive, entry, file, pax};
use crate::tar::splits::sample;

mod carried;
mod documents;

/// A label and the input.
type Seed = (String, Vec<u8>);

/// The seeds of the target `name`.
pub(super) fn seeds(name: &str) -> Vec<Seed> {
    match name {
        "estargz" => carried::estargz(),
        "gzip" => gzip(),
        "layer_index" => layer_index(),
        "manifest" => named(&documents::MANIFESTS),
        "proof" => proof(),
        "reference" => named(&documents::REFERENCES),
        "restart_table" => restart_table(),
        "seek_table" => seek_table(),
        "spans" => carried::spans(),
        "tar" => tar(),
        "zstd" => zstd(),
        "zstd_chunked" => carried::zstd_chunked(),
        "ztoc" => carried::ztoc(),
        _ => panic!("no seeds are made for {name}"),
    }
}

fn named(texts: &[(&str, &str)]) -> Vec<Seed> {
    texts.iter().map(|(label, text)| ((*label).to_owned(), text.as_bytes().to_vec())).collect()
}

fn labelled<const N: usize>(seeds: [(&str, Vec<u8>); N]) -> Vec<Seed> {
    seeds.into_iter().map(|(label, data)| (label.to_owned(), data)).collect()
}

/// A link, or anything else whose target stands in the header.
fn link(name: &str, kind: u8, target: &str) -> Vec<u8> {
    entry(Block::new(name, kind, 0).put(LINK, target.as_bytes()), b"")
}

fn directory(name: &str) -> Vec<u8> {
    entry(Block::new(name, b'5', 0), b"")
}

fn tar() -> Vec<Seed> {
    let oldest = |name: &str| entry(Block::new(name, 0, 3).put(MAGIC, &[0; 8]), b"old");
    let long = "directory/".repeat(20) + "name";
    let deep = "d/".repeat(1000);
    let gnu_long =
        |kind: u8, name: &str| entry(Block::new("L", kind, name.len() as u64).gnu(), name.as_bytes());
    let device = Block::new("null", b'3', 0).put(MAJOR, b"0000001").put(MAJOR + 8, b"0000003");
    labelled([
        ("sample", sample()),
        ("empty", archive(&[])),
        ("oldest", archive(&[oldest("a"), oldest("b"), directory("d/")])),
        ("ustar", archive(&[entry(Block::new("n", b'0', 2).put(PREFIX, b"p/q"), b"12"), entry(device, b"")])),
        (
            "gnu",
            archive(&[gnu_long(b'L', &long), gnu_long(b'K', &long), link("x", b'2', "y"), file("a", b"1")]),
        ),
        (
            "pax",
            archive(&[
                pax(b'g', &[("mtime", "1.25"), ("comment", "c")]),
                pax(b'x', &[("path", &long), ("linkpath", &long), ("uid", "4294967295")]),
                link("x", b'2', "y"),
                pax(b'x', &[("SCHILY.xattr.user.a%3Db", "1"), ("SCHILY.xattr.security.capability", "")]),
                file("a", b"1"),
            ]),
        ),
        ("deep", archive(&[pax(b'x', &[("path", &deep)]), directory("d")])),
        (
            "links-that-lead-out",
            archive(&[
                link("up", b'2', "../../../etc/passwd"),
                link("root", b'2', "/"),
                link("loop", b'2', "loop"),
                link("hard-out", b'1', "../x"),
                link("hard-absolute", b'1', "/etc/passwd"),
                link("hard-self", b'1', "hard-self"),
                link("hard-missing", b'1', "nothing"),
            ]),
        ),
        ("duplicates", archive(&[file("a", b"1"), file("a", &[2; 600]), file("./a", b"")])),
        (
            "file-then-directory",
            archive(&[file("a", b"1"), directory("a/"), file("a/b", b"2"), file("a", b"3")]),
        ),
        (
            "whiteouts",
            archive(&[
                file("d/.wh.a", b""),
                file("d/a", b"1"),
                file("d/.wh.b", b""),
                file("d/.wh..wh..opq", b""),
                file(".wh.d", b""),
            ]),
        ),
        ("many", archive(&vec![file("n", b""); 24])),
        (
            "sparse-records",
            archive(&[
                pax(
                    b'x',
                    &[
                        ("GNU.sparse.size", "2000"),
                        ("GNU.sparse.numblocks", "2"),
                        ("GNU.sparse.map", "0,512,1000,10"),
                    ],
                ),
                file("s", &[1; 522]),
            ]),
        ),
    ])
}

/// Words of which some come often.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(format!("{:x} ", (state >> 60) * (state >> 58)).as_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn member(builder: GzBuilder, level: u32, stream: &[u8]) -> Vec<u8> {
    let mut encoder = builder.write(Vec::new(), Compression::new(level));
    encoder.write_all(stream).unwrap();
    encoder.finish().unwrap()
}

/// A member without any fields in its header.
fn plain(level: u32, stream: &[u8]) -> Vec<u8> {
    member(GzBuilder::new(), level, stream)
}

fn gzip() -> Vec<Seed> {
    let text = text(30_000);
    let named = GzBuilder::new().filename("name").comment("comment").extra("extra").mtime(7);
    let mut flushed = flate2::write::GzEncoder::new(Vec::new(), Compression::new(6));
    for piece in text.chunks(700) {
        flushed.write_all(piece).unwrap();
        flushed.flush().unwrap();
    }
    let mut wrong = plain(6, b"wrong");
    let at = wrong.len() - 8;
    wrong[at] ^= 1;
    labelled([
        ("text", plain(9, &text)),
        ("stored", plain(0, &text[..1000])),
        ("fixed-codes", plain(6, b"abcabcabcabc")),
        ("empty", plain(6, b"")),
        ("zeros", plain(6, &[0; 300_000])),
        ("blocks", flushed.finish().unwrap()),
        ("header-fields", member(named, 6, b"content")),
        ("members", [plain(6, &text[..500]), plain(6, b""), plain(1, &text[500..900])].concat()),
        ("padded", [plain(6, b"padded"), vec![0; 600]].concat()),
        ("garbage-after", [plain(6, b"garbage"), b"garbage".to_vec()].concat()),
        ("truncated", plain(6, &text)[..2000].to_vec()),
        ("wrong-crc", wrong),
    ])
}

fn frame(stream: &[u8], checksum: bool) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(checksum).unwrap();
    encoder.write_all(stream).unwrap();
    encoder.finish().unwrap()
}

fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
    [&[0x50 | number, 0x2a, 0x4d, 0x18], (content.len() as u32).to_le_bytes().as_slice(), content].concat()
}

fn zstd() -> Vec<Seed> {
    let text = text(30_000);
    let sized = |stream: &[u8]| ::zstd::bulk::compress(stream, 3).unwrap();
    // Far enough apart to be noted.
    let frames: Vec<u8> = (0..3).flat_map(|_| frame(&[0; 700_000], false)).collect();
    labelled([
        ("text", frame(&text, false)),
        ("checksum", frame(&text[..2000], true)),
        ("sized", sized(&text[..300])),
        ("empty", frame(b"", false)),
        ("frames", frames),
        ("skippable", [skippable(0, b"before"), sized(b"content"), skippable(15, b"")].concat()),
        ("only-skippable", skippable(14, b"nothing")),
        ("truncated", frame(&text, false)[..1000].to_vec()),
        ("garbage-after", [sized(b"content"), b"garbage".to_vec()].concat()),
        ("dictionary", vec![0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x50, 9, 1, 0, 0]),
        ("huge-window", vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0]),
    ])
}

fn seek_table() -> Vec<Seed> {
    let table = |frames: &[(u32, u32)], checksums: bool| {
        let mut content = Vec::new();
        for (compressed_bytes, stream_bytes) in frames {
            content.extend_from_slice(&compressed_bytes.to_le_bytes());
            content.extend_from_slice(&stream_bytes.to_le_bytes());
            content.extend_from_slice(if checksums { &[0xee; 4] } else { &[] });
        }
        content.extend_from_slice(&(frames.len() as u32).to_le_bytes());
        content.push(if checksums { 0x80 } else { 0 });
        content.extend_from_slice(&0x8f92_eab1_u32.to_le_bytes());
        skippable(14, &content)
    };
    let some = [(100, 1 << 20), (200, 1 << 19), (300, 1 << 19), (400, 3 << 20), (17, 0)];
    labelled([
        ("frames", table(&some, false)),
        ("checksums", table(&some, true)),
        ("none", table(&[], false)),
        ("large", table(&[(u32::MAX, u32::MAX); 40], false)),
        ("no-content", table(&[(9, 0), (9, 0)], true)),
        ("no-bytes", table(&[(0, 5)], false)),
    ])
}

/// The table of a whole pass over `blob`.
fn table_of(mut decoder: Decoder, codec: Codec, blob: &[u8]) -> RestartTable {
    let mut builder = RestartTableBuilder::new(codec);
    let mut output = vec![0; 4 << 20];
    let progress = decoder.decode(blob, &mut output).unwrap();
    decoder.finish().unwrap();
    decoder.take_points().iter().for_each(|point| builder.push(point));
    builder.finish(blob.len() as u64, progress.written as u64).unwrap()
}

fn gzip_table(spacing: u64) -> RestartTable {
    let (_, blob) = gzip().into_iter().find(|(label, _)| label == "blocks").unwrap();
    table_of(Decoder::Gzip(GzipDecoder::with_spacing(spacing).unwrap()), Codec::Gzip, &blob)
}

fn restart_table() -> Vec<Seed> {
    let (_, frames) = zstd().into_iter().find(|(label, _)| label == "frames").unwrap();
    let zstd = table_of(Decoder::new(Codec::Zstd).unwrap(), Codec::Zstd, &frames);
    let mut start = RestartTableBuilder::new(Codec::Gzip);
    start.push(&RestartPoint::START);
    labelled([
        ("gzip", gzip_table(10_000).bytes().to_vec()),
        ("gzip-often", gzip_table(2_000).bytes().to_vec()),
        ("zstd", zstd.bytes().to_vec()),
        ("start", start.finish(30, 10).unwrap().bytes().to_vec()),
    ])
}

fn proof() -> Vec<Seed> {
    let of = |algorithm, segments: &[(u32, u64)]| {
        let proof = |bytes: u64| {
            let digests = (0..chunk_count(bytes)).map(|chunk| [chunk as u8; 32]).collect();
            SegmentProof::new(bytes, digests).unwrap()
        };
        let segments = segments.iter().map(|(number, bytes)| (*number, proof(*bytes))).collect();
        LayerProof::of_segments(Digest::of(algorithm, b"layer"), segments).encode()
    };
    labelled([
        ("none", of(Algorithm::Sha256, &[])),
        ("empty", of(Algorithm::Sha256, &[(0, 0)])),
        ("one", of(Algorithm::Sha256, &[(0, 1)])),
        ("several", of(Algorithm::Sha512, &[(0, (5 << 20) + 1), (1, 1 << 20), (7, 9)])),
    ])
}

/// The index of the archive `stream`, which is had through `table` if there is one.
fn index_of(stream: &[u8], table: Option<RestartTable>) -> Vec<u8> {
    let mut reader = TarReader::new();
    let (mut root, mut entries) = (None, Vec::new());
    let mut rest = stream;
    while !rest.is_empty() {
        let fed = reader.feed(rest).unwrap();
        rest = &rest[fed.taken..];
        match fed.item {
            Some(TarItem::Root(attributes)) => root = Some(attributes),
            Some(TarItem::Entry(entry)) => entries.push(entry),
            None => {}
        }
    }
    let stream_bytes = table.as_ref().map_or(stream.len() as u64, RestartTable::stream_bytes);
    let parts = IndexParts {
        layer: targets::layer_index::layer(),
        blob_bytes: table.as_ref().map_or(stream_bytes, RestartTable::compressed_bytes),
        stream_bytes,
        diff_id: Some(Digest::of(Algorithm::Sha256, stream)),
        stream: table.map_or(LayerStream::Plain, LayerStream::Restart),
        root,
        entries,
        members: Vec::new(),
        warnings: vec!["this may surprise".to_owned()],
        carried: Some("estargz".to_owned()),
        trusted: true,
    };
    let index = LayerIndex::new(parts).unwrap();
    assert!((0..index.len()).all(|at| RelPath::parse(index.entry(at).path).is_ok()));
    index.bytes().to_vec()
}

fn layer_index() -> Vec<Seed> {
    let (sample, empty) = (sample(), archive(&[]));
    labelled([
        ("plain", index_of(&sample, None)),
        ("gzip", index_of(&sample, Some(gzip_table(10_000)))),
        ("empty", index_of(&empty, None)),
    ])
}
