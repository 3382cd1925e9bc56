//! The warmings of one owner: those that go on, and the last ones that are over.
//!
//! A warming keeps its owner alive as a mount does. Whoever holds for the server keeps its request, so that the next server
//! goes on with it under the same number.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::MemfdFlags;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::indexing::Layers;
use crate::keeper::{Inherited, Keeper};
use crate::mount::{ArtifactRequest, WarmStatus, Warming};

use super::mounts::Mounts;

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
    warmings: VecDeque<(u64, Arc<Warming>)>,
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
            {
                let mut state = self.state();
                state.next_id = state.next_id.max(id + 1);
            }
            let Some(request) = kept.and_then(|file| read(file).ok()) else {
                self.forget(id, Keeper::forget);
                continue;
            };
            let warms = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = warms.begin_as(id, request).await {
                    tracing::warn!(id, error = error.chain(), "a warming does not go on");
                }
            });
        }
    }

    /// Begins what `request` names, unless that goes on already; nothing if this owner is ending.
    ///
    /// # Errors
    /// As [`Warming::begin`].
    pub async fn begin(self: &Arc<Self>, request: ArtifactRequest) -> Result<Option<Arc<Warming>>> {
        let id = {
            let mut state = self.state();
            let same = state.warmings.iter().find(|(_, warming)| {
                !warming.state().borrow().is_over() && warming.request().is_same(&request)
            });
            if let Some((_, warming)) = same {
                return Ok(Some(Arc::clone(warming)));
            }
            state.next_id += 1;
            state.next_id - 1
        };
        self.keep(id, &request);
        self.begin_as(id, request).await
    }

    async fn begin_as(self: &Arc<Self>, id: u64, request: ArtifactRequest) -> Result<Option<Arc<Warming>>> {
        let Some(hold) = self.mounts.hold() else { return Ok(None) };
        let warming = match Warming::begin(id, request, &self.layers).await {
            Ok(warming) => warming,
            Err(error) => {
                self.forget(id, Keeper::forget_done);
                return Err(error);
            }
        };
        self.state().add(id, Arc::clone(&warming));
        let (warms, mut state) = (Arc::clone(self), warming.state());
        tokio::spawn(async move {
            // The sender lives as long as the warming.
            let _ = state.wait_for(|state| state.is_over()).await;
            warms.forget(id, Keeper::forget_done);
            drop(hold);
        });
        Ok(Some(warming))
    }

    /// The warming `id`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: u64) -> Result<Arc<Warming>> {
        let state = self.state();
        let found = state.warmings.iter().find(|(there, _)| *there == id);
        found.map(|(_, warming)| Arc::clone(warming)).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no warming {id}; refmount warm --list shows them"),
            )
        })
    }

    /// All, the first one first. May wait for the disk.
    #[must_use]
    pub fn list(&self) -> Vec<WarmStatus> {
        let all: Vec<_> = self.state().warmings.iter().map(|(_, warming)| Arc::clone(warming)).collect();
        all.iter().map(|warming| warming.status()).collect()
    }

    /// Has whoever holds for this process keep the request. What is not kept ends with this process.
    fn keep(&self, id: u64, request: &ArtifactRequest) {
        let Some(keeper) = &self.keeper else { return };
        let kept = write(request).and_then(|file| keeper.keep(&format!("{NAME}{id}"), &[file.as_fd()]));
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
    fn add(&mut self, id: u64, warming: Arc<Warming>) {
        self.warmings.push_back((id, warming));
        let is_over = |(_, warming): &(u64, Arc<Warming>)| warming.state().borrow().is_over();
        while self.warmings.iter().filter(|warming| is_over(warming)).count() > OVER_MAX {
            let Some(at) = self.warmings.iter().position(is_over) else { break };
            self.warmings.remove(at);
        }
    }
}

fn write(request: &ArtifactRequest) -> Result<File> {
    let cannot = || "cannot note a warming for the next process";
    let file = rustix::fs::memfd_create("warming", MemfdFlags::CLOEXEC).map_err(std::io::Error::from);
    let file = File::from(file.context(cannot)?);
    let text = serde_json::to_vec(request).map_err(std::io::Error::from).context(cannot)?;
    (&file).write_all(&text).context(cannot)?;
    Ok(file)
}

fn read(file: OwnedFd) -> std::io::Result<ArtifactRequest> {
    let mut file = File::from(file);
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_reads_what_was_asked_for() {
        let request: ArtifactRequest =
            serde_json::from_str(r#"{"reference":"r.example/m:v1","subpaths":["a/b"],"pull":"missing"}"#)
                .unwrap();
        let again = read(write(&request).unwrap().into()).unwrap();
        assert!(again.is_same(&request));
    }
}
