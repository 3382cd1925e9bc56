//! The mounts of one owner.
//!
//! Each mount is a task: it mounts, tells those who wait for it, and lives until the mount is gone, whoever
//! unmounted it. A client that goes away changes nothing about the mount it asked for. A request for what is
//! mounted already is answered from what is there; requests for the same at the same time share one
//! mount. Once [`Mounts::close`] has found none left, no more are taken.
//!
//! A mount that was unmounted while files of it were open *lingers*: its directory is free again, but it is served,
//! and keeps its owner alive, until they are closed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::base::{Error, ErrorKind, Result};
use crate::mount::{LeftBehind, MountRecord, MountRequest, MountStatus, MountSummary, Mounted};

use super::api;
use super::losses::Losses;
use super::unrestored::Unrestored;

/// How long an owner that ends waits for what is to be said of a mount that is gone.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Makes mounts.
#[async_trait]
pub trait Mounter: Send + Sync {
    /// Mounts; returns once the tree can be read.
    ///
    /// # Errors
    /// Those of [`Mounted::start`].
    async fn mount(&self, request: &MountRequest) -> Result<Arc<dyn Mount>>;

    /// Serves on what a process that is gone has left.
    ///
    /// # Errors
    /// Those of [`Mounted::resume`].
    async fn resume(&self, left: LeftBehind) -> Result<Arc<dyn Mount>> {
        let target = left.request().target.display();
        Err(Error::new(ErrorKind::Unsupported, format!("{target}: nothing can be served on")))
    }

    /// Mounts what was mounted before.
    ///
    /// # Errors
    /// Those of [`Mounted::start_again`].
    async fn mount_again(&self, record: MountRecord) -> Result<Arc<dyn Mount>> {
        let target = record.request.target.display();
        Err(Error::new(ErrorKind::Unsupported, format!("{target}: nothing can be mounted again")))
    }

    /// Whether `target` is still a mount of ours in the kernel's table. Asked when a request finds a mount whose
    /// end may not have been noticed yet.
    fn is_mounted(&self, target: &Path) -> bool;
}

/// A mount that is being served.
#[async_trait]
pub trait Mount: Send + Sync {
    /// What was mounted where, and how far it is known by now.
    fn summary(&self) -> MountSummary;
    /// What is known right now. May wait for the disk.
    fn status(&self) -> MountStatus;
    /// What the same mount can be made of again, if it can.
    fn record(&self) -> Option<MountRecord> {
        None
    }
    /// How many files of it are open.
    fn open_files(&self) -> usize {
        0
    }
    /// What may be read to find out whether it is served: a file, or where there is none, the mount point.
    fn sample(&self) -> PathBuf {
        self.summary().mountpoint
    }
    /// Returns once the mount is gone. To be waited for once.
    async fn ended(&self);
    /// Unmounts, lazily where files are open.
    ///
    /// # Errors
    /// `Io` when the kernel refuses.
    async fn unmount(&self) -> Result<()>;
}

#[async_trait]
impl Mount for Mounted {
    fn summary(&self) -> MountSummary {
        self.summary()
    }

    fn status(&self) -> MountStatus {
        self.status()
    }

    fn record(&self) -> Option<MountRecord> {
        Some(self.record().clone())
    }

    fn open_files(&self) -> usize {
        self.open_files()
    }

    fn sample(&self) -> PathBuf {
        self.sample()
    }

    async fn ended(&self) {
        self.ended().await;
    }

    async fn unmount(&self) -> Result<()> {
        self.unmount().await
    }
}

/// What became of a request to mount; nothing as long as it is not known.
type Outcome = Option<Result<Arc<dyn Mount>>>;

#[derive(Clone)]
struct Slot {
    /// Tells this slot from a later one on the same target.
    number: u64,
    request: MountRequest,
    /// Whether it was there before this process.
    is_resumed: bool,
    /// Closed when the mount is gone.
    outcome: watch::Receiver<Outcome>,
}

impl Slot {
    /// What is missing as long as it is not known whether it can be served on.
    fn unrestored(&self) -> Option<Unrestored> {
        let is_tried = self.is_resumed && self.outcome.borrow().is_none();
        is_tried.then(|| Unrestored::of(&self.request, true, None))
    }
}

#[derive(Default)]
struct State {
    slots: HashMap<PathBuf, Slot>,
    /// Unmounted, but still read from; by number.
    lingering: HashMap<u64, Slot>,
    next_number: u64,
    /// What else keeps the owner alive.
    holds: usize,
    closed: bool,
}

/// The answer to a request to mount.
#[derive(Debug)]
pub enum Answer {
    /// It is mounted.
    Mounted(Box<MountSummary>),
    /// This owner takes no more mounts; the next one will.
    Ending,
}

/// The mounts of one owner.
pub struct Mounts {
    mounter: Arc<dyn Mounter>,
    state: Mutex<State>,
    /// What could not be served on.
    losses: Losses,
    /// How many mounts there are, lingering ones too, and other work. Touched at every change of the slots.
    count: watch::Sender<usize>,
}

impl State {
    fn count(&self) -> usize {
        self.mount_count() + self.holds
    }

    fn mount_count(&self) -> usize {
        self.slots.len() + self.lingering.len()
    }

    fn others_than(&self, target: &Path) -> impl Iterator<Item = &PathBuf> {
        let targets = self.slots.values().chain(self.lingering.values()).map(|slot| &slot.request.target);
        targets.filter(move |other| *other != target)
    }
}

impl std::fmt::Debug for Mounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounts").field("count", &*self.count.borrow()).finish_non_exhaustive()
    }
}

impl Mounts {
    /// No mounts yet.
    #[must_use]
    pub fn new(mounter: Arc<dyn Mounter>) -> Arc<Self> {
        Self::after(mounter, Losses::default())
    }

    /// None yet, after a process that had `losses`.
    pub(super) fn after(mounter: Arc<dyn Mounter>, losses: Losses) -> Arc<Self> {
        Arc::new(Self { mounter, state: Mutex::default(), losses, count: watch::Sender::new(0) })
    }

    /// The number of mounts and of what else keeps the owner alive, and its changes.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// The number of mounts alone, without what else keeps the owner alive.
    #[must_use]
    pub fn mount_count(&self) -> usize {
        self.state().mount_count()
    }

    /// Mounts, or finds that it is mounted.
    ///
    /// # Errors
    /// `Busy` when something else is mounted there; `TimedOut`; what mounting failed with.
    pub async fn mount(self: &Arc<Self>, request: MountRequest) -> Result<Answer> {
        let limit = api::mount_timeout(&request);
        timeout(limit, self.mount_unbounded(request)).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::TimedOut,
                format!("the mount did not come about within {} s", limit.as_secs()),
            ))
        })
    }

    async fn mount_unbounded(self: &Arc<Self>, request: MountRequest) -> Result<Answer> {
        loop {
            let Some((slot, is_new)) = self.slot_for(&request) else { return Ok(Answer::Ending) };
            if !is_same(&slot.request, &request) {
                // What is there may be on its way out.
                if self.is_leaving(&slot).await {
                    self.linger(&slot);
                    continue;
                }
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "{} is a mount of {} already, with other options; unmount it first: refmount umount {}",
                        request.target.display(),
                        slot.request.reference,
                        request.target.display()
                    ),
                ));
            }
            if !is_new && self.is_leaving(&slot).await {
                self.linger(&slot);
                continue;
            }
            let mount = known(&slot).await?;
            return Ok(Answer::Mounted(Box::new(mount.summary())));
        }
    }

    /// The slot of the request's target, made now if there is none; nothing once closed.
    fn slot_for(self: &Arc<Self>, request: &MountRequest) -> Option<(Slot, bool)> {
        let state = self.state();
        if state.closed {
            return None;
        }
        if let Some(slot) = state.slots.get(&request.target) {
            return Some((slot.clone(), false));
        }
        Some((self.begin(state, request.clone(), Beginning::Mount), true))
    }

    /// Serves on what a process that is gone has left, as if it had been asked for. Two mounts may have been left at one
    /// place: one of them is lingering, as nobody can reach it but who has its files open.
    pub fn resume(self: &Arc<Self>, left: LeftBehind) {
        let state = self.state();
        let request = left.request().clone();
        if let Some(before) = state.slots.get(&request.target).cloned() {
            drop(state);
            self.linger(&before);
            return self.resume(left);
        }
        self.begin(state, request, Beginning::Resume(Box::new(left)));
    }

    /// Mounts what was mounted before, unless something is mounted there already.
    ///
    /// # Errors
    /// What mounting failed with; `Unavailable` when no more mounts are taken.
    pub async fn mount_again(self: &Arc<Self>, record: MountRecord) -> Result<()> {
        let slot = {
            let state = self.state();
            if state.closed {
                return Err(Error::new(ErrorKind::Unavailable, "the owner of the cache is ending"));
            }
            match state.slots.get(&record.request.target) {
                Some(slot) => slot.clone(),
                None => self.begin(state, record.request.clone(), Beginning::MountAgain(Box::new(record))),
            }
        };
        known(&slot).await.map(drop)
    }

    /// Returns once it is known of every mount that there is now what became of it.
    pub async fn settled(&self) {
        let slots: Vec<Slot> = self.state().slots.values().cloned().collect();
        for slot in slots {
            // What it failed with is told to those who ask for it.
            let _ = known(&slot).await;
        }
    }

    /// Notes that what was mounted as `request` asks cannot be served on.
    pub fn lose(&self, request: &MountRequest, error: &Error) {
        let missing = Unrestored::of(request, false, Some(error.chain()));
        let is_left = self.mounter.is_mounted(&request.target);
        self.losses.add(&request.target, missing, is_left);
    }

    /// Mounts that are being taken over, and those that could not be and that nobody has unmounted or mounted anew.
    #[must_use]
    pub fn unrestored(&self) -> Vec<Unrestored> {
        let mut missing: Vec<_> = self.state().slots.values().filter_map(Slot::unrestored).collect();
        // Then, as one that cannot be taken over is lost before it is so no longer.
        missing.extend(self.losses.list(|target| self.mounter.is_mounted(target)));
        missing
    }

    /// Whether the mount on `target` could not be served on.
    #[must_use]
    pub fn is_lost(&self, target: &Path) -> bool {
        self.losses.has(target)
    }

    /// Forgets that the mount on `target` could not be served on; says whether there was one.
    pub fn forget_lost(&self, target: &Path) -> bool {
        self.losses.forget(target)
    }

    /// Makes the slot of a mount, which comes about by and by.
    fn begin(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        request: MountRequest,
        beginning: Beginning,
    ) -> Slot {
        let (sender, outcome) = watch::channel(None);
        let is_resumed = matches!(beginning, Beginning::Resume(_));
        let slot = Slot { number: state.next_number, request, is_resumed, outcome };
        state.next_number += 1;
        state.slots.insert(slot.request.target.clone(), slot.clone());
        self.count.send_replace(state.count());
        drop(state);
        let target = slot.request.target.clone();
        let life = Life { mounts: Arc::clone(self), target, number: slot.number };
        tokio::spawn(life.run(slot.request.clone(), beginning, sender));
        slot
    }

    /// Whether the slot's mount has come about and is gone from the kernel's table.
    async fn is_leaving(&self, slot: &Slot) -> bool {
        if slot.outcome.has_changed().is_err() {
            return true;
        }
        if !matches!(&*slot.outcome.borrow(), Some(Ok(_))) {
            return false;
        }
        let mounter = Arc::clone(&self.mounter);
        let target = slot.request.target.clone();
        tokio::task::spawn_blocking(move || !mounter.is_mounted(&target)).await.unwrap_or(false)
    }

    /// Frees the target of a mount that is out of the tree of files.
    fn linger(&self, slot: &Slot) {
        let mut state = self.state();
        let target = &slot.request.target;
        if state.slots.get(target).is_some_and(|there| there.number == slot.number)
            && let Some(slot) = state.slots.remove(target)
        {
            // Its life takes it away from there: had that been over, it would not have been in its place.
            state.lingering.insert(slot.number, slot);
            self.count.send_replace(state.count());
        }
    }

    /// What is mounted.
    #[must_use]
    pub fn list(&self) -> Vec<MountSummary> {
        let mut list: Vec<MountSummary> =
            self.state().slots.values().filter_map(running).map(|mount| mount.summary()).collect();
        list.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
        list
    }

    /// The mounts that are served, those that linger too.
    #[must_use]
    pub fn served(&self) -> Vec<Arc<dyn Mount>> {
        let state = self.state();
        state.slots.values().chain(state.lingering.values()).filter_map(running).collect()
    }

    /// Those of them that are in their places.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<dyn Mount>> {
        self.state().slots.values().filter_map(running).collect()
    }

    /// The mount on `target`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, target: &Path) -> Result<Arc<dyn Mount>> {
        self.state().slots.get(target).and_then(running).ok_or_else(|| not_mounted(target))
    }

    /// Whether there is a mount on `target`, or is to be one.
    #[must_use]
    pub fn has(&self, target: &Path) -> bool {
        self.state().slots.contains_key(target)
    }

    /// Unmounts `target`; it can be mounted on again then.
    ///
    /// # Errors
    /// `NotFound`, `TimedOut`, or what unmounting failed with.
    pub async fn unmount(&self, target: &Path) -> Result<()> {
        let slot = self.state().slots.get(target).cloned().ok_or_else(|| not_mounted(target))?;
        let work = async {
            known(&slot).await?.unmount().await?;
            self.linger(&slot);
            Ok(())
        };
        timeout(api::UNMOUNT_TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::TimedOut,
                format!("{} was not unmounted within {} s", target.display(), api::UNMOUNT_TIMEOUT.as_secs()),
            ))
        })
    }

    /// Keeps the owner alive as a mount does, for as long as it lives; nothing once no more mounts are taken.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Option<Hold> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        // There has been something to do.
        state.next_number += 1;
        state.holds += 1;
        self.count.send_replace(state.count());
        Some(Hold(Arc::clone(self)))
    }

    /// Waits at most `limit` for the end of the mount on `target`; says whether it is gone.
    pub async fn ended(&self, target: &Path, limit: Duration) -> bool {
        let number = || self.state().slots.get(target).map(|slot| slot.number);
        let mut changes = self.count.subscribe();
        let Some(first) = number() else { return true };
        // Not asked inside of `wait_for`, which holds the channel's lock, under the lock of the state.
        let gone = async { while number() == Some(first) && changes.changed().await.is_ok() {} };
        timeout(limit, gone).await.is_ok()
    }

    /// Takes no more mounts from now on, if there are none; says whether that is so.
    pub fn close_if_empty(&self) -> bool {
        let mut state = self.state();
        if state.count() == 0 && !state.closed {
            state.closed = true;
            // Wakes up whoever waits for the end.
            self.count.send_replace(0);
        }
        state.closed
    }

    /// As [`Self::close_if_empty`], but only if there were mounts before: whoever started an owner that had none yet
    /// is about to ask it for one.
    pub fn close_if_done(&self) -> bool {
        if self.state().next_number == 0 {
            return false;
        }
        // A first mount that comes in between is found there.
        self.close_if_empty()
    }

    /// Takes no more mounts from now on, if there are none but the one on `target`; says whether that is so.
    pub fn close_if_none_but(&self, target: &Path) -> bool {
        let mut state = self.state();
        let is_alone = state.others_than(target).next().is_none();
        state.closed |= is_alone;
        state.closed
    }

    /// The mount points of all mounts but the one on `target`, also of mounts that linger.
    #[must_use]
    pub fn others_than(&self, target: &Path) -> Vec<PathBuf> {
        let mut others: Vec<PathBuf> = self.state().others_than(target).cloned().collect();
        others.sort();
        others.dedup();
        others
    }

    /// Whether no more mounts are taken.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Takes no more mounts and unmounts all, at the same time and within `limit`.
    pub async fn close(&self, limit: Duration) {
        let slots: Vec<Slot> = {
            let mut state = self.state();
            state.closed = true;
            state.slots.values().cloned().collect()
        };
        let all = slots.iter().map(|slot| async move {
            let target = slot.request.target.display();
            let work = async {
                known(slot).await?.unmount().await?;
                // What is still read from goes on for as long as this process does.
                let _ = timeout(LAST_WORDS, over(slot)).await;
                Ok::<_, Error>(())
            };
            match timeout(limit, work).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("cannot unmount {target}: {}", error.chain()),
                Err(_) => tracing::warn!("{target} was not unmounted within {} s", limit.as_secs()),
            }
        });
        futures_util::future::join_all(all).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// See [`Mounts::hold`].
#[derive(Debug)]
pub struct Hold(Arc<Mounts>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.holds -= 1;
        self.0.count.send_replace(state.count());
    }
}

/// How a mount comes about.
enum Beginning {
    /// It is asked for.
    Mount,
    /// It was there before this process.
    MountAgain(Box<MountRecord>),
    /// It is there, and was served by a process that is gone.
    Resume(Box<LeftBehind>),
}

/// The life of one mount. Its slot goes with it, however it ends.
struct Life {
    mounts: Arc<Mounts>,
    target: PathBuf,
    number: u64,
}

impl Life {
    async fn run(self, request: MountRequest, beginning: Beginning, sender: watch::Sender<Outcome>) {
        // What is served on may be lingering, and not be in its place.
        let is_in_place = !matches!(beginning, Beginning::Resume(_));
        let result = match beginning {
            Beginning::Mount => self.mounts.mounter.mount(&request).await,
            Beginning::MountAgain(record) => self.mounts.mounter.mount_again(*record).await,
            Beginning::Resume(left) => self.mounts.mounter.resume(*left).await.inspect_err(|error| {
                tracing::error!("lost the mount on {}: {}", self.target.display(), error.chain());
                self.mounts.lose(&request, error);
            }),
        };
        let mount = result.as_ref().ok().cloned();
        if let Some(mount) = mount {
            if is_in_place || self.mounts.mounter.is_mounted(&self.target) {
                self.mounts.forget_lost(&self.target);
            }
            sender.send_replace(Some(result));
            mount.ended().await;
        } else {
            // The slot first, so that whoever hears of the failure can ask again at once.
            self.remove();
            sender.send_replace(Some(result));
        }
        drop(self);
        // Closes the channel: now the mount is gone and so is its slot.
        drop(sender);
    }

    fn remove(&self) {
        let mut state = self.mounts.state();
        let lingered = state.lingering.remove(&self.number).is_some();
        let is_there = state.slots.get(&self.target).is_some_and(|slot| slot.number == self.number);
        if is_there {
            state.slots.remove(&self.target);
        }
        if is_there || lingered {
            self.mounts.count.send_replace(state.count());
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Waits until the slot's mount is gone, and all that had to be done and said of that.
async fn over(slot: &Slot) {
    let mut outcome = slot.outcome.clone();
    while outcome.changed().await.is_ok() {}
}

/// Waits until it is known what became of the slot's request.
async fn known(slot: &Slot) -> Result<Arc<dyn Mount>> {
    let mut outcome = slot.outcome.clone();
    match outcome.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(result)) => result.clone(),
        _ => Err(Error::new(
            ErrorKind::Io,
            format!(
                "mounting on {} was given up inside the owner; its log says why",
                slot.request.target.display()
            ),
        )),
    }
}

fn running(slot: &Slot) -> Option<Arc<dyn Mount>> {
    match &*slot.outcome.borrow() {
        Some(Ok(mount)) => Some(Arc::clone(mount)),
        _ => None,
    }
}

fn not_mounted(target: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("nothing is mounted on {} by this owner", target.display()))
}

/// Whether both requests show the same. How the source is reached is no part of it: another file with
/// credentials does not make another tree.
fn is_same(one: &MountRequest, other: &MountRequest) -> bool {
    one.reference == other.reference
        && one.target == other.target
        && one.subpath == other.subpath
        && one.platform == other.platform
        && one.pull == other.pull
        && one.verify == other.verify
        && one.prefetch == other.prefetch
        && one.allow_other == other.allow_other
        && one.read_timeout == other.read_timeout
}

#[cfg(test)]
pub(crate) mod tests;
