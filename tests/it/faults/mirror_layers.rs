//! Wrong bytes of layers that are more than one file, from a mirror before a registry that has the right ones: what is in
//! such a layer is told by bytes that nobody has checked yet.

use ::bytes::Bytes;
use refmount::base::Digest;
use serde_json::Value;

use super::mirrors::Mirrored;
use super::{MIB, PATIENT, Site};
use crate::layers::own_index::{estargz, seekable};
use crate::support::artifact::digest_of;
use crate::support::fault_registry::FaultRegistry;
use crate::support::pattern::Pattern;
use crate::support::producers::{Layer, Product, gzip, tar};
use crate::workplace::wait_until;

const BEFORE_READ: &str = "--verify=before-read";
const ON_COMPLETE: &str = "--verify=on-complete";

fn content(number: u32) -> Vec<u8> {
    Pattern { number, bytes: 3 * MIB }.whole()
}

/// An archive of a large file between two small ones.
fn archive(number: u32) -> Vec<u8> {
    tar(&[("first", 0o644, b"1"), ("d/body", 0o644, &content(number)), ("last", 0o644, b"2")])
}

fn product(layer: Layer) -> Product {
    Product::new("archive", "application/vnd.cncf.model.config.v1+json", "{}")
        .artifact_type("application/vnd.cncf.model.manifest.v1+json")
        .layer("modelpack", layer)
}

fn packed(blob: Vec<u8>) -> Layer {
    Layer::new("application/vnd.cncf.model.weight.v1.tar+gzip", blob)
}

/// A registry with `layer`, before which a mirror has `wrong` in its place; mounted.
fn mounted(layer: Layer, wrong: Vec<u8>, options: &[&str]) -> (Mirrored, Digest) {
    let digest = digest_of(&layer.bytes);
    let (site, mirror, product) = (Site::new(), FaultRegistry::start(), product(layer));
    site.registry.put_product(&product, "v1");
    mirror.put_product(&product, "v1");
    mirror.replace_blob(&digest, Some(Bytes::from(wrong)));
    let all = Mirrored::of(site, vec![mirror]);
    all.mount(&[&[PATIENT][..], options].concat());
    (all, digest)
}

fn assert_reads_right(all: &Mirrored) {
    let read = |file: &str| {
        let found = std::fs::read(all.site.path(file));
        found.unwrap_or_else(|error| panic!("{file}: {error}\n{}", all.site.log()))
    };
    assert!(read("d/body") == content(1));
    assert_eq!((read("first"), read("last")), (b"1".to_vec(), b"2".to_vec()));
}

fn flipped(mut blob: Vec<u8>, at: usize) -> Vec<u8> {
    blob[at] ^= 1;
    blob
}

#[test]
fn a_layer_that_a_mirror_has_damaged_is_read_from_the_registry() {
    let right = gzip(&archive(1));
    let middle = right.len() / 2;
    // The first bytes tell what it is, the next ones are headers of entries, and the last ones are a sum.
    for at in [0, 1, 3, 20, middle, right.len() - 6] {
        let (all, _) = mounted(packed(right.clone()), flipped(right.clone(), at), &[BEFORE_READ]);
        assert_reads_right(&all);
        let names = std::fs::read_dir(all.site.path("")).unwrap().count();
        assert_eq!(names, 3, "at {at}");
        let mirror = all.mirror(0);
        assert!(at < 2 || mirror["distrusted_blobs"] == 1, "at {at}: {mirror}");
    }
}

#[test]
fn a_layer_that_a_mirror_has_damaged_comes_right_while_it_is_in_use() {
    let right = gzip(&archive(1));
    for at in [0, 20, right.len() / 2] {
        let (all, _) = mounted(packed(right.clone()), flipped(right.clone(), at), &[ON_COMPLETE]);
        let body = || std::fs::read(all.site.path("d/body")).ok();
        wait_until("the right bytes are there", || body().as_deref() == Some(&content(1)[..]));
        assert_reads_right(&all);
        assert_eq!(all.site.status()["failed"], Value::Null);
    }
}

/// It can be decoded and read to its end, and is none of what the manifest names.
#[test]
fn another_archive_in_the_place_of_a_layer_shows_none_of_its_files() {
    let right = gzip(&archive(1));
    let other = tar(&[("first", 0o644, b"x"), ("evil", 0o644, b"evil"), ("d/body", 0o644, &content(2))]);
    let mut other = gzip(&other);
    // Whoever is careful makes it as long; what follows a gzip layer may be zeros.
    assert!(other.len() <= right.len() + 4096, "{} and {}", other.len(), right.len());
    other.resize(right.len(), 0);
    let (all, _) = mounted(packed(right), other, &[BEFORE_READ]);
    assert_reads_right(&all);
    assert!(!all.site.path("evil").exists());
    assert_eq!(all.mirror(0)["distrusted_blobs"], 1);
}

#[test]
fn a_wrong_chunk_of_an_estargz_layer_is_fetched_from_the_registry() {
    let files = [("first", b"1".to_vec()), ("d/body", content(1)), ("last", b"2".to_vec())];
    let (blob, toc) = estargz(&files, |_| true);
    let layer = || packed(blob.clone()).annotated("containerd.io/snapshot/stargz/toc.digest", toc.as_str());
    // A byte of a chunk, one of the table of contents, and one of the footer that tells where that is.
    for (at, is_proven_wrong) in [(blob.len() / 2, true), (blob.len() - 200, false), (blob.len() - 40, false)]
    {
        let (all, digest) = mounted(layer(), flipped(blob.clone(), at), &[ON_COMPLETE]);
        assert_reads_right(&all);
        if is_proven_wrong {
            assert_eq!(all.mirror(0)["distrusted_blobs"], 1, "{}", all.mirror(0));
        }
        assert!(!all.site.log().contains("is not used"), "{}", all.site.log());
        assert!(all.site.registry.blob_traffic(&digest).0 > 0);
    }
}

/// It tells where the frames are that tell what is in the layer, and nobody vouches for it.
#[test]
fn a_wrong_table_of_frames_is_forgotten_with_the_bytes_that_it_came_in() {
    let (blob, sizes) = seekable(&archive(1));
    let layer = Layer::new("application/vnd.cncf.model.weight.v1.tar+zstd", blob.clone());
    let (all, digest) = mounted(layer, flipped(blob, sizes + 4), &[ON_COMPLETE]);
    assert_reads_right(&all);
    assert!(all.site.registry.blob_traffic(&digest).0 > 0);
}
