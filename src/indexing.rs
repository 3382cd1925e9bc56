//! Layers that hold files: reads each once, and keeps what it learned for all mounts and later runs.
//!
//! The noun is the [`Layer`]: one for each that is in use, shared by all mounts of the owner. It is *known* once its
//! [`LayerIndex`] is there: from the cache at once, or after a first reading in the background. While that goes on, whoever
//! watches is told each entry as it is found, and what was found can be read: the bytes come from the segments of
//! the layer's stream (`segments`), which the reading fills as it goes by. A layer is known, fails for good, or turns
//! out not to be an archive at all; a source that is away for a while is none of these, and the reading goes on when it
//! comes back. Nothing here knows a mount, a tree or a path of an artifact.

mod first_reading;
mod own_index;
mod pass;
mod points;
mod probe;
mod prove;
mod segments;
mod sorter;
mod spans;
mod stream;
mod turn;
mod walk;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::base::{Algorithm, Digest, Error, ErrorKind, Joined, Result};
use crate::cache::DocumentKind;
use crate::fetch::{BlobBytes, Counters, Feed, FetchSettings, Fetcher, Proving, Readers, Sources, Tell};
use crate::layer::tar::TarItem;
use crate::layer::{Entry, LayerIndex, LayerProof, LayerStream, Member, RootAttributes};
use crate::registry::BlobSource;

use points::Points;
use segments::{Common, OnRejected, Segments};
use spans::SpanStream;
use stream::{DecodedStream, PlainStream, StreamSource};

pub use own_index::OwnIndex;
pub use probe::{Holds, Probe, TailIndex, probe, tail_index};
pub use segments::Place;

/// First readings at once. Each keeps a core busy; more would only get into each other's way.
const READINGS_MAX: usize = 2;

/// Between two checks of a layer that was complete and is not any more, or did not match: each reads all of it.
const PROOF_PAUSE: Duration = Duration::from_secs(2);

/// What is expected of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expected {
    /// An archive, compressed or not.
    Archive,
    /// One file, compressed.
    File,
}

/// A layer to be opened.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Its blob.
    pub blob: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// What it should hold.
    pub expected: Expected,
    /// The index that it is said to have of its own.
    pub own_index: Option<OwnIndex>,
}

/// How far a layer is known.
#[derive(Clone, Debug)]
pub enum Stage {
    /// What it is is not clear yet.
    Opening,
    /// It is being read for the first time.
    Reading,
    /// Its index is there.
    Known(Arc<LayerIndex>),
    /// It is not what was expected; the text says what it is instead.
    NoArchive(String),
    /// It cannot be read.
    Failed(Error),
}

/// What a watcher is told.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// An entry, in the order of the stream.
    Entry(&'a Entry),
    /// Something came.
    Progress,
}

/// Whoever watches a first reading. Called on the reading's thread.
pub type Watcher = Arc<dyn Fn(Found<'_>) + Send + Sync>;

/// The layers that are in use, by what they are called in the cache.
#[derive(Debug)]
pub struct Layers {
    fetcher: Arc<Fetcher>,
    handle: Handle,
    readings: Arc<Semaphore>,
    /// Whether layers that are complete are checked in the background, for those who come later.
    proves: bool,
    open: Mutex<HashMap<Digest, Weak<Layer>>>,
}

impl Layers {
    /// None yet; what is learned goes into the cache of `fetcher`, and tasks run on `handle`.
    #[must_use]
    pub fn new(fetcher: Arc<Fetcher>, handle: Handle) -> Arc<Self> {
        Arc::new(Self::with(fetcher, handle, true))
    }

    /// The same for a cache that goes with its command: nobody comes later for whom a layer were to be checked.
    #[must_use]
    pub fn of_one_command(fetcher: Arc<Fetcher>, handle: Handle) -> Arc<Self> {
        Arc::new(Self::with(fetcher, handle, false))
    }

    fn with(fetcher: Arc<Fetcher>, handle: Handle, proves: bool) -> Self {
        let readings = Arc::new(Semaphore::new(READINGS_MAX));
        Self { fetcher, handle, readings, proves, open: Mutex::default() }
    }

    /// What brings the bytes.
    #[must_use]
    pub fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    /// Whether the archive `blob` was read before, so that nothing has to come to show its entries.
    #[must_use]
    pub fn is_known(&self, blob: &Digest) -> bool {
        self.fetcher.cache().paths().document(DocumentKind::LayerIndex, blob).exists()
    }

    /// The layer that `spec` names, read through `source` while the lease lives. Returns at once; a layer that is not
    /// known yet is being read from then on. `settings.whole_files` counts for the first lease of a layer.
    ///
    /// # Errors
    /// As [`Fetcher::feed`].
    pub fn open(
        self: &Arc<Self>,
        spec: &LayerSpec,
        source: Arc<dyn BlobSource>,
        settings: FetchSettings,
    ) -> Result<LayerLease> {
        let identity = identity(spec);
        let mut open = lock(&self.open);
        let known = open.get(&identity).and_then(Weak::upgrade);
        let layer = match known {
            Some(layer) if layer.blob_bytes == spec.blob_bytes => layer,
            Some(layer) => {
                let text = format!(
                    "layer {} has {} bytes in one manifest and {} in another",
                    spec.blob, layer.blob_bytes, spec.blob_bytes
                );
                return Err(Error::new(ErrorKind::Corrupt, text));
            }
            None => {
                let layer = Layer::new(self, identity.clone(), spec, settings.whole_files);
                open.retain(|_, layer| layer.strong_count() > 0);
                open.insert(identity, Arc::downgrade(&layer));
                layer
            }
        };
        let counters_before = layer.counters();
        let lease = layer.sources.add(&self.fetcher, source, settings);
        layer.begin();
        Ok(LayerLease { lease, counters_before, layer })
    }
}

/// What a layer is called in the cache: by its blob, unless its stream is another one than an archive's.
///
/// What a layer's own index says holds for those only whose manifest names this index: another one may name a wrong one.
fn identity(spec: &LayerSpec) -> Digest {
    let name = match (spec.expected, &spec.own_index) {
        (Expected::Archive, None) => return spec.blob.clone(),
        (Expected::Archive, Some(own)) => format!("{} by {} {}", spec.blob, own.name(), own.digest()),
        (Expected::File, _) => format!("{} as one file", spec.blob),
    };
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

/// One layer. See the module's text.
pub struct Layer {
    layers: Arc<Layers>,
    identity: Digest,
    blob: Digest,
    blob_bytes: u64,
    expected: Expected,
    own_index: Option<OwnIndex>,
    whole_files: bool,
    sources: Arc<Sources>,
    segments: OnceLock<Segments>,
    points: OnceLock<Arc<Points>>,
    stage: watch::Sender<Stage>,
    findings: Mutex<Findings>,
    /// Of the blob, as the first reading took them.
    pass_bytes: Arc<AtomicU64>,
    /// Raised as a reading or a check comes on.
    steps: AtomicU64,
    is_proving: AtomicBool,
    mismatches: AtomicU32,
    reading: Mutex<Option<AbortHandle>>,
    /// Whom each lease has told that bytes which were handed out are wrong.
    rejected: Mutex<Vec<(u64, Tell)>>,
    this: Weak<Self>,
}

/// What a first reading has found so far.
#[derive(Default)]
struct Findings {
    entries: Vec<Entry>,
    root: Option<RootAttributes>,
    /// What may surprise about the way in which it was read.
    warnings: Vec<String>,
    watchers: Vec<Watcher>,
}

impl Findings {
    /// What was found in the archive, for a reading from the start.
    fn forget(&mut self) {
        self.entries = Vec::new();
        self.root = None;
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("blob", &self.blob).finish_non_exhaustive()
    }
}

impl Layer {
    fn new(layers: &Arc<Layers>, identity: Digest, spec: &LayerSpec, whole_files: bool) -> Arc<Self> {
        let layer = Arc::new_cyclic(|this| Self {
            layers: Arc::clone(layers),
            identity,
            blob: spec.blob.clone(),
            blob_bytes: spec.blob_bytes,
            expected: spec.expected,
            own_index: spec.own_index.clone(),
            whole_files,
            sources: Arc::default(),
            segments: OnceLock::new(),
            points: OnceLock::new(),
            stage: watch::Sender::new(Stage::Opening),
            findings: Mutex::default(),
            pass_bytes: Arc::default(),
            steps: AtomicU64::new(0),
            is_proving: AtomicBool::new(false),
            mismatches: AtomicU32::new(0),
            reading: Mutex::default(),
            rejected: Mutex::default(),
            this: this.clone(),
        });
        if let Some(index) = layer.stored_index() {
            let proof = layer.stored_proof();
            if is_made_by_a_pass(&index) && proof.is_none() {
                tracing::warn!(digest = %layer.blob, "the digests that a reading found are gone; it is read again");
            } else {
                layer.opened_by(&index, proof);
                layer.known(index);
            }
        }
        layer
    }

    fn stored_index(&self) -> Option<LayerIndex> {
        let cache = self.layers.fetcher.cache();
        let bytes = cache.map_document(DocumentKind::LayerIndex, &self.identity)?;
        match LayerIndex::decode(bytes, &self.blob) {
            Ok(index) if index.blob_bytes() != self.blob_bytes => None,
            Ok(index) => Some(index),
            Err(error) => {
                tracing::warn!(digest = %self.blob, error = error.chain(), "a stored index is not used");
                None
            }
        }
    }

    /// Starts the first reading, if it is wanted and not under way.
    fn begin(&self) {
        let mut reading = lock(&self.reading);
        let is_under_way = reading.as_ref().is_some_and(|reading| !reading.is_finished());
        match &*self.stage.borrow() {
            Stage::Known(_) | Stage::NoArchive(_) => return,
            Stage::Opening | Stage::Reading if is_under_way => return,
            Stage::Opening | Stage::Reading | Stage::Failed(_) => {}
        }
        let Some(layer) = self.this.upgrade() else { return };
        self.stage.send_replace(Stage::Opening);
        *reading = Some(self.layers.handle.spawn(first_reading::run(layer)).abort_handle());
    }

    /// Its blob.
    #[must_use]
    pub fn blob(&self) -> &Digest {
        &self.blob
    }

    /// What it is called in the cache.
    #[must_use]
    pub fn cached_as(&self) -> &Digest {
        &self.identity
    }

    /// How far it is known.
    #[must_use]
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// The index, once it is there.
    #[must_use]
    pub fn index(&self) -> Option<Arc<LayerIndex>> {
        match &*self.stage.borrow() {
            Stage::Known(index) => Some(Arc::clone(index)),
            _ => None,
        }
    }

    /// Waits until it is clear what it is.
    pub async fn opening(&self) -> Stage {
        self.stage_when(|stage| !matches!(stage, Stage::Opening)).await
    }

    /// Waits until it is known or known not to be.
    pub async fn settled(&self) -> Stage {
        self.stage_when(|stage| !matches!(stage, Stage::Opening | Stage::Reading)).await
    }

    async fn stage_when(&self, is_so: impl FnMut(&Stage) -> bool) -> Stage {
        let mut stage = self.stage.subscribe();
        // The sender lives as long as `self`.
        let found = stage.wait_for(is_so).await;
        found.map_or(Stage::Opening, |stage| stage.clone())
    }

    /// Notes what the stream is made of: for the first time, or again the same.
    fn opened(&self, stream: Arc<dyn StreamSource>, members: Vec<Member>, proof: Option<LayerProof>) {
        self.opened_as(stream, members, proof, false);
    }

    /// The same; `is_checked`: the stream yields nothing that was not checked.
    fn opened_as(
        &self,
        stream: Arc<dyn StreamSource>,
        members: Vec<Member>,
        proof: Option<LayerProof>,
        is_checked: bool,
    ) {
        let this = self.this.clone();
        let tell_complete = move || {
            if let Some(layer) = this.upgrade() {
                layer.prove_if_complete();
            }
        };
        let this = self.this.clone();
        let tell_rejected = move || {
            if let Some(layer) = this.upgrade() {
                layer.tell_rejected();
            }
        };
        let common = Common {
            fetcher: Arc::clone(&self.layers.fetcher),
            identity: self.identity.clone(),
            blob: self.blob.clone(),
            stream,
            sources: Arc::clone(&self.sources),
            proving: if is_checked { Proving::Origin } else { Proving::Part(Arc::new(tell_complete)) },
            whole_files: self.whole_files,
            on_rejected: OnRejected(Arc::new(tell_rejected)),
        };
        let _ = self.segments.set(Segments::new(common, members, proof));
    }

    /// The stream's segments, once it is clear what the stream is.
    fn segments(&self) -> Result<&Segments> {
        self.segments.get().ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("nothing of layer {} was opened yet", self.blob))
        })
    }

    /// Notes what the stream is made of, as `index` says.
    fn opened_by(&self, index: &LayerIndex, proof: Option<LayerProof>) {
        let stream: Arc<dyn StreamSource> = match index.stream() {
            LayerStream::Plain => Arc::new(PlainStream { blob: self.blob.clone(), bytes: self.blob_bytes }),
            LayerStream::Spans(table) => Arc::new(SpanStream {
                blob: self.blob.clone(),
                blob_bytes: self.blob_bytes,
                table: table.clone(),
            }),
            LayerStream::Restart(table) => Arc::new(DecodedStream {
                blob: self.blob.clone(),
                blob_bytes: self.blob_bytes,
                points: Arc::clone(self.points.get_or_init(|| Arc::new(Points::complete(table.clone())))),
            }),
        };
        let members = index.members().collect();
        self.opened_as(stream, members, proof, is_checked_by_spans(index));
    }

    /// From now on it is known.
    fn known(&self, index: LayerIndex) {
        if self.segments.get().is_none() {
            self.opened_by(&index, self.stored_proof());
        }
        {
            let mut findings = lock(&self.findings);
            findings.entries = Vec::new();
            findings.watchers = Vec::new();
        }
        self.stage.send_replace(Stage::Known(Arc::new(index)));
    }

    fn stored_proof(&self) -> Option<LayerProof> {
        let bytes = self.layers.fetcher.cache().read_document(DocumentKind::Proof, &self.identity)?;
        LayerProof::decode(&bytes, &self.identity).ok()
    }

    /// Notes what the first reading found next.
    fn found(&self, item: TarItem) {
        if self.own_index.as_ref().is_some_and(|own| own.is_bookkeeping(&item)) {
            return;
        }
        let mut findings = lock(&self.findings);
        match item {
            TarItem::Root(root) => findings.root = Some(root),
            TarItem::Entry(entry) => {
                for watcher in &findings.watchers {
                    watcher(Found::Entry(&entry));
                }
                findings.entries.push(entry);
            }
        }
    }

    /// What may surprise about it, as far as that is known.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match self.index() {
            Some(index) => index.warnings(),
            None => lock(&self.findings).warnings.clone(),
        }
    }

    /// Notes what may surprise, for the index.
    fn warn(&self, warning: String) {
        tracing::warn!(digest = %self.blob, "{warning}");
        lock(&self.findings).warnings.push(warning);
    }

    /// Something came.
    fn progressed(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        for watcher in &lock(&self.findings).watchers {
            watcher(Found::Progress);
        }
    }

    /// Forgets what an earlier reading found, to begin again.
    fn forget_findings(&self) {
        if let Some(segments) = self.segments.get() {
            segments.reset();
        }
        lock(&self.findings).forget();
    }

    /// Has `watcher` told all entries, those found before first, while the layer is being read.
    fn watch(&self, watcher: Watcher) {
        let mut findings = lock(&self.findings);
        for entry in &findings.entries {
            watcher(Found::Entry(entry));
        }
        findings.watchers.push(watcher);
    }

    /// Counts the bytes of the blob that a first reading takes.
    fn counter(&self) -> BlobBytes {
        let (bytes, sources) = (Arc::clone(&self.pass_bytes), Arc::clone(&self.sources));
        let totals = Arc::clone(self.layers.fetcher.totals());
        BlobBytes::new(move |count| {
            bytes.fetch_add(count, Ordering::Relaxed);
            totals.read_first(count);
            sources.progressed(count);
        })
    }

    /// What was counted so far.
    fn counters(&self) -> Counters {
        let fed = self.segments.get().map(Segments::counters).unwrap_or_default();
        fed.with_first_reading(self.pass_bytes.load(Ordering::Relaxed))
    }

    /// What is counted of all readers of the cache.
    #[must_use]
    pub fn readers(&self) -> &Arc<Readers> {
        self.layers.fetcher.readers()
    }

    fn tell_rejected(&self) {
        let told: Vec<Tell> = lock(&self.rejected).iter().map(|(_, tell)| Arc::clone(tell)).collect();
        told.iter().for_each(|tell| tell());
    }

    /// Where `stream`, a part of a file's bytes, is cached.
    ///
    /// # Errors
    /// `Io` before anything of the layer was opened.
    pub fn places(&self, stream: &Range<u64>) -> Result<Vec<Place>> {
        Ok(self.segments()?.places(stream))
    }

    /// The feed of the segment `number`, which [`Self::places`] named.
    ///
    /// # Errors
    /// As [`Fetcher::feed`].
    pub fn feed(&self, number: u32) -> Result<Arc<Feed>> {
        self.segments()?.feed(number)
    }

    /// The segment that is exactly `stream`: a large file.
    #[must_use]
    pub fn member(&self, stream: &Range<u64>) -> Option<Arc<Feed>> {
        let segments = self.segments.get()?;
        let (number, member) = segments.member_of(stream)?;
        let is_whole = member.stream_offset == stream.start && member.bytes == stream.end - stream.start;
        if is_whole { segments.feed(number).ok() } else { None }
    }

    /// Whether the digests of all its chunks are known.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.segments.get().is_some_and(Segments::is_proven)
    }

    /// Reads `stream`, within one window, through its window.
    async fn read_window(&self, stream: Range<u64>, limit: Duration) -> Result<Bytes> {
        let window = stream.start / segments::WINDOW_BYTES;
        let base = window * segments::WINDOW_BYTES;
        let feed = self.feed(segments::window_number(window))?;
        let mut out = Joined::default();
        feed.read_quietly(stream.start - base..stream.end - base, limit, &mut out).await?;
        Ok(out.into())
    }

    /// Checks the layer against its digest in the background, if all of it is cached and nobody has. If only little is
    /// missing, that is fetched for it.
    fn prove_if_complete(&self) {
        let Some(layer) = self.this.upgrade().filter(|layer| layer.layers.proves) else { return };
        let Some(index) = self.index().filter(|_| !self.is_proven()) else { return };
        // Without a mount, nothing that is missing could be fetched.
        if self.sources.count() == 0
            || !prove::is_worth_it(&layer, &index)
            || self.is_proving.swap(true, Ordering::AcqRel)
        {
            return;
        }
        self.layers.handle.spawn(async move {
            if let Err(error) = first_reading::complete_and_prove(&layer, &index).await {
                tracing::warn!(digest = %layer.blob, error = error.chain(), "the layer was not checked");
            }
            layer.is_proving.store(false, Ordering::Release);
            if !layer.is_proven() {
                // What was stored meanwhile was told to nobody.
                tokio::time::sleep(PROOF_PAUSE).await;
                layer.prove_if_complete();
            }
        });
    }

    /// Waits until all of the layer was fetched and matched its digest, as long as it comes on within `limit` each time.
    ///
    /// # Errors
    /// What fetching failed with; `Corrupt` when it does not match; `TimedOut`.
    pub async fn verified(self: &Arc<Self>, limit: Duration) -> Result<()> {
        let checked = self.checked();
        tokio::pin!(checked);
        let progress = || (self.steps.load(Ordering::Relaxed), self.counters().network_bytes());
        loop {
            let before = progress();
            match tokio::time::timeout(limit, &mut checked).await {
                Ok(result) => return result,
                Err(_) if progress() != before => {}
                Err(_) => return Err(self.unchecked_after(limit)),
            }
        }
    }

    fn unchecked_after(&self, limit: Duration) -> Error {
        let text = format!(
            "layer {} from {}: all of it is to be checked first, and nothing came within {:.1} s",
            self.blob,
            self.sources.names(),
            limit.as_secs_f64()
        );
        Error::new(ErrorKind::TimedOut, text)
    }

    async fn checked(self: &Arc<Self>) -> Result<()> {
        match self.settled().await {
            Stage::Known(index) if !self.is_proven() => first_reading::verify(self, &index).await,
            Stage::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether it came with a proof, which only another pass can give again.
fn is_made_by_a_pass(index: &LayerIndex) -> bool {
    matches!(index.stream(), LayerStream::Restart(_)) && index.is_trusted()
}

/// Whether each byte of the stream comes checked by a digest that the manifest vouches for.
fn is_checked_by_spans(index: &LayerIndex) -> bool {
    match index.stream() {
        LayerStream::Spans(table) => index.is_trusted() && table.spans().all(|span| span.digest.is_some()),
        LayerStream::Plain | LayerStream::Restart(_) => false,
    }
}

/// A mount's claim on a layer. When the last one goes, what is under way is given up.
#[derive(Debug)]
pub struct LayerLease {
    lease: u64,
    counters_before: Counters,
    layer: Arc<Layer>,
}

impl LayerLease {
    /// The layer.
    #[must_use]
    pub fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    /// Has `watcher` told all entries of a layer that is being read, those found before first.
    pub fn watch(&self, watcher: Watcher) {
        self.layer.watch(watcher);
    }

    /// Has `tell` called, while the lease lives, whenever bytes that were handed out turn out to be wrong.
    pub fn on_rejected(&self, tell: Tell) {
        lock(&self.layer.rejected).push((self.lease, tell));
    }

    /// What was counted since the lease began.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.layer.counters().since(self.counters_before)
    }

    /// What the last attempt to fail has failed with, for those who stop waiting.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.layer.sources.last_failure()
    }
}

impl Drop for LayerLease {
    fn drop(&mut self) {
        // Whoever opens the layer meanwhile waits, and finds it as it is afterwards.
        let mut open = lock(&self.layer.layers.open);
        lock(&self.layer.rejected).retain(|(lease, _)| *lease != self.lease);
        if !self.layer.sources.remove(self.lease) {
            return;
        }
        if let Some(reading) = lock(&self.layer.reading).take() {
            reading.abort();
        }
        for feed in self.layer.segments.get().map(Segments::feeds).unwrap_or_default() {
            feed.abandon();
        }
        open.remove(&self.layer.identity);
    }
}

/// Nothing is left half changed by a panic under these locks: each section is a few assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
