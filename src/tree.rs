//! The inode table of an artifact: every directory, file and link, merged from its layers, immutable.
//!
//! A tree is a pure function of its layers' entries: the same input has the same inode numbers on every
//! machine and after every restart. Numbers follow the order of paths, so the inodes below a directory are
//! one run of numbers. Nothing here reads content or follows a link outside the tree, and nothing
//! recurses: depth and width are bounded by memory alone.

mod build;
mod merge;
mod view;
mod walk;

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use crate::base::Result;
use crate::layer::{FileBody, LayerEntries, Timestamp};

pub use view::View;
pub use walk::{Missing, Obstacle};

/// The number of an inode; the root's is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known about a file, directory or link besides its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: InodeKind,
    /// Permission bits, with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The time of the last change of its content.
    pub mtime: Timestamp,
    /// Names of it: 1, and for directories 2 and one for each subdirectory.
    pub nlink: u32,
}

/// What an [`Inode`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InodeKind {
    /// A directory; see [`Tree::children`].
    Directory,
    /// A regular file.
    File(FileBody),
    /// A symbolic link.
    Symlink {
        /// The bytes it holds.
        target: Box<[u8]>,
    },
}

impl InodeKind {
    fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }
}

/// A file of a tree, as its iterators show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRecord<'a> {
    /// The file's inode.
    pub ino: Ino,
    /// Its bytes.
    pub body: &'a FileBody,
}

/// See the module's text.
#[derive(Debug)]
pub struct Tree {
    /// By inode number less one.
    nodes: Vec<Node>,
    /// The names of all nodes, one after the other.
    names: Vec<u8>,
    /// The children of all directories as indices into `nodes`, those of one directory together and
    /// sorted by name.
    children: Vec<u32>,
}

#[derive(Debug)]
struct Node {
    inode: Inode,
    /// Index of the parent; the root's is its own.
    parent: u32,
    /// Index after the last node below this one.
    end: u32,
    name_start: usize,
    name_length: u16,
    children_start: u32,
    children_count: u32,
}

impl Tree {
    /// Merges `layers`, lowest first. Parents that no entry describes are directories of mode 0755 that
    /// belong to root, of time 0.
    ///
    /// # Errors
    /// `Invalid` for two layers that give the same path, and for an entry below something that is no
    /// directory, naming layers and paths.
    pub fn build(layers: &[LayerEntries]) -> Result<Self> {
        build::build(layers, &merge::merge(layers)?)
    }

    /// The inode `ino`, if there is one.
    #[must_use]
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.node(ino).map(|node| &node.inode)
    }

    /// The inode called `name` in the directory `parent`.
    #[must_use]
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Option<Ino> {
        let children = self.child_indices(parent);
        let found = children.binary_search_by(|child| self.name_at(*child).cmp(name.as_bytes())).ok()?;
        Some(ino_at(children[found]))
    }

    /// The children of the directory `ino` in the order of their names, without the first `from`. None for
    /// what is no directory.
    pub fn children(&self, ino: Ino, from: usize) -> impl Iterator<Item = (&OsStr, Ino)> {
        let children = self.child_indices(ino);
        let rest = &children[from.min(children.len())..];
        rest.iter().map(|child| (OsStr::from_bytes(self.name_at(*child)), ino_at(*child)))
    }

    /// The directory that holds `ino`; the root's is itself.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        self.node(ino).map(|node| ino_at(node.parent))
    }

    /// The path of `ino` from the root; empty for the root.
    #[must_use]
    pub fn path_of(&self, ino: Ino) -> Vec<u8> {
        self.path_below(Ino::ROOT, ino)
    }

    /// The regular files in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = FileRecord<'_>> {
        self.files_below(Ino::ROOT)
    }

    /// The path of `ino` from `top`, which must be `ino` or stand above it.
    fn path_below(&self, top: Ino, ino: Ino) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != top && at != Ino::ROOT {
            let Some(node) = self.node(at) else { break };
            names.push(self.name_of(node));
            at = ino_at(node.parent);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The files among `top` and what stands below it.
    fn files_below(&self, top: Ino) -> impl Iterator<Item = FileRecord<'_>> {
        let range = match (index_of(top), self.node(top)) {
            (Some(start), Some(node)) => start..node.end as usize,
            _ => 0..0,
        };
        let start = range.start;
        self.nodes[range].iter().enumerate().filter_map(move |(offset, node)| match &node.inode.kind {
            InodeKind::File(body) => Some(FileRecord { ino: Ino((start + offset) as u64 + 1), body }),
            InodeKind::Directory | InodeKind::Symlink { .. } => None,
        })
    }

    /// Whether `ino` is `top` or stands below it.
    fn is_below(&self, top: Ino, ino: Ino) -> bool {
        match (index_of(top), self.node(top), index_of(ino)) {
            (Some(start), Some(node), Some(index)) => index >= start && index < node.end as usize,
            _ => false,
        }
    }

    fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(index_of(ino)?)
    }

    fn child_indices(&self, ino: Ino) -> &[u32] {
        match self.node(ino) {
            Some(node) => {
                let start = node.children_start as usize;
                &self.children[start..start + node.children_count as usize]
            }
            None => &[],
        }
    }

    fn name_at(&self, index: u32) -> &[u8] {
        self.name_of(&self.nodes[index as usize])
    }

    fn name_of(&self, node: &Node) -> &[u8] {
        &self.names[node.name_start..node.name_start + usize::from(node.name_length)]
    }
}

fn index_of(ino: Ino) -> Option<usize> {
    usize::try_from(ino.0.checked_sub(1)?).ok()
}

fn ino_at(index: u32) -> Ino {
    Ino(u64::from(index) + 1)
}

#[cfg(test)]
mod tests;
