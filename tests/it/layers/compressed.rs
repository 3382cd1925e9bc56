//! Layers that are decoded in one pass from the start.

use super::*;

use refmount::base::ErrorKind;
use refmount::content::Standing;

use crate::support::memory_source::Fault;

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_gives_every_file_and_proves_all_of_them() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let site = Site::new(sample(packing));
        let layers = site.layers(&site.cache(64));
        let mount = site.open(&layers);
        site.read_all(&mount).await;
        let index = mount.index().await;
        assert_eq!(
            index.diff_id().unwrap(),
            &Digest::of(refmount::base::Algorithm::Sha256, &site.sample.tar)
        );
        assert!(index.warnings().is_empty(), "{:?}", index.warnings());
        for (name, _) in &site.sample.files {
            assert_eq!(mount.content.standing(&body(&index, name)), Standing::Proven, "{name}");
        }
        // The first bytes, to see what it is, of zstd also the last ones, and once all of it.
        let expected = if packing == Packing::Zstd { 3 } else { 2 };
        assert_eq!(site.source.requests().len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_went_by_is_handed_to_the_kernel_and_a_small_one_is_not() {
    let site = Site::new(sample(Packing::Gzip));
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let index = mount.index().await;
    let direct = mount.content.direct(&body(&index, "model-1.bin")).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &direct.file, &mut bytes).unwrap();
    assert!(bytes == site.sample.files[2].1, "byte for byte the file");
    assert!(mount.content.direct(&body(&index, "config.json")).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_read_once_and_never_again() {
    let site = Site::new(sample(Packing::Gzip));
    {
        let layers = site.layers(&site.cache(64));
        let mount = site.open(&layers);
        site.read_all(&mount).await;
    }
    let requests = site.source.requests().len();
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    assert!(matches!(&*mount.layer.stage().borrow(), Stage::Known(_)), "known at once");
    site.read_all(&mount).await;
    assert_eq!(site.source.requests().len(), requests, "everything is cached");
    let index = mount.index().await;
    assert_eq!(mount.content.standing(&body(&index, "model-2.bin")), Standing::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mounts_share_one_pass() {
    let site = Site::new(sample(Packing::Gzip));
    let layers = site.layers(&site.cache(64));
    let (one, two) = (site.open(&layers), site.open(&layers));
    tokio::join!(site.read_all(&one), site.read_all(&two));
    assert_eq!(site.source.requests().len(), 2);
    drop(one);
    site.read_all(&two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_evicted_is_decoded_again_from_the_nearest_point_and_is_proven() {
    let file = random_bytes(9, 40 * CHUNK_BYTES);
    let site =
        Site::new(packed(vec![("first", random_bytes(1, 10)), ("model.bin", file.clone())], Packing::Gzip));
    let cache = site.cache(128);
    let layers = site.layers(&cache);
    let mount = site.open(&layers);
    let index = mount.index().await;
    cache.prune(refmount::cache::Prune::DownTo(0)).unwrap();
    let body = body(&index, "model.bin");
    for start in [33 * CHUNK_BYTES + 5, 7 * CHUNK_BYTES, 20 * CHUNK_BYTES - 100] {
        let before = mount.content.network_bytes();
        let range = start..start + 64_000;
        assert!(mount.read(&body, range.clone()).await == file[range.start as usize..range.end as usize]);
        let fetched = mount.content.network_bytes() - before;
        // Two spans of 4 MiB, and the chunk that a read across a border takes; noise does not shrink.
        assert!(fetched <= 9 * CHUNK_BYTES + (1 << 17), "{fetched} bytes for a read at {start}");
    }
    assert_eq!(mount.content.standing(&body), Standing::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_frame_is_decoded_again_from_its_start() {
    let site = Site::new(sample(Packing::Zstd));
    let cache = site.cache(64);
    let layers = site.layers(&cache);
    let mount = site.open(&layers);
    mount.index().await;
    cache.prune(refmount::cache::Prune::DownTo(0)).unwrap();
    site.read_all(&mount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_too_small_for_the_layer_still_serves_all_of_it() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let site = Site::new(sample(packing));
        let layers = site.layers(&site.cache(4));
        let mount = site.open(&layers);
        site.read_all(&mount).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_the_entries_in_the_order_of_the_stream() {
    let site = Site::new(sample(Packing::Gzip));
    // So that the pass begins when everybody watches.
    site.source.schedule(vec![Fault::Refused(ErrorKind::Unavailable); 10_000]);
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let names = watch_names(&mount.content);
    site.source.clear_faults();
    mount.index().await;
    let expected: Vec<&str> = site.sample.files.iter().map(|(name, _)| *name).collect();
    assert_eq!(*names.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_read_serves_a_compressed_layer_once_the_pass_has_checked_it() {
    let site = Site::new(sample(Packing::Gzip));
    let layers = site.layers(&site.cache(64));
    let mount = site.open_with(&layers, ContentSettings { verify_before_read: true, ..SETTINGS });
    site.read_all(&mount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_archives_have_no_entries() {
    for blob in [vec![0; 1024], gzip(&[0; 1024]), gzip(b""), zstd::encode_all(&[0_u8; 10240][..], 1).unwrap()]
    {
        let site = Site::new(Sample { files: Vec::new(), tar: Vec::new(), blob });
        let layers = site.layers(&site.cache(4));
        assert!(site.open(&layers).index().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_compressed_file_is_as_long_as_what_it_holds() {
    let file = random_bytes(3, 2 * CHUNK_BYTES + 9);
    let site = Site::new(Sample { files: Vec::new(), tar: Vec::new(), blob: gzip(&file) });
    let layers = site.layers(&site.cache(16));
    let source: Arc<dyn BlobSource> = site.source.clone();
    let blob_bytes = site.sample.blob.len() as u64;
    let spec = LayerSpec { blob: site.digest.clone(), blob_bytes, expected: Expected::File, own_index: None };
    let lease = layers.open(&spec, source, SETTINGS.fetch()).unwrap();
    let layer = Arc::clone(lease.layer());
    let mount = Mount { layer, content: Content::of(vec![LayerContent::Parts(lease)], SETTINGS) };
    let index = mount.index().await;
    let body = body(&index, "file");
    assert_eq!(body.size, file.len() as u64);
    assert!(mount.read(&body, 0..body.size).await == file);
    // The same blob as an archive is another thing, and none of it gets mixed up.
    let other = site.open(&layers);
    assert!(matches!(other.settled().await, Stage::NoArchive(_)));
}
