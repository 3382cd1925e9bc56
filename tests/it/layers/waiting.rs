//! First readings and checks whose source does not answer.

use super::*;

use refmount::base::ErrorKind;

use crate::support::memory_source::Fault;

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_source_that_is_away_do_not_keep_others_from_being_read() {
    for packing in [Packing::Plain, Packing::Gzip] {
        let good = Site::new(sample(packing));
        let layers = good.layers(&good.cache(64));
        let away: Vec<Site> = (0..3)
            .map(|seed| Site::new(packed(vec![("file", random_bytes(seed, 400_000))], packing)))
            .collect();
        let mut waiting = Vec::new();
        for site in &away {
            // The first bytes come, and nothing after them.
            site.source.schedule([Fault::None]);
            site.source.schedule(vec![Fault::Refused(ErrorKind::Unavailable); 10_000]);
            waiting.push(site.open(&layers));
        }
        for mount in &waiting {
            assert!(matches!(mount.layer.opening().await, Stage::Reading));
        }
        let mount = good.open(&layers);
        good.read_all(&mount).await;
        // And they are read when it is back.
        for (site, mount) in away.iter().zip(&waiting) {
            site.source.clear_faults();
            site.read_all(mount).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_waits_for_the_check_of_a_layer_fails_when_nothing_comes_any_more() {
    let limit = Duration::from_millis(500);
    let settings = ContentSettings { verify_before_read: true, read_timeout: limit, ..SETTINGS };
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let site = Site::new(sample(packing));
        let layers = site.layers(&site.cache(64));
        // Where the files are is known; nothing of them is here.
        let known = Site::new(sample(packing));
        let index = known.open(&known.layers(&known.cache(64))).index().await;
        site.source.schedule([Fault::None]);
        site.source.schedule(vec![Fault::Refused(ErrorKind::Unavailable); 10_000]);
        let mount = site.open_with(&layers, settings);
        mount.layer.opening().await;
        let file = body(&index, "a/small");
        let read = tokio::time::timeout(Duration::from_secs(60), mount.content.read(&file, 0..10));
        let error = read.await.expect("it ends").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.chain().contains(site.digest.as_str()), "{}", error.chain());
        // And it is read when it is back.
        site.source.clear_faults();
        let patient = ContentSettings { verify_before_read: true, ..SETTINGS };
        site.read_all(&site.open_with(&layers, patient)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_goes_away_during_a_walk_disproves_nothing_that_came_before() {
    let site = Site::new(sample(Packing::Plain));
    site.source.schedule([Fault::None, Fault::None, Fault::Refused(ErrorKind::NotFound)]);
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    assert!(matches!(mount.settled().await, Stage::Failed(error) if error.kind() == ErrorKind::NotFound));
    assert_eq!(mount.content.rejected_chunks(), 0);
    site.read_all(&site.open(&layers)).await;
    let first_chunk =
        site.source.requests().iter().filter(|(_, range)| range.start == 0 && range.end > 200_000).count();
    assert_eq!(first_chunk, 1, "{:?}", site.source.requests());
}
