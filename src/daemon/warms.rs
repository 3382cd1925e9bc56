//! The warmings of one owner: those that go on, and the last ones that are over.
//!
//! Whoever asks for what is being warmed already, or is just beginning to be, gets that one; and it goes on without whoever
//! asked for it. A warming keeps its owner alive as a mount does. Whoever holds for the server keeps its request, so that
//! the next server goes on with it under the same number; unless it was over, or broke off by a panic, which the next server
//! would only repeat.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::base::{Error, ErrorKind, Result};
use crate::indexing::Layers;
use crate::keeper::{Inherited, Keeper, note};
use crate::mount::{ArtifactRequest, WarmState, WarmStatus, Warming, given_up};

use super::mounts::{Hold, Mounts};

/// Warmings that are over and still told of.
const OVER_MAX: usize = 32;

/// Warmings that may wait at once for what their references stand for. Each holds a task, a connection and a descriptor that
/// the next process takes over, for as long as its registry does not answer; a node warms fewer artifacts than that.
const RESOLVING_MAX: usize = 64;

/// What a warming's name begins with where it is kept.
const NAME: &str = "warm-";

/// See the module's text.
#[derive(Debug)]
pub struct Warms {
    layers: Arc<Layers>,
    mounts: Arc<Mounts>,
    keeper: Option<Arc<Keeper>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    all: VecDeque<Asked>,
}

/// What became of a request. Nothing follows on any but the first.
#[derive(Clone, Debug)]
enum Outcome {
    Resolving,
    Begun(Arc<Warming>),
    Failed(Error),
    /// Before it was resolved.
    Cancelled,
}

/// What was asked for, and its warming once what that names is resolved.
#[derive(Clone, Debug)]
pub struct Asked {
    request: ArtifactRequest,
    /// As it was before anything was resolved.
    resolving: WarmStatus,
    outcome: Arc<watch::Sender<Outcome>>,
    /// Closed once its task is gone, and what is kept of it.
    gone: watch::Receiver<()>,
}

impl Asked {
    /// How far it is. May wait for the disk, never for the registry.
    ///
    /// # Errors
    /// Those of resolving it.
    pub fn status(&self) -> Result<WarmStatus> {
        let outcome = self.outcome.borrow().clone();
        match outcome {
            Outcome::Resolving => Ok(self.resolving.clone()),
            Outcome::Begun(warming) => Ok(warming.status()),
            Outcome::Failed(error) => Err(error),
            Outcome::Cancelled => Ok(WarmStatus { state: WarmState::Cancelled, ..self.resolving.clone() }),
        }
    }

    /// Waits until nothing more happens.
    pub async fn over(&self) {
        if let Ok(warming) = self.known().await {
            let mut state = warming.state();
            // Its state does not go before it.
            let _ = state.wait_for(|state| state.is_over()).await;
        }
    }

    /// Ends it, if it is not over; at once, also where its reference is still being resolved. No process goes on with it
    /// then.
    pub async fn cancel(&self) {
        if !self.becomes(Outcome::Cancelled) {
            let outcome = self.outcome.borrow().clone();
            if let Outcome::Begun(warming) = outcome {
                warming.cancel();
            }
        }
        // Nothing is ever sent.
        let _ = self.gone.clone().changed().await;
    }

    /// Says whether it was resolving until now.
    fn becomes(&self, next: Outcome) -> bool {
        self.outcome.send_if_modified(|outcome| {
            let is_first = matches!(outcome, Outcome::Resolving);
            if is_first {
                *outcome = next;
            }
            is_first
        })
    }

    fn is_resolving(&self) -> bool {
        matches!(*self.outcome.borrow(), Outcome::Resolving)
    }

    fn is_over(&self) -> bool {
        match &*self.outcome.borrow() {
            Outcome::Resolving => false,
            Outcome::Begun(warming) => warming.state().borrow().is_over(),
            Outcome::Failed(_) | Outcome::Cancelled => true,
        }
    }

    /// The warming, as soon as it is known.
    async fn known(&self) -> Result<Arc<Warming>> {
        self.settled().await;
        let reference = &self.resolving.reference;
        match self.outcome.borrow().clone() {
            Outcome::Begun(warming) => Ok(warming),
            Outcome::Failed(error) => Err(error),
            Outcome::Resolving | Outcome::Cancelled => {
                let text =
                    format!("warming {reference} was cancelled before it was known what that stands for");
                Err(Error::new(ErrorKind::Unavailable, text))
            }
        }
    }

    /// Waits until it is resolved, or will not be.
    async fn settled(&self) {
        let mut outcome = self.outcome.subscribe();
        // It does not close: its sender is here.
        let _ = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Resolving)).await;
    }
}

/// A warming's task. However that ends, nobody waits for it any more, and what is kept of it goes; unless it ends with
/// everything else of this process, where the next one goes on with it.
#[derive(Debug)]
struct Going {
    warms: Arc<Warms>,
    asked: Asked,
    is_over: bool,
    // These go after all the rest.
    _hold: Hold,
    _gone: watch::Sender<()>,
}

impl Going {
    async fn run(mut self, is_new: bool) {
        if is_new {
            self.warms.keep(self.asked.resolving.id, &self.asked.request);
        }
        self.warms.run(&self.asked).await;
        self.is_over = true;
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let (warms, asked) = (&self.warms, &self.asked);
        let id = asked.resolving.id;
        let is_panic = std::thread::panicking();
        if is_panic {
            asked.becomes(Outcome::Failed(given_up(&asked.resolving.reference)));
        }
        if matches!(*asked.outcome.borrow(), Outcome::Failed(_)) {
            warms.state().all.retain(|other| other.resolving.id != id);
        }
        if is_panic {
            // Another program may be able to.
            warms.forget(id, Keeper::forget);
        } else if self.is_over {
            warms.forget(id, Keeper::forget_done);
        }
    }
}

impl Warms {
    /// None yet. They fetch with `layers`, and keep the owner of `mounts` alive.
    #[must_use]
    pub fn new(layers: Arc<Layers>, mounts: Arc<Mounts>, keeper: Option<Arc<Keeper>>) -> Arc<Self> {
        Arc::new(Self { layers, mounts, keeper, state: Mutex::default() })
    }

    /// What brings the bytes.
    #[must_use]
    pub fn layers(&self) -> &Arc<Layers> {
        &self.layers
    }

    /// Takes from `inherited` what the process before this one was warming, and goes on with it.
    pub fn resume(self: &Arc<Self>, inherited: &mut Inherited) {
        for (id, kept) in inherited.take_notes(NAME) {
            let mut state = self.state();
            state.next_id = state.next_id.max(id + 1);
            match (kept.and_then(|note| note::read::<ArtifactRequest>(note).ok()), self.mounts.hold()) {
                (Some(request), Some(hold)) => {
                    let asked = self.start(&mut state, id, request, hold, false);
                    // Nobody asked for it who would hear of that.
                    tokio::spawn(async move {
                        if let Err(error) = asked.known().await {
                            tracing::warn!(id, error = error.chain(), "a warming does not go on");
                        }
                    });
                }
                _ => {
                    drop(state);
                    self.forget(id, Keeper::forget);
                }
            }
        }
    }

    /// Begins what `request` names, unless that goes on already; nothing if this owner is ending.
    ///
    /// # Errors
    /// As [`Warming::begin`]; `Busy` where too many others are not resolved; `Unavailable` if it is cancelled
    /// before it is.
    pub async fn begin(self: &Arc<Self>, request: ArtifactRequest) -> Result<Option<Arc<Warming>>> {
        let Some(asked) = self.asked_for(request)? else { return Ok(None) };
        let warming = asked.known().await?;
        warming.known_soon().await;
        Ok(Some(warming))
    }

    /// What `request` leads to, begun now unless it goes on already; nothing if this owner is ending.
    fn asked_for(self: &Arc<Self>, request: ArtifactRequest) -> Result<Option<Asked>> {
        let mut state = self.state();
        let is_same = |asked: &&Asked| asked.request.is_same(&request) && !asked.is_over();
        if let Some(same) = state.all.iter().find(is_same) {
            return Ok(Some(same.clone()));
        }
        let Some(hold) = self.mounts.hold() else { return Ok(None) };
        if state.all.iter().filter(|asked| asked.is_resolving()).count() >= RESOLVING_MAX {
            let text = format!(
                "cannot warm {}: {RESOLVING_MAX} warmings wait for their registries to answer, and no more may; wait for \
                 one of them, or end it: refmount warm --list shows them, refmount warm --cancel N ends one",
                request.reference
            );
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let id = state.next_id;
        state.next_id += 1;
        Ok(Some(self.start(&mut state, id, request, hold, true)))
    }

    /// Begins what goes on from now on, whoever waits for it.
    fn start(
        self: &Arc<Self>,
        state: &mut State,
        id: u64,
        request: ArtifactRequest,
        hold: Hold,
        is_new: bool,
    ) -> Asked {
        let resolving = WarmStatus::resolving(id, &request);
        let outcome = Arc::new(watch::Sender::new(Outcome::Resolving));
        let (tell_gone, gone) = watch::channel(());
        let asked = Asked { request, resolving, outcome, gone };
        state.add(asked.clone());
        let going = Going {
            warms: Arc::clone(self),
            asked: asked.clone(),
            is_over: false,
            _hold: hold,
            _gone: tell_gone,
        };
        tokio::spawn(going.run(is_new));
        asked
    }

    /// Warms what `asked` names; returns when that is over.
    async fn run(&self, asked: &Asked) {
        let begin = Warming::begin(asked.resolving.clone(), asked.request.clone(), &self.layers);
        let result = tokio::select! {
            result = begin => result,
            () = asked.settled() => return,
        };
        asked.becomes(result.map_or_else(Outcome::Failed, Outcome::Begun));
        asked.over().await;
    }

    /// The warming `id`, whose reference may still be being resolved.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: u64) -> Result<Asked> {
        let found = self.state().all.iter().find(|asked| asked.resolving.id == id).cloned();
        let none = || format!("there is no warming {id}; refmount warm --list shows them");
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, none()))
    }

    /// All, the first one first. May wait for the disk.
    #[must_use]
    pub fn list(&self) -> Vec<WarmStatus> {
        let all: Vec<_> = self.state().all.iter().cloned().collect();
        // What could not be resolved is nothing any more.
        all.iter().filter_map(|asked| asked.status().ok()).collect()
    }

    /// Has whoever holds for this process keep the request. What is not kept ends with this process.
    fn keep(&self, id: u64, request: &ArtifactRequest) {
        let Some(keeper) = &self.keeper else { return };
        let kept = note::write("warming", request)
            .and_then(|note| keeper.keep(&format!("{NAME}{id}"), &[note.as_fd()]));
        if let Err(error) = kept {
            tracing::warn!("{}", error.chain());
        }
    }

    fn forget(&self, id: u64, how: impl Fn(&Keeper, &str) -> Result<()>) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = how(keeper, &format!("{NAME}{id}"))
        {
            tracing::debug!("{}", error.chain());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, asked: Asked) {
        self.all.push_back(asked);
        while self.all.iter().filter(|asked| asked.is_over()).count() > OVER_MAX {
            let Some(at) = self.all.iter().position(Asked::is_over) else { break };
            self.all.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use tokio::runtime::Handle;

    use super::*;
    use crate::cache::{Cache, CacheSettings, FreeSpaceFloor};
    use crate::daemon::mounts::tests::Double;
    use crate::fetch::Fetcher;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// Warmings whose note is kept at the other side of the socket.
    fn kept() -> (tempfile::TempDir, Arc<Warms>, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let settings = CacheSettings {
            directory: directory.path().to_owned(),
            bytes_max: 1 << 30,
            free_space_min: FreeSpaceFloor::Bytes(0),
        };
        let cache = Cache::open(settings).unwrap();
        let layers = Layers::new(Fetcher::new(cache, Handle::current()), Handle::current());
        let (ours, theirs) = pair();
        let mounts = Mounts::new(Arc::new(Double::default()));
        (directory, Warms::new(layers, mounts, Some(Arc::new(Keeper::of(ours)))), theirs)
    }

    fn going(warms: &Arc<Warms>) -> Going {
        let request: ArtifactRequest = serde_json::from_str(r#"{"reference":"r.example/m:v1"}"#).unwrap();
        let resolving = WarmStatus::resolving(7, &request);
        let outcome = Arc::new(watch::Sender::new(Outcome::Resolving));
        let (tell_gone, gone) = watch::channel(());
        let asked = Asked { request, resolving, outcome, gone };
        warms.state().add(asked.clone());
        Going {
            warms: Arc::clone(warms),
            asked,
            is_over: false,
            _hold: warms.mounts.hold().unwrap(),
            _gone: tell_gone,
        }
    }

    /// What was said to whoever keeps notes; nothing is on its way any more.
    fn said(theirs: &OwnedFd) -> Option<String> {
        let mut text = [0; 256];
        let count = rustix::net::recv(theirs, &mut text, rustix::net::RecvFlags::DONTWAIT).ok()?.0;
        Some(String::from_utf8_lossy(&text[..count]).into_owned())
    }

    #[tokio::test]
    async fn a_panic_is_not_left_to_the_next_process() {
        let (_directory, warms, theirs) = kept();
        let going = going(&warms);
        let asked = going.asked.clone();
        let task = tokio::spawn(async move {
            let _going = going;
            tokio::task::yield_now().await;
            panic!("as it happens");
        });
        assert!(task.await.unwrap_err().is_panic());
        assert!(said(&theirs).unwrap().contains(r#"{"forget":{"name":"warm-7"}}"#));
        let error = asked.known().await.unwrap_err();
        assert!(error.to_string().contains("was given up"), "{error}");
        assert!(warms.list().is_empty());
        assert_eq!(warms.get(7).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(*warms.mounts.count().borrow(), 0);
    }

    #[tokio::test]
    async fn what_ends_with_its_process_is_left_to_the_next_one() {
        let (_directory, warms, theirs) = kept();
        let going = going(&warms);
        let task = tokio::spawn(async move {
            let _going = going;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(said(&theirs), None);
    }

    #[test]
    fn the_next_process_reads_what_was_asked_for() {
        let request: ArtifactRequest =
            serde_json::from_str(r#"{"reference":"r.example/m:v1","subpaths":["a/b"],"pull":"missing"}"#)
                .unwrap();
        let again: ArtifactRequest = note::read(note::write("warming", &request).unwrap().into()).unwrap();
        assert!(again.is_same(&request));
    }
}
