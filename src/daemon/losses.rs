//! Mounts that could not be served on, and that nobody has unmounted or mounted anew since.
//!
//! Whoever holds for the server keeps a note of each, so that the next server tells of them too. Without a holder they are
//! told of as long as this process lives.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::Result;
use crate::keeper::{Inherited, Keeper, note};

use super::unrestored::Unrestored;

/// What a note's name begins with where it is kept.
const NAME: &str = "lost-";

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Losses {
    keeper: Option<Arc<Keeper>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By mount point, each with the number in its note's name.
    all: BTreeMap<PathBuf, (u64, Lost)>,
    next_number: u64,
}

/// A mount that could not be served on.
#[derive(Debug, Deserialize, Serialize)]
struct Lost {
    missing: Unrestored,
    /// Whether it is in the kernel's table, dead, where others may unmount it.
    is_left: bool,
}

impl Losses {
    /// Those that `inherited` has notes of, which are taken from there; the notes of others are kept by `keeper`.
    pub(super) fn inherited(keeper: Arc<Keeper>, inherited: &mut Inherited) -> Self {
        let mut state = State::default();
        for (number, note) in inherited.take_notes(NAME) {
            state.next_number = state.next_number.max(number + 1);
            let lost: Option<Lost> = note.and_then(|note| note::read(note).ok());
            match lost.and_then(|lost| Some((lost.missing.mountpoint.clone()?, lost))) {
                Some((target, lost)) => {
                    state.all.insert(target, (number, lost));
                }
                None => {
                    let name = format!("{NAME}{number}");
                    tracing::warn!("cannot read {name}, which tells of a mount that could not be served on");
                    say_failed(keeper.forget(&name));
                }
            }
        }
        Self { keeper: Some(keeper), state: Mutex::new(state) }
    }

    /// Notes that `missing` is not on `target` any more; `is_left`: it is in the kernel's table all the same.
    pub(super) fn add(&self, target: &Path, missing: Unrestored, is_left: bool) {
        let lost = Lost { missing, is_left };
        let mut state = self.state();
        let number = match state.all.get(target) {
            Some((number, _)) => *number,
            None => {
                state.next_number += 1;
                state.next_number - 1
            }
        };
        // What a program on trial cannot serve on, the one before it may.
        if let Some(keeper) = self.keeper.as_ref().filter(|keeper| !keeper.is_on_trial()) {
            let kept = note::write("loss", &lost);
            let kept = kept.and_then(|note| keeper.keep(&format!("{NAME}{number}"), &[note.as_fd()]));
            if let Err(error) = kept {
                tracing::warn!("{}", error.chain());
            }
        }
        state.all.insert(target.to_owned(), (number, lost));
    }

    /// All of them; those that were left in the kernel's table only as long as `is_mounted` says that they are there.
    pub(super) fn list(&self, is_mounted: impl Fn(&Path) -> bool) -> Vec<Unrestored> {
        let left: Vec<PathBuf> = {
            let state = self.state();
            let left = state.all.iter().filter(|(_, (_, lost))| lost.is_left);
            left.map(|(target, _)| target.clone()).collect()
        };
        // Not asked under the lock.
        for gone in left.iter().filter(|target| !is_mounted(target)) {
            self.forget(gone);
        }
        self.state().all.values().map(|(_, lost)| lost.missing.clone()).collect()
    }

    /// Whether there is one on `target`.
    pub(super) fn has(&self, target: &Path) -> bool {
        self.state().all.contains_key(target)
    }

    /// Forgets the one on `target`; says whether there was one.
    pub(super) fn forget(&self, target: &Path) -> bool {
        let mut state = self.state();
        let Some((number, _)) = state.all.remove(target) else { return false };
        if let Some(keeper) = &self.keeper {
            say_failed(keeper.forget_done(&format!("{NAME}{number}")));
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without a holder there is nothing to let go of.
fn say_failed(result: Result<()>) {
    if let Err(error) = result {
        tracing::debug!("{}", error.chain());
    }
}
