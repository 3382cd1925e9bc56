//! The tree of a single layer: its index is in the order of paths already, so one pass makes the table.
//!
//! What this can't do as it goes (entries below symbolic links, hard links that lead nowhere, files where
//! directories must be) it leaves to [`super::merge`], which also has the words for what is refused.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;

use crate::base::Result;
use crate::layer::{EntryKind, LayerIndex};

use super::build::{SharedInode, Table, implied_directory, inode_of, root_directory};
use super::hard_links::{self, Chain};
use super::whiteout::Marker;
use super::{Content, LayerRole, Tree, TreeLayer};

/// A hard link whose node waits for its inode.
struct Waiting {
    node: u32,
    target: Box<[u8]>,
}

/// The tree of `layer` alone, or none if that takes more than one pass.
pub(super) fn build(layer: &TreeLayer) -> Result<Option<Tree>> {
    let index = layer.index.as_ref();
    let root = index.root().map_or_else(implied_directory, root_directory);
    let (mut table, mut base) = (Table::new(implied_directory()), 0);
    match &layer.directory {
        None => table = Table::new(root),
        Some(directory) => {
            let mut names = directory.components().peekable();
            while let Some(name) = names.next() {
                let inode = if names.peek().is_some() { implied_directory() } else { root.clone() };
                base = table.enter(name.as_bytes(), Content::Inode(inode))?;
            }
        }
    }
    match fill(&mut table, index, layer.role)? {
        None => Ok(None),
        Some(waiting) => {
            let mut tree = table.finish();
            let shared = shared_inodes(&tree, base, waiting);
            Ok(shared.map(|shared| {
                tree.share(shared);
                tree
            }))
        }
    }
}

/// Adds the entries of `index` below what is open in `table`.
fn fill(table: &mut Table, index: &LayerIndex, role: LayerRole) -> Result<Option<Vec<Waiting>>> {
    let mut waiting = Vec::new();
    // Bytes of the path of each node that is open here, and the path added last.
    let (mut lengths, mut previous): (Vec<usize>, &[u8]) = (Vec::new(), b"");
    for at in 0..index.len() {
        let entry = index.entry(at);
        let path = entry.path;
        if role == LayerRole::Rootfs && Marker::of(path).is_some() {
            continue;
        }
        let common = previous.iter().zip(path).take_while(|(a, b)| a == b).count();
        while lengths.last().is_some_and(|length| *length > common || path.get(*length) != Some(&b'/')) {
            lengths.pop();
            table.leave();
        }
        if !table.is_in_directory() {
            return Ok(None);
        }
        let mut start = lengths.last().map_or(0, |length| length + 1);
        while let Some(length) = path[start..].iter().position(|byte| *byte == b'/') {
            table.enter(&path[start..start + length], Content::Inode(implied_directory()))?;
            lengths.push(start + length);
            start += length + 1;
        }
        let target = match &entry.kind {
            EntryKind::HardLink { target } => Some(target.clone()),
            _ => None,
        };
        let content = inode_of(0, entry).map_or(Content::Alias(0), Content::Inode);
        let node = table.enter(&path[start..], content)?;
        waiting.extend(target.map(|target| Waiting { node, target }));
        lengths.push(path.len());
        previous = path;
    }
    Ok(Some(waiting))
}

/// The groups of names that the hard links of `tree` make, or none if one of them leads nowhere.
fn shared_inodes(tree: &Tree, base: u32, waiting: Vec<Waiting>) -> Option<Vec<SharedInode>> {
    let mut targets = HashMap::with_capacity(waiting.len());
    for link in &waiting {
        let path = hard_links::target_path(&link.target).ok()?;
        let mut node = base;
        for name in path.components() {
            node = tree.child(node, name.as_bytes())?;
        }
        targets.insert(link.node, node);
    }
    let mut chain = Chain::default();
    let mut names: HashMap<u32, Vec<u32>> = HashMap::new();
    for link in &waiting {
        let holder = chain.end(link.node, |node| targets.get(&node).copied())?;
        names.entry(holder).or_default().push(link.node);
    }
    let shared = names.into_iter().map(|(holder, mut names)| {
        names.push(holder);
        SharedInode { holder, names }
    });
    let shared: Vec<_> = shared.collect();
    let is_file = |shared: &SharedInode| !tree.nodes[shared.holder as usize].content.is_directory();
    (shared.iter().all(is_file)).then_some(shared)
}
