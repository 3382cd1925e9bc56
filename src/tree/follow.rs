//! Symbolic links on the way to where an entry of an image lands, followed inside the image's root.

use std::borrow::Cow;

use crate::base::limits::LINKED_NAMES_MAX;
use crate::base::{Error, ErrorKind, Result};
use crate::layer::EntryKind;

use super::LINKS_MAX;
use super::draft::{Origin, Shape};
use super::merge::{Laying, names};

/// A way through the draft as far as it leads, and on.
#[derive(Debug)]
pub(super) struct Way<'a> {
    /// The last directory that exists.
    pub(super) at: u32,
    /// The names from there on that are no directories.
    pub(super) missing: Vec<Cow<'a, [u8]>>,
}

/// What following links has cost so far, over all layers.
#[derive(Debug, Default)]
pub(super) struct Steps(u64);

impl Laying<'_, '_> {
    /// The way along `names_of`, for the entry at `path`. Absolute targets begin where the layer's files stand, and
    /// `..` leads no further up.
    ///
    /// # Errors
    /// `Invalid` for a loop; `Unsupported` when following links takes too long.
    pub(super) fn follow<'n>(&mut self, path: &[u8], names_of: &'n [u8]) -> Result<Way<'n>> {
        let mut way = Way { at: self.base, missing: Vec::new() };
        let mut links = 0;
        // What is still to go, the next name last.
        let mut ahead: Vec<Cow<'n, [u8]>> = names(names_of).rev().map(Cow::Borrowed).collect();
        while let Some(name) = ahead.pop() {
            if name.as_ref() == b".." {
                if way.missing.pop().is_none() && way.at != self.base {
                    way.at = self.draft.node(way.at).parent;
                }
                continue;
            }
            let child = self.draft.child(way.at, &name).filter(|_| way.missing.is_empty());
            match child.map(|child| (child, self.draft.node(child).shape)) {
                Some((child, Shape::Directory)) => way.at = child,
                Some((child, Shape::Symlink)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(self.refused(path, "stands behind links that lead in a loop"));
                    }
                    let target = self.link_target(child);
                    if target.starts_with(b"/") {
                        way.at = self.base;
                    }
                    let before = ahead.len();
                    let names = names(&target).rev().filter(|name| *name != b".");
                    ahead.extend(names.map(|name| Cow::Owned(name.to_vec())));
                    self.count(ahead.len() - before)?;
                }
                Some((_, Shape::Other)) | None => way.missing.push(name),
            }
        }
        Ok(way)
    }

    /// The bytes that the symbolic link `at` holds.
    fn link_target(&self, at: u32) -> Box<[u8]> {
        let Origin::Entry(source) = self.draft.node(at).origin else { return Box::default() };
        match self.draft.layers[source.layer as usize].index.entry(source.at as usize).kind {
            EntryKind::Symlink { target } => target,
            _ => Box::default(),
        }
    }

    fn count(&mut self, names: usize) -> Result<()> {
        self.steps.0 = self.steps.0.saturating_add(names as u64);
        if self.steps.0 <= LINKED_NAMES_MAX {
            return Ok(());
        }
        let digest = self.layer.index.layer();
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "layer {digest}: more than {LINKED_NAMES_MAX} names (LINKED_NAMES_MAX) have to be walked to find \
                 where its entries stand behind symbolic links"
            ),
        ))
    }
}
