//! Hard links: what their targets mean, and the end of a chain of them.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::base::{Error, ErrorKind, RelPath, Result};
use crate::layer::{EntryKind, LayerIndex};

use super::LayerRole;
use super::draft::{Origin, Shape, Source};
use super::merge::{Laying, split};
use super::whiteout::Marker;

/// The path that the target of a hard link names: relative to the root, and absolute ones too, which some
/// builders of images write.
///
/// # Errors
/// `Invalid`, as [`RelPath::parse`].
pub(super) fn target_path(target: &[u8]) -> Result<RelPath> {
    let slashes = target.iter().take_while(|byte| **byte == b'/').count();
    RelPath::parse(&target[slashes..])
}

/// The ends of chains of links, each link followed once however many lead through it.
#[derive(Debug)]
pub(super) struct Chain<T> {
    ends: HashMap<T, Option<T>>,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { ends: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash> Chain<T> {
    /// Where the chain from `start` ends: at what `next` has nothing for. None for a loop.
    pub(super) fn end(&mut self, start: T, next: impl Fn(T) -> Option<T>) -> Option<T> {
        let (mut way, mut on_way) = (Vec::new(), HashSet::new());
        let mut at = start;
        let end = loop {
            if let Some(known) = self.ends.get(&at) {
                break *known;
            }
            if !on_way.insert(at) {
                break None;
            }
            way.push(at);
            match next(at) {
                Some(further) => at = further,
                None => break Some(at),
            }
        };
        self.ends.extend(way.into_iter().map(|link| (link, end)));
        end
    }
}

/// A hard link of the layer that is being laid: its node, and its place among the layer's entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaidLink {
    pub(super) node: u32,
    pub(super) at: u32,
}

/// What the hard links of one layer lead to.
#[derive(Debug, Default)]
pub(super) struct HardLinks {
    /// For those that name nothing of their own layer, what the layers below show at the target.
    below: HashMap<u32, Source>,
}

impl HardLinks {
    /// Looks at what the layers below have, before the layer covers it.
    pub(super) fn look_below(laying: &mut Laying<'_, '_>) -> Result<Self> {
        let mut below = HashMap::new();
        if laying.draft.node(laying.base).children.is_empty() {
            return Ok(Self { below });
        }
        let index = laying.layer.index.as_ref();
        for at in 0..index.len() {
            let entry = index.entry(at);
            let EntryKind::HardLink { target } = &entry.kind else { continue };
            let Ok(target) = target_path(target) else { continue };
            if find(index, target.as_bytes()).is_none()
                && let (Some(node), _) = node_at(laying, entry.path, &target)?
                && let Origin::Entry(source) = laying.draft.node(node).origin
            {
                below.insert(index_u32(at), source);
            }
        }
        Ok(Self { below })
    }

    /// Gives the nodes of `links` the inodes that they name.
    ///
    /// # Errors
    /// `Invalid` for a target that is missing, a directory, outside, or the link itself.
    pub(super) fn resolve(self, laying: &mut Laying<'_, '_>, links: &[LaidLink]) -> Result<()> {
        let index = laying.layer.index.as_ref();
        let mut targets: HashMap<Source, Source> = HashMap::new();
        let mut ahead: Vec<u32> = links.iter().map(|link| link.at).collect();
        while let Some(at) = ahead.pop() {
            let link = Source { layer: laying.number, at };
            let entry = index.entry(at as usize);
            let EntryKind::HardLink { target } = &entry.kind else { continue };
            if targets.contains_key(&link) {
                continue;
            }
            let found = self.target(laying, at, entry.path, target)?;
            targets.insert(link, found);
            if found.layer == laying.number {
                ahead.push(found.at);
            }
        }
        let mut chain = Chain::default();
        for link in links {
            let start = Source { layer: laying.number, at: link.at };
            let entry = index.entry(link.at as usize);
            let EntryKind::HardLink { target } = &entry.kind else { continue };
            let Some(end) = chain.end(start, |link| targets.get(&link).copied()) else {
                return Err(refused(laying, entry.path, target, "which leads back to the link itself"));
            };
            let shape = laying.draft.shape_of(end);
            if shape == Shape::Directory {
                return Err(refused(laying, entry.path, target, "which is a directory"));
            }
            let node = laying.draft.node_mut(link.node);
            (node.origin, node.shape) = (Origin::Entry(end), shape);
            laying.draft.linked.insert(end);
        }
        Ok(())
    }

    /// What the link in place `at` names: an entry of its own layer, or what a layer below shows.
    fn target(&self, laying: &mut Laying<'_, '_>, at: u32, path: &[u8], typed: &[u8]) -> Result<Source> {
        let target = target_path(typed).map_err(|error| {
            error.context(refused(laying, path, typed, "which is no path inside").to_string())
        })?;
        let (layer, index) = (laying.number, laying.layer.index.as_ref());
        let hides = |path: &[u8]| {
            laying.layer.role == LayerRole::Rootfs
                && matches!(Marker::of(path), Some(marker) if marker != Marker::Meta)
        };
        let own = find(index, target.as_bytes()).filter(|_| !hides(target.as_bytes()));
        if let Some(at) = own {
            return Ok(Source { layer, at: index_u32(at) });
        }
        let (node, walked) = node_at(laying, path, &target)?;
        if walked != target.as_bytes()
            && let Some(at) = find(index, &walked)
        {
            return Ok(Source { layer, at: index_u32(at) });
        }
        let origin = node.map(|node| laying.draft.node(node).origin);
        match (origin, self.below.get(&at)) {
            (Some(Origin::Entry(source)), _) if source.layer == layer => Ok(source),
            (_, Some(source)) => Ok(*source),
            (Some(Origin::Entry(source)), None) => Ok(source),
            (Some(_), None) => Err(refused(laying, path, typed, "which is a directory")),
            (None, None) => Err(refused(laying, path, typed, "which neither the layer nor one below it has")),
        }
    }
}

/// The node at `target`, if there is one, and the path by which it is had without following a link. `path` is
/// the entry that asks.
fn node_at(laying: &mut Laying<'_, '_>, path: &[u8], target: &RelPath) -> Result<(Option<u32>, Vec<u8>)> {
    let target = target.as_bytes();
    let (parent, name) = split(target);
    let way = match laying.layer.role {
        LayerRole::Rootfs => match laying.follow(path, parent) {
            // A loop leads nowhere, and what leads nowhere is refused by who asked.
            Err(error) if error.kind() == ErrorKind::Invalid => return Ok((None, target.to_vec())),
            way => way?,
        },
        LayerRole::File | LayerRole::Archive => laying.along(parent),
    };
    if !way.missing.is_empty() {
        return Ok((None, target.to_vec()));
    }
    let mut walked = laying.path_of(way.at);
    if !walked.is_empty() {
        walked.push(b'/');
    }
    walked.extend_from_slice(name);
    Ok((laying.draft.child(way.at, name), walked))
}

fn refused(laying: &Laying<'_, '_>, path: &[u8], target: &[u8], why: &str) -> Error {
    let target = String::from_utf8_lossy(target);
    laying.refused(path, &format!("is a hard link to {target:?}, {why}"))
}

/// The place of the entry at `path`.
fn find(index: &LayerIndex, path: &[u8]) -> Option<usize> {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let (mut low, mut high) = (0, index.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match index.entry(middle).path.iter().map(rank).cmp(path.iter().map(rank)) {
            Ordering::Less => low = middle + 1,
            Ordering::Equal => return Some(middle),
            Ordering::Greater => high = middle,
        }
    }
    None
}

/// The place of an entry, of which no layer has more than [`crate::base::limits::ARCHIVE_ENTRIES_MAX`].
fn index_u32(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
