//! A tree seen from a subPath: a directory in it, or one file.
//!
//! The view's root has number 1, as every root; the other inodes keep the tree's numbers. Nothing outside
//! the view can be reached through it, except that links show the targets they have.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::base::{Error, ErrorKind, RelPath, Result};

use super::{FileRecord, Ino, Inode, InodeKind, Missing, Obstacle, Tree};

/// Names listed in the error about a missing subPath: enough to see the typing mistake, not a screenful.
const NAMES_SHOWN: usize = 8;

/// See the module's text.
#[derive(Debug)]
pub struct View {
    tree: Arc<Tree>,
    /// The view's root, as the tree numbers it.
    top: Ino,
    files: u64,
    total_bytes: u64,
}

impl View {
    /// `tree` seen from `subpath` as typed, or the whole of it. `reference` names the artifact in errors.
    ///
    /// # Errors
    /// `Usage` for a subPath that is empty, absolute or has `..` or NUL in it; `NotFound` for one that leads
    /// nowhere, with the nearest parent that exists and what it holds; `Unsupported` for a device or a pipe, which
    /// nothing can be mounted as.
    pub fn new(tree: Arc<Tree>, subpath: Option<&str>, reference: &str) -> Result<Self> {
        let top = match subpath {
            None => Ino::ROOT,
            Some(typed) => tree
                .walk(&subpath_of(typed)?)
                .map_err(|missing| describe(&tree, typed, &missing, reference))?,
        };
        if let Some((typed, inode)) = subpath.zip(tree.inode(top)) {
            require_mountable(&inode.kind, typed, reference)?;
        }
        let (mut files, mut total_bytes) = (0, 0_u64);
        for file in tree.files_below(top) {
            files += 1;
            total_bytes = total_bytes.saturating_add(file.body.size);
        }
        Ok(Self { tree, top, files, total_bytes })
    }

    /// Whether the root is a regular file, which a directory can't be the mount point of.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.root().is_some_and(|inode| matches!(inode.kind, InodeKind::File(_)))
    }

    /// The inode `ino`, if the view has it.
    #[must_use]
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.tree.inode(self.in_tree(ino)?)
    }

    /// The inode called `name` in the directory `parent`.
    #[must_use]
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Option<Ino> {
        self.tree.lookup(self.in_tree(parent)?, name)
    }

    /// The children of `ino` in the order of their names, without the first `from`.
    pub fn children(&self, ino: Ino, from: usize) -> impl Iterator<Item = (&OsStr, Ino)> {
        self.in_tree(ino).into_iter().flat_map(move |ino| self.tree.children(ino, from))
    }

    /// The directory that holds `ino`; the root's is itself.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        if ino == Ino::ROOT {
            return Some(Ino::ROOT);
        }
        self.tree.parent_below(self.top, self.in_tree(ino)?).map(|parent| self.as_shown(parent))
    }

    /// The path of `ino` from the view's root; empty for the root.
    #[must_use]
    pub fn path_of(&self, ino: Ino) -> Vec<u8> {
        self.in_tree(ino).map(|ino| self.tree.path_below(self.top, ino)).unwrap_or_default()
    }

    /// The view's files in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = FileRecord<'_>> {
        self.tree.files_below(self.top).map(|record| FileRecord { ino: self.as_shown(record.ino), ..record })
    }

    /// How many files the view has.
    #[must_use]
    pub fn file_count(&self) -> u64 {
        self.files
    }

    /// The bytes of all files of the view.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn root(&self) -> Option<&Inode> {
        self.tree.inode(self.top)
    }

    fn in_tree(&self, ino: Ino) -> Option<Ino> {
        if ino == Ino::ROOT {
            return Some(self.top);
        }
        (ino != self.top && self.tree.is_below(self.top, ino)).then_some(ino)
    }

    /// The view's number for what the tree has as `ino`.
    pub(super) fn number_of(&self, ino: Ino) -> Ino {
        self.as_shown(ino)
    }

    fn as_shown(&self, ino: Ino) -> Ino {
        if ino == self.top { Ino::ROOT } else { ino }
    }
}

/// The path of a subPath as typed.
///
/// # Errors
/// `Usage` for one that is empty, absolute or has `..` or NUL in it.
pub(super) fn subpath_of(typed: &str) -> Result<RelPath> {
    RelPath::parse(typed.as_bytes()).map_err(|error| {
        let why = format!("bad subPath: {error}; expected a path relative to the artifact's root");
        Error::new(ErrorKind::Usage, why)
    })
}

/// Checks that what `typed` leads to can be mounted.
///
/// # Errors
/// `Unsupported` for a device, a pipe or a link.
pub(super) fn require_mountable(kind: &InodeKind, typed: &str, reference: &str) -> Result<()> {
    if matches!(kind, InodeKind::Directory | InodeKind::File(_)) {
        return Ok(());
    }
    let text = format!(
        "subPath {typed:?} of {reference} is neither a directory nor a regular file, and nothing else can be mounted; \
         choose the directory that holds it"
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}

fn describe(tree: &Tree, typed: &str, missing: &Missing, reference: &str) -> Error {
    let path = tree.path_of(missing.nearest);
    let nearest = String::from_utf8_lossy(&path);
    let why = match missing.obstacle {
        Obstacle::TooManyLinks => format!("the links at {nearest:?} lead in a loop"),
        Obstacle::NotDirectory => format!("{nearest:?} is not a directory"),
        Obstacle::NoEntry => {
            let place = match nearest.is_empty() {
                true => "the root".to_owned(),
                false => format!("{nearest:?}"),
            };
            format!("the nearest parent that exists is {place} and holds: {}", names(tree, missing.nearest))
        }
    };
    Error::new(ErrorKind::NotFound, format!("subPath {typed:?} does not exist in {reference}; {why}"))
}

fn names(tree: &Tree, directory: Ino) -> String {
    let shown: Vec<_> =
        tree.children(directory, 0).take(NAMES_SHOWN).map(|(name, _)| name.to_string_lossy()).collect();
    let more = tree.children(directory, NAMES_SHOWN).count();
    match (shown.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}
