//! Layers whose stream is the blob.

use super::*;

use refmount::content::Standing;

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_read_without_the_large_bodies() {
    let files = vec![
        ("one.bin", random_bytes(1, 30 * CHUNK_BYTES)),
        ("small", random_bytes(2, 99)),
        ("two.bin", random_bytes(3, 40 * CHUNK_BYTES + 7)),
        ("three.bin", random_bytes(4, 20 * CHUNK_BYTES)),
    ];
    let site = Site::new(packed(files, Packing::Plain));
    let layers = site.layers(&site.cache(256));
    let mount = site.open(&layers);
    let index = mount.index().await;
    assert_eq!(index.len(), 4);
    let fetched = mount.content.network_bytes();
    assert!(fetched <= 6 * CHUNK_BYTES, "{fetched} bytes of {}", site.sample.blob.len());
    site.read_all(&mount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_read_as_a_stream() {
    let names: Vec<&'static str> = (0..2000).map(|at| &*format!("d/{at}").leak()).collect();
    let files = names.iter().map(|name| (*name, random_bytes(7, 6000))).collect();
    let site = Site::new(packed(files, Packing::Plain));
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    assert_eq!(mount.index().await.len(), 2000);
    let requests = site.source.requests().len();
    assert!(requests <= 10, "{requests} requests for 13 MiB of small files");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_whole_is_verified_and_its_index_with_it() {
    let site = Site::new(sample(Packing::Plain));
    {
        let layers = site.layers(&site.cache(64));
        let mount = site.open(&layers);
        let index = mount.index().await;
        let large = body(&index, "model-1.bin");
        let small = body(&index, "config.json");
        until("what was read of it is stored", || mount.content.standing(&small) != Standing::Absent).await;
        assert_eq!(mount.content.standing(&small), Standing::Pending);
        site.read_all(&mount).await;
        // Without a pause: the very moment it is said, it holds.
        while !mount.layer.is_proven() {
            tokio::task::yield_now().await;
        }
        assert_eq!(mount.content.standing(&large), Standing::Proven);
        assert!(mount.content.direct(&large).is_some());
    }
    // And what is known is known to the next run.
    let cache = site.cache(64);
    let layers = site.layers(&cache);
    let mount = site.open(&layers);
    assert!(mount.layer.is_proven());
    cache.prune(refmount::cache::Prune::DownTo(0)).unwrap();
    site.read_all(&mount).await;
    let index = mount.index().await;
    assert_eq!(index.diff_id(), Some(&site.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_read_fetches_all_of_the_layer_first() {
    let site = Site::new(sample(Packing::Plain));
    let layers = site.layers(&site.cache(64));
    let mount = site.open_with(&layers, ContentSettings { verify_before_read: true, ..SETTINGS });
    let index = mount.index().await;
    let small = body(&index, "config.json");
    assert!(!mount.content.read_cached(&small, 0..10, &mut Vec::new()).unwrap());
    assert!(mount.content.read(&small, 0..300).await.unwrap() == site.sample.files[0].1);
    assert!(mount.layer.is_proven());
}
