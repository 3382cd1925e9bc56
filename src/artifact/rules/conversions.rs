//! Formats that images are converted to for a lazy snapshotter of their own. Their layers hold no files that
//! could be shown without it, so they are refused by their names.

use crate::base::{Error, ErrorKind, Result};
use crate::oci::Manifest;

/// How a format is known. All are beginnings, since versions follow.
#[derive(Clone, Copy, Debug)]
enum Sign {
    /// Of the `artifactType` or of the configuration's media type.
    Manifest(&'static str),
    /// Of a layer's media type.
    Layer(&'static str),
    /// Of the name of a layer's annotation.
    Annotation(&'static str),
}

/// Signs, the more exact ones first.
const SIGNS: [(Sign, &str); 12] = [
    // dragonflyoss/nydus, contrib/nydusify/pkg/utils/constant.go; containerd/nydus-snapshotter,
    // pkg/converter/constant.go.
    (Sign::Annotation("containerd.io/snapshot/nydus-bootstrap"), RAFS),
    (Sign::Layer("application/vnd.oci.image.layer.nydus.bootstrap."), RAFS),
    (Sign::Manifest("application/vnd.nydus."), NYDUS),
    (Sign::Layer("application/vnd.oci.image.layer.nydus."), NYDUS),
    (Sign::Annotation("containerd.io/snapshot/nydus-blob"), NYDUS),
    // containerd/accelerated-container-image, cmd/convertor/builder and pkg/label/label.go.
    (Sign::Manifest("application/vnd.containerd.overlaybd.turbo."), TURBO_OCI),
    (Sign::Annotation("containerd.io/snapshot/overlaybd/turbo-oci/target-"), TURBO_OCI),
    (Sign::Annotation("containerd.io/snapshot/overlaybd/fastoci/target-"), TURBO_OCI),
    (Sign::Manifest("application/vnd.containerd.overlaybd."), OVERLAYBD),
    (Sign::Layer("application/vnd.containerd.overlaybd."), OVERLAYBD),
    (Sign::Annotation("containerd.io/snapshot/overlaybd/blob-"), OVERLAYBD),
    (Sign::Manifest("application/vnd.azure.artifact.streaming."), OVERLAYBD),
];

const NYDUS: &str = "Nydus (RAFS blobs)";
const RAFS: &str = "Nydus (a RAFS bootstrap)";
const OVERLAYBD: &str = "overlaybd";
const TURBO_OCI: &str = "overlaybd (TurboOCI)";

/// Refuses what only its own snapshotter can read.
///
/// # Errors
/// `Unsupported`, naming the format and how it was known.
pub(super) fn refuse(manifest: &Manifest) -> Result<()> {
    let Some((format, sign)) = SIGNS.iter().find_map(|(sign, format)| Some((format, found(manifest, sign)?)))
    else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "the format {format} is not supported ({sign}); only its own snapshotter reads it; mount what it \
             was converted from"
        ),
    ))
}

/// Where `sign` is found in `manifest`.
fn found(manifest: &Manifest, sign: &Sign) -> Option<String> {
    match *sign {
        Sign::Manifest(prefix) => {
            let types = [manifest.artifact_type.as_deref(), Some(manifest.config.media_type.as_str())];
            let named = types.into_iter().flatten().find(|name| name.starts_with(prefix))?;
            Some(format!("the manifest's type is {named}"))
        }
        Sign::Layer(prefix) => {
            let layer = manifest.layers.iter().find(|layer| layer.media_type.starts_with(prefix))?;
            Some(format!("layer {} is {}", layer.digest, layer.media_type))
        }
        Sign::Annotation(prefix) => manifest.layers.iter().find_map(|layer| {
            let key = layer.annotations.keys().find(|key| key.starts_with(prefix))?;
            Some(format!("layer {} ({}) has the annotation {key}", layer.digest, layer.media_type))
        }),
    }
}
