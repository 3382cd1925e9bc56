//! How large the index of a layer with many entries is, and how fast it is made, stored, opened and searched.
//!
//! `cargo run --release --example index_rate -- [ENTRIES | DIRECTORY]`: a number of made-up entries with the lengths
//! of names that a root file system has (a million if none is given), or what lies below a directory.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use refmount::base::{Algorithm, Digest, Error, ErrorKind, RelPath, Result, clock};
use refmount::cache::{Cache, CacheSettings, DocumentKind, FreeSpaceFloor};
use refmount::layer::{Entry, EntryKind, Extents, IndexParts, LayerIndex, LayerStream, Timestamp};

fn main() -> Result<()> {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "1000000".to_owned());
    let entries = match argument.parse::<u64>() {
        Ok(count) => made_up(count)?,
        Err(_) => found(Path::new(&argument))?,
    };
    let count = entries.len();
    let layer = Digest::of(Algorithm::Sha256, b"layer");
    println!("{count} entries, {} MiB at most in memory with them", peak_mib()?);
    let start = clock::now();
    let index = LayerIndex::new(IndexParts {
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
    })?;
    let bytes = index.bytes();
    let mib = bytes.len() as f64 / f64::from(1 << 20);
    let paths: usize = (0..index.len()).map(|at| index.path(at).len()).sum();
    println!(
        "{mib:.1} MiB, {:.1} bytes for each entry, paths {:.1} of them",
        bytes.len() as f64 / count as f64,
        paths as f64 / count as f64
    );
    println!("made in {} ms, {} MiB at most in memory", millis(start), peak_mib()?);

    let directory = tempfile::tempdir()?;
    let cache = Cache::open(CacheSettings {
        directory: directory.path().to_owned(),
        bytes_max: 64 << 30,
        free_space_min: FreeSpaceFloor::Bytes(0),
    })?;
    let start = clock::now();
    cache.write_document(DocumentKind::LayerIndex, &layer, &bytes)?;
    println!("stored in {} ms", millis(start));
    drop((index, bytes));
    for _ in 0..5 {
        let start = clock::now();
        let missing = || Error::new(ErrorKind::Corrupt, "the stored index is gone");
        let bytes = cache.map_document(DocumentKind::LayerIndex, &layer).ok_or_else(missing)?;
        let mapped = millis(start);
        let index = LayerIndex::decode(bytes, &layer)?;
        println!("opened in {} ms, of which mapped and checksummed in {mapped} ms", millis(start));
        search(&index)?;
    }
    Ok(())
}

fn search(index: &LayerIndex) -> Result<()> {
    let start = clock::now();
    let bytes: usize = (0..index.len()).map(|at| index.entry(at).path.len()).sum();
    let walked = millis(start);
    let start = clock::now();
    // A step that has no factor in common with most numbers, so that neighbours do not follow each other.
    let places = (0..index.len()).map(|at| at.wrapping_mul(7_368_787) % index.len());
    let found = places.filter(|at| index.find(index.path(*at)) == Some(*at)).count();
    if found != index.len() {
        return Err(Error::new(ErrorKind::Corrupt, "an entry was not found"));
    }
    let nanos = start.elapsed().as_nanos() / index.len().max(1) as u128;
    println!("  walked in {walked} ms ({bytes} bytes of paths), an entry found in {nanos} ns");
    Ok(())
}

fn entry(path: RelPath, at: u64) -> Entry {
    let kind = match at % 16 {
        0 => EntryKind::Directory,
        1 => EntryKind::Symlink { target: b"../lib/libsomething.so.1".as_slice().into() },
        _ => EntryKind::File { size: at % 99_991, extents: Extents::Contiguous { stream_offset: at * 4096 } },
    };
    let mode = if at.is_multiple_of(16) { 0o755 } else { 0o644 };
    let mtime = Timestamp { seconds: 1_700_000_000 + at.cast_signed() % 1000, nanoseconds: 0 };
    Entry { path, kind, mode, uid: 0, gid: 0, mtime, xattrs: Box::default() }
}

fn made_up(count: u64) -> Result<Vec<Entry>> {
    let path = |at: u64| {
        let (package, module) = (at / 400, at / 20 % 20);
        format!(
            "usr/share/doc/manuals/package-{package:05}/module-{module:02}/file_{:08x}.py",
            at.wrapping_mul(2_654_435_761) as u32
        )
    };
    (0..count).map(|at| Ok(entry(path(at).parse()?, at))).collect()
}

fn found(directory: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(current) = pending.pop() {
        let Ok(listing) = std::fs::read_dir(&current) else { continue };
        for item in listing {
            let item = item?;
            let path = item.path();
            let relative = path.strip_prefix(directory).unwrap_or(&path);
            entries.push(entry(RelPath::parse(relative.as_os_str().as_bytes())?, entries.len() as u64));
            if item.file_type()?.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(entries)
}

fn millis(start: std::time::Instant) -> u128 {
    start.elapsed().as_millis()
}

/// The most memory that this process has had.
fn peak_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kib = line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
    Ok(kib.unwrap_or_default() / 1024)
}
