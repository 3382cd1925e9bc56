//! Layers that carry an index of their own, through whatever their sources do.

use super::*;

use refmount::base::{Algorithm, ErrorKind};
use serde_json::json;

use crate::support::memory_source::Fault;

const BEFORE_READ: ContentSettings = ContentSettings { verify_before_read: true, ..SETTINGS };

/// The sample as an eStargz layer: a gzip member for each chunk, and the digests of those for which `has_digest`.
fn estargz(has_digest: impl Fn(&str) -> bool) -> Site {
    let plain = sample(Packing::Plain);
    let mut blob = Vec::new();
    let mut entries = Vec::new();
    for (name, bytes) in &plain.files {
        let header = crate::tar::archive::file(name, bytes);
        blob.extend(gzip(&header[..512]));
        let digest = has_digest(name).then(|| Digest::of(Algorithm::Sha256, bytes));
        let mut entry = json!({ "name": name, "type": "reg", "size": bytes.len() });
        if !bytes.is_empty() {
            entry["offset"] = blob.len().into();
            entry["chunkDigest"] = digest.map_or("".into(), |digest| digest.to_string()).into();
            blob.extend(gzip(bytes));
        }
        entries.push(entry);
        blob.extend(gzip(&vec![0; header.len() - 512 - bytes.len()]));
    }
    let toc = json!({ "version": 1, "entries": entries }).to_string();
    let toc_offset = blob.len();
    let toc_tar =
        crate::tar::archive::archive(&[crate::tar::archive::file("stargz.index.json", toc.as_bytes())]);
    blob.extend(gzip(&toc_tar));
    blob.extend(crate::toc::estargz::footer_of(toc_offset as u64));
    let mut site = Site::new(Sample { blob, ..plain });
    site.own_index = Some(OwnIndex::Estargz(Digest::of(Algorithm::Sha256, toc.as_bytes())));
    site
}

/// The sample as frames of zstd, and a table of them.
fn seekable() -> Site {
    let plain = sample(Packing::Plain);
    let (mut blob, mut table) = (Vec::new(), Vec::new());
    for part in plain.tar.chunks(300_000) {
        let frame = zstd::encode_all(part, 1).unwrap();
        table.extend((frame.len() as u32).to_le_bytes());
        table.extend((part.len() as u32).to_le_bytes());
        blob.extend(frame);
    }
    let frames = table.len() as u32 / 8;
    table.extend(frames.to_le_bytes());
    table.push(0);
    table.extend(0x8f92_eab1_u32.to_le_bytes());
    blob.extend(0x184d_2a5e_u32.to_le_bytes());
    blob.extend((table.len() as u32).to_le_bytes());
    blob.extend(table);
    Site::new(Sample { blob, ..plain })
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_table_of_contents_are_proven_one_by_one() {
    for settings in [SETTINGS, BEFORE_READ] {
        let site = estargz(|_| true);
        let layers = site.layers(&site.cache(64));
        let mount = site.open_with(&layers, settings);
        let index = mount.index().await;
        assert_eq!(index.carried(), Some("estargz"));
        let small = body(&index, "a/small");
        // Neither what is wrong once nor what the source does not serve gets through.
        site.source.schedule([Fault::WrongByte(100), Fault::WrongByte(100), Fault::Whole]);
        let read = mount.content.read(&small, 0..5000).await;
        assert!(read.is_err() || read.is_ok_and(|read| read == site.sample.files[1].1));
        site.source.clear_faults();
        site.read_all(&mount).await;
        assert!(mount.layer.is_proven());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_contents_that_leaves_chunks_unproven_is_not_used() {
    for settings in [SETTINGS, BEFORE_READ] {
        let site = estargz(|name| name != "tail");
        let layers = site.layers(&site.cache(64));
        let mount = site.open_with(&layers, settings);
        let index = mount.index().await;
        assert_eq!(index.carried(), None);
        assert!(index.warnings().iter().any(|warning| warning.contains("no digest of the chunk")));
        site.read_all(&mount).await;
        assert!(mount.layer.is_proven());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_layer_with_a_seek_table_can_be_broken_off_and_done_again() {
    let site = seekable();
    let layers = site.layers(&site.cache(64));
    let mount = site.open_with(&layers, BEFORE_READ);
    let index = mount.index().await;
    assert_eq!(index.carried(), Some("seek table"));
    let small = body(&index, "a/small");
    // All entries are found again before it breaks off.
    let end = site.sample.blob.len() as u64;
    site.source.schedule([Fault::Truncated(end - 200), Fault::Refused(ErrorKind::NotFound)]);
    let error = mount.content.read(&small, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    site.read_all(&mount).await;
    assert!(mount.layer.is_proven());
}
