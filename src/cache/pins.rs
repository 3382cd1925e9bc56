//! Pins: artifacts whose content stays in the cache, whatever else wants room.
//!
//! A pin is a file of its own in the cache directory, JSON, written durably and read before anything is evicted at a start.
//! It holds by digests, so that a tag which moves on takes nothing with it. What of the content is not here yet
//! is pinned as it comes. Nothing here knows what an artifact is: a pin lists segments, and documents by the digests
//! in their names.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::base::{Algorithm, Digest, Error, ErrorKind, Result, ResultExt as _, durable};

use super::disk::{Disk, lock};
use super::documents::{self, is_temporary};
use super::owner::make_directory;
use super::stored::remove_file;
use super::{Cache, CachePaths, SegmentId};

/// An artifact that is pinned, or parts of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PinnedArtifact {
    /// By which reference it was pinned.
    pub reference: String,
    /// What that stood for.
    pub digest: Digest,
    /// The parts of it; none: all of it.
    pub subpaths: Vec<String>,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The content.
    pub content: Vec<PinnedContent>,
    /// What the documents speak of that are needed to find the content.
    pub documents: Vec<Digest>,
}

/// A part of what a layer is cached as.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PinnedContent {
    /// What the layer is called in the cache.
    pub layer: Digest,
    /// The segment; none: all of them.
    pub segment: Option<u32>,
    /// The bytes that it has, or will have.
    pub bytes: u64,
}

impl PinnedArtifact {
    /// The bytes of the content.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes_of(std::slice::from_ref(self))
    }

    /// Whether `other` is a pin of the same artifact, by the same name.
    fn is_same(&self, other: &Self) -> bool {
        (&self.reference, &self.digest) == (&other.reference, &other.digest)
    }

    /// This one with what `before`, of the same artifact, has pinned.
    fn with(mut self, before: &Self) -> Self {
        let is_whole = self.subpaths.is_empty() || before.subpaths.is_empty();
        for subpath in &before.subpaths {
            if !self.subpaths.contains(subpath) {
                self.subpaths.push(subpath.clone());
            }
        }
        if is_whole {
            self.subpaths.clear();
        }
        self.subpaths.sort();
        self.since = before.since;
        self.content.extend(
            before.content.iter().filter(|part| !self.content.contains(part)).cloned().collect::<Vec<_>>(),
        );
        self.documents.extend(
            before
                .documents
                .iter()
                .filter(|digest| !self.documents.contains(digest))
                .cloned()
                .collect::<Vec<_>>(),
        );
        self
    }

    fn path(&self, paths: &CachePaths) -> PathBuf {
        let name = Digest::of(Algorithm::Sha256, format!("{}@{}", self.reference, self.digest).as_bytes());
        paths.pins().join(format!("{}.json", name.hex()))
    }
}

/// The bytes that `pins` have in all; what several have counts once.
fn bytes_of(pins: &[PinnedArtifact]) -> u64 {
    let mut layers: BTreeMap<&Digest, (u64, BTreeMap<u32, u64>)> = BTreeMap::new();
    for part in pins.iter().flat_map(|pin| &pin.content) {
        let (whole, segments) = layers.entry(&part.layer).or_default();
        let bytes = match part.segment {
            None => whole,
            Some(number) => segments.entry(number).or_default(),
        };
        *bytes = part.bytes.max(*bytes);
    }
    let of_layer = |(whole, segments): &(u64, BTreeMap<u32, u64>)| segments.values().sum::<u64>().max(*whole);
    layers.values().map(of_layer).sum()
}

/// All pins of a cache.
#[derive(Debug, Default)]
pub(super) struct Pins(Mutex<Pinned>);

#[derive(Debug, Default)]
struct Pinned {
    pins: Vec<PinnedArtifact>,
    layers: HashSet<Digest>,
    segments: HashSet<SegmentId>,
    /// Of documents: the hexadecimal digits that their names begin with.
    documents: HashSet<String>,
}

impl Pinned {
    fn of(pins: Vec<PinnedArtifact>) -> Self {
        let mut all = Self::default();
        for pin in &pins {
            for PinnedContent { layer, segment, .. } in &pin.content {
                match segment {
                    None => drop(all.layers.insert(layer.clone())),
                    Some(number) => {
                        all.segments.insert(SegmentId { layer: layer.clone(), number: *number });
                    }
                }
            }
            all.documents.extend(pin.documents.iter().map(|digest| digest.hex().to_owned()));
        }
        Self { pins, ..all }
    }
}

impl Pins {
    /// Reads those that earlier processes have left. One that cannot be read is left where it is.
    pub(super) fn recover(&self, paths: &CachePaths) -> io::Result<()> {
        let entries = match std::fs::read_dir(paths.pins()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut pins = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if is_temporary(&path) {
                std::fs::remove_file(&path)?;
                continue;
            }
            let parsed = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
            match parsed {
                Ok(pin) => pins.push(pin),
                Err(error) => tracing::error!(path = %path.display(), %error, "a pin cannot be read"),
            }
        }
        sort(&mut pins);
        *lock(&self.0) = Pinned::of(pins);
        Ok(())
    }

    /// Whether the segment `id` stays.
    pub(super) fn keep(&self, id: &SegmentId) -> bool {
        let pinned = lock(&self.0);
        pinned.layers.contains(&id.layer) || pinned.segments.contains(id)
    }

    /// Whether the document at `path` stays.
    pub(super) fn keep_document(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        lock(&self.0).documents.contains(name.split('+').next().unwrap_or_default())
    }

    pub(super) fn all(&self) -> Vec<PinnedArtifact> {
        lock(&self.0).pins.clone()
    }

    /// Adds `pin`, for which there must be room within `bytes_max`.
    pub(super) fn add(&self, disk: &Disk, pin: PinnedArtifact, bytes_max: u64) -> Result<PinnedArtifact> {
        let mut pinned = lock(&self.0);
        let (mut pins, mut added) = (pinned.pins.clone(), pin);
        let before = bytes_of(&pins);
        if let Some(at) = pins.iter().position(|there| there.is_same(&added)) {
            added = added.with(&pins.remove(at));
        }
        pins.push(added.clone());
        let bytes = bytes_of(&pins);
        if bytes > bytes_max {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{} has {} bytes; with the {before} bytes that are pinned already that makes {bytes} bytes, and \
                     the cache has room for {bytes_max} bytes of content; unpin something, pin a part with --subpath, \
                     or give the cache more with --cache-size",
                    added.reference,
                    added.bytes()
                ),
            ));
        }
        let cannot = || format!("cannot pin {}", added.reference);
        disk.owner.ensure(&disk.paths).context(cannot)?;
        make_directory(&disk.paths.pins()).context(cannot)?;
        let text = serde_json::to_vec(&added).map_err(io::Error::from).context(cannot)?;
        durable::write(&added.path(&disk.paths), &text).context(cannot)?;
        sort(&mut pins);
        *pinned = Pinned::of(pins);
        Ok(added)
    }

    /// Takes away those that `is_meant` names, and returns them.
    pub(super) fn remove(
        &self,
        paths: &CachePaths,
        is_meant: impl Fn(&PinnedArtifact) -> bool,
    ) -> Result<Vec<PinnedArtifact>> {
        let mut pinned = lock(&self.0);
        let (gone, left): (Vec<_>, Vec<_>) = pinned.pins.iter().cloned().partition(is_meant);
        for pin in &gone {
            let cannot = || format!("cannot unpin {}", pin.reference);
            remove_file(&pin.path(paths)).context(cannot)?;
        }
        if !gone.is_empty() {
            durable::sync_directory(&paths.pins()).context(|| "cannot make it durable that a pin is gone")?;
        }
        *pinned = Pinned::of(left);
        Ok(gone)
    }
}

fn sort(pins: &mut [PinnedArtifact]) {
    pins.sort_by(|a, b| (&a.reference, &a.digest).cmp(&(&b.reference, &b.digest)));
}

impl Cache {
    /// The bytes of content that may be pinned: what documents may not take.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        self.limits.bytes_max - self.limits.bytes_max / documents::PART
    }

    /// Keeps the content of `pin` from being evicted or pruned, now and as it comes, until it is unpinned; durably.
    /// Parts of one artifact that are pinned one after the other come together in one pin, which is returned.
    ///
    /// # Errors
    /// `NoSpace` when all pins together are more than [`Self::room_bytes`]; what the file system says.
    pub fn pin(&self, pin: PinnedArtifact) -> Result<PinnedArtifact> {
        let pinned = self.disk.pins.add(&self.disk, pin, self.room_bytes())?;
        self.settle_pins();
        Ok(pinned)
    }

    /// Takes back the pins that `is_meant` names; returns them.
    ///
    /// # Errors
    /// What the file system says.
    pub fn unpin(&self, is_meant: impl Fn(&PinnedArtifact) -> bool) -> Result<Vec<PinnedArtifact>> {
        let gone = self.disk.pins.remove(&self.disk.paths, is_meant)?;
        self.settle_pins();
        Ok(gone)
    }

    /// What is pinned.
    #[must_use]
    pub fn pins(&self) -> Vec<PinnedArtifact> {
        self.disk.pins.all()
    }

    /// Whether the segment `id` is pinned.
    #[must_use]
    pub fn is_kept(&self, id: &SegmentId) -> bool {
        self.disk.pins.keep(id)
    }

    /// The bytes of everything that is pinned.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        bytes_of(&self.pins())
    }

    /// Those that come later have it from their start.
    fn settle_pins(&self) {
        let segments = lock(&self.segments);
        for known in segments.values() {
            let kept = self.disk.pins.keep(&known.stored.id);
            known.stored.chunks().kept = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn part(name: &str, segment: Option<u32>, bytes: u64) -> PinnedContent {
        PinnedContent { layer: layer(name), segment, bytes }
    }

    fn pin(content: Vec<PinnedContent>, subpaths: &[&str]) -> PinnedArtifact {
        PinnedArtifact {
            reference: "r.example/m:v1".into(),
            digest: layer("manifest"),
            subpaths: subpaths.iter().map(|path| (*path).to_owned()).collect(),
            since: 1,
            content,
            documents: vec![layer("manifest")],
        }
    }

    #[test]
    fn what_several_pins_have_counts_once() {
        let one = pin(vec![part("a", None, 10), part("b", Some(2), 5)], &[]);
        let other = pin(vec![part("a", Some(4), 7), part("b", Some(2), 5), part("b", Some(4), 1)], &[]);
        assert_eq!(bytes_of(std::slice::from_ref(&one)), 15);
        assert_eq!(bytes_of(&[one, other]), 16);
    }

    #[test]
    fn parts_of_one_artifact_come_together_and_the_whole_swallows_them() {
        let first = pin(vec![part("a", Some(2), 1)], &["b"]);
        let second = PinnedArtifact { since: 9, ..pin(vec![part("a", Some(4), 2)], &["a"]) };
        let both = second.with(&first);
        assert_eq!((both.since, both.bytes()), (1, 3));
        assert_eq!(both.subpaths, ["a", "b"]);
        assert!(pin(vec![part("a", None, 9)], &[]).with(&both).subpaths.is_empty());
    }
}
