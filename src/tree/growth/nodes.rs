//! The nodes of a tree that grows, in the order of their appearance.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use crate::base::RelPath;
use crate::base::limits::GROWING_NODES_MAX;
use crate::layer::{EntryKind, EntryRef, FileBody};

use super::super::build::{implied_directory, inode_of};
use super::super::hard_links::target_path;
use super::super::merge::{names, split};
use super::super::whiteout::Marker;
use super::super::{Ino, Inode, InodeKind, LayerRole, Tree};
use super::{Given, Grown, number_in_tree};

/// The root.
pub(super) const ROOT: u32 = 0;

/// An inode and the first of its names.
#[derive(Debug)]
pub(super) struct GrowingNode {
    pub(super) inode: Arc<Inode>,
    parent: u32,
    name: Arc<[u8]>,
    /// None for what has none, as most do.
    #[expect(clippy::box_collection, reason = "of a million nodes few are directories")]
    children: Option<Box<HashMap<Arc<[u8]>, u32>>>,
    /// The layer that described it; none for a directory that no entry has described.
    layer: Option<usize>,
    is_given: bool,
}

impl GrowingNode {
    fn name_child(&mut self, name: Arc<[u8]>, index: u32) {
        self.children.get_or_insert_default().insert(name, index);
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: Vec<GrowingNode>,
    files: u64,
    total_bytes: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        Self::new()
    }
}

impl Nodes {
    pub(super) fn new() -> Self {
        let root = GrowingNode {
            inode: Arc::new(implied_directory()),
            parent: ROOT,
            name: [].into(),
            children: None,
            layer: None,
            is_given: false,
        };
        Self { nodes: vec![root], files: 0, total_bytes: 0 }
    }

    pub(super) fn get(&self, index: u32) -> Option<&GrowingNode> {
        self.nodes.get(index as usize)
    }

    pub(super) fn child(&self, index: u32, name: &[u8]) -> Option<u32> {
        self.get(index)?.children.as_ref()?.get(name).copied()
    }

    /// Remembers that the number of `index` is known outside; says whether that is new.
    pub(super) fn give(&mut self, index: u32) -> bool {
        let node = self.nodes.get_mut(index as usize);
        node.is_some_and(|node| !std::mem::replace(&mut node.is_given, true))
    }

    /// Files so far, and their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.files, self.total_bytes)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (u32, &FileBody)> {
        self.nodes.iter().zip(0..).filter_map(|(node, index)| match &node.inode.kind {
            InodeKind::File(body) => Some((index, body)),
            _ => None,
        })
    }

    /// The path of `index` from `top`, or from the root if it is elsewhere.
    pub(super) fn path(&self, top: u32, index: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = index;
        while at != top && at != ROOT {
            let Some(node) = self.get(at) else { break };
            names.push(node.name.as_ref());
            at = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Adds `entry` of the layer `layer`, if it is certain where it stands and what it is, and there is room.
    /// `implies` is whether it may stand in a directory that no entry has described.
    pub(super) fn add(
        &mut self,
        base: Option<&RelPath>,
        role: LayerRole,
        layer: usize,
        implies: bool,
        entry: EntryRef<'_>,
    ) {
        if role == LayerRole::Rootfs && Marker::of(entry.path).is_some() {
            return;
        }
        let mut at = ROOT;
        for name in base.into_iter().flat_map(RelPath::components) {
            let Some(directory) = self.directory(at, name.as_bytes(), true) else { return };
            at = directory;
        }
        let root = at;
        let (parent, name) = split(entry.path);
        for name in names(parent) {
            let Some(directory) = self.directory(at, name, implies) else { return };
            at = directory;
        }
        if let EntryKind::HardLink { target } = &entry.kind {
            return self.add_link(root, at, name, target, layer);
        }
        let Some(inode) = inode_of(layer, entry) else { return };
        match self.child(at, name) {
            None => drop(self.insert(at, name, inode, Some(layer))),
            Some(known) => {
                // What an entry has described stays as it is until the end; see the module above.
                let known = &mut self.nodes[known as usize];
                if known.layer.is_none() && inode.kind.is_directory() {
                    known.inode = Arc::new(Inode { nlink: known.inode.nlink, ..inode });
                    known.layer = Some(layer);
                }
            }
        }
    }

    fn add_link(&mut self, root: u32, parent: u32, name: &[u8], target: &[u8], layer: usize) {
        let Ok(target) = target_path(target) else { return };
        let found = target.components().try_fold(root, |at, name| self.child(at, name.as_bytes()));
        let Some(found) = found.filter(|_| self.child(parent, name).is_none()) else { return };
        let node = &mut self.nodes[found as usize];
        // Another layer's file of this name may yet turn out to be covered by one of its own.
        if node.layer != Some(layer) || node.inode.kind.is_directory() {
            return;
        }
        let inode = Arc::make_mut(&mut node.inode);
        inode.nlink = inode.nlink.saturating_add(1);
        self.nodes[parent as usize].name_child(name.into(), found);
    }

    /// The directory `name` in `parent`, made if it may be.
    fn directory(&mut self, parent: u32, name: &[u8], is_implied: bool) -> Option<u32> {
        match self.child(parent, name) {
            Some(child) => self.get(child).filter(|node| node.inode.kind.is_directory()).map(|_| child),
            None if is_implied => self.insert(parent, name, implied_directory(), None),
            None => None,
        }
    }

    fn insert(&mut self, parent: u32, name: &[u8], inode: Inode, layer: Option<usize>) -> Option<u32> {
        if self.nodes.len() >= GROWING_NODES_MAX {
            return None;
        }
        let index = u32::try_from(self.nodes.len()).ok()?;
        let name: Arc<[u8]> = name.into();
        if let InodeKind::File(body) = &inode.kind {
            self.files += 1;
            self.total_bytes = self.total_bytes.saturating_add(body.size);
        }
        let above = &mut self.nodes[parent as usize];
        if inode.kind.is_directory() {
            let inode = Arc::make_mut(&mut above.inode);
            inode.nlink = inode.nlink.saturating_add(1);
        }
        above.name_child(Arc::clone(&name), index);
        self.nodes.push(GrowingNode {
            inode: Arc::new(inode),
            parent,
            name,
            children: None,
            layer,
            is_given: false,
        });
        Some(index)
    }

    /// What the numbers that were given out stand for in `tree`.
    pub(super) fn grown(&self, tree: Arc<Tree>) -> Grown {
        let (mut given, mut numbers) = (HashMap::new(), HashMap::new());
        for (node, index) in self.nodes.iter().zip(0..).filter(|(node, _)| node.is_given) {
            let number = number_in_tree(index);
            let path = self.path(ROOT, index);
            let found = names(&path).try_fold(Ino::ROOT, |at, name| tree.lookup(at, OsStr::from_bytes(name)));
            let same =
                found.filter(|ino| tree.inode(*ino).is_some_and(|inode| inode.kind == node.inode.kind));
            let end = match same {
                Some(ino) if !numbers.contains_key(&ino) => {
                    numbers.insert(ino, number);
                    Given::Kept(ino)
                }
                _ => Given::Gone(Arc::clone(&node.inode)),
            };
            given.insert(number, end);
        }
        Grown { tree, given, numbers }
    }
}
