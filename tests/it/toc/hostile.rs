//! Tables of contents made to harm, and what they are made with.

use std::io::Write as _;

use refmount::base::ErrorKind;
use refmount::layer::toc::Toc;
use refmount::layer::toc::estargz::{Footer, parse, read_toc};
use serde_json::{Value, json};

use crate::support::artifact::digest_of;

/// What gzip makes of `bytes`, as one member.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    digest_of(bytes).to_string()
}

/// A tar with one file.
pub(super) fn tar_of(name: &str, body: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(body);
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

/// A layer whose contents end at 1000.
const FOOTER: Footer = Footer { toc_offset: 1000, blob_bytes: 2000 };

fn read(entries: &Value) -> refmount::base::Result<Toc> {
    parse(json!({ "version": 1, "entries": entries }).to_string().as_bytes(), &FOOTER)
}

/// A file of 30 bytes at 100 with these fields set.
fn file(fields: &Value) -> Value {
    let mut file = json!({ "name": "file", "type": "reg", "size": 30, "offset": 100 });
    for (name, value) in fields.as_object().unwrap() {
        file[name] = value.clone();
    }
    file
}

fn chunk(offset: i64, chunk_offset: i64, chunk_size: i64) -> Value {
    json!({ "name": "file", "type": "chunk", "offset": offset, "chunkOffset": chunk_offset,
        "chunkSize": chunk_size })
}

#[test]
fn an_entry_that_lies_is_refused_by_its_name() {
    let cut = json!({ "chunkSize": 10 });
    let huge = i64::MAX;
    let lies = [
        // Names.
        json!([file(&json!({ "name": "../up" }))]),
        json!([file(&json!({ "name": "/root" }))]),
        json!([file(&json!({ "name": "a/../b" }))]),
        json!([file(&json!({ "name": "" }))]),
        json!([file(&json!({ "name": "a\u{0}b" }))]),
        json!([file(&json!({ "name": "a/" }))]),
        json!([file(&json!({ "name": "./" }))]),
        json!([file(&json!({ "name": "a".repeat(256) }))]),
        json!([{ "name": "l", "type": "symlink" }]),
        json!([{ "name": "l", "type": "hardlink", "linkName": "a\u{0}" }]),
        // Numbers.
        json!([file(&json!({ "size": -1 }))]),
        json!([file(&json!({ "offset": -1 }))]),
        json!([file(&json!({ "offset": 0 }))]),
        json!([file(&json!({ "innerOffset": -1 }))]),
        json!([file(&json!({ "mode": -1 }))]),
        json!([file(&json!({ "uid": -1 }))]),
        json!([file(&json!({ "gid": 1_u64 << 32 }))]),
        json!([file(&json!({ "modtime": "soon" }))]),
        json!([{ "name": "c", "type": "char", "devMajor": 1_u64 << 32 }]),
        json!([file(&json!({ "xattrs": { "user.a": "!" } }))]),
        json!([file(&json!({ "xattrs": { "": "" } }))]),
        json!([file(&json!({ "chunkDigest": "sha256:12" }))]),
        json!([file(&json!({ "chunkDigest": "md5:12" }))]),
        // Places: the table of contents itself, its middle, its end, far away.
        json!([file(&json!({ "offset": 1000 }))]),
        json!([file(&json!({ "offset": 1500 }))]),
        json!([file(&json!({ "offset": 2000 }))]),
        json!([file(&json!({ "offset": huge }))]),
        // Chunks: too few, too many, apart, on each other, without a file.
        json!([file(&json!({ "chunkSize": 29 }))]),
        json!([file(&json!({ "chunkSize": 31 }))]),
        json!([file(&json!({ "chunkSize": huge }))]),
        json!([file(&json!({ "chunkOffset": 1 }))]),
        json!([file(&cut), chunk(200, 10, 10)]),
        json!([file(&cut), chunk(200, 11, 19)]),
        json!([file(&cut), chunk(200, 9, 21)]),
        json!([file(&cut), chunk(200, 10, 21)]),
        json!([file(&cut), chunk(200, 10, huge)]),
        json!([file(&cut), chunk(200, -10, 20)]),
        json!([file(&cut), chunk(200, 10, -20)]),
        json!([file(&cut), chunk(0, 10, 20)]),
        json!([file(&cut), chunk(1000, 10, 20)]),
        json!([file(&cut), chunk(200, 10, 0), chunk(300, 30, 0)]),
        json!([file(&json!({})), chunk(200, 0, 30)]),
        json!([file(&json!({ "size": 0 })), chunk(200, 0, 1)]),
        json!([chunk(200, 0, 30)]),
        json!([file(&cut), { "name": "d", "type": "dir" }, chunk(200, 10, 20)]),
        json!([file(&cut), { "name": "other", "type": "chunk", "offset": 200, "chunkOffset": 10 }]),
    ];
    assert_eq!(
        read(&json!([file(&json!({ "chunkSize": 10 })), chunk(200, 10, 0)])).unwrap().stream_bytes,
        30
    );
    for lie in lies {
        let error = read(&lie).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{lie}: {}", error.chain());
    }
    let error = read(&json!([file(&json!({ "name": "../up" }))])).unwrap_err();
    assert!(error.chain().contains("../up"), "{}", error.chain());
}

#[test]
fn what_is_beyond_a_limit_is_named_by_it() {
    for (entry, limit) in [
        (json!({ "size": 1_i64 << 62, "chunkSize": 0 }), "LAYER_STREAM_BYTES_MAX"),
        (json!({ "size": i64::MAX }), "BLOB_BYTES_MAX"),
        (json!({ "innerOffset": i64::MAX }), "SPAN_SKIP_BYTES_MAX"),
        (json!({ "xattrs": { "a".repeat(256): "" } }), "XATTR_NAME_BYTES_MAX"),
    ] {
        let error = read(&json!([file(&entry)])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{entry}: {}", error.chain());
        assert!(error.chain().contains(limit), "{}", error.chain());
    }
    let error = read(&json!([file(&json!({ "chunkType": "delta" }))])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let many: Vec<Value> = (0..5).map(|_| file(&json!({ "size": 1_u64 << 40 }))).collect();
    assert!(read(&json!(many)).unwrap_err().to_string().contains("LAYER_STREAM_BYTES_MAX"));
}

#[test]
fn a_malformed_document_is_an_error_wherever_it_is_cut() {
    let right = json!({ "version": 1, "more": [{}], "entries": [
        file(&json!({ "xattrs": { "user.a": null }, "modtime": "2020-01-01T00:00:00Z", "x": 1 })),
        { "name": "./", "type": "dir", "xattrs": null, "modtime": null },
    ]})
    .to_string();
    let toc = parse(right.as_bytes(), &FOOTER).unwrap();
    assert_eq!((toc.entries.len(), toc.root.is_some()), (1, true));
    for cut in 0..right.len() {
        assert_eq!(parse(&right.as_bytes()[..cut], &FOOTER).unwrap_err().kind(), ErrorKind::Invalid, "{cut}");
    }
    for other in [
        "[]",
        "{}x",
        r#"{"version":1,"entries":{}}"#,
        r#"{"version":1,"entries":[],"entries":[]}"#,
        r#"{"version":1,"entries":[{"name":"a","name":"b","type":"dir"}]}"#,
        r#"{"version":1,"entries":[{"name":"a","type":"door"}]}"#,
        r#"{"version":1,"entries":[{"name":"a"}]}"#,
        r#"{"version":1,"entries":[{"name":"a","type":"reg","size":99999999999999999999}]}"#,
        r#"{"version":1,"entries":[{"name":"a","type":"reg","size":1.5}]}"#,
    ] {
        assert_eq!(parse(other.as_bytes(), &FOOTER).unwrap_err().kind(), ErrorKind::Invalid, "{other}");
    }
    for version in ["{}", r#"{"version":2,"entries":[]}"#] {
        assert_eq!(parse(version.as_bytes(), &FOOTER).unwrap_err().kind(), ErrorKind::Unsupported);
    }
    let empty = parse(br#"{"version":1,"entries":null}"#, &FOOTER).unwrap();
    assert_eq!((empty.entries.len(), empty.spans.count()), (0, 0));
}

#[test]
fn no_byte_of_a_document_can_lead_beyond_the_contents() {
    let right = json!({ "version": 1, "entries": [
        file(&json!({ "chunkSize": 10, "innerOffset": 7, "mode": 420, "xattrs": { "user.a": "dg==" } })),
        chunk(200, 10, 20),
        file(&json!({ "name": "next", "offset": 900, "chunkDigest": sha256(b"") })),
    ]})
    .to_string();
    let mut read = 0;
    for at in 0..right.len() {
        for value in [b'0', b'9', b'-', b'"', b'{', b',', b'.', b'e', 0, 0xff, right.as_bytes()[at] ^ 0x20] {
            let mut wrong = right.clone().into_bytes();
            wrong[at] = value;
            let Ok(toc) = parse(&wrong, &FOOTER) else { continue };
            read += 1;
            assert!(toc.spans.spans().all(|span| span.compressed_range().end <= 1000), "byte {at}");
            let sizes =
                toc.entries.iter().map(|entry| super::extents_of(&toc.entries, &entry.path.to_string()).0);
            assert_eq!(sizes.sum::<u64>(), toc.stream_bytes, "byte {at}");
        }
    }
    assert!(read > 100, "{read}");
}

#[test]
fn of_two_files_of_one_name_each_has_its_own_bytes() {
    let toc = read(&json!([file(&json!({})), file(&json!({ "size": 5, "offset": 50 }))])).unwrap();
    let sizes: Vec<_> = toc.entries.iter().map(|entry| entry.kind.clone()).collect();
    assert_eq!(sizes.len(), 2);
    let (last, spans) = (&toc.entries[1], toc.spans.spans().collect::<Vec<_>>());
    assert_eq!(super::extents_of(std::slice::from_ref(last), "file").0, 5);
    assert_eq!((spans[0].bytes, spans[0].compressed_range()), (5, 50..100));
    assert_eq!((spans[1].bytes, spans[1].compressed_range()), (30, 100..1000));
}

#[test]
fn what_holds_no_table_of_contents_is_refused() {
    let right = gzip(&tar_of("stargz.index.json", b"{}"));
    assert_eq!(read_toc(&right, None).unwrap(), b"{}");
    for cut in 0..right.len() {
        assert_eq!(read_toc(&right[..cut], None).unwrap_err().kind(), ErrorKind::Invalid, "{cut}");
    }
    for at in 0..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 0x10;
        // Some bits of a gzip mean nothing.
        assert!(read_toc(&wrong, None).map_or(true, |json| json == b"{}"), "byte {at}");
    }
    let two = [&tar_of("stargz.index.json", b"{}")[..1024], &tar_of("stargz.index.json", b"[]")].concat();
    let link = {
        let mut link = tar_of("stargz.index.json", b"");
        link[156] = b'5';
        link
    };
    for other in [tar_of("other", b"{}"), two, link, vec![0; 1024], b"no tar".repeat(200)] {
        assert_eq!(read_toc(&gzip(&other), None).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
