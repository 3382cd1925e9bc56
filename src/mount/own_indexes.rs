//! Which layers of an artifact are said to have an index of their own: by the manifest, or by what refers to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::artifact::{Artifact, ArtifactLayer, Kind};
use crate::base::{Digest, Error, ErrorKind};
use crate::content::ContentSettings;
use crate::indexing::OwnIndex;
use crate::layer::toc::ztoc;
use crate::oci::{Descriptor, Document};
use crate::registry::BlobSource;

/// See the module's text.
#[derive(Debug)]
pub struct OwnIndexes {
    /// The zTOCs beside the layers of an image, by layer.
    ztocs: HashMap<Digest, Descriptor>,
}

impl OwnIndexes {
    /// None beyond those that the manifest names.
    #[must_use]
    pub fn of_manifest() -> Self {
        Self { ztocs: HashMap::new() }
    }

    /// Asks `source` for what refers to `artifact`, where that could be worth it.
    pub async fn of(artifact: &Artifact, source: &Arc<dyn BlobSource>, settings: ContentSettings) -> Self {
        Self { ztocs: ztocs(artifact, source, settings).await }
    }

    /// The index that `layer` is said to have. What cannot be read is none, with a warning.
    #[must_use]
    pub fn of_layer(&self, layer: &ArtifactLayer, warnings: &mut Vec<String>) -> Option<OwnIndex> {
        let ArtifactLayer { descriptor, .. } = layer;
        let mut found = Vec::new();
        let own = OwnIndex::of(&descriptor.annotations, descriptor.size, &mut found);
        let digest = &descriptor.digest;
        warnings.extend(found.iter().map(|warning| format!("layer {digest}: {warning}")));
        own.or_else(|| self.ztocs.get(digest).cloned().map(OwnIndex::Soci))
    }
}

/// Bytes of gzip layers from which on it is worth asking whether somebody has left zTOCs beside an image: a pass over less
/// takes about as long as the question.
const ZTOC_LAYERS_MIN: u64 = 32 << 20;

/// How long a mount waits for the list of referrers, which it can do without.
const REFERRERS_LIMIT: Duration = Duration::from_secs(3);

/// The zTOCs that the referrers of an image name (SOCI v1), by layer. Whatever goes wrong here only costs time later.
async fn ztocs(
    artifact: &Artifact,
    source: &Arc<dyn BlobSource>,
    settings: ContentSettings,
) -> HashMap<Digest, Descriptor> {
    let is_gzip = |layer: &&ArtifactLayer| layer.descriptor.media_type.ends_with("gzip");
    let bytes: u64 = artifact.layers.iter().filter(is_gzip).map(|layer| layer.descriptor.size).sum();
    let mut ztocs = HashMap::new();
    // Nobody vouches for a zTOC, so that what is to be checked first is read without it.
    let is_wanted = artifact.kind == Kind::Image && artifact.platforms.is_empty();
    if !is_wanted || bytes < ZTOC_LAYERS_MIN || settings.verify_before_read {
        return ztocs;
    }
    let found = async {
        let referrers = source.referrers(&artifact.digest, ztoc::INDEX_TYPE).await?;
        let Some(newest) = referrers.last() else { return Ok(None) };
        let raw = source.manifest(newest).await?;
        Document::parse(&raw.bytes, Some(&newest.media_type)).map(Some)
    };
    let late = |_| Error::new(ErrorKind::TimedOut, format!("no answer within {REFERRERS_LIMIT:?}"));
    match tokio::time::timeout(REFERRERS_LIMIT, found).await.unwrap_or_else(|elapsed| Err(late(elapsed))) {
        Ok(Some(Document::Manifest(manifest))) => {
            for blob in manifest.layers {
                if let Some(Ok(layer)) = blob.annotations.get(ztoc::LAYER_DIGEST).map(|digest| digest.parse())
                {
                    ztocs.insert(layer, blob);
                }
            }
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!("{}: no zTOCs are used: {}", artifact.reference, error.chain());
        }
    }
    ztocs
}
