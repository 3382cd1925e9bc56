//! An artifact's layers, opened: what a tree and a content are made of.
//!
//! What the manifest says of a layer is a promise; its bytes decide. A layer that was to be an archive and is none
//! becomes the one file that it is, with a warning, except in an image, where nothing could stand for it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::artifact::{Artifact, ArtifactLayer, LayerFormat};
use crate::base::{Error, ErrorKind, Result};
use crate::content::{Content, ContentSettings, LayerContent};
use crate::indexing::{Expected, Layer, LayerLease, LayerSpec, Layers, Stage, Watcher};
use crate::layer::{Entry, EntryKind, LayerIndex};
use crate::registry::BlobSource;
use crate::tree::{LayerRole, Tree, TreeLayer};

use super::own_indexes::OwnIndexes;

/// See the module's text.
#[derive(Debug)]
pub struct Assembly {
    parts: Vec<Part>,
    content: Vec<LayerContent>,
    warnings: Vec<String>,
}

/// One layer as the tree takes it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    layer: ArtifactLayer,
    /// Of a layer that is a file in itself.
    file: Option<Arc<LayerIndex>>,
    /// Of any other.
    pub(super) archive: Option<Arc<Layer>>,
}

impl Part {
    /// What the tree needs, if the layer is known.
    ///
    /// # Errors
    /// What the layer cannot be read with.
    pub(super) fn tree_layer(&self) -> Result<Option<TreeLayer>> {
        let role = self.role();
        let index = match (&self.file, &self.archive) {
            (Some(index), _) => Arc::clone(index),
            (None, Some(layer)) => match &*layer.stage().borrow() {
                Stage::Known(index) if role == LayerRole::File => {
                    Arc::new(of_file(&self.layer, index.stream_bytes())?)
                }
                Stage::Known(index) => Arc::clone(index),
                Stage::Failed(error) => return Err(error.clone()),
                Stage::NoArchive(why) => return Err(self.no_archive(why)),
                Stage::Opening | Stage::Reading => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        Ok(Some(TreeLayer { index, directory: self.layer.directory.clone(), role }))
    }

    /// By which rule it covers the layers below.
    pub(super) fn role(&self) -> LayerRole {
        match (self.layer.is_rootfs, self.layer.format, &self.file) {
            (true, ..) => LayerRole::Rootfs,
            (false, LayerFormat::Archive, None) => LayerRole::Archive,
            _ => LayerRole::File,
        }
    }

    /// Whether the entries that its first reading finds are those of the tree.
    pub(super) fn names_entries(&self) -> bool {
        self.file.is_none() && self.layer.format == LayerFormat::Archive
    }

    /// Waits until it is known, or known not to be.
    pub(super) async fn settled(&self) {
        if let Some(layer) = &self.archive {
            layer.settled().await;
        }
    }

    /// What may surprise about it, beyond what the manifest tells; none before it is known.
    pub(super) fn warnings(&self) -> Vec<String> {
        let index = self.archive.as_ref().and_then(|layer| layer.index());
        let warnings = index.map(|index| index.warnings()).unwrap_or_default();
        let digest = &self.layer.descriptor.digest;
        warnings.into_iter().map(|warning| format!("layer {digest}: {warning}")).collect()
    }

    fn no_archive(&self, why: &str) -> Error {
        let ArtifactLayer { descriptor, .. } = &self.layer;
        Error::new(
            ErrorKind::Unsupported,
            format!("layer {} ({}) cannot be served: {why}", descriptor.digest, descriptor.media_type),
        )
    }

    /// As which layer it was opened: its place, directory and role, for those who watch it.
    pub(super) fn described(&self) -> &ArtifactLayer {
        &self.layer
    }
}

/// The index of `layer` as the one file that it is, of `bytes`.
fn of_file(layer: &ArtifactLayer, bytes: u64) -> Result<LayerIndex> {
    let entry = Entry { kind: EntryKind::whole_stream(bytes), ..layer.file.clone() };
    LayerIndex::of_raw_file(&layer.descriptor.digest, bytes, entry)
}

impl Assembly {
    /// Opens the layers of `artifact` through `source`. Returns once it is clear what each of them is; their first
    /// readings may go on.
    ///
    /// # Errors
    /// `Unsupported` for a layer of an image that is no archive; what the source failed with for good; `TimedOut` when
    /// nothing comes of a layer for as long as a read may wait.
    pub async fn open(
        artifact: &Artifact,
        source: &Arc<dyn BlobSource>,
        layers: &Arc<Layers>,
        settings: ContentSettings,
    ) -> Result<Self> {
        let mut assembly = Self { parts: Vec::new(), content: Vec::new(), warnings: Vec::new() };
        // An index from elsewhere saves a first reading; where none is to come, nobody is asked for one.
        let is_known = |layer: &ArtifactLayer| layers.is_known(&layer.descriptor.digest);
        let own_indexes = match artifact.layers.iter().all(is_known) {
            true => OwnIndexes::of_manifest(),
            false => OwnIndexes::of(artifact, source, settings).await,
        };
        for layer in &artifact.layers {
            assembly.add(layer, &own_indexes, source, layers, settings)?;
        }
        for at in 0..assembly.parts.len() {
            let part = &assembly.parts[at];
            let Some(archive) = &part.archive else { continue };
            let opening = assembly.while_bytes_come(at, settings.read_timeout, archive.opening());
            let why = match opening.await? {
                Stage::NoArchive(why) => why,
                Stage::Failed(error) => return Err(error),
                Stage::Opening | Stage::Reading | Stage::Known(_) => continue,
            };
            let layer = part.layer.clone();
            if layer.is_rootfs {
                return Err(part.no_archive(&why));
            }
            assembly.warnings.push(format!(
                "layer {} ({}) is shown as the file {}: {why}",
                layer.descriptor.digest, layer.descriptor.media_type, layer.file.path
            ));
            let (part, content) = as_file(&layer, source, layers, settings)?;
            assembly.parts[at] = part;
            assembly.content[at] = content;
        }
        Ok(assembly)
    }

    fn add(
        &mut self,
        layer: &ArtifactLayer,
        own_indexes: &OwnIndexes,
        source: &Arc<dyn BlobSource>,
        layers: &Arc<Layers>,
        settings: ContentSettings,
    ) -> Result<()> {
        let expected = match layer.format {
            LayerFormat::Raw => {
                let (part, content) = as_file(layer, source, layers, settings)?;
                self.parts.push(part);
                self.content.push(content);
                return Ok(());
            }
            LayerFormat::Archive => Expected::Archive,
            LayerFormat::Compressed => Expected::File,
        };
        let spec = LayerSpec {
            blob: layer.descriptor.digest.clone(),
            blob_bytes: layer.descriptor.size,
            expected,
            own_index: own_indexes.of_layer(layer, &mut self.warnings),
        };
        let lease = layers.open(&spec, Arc::clone(source), settings.fetch())?;
        let archive = Some(Arc::clone(lease.layer()));
        self.parts.push(Part { layer: layer.clone(), file: None, archive });
        self.content.push(LayerContent::Parts(lease));
        Ok(())
    }

    /// Waits until all layers are known, as long as something comes within `stall_timeout`.
    ///
    /// # Errors
    /// What the first one cannot be read with, in their order; `TimedOut`, naming the layer.
    pub async fn settled(&self, stall_timeout: Duration) -> Result<()> {
        for (at, part) in self.parts.iter().enumerate() {
            self.while_bytes_come(at, stall_timeout, part.settled()).await?;
            part.tree_layer()?;
        }
        Ok(())
    }

    /// What the layer in place `at` is waited for with. Others may have their turn before it, so that the bytes of all
    /// count.
    async fn while_bytes_come<T>(
        &self,
        at: usize,
        stall_timeout: Duration,
        awaited: impl Future<Output = T>,
    ) -> Result<T> {
        let mut awaited = pin!(awaited);
        let bytes = || self.leases().map(|lease| lease.counters().network_bytes()).sum::<u64>();
        loop {
            let before = bytes();
            match tokio::time::timeout(stall_timeout, &mut awaited).await {
                Ok(done) => return Ok(done),
                Err(_) if bytes() > before => {}
                Err(_) => return Err(self.stalled(at, stall_timeout)),
            }
        }
    }

    fn leases(&self) -> impl Iterator<Item = &LayerLease> {
        self.content.iter().filter_map(|content| match content {
            LayerContent::Parts(lease) => Some(lease),
            LayerContent::Whole(_) => None,
        })
    }

    fn stalled(&self, at: usize, stall_timeout: Duration) -> Error {
        let digest = &self.parts[at].layer.descriptor.digest;
        let cause = match &self.content[at] {
            LayerContent::Parts(lease) => lease.last_failure(),
            LayerContent::Whole(_) => None,
        };
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        let text = format!("layer {digest} cannot be read: nothing came of it for {stall_timeout:?}{cause}");
        Error::new(ErrorKind::TimedOut, text)
    }

    /// The tree of all layers; none while one of them is being read.
    ///
    /// # Errors
    /// Those of [`Tree::build`]; what a layer cannot be read with.
    pub fn tree(&self) -> Result<Option<Tree>> {
        let mut known = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let Some(layer) = part.tree_layer()? else { return Ok(None) };
            known.push(layer);
        }
        Tree::build(&known).map(Some)
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Has `watcher` told the entries of the layer in place `at` while it is being read.
    pub(super) fn watch(&self, at: usize, watcher: Watcher) {
        if let LayerContent::Parts(lease) = &self.content[at] {
            lease.watch(watcher);
        }
    }

    /// What may surprise about what the layers were taken for; what they tell themselves is [`Part::warnings`].
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The bytes of the layers.
    #[must_use]
    pub fn into_content(self, settings: ContentSettings) -> Content {
        Content::of(self.content, settings)
    }
}

fn as_file(
    layer: &ArtifactLayer,
    source: &Arc<dyn BlobSource>,
    layers: &Arc<Layers>,
    settings: ContentSettings,
) -> Result<(Part, LayerContent)> {
    let descriptor = &layer.descriptor;
    let lease =
        layers.fetcher().blob(&descriptor.digest, descriptor.size, Arc::clone(source), settings.fetch())?;
    let index = Arc::new(of_file(layer, descriptor.size)?);
    let part = Part { layer: layer.clone(), file: Some(index), archive: None };
    Ok((part, LayerContent::Whole(lease)))
}
