//! Which entry stands at a path when several layers name it: the rule for layers that are files.
//!
//! The result is what [`super::build`] makes a table of, so layers with another rule (archives whose later
//! ones cover the earlier) need only another merge.

use std::cmp::Ordering;

use crate::base::{Error, ErrorKind, RelPath, Result};
use crate::layer::{Entry, EntryKind, LayerEntries};

/// An entry that has won its path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) entry: &'a Entry,
    /// Index of the layer that holds it.
    pub(super) layer: usize,
}

/// All paths once, in the order of their components, so that a directory comes right before what it
/// holds. Directories may be named by several layers, the last one's attributes count; within one layer
/// the last entry counts.
pub(super) fn merge(layers: &[LayerEntries]) -> Result<Vec<Placed<'_>>> {
    let mut placed: Vec<Placed<'_>> = Vec::with_capacity(layers.iter().map(|l| l.entries.len()).sum());
    for (layer, entries) in layers.iter().enumerate() {
        placed.extend(entries.entries.iter().map(|entry| Placed { entry, layer }));
    }
    // Stable: what stands at one path keeps the order of layers and entries.
    placed.sort_by(|a, b| path_order(&a.entry.path, &b.entry.path));
    let mut merged: Vec<Placed<'_>> = Vec::with_capacity(placed.len());
    for candidate in placed {
        match merged.last_mut() {
            Some(winner) if winner.entry.path == candidate.entry.path => {
                check_replacement(layers, winner, &candidate)?;
                *winner = candidate;
            }
            _ => merged.push(candidate),
        }
    }
    Ok(merged)
}

fn check_replacement(layers: &[LayerEntries], winner: &Placed<'_>, candidate: &Placed<'_>) -> Result<()> {
    let directories = (is_directory(winner.entry), is_directory(candidate.entry));
    if directories == (true, true) || winner.layer == candidate.layer {
        return Ok(());
    }
    let conflict = match directories {
        (false, false) => "two layers give the same file",
        _ => "a file in one layer is a directory in another",
    };
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "{conflict}: {:?} is in layer {} and in layer {}; the artifact has to be packed anew \
             with different paths",
            candidate.entry.path, layers[winner.layer].digest, layers[candidate.layer].digest,
        ),
    ))
}

fn is_directory(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::Directory)
}

/// The order of the components, not of the bytes: the slash counts as the lowest byte, since names hold
/// neither it nor NUL.
fn path_order(a: &RelPath, b: &RelPath) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.as_bytes().iter().map(rank).cmp(b.as_bytes().iter().map(rank))
}
