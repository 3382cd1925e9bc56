//! What is read of a compressed archive, and what that costs.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use refmount::layer::gzip::CHECKPOINT_SPACING_BYTES;

use super::{mount, registry, seed, status};
use crate::support::artifact::digest_of;
use crate::support::pattern::Pattern;
use crate::support::producers::{Layer, Product, gzip, tar};
use crate::workplace::{Workplace, assert_done, wait_until};

const WEIGHTS_BYTES: u64 = 64 << 20;
const CACHE_BYTES: u64 = 16 << 20;
const READS: usize = 12;
const READ_BYTES: u64 = 64 << 10;

/// Bytes like those of weights in bf16: signs and exponents repeat, mantissas do not.
fn weights() -> Vec<u8> {
    let mut bytes = Pattern { number: 9, bytes: WEIGHTS_BYTES }.whole();
    for exponent in bytes.iter_mut().skip(1).step_by(2) {
        *exponent = 0x3c | (*exponent & 0x83);
    }
    bytes
}

/// Past the kernel's cache and its read-ahead: what is asked for is what refmount is asked for.
fn open_directly(workplace: &Workplace, path: &str) -> File {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(direct).open(workplace.path(path)).unwrap()
}

fn read_through(workplace: &Workplace, path: &str, content: &[u8]) {
    let (mut file, mut buffer, mut offset) = (open_directly(workplace, path), vec![0; 1 << 20], 0);
    loop {
        let read = file.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        assert!(buffer[..read] == content[offset..offset + read], "wrong bytes at {offset}");
        offset += read;
    }
    assert_eq!(offset, content.len());
}

/// A cache too small for the file forgets most of it. What is read again is decompressed from the checkpoint before
/// it, and two checkpoints are no farther apart than half as much again as they are meant to be, because they lie
/// where deflate's blocks begin.
#[test]
fn what_was_evicted_costs_no_more_than_two_spans() {
    let (seed, workplace, weights) = (seed(), Workplace::new(), weights());
    let blob = gzip(&tar(&[("config.json", 0o644, b"{}\n"), ("model.bin", 0o644, &weights)]));
    let ratio = blob.len() as f64 / weights.len() as f64;
    assert!((0.5..0.9).contains(&ratio), "{ratio}: these are not like weights");
    let cost_max = (2.0 * 1.5 * CHECKPOINT_SPACING_BYTES as f64 * ratio) as u64;
    let product = Product::new("archive", "application/vnd.cncf.model.config.v1+json", "{}")
        .artifact_type("application/vnd.cncf.model.manifest.v1+json")
        .layer("modelpack", Layer::new("application/vnd.cncf.model.weight.v1.tar+gzip", blob.clone()));
    let reference = registry().push_product(&product, "archives/evicted", "v1");
    let cache_size = CACHE_BYTES.to_string();
    let options = ["--cache-size", &cache_size, "--cache-min-free", "0", "--prefetch", "off"];
    mount(&workplace, &options, &reference, "mnt");
    assert_eq!(std::fs::read(workplace.path("mnt/config.json")).unwrap(), b"{}\n");
    read_through(&workplace, "mnt/model.bin", &weights);

    let fetched = || status(&workplace, "mnt")["network_bytes"].as_u64().unwrap();
    assert!(fetched() >= blob.len() as u64, "all of it was read");
    let file = open_directly(&workplace, "mnt/model.bin");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut costs = Vec::new();
    for _ in 0..READS {
        // What was read last may still be there.
        let page = random.random_range(0..(WEIGHTS_BYTES - CACHE_BYTES) / READ_BYTES);
        let (offset, before) = (page * READ_BYTES, fetched());
        let mut bytes = vec![0; READ_BYTES as usize];
        file.read_exact_at(&mut bytes, offset).unwrap();
        let expected = &weights[offset as usize..(offset + READ_BYTES) as usize];
        assert!(digest_of(&bytes) == digest_of(expected), "wrong bytes at {offset}");
        let cost = fetched() - before;
        assert!(
            cost <= cost_max,
            "{cost} bytes for {READ_BYTES} at {offset}, of which {cost_max} are allowed"
        );
        costs.push(cost);
    }
    println!("{costs:?}");
    assert!(costs.iter().filter(|cost| **cost > 0).count() * 2 >= READS, "little was evicted: {costs:?}");
    drop(file);
    assert_done(&workplace.run(&["umount", "mnt"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}
