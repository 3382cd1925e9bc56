//! `inspect`: what a manifest tells, and what the first bytes of its layers say to that.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::artifact::{Artifact, ArtifactLayer, Kind, LayerFormat, PlatformManifest};
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::content::ContentSettings;
use crate::fetch::{BlobBytes, Sources};
use crate::indexing::{Expected, Holds, LayerSpec, Probe, Stage, TailIndex, probe, tail_index};
use crate::layer::toc::estargz::TOC_DIGEST;
use crate::mount::OwnIndexes;

use super::args::{GlobalArgs, InspectArgs, OutputFormat};
use super::exit::Failure;
use super::output::{human, print, print_json, printable, table};
use super::source::{Opened, Workshop};
use super::{log, source};

/// The result of `inspect`.
#[derive(Debug, Serialize)]
struct Inspection {
    reference: String,
    digest: Digest,
    media_type: String,
    artifact_type: Option<String>,
    kind: Kind,
    /// Where all platforms were asked for: what each directory is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    platforms: Vec<InspectedPlatform>,
    layers: Vec<InspectedLayer>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct InspectedPlatform {
    directory: String,
    platform: Option<String>,
    digest: Digest,
    media_type: String,
    artifact_type: Option<String>,
    kind: Kind,
}

#[derive(Debug, Serialize)]
struct InspectedLayer {
    digest: Digest,
    media_type: String,
    size: u64,
    format: LayerFormat,
    /// What its first bytes say it is, where they were looked at.
    bytes: Option<&'static str>,
    /// The index that it carries or that refers to it, if a mount would use it: `estargz`, `zstd:chunked`, `soci` or
    /// `seek table`.
    index: Option<String>,
    /// The file that the layer is; none for an archive.
    path: Option<String>,
    /// The directory in which it stands, where all platforms are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
    /// Whose rule applies: `modelpack`, `ollama`, …
    rule: &'static str,
    /// Why it does, and where the path is from.
    reason: String,
    warnings: Vec<String>,
}

/// Shows what a reference leads to.
///
/// # Errors
/// Those of [`crate::artifact::load`].
pub(super) async fn run(global: &GlobalArgs, arguments: &InspectArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let opened = source::open(&arguments.reference, &arguments.source).await?;
    let found = looked_at(&opened).await?;
    let inspection = inspection(&opened.artifact, &found);
    match arguments.output.output {
        OutputFormat::Json => print_json(&inspection),
        OutputFormat::Text => print(&inspection_text(&inspection)),
    }
}

/// What the bytes of a layer tell.
#[derive(Debug, Default)]
struct Look {
    /// What it is by its first bytes; none for what is a file whatever they say.
    probed: Option<Probe>,
    /// The index that a mount would use.
    index: Option<String>,
    /// What is wrong with that index, if something is.
    warnings: Vec<String>,
}

/// What the first and the last bytes of each layer that is to be more than a file tell.
async fn looked_at(opened: &Opened) -> Result<Vec<Look>, Failure> {
    let workshop = Workshop::new()?;
    let own_indexes = OwnIndexes::of(&opened.artifact, &opened.source, content_settings(opened)).await;
    let mut looks = Vec::with_capacity(opened.artifact.layers.len());
    for layer in &opened.artifact.layers {
        let limit = opened.options.retry_budget;
        let late = |_| {
            let digest = &layer.descriptor.digest;
            let text = format!("layer {digest}: what tells its format did not come within {limit:?}");
            Error::new(ErrorKind::TimedOut, text)
        };
        let look = look_at(opened, &workshop, &own_indexes, layer);
        looks.push(tokio::time::timeout(limit, look).await.map_err(late)??);
    }
    Ok(looks)
}

fn content_settings(opened: &Opened) -> ContentSettings {
    let read_timeout = opened.options.retry_budget;
    ContentSettings { verify_before_read: false, whole_files: false, read_timeout }
}

async fn look_at(
    opened: &Opened,
    workshop: &Workshop,
    own_indexes: &OwnIndexes,
    layer: &ArtifactLayer,
) -> Result<Look> {
    let expected = match layer.format {
        LayerFormat::Raw => return Ok(Look::default()),
        LayerFormat::Compressed => Expected::File,
        LayerFormat::Archive => Expected::Archive,
    };
    let settings = content_settings(opened).fetch();
    let (digest, bytes) = (&layer.descriptor.digest, layer.descriptor.size);
    let sources = Arc::new(Sources::default());
    sources.add(workshop.layers.fetcher(), Arc::clone(&opened.source), settings);
    let counter = || BlobBytes::new(|_| ());
    let probed = probe(&sources, digest, bytes, counter()).await?;
    let mut look = Look { probed: Some(probed), ..Look::default() };
    if expected == Expected::File {
        return Ok(look);
    }
    if let Some(own) = own_indexes.of_layer(layer, &mut look.warnings) {
        let spec = LayerSpec { blob: digest.clone(), blob_bytes: bytes, expected, own_index: Some(own) };
        // What would be read if the index were not used ends with the lease.
        let lease = workshop.layers.open(&spec, Arc::clone(&opened.source), settings)?;
        if let Stage::Known(index) = lease.layer().opening().await {
            look.index = index.carried().map(str::to_owned);
        }
        let named = |warning: &String| format!("layer {digest}: {warning}");
        look.warnings.extend(lease.layer().warnings().iter().map(named));
        return Ok(look);
    }
    let Some(codec) = probed.codec else { return Ok(look) };
    match tail_index(&sources, digest, bytes, codec, counter()).await? {
        Some(TailIndex::SeekTable) => look.index = Some("seek table".to_owned()),
        Some(TailIndex::Estargz) => look.warnings.push(format!(
            "layer {digest} has an index of eStargz, but its descriptor lacks the annotation {TOC_DIGEST}, which vouches for \
             it; it is read as any other tar+gzip"
        )),
        None => {}
    }
    Ok(look)
}

/// What is wrong with a layer whose bytes are something else than the manifest says.
fn disagreement(layer: &ArtifactLayer, probed: Probe) -> Option<String> {
    let found = probed.describe();
    let digest = &layer.descriptor.digest;
    match (layer.format, probed.holds, layer.is_rootfs) {
        (LayerFormat::Archive, Holds::Other, true) => {
            Some(format!("layer {digest} is {found}, no tar archive; the image cannot be mounted"))
        }
        (LayerFormat::Archive, Holds::Other, false) => Some(format!(
            "layer {digest} is {found}, no tar archive; it appears as the file {}",
            layer.file.path
        )),
        (LayerFormat::Compressed, ..) if probed.codec.is_none() => {
            Some(format!("layer {digest} is {found}, not compressed; it is shown as it is"))
        }
        _ => None,
    }
}

/// Where the file stands that `layer` is.
fn shown_path(layer: &ArtifactLayer) -> String {
    match &layer.directory {
        Some(directory) => format!("{directory}/{}", layer.file.path),
        None => layer.file.path.to_string(),
    }
}

fn inspection(artifact: &Artifact, looks: &[Look]) -> Inspection {
    let layer = |(layer, look): (&ArtifactLayer, &Look)| InspectedLayer {
        digest: layer.descriptor.digest.clone(),
        media_type: layer.descriptor.media_type.clone(),
        size: layer.descriptor.size,
        format: layer.format,
        bytes: look.probed.map(|probed| probed.describe()),
        index: look.index.clone(),
        path: (layer.format != LayerFormat::Archive).then(|| shown_path(layer)),
        directory: layer.directory.as_ref().map(ToString::to_string),
        rule: layer.rule,
        reason: layer.reason.clone(),
        warnings: layer
            .warnings
            .iter()
            .cloned()
            .chain(look.probed.and_then(|probed| disagreement(layer, probed)))
            .chain(look.warnings.iter().cloned())
            .collect(),
    };
    let platform = |manifest: &PlatformManifest| InspectedPlatform {
        directory: manifest.directory.to_string(),
        platform: manifest.platform.as_ref().map(ToString::to_string),
        digest: manifest.digest.clone(),
        media_type: manifest.media_type.clone(),
        artifact_type: manifest.artifact_type.clone(),
        kind: manifest.kind,
    };
    Inspection {
        reference: artifact.reference.to_string(),
        digest: artifact.digest.clone(),
        media_type: artifact.media_type.clone(),
        artifact_type: artifact.artifact_type.clone(),
        kind: artifact.kind,
        platforms: artifact.platforms.iter().map(platform).collect(),
        layers: artifact.layers.iter().zip(looks).map(layer).collect(),
        warnings: artifact.warnings.clone(),
    }
}

fn inspection_text(inspection: &Inspection) -> String {
    let kind = match inspection.kind {
        Kind::Artifact => "artifact",
        Kind::Image => "image",
    };
    let mut facts = vec![
        ("reference", printable(&inspection.reference)),
        ("digest", inspection.digest.to_string()),
        ("kind", kind.to_owned()),
        ("media type", printable(&inspection.media_type)),
    ];
    if let Some(artifact_type) = &inspection.artifact_type {
        facts.push(("artifact type", printable(artifact_type)));
    }
    facts.extend(inspection.platforms.iter().map(|platform| {
        let text = format!("{}, manifest {}", printable(&platform.directory), platform.digest);
        ("platform", text)
    }));
    // What platforms share is there once, and is fetched once.
    let blobs: HashMap<&Digest, u64> =
        inspection.layers.iter().map(|layer| (&layer.digest, layer.size)).collect();
    let total = blobs.values().fold(0_u64, |total, size| total.saturating_add(*size));
    facts.push(("layers", format!("{}, {}", inspection.layers.len(), human(total))));
    facts.extend(inspection.warnings.iter().map(|warning| ("warning", printable(warning))));
    let facts: Vec<Vec<String>> =
        facts.into_iter().map(|(name, value)| vec![format!("{name}:"), value]).collect();
    let heads = ["SIZE", "FORMAT", "INDEX", "RULE", "PATH", "MEDIA TYPE", "DIGEST", "WHY"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for layer in &inspection.layers {
        // An archive has no path but the directory in which it is unpacked.
        let path = match (&layer.path, &layer.directory) {
            (Some(path), _) => path.clone(),
            (None, Some(directory)) => format!("{directory}/"),
            (None, None) => "-".to_owned(),
        };
        rows.push(vec![
            human(layer.size),
            layer.bytes.unwrap_or(layer.format.name()).into(),
            layer.index.as_deref().unwrap_or("-").into(),
            layer.rule.into(),
            printable(&path),
            printable(&layer.media_type),
            layer.digest.to_string(),
            printable(&layer.reason),
        ]);
    }
    // Below the table: they name their layers, and are too long for any column.
    let warnings = inspection.layers.iter().flat_map(|layer| &layer.warnings);
    let warnings: String = warnings.map(|warning| format!("warning: {}\n", printable(warning))).collect();
    let gap = if warnings.is_empty() { "" } else { "\n" };
    format!("{}\n{}{gap}{warnings}", table(&facts), table(&rows))
}
