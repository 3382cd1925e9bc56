//! Layers with an index of their own: nothing is passed over, and nothing is believed that was not checked.

use super::*;

use std::sync::Mutex;

use refmount::base::{Algorithm, ErrorKind};
use refmount::content::Standing;
use refmount::oci::Descriptor;
use serde_json::json;

use crate::support::memory_source::Fault;
use crate::tar::archive::{Block, file};
use crate::toc::estargz::footer_of;

const BEFORE_READ: ContentSettings = ContentSettings { verify_before_read: true, ..SETTINGS };

/// Bytes of a chunk of the eStargz layers here: not ours.
const PART_BYTES: usize = 1_300_000;

/// An eStargz layer of `files`, and the digest of its table of contents, which has the digests of the chunks of those
/// for which `has_digest`.
pub(crate) fn estargz(
    files: &[(&'static str, Vec<u8>)],
    has_digest: impl Fn(&str) -> bool,
) -> (Vec<u8>, Digest) {
    let (mut blob, mut entries) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        blob.extend(gzip(&Block::new(name, b'0', bytes.len() as u64).0));
        for (at, part) in bytes.chunks(PART_BYTES).enumerate() {
            let digest = has_digest(name).then(|| Digest::of(Algorithm::Sha256, part).to_string());
            entries.push(json!({
                "name": name, "type": if at == 0 { "reg" } else { "chunk" }, "size": bytes.len(),
                "offset": blob.len(), "chunkOffset": at * PART_BYTES, "chunkSize": part.len(),
                "chunkDigest": digest.unwrap_or_default(), "mode": 0o644,
            }));
            blob.extend(gzip(part));
        }
        if bytes.is_empty() {
            entries.push(json!({ "name": name, "type": "reg", "mode": 0o644 }));
        }
        blob.extend(gzip(&vec![0; bytes.len().next_multiple_of(512) - bytes.len()]));
    }
    let toc_offset = blob.len() as u64;
    let toc = json!({ "version": 1, "entries": entries }).to_string();
    let mut end = file("stargz.index.json", toc.as_bytes());
    end.resize(end.len() + 1024, 0);
    blob.extend(gzip(&end));
    blob.extend(footer_of(toc_offset));
    (blob, Digest::of(Algorithm::Sha256, toc.as_bytes()))
}

/// The sample as an eStargz layer that the manifest vouches for.
fn estargz_site(has_digest: impl Fn(&str) -> bool) -> Site {
    let files = sample(Packing::Plain).files;
    let (blob, toc) = estargz(&files, has_digest);
    let mut site = Site::new(Sample { files, tar: Vec::new(), blob });
    site.own_index = Some(OwnIndex::Estargz(toc));
    site
}

/// `tar` as frames of zstd, and a table of them; and where in it the sizes of the first frame stand, as they are packed and
/// as they are not.
pub(crate) fn seekable(tar: &[u8]) -> (Vec<u8>, usize) {
    let (mut blob, mut table) = (Vec::new(), Vec::new());
    for frame in tar.chunks(2_000_000) {
        let compressed = zstd::encode_all(frame, 1).unwrap();
        table.extend((compressed.len() as u32).to_le_bytes());
        table.extend((frame.len() as u32).to_le_bytes());
        blob.extend(compressed);
    }
    let frames = (table.len() / 8) as u32;
    table.extend([&frames.to_le_bytes()[..], &[0], &0x8f92_eab1_u32.to_le_bytes()].concat());
    blob.extend([&0x184d_2a5e_u32.to_le_bytes()[..], &(table.len() as u32).to_le_bytes()].concat());
    let sizes = blob.len();
    blob.extend(table);
    (blob, sizes)
}

/// The sample in that form.
fn seekable_site() -> Site {
    let mut sample = sample(Packing::Plain);
    sample.blob = seekable(&sample.tar).0;
    Site::new(sample)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_contents_that_the_manifest_vouches_for_proves_every_chunk() {
    let site = estargz_site(|_| true);
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let index = mount.index().await;
    assert_eq!(
        (index.carried(), index.is_trusted(), index.len()),
        (Some("estargz"), true, site.sample.files.len())
    );
    assert!(mount.content.network_bytes() < 4096, "{} bytes for the index", mount.content.network_bytes());
    let large = body(&index, "model-1.bin");
    let part = mount.read(&large, 5 * CHUNK_BYTES..5 * CHUNK_BYTES + 10).await;
    assert!(part == site.sample.files[2].1[5 * CHUNK_BYTES as usize..][..10]);
    until("the chunk is kept", || mount.content.standing(&large) == Standing::Proven).await;
    assert!(mount.content.network_bytes() < 4 * PART_BYTES as u64);
    site.read_all(&mount).await;
    until("all of it is stored", || mount.content.direct(&large).is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_with_a_wrong_byte_is_fetched_again_and_never_served() {
    let site = estargz_site(|_| true);
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let large = body(&*mount.index().await, "model-1.bin");
    site.source.schedule([Fault::WrongByte(700_000)]);
    assert!(mount.read(&large, 0..1000).await == site.sample.files[2].1[..1000]);
    assert_eq!(mount.content.rejected_chunks(), 1);
    site.source.schedule(vec![Fault::WrongByte(700_000); 8]);
    let error = mount.content.read(&large, 6 * CHUNK_BYTES..6 * CHUNK_BYTES + 9).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_contents_that_is_not_the_one_vouched_for_is_not_used() {
    let mut site = estargz_site(|_| true);
    site.own_index = Some(OwnIndex::Estargz(Digest::of(Algorithm::Sha256, b"another")));
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let index = mount.index().await;
    assert!(index.warnings()[0].contains("is not used"), "{:?}", index.warnings());
    assert_eq!((index.carried(), index.len()), (None, site.sample.files.len()), "its own parts do not show");
    site.read_all(&mount).await;
    // What is said of it by one manifest is nothing to another.
    site.own_index = None;
    let plain = site.open(&layers);
    assert_eq!(plain.index().await.len(), site.sample.files.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_table_makes_the_frames_places_to_begin_in() {
    let site = seekable_site();
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let index = mount.index().await;
    assert_eq!((index.carried(), index.is_trusted()), (Some("seek table"), false));
    assert!(mount.content.network_bytes() < site.sample.blob.len() as u64, "no pass over it");
    let small = body(&index, "config.json");
    until("what was read of it is stored", || mount.content.standing(&small) != Standing::Absent).await;
    assert_eq!(mount.content.standing(&small), Standing::Pending);
    site.read_all(&mount).await;
    // Nothing is proven by that; whoever wants it checked gets all of it checked.
    let checked = site.open_with(&layers, BEFORE_READ);
    site.read_all(&checked).await;
    assert_eq!(checked.content.standing(&body(&index, "model-2.bin")), Standing::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ztoc_saves_the_pass_and_vouches_for_nothing() {
    let files = sample(Packing::Plain).files;
    let packed = packed(files, Packing::Plain);
    let (blob, ztoc) = crate::toc::soci::layer_and_ztoc(packed.tar.clone());
    let (source, digests) = MemorySource::new([blob.clone(), ztoc.clone()]);
    let sample = Sample { blob, ..packed };
    let digest = digests[0].clone();
    let descriptor = Descriptor::new("application/octet-stream", digests[1].clone(), ztoc.len() as u64);
    let site = Site {
        sample,
        digest,
        source: Arc::new(source),
        own_index: Some(OwnIndex::Soci(descriptor)),
        directory: tempfile::tempdir().unwrap(),
    };
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let index = mount.index().await;
    assert_eq!((index.carried(), index.is_trusted()), (Some("soci"), false));
    assert_eq!(mount.content.network_bytes(), ztoc.len() as u64);
    let large = body(&index, "model-1.bin");
    assert!(
        mount.read(&large, 7 * CHUNK_BYTES..8 * CHUNK_BYTES).await
            == site.sample.files[2].1[7 << 20..8 << 20]
    );
    until("the chunk is kept", || mount.content.standing(&large) == Standing::Pending).await;
    site.read_all(&mount).await;
}

/// Names that a watcher was told stay those of the layer.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_layer_that_is_known_by_its_own_index() {
    let site = estargz_site(|_| true);
    let layers = site.layers(&site.cache(64));
    let first = site.open(&layers);
    first.index().await;
    let told = Arc::<Mutex<u32>>::default();
    let second = site.open(&layers);
    let count = Arc::clone(&told);
    second.content.watch(0, Arc::new(move |_| *count.lock().unwrap() += 1));
    site.read_all(&second).await;
    assert_eq!(*told.lock().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_table_of_contents_are_proven_one_by_one() {
    for settings in [SETTINGS, BEFORE_READ] {
        let site = estargz_site(|_| true);
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
        let site = estargz_site(|name| name != "tail");
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
    let site = seekable_site();
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
