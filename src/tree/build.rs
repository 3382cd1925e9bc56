//! The inode table while it grows: nodes are added in the order of their paths, in one pass.

use crate::base::{Error, ErrorKind, Result};
use crate::layer::{EntryKind, EntryRef, FileBody, RootAttributes, Timestamp};

use super::{Content, Inode, InodeKind, Node, Tree};

/// See the module's text. What is open is the way from the root to where the next node goes.
#[derive(Debug)]
pub(super) struct Table {
    nodes: Vec<Node>,
    names: Vec<u8>,
    /// Indices of the open nodes, the root's first.
    open: Vec<u32>,
}

impl Table {
    /// A table of the root alone, which is open.
    pub(super) fn new(root: Inode) -> Self {
        let root = Node {
            content: Content::Inode(root),
            parent: 0,
            end: 0,
            name_start: 0,
            name_length: 0,
            children_start: 0,
            children_count: 0,
        };
        Self { nodes: vec![root], names: Vec::new(), open: vec![0] }
    }

    /// Whether the innermost open node can hold others.
    pub(super) fn is_in_directory(&self) -> bool {
        self.open.last().is_some_and(|index| self.nodes[*index as usize].content.is_directory())
    }

    /// Adds a node to the innermost open one, which must be a directory whose names so far all come before
    /// `name`, opens it and returns its index.
    pub(super) fn enter(&mut self, name: &[u8], content: Content) -> Result<u32> {
        let index = self.next_index()?;
        let parent = self.open.last().copied().unwrap_or_default();
        let above = &mut self.nodes[parent as usize];
        above.children_count += 1;
        if content.is_directory()
            && let Content::Inode(inode) = &mut above.content
        {
            inode.nlink = inode.nlink.saturating_add(1);
        }
        self.nodes.push(Node {
            content,
            parent,
            end: index + 1,
            name_start: u32::try_from(self.names.len()).map_err(|_| too_many())?,
            name_length: u16::try_from(name.len()).map_err(|_| too_many())?,
            children_start: 0,
            children_count: 0,
        });
        self.names.extend_from_slice(name);
        self.open.push(index);
        Ok(index)
    }

    /// Closes the innermost open node.
    pub(super) fn leave(&mut self) {
        let end = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        if let Some(index) = self.open.pop() {
            self.nodes[index as usize].end = end;
        }
    }

    /// The tree of all that was added.
    pub(super) fn finish(mut self) -> Tree {
        while !self.open.is_empty() {
            self.leave();
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
        Tree { nodes: self.nodes, names: self.names, children, aliases: Vec::new() }
    }

    fn next_index(&self) -> Result<u32> {
        // One below the maximum, so that the index after the last fits too.
        u32::try_from(self.nodes.len()).ok().filter(|index| *index < u32::MAX).ok_or_else(too_many)
    }
}

impl Tree {
    /// Makes the nodes of each group names of one inode: the one that the group's `holder` has.
    pub(super) fn share(&mut self, groups: impl IntoIterator<Item = SharedInode>) {
        for SharedInode { holder, mut names } in groups {
            names.sort_unstable();
            let Some((first, others)) = names.split_first() else { continue };
            let held = std::mem::replace(&mut self.nodes[holder as usize].content, Content::Alias(*first));
            self.nodes[*first as usize].content = match held {
                Content::Inode(inode) => {
                    let nlink = u32::try_from(names.len()).unwrap_or(u32::MAX);
                    Content::Inode(Inode { nlink, ..inode })
                }
                alias @ Content::Alias(_) => alias,
            };
            for other in others {
                self.nodes[*other as usize].content = Content::Alias(*first);
                self.aliases.push((*first, *other));
            }
        }
        self.aliases.sort_unstable();
    }
}

/// Nodes that are names of one inode.
#[derive(Debug)]
pub(super) struct SharedInode {
    /// The one of them that has the inode.
    pub(super) holder: u32,
    /// All of them.
    pub(super) names: Vec<u32>,
}

/// A directory that no entry describes.
pub(super) fn implied_directory() -> Inode {
    Inode {
        kind: InodeKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        nlink: 2,
        xattrs: Box::default(),
    }
}

/// A directory whose attributes a layer gives apart from its entries.
pub(super) fn root_directory(root: RootAttributes) -> Inode {
    Inode {
        kind: InodeKind::Directory,
        mode: root.mode & 0o7777,
        uid: root.uid,
        gid: root.gid,
        mtime: root.mtime,
        nlink: 2,
        xattrs: root.xattrs,
    }
}

/// What `entry` of the layer in place `layer` describes; none for a hard link, which describes nothing.
pub(super) fn inode_of(layer: usize, entry: EntryRef<'_>) -> Option<Inode> {
    let (kind, nlink) = match entry.kind {
        EntryKind::File { size, extents } => (InodeKind::File(FileBody { layer, size, extents }), 1),
        EntryKind::Directory => (InodeKind::Directory, 2),
        EntryKind::Symlink { target } => (InodeKind::Symlink { target }, 1),
        EntryKind::CharDevice { major, minor } => (InodeKind::CharDevice { major, minor }, 1),
        EntryKind::BlockDevice { major, minor } => (InodeKind::BlockDevice { major, minor }, 1),
        EntryKind::Fifo => (InodeKind::Fifo, 1),
        EntryKind::HardLink { .. } => return None,
    };
    let (uid, gid, mtime) = (entry.uid, entry.gid, entry.mtime);
    // The kernel gives every link all permissions and looks at none of them, whatever a writer noted (symlink(7)).
    let mode = if matches!(kind, InodeKind::Symlink { .. }) { 0o777 } else { entry.mode & 0o7777 };
    Some(Inode { kind, mode, uid, gid, mtime, nlink, xattrs: entry.xattrs })
}

fn too_many() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("the artifact has more than {} files, or bytes of names", u32::MAX),
    )
}
