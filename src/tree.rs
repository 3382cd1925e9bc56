//! The inode table of an artifact: every directory, file and link, merged from its layers, immutable.
//!
//! A tree is a pure function of its layers' entries: the same input has the same inode numbers on every
//! machine and after every restart. Numbers follow the order of paths, so the names below a directory are
//! one run of numbers; an inode with several names has the number of the first of them, and those of the
//! others stay unused. Nothing here reads content or follows a link outside the tree, and nothing
//! recurses: depth and width are bounded by memory alone.

mod build;
mod draft;
mod follow;
mod growth;
mod hard_links;
mod merge;
mod shown;
mod sorted;
mod view;
mod walk;
mod whiteout;

use std::ffi::OsStr;
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use crate::base::{RelPath, Result};
use crate::layer::{FileBody, LayerIndex, Timestamp, Xattr};

pub use growth::{GivenNumber, Growth, GrowthLayer, TellGiven, Unknown};
pub use shown::{GrowingView, Shown, ShownInode};
pub use view::View;
pub use walk::{Missing, Obstacle};

/// Links followed on one walk: the kernel's limit (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// A layer in its place among those of a tree.
#[derive(Clone, Debug)]
pub struct TreeLayer {
    /// What it holds.
    pub index: Arc<LayerIndex>,
    /// The directory that its files stand in; none for the root. Layers cover each other only in the same one.
    pub directory: Option<RelPath>,
    /// By which rule it covers the layers below.
    pub role: LayerRole,
}

/// By which rule a layer covers those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerRole {
    /// A file: no other one may have its path.
    File,
    /// An archive of an artifact: its files replace others of the same path, directories become one. It hides
    /// nothing.
    Archive,
    /// A layer of an image: its entries replace whatever has their path, only two directories become one; its
    /// whiteouts hide what is below (image-spec, layer.md).
    Rootfs,
}

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
    /// How many names it has in the tree; for directories 2 and one for each subdirectory.
    pub nlink: u32,
    /// Its extended attributes, by name.
    pub xattrs: Box<[Xattr]>,
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
    /// A character device.
    CharDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl InodeKind {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
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
    /// The nodes that are further names of an inode: the index of its first name, and theirs; sorted.
    aliases: Vec<(u32, u32)>,
}

/// One name. An inode lies with the first of its names.
#[derive(Debug)]
struct Node {
    content: Content,
    /// Index of the parent; the root's is its own.
    parent: u32,
    /// Index after the last node below this one.
    end: u32,
    name_start: u32,
    name_length: u16,
    children_start: u32,
    children_count: u32,
}

#[derive(Debug)]
enum Content {
    Inode(Inode),
    /// The index of the inode's first name.
    Alias(u32),
}

impl Content {
    fn is_directory(&self) -> bool {
        matches!(self, Self::Inode(inode) if inode.kind.is_directory())
    }
}

impl Tree {
    /// Merges `layers`, lowest first, each by the rule of its role. Parents that no entry describes are
    /// directories of mode 0755 that belong to root, of time 0.
    ///
    /// # Errors
    /// `Invalid` for what the rules refuse, naming layers and paths: two files with one path, a file where a
    /// directory must be, a hard link that names no file, links that lead in a loop. `Unsupported` beyond a limit.
    pub fn build(layers: &[TreeLayer]) -> Result<Self> {
        if let [layer] = layers
            && let Some(tree) = sorted::build(layer)?
        {
            return Ok(tree);
        }
        merge::merge(layers)
    }

    /// The inode `ino`, if there is one.
    #[must_use]
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        match &self.node(ino)?.content {
            Content::Inode(inode) => Some(inode),
            Content::Alias(_) => None,
        }
    }

    /// The inode called `name` in the directory `parent`.
    #[must_use]
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Option<Ino> {
        let child = self.child(u32::try_from(index_of(parent)?).ok()?, name.as_bytes())?;
        Some(self.ino_of(child))
    }

    /// The children of the directory `ino` in the order of their names, without the first `from`. None for
    /// what is no directory.
    pub fn children(&self, ino: Ino, from: usize) -> impl Iterator<Item = (&OsStr, Ino)> {
        let children = index_of(ino).map_or(&[][..], |index| self.child_indices(index));
        let rest = &children[from.min(children.len())..];
        rest.iter().map(|child| (OsStr::from_bytes(self.name_at(*child)), self.ino_of(*child)))
    }

    /// The directory that holds `ino`, by its first name; the root's is itself.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        self.node(ino).map(|node| ino_at(node.parent))
    }

    /// The path of `ino` from the root, by its first name; empty for the root.
    #[must_use]
    pub fn path_of(&self, ino: Ino) -> Vec<u8> {
        self.path_below(Ino::ROOT, ino)
    }

    /// The regular files in the order of their first names' paths.
    pub fn files(&self) -> impl Iterator<Item = FileRecord<'_>> {
        self.files_below(Ino::ROOT)
    }

    /// The path of `ino` from `top`, by its first name there; empty for `top` itself and for what is elsewhere.
    fn path_below(&self, top: Ino, ino: Ino) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = self.name_below(top, ino).unwrap_or_default();
        while at != 0 && ino_at(at) != top {
            let Some(node) = self.nodes.get(at as usize) else { break };
            names.push(self.name_of(node));
            at = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The directory that holds `ino` by its first name below `top`.
    fn parent_below(&self, top: Ino, ino: Ino) -> Option<Ino> {
        let name = self.name_below(top, ino)?;
        self.nodes.get(name as usize).map(|node| ino_at(node.parent))
    }

    /// The files among `top` and what stands below it, each once, in the order of their first names there.
    fn files_below(&self, top: Ino) -> impl Iterator<Item = FileRecord<'_>> {
        let range = self.range_of(top);
        let start = range.start;
        self.nodes[range.start as usize..range.end as usize].iter().zip(start..).filter_map(
            move |(node, index)| {
                let ino = match &node.content {
                    Content::Inode(_) => ino_at(index),
                    // Its inode has been shown if an earlier name stands here.
                    Content::Alias(first) if *first >= start => return None,
                    Content::Alias(first) => ino_at(*first),
                };
                match &self.inode(ino)?.kind {
                    InodeKind::File(body) if self.name_below(top, ino) == Some(index) => {
                        Some(FileRecord { ino, body })
                    }
                    _ => None,
                }
            },
        )
    }

    /// Whether `ino` is `top` or has a name below it.
    fn is_below(&self, top: Ino, ino: Ino) -> bool {
        self.name_below(top, ino).is_some()
    }

    /// The first name of `ino` among `top` and what stands below it.
    fn name_below(&self, top: Ino, ino: Ino) -> Option<u32> {
        let range = self.range_of(top);
        let first = u32::try_from(index_of(ino)?).ok()?;
        self.inode(ino)?;
        if range.contains(&first) {
            return Some(first);
        }
        let after = self.aliases.partition_point(|alias| *alias < (first, range.start));
        let (of, name) = *self.aliases.get(after)?;
        (of == first && range.contains(&name)).then_some(name)
    }

    /// The indices of `top` and what stands below it.
    fn range_of(&self, top: Ino) -> Range<u32> {
        match (self.node(top), index_of(top).map(u32::try_from)) {
            (Some(node), Some(Ok(start))) => start..node.end,
            _ => 0..0,
        }
    }

    fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(index_of(ino)?)
    }

    /// The index of the child `name` of the node in place `index`.
    fn child(&self, index: u32, name: &[u8]) -> Option<u32> {
        let children = self.child_indices(index as usize);
        let found = children.binary_search_by(|child| self.name_at(*child).cmp(name)).ok()?;
        Some(children[found])
    }

    fn child_indices(&self, index: usize) -> &[u32] {
        match self.nodes.get(index) {
            Some(node) => {
                let start = node.children_start as usize;
                &self.children[start..start + node.children_count as usize]
            }
            None => &[],
        }
    }

    /// The inode that the node in place `index` is a name of.
    fn ino_of(&self, index: u32) -> Ino {
        match self.nodes.get(index as usize).map(|node| &node.content) {
            Some(Content::Alias(first)) => ino_at(*first),
            _ => ino_at(index),
        }
    }

    fn name_at(&self, index: u32) -> &[u8] {
        self.name_of(&self.nodes[index as usize])
    }

    fn name_of(&self, node: &Node) -> &[u8] {
        let start = node.name_start as usize;
        &self.names[start..start + usize::from(node.name_length)]
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
