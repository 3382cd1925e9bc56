//! Warming: an artifact, or parts of it, fetched into the cache before anybody mounts it.
//!
//! | from      | to        | when                                                        |
//! |-----------|-----------|-------------------------------------------------------------|
//! | resolving | reading   | it is known what the reference stands for                   |
//! | reading   | fetching  | all layers are known: of archives, their entries            |
//! | fetching  | verifying | every file that the cache has room for is in it             |
//! | verifying | done      | each layer that is here as a whole matches its digest       |
//! | any       | failed    | what was fetched stays                                      |
//! | any       | cancelled | it was told to end                                          |
//!
//! Mounts of the same artifact share what is fetched, whoever asks first; what their readers want comes before.

use std::collections::{BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::base::{Digest, Error, ErrorKind, Result, chunk_range, clock};
use crate::cache::{Cache, SegmentId};
use crate::content::Content;
use crate::indexing::Layers;
use crate::layer::FileBody;
use crate::oci::SourceRef;

use super::chosen::{ArtifactRequest, Chosen, Resolved};
use super::held;
use super::task::Task;

/// Files that are fetched at once. Each is a stream of its own; more do not make a registry faster.
const FILES_AT_ONCE: usize = 4;

/// How long whoever begins it waits for layers that are not known: most are by then, and it can be said what there is
/// no room for.
const GRACE: Duration = Duration::from_millis(300);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmState {
    /// It is asked what the reference stands for.
    Resolving,
    /// Archives are being read for their entries.
    Reading,
    /// Bytes are being fetched.
    Fetching,
    /// What is complete is being checked against its digest.
    Verifying,
    /// Everything is there.
    Done,
    /// It has come to an end before.
    Failed,
    /// It was told to end.
    Cancelled,
}

impl WarmState {
    /// Whether nothing more happens.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// What is known about a warming.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WarmStatus {
    /// Its number.
    pub id: u64,
    /// The reference, normalised.
    pub reference: String,
    /// What it stood for; none as long as that is not known.
    pub digest: Option<Digest>,
    /// The parts that are fetched; none: all.
    pub subpaths: Vec<String>,
    /// When it began, in RFC 3339.
    pub begun: String,
    /// How far it is.
    pub state: WarmState,
    /// The files that are to be in the cache; none as long as they are not known.
    pub file_count: Option<u64>,
    /// Their bytes.
    pub total_bytes: Option<u64>,
    /// Those of them that are in it.
    pub cached_bytes: u64,
    /// Bytes fetched for it.
    pub network_bytes: u64,
    /// Files that the cache has no room for.
    pub left_out_files: u64,
    /// Their bytes.
    pub left_out_bytes: u64,
    /// Why it failed.
    pub error: Option<Failed>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// Why a warming failed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Failed {
    /// What can be done about it.
    pub kind: ErrorKind,
    /// The whole chain.
    pub message: String,
}

impl WarmStatus {
    /// What is known before it is resolved what `request` names. It begins now.
    #[must_use]
    pub fn resolving(id: u64, request: &ArtifactRequest) -> Self {
        let typed = &request.reference;
        let reference = typed.parse().map_or_else(|_| typed.clone(), |known: SourceRef| known.to_string());
        Self {
            id,
            reference,
            digest: None,
            subpaths: request.subpaths.clone(),
            begun: held::rfc3339(clock::unix_time()),
            state: WarmState::Resolving,
            file_count: None,
            total_bytes: None,
            cached_bytes: 0,
            network_bytes: 0,
            left_out_files: 0,
            left_out_bytes: 0,
            error: None,
            warnings: Vec::new(),
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::new(failed.kind, failed.message)
    }
}

/// What there is to do.
#[derive(Debug)]
struct Plan {
    content: Content,
    files: Vec<FileBody>,
    bytes: u64,
    left_out_files: u64,
    left_out_bytes: u64,
    is_whole: bool,
}

/// See the module's text. Broken off when it is dropped.
#[derive(Debug)]
pub struct Warming {
    request: ArtifactRequest,
    /// As it was at the start.
    begun: WarmStatus,
    progress: Arc<Progress>,
    task: Mutex<Option<Task>>,
}

#[derive(Debug)]
struct Progress {
    state: watch::Sender<WarmState>,
    plan: Mutex<Option<Arc<Plan>>>,
    /// What there was to say when the content was let go.
    last: Mutex<Option<WarmStatus>>,
    error: Mutex<Option<Failed>>,
}

impl Warming {
    /// Resolves what `request` names, and begins; `resolving` is what was known before.
    ///
    /// # Errors
    /// Those of resolving it.
    pub async fn begin(
        resolving: WarmStatus,
        request: ArtifactRequest,
        layers: &Arc<Layers>,
    ) -> Result<Arc<Self>> {
        let cache = Arc::clone(layers.fetcher().cache());
        let resolved = Resolved::of(&request, &cache).await?;
        let begun = begun(resolving, &resolved, &cache);
        let progress = Arc::new(Progress::new());
        let (id, digest) = (begun.id, &resolved.artifact.digest);
        tracing::info!(reference = begun.reference, %digest, id, "warming");
        let work = run(Arc::clone(&progress), resolved, request.clone(), Arc::clone(layers), begun.clone());
        Ok(Arc::new(Self { request, begun, progress, task: Mutex::new(Some(Task::spawn(work))) }))
    }

    /// Waits a moment for what there is to fetch to be known. Otherwise it is known later.
    pub async fn known_soon(&self) {
        let mut state = self.state();
        let known = state.wait_for(|state| *state != WarmState::Reading);
        let _ = tokio::time::timeout(GRACE, known).await;
    }

    /// What it was asked for.
    #[must_use]
    pub fn request(&self) -> &ArtifactRequest {
        &self.request
    }

    /// How far it is right now. May wait for the disk.
    #[must_use]
    pub fn status(&self) -> WarmStatus {
        self.progress.status(&self.begun)
    }

    /// How far it is, and its changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<WarmState> {
        self.progress.state.subscribe()
    }

    /// Ends it, if it is not over. What was fetched stays.
    pub fn cancel(&self) {
        let task = lock(&self.task).take();
        drop(task);
        self.progress.end(&self.begun, WarmState::Cancelled);
    }
}

fn begun(resolving: WarmStatus, resolved: &Resolved, cache: &Cache) -> WarmStatus {
    let artifact = &resolved.artifact;
    let mut warnings = artifact.warnings.clone();
    let blobs = artifact.layers.iter().map(|layer| layer.descriptor.size).fold(0, u64::saturating_add);
    let room = cache.room_bytes();
    if resolving.subpaths.is_empty() && blobs > room {
        warnings.push(format!(
            "its layers have {blobs} bytes, and the cache has room for {room} bytes of content; what does not fit is \
             left out; give the cache more with --cache-size"
        ));
    }
    WarmStatus {
        reference: artifact.reference.to_string(),
        digest: Some(artifact.digest.clone()),
        state: WarmState::Reading,
        warnings,
        ..resolving
    }
}

impl Progress {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(WarmState::Reading),
            plan: Mutex::default(),
            last: Mutex::default(),
            error: Mutex::default(),
        }
    }

    fn status(&self, begun: &WarmStatus) -> WarmStatus {
        let state = *self.state.borrow();
        if let Some(last) = lock(&self.last).clone() {
            return WarmStatus { state, error: lock(&self.error).clone(), ..last };
        }
        let plan = lock(&self.plan).clone();
        let planned = plan.map(|plan| {
            let cached = plan.files.iter().map(|file| plan.content.cached_bytes(file));
            WarmStatus {
                file_count: Some(plan.files.len() as u64),
                total_bytes: Some(plan.bytes),
                cached_bytes: cached.sum(),
                network_bytes: plan.content.network_bytes(),
                left_out_files: plan.left_out_files,
                left_out_bytes: plan.left_out_bytes,
                ..begun.clone()
            }
        });
        WarmStatus { state, ..planned.unwrap_or_else(|| begun.clone()) }
    }

    /// Lets the content go, and says how it ended; the first one to say so counts.
    fn end(&self, begun: &WarmStatus, how: WarmState) {
        if self.state.borrow().is_over() {
            return;
        }
        let last = self.status(begun);
        *lock(&self.last) = Some(last);
        *lock(&self.plan) = None;
        self.becomes(how);
    }

    fn ends_by(&self, begun: &WarmStatus, result: Result<()>) {
        match result {
            Ok(()) => {
                tracing::info!(reference = begun.reference, id = begun.id, "warmed");
                self.end(begun, WarmState::Done);
            }
            Err(error) => {
                let message = error.chain();
                tracing::warn!(reference = begun.reference, id = begun.id, error = message, "not warmed");
                *lock(&self.error) = Some(Failed { kind: error.kind(), message });
                self.end(begun, WarmState::Failed);
            }
        }
    }

    /// Nothing comes after an end.
    fn becomes(&self, next: WarmState) {
        self.state.send_if_modified(|state| {
            let goes_on = !state.is_over();
            if goes_on {
                *state = next;
            }
            goes_on
        });
    }

    fn plans(&self, plan: &Arc<Plan>) {
        let mut planned = lock(&self.plan);
        if lock(&self.last).is_none() {
            *planned = Some(Arc::clone(plan));
        }
    }
}

async fn run(
    progress: Arc<Progress>,
    resolved: Resolved,
    request: ArtifactRequest,
    layers: Arc<Layers>,
    begun: WarmStatus,
) {
    let work = warm(&progress, &resolved, &request, &layers);
    let result = unless_given_up(&progress, &begun, work).await;
    held::let_go(layers.fetcher().cache(), &begun.reference, &resolved.artifact.digest);
    progress.ends_by(&begun, result);
}

/// What `work` comes to; a panic is an error, and nothing is asked of the content any more.
async fn unless_given_up(
    progress: &Progress,
    begun: &WarmStatus,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        *lock(&progress.plan) = None;
        Err(given_up(&begun.reference))
    })
}

/// What there is to say after a panic.
#[must_use]
pub fn given_up(reference: &str) -> Error {
    let text = format!("warming {reference} was given up inside the owner; its log says why");
    Error::new(ErrorKind::Io, text)
}

async fn warm(
    progress: &Progress,
    resolved: &Resolved,
    request: &ArtifactRequest,
    layers: &Arc<Layers>,
) -> Result<()> {
    let chosen = Chosen::open(resolved, request, layers).await?;
    let plan = Arc::new(Plan::of(chosen, layers.fetcher().cache())?);
    progress.plans(&plan);
    progress.becomes(WarmState::Fetching);
    let fills = (0..plan.files.len()).map(|at| fill(Arc::clone(&plan), at));
    stream::iter(fills).buffer_unordered(FILES_AT_ONCE).try_for_each(|()| std::future::ready(Ok(()))).await?;
    progress.becomes(WarmState::Verifying);
    for layer in plan.whole_layers() {
        plan.content.verified(layer).await?;
    }
    Ok(())
}

async fn fill(plan: Arc<Plan>, at: usize) -> Result<()> {
    plan.content.fill(&plan.files[at]).await
}

impl Plan {
    /// What of `chosen` the cache has room for beside what is pinned, in the order of the paths. What has none is left
    /// out: fetched too, it would only drive out the others.
    fn of(chosen: Chosen, cache: &Cache) -> Result<Self> {
        let Chosen { content, files, is_whole } = chosen;
        let mut room = cache.room_bytes().saturating_sub(cache.pinned_bytes());
        let mut counted: HashSet<(SegmentId, u64)> = HashSet::new();
        let mut plan =
            Self { content, files: Vec::new(), bytes: 0, left_out_files: 0, left_out_bytes: 0, is_whole };
        for file in files {
            let (mut new, mut bytes) = (Vec::new(), 0);
            for (id, chunks, segment_bytes) in plan.content.segments(&file)? {
                if cache.is_kept(&id) {
                    continue;
                }
                for chunk in chunks.map(|chunk| (id.clone(), chunk)).filter(|chunk| !counted.contains(chunk))
                {
                    let range = chunk_range(chunk.1, segment_bytes);
                    bytes += range.end - range.start;
                    new.push(chunk);
                }
            }
            match room.checked_sub(bytes) {
                Some(rest) => {
                    room = rest;
                    counted.extend(new);
                    plan.bytes += file.size;
                    plan.files.push(file);
                }
                None => {
                    plan.left_out_files += 1;
                    plan.left_out_bytes += file.size;
                }
            }
        }
        Ok(plan)
    }

    /// The layers of which everything is fetched.
    fn whole_layers(&self) -> BTreeSet<usize> {
        if self.is_whole && self.left_out_files == 0 {
            return (0..self.content.layer_count()).collect();
        }
        let is_file = |file: &&FileBody| self.content.is_file(file.layer);
        self.files.iter().filter(is_file).map(|file| file.layer).collect()
    }
}

/// Nothing is left half changed by a panic under these locks: each section is an assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_end() {
        let request: ArtifactRequest = serde_json::from_str(r#"{"reference":"r.example/m:v1"}"#).unwrap();
        let begun = WarmStatus::resolving(3, &request);
        let progress = Progress::new();
        let result = unless_given_up(&progress, &begun, async { panic!("as it happens") }).await;
        progress.ends_by(&begun, result);
        let status = progress.status(&begun);
        assert_eq!(status.state, WarmState::Failed);
        assert!(status.error.unwrap().message.contains("was given up"));
    }
}
