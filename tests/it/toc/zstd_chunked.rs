//! zstd:chunked: what skopeo and containerd's converter make, and holes.

use std::collections::BTreeMap;

use refmount::base::ErrorKind;
use refmount::layer::Extents;
use refmount::layer::encoding::Codec;
use refmount::layer::toc::Toc;
use refmount::layer::toc::zstd_chunked::{Position, parse, position, read_toc};
use serde_json::json;

use super::hostile::sha256;
use super::writers::{Layer, containerd_converts, skopeo_compresses};
use super::{assert_members, decompressed, rounded, shown, tar_entries, tree, unchanged, virtual_stream};

fn toc_of(layer: &Layer) -> (Position, Toc) {
    let blob_bytes = layer.blob.len() as u64;
    let position = position(&layer.annotations, blob_bytes).unwrap().unwrap();
    let range = position.toc_range();
    let place = |offset| usize::try_from(offset).unwrap();
    let json = read_toc(&layer.blob[place(range.start)..place(range.end)], &position).unwrap();
    let toc = parse(&json, &position, blob_bytes).unwrap();
    (position, toc)
}

#[test]
fn what_skopeo_compresses_has_the_entries_and_the_bytes_of_its_tar() {
    let layer = skopeo_compresses(&tree());
    let (position, toc) = toc_of(&layer);
    let stream = decompressed(&layer.blob, Codec::Zstd);
    let content = virtual_stream(&layer.blob, &toc.spans);
    let mut expected = shown(&tar_entries(&stream), &stream, unchanged);
    let (spaces, _) = expected.get_mut("sub/spaces").unwrap();
    assert!(std::mem::take(&mut spaces.xattrs).iter().all(|xattr| xattr.value.is_empty()), "Go loses these");
    assert_eq!(shown(&toc.entries, &content, unchanged), expected);
    assert_eq!(expected.len(), 11);
    assert!(toc.spans.count() > 100, "{}", toc.spans.count());
    assert_members(&toc);
    let error = read_toc(&layer.blob[..10], &position).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn what_containerd_converts_to_zstd_has_the_entries_and_the_bytes_of_its_tar() {
    let layer = containerd_converts(&tree(), &["--zstdchunked"]);
    let (_, toc) = toc_of(&layer);
    let stream = decompressed(&layer.blob, Codec::Zstd);
    let content = virtual_stream(&layer.blob, &toc.spans);
    assert_eq!(shown(&toc.entries, &content, unchanged), shown(&tar_entries(&stream), &stream, rounded));
    assert_members(&toc);
}

/// A layer with a file of zeros between two pieces, and one that is nothing but zeros.
fn with_holes() -> (Layer, Vec<u8>) {
    let (first, last) = (vec![1; 5000], vec![2; 70]);
    let mut blob = zstd::bulk::compress(b"a header", 3).unwrap();
    let mut offsets = Vec::new();
    for chunk in [&first, &vec![0; 4096], &last] {
        offsets.push(blob.len());
        blob.extend_from_slice(&zstd::bulk::compress(chunk, 3).unwrap());
    }
    let end = blob.len();
    let file = [&first[..], &[0; 4096], &last].concat();
    let json = json!({ "version": 1, "tarSplitDigest": "ignored", "entries": [
        { "type": "reg", "name": "holes", "size": file.len(), "offset": offsets[0], "endOffset": end,
          "digest": sha256(&file), "chunkSize": 5000, "chunkDigest": sha256(&first) },
        { "type": "chunk", "name": "holes", "offset": offsets[1], "chunkOffset": 5000, "chunkSize": 4096,
          "chunkType": "zeros", "chunkDigest": sha256(&[0; 4096]) },
        { "type": "chunk", "name": "holes", "offset": offsets[2], "chunkOffset": 9096, "chunkSize": 70,
          "chunkDigest": sha256(&last) },
        { "type": "reg", "name": "nothing", "size": 9, "offset": offsets[1], "endOffset": offsets[2],
          "chunkSize": 9, "chunkType": "zeros" },
    ]})
    .to_string();
    let packed = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
    blob.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18]);
    blob.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    let place = format!("{}:{}:{}:1", blob.len(), packed.len(), json.len());
    blob.extend_from_slice(&packed);
    let annotations = BTreeMap::from([
        ("io.github.containers.zstd-chunked.manifest-position".to_owned(), place),
        ("io.github.containers.zstd-chunked.manifest-checksum".to_owned(), sha256(&packed)),
    ]);
    (Layer { blob, annotations }, file)
}

#[test]
fn chunks_of_zeros_are_holes_that_nobody_reads() {
    let (layer, file) = with_holes();
    let (_, toc) = toc_of(&layer);
    let stream = virtual_stream(&layer.blob, &toc.spans);
    assert_eq!(stream.len(), 5070);
    let (size, extents) = super::extents_of(&toc.entries, "holes");
    assert_eq!(super::content(&stream, size, extents), file);
    let (size, extents) = super::extents_of(&toc.entries, "nothing");
    assert!(matches!(extents, Extents::Sparse(pieces) if size == 9 && pieces.is_empty()), "{extents:?}");
}

#[test]
fn annotations_that_place_it_nowhere_are_refused() {
    let (layer, _) = with_holes();
    let blob_bytes = layer.blob.len() as u64;
    assert_eq!(position(&BTreeMap::new(), blob_bytes).unwrap(), None);
    let name = "io.github.containers.zstd-chunked.manifest-position";
    let right = &layer.annotations[name];
    let kind_of = |place: &str| {
        let mut annotations = layer.annotations.clone();
        annotations.insert(name.to_owned(), place.to_owned());
        position(&annotations, blob_bytes).map_err(|error| error.kind())
    };
    assert!(kind_of(right).is_ok());
    for wrong in [
        "",
        "1:2:3",
        "1:2:3:1:1",
        "-8:2:3:1",
        "+8:2:3:1",
        "8: 2:3:1",
        "7:2:3:1",
        "8:0:3:1",
        "8:99999:3:1",
        "18446744073709551615:9:9:1",
        "99999999999999999999:1:1:1",
    ] {
        assert_eq!(kind_of(wrong), Err(ErrorKind::Invalid), "{wrong}");
    }
    for unknown in ["8:2:3:2", "8:2:999999999999:1", "8:999999999999:2:1"] {
        assert_eq!(kind_of(unknown), Err(ErrorKind::Unsupported), "{unknown}");
    }
    let mut alone = layer.annotations.clone();
    alone.retain(|key, _| key == name);
    assert_eq!(position(&alone, blob_bytes).unwrap_err().kind(), ErrorKind::Invalid);
    let (right, _) = toc_of(&layer);
    let range = usize::try_from(right.offset).unwrap()..usize::try_from(right.toc_range().end).unwrap();
    for json_bytes in [right.json_bytes - 1, right.json_bytes + 1] {
        let other = Position { json_bytes, ..right.clone() };
        assert_eq!(read_toc(&layer.blob[range.clone()], &other).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
