//! What is mounted, on disk, so that it can be mounted again after the machine has started anew.
//!
//! [`Records`] are files in the cache directory, one for each mount point, written before a mount is reported as done
//! and removed when it is unmounted. They stay when their owner ends: it takes no notice of unmounts then. What a file
//! holds is a [`MountRecord`], without credentials. A file that cannot be read is reported and passed over; nothing
//! here mounts anything.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::base::{Algorithm, Digest, Error, ErrorKind, Result, ResultExt as _, durable};
use crate::mount::{LeftBehind, MountRecord, MountRequest, MountStatus, MountSummary};

use super::mounts::{Mount, Mounter};

/// The form of the files. A program that knows another one passes them over.
const FORM: u32 = 1;

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    form: u32,
    mount: MountRecord,
}

/// A mount that is to come about again, and has not yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Where.
    pub mountpoint: PathBuf,
    /// What, as it was asked for.
    pub reference: String,
    /// The digest that it is pinned to.
    pub digest: Digest,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last attempt failed with.
    pub error: Option<String>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    state: Mutex<State>,
    /// Held while a file is written or removed, so that they come about in their order.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The mount that each record is of, by number.
    mounts: HashMap<PathBuf, u64>,
    next_number: u64,
    pending: BTreeMap<PathBuf, Pending>,
    /// Whether what is unmounted from now on is to be mounted again.
    is_closed: bool,
}

impl Records {
    /// Those in `directory`, which is made if it is missing.
    ///
    /// # Errors
    /// `Io` when it cannot be made.
    pub fn open(directory: &Path) -> Result<Arc<Self>> {
        let cannot = || format!("cannot make {}", directory.display());
        std::fs::create_dir_all(directory).context(cannot)?;
        let (state, writing) = Default::default();
        Ok(Arc::new(Self { directory: directory.to_owned(), state, writing }))
    }

    /// All of them. What cannot be read is logged.
    #[must_use]
    pub fn read(&self) -> Vec<MountRecord> {
        let mut records = Vec::new();
        let entries = std::fs::read_dir(&self.directory);
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_one(&path) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!("not mounted again: {}", error.chain()),
            }
        }
        records.sort_by(|a, b| a.request.target.cmp(&b.request.target));
        records
    }

    /// What is still to be mounted again.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        self.state().pending.values().cloned().collect()
    }

    /// Notes that `record` is to be mounted again.
    pub(super) fn begin(&self, record: &MountRecord) {
        let mountpoint = record.request.target.clone();
        let (reference, digest) = (record.request.reference.clone(), record.digest.clone());
        let pending = Pending { mountpoint: mountpoint.clone(), reference, digest, attempts: 0, error: None };
        self.state().pending.insert(mountpoint, pending);
    }

    /// Whether `target` is still to be mounted again.
    pub(super) fn is_pending(&self, target: &Path) -> bool {
        self.state().pending.contains_key(target)
    }

    /// Notes that an attempt has failed.
    pub(super) fn failed(&self, target: &Path, error: &Error) {
        if let Some(pending) = self.state().pending.get_mut(target) {
            pending.attempts += 1;
            pending.error = Some(error.chain());
        }
    }

    /// Gives up what was to be mounted again on `target`, and forgets it; says whether there was something.
    pub async fn cancel(&self, target: &Path) -> bool {
        let was_pending = self.state().pending.remove(target).is_some();
        if was_pending {
            self.remove(target).await;
        }
        was_pending
    }

    /// What is unmounted from now on is to be mounted again.
    pub fn close(&self) {
        self.state().is_closed = true;
    }

    /// Notes that `target` is what `record` says, or what a file says already.
    async fn note(&self, target: &Path, record: Option<MountRecord>) -> u64 {
        let number = {
            let mut state = self.state();
            state.pending.remove(target);
            let number = state.next_number;
            state.next_number += 1;
            state.mounts.insert(target.to_owned(), number);
            number
        };
        if let Some(mount) = record {
            let path = self.path(target);
            let write = move || {
                let text = serde_json::to_vec(&File { form: FORM, mount }).map_err(std::io::Error::from);
                durable::write(&path, &text.context(|| "cannot note a mount")?)
            };
            let _turn = self.writing.lock().await;
            if let Err(error) = on_disk(write).await {
                tracing::error!("{} will not be mounted again: {}", target.display(), error.chain());
            }
        }
        number
    }

    /// Notes that the mount on `target` is no more, if it was that of this `number`.
    async fn forget(&self, target: &Path, number: Option<u64>) {
        {
            let mut state = self.state();
            let is_another =
                number.is_some_and(|number| state.mounts.get(target).is_none_or(|there| *there != number));
            if state.is_closed || is_another {
                return;
            }
            state.mounts.remove(target);
        }
        self.remove(target).await;
    }

    async fn remove(&self, target: &Path) {
        let path = self.path(target);
        let remove = move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(path.parent().map_or(Ok(()), durable::sync_directory)?),
        };
        let _turn = self.writing.lock().await;
        // Mounted anew by now, it has another record.
        if self.state().mounts.contains_key(target) {
            return;
        }
        if let Err(error) = on_disk(remove).await {
            tracing::error!("{} may be mounted again: {}", target.display(), error.chain());
        }
    }

    fn path(&self, target: &Path) -> PathBuf {
        let name = Digest::of(Algorithm::Sha256, target.as_os_str().as_encoded_bytes());
        self.directory.join(format!("{}.json", name.hex()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_one(path: &Path) -> Result<MountRecord> {
    let cannot = || format!("cannot read {}", path.display());
    let bytes = std::fs::read(path).context(cannot)?;
    let file: File = serde_json::from_slice(&bytes).map_err(std::io::Error::from).context(cannot)?;
    match file.form {
        FORM => Ok(file.mount),
        form => {
            let text = format!("{} is of the form {form}, which this program does not know", path.display());
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    }
}

async fn on_disk(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let broke_off = |error| Error::with_source(ErrorKind::Io, "it was given up", error);
    tokio::task::spawn_blocking(work).await.map_err(broke_off)?
}

/// Mounts, and keeps records of it.
pub(super) struct Recording {
    inner: Arc<dyn Mounter>,
    records: Arc<Records>,
}

impl Recording {
    /// What `inner` mounts is noted in `records`.
    #[must_use]
    pub(super) fn new(inner: Arc<dyn Mounter>, records: Arc<Records>) -> Arc<Self> {
        Arc::new(Self { inner, records })
    }

    async fn recorded(&self, target: PathBuf, mount: Arc<dyn Mount>, is_new: bool) -> Arc<dyn Mount> {
        let record = mount.record().filter(|_| is_new || !self.records.path(&target).exists());
        let number = self.records.note(&target, record).await;
        let (inner, records) = (Arc::clone(&self.inner), Arc::clone(&self.records));
        Arc::new(Recorded { mount, target, number, mounter: inner, records })
    }
}

#[async_trait]
impl Mounter for Recording {
    async fn mount(&self, request: &MountRequest) -> Result<Arc<dyn Mount>> {
        let mount = self.inner.mount(request).await?;
        Ok(self.recorded(request.target.clone(), mount, true).await)
    }

    async fn mount_again(&self, record: MountRecord) -> Result<Arc<dyn Mount>> {
        let target = record.request.target.clone();
        Ok(self.recorded(target, self.inner.mount_again(record).await?, false).await)
    }

    async fn resume(&self, left: LeftBehind) -> Result<Arc<dyn Mount>> {
        let target = left.request().target.clone();
        Ok(self.recorded(target, self.inner.resume(left).await?, false).await)
    }

    fn is_mounted(&self, target: &Path) -> bool {
        self.inner.is_mounted(target)
    }
}

/// A mount with a record.
struct Recorded {
    mount: Arc<dyn Mount>,
    target: PathBuf,
    number: u64,
    mounter: Arc<dyn Mounter>,
    records: Arc<Records>,
}

#[async_trait]
impl Mount for Recorded {
    fn summary(&self) -> MountSummary {
        self.mount.summary()
    }

    fn status(&self) -> MountStatus {
        self.mount.status()
    }

    fn record(&self) -> Option<MountRecord> {
        self.mount.record()
    }

    fn open_files(&self) -> usize {
        self.mount.open_files()
    }

    fn sample(&self) -> PathBuf {
        self.mount.sample()
    }

    async fn ended(&self) {
        self.mount.ended().await;
        let (mounter, target) = (Arc::clone(&self.mounter), self.target.clone());
        // One that the kernel has given up, and nobody has unmounted, is still wanted.
        let is_wanted = tokio::task::spawn_blocking(move || mounter.is_mounted(&target)).await;
        if !is_wanted.unwrap_or(true) {
            self.records.forget(&self.target, Some(self.number)).await;
        }
    }

    async fn unmount(&self) -> Result<()> {
        self.mount.unmount().await?;
        // Its place is not free for another one before this has returned.
        self.records.forget(&self.target, None).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
