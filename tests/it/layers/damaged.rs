//! Layers whose bytes are not what they should be.

use super::*;

use std::os::unix::fs::FileExt as _;

use refmount::base::ErrorKind;
use refmount::content::Standing;

use crate::support::memory_source::Fault;

fn failure(stage: &Stage) -> &refmount::base::Error {
    match stage {
        Stage::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_transfer_goes_on_where_it_broke_off() {
    let site = Site::new(sample(Packing::Gzip));
    site.source.schedule([Fault::None, Fault::Truncated(3_000_000), Fault::Refused(ErrorKind::Unavailable)]);
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    site.read_all(&mount).await;
    let requests = site.source.requests();
    assert_eq!(requests[3].1.start, 3_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_ranges_serves_a_layer_too() {
    for packing in [Packing::Plain, Packing::Gzip] {
        let site = Site::new(sample(packing));
        site.source.schedule(vec![Fault::Whole; 200]);
        let cache = site.cache(64);
        let layers = site.layers(&cache);
        let mount = site.open(&layers);
        site.read_all(&mount).await;
        cache.prune(refmount::cache::Prune::DownTo(0)).unwrap();
        site.read_all(&mount).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_byte_in_a_pass_is_found_at_its_end_and_the_layer_read_again() {
    // Without a checksum of its own, and with bytes that decompress all the same.
    let mut stored = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let good = sample(Packing::Plain);
    std::io::Write::write_all(&mut stored, &good.tar).unwrap();
    let site = Site::new(Sample { blob: stored.finish().unwrap(), ..good });
    site.source.schedule([Fault::None, Fault::WrongByte(5_000_000)]);
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    site.read_all(&mount).await;
    let index = mount.index().await;
    assert_eq!(mount.content.standing(&body(&index, "model-1.bin")), Standing::Proven);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_never_right_fails_for_good() {
    let good = sample(Packing::Gzip);
    let mut wrong = good.files.clone();
    wrong[0].1[0] ^= 1;
    let wrong = packed(wrong, Packing::Gzip);
    let mut source = MemorySource::default();
    let digest = Digest::of(refmount::base::Algorithm::Sha256, &good.blob);
    source.add_wrong(digest.clone(), wrong.blob.clone());
    let directory = tempfile::tempdir().unwrap();
    let site = Site { sample: wrong, digest, source: Arc::new(source), own_index: None, directory };
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let stage = mount.settled().await;
    let error = failure(&stage);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().contains(site.digest.as_str()), "{}", error.chain());
    // Nothing of it is believed later.
    drop(mount);
    assert!(matches!(site.open(&layers).settled().await, Stage::Failed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_headers_of_a_plain_archive_do_not_outlive_its_check() {
    // The name of the first entry, as the walk reads it and perhaps as it reads it once more. The header's checksum shows
    // that it is wrong.
    for times in 1..=2 {
        let site = Site::new(sample(Packing::Plain));
        // Before each reading, the first bytes are looked at.
        site.source.schedule([Fault::None, Fault::WrongByte(0)].repeat(times));
        let layers = site.layers(&site.cache(64));
        let mut mount = site.open(&layers);
        if times == 2 {
            assert_eq!(failure(&mount.settled().await).kind(), ErrorKind::Invalid);
            drop(mount);
            mount = site.open(&layers);
        }
        site.read_all(&mount).await;
        until("the layer is verified", || mount.layer.is_proven()).await;
        assert_eq!(site.source.faults_left(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_of_a_plain_archive_is_found_when_all_of_it_is_here() {
    let site = Site::new(sample(Packing::Plain));
    site.source.damage(Some(4 * CHUNK_BYTES + 400_000));
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let index = mount.index().await;
    let large = body(&index, "model-1.bin");
    // Read, kept, and found to be wrong with the rest.
    mount.content.fill(&large).await.unwrap();
    mount.content.fill(&body(&index, "model-2.bin")).await.unwrap();
    until("the wrong bytes are counted", || mount.content.rejected_chunks() > 0).await;
    site.source.damage(None);
    site.read_all(&mount).await;
    until("the layer is verified", || mount.layer.is_proven()).await;
    site.read_all(&mount).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_source_brings_wrong_comes_from_the_other_once_it_is_found_wrong() {
    let site = Site::new(sample(Packing::Plain));
    site.source.damage(Some(4 * CHUNK_BYTES + 400_000));
    let layers = site.layers(&site.cache(64));
    let mount = site.open(&layers);
    let index = mount.index().await;
    let other = Site::new(sample(Packing::Plain));
    let _other = other.open(&layers);
    for name in ["model-1.bin", "model-2.bin"] {
        mount.content.fill(&body(&index, name)).await.unwrap();
    }
    until("the wrong bytes are counted", || mount.content.rejected_chunks() > 0).await;
    site.read_all(&mount).await;
    until("the layer is verified", || mount.layer.is_proven()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_short_is_an_error_that_names_layer_and_offset() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let mut sample = sample(packing);
        let half = sample.blob.len() / 2;
        sample.blob.truncate(half);
        let site = Site::new(sample);
        let layers = site.layers(&site.cache(64));
        let stage = site.open(&layers).settled().await;
        let error = failure(&stage).chain();
        assert!(error.contains(site.digest.as_str()) && error.contains("offset"), "{packing:?}: {error}");
        assert!(error.contains("cut short") || error.contains("truncated"), "{packing:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_no_archive_is_said_to() {
    for blob in [b"just a text".to_vec(), gzip(b"just a text"), random_bytes(1, 3 * CHUNK_BYTES)] {
        let site = Site::new(Sample { files: Vec::new(), tar: Vec::new(), blob });
        let layers = site.layers(&site.cache(8));
        let stage = site.open(&layers).settled().await;
        assert!(matches!(&stage, Stage::NoArchive(why) if why.contains("no tar archive")), "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_name_fails_the_layer_and_is_named() {
    let mut parts = vec![crate::tar::archive::file("good", b"1")];
    parts.push(crate::tar::archive::file("../../etc/passwd", b"2"));
    let tar = crate::tar::archive::archive(&parts);
    for blob in [tar.clone(), gzip(&tar)] {
        let site = Site::new(Sample { files: Vec::new(), tar: tar.clone(), blob });
        let layers = site.layers(&site.cache(8));
        let stage = site.open(&layers).settled().await;
        let error = failure(&stage);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.chain();
        assert!(text.contains("etc/passwd") && text.contains(site.digest.as_str()), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_could_not_be_read_is_tried_again_by_the_next_mount() {
    let site = Site::new(sample(Packing::Gzip));
    site.source.schedule([Fault::Refused(ErrorKind::NotFound)]);
    let layers = site.layers(&site.cache(64));
    let first = site.open(&layers);
    assert_eq!(failure(&first.settled().await).kind(), ErrorKind::NotFound);
    let second = site.open(&layers);
    site.read_all(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_proof_or_index_of_a_layer_is_made_again() {
    for packing in [Packing::Plain, Packing::Gzip] {
        for kind in ["proofs", "layers"] {
            let site = Site::new(sample(packing));
            let mount = site.open(&site.layers(&site.cache(64)));
            site.read_all(&mount).await;
            until("the layer is verified", || mount.layer.is_proven()).await;
            drop(mount);
            let mut damaged = 0;
            for file in files_below(site.directory.path()) {
                if file.components().any(|name| name.as_os_str() == kind) {
                    let file = std::fs::File::options().read(true).write(true).open(&file).unwrap();
                    let mut byte = [0];
                    let at = file.metadata().unwrap().len() / 2;
                    file.read_exact_at(&mut byte, at).unwrap();
                    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
                    damaged += 1;
                }
            }
            assert!(damaged > 0, "{kind}");
            let mount = site.open(&site.layers(&site.cache(64)));
            site.read_all(&mount).await;
            let index = mount.index().await;
            let large = body(&index, "model-1.bin");
            until("the kernel can have it", || {
                mount.content.opened(&large);
                mount.content.direct(&large).is_some()
            })
            .await;
        }
    }
}

fn files_below(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_takes_nothing_from_the_counters_of_those_who_joined_the_first() {
    let site = Site::new(sample(Packing::Plain));
    // The first chunk is wrong, after a while.
    site.source.schedule([Fault::None, Fault::Refused(ErrorKind::Unavailable), Fault::WrongByte(0)]);
    site.source.schedule([Fault::Busy(Duration::from_millis(300)), Fault::Busy(Duration::from_millis(300))]);
    let layers = site.layers(&site.cache(64));
    let first = site.open(&layers);
    until("the first attempt has begun", || site.source.requests().len() >= 3).await;
    let before = first.content.network_bytes();
    let second = site.open(&layers);
    assert!(matches!(first.settled().await, Stage::Failed(_) | Stage::Known(_)));
    assert!(first.content.network_bytes() >= before);
    assert!(second.content.network_bytes() <= first.content.network_bytes());
}
