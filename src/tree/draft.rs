//! A tree that layers are still laid onto: nodes in an arena, of which some may hang on nothing any more.
//!
//! Each node knows which layer named it last, so that a layer's whiteouts can spare what is its own.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::{Error, ErrorKind, Result};
use crate::layer::EntryKind;

use super::build::{SharedInode, Table, implied_directory, inode_of, root_directory};
use super::{Content, Inode, Tree, TreeLayer};

/// What stands for "no layer".
const NO_LAYER: u32 = u32::MAX;

/// The root of all.
pub(super) const ROOT: u32 = 0;

/// An entry by its layer's place and its own; what an inode is known by while layers are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) layer: u32,
    pub(super) at: u32,
}

/// Where a node's attributes are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// No entry describes it: a directory.
    Implied,
    /// The entry of an inode.
    Entry(Source),
    /// What this layer says of its root.
    RootOf(u32),
}

/// How a node takes part in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Directory,
    Symlink,
    Other,
}

impl Shape {
    pub(super) fn of(kind: &EntryKind) -> Self {
        match kind {
            EntryKind::Directory => Self::Directory,
            EntryKind::Symlink { .. } => Self::Symlink,
            _ => Self::Other,
        }
    }
}

#[derive(Debug)]
pub(super) struct DraftNode<'a> {
    pub(super) name: Cow<'a, [u8]>,
    pub(super) parent: u32,
    pub(super) children: BTreeMap<Cow<'a, [u8]>, u32>,
    pub(super) shape: Shape,
    pub(super) origin: Origin,
    /// The layer that named it, or something below it, last.
    named_by: u32,
    /// The layer that has hidden all that those below it have here.
    bared_by: u32,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) layers: &'a [TreeLayer],
    pub(super) nodes: Vec<DraftNode<'a>>,
    /// The inodes that hard links name.
    pub(super) linked: HashSet<Source>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(layers: &'a [TreeLayer]) -> Self {
        let root = DraftNode {
            name: Cow::Borrowed(&[]),
            parent: ROOT,
            children: BTreeMap::new(),
            shape: Shape::Directory,
            origin: Origin::Implied,
            named_by: NO_LAYER,
            bared_by: NO_LAYER,
        };
        Self { layers, nodes: vec![root], linked: HashSet::new() }
    }

    pub(super) fn node(&self, at: u32) -> &DraftNode<'a> {
        &self.nodes[at as usize]
    }

    pub(super) fn node_mut(&mut self, at: u32) -> &mut DraftNode<'a> {
        &mut self.nodes[at as usize]
    }

    pub(super) fn child(&self, at: u32, name: &[u8]) -> Option<u32> {
        self.node(at).children.get(name).copied()
    }

    /// The layer that named `at` last, if it was one.
    pub(super) fn named_by(&self, at: u32) -> Option<u32> {
        Some(self.node(at).named_by).filter(|layer| *layer != NO_LAYER)
    }

    /// How what `source` describes takes part in paths.
    pub(super) fn shape_of(&self, source: Source) -> Shape {
        Shape::of(&self.layers[source.layer as usize].index.entry(source.at as usize).kind)
    }

    /// Puts a new node of `layer` into the directory `parent`; what had its name hangs on nothing then.
    pub(super) fn add(
        &mut self,
        parent: u32,
        name: Cow<'a, [u8]>,
        shape: Shape,
        origin: Origin,
        layer: u32,
    ) -> Result<u32> {
        let too_many =
            || Error::new(ErrorKind::Unsupported, "the layers have more entries than can be merged");
        let index = u32::try_from(self.nodes.len()).map_err(|_| too_many())?;
        self.nodes.push(DraftNode {
            name: name.clone(),
            parent,
            children: BTreeMap::new(),
            shape,
            origin,
            named_by: layer,
            bared_by: NO_LAYER,
        });
        self.node_mut(parent).children.insert(name, index);
        self.touch(parent, layer);
        Ok(index)
    }

    /// Says that `layer` names `at`, and so all directories above it.
    pub(super) fn touch(&mut self, at: u32, layer: u32) {
        let mut at = at;
        while self.node(at).named_by != layer {
            self.node_mut(at).named_by = layer;
            at = self.node(at).parent;
        }
    }

    /// Takes `name` out of `directory`, save for what `layer` itself has there.
    pub(super) fn hide(&mut self, directory: u32, name: &[u8], layer: u32) {
        let Some(at) = self.child(directory, name) else { return };
        if self.node(at).named_by != layer {
            self.node_mut(directory).children.remove(name);
            return;
        }
        self.forget_attributes(at, layer);
        self.bare(at, layer);
    }

    /// Takes out of `directory`, and of the directories in it, all that is not of `layer`. Each directory is
    /// gone through once for a layer, however many whiteouts stand in it.
    pub(super) fn bare(&mut self, directory: u32, layer: u32) {
        let mut ahead = vec![directory];
        while let Some(at) = ahead.pop() {
            if self.node(at).bared_by == layer {
                continue;
            }
            let mut children = std::mem::take(&mut self.node_mut(at).children);
            children.retain(|_, child| self.node(*child).named_by == layer);
            for child in children.values() {
                self.forget_attributes(*child, layer);
                ahead.push(*child);
            }
            let node = self.node_mut(at);
            node.children = children;
            node.bared_by = layer;
        }
    }

    /// Takes the attributes from a directory that a layer below `layer` gave it.
    fn forget_attributes(&mut self, at: u32, layer: u32) {
        let node = self.node_mut(at);
        let is_below = matches!(node.origin, Origin::Entry(source) if source.layer != layer);
        if node.shape == Shape::Directory && is_below {
            node.origin = Origin::Implied;
        }
    }

    /// The tree of what hangs together.
    pub(super) fn into_tree(self) -> Result<Tree> {
        let mut table = Table::new(self.inode(ROOT));
        let mut shared: HashMap<Source, Vec<u32>> = HashMap::new();
        let mut open = vec![self.node(ROOT).children.iter()];
        while let Some(children) = open.last_mut() {
            match children.next() {
                None => {
                    open.pop();
                    table.leave();
                }
                Some((name, at)) => {
                    let index = table.enter(name, Content::Inode(self.inode(*at)))?;
                    match self.node(*at).origin {
                        Origin::Entry(source) if self.linked.contains(&source) => {
                            shared.entry(source).or_default().push(index);
                        }
                        _ => {}
                    }
                    open.push(self.node(*at).children.iter());
                }
            }
        }
        let mut tree = table.finish();
        let groups = shared.into_values().filter(|names| names.len() > 1);
        tree.share(groups.map(|names| SharedInode { holder: names[0], names }));
        Ok(tree)
    }

    fn inode(&self, at: u32) -> Inode {
        let of_root = |layer: u32| self.layers[layer as usize].index.root().map(root_directory);
        match self.node(at).origin {
            Origin::Implied => None,
            Origin::RootOf(layer) => of_root(layer),
            Origin::Entry(Source { layer, at }) => {
                let layer = layer as usize;
                inode_of(layer, self.layers[layer].index.entry(at as usize))
            }
        }
        .unwrap_or_else(implied_directory)
    }
}
