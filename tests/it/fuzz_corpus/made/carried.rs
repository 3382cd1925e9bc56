//! Seeds of the indexes that layers carry themselves.

use refmount::layer::encoding::Codec;
use refmount::layer::spans::{Span, SpanTableBuilder};
use refmount::layer::toc::estargz::{Footer, parse};

use super::{Seed, labelled, plain};
use crate::tar::archive::{archive, file};

/// A table of contents that both formats could hold, in places that the targets take for contents.
const TOC: &str = r#"{"version":1,"entries":[
{"name":"./","type":"dir","mode":493,"modtime":"2024-01-01T00:00:00Z"},
{"name":"a","type":"reg","size":30,"offset":100,"chunkSize":10,"mode":420,"xattrs":{"user.a":"dg=="},
"chunkDigest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
{"name":"a","type":"chunk","offset":200,"chunkOffset":10,"chunkSize":20,"innerOffset":5},
{"name":"b/c","type":"reg","size":2000000,"offset":900,"endOffset":5000},
{"name":"z","type":"reg","size":10,"offset":6000,"chunkType":"zeros"},
{"name":"l","type":"symlink","linkName":"../a"},
{"name":"h","type":"hardlink","linkName":"a"},
{"name":"n","type":"char","devMajor":1,"devMinor":3},
{"name":"e","type":"reg","uid":1,"gid":2}]}"#;

pub(super) fn estargz() -> Vec<Seed> {
    let read = parse(TOC.as_bytes(), &Footer { toc_offset: 7 << 20, blob_bytes: 8 << 20 });
    assert!(read.is_ok(), "{read:?}");
    let toc = plain(6, &archive(&[file("stargz.index.json", TOC.as_bytes())]));
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
    footer.extend_from_slice(format!("{:016x}STARGZ", 0).as_bytes());
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let none = br#"{"version":1,"entries":null}"#.to_vec();
    labelled([
        ("json", TOC.as_bytes().to_vec()),
        ("no-entries", none),
        ("compressed", toc.clone()),
        ("footer", [toc, footer].concat()),
    ])
}

pub(super) fn zstd_chunked() -> Vec<Seed> {
    labelled([
        ("position", b"7340040:1000:3000:1".to_vec()),
        ("json", TOC.as_bytes().to_vec()),
        ("compressed", ::zstd::bulk::compress(TOC.as_bytes(), 3).unwrap()),
    ])
}

/// Those that the tests of the reader write.
pub(super) fn ztoc() -> Vec<Seed> {
    crate::toc::soci::seeds()
}

pub(super) fn spans() -> Vec<Seed> {
    let span = |bytes, skip, codec, digest| Span {
        stream_offset: 0,
        bytes,
        compressed_offset: 100,
        compressed_bytes: 900,
        skip,
        digest,
        codec,
    };
    let some = [
        span(10, 0, Some(Codec::Gzip), Some([7; 32])),
        span(5000, 7, Some(Codec::Zstd), None),
        span(800, 100, None, Some([0; 32])),
    ];
    let table = |spans: &[Span]| {
        let mut builder = SpanTableBuilder::new();
        spans.iter().for_each(|span| builder.push(span).unwrap());
        builder.finish(1000).unwrap().bytes().to_vec()
    };
    labelled([("some", table(&some)), ("none", table(&[])), ("many", table(&vec![some[0].clone(); 50]))])
}
