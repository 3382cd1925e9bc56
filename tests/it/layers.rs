//! First readings of layers: archives of every compression over a source in memory, read while they are indexed and
//! afterwards.

use std::sync::Arc;
use std::time::Duration;

use refmount::base::{CHUNK_BYTES, Digest};
use refmount::cache::Cache;
use refmount::content::{Content, ContentSettings, LayerContent};
use refmount::fetch::Fetcher;
use refmount::indexing::{Expected, Found, Layer, LayerSpec, Layers, OwnIndex, Stage};
use refmount::layer::{EntryKind, FileBody, LayerIndex};
use refmount::registry::BlobSource;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::content::{SETTINGS, open_cache, random_bytes, until};
use crate::support::memory_source::MemorySource;

mod compressed;
mod damaged;
pub(crate) mod own_index;
mod plain;
mod waiting;

/// How a test's archive is packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A tar, its files, and the blob that holds it.
pub(super) struct Sample {
    pub(super) files: Vec<(&'static str, Vec<u8>)>,
    pub(super) tar: Vec<u8>,
    pub(super) blob: Vec<u8>,
}

/// Small files, large ones, and the end of one in the chunk in which the next begins.
pub(super) fn sample(packing: Packing) -> Sample {
    let sizes: [(&str, u64); 6] = [
        ("config.json", 300),
        ("a/small", 5000),
        ("model-1.bin", 9 * CHUNK_BYTES + 12_345),
        ("a/empty", 0),
        ("model-2.bin", 3 * CHUNK_BYTES),
        ("tail", 77),
    ];
    let files = (1..).zip(sizes).map(|(seed, (name, size))| (name, random_bytes(seed, size))).collect();
    packed(files, packing)
}

pub(super) fn packed(files: Vec<(&'static str, Vec<u8>)>, packing: Packing) -> Sample {
    let mut parts = Vec::new();
    for (name, bytes) in &files {
        parts.push(crate::tar::archive::file(name, bytes));
    }
    let tar = crate::tar::archive::archive(&parts);
    let blob = match packing {
        Packing::Plain => tar.clone(),
        Packing::Gzip => gzip(&tar),
        Packing::Zstd => zstd::encode_all(&tar[..], 1).unwrap(),
    };
    Sample { files, tar, blob }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    // The lowest level of this library makes one block of everything, which has no places to begin in.
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(3));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One layer, its source, and whatever has read it so far.
pub(super) struct Site {
    pub(super) sample: Sample,
    pub(super) digest: Digest,
    pub(super) source: Arc<MemorySource>,
    /// What the manifest says that the layer carries.
    pub(super) own_index: Option<OwnIndex>,
    pub(super) directory: TempDir,
}

impl Site {
    pub(super) fn new(sample: Sample) -> Self {
        let (source, digests) = MemorySource::new([sample.blob.clone()]);
        let digest = digests[0].clone();
        let directory = tempfile::tempdir().unwrap();
        Self { sample, digest, source: Arc::new(source), own_index: None, directory }
    }

    pub(super) fn layers(&self, cache: &Arc<Cache>) -> Arc<Layers> {
        Layers::new(Fetcher::new(Arc::clone(cache), Handle::current()), Handle::current())
    }

    pub(super) fn cache(&self, chunks: u64) -> Arc<Cache> {
        open_cache(&self.directory, chunks)
    }

    pub(super) fn open(&self, layers: &Arc<Layers>) -> Mount {
        self.open_with(layers, SETTINGS)
    }

    pub(super) fn open_with(&self, layers: &Arc<Layers>, settings: ContentSettings) -> Mount {
        let source: Arc<dyn BlobSource> = self.source.clone();
        let blob = self.digest.clone();
        let blob_bytes = self.sample.blob.len() as u64;
        let own_index = self.own_index.clone();
        let spec = LayerSpec { blob, blob_bytes, expected: Expected::Archive, own_index };
        let lease = layers.open(&spec, source, settings.fetch()).unwrap();
        let layer = Arc::clone(lease.layer());
        Mount { layer, content: Content::of(vec![LayerContent::Parts(lease)], settings) }
    }

    /// Checks that every byte of every file can be read, in steps that cross chunks.
    pub(super) async fn read_all(&self, mount: &Mount) {
        let index = mount.index().await;
        for (name, bytes) in &self.sample.files {
            let file = body(&index, name);
            assert_eq!(file.size, bytes.len() as u64);
            for start in (0..bytes.len()).step_by(700_001) {
                let end = bytes.len().min(start + 700_001);
                let read = mount.read(&file, start as u64..end as u64).await;
                assert!(read == bytes[start..end], "{name}, bytes {start}..{end}");
            }
        }
    }
}

/// What one mount has of a layer.
pub(super) struct Mount {
    pub(super) layer: Arc<Layer>,
    pub(super) content: Content,
}

impl Mount {
    pub(super) async fn index(&self) -> Arc<LayerIndex> {
        match self.settled().await {
            Stage::Known(index) => index,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn settled(&self) -> Stage {
        tokio::time::timeout(Duration::from_secs(60), self.layer.settled()).await.unwrap()
    }

    pub(super) async fn read(&self, file: &FileBody, range: std::ops::Range<u64>) -> Vec<u8> {
        let mut buffer = Vec::new();
        if self.content.read_cached(file, range.clone(), &mut buffer).unwrap() {
            return buffer;
        }
        self.content.read(file, range).await.unwrap().into()
    }
}

/// The bytes of the file called `name`.
pub(super) fn body(index: &LayerIndex, name: &str) -> FileBody {
    let entry = (0..index.len()).map(|at| index.entry(at)).find(|entry| entry.path == name.as_bytes());
    match entry.unwrap_or_else(|| panic!("no entry {name}")).kind {
        EntryKind::File { size, extents } => FileBody { layer: 0, size, extents },
        other => panic!("{name} is {other:?}"),
    }
}

/// The names that a watcher is told, in their order.
pub(super) fn watch_names(layer: &Content) -> Arc<std::sync::Mutex<Vec<String>>> {
    let names = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let told = Arc::clone(&names);
    layer.watch(
        0,
        Arc::new(move |found| {
            if let Found::Entry(entry) = found {
                told.lock().unwrap().push(entry.path.to_string());
            }
        }),
    );
    names
}
