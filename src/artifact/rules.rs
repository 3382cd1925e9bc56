//! The rules that say what a manifest is and where each of its layers' bytes appear in the tree.
//!
//! Pure: descriptors in, entries or an error out. A layer that no rule can serve is refused by name; it never
//! just goes missing. What differs between producers is a table, [`producers`].

use crate::base::{Error, ErrorKind, RelPath, Result, ResultExt as _};
use crate::layer::{Entry, EntryKind};
use crate::oci::{Descriptor, Manifest, SourceRef, media_type};

use super::metadata::FileMetadata;
use super::{Artifact, ArtifactLayer, Kind, LayerFormat};

mod conversions;
mod form;
mod kitfile;
mod naming;
mod producers;

use form::Form;
use naming::{Name, Place};
use producers::{Producer, Rule};

/// Applies the rules to `manifest`, whose document has `digest`.
///
/// # Errors
/// `Unsupported` for a layer that cannot be served, with its digest and media type, for a format that only
/// its own tools can read, and for a manifest without layers; `Invalid` for a path that leads out of the tree,
/// with the layer's digest.
pub(super) fn apply(
    reference: &SourceRef,
    raw: &super::RawManifest,
    manifest: &Manifest,
) -> Result<Artifact> {
    conversions::refuse(manifest).context(|| format!("cannot serve {reference}"))?;
    let kind = kind(manifest);
    let mut layers = apply_to_layers(manifest, kind)?;
    let mut warnings = Vec::new();
    // Below all layers, so that one that brings a file of this name covers it.
    if let Some(kitfile) = kitfile::layer(manifest, &layers, &mut warnings)? {
        layers.insert(0, kitfile);
    }
    if layers.is_empty() {
        let what = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{reference} ({what}) has no layers, so there is nothing to mount"),
        ));
    }
    Ok(Artifact {
        reference: reference.clone(),
        digest: raw.digest.clone(),
        media_type: manifest.media_type.clone(),
        artifact_type: manifest.artifact_type.clone(),
        kind,
        layers,
        platforms: Vec::new(),
        warnings,
    })
}

/// An image has an image's configuration *and* root file system layers; everything else is an artifact.
fn kind(manifest: &Manifest) -> Kind {
    let has_image_config = matches!(
        manifest.config.media_type.as_str(),
        media_type::OCI_IMAGE_CONFIG | media_type::DOCKER_IMAGE_CONFIG
    );
    let is_rootfs = |layer: &Descriptor| {
        layer.media_type.starts_with("application/vnd.oci.image.layer.")
            || layer.media_type.starts_with("application/vnd.docker.image.rootfs.")
    };
    let is_image = has_image_config && manifest.artifact_type.is_none() && !manifest.layers.is_empty();
    if is_image && manifest.layers.iter().all(is_rootfs) { Kind::Image } else { Kind::Artifact }
}

fn apply_to_layers(manifest: &Manifest, kind: Kind) -> Result<Vec<ArtifactLayer>> {
    let mut named: Vec<(&Descriptor, &Rule, LayerFormat, Name<'_>)> =
        Vec::with_capacity(manifest.layers.len());
    for layer in &manifest.layers {
        let rule = producers::rule_of(layer, &manifest.config.media_type, kind);
        let format = match form::of(layer, rule) {
            _ if kind == Kind::Image => LayerFormat::Archive,
            Form::File => LayerFormat::Raw,
            Form::Archive => LayerFormat::Archive,
            Form::Compressed => LayerFormat::Compressed,
        };
        let name = match (naming::name(layer, rule), format) {
            // Its files have names of their own; a kind's would be counted with those of whole files.
            (Name::Kind(_) | Name::Shard { .. }, LayerFormat::Archive) => Name::Digest,
            (name, _) => name,
        };
        named.push((layer, rule, format, name));
    }
    let names: Vec<Name<'_>> = named.iter().map(|(_, _, _, name)| *name).collect();
    let places = naming::places(&names);
    let taken = named.into_iter().zip(places);
    taken.map(|((layer, rule, format, name), place)| take(layer, rule, format, name, place)).collect()
}

/// The layer as the file or the archive that it is.
fn take(
    layer: &Descriptor,
    rule: &Rule,
    format: LayerFormat,
    name: Name<'_>,
    place: Place,
) -> Result<ArtifactLayer> {
    let mut warnings = Vec::new();
    let path = RelPath::parse(name.path(layer, place).as_bytes())
        .context(|| format!("layer {} ({})", layer.digest, layer.media_type))?;
    let is_archive = format == LayerFormat::Archive;
    if name == Name::Digest && !is_archive {
        warnings.push(format!("layer {} names no file; it appears as {path}", layer.digest));
    }
    if form::is_not_distributable(&layer.media_type) {
        warnings.push(format!(
            "layer {} is marked as not distributable; what it holds can be read only where the registry holds it",
            layer.digest
        ));
    }
    let metadata = if is_archive { FileMetadata::default() } else { FileMetadata::of(layer, &mut warnings) };
    let entry = Entry {
        path,
        kind: EntryKind::whole_stream(layer.size),
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: metadata.mtime,
        xattrs: Box::default(),
    };
    Ok(ArtifactLayer {
        descriptor: layer.clone(),
        format,
        file: entry,
        is_rootfs: rule.producer == Producer::Image,
        directory: None,
        rule: rule.producer.name(),
        reason: match is_archive {
            true => format!("{}; {}", rule.why(), form::why_archive(layer)),
            false => format!("{}; {}", rule.why(), name.why(place)),
        },
        warnings,
    })
}

#[cfg(test)]
mod tests;
