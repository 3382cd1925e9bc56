//! The Kitfile of a KitOps ModelKit: the configuration blob of its manifest, shown as one more file.

use crate::base::{Error, ErrorKind, RelPath, Result};
use crate::layer::{Entry, EntryKind, Timestamp};
use crate::oci::Manifest;

use super::super::{ArtifactLayer, LayerFormat};

/// What the configuration of a ModelKit is (kitops-ml/kitops, pkg/lib/constants/mediatype/kitops.go): the
/// Kitfile as JSON, which is YAML too.
const CONFIG: &str = "application/vnd.kitops.modelkit.config.v1+json";

/// Where `kit unpack` writes it.
const NAME: &str = "Kitfile";

/// Bytes of a Kitfile, a page or two of text: what claims to be more than any manifest may be is none.
const BYTES_MAX: u64 = crate::base::limits::MANIFEST_BYTES_MAX;

/// The Kitfile of `manifest`, if it is a ModelKit's and none of `layers` brings a file of this name.
///
/// # Errors
/// `Invalid` for one that is larger than any Kitfile.
pub(super) fn layer(
    manifest: &Manifest,
    layers: &[ArtifactLayer],
    warnings: &mut Vec<String>,
) -> Result<Option<ArtifactLayer>> {
    let config = &manifest.config;
    if config.media_type != CONFIG {
        return Ok(None);
    }
    if config.size > BYTES_MAX {
        let text =
            format!("the Kitfile {} claims {} bytes, more than {BYTES_MAX}", config.digest, config.size);
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let path: RelPath = NAME.parse()?;
    let is_file = |layer: &ArtifactLayer| layer.format != LayerFormat::Archive && layer.file.path == path;
    if layers.iter().any(is_file) {
        warnings.push(format!("a layer brings a file {NAME} of its own; the ModelKit's is not shown"));
        return Ok(None);
    }
    let entry = Entry {
        path,
        kind: EntryKind::whole_stream(config.size),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Box::default(),
    };
    Ok(Some(ArtifactLayer {
        descriptor: config.clone(),
        format: LayerFormat::Raw,
        file: entry,
        is_rootfs: false,
        directory: None,
        rule: "kitfile",
        reason: "it is the manifest's configuration, which in KitOps is the Kitfile".into(),
        warnings: Vec::new(),
    }))
}
