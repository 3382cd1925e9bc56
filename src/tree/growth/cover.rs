//! What a layer that is known whole leaves of the layers below it.
//!
//! Paths are kept as hashes: two that collide only make something wait for the end that could be shown before.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use crate::layer::{EntryKind, LayerIndex};

use super::super::LayerRole;
use super::super::merge::split;
use super::super::whiteout::Marker;

/// Something of this path is in the layer.
const PRESENT: u8 = 1;
/// It is no directory.
const OTHER: u8 = 2;
/// A whiteout names the path.
const HIDDEN: u8 = 4;
/// It is a directory whose contents below are hidden.
const OPAQUE: u8 = 8;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Cover {
    paths: HashMap<u64, u8>,
    hashes: RandomState,
}

impl Cover {
    /// What `index` covers; none if that depends on the layers below.
    pub(super) fn of(index: &LayerIndex, role: LayerRole) -> Option<Self> {
        if !is_literal(index, role) {
            return None;
        }
        let mut cover = Self::default();
        cover.paths.reserve(index.len());
        for at in 0..index.len() {
            let entry = index.entry(at);
            match Marker::of(entry.path).filter(|_| role == LayerRole::Rootfs) {
                None if entry.kind == EntryKind::Directory => cover.add(entry.path, PRESENT),
                None => cover.add(entry.path, PRESENT | OTHER),
                Some(Marker::Whiteout { directory, name }) => {
                    let path =
                        if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') };
                    cover.add(&path, HIDDEN);
                }
                Some(Marker::Opaque { directory }) => cover.add(directory, OPAQUE),
                Some(Marker::Meta) => {}
            }
        }
        Some(cover)
    }

    /// Whether `path` of a layer below is not to be seen, or as this layer describes it.
    pub(super) fn covers(&self, path: &[u8]) -> bool {
        let mut covering = PRESENT | HIDDEN;
        let mut at = path;
        while !at.is_empty() {
            let directory = split(at).0;
            if self.get(at) & covering != 0 || self.get(directory) & OPAQUE != 0 {
                return true;
            }
            (at, covering) = (directory, OTHER | HIDDEN);
        }
        false
    }

    fn add(&mut self, path: &[u8], what: u8) {
        *self.paths.entry(self.hashes.hash_one(path)).or_default() |= what;
    }

    fn get(&self, path: &[u8]) -> u8 {
        self.paths.get(&self.hashes.hash_one(path)).copied().unwrap_or_default()
    }
}

/// Whether all entries of `index` stand where their paths say, and its whiteouts too, whatever is below: only
/// images follow links, and not where the layer itself has a directory.
fn is_literal(index: &LayerIndex, role: LayerRole) -> bool {
    if role != LayerRole::Rootfs {
        return true;
    }
    // The directories on the way to the entry before, outermost first.
    let mut way: Vec<&[u8]> = Vec::new();
    for at in 0..index.len() {
        let entry = index.entry(at);
        let parent = split(entry.path).0;
        while way.last().is_some_and(|directory| !is_at_or_below(parent, directory)) {
            way.pop();
        }
        if way.last().copied().unwrap_or_default() != parent {
            return false;
        }
        if entry.kind == EntryKind::Directory {
            way.push(entry.path);
        }
    }
    true
}

fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
