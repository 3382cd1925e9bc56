//! From sorted paths to the inode table, in one pass.

use crate::base::{Error, ErrorKind, Result};
use crate::layer::{EntryKind, Extents, FileBody, LayerEntries, Timestamp};

use super::merge::Placed;
use super::{Inode, InodeKind, Node, Tree};

/// Makes the table of `placed`, which must hold every path once, in the order of components.
pub(super) fn build(layers: &[LayerEntries], placed: &[Placed<'_>]) -> Result<Tree> {
    let mut table = Table::new();
    for entry in placed {
        table.add(layers, entry)?;
    }
    table.finish()
}

struct Table {
    nodes: Vec<Node>,
    names: Vec<u8>,
    /// The way from the root to the node added last.
    way: Vec<Step>,
    /// The path of the node added last.
    previous: Vec<u8>,
}

struct Step {
    index: u32,
    /// Bytes of the node's path; 0 for the root.
    path_length: usize,
}

impl Table {
    fn new() -> Self {
        let root = Node {
            inode: implied_directory(),
            parent: 0,
            end: 0,
            name_start: 0,
            name_length: 0,
            children_start: 0,
            children_count: 0,
        };
        Self {
            nodes: vec![root],
            names: Vec::new(),
            way: vec![Step { index: 0, path_length: 0 }],
            previous: Vec::new(),
        }
    }

    fn add(&mut self, layers: &[LayerEntries], placed: &Placed<'_>) -> Result<()> {
        let path = placed.entry.path.as_bytes();
        self.leave_what_does_not_hold(path)?;
        loop {
            let Some(step) = self.way.last() else { return Err(too_many()) };
            let (parent, above) = (step.index, step.path_length);
            if !self.nodes[parent as usize].inode.kind.is_directory() {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "layer {}: the entry {:?} needs the directory {:?}, which is a file or a link",
                        layers[placed.layer].digest,
                        placed.entry.path,
                        String::from_utf8_lossy(&path[..above]),
                    ),
                ));
            }
            let start = if above == 0 { 0 } else { above + 1 };
            let end = path[start..].iter().position(|byte| *byte == b'/').map(|length| start + length);
            match end {
                Some(end) => self.push(parent, &path[start..end], implied_directory(), end)?,
                None => {
                    self.push(parent, &path[start..], inode_of(layers, placed)?, path.len())?;
                    self.previous.clear();
                    self.previous.extend_from_slice(path);
                    return Ok(());
                }
            }
        }
    }

    /// Shortens the way to the last node on it that stands above `path`.
    fn leave_what_does_not_hold(&mut self, path: &[u8]) -> Result<()> {
        let common = self.previous.iter().zip(path).take_while(|(a, b)| a == b).count();
        let end = self.next_index()?;
        while let Some(step) = self.way.last() {
            let length = step.path_length;
            if length == 0 || (length <= common && path.get(length) == Some(&b'/')) {
                break;
            }
            self.nodes[step.index as usize].end = end;
            self.way.pop();
        }
        Ok(())
    }

    fn push(&mut self, parent: u32, name: &[u8], inode: Inode, path_length: usize) -> Result<()> {
        let index = self.next_index()?;
        let above = &mut self.nodes[parent as usize];
        above.children_count += 1;
        if inode.kind.is_directory() {
            above.inode.nlink = above.inode.nlink.saturating_add(1);
        }
        self.nodes.push(Node {
            inode,
            parent,
            end: index + 1,
            name_start: self.names.len(),
            name_length: u16::try_from(name.len()).map_err(|_| too_many())?,
            children_start: 0,
            children_count: 0,
        });
        self.names.extend_from_slice(name);
        self.way.push(Step { index, path_length });
        Ok(())
    }

    fn next_index(&self) -> Result<u32> {
        // One below the maximum, so that the index after the last fits too.
        u32::try_from(self.nodes.len()).ok().filter(|index| *index < u32::MAX).ok_or_else(too_many)
    }

    fn finish(mut self) -> Result<Tree> {
        let end = self.next_index()?;
        for step in &self.way {
            self.nodes[step.index as usize].end = end;
        }
        let mut start = 0;
        for node in &mut self.nodes {
            node.children_start = start;
            start += node.children_count;
        }
        // Nodes are in the order of their paths, so each directory's children fall into the order of their
        // names.
        let mut children = vec![0; self.nodes.len() - 1];
        let mut filled: Vec<u32> = self.nodes.iter().map(|node| node.children_start).collect();
        for (index, node) in (0_u32..).zip(&self.nodes).skip(1) {
            let next = &mut filled[node.parent as usize];
            children[*next as usize] = index;
            *next += 1;
        }
        Ok(Tree { nodes: self.nodes, names: self.names, children })
    }
}

fn implied_directory() -> Inode {
    Inode { kind: InodeKind::Directory, mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), nlink: 2 }
}

fn inode_of(layers: &[LayerEntries], placed: &Placed<'_>) -> Result<Inode> {
    let entry = placed.entry;
    let (kind, nlink) = match &entry.kind {
        // A file's offsets are read as its stream's, which holds for a file that begins with its stream.
        EntryKind::File { size, extents: extents @ Extents::Contiguous { stream_offset: 0 } } => {
            let body = FileBody { layer: placed.layer, size: *size, extents: extents.clone() };
            (InodeKind::File(body), 1)
        }
        EntryKind::Directory => (InodeKind::Directory, 2),
        EntryKind::Symlink { target } => (InodeKind::Symlink { target: target.clone() }, 1),
        EntryKind::File { .. }
        | EntryKind::HardLink { .. }
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
        | EntryKind::Fifo => return Err(not_of_a_raw_layer(layers, placed)),
    };
    Ok(Inode { kind, mode: entry.mode & 0o7777, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, nlink })
}

fn not_of_a_raw_layer(layers: &[LayerEntries], placed: &Placed<'_>) -> Error {
    let text = format!(
        "layer {}: the entry {:?} is of a kind that only archives hold, and these are not served yet",
        layers[placed.layer].digest, placed.entry.path,
    );
    Error::new(ErrorKind::Unsupported, text)
}

fn too_many() -> Error {
    Error::new(ErrorKind::Unsupported, format!("the artifact has more than {} files", u32::MAX))
}
