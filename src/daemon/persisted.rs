//! What is mounted, on disk, so that it can be mounted again after the machine has started anew.
//!
//! [`Records`] are files in the cache directory, one for each mount point, written before a mount is reported as done
//! and removed when it is unmounted. They stay when their owner ends: it takes no notice of unmounts then. What a file
//! holds is a [`MountRecord`], without credentials. A file that cannot be read is reported, and told of until its mount
//! point is mounted or unmounted; nothing here mounts anything.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::base::{Algorithm, Digest, Error, ErrorKind, Result, ResultExt as _, durable};
use crate::mount::{LeftBehind, MountRecord, MountRequest, MountStatus, MountSummary};

use super::mounts::{Mount, Mounter};
use super::unrestored::Unrestored;

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

/// What [`Pending`] tells of.
#[derive(Debug)]
struct Expected {
    record: MountRecord,
    attempts: u32,
    error: Option<String>,
}

impl Expected {
    fn pending(&self) -> Pending {
        let MountRecord { request, digest, .. } = &self.record;
        Pending {
            mountpoint: request.target.clone(),
            reference: request.reference.clone(),
            digest: digest.clone(),
            attempts: self.attempts,
            error: self.error.clone(),
        }
    }

    fn unrestored(&self) -> Unrestored {
        Unrestored::of(&self.record.request, true, self.error.clone())
    }
}

/// A record that cannot be read.
#[derive(Debug)]
struct Unreadable {
    path: PathBuf,
    /// What it is of, as far as that is to be seen.
    target: Option<PathBuf>,
    reference: Option<String>,
    error: String,
}

impl Unreadable {
    fn at(path: PathBuf, error: &Error) -> Self {
        Self { path, target: None, reference: None, error: error.chain() }
    }

    fn unrestored(&self) -> Unrestored {
        let (mountpoint, reference) = (self.target.clone(), self.reference.clone());
        Unrestored { mountpoint, reference, retried: false, error: Some(self.error.clone()) }
    }
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
    pending: BTreeMap<PathBuf, Expected>,
    /// By the files that they are in.
    unreadable: BTreeMap<PathBuf, Unreadable>,
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

    /// Notes that everything in them is to be mounted again. What cannot be read is logged.
    pub(super) fn expect_all(&self) {
        for record in self.read() {
            match record {
                Ok(record) => self.expect(record),
                Err(unreadable) => {
                    tracing::error!("not mounted again: {}", unreadable.error);
                    self.state().unreadable.insert(unreadable.path.clone(), unreadable);
                }
            }
        }
    }

    /// Notes that `record` is to be mounted again.
    fn expect(&self, record: MountRecord) {
        let expected = Expected { record, attempts: 0, error: None };
        self.state().pending.insert(expected.record.request.target.clone(), expected);
    }

    fn read(&self) -> Vec<Result<MountRecord, Unreadable>> {
        let path = &self.directory;
        let entries = match std::fs::read_dir(path).context(|| format!("cannot read {}", path.display())) {
            Ok(entries) => entries,
            Err(error) => return vec![Err(Unreadable::at(path.clone(), &error))],
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let is_one = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        paths.filter(is_one).map(read_one).collect()
    }

    /// What is still to be mounted again.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        self.state().pending.values().map(Expected::pending).collect()
    }

    /// What of them is not mounted.
    #[must_use]
    pub fn unrestored(&self) -> Vec<Unrestored> {
        let state = self.state();
        let pending = state.pending.values().map(Expected::unrestored);
        pending.chain(state.unreadable.values().map(Unreadable::unrestored)).collect()
    }

    /// What is to be mounted again, for whoever does it.
    pub(super) fn expected(&self) -> Vec<MountRecord> {
        self.state().pending.values().map(|expected| expected.record.clone()).collect()
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
        let was_there = {
            let mut state = self.state();
            let was_pending = state.pending.remove(target).is_some();
            state.unreadable.remove(&self.path(target)).is_some() || was_pending
        };
        if was_there {
            self.remove(target).await;
        }
        was_there
    }

    /// What is unmounted from now on is to be mounted again.
    pub fn close(&self) {
        self.state().is_closed = true;
    }

    /// Takes `target` from what is still to be mounted again; says whether it was that, and not given up by now.
    fn strike_off(&self, target: &Path) -> bool {
        self.state().pending.remove(target).is_some()
    }

    /// Notes that `target` is what `record` says, or what a file says already.
    async fn note(&self, target: &Path, record: Option<MountRecord>) -> u64 {
        let number = {
            let mut state = self.state();
            state.pending.remove(target);
            state.unreadable.remove(&self.path(target));
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
    pub(super) async fn forget(&self, target: &Path, number: Option<u64>) {
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

    /// Whether there is a record of `target` that can be read.
    fn has(&self, target: &Path) -> bool {
        let path = self.path(target);
        path.exists() && !self.state().unreadable.contains_key(&path)
    }

    fn path(&self, target: &Path) -> PathBuf {
        let name = Digest::of(Algorithm::Sha256, target.as_os_str().as_encoded_bytes());
        self.directory.join(format!("{}.json", name.hex()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_one(path: PathBuf) -> Result<MountRecord, Unreadable> {
    let cannot = || format!("cannot read {}", path.display());
    let bytes = match std::fs::read(&path).context(cannot) {
        Ok(bytes) => bytes,
        Err(error) => return Err(Unreadable::at(path, &error)),
    };
    let error = match serde_json::from_slice(&bytes).map_err(std::io::Error::from).context(cannot) {
        Ok(File { form: FORM, mount }) => return Ok(mount),
        Ok(File { form, .. }) => unknown(&path, form),
        Err(error) => error,
    };
    // Of another form it may be seen all the same what it is of.
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |field| Some(value.pointer(field)?.as_str()?.to_owned());
    let (target, reference) = (text("/mount/request/target"), text("/mount/request/reference"));
    Err(Unreadable { target: target.map(PathBuf::from), reference, ..Unreadable::at(path, &error) })
}

fn unknown(path: &Path, form: u32) -> Error {
    let text = format!("{} is of the form {form}, which this program does not know", path.display());
    Error::new(ErrorKind::Unsupported, text)
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
        let record = mount.record().filter(|_| is_new || !self.records.has(&target));
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
        let mount = self.inner.mount_again(record).await?;
        if !self.records.strike_off(&target) {
            mount.unmount().await?;
            let text = format!("{} was unmounted before it was mounted again", target.display());
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        Ok(self.recorded(target, mount, false).await)
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
