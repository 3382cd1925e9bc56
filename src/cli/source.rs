//! What `inspect`, `tree` and `cat` look at: an artifact in its source, without mount or the machine's cache.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::artifact::{self, Artifact};
use crate::base::{Error, ErrorKind, RelPath, Result, ResultExt as _};
use crate::cache::{Cache, CacheSettings, FreeSpaceFloor};
use crate::content::{Content, ContentSettings};
use crate::fetch::Fetcher;
use crate::indexing::Layers;
use crate::layer::FileBody;
use crate::mount::Assembly;
use crate::oci::WantedPlatform;
use crate::registry::{BlobSource, SourceOptions};
use crate::tree::{Ino, InodeKind, Missing, Obstacle, Tree};

use super::args::SourceArgs;
use super::settings;

/// Bytes of the cache that a command has for itself and that goes with it: what a reader and its read-ahead need.
const PRIVATE_CACHE_BYTES: u64 = 256 << 20;

/// An artifact and the way to its blobs.
#[derive(Debug)]
pub(super) struct Opened {
    /// What the manifest says.
    pub(super) artifact: Artifact,
    /// Where its blobs are.
    pub(super) source: Arc<dyn BlobSource>,
    /// How it is reached.
    pub(super) options: SourceOptions,
}

/// Resolves what was typed.
///
/// # Errors
/// Those of [`artifact::load`].
pub(super) async fn open(reference: &str, arguments: &SourceArgs) -> Result<Opened> {
    let reference = settings::reference(reference)?;
    let options = settings::source(arguments)?;
    let platform = arguments.platform.clone().unwrap_or_else(WantedPlatform::host);
    let (artifact, source) = artifact::load(&reference, &platform, &options).await?;
    Ok(Opened { artifact, source, options })
}

/// What brings bytes for one command, and the directory that it uses meanwhile.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) layers: Arc<Layers>,
    /// Removed with this value, and so after what uses it.
    _directory: TempDir,
}

impl Workshop {
    /// One with an empty cache in the directory for temporary files.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("refmount-")
            .tempdir()
            .context(|| "cannot make a directory for temporary files")?;
        let cache = Cache::open(CacheSettings {
            directory: directory.path().join("cache"),
            bytes_max: PRIVATE_CACHE_BYTES,
            free_space_min: FreeSpaceFloor::Bytes(0),
        })?;
        let fetcher = Fetcher::new(cache, Handle::current());
        Ok(Self { layers: Layers::of_one_command(fetcher, Handle::current()), _directory: directory })
    }
}

/// The files of an artifact, and the way to their bytes.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tree: Tree,
    pub(super) content: Content,
    _workshop: Workshop,
}

/// Reads of `opened` what tells its files: of archives, up to all of them.
///
/// # Errors
/// As [`Assembly::open`] and [`Tree::build`]: what can't be mounted has no files.
pub(super) async fn files(opened: &Opened) -> Result<Files> {
    let of_reference = || opened.artifact.reference.to_string();
    let workshop = Workshop::new()?;
    let settings = ContentSettings {
        verify_before_read: false,
        whole_files: true,
        read_timeout: opened.options.retry_budget.max(Duration::from_secs(1)),
    };
    let assembly = Assembly::open(&opened.artifact, &opened.source, &workshop.layers, settings).await;
    let assembly = assembly.context(of_reference)?;
    assembly.settled(settings.read_timeout).await.context(of_reference)?;
    let tree = assembly.tree().context(of_reference)?;
    let tree = tree.ok_or_else(|| Error::new(ErrorKind::Io, "a layer is not known yet"))?;
    Ok(Files { tree, content: assembly.into_content(settings), _workshop: workshop })
}

impl Files {
    /// The inode at `path` as typed, not following a link at its end; the root by its usual names.
    ///
    /// # Errors
    /// `NotFound`, naming the nearest parent that exists; `Usage` for a path that leads out.
    pub(super) fn find(&self, artifact: &Artifact, typed: &str) -> Result<(Ino, Option<RelPath>)> {
        if matches!(typed, "." | "./" | "/") {
            return Ok((Ino::ROOT, None));
        }
        let path: RelPath =
            typed.parse().map_err(|error: Error| Error::new(ErrorKind::Usage, error.to_string()))?;
        let mut parents: Vec<_> = path.components().collect();
        let Some(name) = parents.pop() else { return Ok((Ino::ROOT, None)) };
        let parent = match parents.is_empty() {
            true => Ok(Ino::ROOT),
            false => {
                let joined = parents.join(std::ffi::OsStr::new("/"));
                self.tree.walk(&RelPath::parse(joined.as_encoded_bytes())?)
            }
        };
        let nowhere = |missing: &Missing| {
            let nearest = self.tree.path_of(missing.nearest);
            let nearest = match nearest.is_empty() {
                true => "its root".to_owned(),
                false => format!("{:?}", String::from_utf8_lossy(&nearest)),
            };
            let reference = &artifact.reference;
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "{typed:?} does not exist in {reference}; the nearest parent that exists is {nearest}"
                ),
            )
        };
        let parent = parent.map_err(|missing| nowhere(&missing))?;
        match self.tree.lookup(parent, name) {
            Some(ino) => Ok((ino, Some(path))),
            None => Err(nowhere(&Missing { nearest: parent, obstacle: Obstacle::NoEntry })),
        }
    }

    /// The file at `path` as typed, links followed.
    ///
    /// # Errors
    /// As [`Self::find`]; `Unsupported` for what is no file.
    pub(super) fn file(&self, artifact: &Artifact, typed: &str) -> Result<&FileBody> {
        let (found, path) = self.find(artifact, typed)?;
        let ino = path.and_then(|path| self.tree.walk(&path).ok()).unwrap_or(found);
        match self.tree.inode(ino).map(|inode| &inode.kind) {
            Some(InodeKind::File(body)) => Ok(body),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{typed:?} in {} is no file; what it holds: refmount tree", artifact.reference),
            )),
        }
    }
}
