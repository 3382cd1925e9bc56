//! Micro-benchmarks of what every mount builds and every read passes: the index of a layer, the tree of its files, the
//! chunk map of a segment, a hit in the cache.

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use refmount::base::{Algorithm, CHUNK_BYTES, Digest, RelPath};
use refmount::cache::{Cache, CacheSettings, FreeSpaceFloor, Segment, SegmentId, Stored};
use refmount::layer::{Entry, EntryKind, Extents, IndexParts, LayerIndex, LayerStream, Timestamp};
use refmount::tree::{LayerRole, Tree, TreeLayer};
use tempfile::TempDir;

/// Entries of an index: a root file system with many packages.
const ENTRIES: u64 = 100_000;

/// Chunks of a segment: a file of 64 GiB, of which only the first ones are here.
const CHUNKS: u64 = 64 << 10;
const CHUNKS_CACHED: u64 = 64;

/// What the kernel asks for at once, at most and at least.
const READ_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;

/// A step that has no factor in common with the numbers here, so that neighbours do not follow each other.
const STRIDE: usize = 7_368_787;

fn entry(at: u64) -> Entry {
    let path = format!("usr/share/package-{:04}/module-{:02}/file_{at:08x}.py", at / 400, at / 20 % 20);
    Entry {
        path: path.parse::<RelPath>().unwrap(),
        kind: EntryKind::File {
            size: at % 99_991,
            extents: Extents::Contiguous { stream_offset: at * 100_000 },
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 0 },
        xattrs: Box::default(),
    }
}

fn parts(layer: &Digest, entries: Vec<Entry>) -> IndexParts {
    IndexParts {
        layer: layer.clone(),
        blob_bytes: 1 << 40,
        stream_bytes: 1 << 40,
        diff_id: None,
        stream: LayerStream::Plain,
        root: None,
        entries,
        members: Vec::new(),
        warnings: Vec::new(),
        carried: None,
        trusted: true,
    }
}

fn layer_index(criterion: &mut Criterion) {
    let layer = Digest::of(Algorithm::Sha256, b"layer");
    let entries: Vec<Entry> = (0..ENTRIES).map(entry).collect();
    let index = LayerIndex::new(parts(&layer, entries.clone())).unwrap();
    let bytes = index.bytes();
    let mut group = criterion.benchmark_group("layer index");
    group.throughput(Throughput::Elements(ENTRIES)).sample_size(10);
    group.bench_function("build", |bencher| {
        let made = || parts(&layer, entries.clone());
        bencher.iter_batched(made, |parts| LayerIndex::new(parts).unwrap(), BatchSize::PerIteration);
    });
    group.bench_function("open", |bencher| {
        bencher.iter(|| LayerIndex::decode(bytes.clone(), &layer).unwrap());
    });
    group.throughput(Throughput::Elements(1)).sample_size(50);
    let mut at = 0;
    group.bench_function("find", |bencher| {
        bencher.iter_batched(
            || {
                at = (at + STRIDE) % index.len();
                index.path(at)
            },
            |path| index.find(path).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("find what is not there", |bencher| {
        bencher.iter(|| index.find(black_box(b"usr/share/package-0100/module-07/file_none.py")));
    });
    group.bench_function("entry", |bencher| {
        bencher.iter(|| {
            at = (at + STRIDE) % index.len();
            index.entry(black_box(at))
        });
    });
    group.finish();
}

/// A segment with its first chunks in a cache, which lives as long as the directory.
fn segment() -> (TempDir, Arc<Segment>) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(CacheSettings {
        directory: directory.path().join("cache"),
        bytes_max: 1 << 40,
        free_space_min: FreeSpaceFloor::Bytes(0),
    })
    .unwrap();
    let id = SegmentId { layer: Digest::of(Algorithm::Sha256, b"layer"), number: 0 };
    let segment = cache.segment(&id, CHUNKS * CHUNK_BYTES).unwrap();
    let data = vec![7; CHUNK_BYTES as usize];
    for chunk in 0..CHUNKS_CACHED {
        store(&segment, chunk, &data);
    }
    (directory, segment)
}

fn store(segment: &Segment, chunk: u64, data: &[u8]) {
    assert_eq!(segment.store(chunk, data, blake3::hash(data), segment.epoch()), Stored::Stored);
}

fn tree(criterion: &mut Criterion) {
    let archive = |name: &[u8], entries| {
        let parts = parts(&Digest::of(Algorithm::Sha256, name), entries);
        let index = Arc::new(LayerIndex::new(parts).unwrap());
        TreeLayer { index, directory: None, role: LayerRole::Archive }
    };
    let alone = [archive(b"lower", (0..ENTRIES).map(entry).collect())];
    let merged = [alone[0].clone(), archive(b"upper", vec![entry(0)])];
    let mut group = criterion.benchmark_group("tree");
    group.throughput(Throughput::Elements(ENTRIES)).sample_size(10);
    group.bench_function("build from a layer", |bencher| {
        bencher.iter_with_large_drop(|| Tree::build(&alone).unwrap());
    });
    group.bench_function("build from two layers", |bencher| {
        bencher.iter_with_large_drop(|| Tree::build(&merged).unwrap());
    });
    group.finish();
}

fn chunk_map(criterion: &mut Criterion) {
    let (_directory, segment) = segment();
    let mut group = criterion.benchmark_group("chunk map");
    group.throughput(Throughput::Elements(1));
    let mut chunk = 0;
    group.bench_function("is a chunk present", |bencher| {
        bencher.iter(|| {
            chunk = (chunk + STRIDE as u64) % CHUNKS;
            segment.is_present(black_box(chunk))
        });
    });
    group.bench_function("bytes that are cached", |bencher| bencher.iter(|| segment.cached_bytes()));
    group.bench_function("is it complete", |bencher| bencher.iter(|| segment.is_complete()));
    group.bench_function("touch", |bencher| {
        bencher.iter(|| segment.touch(black_box(0..CHUNKS_CACHED)));
    });
    group.bench_function("digest of a chunk", |bencher| {
        bencher.iter(|| segment.chunk_digest(black_box(5)).unwrap());
    });
    let data = vec![7; CHUNK_BYTES as usize];
    group.throughput(Throughput::Bytes(CHUNK_BYTES));
    group.bench_function("remove and store a chunk", |bencher| {
        bencher.iter(|| {
            segment.remove(0..1);
            store(&segment, 0, &data);
        });
    });
    group.finish();
}

fn cache_hit(criterion: &mut Criterion) {
    let (_directory, segment) = segment();
    let mut group = criterion.benchmark_group("cache hit");
    let mut buffer = Vec::with_capacity(READ_BYTES as usize);
    for (name, bytes) in [("4 KiB", PAGE_BYTES), ("1 MiB", READ_BYTES)] {
        group.throughput(Throughput::Bytes(bytes));
        let places = CHUNKS_CACHED * CHUNK_BYTES / bytes;
        let mut place = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                place = (place + STRIDE as u64) % places;
                assert!(segment.read(place * bytes..(place + 1) * bytes, &mut buffer));
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("miss", |bencher| {
        let missing = CHUNKS_CACHED * CHUNK_BYTES..CHUNKS_CACHED * CHUNK_BYTES + PAGE_BYTES;
        bencher.iter(|| assert!(!segment.read(black_box(missing.clone()), &mut buffer)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = layer_index, tree, chunk_map, cache_hit
}
criterion_main!(benches);
