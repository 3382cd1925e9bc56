//! All ways of reading at once, with a cache that is far too small.

use std::path::Path;

use super::{mount, push, python, seed};
use crate::support::pattern::Pattern;
use crate::workplace::{Workplace, assert_done, json};

/// 128 MiB and a bit. The small files fit the cache, become complete and are read by the kernel itself.
const FILES: [(&str, u64); 7] = [
    ("weights/model-00001-of-00003.bin", (44 << 20) + 12_345),
    ("weights/model-00002-of-00003.bin", 40 << 20),
    ("weights/model-00003-of-00003.bin", (30 << 20) + 1),
    ("adapter/adapter.bin", (10 << 20) - 4097),
    ("adapter/small.bin", 3 << 20),
    ("tokenizer.json", 1_200_007),
    ("config.json", 700),
];
const CACHE_MIB: u64 = 32;
const THREADS: u64 = 8;
const OPERATIONS: u64 = 120;

/// Two caches' worth; there are ten times as many chunks to read.
const EVICTIONS_MIN: u64 = 2 * CACHE_MIB;

#[test]
fn every_byte_is_right_while_the_cache_evicts_all_the_time() {
    let (seed, workplace) = (seed(), Workplace::new());
    let (reference, _) = push("models/mix", &FILES);
    for (number, (path, bytes)) in FILES.iter().enumerate() {
        workplace.put(&format!("source/{path}"), &Pattern { number: number as u32, bytes: *bytes }.whole());
    }
    let cache_size = format!("{CACHE_MIB}MiB");
    mount(&workplace, &["--cache-size", &cache_size, "--cache-min-free", "0"], &reference, "mnt");
    let (mounted, source) = (workplace.path("mnt"), workplace.path("source"));
    let numbers = [seed % (1 << 32), THREADS, OPERATIONS].map(|number| number.to_string());
    let arguments =
        [mounted.to_str().unwrap(), source.to_str().unwrap(), &numbers[0], &numbers[1], &numbers[2]];
    let printed = python(Path::new("python3"), include_str!("mix.py"), &arguments);
    println!("{printed}");
    for way in ["pread", "fault", "direct", "sendfile", "list_all"] {
        assert!(printed.contains(way), "no {way} in {printed}");
    }
    let info = json(&workplace.run(&["cache", "info", "-o", "json"]));
    let evicted = info["counters"]["evicted_chunks"].as_u64().unwrap();
    println!("{info}");
    assert!(evicted >= EVICTIONS_MIN, "{evicted} evictions");
    assert!(info["used_bytes"].as_u64().unwrap() <= CACHE_MIB << 20, "{info}");
    assert_eq!(
        (&info["counters"]["damaged_chunks"], &info["degraded"]),
        (&0.into(), &serde_json::Value::Null)
    );
    assert_done(&workplace.run(&["umount", "mnt"]));
}
