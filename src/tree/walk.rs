//! Finding a path in a tree, through symbolic links, without ever leaving it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::base::RelPath;

use super::{Ino, InodeKind, LINKS_MAX, Tree};

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The last inode on the way that exists.
    pub nearest: Ino,
    /// What stood in the way there.
    pub obstacle: Obstacle,
}

/// What ended a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The directory has no such name.
    NoEntry,
    /// It is a file, and the path goes on.
    NotDirectory,
    /// More than forty links, most likely a loop.
    TooManyLinks,
}

impl Tree {
    /// The inode at `path` from the root. Links are followed, the last one too: absolute targets start at
    /// the tree's root, and `..` stays in it.
    ///
    /// # Errors
    /// Where and why the way ended.
    pub fn walk(&self, path: &RelPath) -> Result<Ino, Missing> {
        let mut at = Ino::ROOT;
        let mut links = 0;
        // What is still to go, the next name last.
        let mut ahead: Vec<Vec<u8>> = path.components().rev().map(|name| name.as_bytes().to_vec()).collect();
        while let Some(name) = ahead.pop() {
            let missing = |obstacle| Missing { nearest: at, obstacle };
            if !self.inode(at).is_some_and(|inode| inode.kind.is_directory()) {
                return Err(missing(Obstacle::NotDirectory));
            }
            if name == b".." {
                at = self.parent(at).unwrap_or(Ino::ROOT);
                continue;
            }
            let Some(next) = self.lookup(at, OsStr::from_bytes(&name)) else {
                return Err(missing(Obstacle::NoEntry));
            };
            match self.inode(next).map(|inode| &inode.kind) {
                Some(InodeKind::Symlink { target }) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(missing(Obstacle::TooManyLinks));
                    }
                    if target.starts_with(b"/") {
                        at = Ino::ROOT;
                    }
                    let names = target.split(|byte| *byte == b'/').rev();
                    ahead.extend(names.filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec));
                }
                _ => at = next,
            }
        }
        Ok(at)
    }
}
