//! What a mount shows: a view of a tree, or of one that grows and becomes a view at its end.

use std::ffi::OsStr;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::base::{Error, ErrorKind, RelPath, Result};

use super::growth::{Given, GivenNumber, Grown, Growth, Unknown};
use super::view::{require_mountable, subpath_of};
use super::{FileRecord, Ino, Inode, InodeKind, Tree, View};

/// See the module's text.
#[derive(Debug)]
pub enum Shown {
    /// All of it is known.
    Ready(Box<View>),
    /// Some of it is.
    Growing(Box<GrowingView>),
}

impl From<View> for Shown {
    fn from(view: View) -> Self {
        Self::Ready(Box::new(view))
    }
}

impl From<GrowingView> for Shown {
    fn from(view: GrowingView) -> Self {
        Self::Growing(Box::new(view))
    }
}

/// A growing tree seen from a subPath.
#[derive(Debug)]
pub struct GrowingView {
    growth: Arc<Growth>,
    /// The node of the view's root.
    top: u32,
    subpath: Option<String>,
    reference: String,
    stall_timeout: Duration,
    /// What it is at the end.
    view: OnceLock<Result<View>>,
}

/// An inode of a view.
#[derive(Debug)]
pub enum ShownInode<'a> {
    /// Of a tree.
    Tree(&'a Inode),
    /// Of one that grows.
    Growing(Arc<Inode>),
}

impl Deref for ShownInode<'_> {
    type Target = Inode;

    fn deref(&self) -> &Inode {
        match self {
            Self::Tree(inode) => inode,
            Self::Growing(inode) => inode,
        }
    }
}

/// A growing view at its end.
#[derive(Clone, Copy)]
struct Settled<'a> {
    view: &'a View,
    grown: &'a Grown,
}

impl Settled<'_> {
    /// What the number `ino` stands for, as the view numbers it.
    fn given(self, ino: Ino) -> Given {
        match self.grown.given(ino) {
            Some(Given::Kept(kept)) => Given::Kept(self.view.number_of(*kept)),
            Some(gone) => gone.clone(),
            None => Given::Kept(ino),
        }
    }

    fn kept(self, ino: Ino) -> Option<Ino> {
        match self.given(ino) {
            Given::Kept(ino) => Some(ino),
            Given::Gone(_) | Given::Lost => None,
        }
    }

    /// The number under which what the view has as `ino` is shown.
    fn number(self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { ino } else { self.grown.number(ino) }
    }
}

impl GrowingView {
    /// `growth` seen from `subpath` as typed, or the whole of it. Waits until the subPath is known, or that it
    /// does not exist. `stall_timeout` is how long the growth may stand still before those who wait are told.
    ///
    /// # Errors
    /// As [`View::new`]; what the growth failed with; `TimedOut` when it stands still.
    pub async fn new(
        growth: Arc<Growth>,
        subpath: Option<&str>,
        reference: &str,
        stall_timeout: Duration,
    ) -> Result<Self> {
        let path = subpath.map(subpath_of).transpose()?;
        let top = match &path {
            None => 0,
            Some(path) => found(&growth, path, stall_timeout).await?,
        };
        if let Some((typed, inode)) = subpath.zip(growth.inode(top, Ino::ROOT).flatten()) {
            require_mountable(&inode.kind, typed, reference)?;
        }
        let (subpath, reference) = (subpath.map(str::to_owned), reference.to_owned());
        let this = Self { growth, top, subpath, reference, stall_timeout, view: OnceLock::new() };
        match this.settled() {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(this),
        }
    }

    /// What another process showed while `tree` grew, which gave out the numbers `told`, at its end.
    ///
    /// # Errors
    /// As [`View::new`].
    pub fn again(
        tree: Arc<Tree>,
        told: Vec<GivenNumber>,
        subpath: Option<&str>,
        reference: &str,
    ) -> Result<Self> {
        let this = Self {
            growth: Arc::new(Growth::again(tree, told)),
            top: 0,
            subpath: subpath.map(str::to_owned),
            reference: reference.to_owned(),
            stall_timeout: Duration::ZERO,
            view: OnceLock::new(),
        };
        match this.settled() {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(this),
        }
    }

    /// What it is at the end, which has come if this is some.
    fn settled(&self) -> Option<Result<Settled<'_>, &Error>> {
        let grown = self.growth.grown()?;
        let view = self
            .view
            .get_or_init(|| View::new(Arc::clone(&grown.tree), self.subpath.as_deref(), &self.reference));
        Some(view.as_ref().map(|view| Settled { view, grown }))
    }
}

/// The node at `path`, as soon as it is known; any one if the growth ends first.
async fn found(growth: &Growth, path: &RelPath, stall_timeout: Duration) -> Result<u32> {
    let mut progress = growth.progress_made();
    loop {
        progress.borrow_and_update();
        match growth.find(path) {
            None => return Ok(0),
            Some(Ok(node)) => return Ok(node),
            Some(Err(Unknown::Failed(error))) => return Err(error),
            Some(Err(Unknown::NotYet)) => {}
        }
        if tokio::time::timeout(stall_timeout, progress.changed()).await.is_err() {
            return Err(stalled(stall_timeout));
        }
    }
}

/// The error that those get who wait for what does not come.
fn stalled(timeout: Duration) -> Error {
    let why = format!("the layers are being read for the first time, and for {timeout:?} nothing came");
    Error::new(ErrorKind::TimedOut, why)
}

impl Shown {
    /// Whether all that is said from now on holds for ever.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Ready(_) => true,
            Self::Growing(growing) => matches!(growing.settled(), Some(Ok(_))),
        }
    }

    /// What changes whenever more may be known, and how long that may take; none once all is known.
    #[must_use]
    pub fn progress(&self) -> Option<(watch::Receiver<u64>, Duration)> {
        match self {
            Self::Ready(_) => None,
            Self::Growing(growing) => Some((growing.growth.progress_made(), growing.stall_timeout)),
        }
    }

    /// The error for those who waited until the time was over.
    #[must_use]
    pub fn stalled(timeout: Duration) -> Error {
        stalled(timeout)
    }

    /// Whether the root is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.inode(Ino::ROOT).is_some_and(|inode| matches!(inode.kind, InodeKind::File(_)))
    }

    /// The inode `ino`, if it has been shown.
    #[must_use]
    pub fn inode(&self, ino: Ino) -> Option<ShownInode<'_>> {
        let growing = match self {
            Self::Ready(view) => return view.inode(ino).map(ShownInode::Tree),
            Self::Growing(growing) => growing,
        };
        if let Some(found) = growing.growth.inode(growing.top, ino) {
            return found.map(ShownInode::Growing);
        }
        let settled = growing.settled()?.ok()?;
        match settled.given(ino) {
            Given::Kept(ino) => settled.view.inode(ino).map(ShownInode::Tree),
            Given::Gone(inode) => Some(ShownInode::Growing(inode)),
            Given::Lost => None,
        }
    }

    /// The inode called `name` in the directory `parent`; none if there is none.
    ///
    /// # Errors
    /// That it is not known.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Option<Ino>, Unknown> {
        let growing = match self {
            Self::Ready(view) => return Ok(view.lookup(parent, name)),
            Self::Growing(growing) => growing,
        };
        if let Some(found) = growing.growth.lookup(growing.top, parent, name) {
            return found.map(Some);
        }
        let settled = growing.end()?;
        let found = settled.kept(parent).and_then(|parent| settled.view.lookup(parent, name));
        Ok(found.map(|ino| settled.number(ino)))
    }

    /// The children of `ino` in the order of their names, without the first `from`.
    ///
    /// # Errors
    /// That they are not known.
    pub fn children(&self, ino: Ino, from: usize) -> Result<impl Iterator<Item = (&OsStr, Ino)>, Unknown> {
        let (view, settled) = self.view()?;
        let of = match settled {
            None => Some(ino),
            Some(settled) => settled.kept(ino),
        };
        let children = of.into_iter().flat_map(move |ino| view.children(ino, from));
        Ok(children.map(move |(name, ino)| (name, settled.map_or(ino, |settled| settled.number(ino)))))
    }

    /// The directory that holds `ino`; the root's is itself. None where that is not known.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        match self.view().ok()? {
            (view, None) => view.parent(ino),
            (view, Some(settled)) => view.parent(settled.kept(ino)?).map(|parent| settled.number(parent)),
        }
    }

    /// The path of `ino` from the root; empty for the root and for what no path leads to.
    #[must_use]
    pub fn path_of(&self, ino: Ino) -> Vec<u8> {
        if let Self::Growing(growing) = self
            && let Some(path) = growing.growth.path_of(growing.top, ino)
        {
            return path;
        }
        match self.view() {
            Ok((view, None)) => view.path_of(ino),
            Ok((view, Some(settled))) => settled.kept(ino).map(|ino| view.path_of(ino)).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Whether all of it is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.view().is_ok()
    }

    /// The files in the order of their paths; none before all are known.
    pub fn files(&self) -> impl Iterator<Item = FileRecord<'_>> {
        self.view().into_iter().flat_map(|(view, settled)| {
            view.files().map(move |file| FileRecord {
                ino: settled.map_or(file.ino, |settled| settled.number(file.ino)),
                ..file
            })
        })
    }

    /// The files whose bytes the layer in place `layer` holds, as far as they are known.
    #[must_use]
    pub fn inodes_of(&self, layer: usize) -> Vec<Ino> {
        if let Self::Growing(growing) = self
            && let Some(found) = growing.growth.inodes_of(growing.top, layer)
        {
            return found;
        }
        self.files().filter(|file| file.body.layer == layer).map(|file| file.ino).collect()
    }

    /// Why not all of it is known, and never will be, if that is so.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        match self.view() {
            Err(Unknown::Failed(error)) => Some(error),
            Ok(_) | Err(Unknown::NotYet) => None,
        }
    }

    /// How many files there are, as far as that is known.
    #[must_use]
    pub fn file_count(&self) -> u64 {
        self.totals().0
    }

    /// The bytes of all files, as far as they are known.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.totals().1
    }

    fn totals(&self) -> (u64, u64) {
        if let Self::Growing(growing) = self
            && let Some(totals) = growing.growth.totals()
        {
            return totals;
        }
        self.view().map(|(view, _)| (view.file_count(), view.total_bytes())).unwrap_or_default()
    }

    /// The view of the whole, and how its numbers are shown.
    fn view(&self) -> Result<(&View, Option<Settled<'_>>), Unknown> {
        match self {
            Self::Ready(view) => Ok((view, None)),
            Self::Growing(growing) => growing.end().map(|settled| (settled.view, Some(settled))),
        }
    }
}

impl GrowingView {
    fn end(&self) -> Result<Settled<'_>, Unknown> {
        match self.settled() {
            Some(settled) => settled.map_err(|error| Unknown::Failed(error.clone())),
            None => Err(self.growth.unknown().unwrap_or(Unknown::NotYet)),
        }
    }
}
