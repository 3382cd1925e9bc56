//! The warmings of one owner: those that go on, and the last ones that are over.
//!
//! Whoever asks for what is being warmed already, or is just beginning to be, gets that one; and it goes on without whoever
//! asked for it. A warming keeps its owner alive as a mount does. Whoever holds for the server keeps its request, so that
//! the next server goes on with it under the same number.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::base::{Error, ErrorKind, Result};
use crate::indexing::Layers;
use crate::keeper::{Inherited, Keeper};
use crate::mount::{ArtifactRequest, WarmStatus, Warming};

use super::mounts::{Hold, Mounts};
use super::note;

/// Warmings that are over and still told of.
const OVER_MAX: usize = 32;

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
    all: VecDeque<Begun>,
}

/// What became of a request; nothing as long as it is not known.
type Outcome = Option<Result<Arc<Warming>>>;

/// What was asked for, and its warming once what that names is resolved.
#[derive(Clone, Debug)]
struct Begun {
    id: u64,
    request: ArtifactRequest,
    /// Closed without an outcome if there will be none.
    outcome: watch::Receiver<Outcome>,
}

impl Begun {
    fn warming(&self) -> Option<Arc<Warming>> {
        self.outcome.borrow().as_ref()?.as_ref().ok().cloned()
    }

    fn is_over(&self) -> bool {
        match &*self.outcome.borrow() {
            Some(Ok(warming)) => warming.state().borrow().is_over(),
            Some(Err(_)) => true,
            None => self.outcome.has_changed().is_err(),
        }
    }

    /// The warming, as soon as it is known.
    async fn known(mut self) -> Result<Arc<Warming>> {
        match self.outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => {
                let reference = &self.request.reference;
                let text = format!("warming {reference} was given up inside the owner; its log says why");
                Err(Error::new(ErrorKind::Io, text))
            }
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
        let is_ours = |name: &String| name.strip_prefix(NAME).and_then(|id| id.parse().ok());
        let ids: Vec<(String, u64)> =
            inherited.kept.keys().filter_map(|name| Some((name.clone(), is_ours(name)?))).collect();
        for (name, id) in ids {
            let kept = inherited.kept.remove(&name).and_then(|mut kept| kept.pop());
            let mut state = self.state();
            state.next_id = state.next_id.max(id + 1);
            match (kept.and_then(|note| note::read::<ArtifactRequest>(note).ok()), self.mounts.hold()) {
                (Some(request), Some(hold)) => {
                    let begun = self.start(&mut state, id, request, hold, false);
                    // Nobody asked for it who would hear of that.
                    tokio::spawn(async move {
                        if let Err(error) = begun.known().await {
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
    /// As [`Warming::begin`].
    pub async fn begin(self: &Arc<Self>, request: ArtifactRequest) -> Result<Option<Arc<Warming>>> {
        let Some(begun) = self.begun_for(request) else { return Ok(None) };
        begun.known().await.map(Some)
    }

    /// What `request` leads to, begun now unless it goes on already; nothing if this owner is ending.
    fn begun_for(self: &Arc<Self>, request: ArtifactRequest) -> Option<Begun> {
        let mut state = self.state();
        let is_same = |begun: &&Begun| begun.request.is_same(&request) && !begun.is_over();
        if let Some(same) = state.all.iter().find(is_same) {
            return Some(same.clone());
        }
        let hold = self.mounts.hold()?;
        let id = state.next_id;
        state.next_id += 1;
        Some(self.start(&mut state, id, request, hold, true))
    }

    /// Begins what goes on from now on, whoever waits for it.
    fn start(
        self: &Arc<Self>,
        state: &mut State,
        id: u64,
        request: ArtifactRequest,
        hold: Hold,
        is_new: bool,
    ) -> Begun {
        let (tell, outcome) = watch::channel(None);
        let begun = Begun { id, request: request.clone(), outcome };
        state.add(begun.clone());
        let warms = Arc::clone(self);
        tokio::spawn(async move {
            if is_new {
                warms.keep(id, &request);
            }
            warms.run(id, request, tell).await;
            warms.forget(id, Keeper::forget_done);
            drop(hold);
        });
        begun
    }

    /// Warms what `request` names; returns when that is over. `tell` is told of the warming, or why there is none.
    async fn run(&self, id: u64, request: ArtifactRequest, tell: watch::Sender<Outcome>) {
        let result = Warming::begin(id, request, &self.layers).await;
        let state = result.as_ref().ok().map(|warming| warming.state());
        if result.is_err() {
            // First, so that whoever hears of it can ask again at once.
            self.state().all.retain(|begun| begun.id != id);
        }
        tell.send_replace(Some(result));
        if let Some(mut state) = state {
            // Whoever looks at the list keeps the warming, and that its state.
            let _ = state.wait_for(|state| state.is_over()).await;
        }
    }

    /// The warming `id`, once what it was asked for is resolved.
    ///
    /// # Errors
    /// `NotFound`; what it could not begin with.
    pub async fn get(&self, id: u64) -> Result<Arc<Warming>> {
        let found = self.state().all.iter().find(|begun| begun.id == id).cloned();
        let none = || format!("there is no warming {id}; refmount warm --list shows them");
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, none()))?.known().await
    }

    /// All, the first one first. May wait for the disk.
    #[must_use]
    pub fn list(&self) -> Vec<WarmStatus> {
        let all: Vec<_> = self.state().all.iter().filter_map(Begun::warming).collect();
        all.iter().map(|warming| warming.status()).collect()
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
    fn add(&mut self, begun: Begun) {
        self.all.push_back(begun);
        while self.all.iter().filter(|begun| begun.is_over()).count() > OVER_MAX {
            let Some(at) = self.all.iter().position(Begun::is_over) else { break };
            self.all.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_reads_what_was_asked_for() {
        let request: ArtifactRequest =
            serde_json::from_str(r#"{"reference":"r.example/m:v1","subpaths":["a/b"],"pull":"missing"}"#)
                .unwrap();
        let again: ArtifactRequest = note::read(note::write("warming", &request).unwrap().into()).unwrap();
        assert!(again.is_same(&request));
    }
}
