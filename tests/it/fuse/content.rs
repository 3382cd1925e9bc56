//! Content in memory that refuses what the filesystem must never ask, and fails or waits on command.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use async_trait::async_trait;
use refmount::base::{Algorithm, Digest, Error, ErrorKind, Result};
use refmount::content::{DirectFile, Standing};
use refmount::fs::FileContent;
use refmount::layer::{Extent, Extents, FileBody};
use tokio::sync::watch;

use super::fixture::until;

/// A file's bytes and how they are to be had.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    bytes: Mutex<Vec<u8>>,
    behaviour: Mutex<Behaviour>,
    pub(super) opened: AtomicUsize,
    pub(super) reads: AtomicUsize,
    /// Reads that have come to be stuck.
    pub(super) stuck: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Answered from the cache.
    Cached,
    /// Answered by a task.
    Remote,
    /// Waits until the content is released.
    Stuck,
    /// The registry is gone.
    Failing,
    /// Panics on the thread that serves the kernel.
    Panicking,
    /// Panics in the task.
    PanickingRemotely,
    /// The kernel may read the file itself; a read that comes here is refused.
    Direct,
    /// The kernel may read the file itself whenever it is asked an odd number of times.
    MaybeDirect,
}

type Callback = Box<dyn Fn(usize) + Send + Sync>;

pub(super) struct MemoryContent {
    pub(super) layers: Vec<Layer>,
    released: watch::Sender<bool>,
    rejected: Mutex<Vec<Callback>>,
    handed_over: AtomicUsize,
    asked_for_direct: AtomicUsize,
}

impl std::fmt::Debug for MemoryContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryContent").finish_non_exhaustive()
    }
}

impl MemoryContent {
    pub(super) fn new(files: &[Vec<u8>]) -> Self {
        let digests: HashSet<_> = files.iter().map(|bytes| Digest::of(Algorithm::Sha256, bytes)).collect();
        assert_eq!(digests.len(), files.len(), "files of a test differ");
        let layers = files.iter().map(|bytes| Layer {
            digest: Digest::of(Algorithm::Sha256, bytes),
            bytes: Mutex::new(bytes.clone()),
            behaviour: Mutex::new(Behaviour::Cached),
            opened: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
        });
        Self {
            layers: layers.collect(),
            released: watch::Sender::new(false),
            rejected: Mutex::default(),
            handed_over: AtomicUsize::new(0),
            asked_for_direct: AtomicUsize::new(0),
        }
    }

    pub(super) fn behave(&self, layer: usize, behaviour: Behaviour) {
        *self.layers[layer].behaviour.lock().unwrap() = behaviour;
    }

    /// Returns once a read of the layer is stuck.
    pub(super) fn wait_until_stuck(&self, layer: usize) {
        until("a read is stuck", || self.layers[layer].stuck.load(Ordering::SeqCst) > 0);
    }

    /// Lets all reads go on that are stuck.
    pub(super) fn release(&self) {
        self.released.send_replace(true);
    }

    /// Replaces the bytes of a layer and says that those served before were wrong.
    pub(super) fn reject(&self, layer: usize, right: Vec<u8>) {
        *self.layers[layer].bytes.lock().unwrap() = right;
        for callback in self.rejected.lock().unwrap().iter() {
            callback(layer);
        }
    }

    /// How many files were given out for the kernel to read.
    pub(super) fn handed_over(&self) -> usize {
        self.handed_over.load(Ordering::SeqCst)
    }

    fn behaviour(&self, layer: usize) -> Behaviour {
        *self.layers[layer].behaviour.lock().unwrap()
    }

    /// A range of a file: its layer's bytes are the stream.
    fn bytes(&self, file: &FileBody, range: &Range<u64>) -> Vec<u8> {
        assert!(!range.is_empty(), "an empty range needs no content");
        assert!(range.end <= file.size, "a range within the file");
        let layer = &self.layers[file.layer];
        layer.reads.fetch_add(1, Ordering::SeqCst);
        let stream = layer.bytes.lock().unwrap();
        let extents: Arc<[Extent]> = match &file.extents {
            Extents::Sparse(extents) => Arc::clone(extents),
            Extents::Contiguous { stream_offset } => {
                [Extent { file_offset: 0, stream_offset: *stream_offset, length: file.size }].into()
            }
        };
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for extent in extents.iter() {
            let from = range.start.max(extent.file_offset);
            let to = range.end.min(extent.file_offset + extent.length);
            if from < to {
                let at = (extent.stream_offset + from - extent.file_offset) as usize;
                let (start, end) = ((from - range.start) as usize, (to - range.start) as usize);
                bytes[start..end].copy_from_slice(&stream[at..at + (end - start)]);
            }
        }
        bytes
    }
}

#[async_trait]
impl FileContent for MemoryContent {
    fn read_cached(&self, file: &FileBody, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
        let layer = file.layer;
        match self.behaviour(layer) {
            Behaviour::Cached => {}
            Behaviour::Panicking => panic!("as the test wants it"),
            Behaviour::Direct => {
                return Err(Error::new(ErrorKind::Io, "the kernel was to read this itself"));
            }
            _ => return Ok(false),
        }
        buffer.clear();
        buffer.extend(self.bytes(file, &range));
        Ok(true)
    }

    async fn read(self: Arc<Self>, file: &FileBody, range: Range<u64>) -> Result<Bytes> {
        let layer = file.layer;
        match self.behaviour(layer) {
            Behaviour::Stuck => {
                self.layers[layer].stuck.fetch_add(1, Ordering::SeqCst);
                self.released.subscribe().wait_for(|released| *released).await.unwrap();
            }
            Behaviour::Failing => return Err(Error::new(ErrorKind::Unavailable, "the registry is gone")),
            Behaviour::PanickingRemotely => panic!("as the test wants it"),
            Behaviour::Cached
            | Behaviour::Remote
            | Behaviour::Panicking
            | Behaviour::Direct
            | Behaviour::MaybeDirect => {}
        }
        Ok(self.bytes(file, &range).into())
    }

    fn opened(self: Arc<Self>, file: &FileBody) {
        let layer = file.layer;
        // Content starts tasks here, which takes a runtime.
        let opened = Arc::clone(&self);
        tokio::spawn(async move { opened.layers[layer].opened.fetch_add(1, Ordering::SeqCst) });
    }

    fn direct(&self, file: &FileBody) -> Option<DirectFile> {
        let layer = file.layer;
        let handed_over = match self.behaviour(layer) {
            Behaviour::Direct => true,
            Behaviour::MaybeDirect => self.asked_for_direct.fetch_add(1, Ordering::SeqCst).is_multiple_of(2),
            _ => false,
        };
        if !handed_over {
            return None;
        }
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&self.layers[layer].bytes.lock().unwrap()).unwrap();
        self.handed_over.fetch_add(1, Ordering::SeqCst);
        Some(DirectFile::unpinned(file))
    }

    fn digest(&self, layer: usize) -> &Digest {
        &self.layers[layer].digest
    }

    fn cached_bytes(&self, file: &FileBody) -> u64 {
        let layer = file.layer;
        self.layers[layer].bytes.lock().unwrap().len() as u64
    }

    fn standing(&self, _file: &FileBody) -> Standing {
        Standing::Pending
    }

    fn on_rejected(&self, callback: Callback) {
        self.rejected.lock().unwrap().push(callback);
    }
}
