//! What a layer that is known whole leaves of the layers below it.

use crate::layer::{EntryKind, LayerIndex};

use super::super::LayerRole;
use super::super::hard_links::find;
use super::super::merge::split;

/// Whether `path` of a layer below is not to be seen, or as `index` describes it.
pub(super) fn covers(index: &LayerIndex, role: LayerRole, path: &[u8]) -> bool {
    if find(index, path).is_some() {
        return true;
    }
    let hides = |path: &[u8]| {
        let (directory, name) = split(path);
        role == LayerRole::Rootfs
            && (has(index, directory, &[b".wh.", name]) || has(index, directory, &[b".wh..wh..opq"]))
    };
    if hides(path) {
        return true;
    }
    let mut directory = split(path).0;
    while !directory.is_empty() {
        let is_other = find(index, directory).is_some_and(|at| index.entry(at).kind != EntryKind::Directory);
        if is_other || hides(directory) {
            return true;
        }
        directory = split(directory).0;
    }
    false
}

fn has(index: &LayerIndex, directory: &[u8], name: &[&[u8]]) -> bool {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name.concat());
    find(index, &path).is_some()
}

/// Whether all entries of `index` stand where their paths say, and its whiteouts too, whatever is below: only
/// images follow links, and not where the layer itself has a directory.
pub(super) fn is_literal(index: &LayerIndex, role: LayerRole) -> bool {
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
