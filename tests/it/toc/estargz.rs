//! eStargz: what containerd's converter makes, and what newer ones do that it does not.

use refmount::base::{Digest, ErrorKind};
use refmount::layer::encoding::Codec;
use refmount::layer::toc::Toc;
use refmount::layer::toc::estargz::{FOOTER_BYTES, Footer, TOC_DIGEST, footer, parse, read_toc};
use refmount::layer::{EntryKind, Extents};
use serde_json::{Value, json};

use super::hostile::{gzip, sha256, tar_of};
use super::writers::containerd_converts;
use super::{assert_members, decompressed, rounded, shown, tar_entries, tree, virtual_stream};

/// Reads the table of contents of `blob` as a mount would.
pub(super) fn toc_of(blob: &[u8], digest: Option<&Digest>) -> (Footer, Toc) {
    let last = &blob[blob.len() - FOOTER_BYTES..];
    let footer = footer(last, blob.len() as u64).unwrap().unwrap();
    let range = footer.toc_range();
    let place = |offset| usize::try_from(offset).unwrap();
    let json = read_toc(&blob[place(range.start)..place(range.end)], digest).unwrap();
    (footer, parse(&json, &footer).unwrap())
}

#[test]
fn what_containerd_converts_has_the_entries_and_the_bytes_of_its_tar() {
    let layer = containerd_converts(&tree(), &["--estargz", "--estargz-chunk-size", "1000000"]);
    let digest: Digest = layer.annotations[TOC_DIGEST].parse().unwrap();
    let (footer, toc) = toc_of(&layer.blob, Some(&digest));
    let stream = decompressed(&layer.blob, Codec::Gzip);
    let mut expected = shown(&tar_entries(&stream), &stream, rounded);
    for hidden in ["stargz.index.json", ".no.prefetch.landmark"] {
        assert!(expected.remove(hidden).is_some(), "{hidden}");
    }
    let content = virtual_stream(&layer.blob, &toc.spans);
    assert_eq!(shown(&toc.entries, &content, |time| time), expected);
    assert_eq!(expected.len(), 11);
    assert_eq!(toc.root.as_ref().unwrap().mode, 0o751);
    assert!(toc.spans.count() > 9, "{}", toc.spans.count());
    assert_members(&toc);
    assert_eq!(toc.warnings, Vec::<String>::new());
    let wrong = Digest::of(refmount::base::Algorithm::Sha256, b"");
    let range = usize::try_from(footer.toc_offset).unwrap()..layer.blob.len() - FOOTER_BYTES;
    let error = read_toc(&layer.blob[range], Some(&wrong)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// A blob with these members, whose offsets `entries` gets, and its table of contents.
fn blob_of(members: &[&[u8]], entries: impl Fn(&[u64]) -> Value) -> Vec<u8> {
    let mut blob = gzip(b"what stands before");
    let mut offsets = Vec::new();
    for member in members {
        offsets.push(blob.len() as u64);
        blob.extend_from_slice(&gzip(member));
    }
    let toc_offset = blob.len();
    let json = json!({ "version": 1, "entries": entries(&offsets) }).to_string();
    blob.extend_from_slice(&gzip(&tar_of("stargz.index.json", json.as_bytes())));
    blob.extend_from_slice(&footer_of(toc_offset as u64));
    blob
}

pub(crate) fn footer_of(toc_offset: u64) -> Vec<u8> {
    let mut footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0".to_vec();
    footer.extend_from_slice(format!("{toc_offset:016x}STARGZ").as_bytes());
    footer.extend_from_slice(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    footer
}

#[test]
fn files_that_share_a_gzip_member_are_found_inside_it() {
    // The form of --estargz-min-chunk-size: headers and padding of the tar lie between them.
    let shared = [&[1; 300][..], &[0; 212], &[9; 512], &[2; 1000], &[9; 24], &[3; 50]].concat();
    let blob = blob_of(&[&shared, &[4; 2000]], |offsets| {
        json!([
            { "name": "c", "type": "reg", "size": 2050, "offset": offsets[0], "innerOffset": 2048,
              "chunkSize": 50, "chunkDigest": sha256(&[3; 50]) },
            { "name": "c", "type": "chunk", "offset": offsets[1], "chunkOffset": 50,
              "chunkDigest": sha256(&[4; 2000]) },
            { "name": "b", "type": "reg", "size": 1000, "offset": offsets[0], "innerOffset": 1024,
              "digest": sha256(&[2; 1000]) },
            { "name": "a", "type": "reg", "size": 300, "offset": offsets[0], "chunkDigest": sha256(&[1; 300]) },
            { "name": "a\u{fffd}", "type": "hardlink", "linkName": "a" },
        ])
    });
    let (_, toc) = toc_of(&blob, None);
    let stream = virtual_stream(&blob, &toc.spans);
    assert_eq!(stream, [&[1; 300][..], &[2; 1000], &[3; 50], &[4; 2000]].concat());
    let kinds: Vec<_> = toc.entries.iter().map(|entry| &entry.kind).collect();
    let file = |size, stream_offset| EntryKind::File { size, extents: Extents::Contiguous { stream_offset } };
    assert_eq!(kinds[..3], [&file(2050, 1300), &file(1000, 300), &file(300, 0)]);
    let skips: Vec<_> = toc.spans.spans().map(|span| span.skip).collect();
    assert_eq!(skips, [0, 1024, 2048, 0]);
    // The end of a member is the beginning of the next one that is known of, or of the table of contents.
    let ends: Vec<_> = toc.spans.spans().map(|span| span.compressed_range().end).collect();
    assert_eq!((ends[0], ends[1], ends[2]), (ends[0], ends[0], ends[0]));
    assert_eq!(ends[3], toc_of(&blob, None).0.toc_offset);
    assert!(toc.warnings[0].contains("UTF-8"), "{:?}", toc.warnings);
}

#[test]
fn a_file_whose_chunks_are_apart_is_in_pieces() {
    let blob = blob_of(&[b"one", b"between", b"two"], |offsets| {
        json!([
            { "name": "apart", "type": "reg", "size": 6, "offset": offsets[2], "chunkSize": 3 },
            { "name": "apart", "type": "chunk", "offset": offsets[0], "chunkOffset": 3 },
            { "name": "other", "type": "reg", "size": 7, "offset": offsets[1] },
            { "name": "empty", "type": "reg" },
        ])
    });
    let (_, toc) = toc_of(&blob, None);
    let stream: Vec<u8> = toc.spans.spans().flat_map(|span| super::decoded(&blob, &span)).collect();
    assert_eq!(stream, b"onebetweentwo");
    let (size, extents) = super::extents_of(&toc.entries, "apart");
    assert_eq!(super::content(&stream, size, extents), b"twoone");
    assert!(matches!(extents, Extents::Sparse(pieces) if pieces.len() == 2), "{extents:?}");
    assert_eq!(super::extents_of(&toc.entries, "empty"), (0, &Extents::Contiguous { stream_offset: 0 }));
    assert!(toc.spans.spans().all(|span| span.digest.is_none()));
}

#[test]
fn other_ends_of_a_gzip_are_no_footers() {
    let right = footer_of(5);
    assert_eq!(footer(&right, 100).unwrap().unwrap().toc_range(), 5..49);
    assert_eq!(footer(&[b"before", &right[..]].concat(), 100).unwrap().unwrap().toc_offset, 5);
    assert_eq!(footer(&right[1..], 100).unwrap(), None);
    for at in [0, 3, 10, 12, 14, 32, 37] {
        let mut other = right.clone();
        other[at] ^= 1;
        assert_eq!(footer(&other, 100).unwrap(), None, "byte {at}");
    }
    for toc_offset in [49, 100, u64::MAX] {
        assert_eq!(footer(&footer_of(toc_offset), 100).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let mut signed = right.clone();
    signed[16] = b'+';
    assert_eq!(footer(&signed, 100).unwrap_err().kind(), ErrorKind::Invalid);
    let error = footer(&right, 1 << 40).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("TOC_BYTES_MAX"), "{error}");
    let mut legacy = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x16\x000000000000000005STARGZ".to_vec();
    legacy.extend_from_slice(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    assert_eq!(legacy.len(), 47);
    assert_eq!(footer(&legacy, 100).unwrap_err().kind(), ErrorKind::Unsupported);
}
