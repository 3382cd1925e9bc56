//! Several layers on top of each other: whose entry stands at a path, by the rule of each layer's
//! [`LayerRole`].
//!
//! A layer is laid onto those below it in this order, whatever the order of its entries: what stands at its own
//! name; what a link on the way brings elsewhere (images only), which gives way to the former; the hard links,
//! which see what the layers below had before; the whiteouts, which spare the layer itself.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt as _;

use crate::base::{Error, ErrorKind, Result};
use crate::layer::EntryKind;

use super::draft::{Draft, Origin, ROOT, Shape, Source};
use super::follow::{Steps, Way};
use super::hard_links::{HardLinks, LaidLink};
use super::whiteout::Marker;
use super::{LayerRole, Tree, TreeLayer};

/// The tree of `layers`, lowest first.
pub(super) fn merge(layers: &[TreeLayer]) -> Result<Tree> {
    let mut draft = Draft::new(layers);
    let mut steps = Steps::default();
    for (layer, number) in layers.iter().zip(0..) {
        Laying::new(&mut draft, &mut steps, layer, number)?.lay()?;
    }
    draft.into_tree()
}

/// One layer on its way onto the draft.
#[derive(Debug)]
pub(super) struct Laying<'d, 'a> {
    pub(super) draft: &'d mut Draft<'a>,
    pub(super) steps: &'d mut Steps,
    pub(super) layer: &'a TreeLayer,
    /// Its place among the layers.
    pub(super) number: u32,
    /// The directory that its files stand in.
    pub(super) base: u32,
}

impl<'d, 'a> Laying<'d, 'a> {
    fn new(
        draft: &'d mut Draft<'a>,
        steps: &'d mut Steps,
        layer: &'a TreeLayer,
        number: u32,
    ) -> Result<Self> {
        let mut laying = Self { draft, steps, layer, number, base: ROOT };
        for name in layer.directory.iter().flat_map(|directory| directory.components()) {
            let found = laying.draft.child(laying.base, name.as_bytes());
            laying.base = match found {
                None => laying.imply(laying.base, Cow::Borrowed(name.as_bytes()))?,
                Some(at) if laying.draft.node(at).shape == Shape::Directory => at,
                Some(_) => {
                    let directory = layer.directory.as_ref().map(|path| path.as_bytes()).unwrap_or_default();
                    return Err(
                        laying.refused(directory, "must be a directory and is a file of another layer")
                    );
                }
            };
        }
        if layer.index.root().is_some() {
            laying.draft.node_mut(laying.base).origin = Origin::RootOf(number);
        }
        Ok(laying)
    }

    fn lay(mut self) -> Result<()> {
        let hard_links = HardLinks::look_below(&mut self)?;
        let (mut links, mut whiteouts, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..self.layer.index.len() {
            let entry = self.layer.index.entry(at);
            if self.layer.role == LayerRole::Rootfs
                && let Some(marker) = Marker::of(entry.path)
            {
                whiteouts.push(marker);
                continue;
            }
            let entry = Named::new(at, entry.path, &entry.kind);
            match self.parent(entry.path)? {
                None => elsewhere.push(entry),
                Some(parent) => links.extend(self.put(parent, &entry)?),
            }
        }
        for entry in elsewhere {
            let way = self.follow(entry.path, split(entry.path).0)?;
            let parent = self.make(way, entry.path)?;
            links.extend(self.put(parent, &entry)?);
        }
        hard_links.resolve(&mut self, &links)?;
        self.hide(whiteouts)
    }

    /// The directory that `path` itself names for its last name, made if need be; none if a link stands in the
    /// way that has to be followed.
    fn parent(&mut self, path: &'a [u8]) -> Result<Option<u32>> {
        let way = self.along(split(path).0);
        let obstacle = way.missing.first().and_then(|name| self.draft.child(way.at, name));
        let is_link = obstacle.is_some_and(|at| self.draft.node(at).shape == Shape::Symlink);
        match is_link && self.layer.role == LayerRole::Rootfs {
            true => Ok(None),
            false => self.make(way, path).map(Some),
        }
    }

    /// The way along `path` over directories alone.
    pub(super) fn along<'n>(&self, path: &'n [u8]) -> Way<'n> {
        let mut at = self.base;
        let mut names = names(path).peekable();
        while let Some(name) = names.peek()
            && let Some(child) = self.draft.child(at, name)
            && self.draft.node(child).shape == Shape::Directory
        {
            at = child;
            names.next();
        }
        Way { at, missing: names.map(Cow::Borrowed).collect() }
    }

    /// The directory at the end of `way`, made where it is missing, for the entry at `path`.
    fn make(&mut self, way: Way<'a>, path: &[u8]) -> Result<u32> {
        let mut at = way.at;
        for name in way.missing {
            if let Some(obstacle) = self.draft.child(at, &name) {
                let is_covered = self.layer.role == LayerRole::Rootfs
                    && self.draft.named_by(obstacle) != Some(self.number);
                if !is_covered {
                    let needed = String::from_utf8_lossy(&self.path_of(obstacle)).into_owned();
                    let why = format!("needs the directory {needed:?}, which is a file or a link");
                    return Err(self.refused(path, &why));
                }
            }
            at = self.imply(at, name)?;
        }
        self.draft.touch(at, self.number);
        Ok(at)
    }

    fn imply(&mut self, parent: u32, name: Cow<'a, [u8]>) -> Result<u32> {
        self.draft.add(parent, name, Shape::Directory, Origin::Implied, self.number)
    }

    /// Puts `entry` into `parent`, under the last name of its path. Returns its node if it is a hard link.
    fn put(&mut self, parent: u32, entry: &Named<'a>) -> Result<Option<LaidLink>> {
        let (path, shape) = (entry.path, entry.shape);
        let name = split(path).1;
        let at = u32::try_from(entry.at).map_err(|_| self.refused(path, "is one of too many"))?;
        let origin = Origin::Entry(Source { layer: self.number, at });
        if let Some(other) = self.draft.child(parent, name) {
            let both = (self.draft.node(other).shape == Shape::Directory, shape == Shape::Directory);
            let is_own = self.draft.named_by(other) == Some(self.number);
            match both {
                (true, true) => {
                    // What stands at its own name counts before what a link brought here.
                    let is_described = matches!(self.draft.node(other).origin,
                        Origin::Entry(source) if source.layer == self.number);
                    if !is_described {
                        self.draft.node_mut(other).origin = origin;
                        self.draft.touch(other, self.number);
                    }
                    return Ok(None);
                }
                (false, false) if is_own => return Ok(None),
                _ => self.check_replacement(path, other, both, is_own)?,
            }
        }
        let node = self.draft.add(parent, Cow::Borrowed(name), shape, origin, self.number)?;
        Ok(entry.is_hard_link.then_some(LaidLink { node, at }))
    }

    /// Whether the entry at `path` may replace the node `other`; `both` is which of them are directories.
    fn check_replacement(&self, path: &[u8], other: u32, both: (bool, bool), is_own: bool) -> Result<()> {
        let below = self.draft.named_by(other).map(|layer| &self.draft.layers[layer as usize]);
        let is_file = |layer: &TreeLayer| layer.role == LayerRole::File;
        let conflict = match (self.layer.role, both) {
            (LayerRole::Rootfs, _) if !is_own => return Ok(()),
            (_, (false, false)) if !(is_file(self.layer) && below.is_some_and(is_file)) => return Ok(()),
            (_, (false, false)) => "two layers give the same file",
            _ if is_own => return Err(self.refused(path, "is a file and a directory in one")),
            _ => "a file in one layer is a directory in another",
        };
        let below = below.map(|layer| layer.index.layer().to_string()).unwrap_or_default();
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{conflict}: {:?} is in layer {below} and in layer {}; the artifact has to be packed anew \
                 with different paths",
                String::from_utf8_lossy(path),
                self.layer.index.layer(),
            ),
        ))
    }

    fn hide(&mut self, whiteouts: Vec<Marker<'a>>) -> Result<()> {
        for marker in whiteouts {
            let (directory, name) = match marker {
                Marker::Whiteout { directory, name } => (directory, Some(name)),
                Marker::Opaque { directory } => (directory, None),
                Marker::Meta => continue,
            };
            let way = self.follow(directory, directory)?;
            match name {
                _ if !way.missing.is_empty() => {}
                Some(name) => self.draft.hide(way.at, name, self.number),
                None => self.draft.bare(way.at, self.number),
            }
        }
        Ok(())
    }

    /// The path of `at` from where the layer's files stand.
    pub(super) fn path_of(&self, at: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = at;
        while at != self.base && at != ROOT {
            let node = self.draft.node(at);
            names.push(node.name.as_ref());
            at = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The error about the entry at `path`.
    pub(super) fn refused(&self, path: &[u8], why: &str) -> Error {
        let path = String::from_utf8_lossy(path);
        let digest = self.layer.index.layer();
        Error::new(ErrorKind::Invalid, format!("layer {digest}: the entry {path:?} {why}"))
    }
}

/// An entry that is a name in the tree.
#[derive(Debug)]
struct Named<'a> {
    at: usize,
    path: &'a [u8],
    shape: Shape,
    is_hard_link: bool,
}

impl<'a> Named<'a> {
    fn new(at: usize, path: &'a [u8], kind: &EntryKind) -> Self {
        // What a hard link names is not known yet.
        Self { at, path, shape: Shape::of(kind), is_hard_link: matches!(kind, EntryKind::HardLink { .. }) }
    }
}

/// `path` without its last name, and that name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    }
}

/// The names in `path`, which may be empty.
pub(super) fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}
