//! A tree that is shown while layers are read for the first time: what has been found so far is there, what is not
//! known yet has to be waited for.
//!
//! Only what no later entry can change is shown: in each directory of layers, the topmost layer that is still being
//! read, as far as it is read, and the known layers above it. That a name is absent, and what all a directory
//! holds, is known at the end alone. Of an image nothing is shown below a directory that no entry has described yet,
//! as it may be a link of a layer below; only the lowest layer has none below it.
//!
//! Inodes have numbers of their own meanwhile, by order of appearance. At the end those that were given out are
//! mapped by path to the tree's, and stay in use for them. One whose path turned out to be another file (a later
//! entry of the same archive replaced it) keeps its number and its bytes for whoever has it open, and the path has
//! another number: no number ever stands for two files, and no file that is reached by a path for two numbers.

mod cover;
mod nodes;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use crate::base::{Digest, Error, RelPath, Result};
use crate::layer::{Entry, EntryRef, FileBody, LayerIndex};

use super::merge::names;
use super::{Ino, Inode, InodeKind, LayerRole, Tree};
use cover::Cover;
use nodes::Nodes;

/// The first of the numbers that are given out while the tree grows. No tree has as many inodes.
const INO_MIN: u64 = 1 << 62;

/// Entries of a known layer that are shown in one go, some milliseconds at most.
const SHOWN_AT_ONCE: usize = 1024;

/// A layer of a tree that grows.
#[derive(Clone, Debug)]
pub struct GrowthLayer {
    /// The layer's blob.
    pub digest: Digest,
    /// The directory that its files stand in; none for the root.
    pub directory: Option<RelPath>,
    /// By which rule it covers the layers below.
    pub role: LayerRole,
    /// What it holds; none while it is being read.
    pub known: Option<Arc<LayerIndex>>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Unknown {
    /// It is not known yet; another try is worth it whenever [`Growth::progress_made`] changes.
    NotYet,
    /// It will never be known.
    Failed(Error),
}

/// A number that was given out while a tree grew, for whoever has to know it later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenNumber {
    /// The number.
    pub ino: Ino,
    /// The path from the root of the tree.
    pub path: Vec<u8>,
    /// A mark of what is there: two that are the same have the same one.
    pub kind: u64,
}

/// Whoever is told of numbers, before they are given out.
pub type TellGiven = Box<dyn Fn(&GivenNumber) + Send + Sync>;

/// A mark of what an inode is. Two that are the same have the same one; it holds for one build of the program.
fn kind_mark(kind: &InodeKind) -> u64 {
    let digest = blake3::hash(format!("{kind:?}").as_bytes());
    digest.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// See the module's text.
pub struct Growth {
    tell_given: OnceLock<TellGiven>,
    state: Mutex<State>,
    grown: OnceLock<Grown>,
    progress: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    layers: Vec<Layer>,
    nodes: Nodes,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Layer {
    of: GrowthLayer,
    /// What it leaves of the layers below it, if it is known and that does not depend on them.
    cover: Option<Cover>,
    /// How many entries were taken as they came, as long as none had to be left out.
    taken: Option<usize>,
    /// How many of its entries are among the nodes, once it is known.
    shown: usize,
}

/// What a growth came to: the tree, and the numbers that were given out before.
#[derive(Debug)]
pub(super) struct Grown {
    pub(super) tree: Arc<Tree>,
    given: HashMap<Ino, Given>,
    /// The number given out for an inode of the tree.
    numbers: HashMap<Ino, Ino>,
}

/// What a number that was given out stands for at the end.
#[derive(Clone, Debug)]
pub(super) enum Given {
    /// An inode of the tree.
    Kept(Ino),
    /// What no path leads to any more.
    Gone(Arc<Inode>),
    /// That too, and nobody knows any more what it was.
    Lost,
}

impl std::fmt::Debug for Growth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Growth").field("grown", &self.grown).finish_non_exhaustive()
    }
}

impl Grown {
    /// What the numbers of a growth that another process has seen stand for in `tree`.
    fn again(tree: Arc<Tree>, told: Vec<GivenNumber>) -> Self {
        let (mut given, mut numbers) = (HashMap::new(), HashMap::new());
        for GivenNumber { ino: number, path, kind } in told {
            let found = names(&path).try_fold(Ino::ROOT, |at, name| tree.lookup(at, OsStr::from_bytes(name)));
            let is_same = |ino: &Ino| tree.inode(*ino).is_some_and(|inode| kind_mark(&inode.kind) == kind);
            let end = match found.filter(is_same) {
                Some(ino) if !numbers.contains_key(&ino) => {
                    numbers.insert(ino, number);
                    Given::Kept(ino)
                }
                _ => Given::Lost,
            };
            given.insert(number, end);
        }
        Self { tree, given, numbers }
    }

    pub(super) fn given(&self, ino: Ino) -> Option<&Given> {
        self.given.get(&ino)
    }

    /// The number under which the tree's inode `ino` is shown.
    pub(super) fn number(&self, ino: Ino) -> Ino {
        self.numbers.get(&ino).copied().unwrap_or(ino)
    }
}

impl Growth {
    /// The tree of `layers`, lowest first and in the same places as those that the tree will be built of. Those
    /// without an index are being read.
    #[must_use]
    pub fn new(layers: Vec<GrowthLayer>) -> Self {
        let cover = |of: &GrowthLayer| of.known.as_ref().and_then(|index| Cover::of(index, of.role));
        let layers =
            layers.into_iter().map(|of| Layer { cover: cover(&of), of, taken: Some(0), shown: 0 }).collect();
        let state = Mutex::new(State { layers, nodes: Nodes::new(), failed: None });
        let this = Self {
            tell_given: OnceLock::new(),
            state,
            grown: OnceLock::new(),
            progress: watch::Sender::new(0),
        };
        this.show_known();
        this
    }

    /// One that has come to `tree`, and gave out the numbers `told` on its way.
    #[must_use]
    pub fn again(tree: Arc<Tree>, told: Vec<GivenNumber>) -> Self {
        let this = Self::new(Vec::new());
        drop(this.grown.set(Grown::again(tree, told)));
        this
    }

    /// Has `tell` told of the numbers that are given out from now on. Only the first call counts.
    pub fn tell_given(&self, tell: TellGiven) {
        let _ = self.tell_given.set(tell);
    }

    /// Takes the next entry of the layer in place `layer`, in the order of its stream.
    pub fn push(&self, layer: usize, entry: &Entry) {
        let mut state = self.lock();
        let may_show = state.may_show(layer);
        if let Some(layer) = state.layers.get_mut(layer) {
            layer.taken = layer.taken.filter(|_| may_show).map(|taken| taken.saturating_add(1));
        }
        if may_show {
            let entry = EntryRef {
                path: entry.path.as_bytes(),
                kind: entry.kind.clone(),
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                mtime: entry.mtime,
                xattrs: entry.xattrs.clone(),
            };
            state.show(layer, entry);
        }
        drop(state);
        self.progress();
    }

    /// Takes the whole of the layer in place `layer`, which has been read to its end.
    pub fn layer_known(&self, layer: usize, index: Arc<LayerIndex>) {
        let role = {
            let state = self.lock();
            let Some(known) = state.layers.get(layer) else { return };
            state.has_below(layer).then_some(known.of.role)
        };
        let cover = role.and_then(|role| Cover::of(&index, role));
        if let Some(layer) = self.lock().layers.get_mut(layer) {
            let is_shown = layer.taken.is_some_and(|taken| taken >= index.len());
            layer.shown = if is_shown { index.len() } else { 0 };
            layer.of.known = Some(index);
            layer.cover = cover;
        }
        self.show_known();
        self.progress();
    }

    /// Shows what is in layers that have become known. Who looks something up meanwhile waits for no more than a
    /// few entries.
    fn show_known(&self) {
        while self.grown.get().is_none() && self.lock().show_more() {}
    }

    /// Says that reading goes on, though no entry came: those who wait have reason to.
    pub fn progress(&self) {
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Ends the growth, with the tree of all layers or with the reason why there is none. What is known stays
    /// known then, and what is not stays unknown. Only the first call counts.
    pub fn finish(&self, result: Result<Arc<Tree>>) {
        // What is no longer needed goes when nobody waits for it.
        let mut nodes = Nodes::default();
        let mut state = self.lock();
        if self.grown.get().is_none() && state.failed.is_none() {
            match result {
                // The lock is held, so that no number is given out that the end does not know of.
                Ok(tree) => {
                    nodes = std::mem::take(&mut state.nodes);
                    drop(self.grown.set(nodes.grown(tree)));
                }
                Err(error) => state.failed = Some(error),
            }
        }
        drop(state);
        drop(nodes);
        self.progress();
    }

    /// Changes with every entry, and whenever reading goes on.
    #[must_use]
    pub fn progress_made(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    pub(super) fn grown(&self) -> Option<&Grown> {
        self.grown.get()
    }

    /// Runs `look` on what has been found so far; none once the growth has ended with a tree.
    fn while_growing<T>(&self, look: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.lock();
        match self.grown.get() {
            Some(_) => None,
            None => Some(look(&mut state)),
        }
    }

    /// The inode with the number `ino`, of a view whose root is the node `top`; none once there is a tree.
    pub(super) fn inode(&self, top: u32, ino: Ino) -> Option<Option<Arc<Inode>>> {
        self.while_growing(|state| Some(Arc::clone(&state.nodes.get(index(top, ino)?)?.inode)))
    }

    /// What `name` in the directory `parent` leads to. None once there is a tree.
    pub(super) fn lookup(&self, top: u32, parent: Ino, name: &OsStr) -> Option<Result<Ino, Unknown>> {
        self.while_growing(|state| {
            let found = index(top, parent).and_then(|parent| state.nodes.child(parent, name.as_bytes()));
            match found {
                Some(found) => {
                    if state.nodes.give(found)
                        && let Some(tell) = self.tell_given.get()
                        && let Some(node) = state.nodes.get(found)
                    {
                        let (path, kind) =
                            (state.nodes.path(nodes::ROOT, found), kind_mark(&node.inode.kind));
                        tell(&GivenNumber { ino: number_in_tree(found), path, kind });
                    }
                    Ok(number(top, found))
                }
                None => Err(state.unknown()),
            }
        })
    }

    /// Why something is not known. None once there is a tree.
    pub(super) fn unknown(&self) -> Option<Unknown> {
        self.while_growing(|state| state.unknown())
    }

    /// The node at `path`, if all of the way there is known to be directories. None once there is a tree.
    pub(super) fn find(&self, path: &RelPath) -> Option<Result<u32, Unknown>> {
        self.while_growing(|state| {
            let mut at = nodes::ROOT;
            for name in path.components() {
                match state.nodes.child(at, name.as_bytes()) {
                    Some(child) => at = child,
                    None => return Err(state.unknown()),
                }
            }
            let is_link = matches!(state.nodes.get(at), Some(node) if matches!(node.inode.kind, InodeKind::Symlink { .. }));
            match is_link {
                true => Err(state.unknown()),
                false => Ok(at),
            }
        })
    }

    /// The path of `ino` from the view's root. None once there is a tree.
    pub(super) fn path_of(&self, top: u32, ino: Ino) -> Option<Vec<u8>> {
        self.while_growing(|state| {
            index(top, ino).map(|index| state.nodes.path(top, index)).unwrap_or_default()
        })
    }

    /// How many files have been found so far, and their bytes. None once there is a tree.
    pub(super) fn totals(&self) -> Option<(u64, u64)> {
        self.while_growing(|state| state.nodes.totals())
    }

    /// The files found so far whose bytes `layer` holds. None once there is a tree.
    pub(super) fn inodes_of(&self, top: u32, layer: usize) -> Option<Vec<Ino>> {
        let is_of = |body: &FileBody| body.layer == layer;
        self.while_growing(|state| {
            state.nodes.files().filter(|(_, body)| is_of(body)).map(|(index, _)| number(top, index)).collect()
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layer {
    /// Whether all that it has is among the nodes.
    fn is_shown(&self) -> bool {
        self.of.known.as_ref().is_some_and(|index| self.shown == index.len())
    }
}

impl State {
    fn unknown(&self) -> Unknown {
        self.failed.clone().map_or(Unknown::NotYet, Unknown::Failed)
    }

    /// The layers above `layer` that stand in the same directory.
    fn above(&self, layer: usize) -> impl Iterator<Item = &Layer> {
        let directory = self.layers.get(layer).map(|layer| &layer.of.directory);
        let above = self.layers.get(layer.saturating_add(1)..).unwrap_or_default();
        above.iter().filter(move |other| Some(&other.of.directory) == directory)
    }

    /// Whether a layer below `layer` stands in the same directory.
    fn has_below(&self, layer: usize) -> bool {
        let directory = self.layers.get(layer).map(|layer| &layer.of.directory);
        self.layers.iter().take(layer).any(|below| Some(&below.of.directory) == directory)
    }

    /// Whether all that the layers above `layer` have is shown, and it is known what they leave of it.
    fn may_show(&self, layer: usize) -> bool {
        self.above(layer).all(|above| above.is_shown() && above.cover.is_some())
    }

    /// Shows some more of what is in layers that have become known; whether there was any.
    fn show_more(&mut self) -> bool {
        let is_next = |number: &usize| {
            let layer = &self.layers[*number];
            layer.of.known.is_some() && !layer.is_shown() && self.may_show(*number)
        };
        let Some(number) = (0..self.layers.len()).rev().find(is_next) else { return false };
        let layer = &mut self.layers[number];
        let Some(index) = layer.of.known.clone() else { return false };
        let start = layer.shown;
        layer.shown = index.len().min(start + SHOWN_AT_ONCE);
        for at in start..layer.shown {
            self.show(number, index.entry(at));
        }
        true
    }

    fn show(&mut self, number: usize, entry: EntryRef<'_>) {
        let Some(layer) = self.layers.get(number) else { return };
        let covers = |above: &Layer| above.cover.as_ref().is_some_and(|cover| cover.covers(entry.path));
        let is_covered = self.above(number).any(covers);
        if !is_covered {
            let implies = layer.of.role != LayerRole::Rootfs || !self.has_below(number);
            self.nodes.add(layer.of.directory.as_ref(), layer.of.role, number, implies, entry);
        }
    }
}

/// The node that the number `ino` stands for in a view of `top`.
fn index(top: u32, ino: Ino) -> Option<u32> {
    match ino {
        Ino::ROOT => Some(top),
        Ino(number) => u32::try_from(number.checked_sub(INO_MIN)?).ok(),
    }
}

fn number(top: u32, index: u32) -> Ino {
    if index == top { Ino::ROOT } else { number_in_tree(index) }
}

/// The number of a node wherever the view's root is.
fn number_in_tree(index: u32) -> Ino {
    Ino(INO_MIN + u64::from(index))
}

#[cfg(test)]
mod tests;
