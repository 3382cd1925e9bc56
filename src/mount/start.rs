//! How a mount comes about: from a request, or from what a process that is gone has left of one.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::artifact::{self, Artifact};
use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::cache::Cache;
use crate::content::{Content, ContentSettings};
use crate::fs::{Filesystem, Identity};
use crate::fuse::{FuseMount, FuseRecord, Keeping, MountSpec};
use crate::indexing::Layers;
use crate::keeper::Keeper;
use crate::oci::{SourceRef, WantedPlatform};
use crate::registry::{self, BlobSource, SourceOptions};
use crate::tree::{GrowingView, Shown, View};

use super::assembly::{Assembly, Part};
use super::growing;
use super::held;
use super::left::{Kept, KeptFiles, LeftBehind};
use super::numbers;
use super::pulled;
use super::record::MountRecord;
use super::remembered::{Answers, Memory, Remembered, Unopened};
use super::task::Task;
use super::{MountRequest, MountSummary, Mounted, PrefetchPolicy, VerifyPolicy, spawn_prefetch};

/// Where a mount is kept for the next process.
#[derive(Clone, Debug)]
pub struct KeptAs {
    /// Who keeps it.
    pub keeper: Arc<Keeper>,
    /// The name there, which no other mount has.
    pub name: String,
}

/// What is mounted, and where its bytes come from.
struct Loaded {
    artifact: Artifact,
    source: Arc<dyn BlobSource>,
    /// What the source has said.
    memory: Memory,
}

/// What there is of a mount before it is one in the kernel.
struct Prepared {
    record: MountRecord,
    summary: MountSummary,
    filesystem: Arc<Filesystem>,
    content: Arc<Content>,
    cache: Arc<Cache>,
    source: Arc<dyn BlobSource>,
    parts: Vec<Part>,
    task: Option<Task>,
}

impl Mounted {
    /// Resolves, mounts and serves, through the cache of `layers`. Returns once the tree can be read; nothing has been
    /// fetched then of layers that are files, and of others what tells their names. It is kept as `kept` says.
    ///
    /// # Errors
    /// Those of [`artifact::load`], and what [`super::PullPolicy`] leaves no way to know; `NotFound` for a missing subPath or mount point; `Busy` for a mount point that
    /// is one already; `Io` when the kernel refuses.
    pub async fn start(
        request: &MountRequest,
        layers: &Arc<Layers>,
        kept: Option<KeptAs>,
    ) -> Result<Arc<Self>> {
        let reference: SourceRef = request.reference.parse()?;
        let platform = request.platform.clone().unwrap_or_else(WantedPlatform::host);
        let (options, memory) = (source_options(request), Memory::default());
        let cache = layers.fetcher().cache();
        let (artifact, source) =
            pulled::load(&reference, &platform, &options, request.pull, cache, &memory).await?;
        Self::start_loaded(request, Loaded { artifact, source, memory }, layers, kept).await
    }

    /// As [`Self::start`], but mounts what `record` says, whatever its reference stands for by now. The network is
    /// needed only for what is gone from the cache.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_again(
        record: MountRecord,
        layers: &Arc<Layers>,
        kept: Option<KeptAs>,
    ) -> Result<Arc<Self>> {
        let MountRecord { request, reference, answers, .. } = record;
        let reference: SourceRef = reference.parse()?;
        let inner = registry::open(&reference, &source_options(&request))?;
        let loaded = load_again(&request, &reference, inner, answers).await?;
        Self::start_loaded(&request, loaded, layers, kept).await
    }

    async fn start_loaded(
        request: &MountRequest,
        loaded: Loaded,
        layers: &Arc<Layers>,
        kept: Option<KeptAs>,
    ) -> Result<Arc<Self>> {
        let Loaded { artifact, source, .. } = &loaded;
        let (settings, cache) = (content_settings(request), layers.fetcher().cache());
        let in_reference = || format!("cannot mount {}", artifact.reference);
        let assembly = Assembly::open(artifact, source, layers, settings).await.context(in_reference)?;
        let files = kept.as_ref().map(|_| KeptFiles::new()).transpose()?;
        let numbers = files.as_ref().map(|files| &files.numbers);
        let (view, growing) = show(artifact, &assembly, request, numbers).await.context(in_reference)?;
        let prepared = Prepared::of(&loaded, assembly, view, layers, request, growing);
        held::note(cache, artifact, &prepared.content).await;
        let kept = kept.zip(files).map(|(as_what, files)| (Kept::new(as_what.keeper, as_what.name), files));
        let filesystem = prepared.filesystem.clone();
        let spec = MountSpec {
            target: request.target.clone(),
            source_name: prepared.summary.reference.clone(),
            allow_other: request.allow_other,
        };
        let runtime = Handle::current();
        let read = directories_read(&artifact.reference, cache);
        let record = prepared.record.clone();
        let start = move || {
            require_apart(&spec.target, &read)?;
            let Some((kept, files)) = kept else {
                return Ok((FuseMount::start(filesystem, &spec, &runtime, None)?, None));
            };
            let open_table = files.open_table.try_clone().context(|| "cannot note what is open")?;
            let keep =
                |fuse: &FuseRecord, queues: &[BorrowedFd<'_>]| files.keep(&kept, &record, fuse, queues);
            let keeping = Keeping { open_table, keep: &keep };
            Ok((FuseMount::start(filesystem, &spec, &runtime, Some(keeping))?, Some(kept)))
        };
        let (mount, kept) = blocking(start).await?;
        Ok(prepared.mounted(mount, kept, "mounted"))
    }

    /// Serves on what a process that is gone has left. Asks the network for nothing, unless what it had learned of
    /// layers is gone from the cache. It stays kept by `keeper`.
    ///
    /// # Errors
    /// What its layers cannot be read with; `Io` when the kernel refuses. It is not kept any more then, nor is it mounted,
    /// unless another program may serve it.
    pub async fn resume(
        left: LeftBehind,
        layers: &Arc<Layers>,
        keeper: Option<Arc<Keeper>>,
    ) -> Result<Arc<Self>> {
        let in_kernel = left.state.fuse.clone();
        let resumed = Self::take_over(left, layers, keeper.clone()).await;
        if resumed.is_err()
            && !keeper.is_some_and(|keeper| keeper.is_on_trial())
            && let Err(error) = blocking(move || in_kernel.detach()).await
        {
            tracing::warn!("a mount stays behind: {}", error.chain());
        }
        resumed
    }

    async fn take_over(
        left: LeftBehind,
        layers: &Arc<Layers>,
        keeper: Option<Arc<Keeper>>,
    ) -> Result<Arc<Self>> {
        let (state, left, kept, files) = left.into_parts(keeper)?;
        let request = &state.request;
        let reference: SourceRef = state.reference.parse()?;
        let in_reference = || format!("cannot serve {reference} on {} on", request.target.display());
        let inner = registry::open(&reference, &source_options(request)).unwrap_or_else(|error| {
            tracing::warn!("{reference}: only what is cached can be read: {}", error.chain());
            Arc::new(Unopened(error))
        });
        let loaded = load_again(request, &reference, inner, state.answers).await.context(in_reference)?;
        let Loaded { artifact, source, .. } = &loaded;
        let settings = content_settings(request);
        let assembly = Assembly::open(artifact, source, layers, settings).await.context(in_reference)?;
        assembly.settled(request.read_timeout).await.context(in_reference)?;
        let tree = assembly.tree().context(in_reference)?;
        let tree = Arc::new(tree.ok_or_else(|| Error::new(ErrorKind::Io, "a layer is not known yet"))?);
        let (subpath, named) = (request.subpath.as_deref(), artifact.reference.to_string());
        let told = numbers::read(&files.numbers)?;
        let view: Shown = match told.is_empty() {
            true => View::new(tree, subpath, &named)?.into(),
            false => GrowingView::again(tree, told, subpath, &named)?.into(),
        };
        let prepared = Prepared::of(&loaded, assembly, view, layers, request, None);
        let (filesystem, runtime) = (prepared.filesystem.clone(), Handle::current());
        let mount = blocking(move || FuseMount::take_over(filesystem, left, &runtime)).await?;
        Ok(prepared.mounted(mount, Some(kept), "served on"))
    }
}

/// What `request` was answered with before, by `inner`, which is only asked for blobs now.
async fn load_again(
    request: &MountRequest,
    reference: &SourceRef,
    inner: Arc<dyn BlobSource>,
    answers: Answers,
) -> Result<Loaded> {
    let platform = request.platform.clone().unwrap_or_else(WantedPlatform::host);
    let memory = Memory::of(answers.clone());
    let source: Arc<dyn BlobSource> = Remembered::again(inner, answers);
    let artifact = artifact::load_from(source.as_ref(), reference, &platform).await?;
    Ok(Loaded { artifact, source, memory })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| super::broke_off("mounting", &error))?
}

impl Prepared {
    fn of(
        loaded: &Loaded,
        assembly: Assembly,
        view: Shown,
        layers: &Layers,
        request: &MountRequest,
        growing: Option<Task>,
    ) -> Self {
        let Loaded { artifact, source, memory } = loaded;
        let cache = Arc::clone(layers.fetcher().cache());
        let summary = summary(artifact, &assembly, &view, request);
        let record = MountRecord {
            request: request.clone(),
            reference: summary.reference.clone(),
            digest: artifact.digest.clone(),
            answers: memory.answers(),
        };
        let parts = assembly.parts().to_vec();
        let content = Arc::new(assembly.into_content(content_settings(request)));
        let identity = Identity {
            reference: summary.reference.clone(),
            digest: artifact.digest.clone(),
            owner: Some(cache.paths().control_socket()),
        };
        let filesystem = Arc::new(Filesystem::new(view, content.clone(), identity));
        let task = match request.prefetch {
            PrefetchPolicy::All => Some(spawn_prefetch(&filesystem, &content, &cache, growing)),
            PrefetchPolicy::Auto | PrefetchPolicy::Off => growing,
        };
        Self { record, summary, filesystem, content, cache, source: Arc::clone(source), parts, task }
    }

    fn mounted(self, mount: FuseMount, kept: Option<Kept>, what: &str) -> Arc<Mounted> {
        let Self { record, summary, filesystem, content, cache, source, parts, task } = self;
        let summary = MountSummary { mountpoint: mount.target().to_owned(), ..summary };
        tracing::info!(
            reference = summary.reference,
            digest = %summary.digest,
            mountpoint = %summary.mountpoint.display(),
            subpath = summary.subpath,
            files = summary.files,
            bytes = summary.total_bytes,
            "{what}"
        );
        Arc::new(Mounted { summary, record, mount, filesystem, content, cache, source, parts, task, kept })
    }
}

/// What is shown of the layers, and the task that goes on to complete it if it is not.
async fn show(
    artifact: &Artifact,
    assembly: &Assembly,
    request: &MountRequest,
    numbers: Option<&File>,
) -> Result<(Shown, Option<Task>)> {
    let reference = artifact.reference.to_string();
    let subpath = request.subpath.as_deref();
    if let Ok(settled) = tokio::time::timeout(growing::GRACE, assembly.settled(request.read_timeout)).await {
        settled?;
        if let Some(tree) = assembly.tree()? {
            return Ok((View::new(Arc::new(tree), subpath, &reference)?.into(), None));
        }
    }
    let (view, task) = growing::grow(assembly, subpath, &reference, request.read_timeout, numbers).await?;
    Ok((view.into(), Some(task)))
}

fn summary(artifact: &Artifact, assembly: &Assembly, view: &Shown, request: &MountRequest) -> MountSummary {
    let of_layers = artifact.layers.iter().flat_map(|layer| &layer.warnings);
    MountSummary {
        reference: artifact.reference.to_string(),
        digest: artifact.digest.clone(),
        mountpoint: request.target.clone(),
        subpath: request.subpath.clone(),
        files: view.file_count(),
        total_bytes: view.total_bytes(),
        layers_reading: 0,
        failed: None,
        warnings: artifact
            .warnings
            .iter()
            .chain(of_layers)
            .cloned()
            .chain(assembly.warnings().to_vec())
            .collect(),
    }
}

/// The directories that a mount of `reference` reads from.
fn directories_read(reference: &SourceRef, cache: &Cache) -> Vec<PathBuf> {
    let layout = match reference {
        SourceRef::Layout(layout) => Some(layout.path.clone()),
        SourceRef::Registry(_) | SourceRef::Short(_) => None,
    };
    layout.into_iter().chain([cache.paths().root().to_owned()]).collect()
}

/// Checks that a mount on `target` leaves `directories` in sight.
fn require_apart(target: &Path, directories: &[PathBuf]) -> Result<()> {
    let hidden = |directory: &&PathBuf| {
        std::fs::canonicalize(directory).is_ok_and(|directory| directory.starts_with(target))
    };
    match directories.iter().find(hidden) {
        None => Ok(()),
        Some(directory) => Err(Error::new(
            ErrorKind::Usage,
            format!(
                "a mount on {} would hide {}, which it reads from; choose another directory",
                target.display(),
                directory.display()
            ),
        )),
    }
}

/// A connection that stalls is given up while its readers still wait, in time for another attempt or two.
fn source_options(request: &MountRequest) -> SourceOptions {
    let share = request.read_timeout / 3;
    let asked = &request.source;
    SourceOptions {
        connect_timeout: asked.connect_timeout.min(share),
        inactivity_timeout: asked.inactivity_timeout.min(share),
        ..asked.clone()
    }
}

fn content_settings(request: &MountRequest) -> ContentSettings {
    ContentSettings {
        verify_before_read: request.verify == VerifyPolicy::BeforeRead,
        whole_files: request.prefetch != PrefetchPolicy::Off,
        read_timeout: request.read_timeout,
    }
}
