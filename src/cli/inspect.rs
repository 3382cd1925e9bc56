//! `inspect`: what a manifest tells, and what the first bytes of its layers say to that.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::artifact::{Artifact, ArtifactLayer, Kind, LayerFormat, PlatformManifest};
use crate::base::{Digest, Error, ErrorKind};
use crate::fetch::{BlobBytes, FetchSettings, Sources};
use crate::indexing::{Holds, Probe, probe};

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
    let probes = probes(&opened).await?;
    let inspection = inspection(&opened.artifact, &probes);
    match arguments.output.output {
        OutputFormat::Json => print_json(&inspection),
        OutputFormat::Text => print(&inspection_text(&inspection)),
    }
}

/// What the first bytes of each layer that is to be more than a file say it is.
async fn probes(opened: &Opened) -> Result<Vec<Option<Probe>>, Failure> {
    let workshop = Workshop::new()?;
    let settings = FetchSettings { retry_budget: opened.options.retry_budget, whole_files: false };
    let sources = Arc::new(Sources::default());
    sources.add(workshop.layers.fetcher(), Arc::clone(&opened.source), settings);
    let mut probes = Vec::with_capacity(opened.artifact.layers.len());
    for layer in &opened.artifact.layers {
        let descriptor = &layer.descriptor;
        probes.push(match layer.format {
            LayerFormat::Raw => None,
            LayerFormat::Compressed | LayerFormat::Archive => {
                let counter = BlobBytes::new(|_| ());
                let probed = probe(&sources, &descriptor.digest, descriptor.size, counter);
                let limit = opened.options.retry_budget;
                let late = |_| {
                    let text =
                        format!("layer {}: its first bytes did not come within {limit:?}", descriptor.digest);
                    Error::new(ErrorKind::TimedOut, text)
                };
                Some(tokio::time::timeout(limit, probed).await.map_err(late)??)
            }
        });
    }
    Ok(probes)
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

fn inspection(artifact: &Artifact, probes: &[Option<Probe>]) -> Inspection {
    let layer = |(layer, probed): (&ArtifactLayer, &Option<Probe>)| InspectedLayer {
        digest: layer.descriptor.digest.clone(),
        media_type: layer.descriptor.media_type.clone(),
        size: layer.descriptor.size,
        format: layer.format,
        bytes: probed.map(|probed| probed.describe()),
        path: (layer.format != LayerFormat::Archive).then(|| match &layer.directory {
            Some(directory) => format!("{directory}/{}", layer.file.path),
            None => layer.file.path.to_string(),
        }),
        directory: layer.directory.as_ref().map(ToString::to_string),
        rule: layer.rule,
        reason: layer.reason.clone(),
        warnings: layer
            .warnings
            .iter()
            .cloned()
            .chain(probed.and_then(|probed| disagreement(layer, probed)))
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
        layers: artifact.layers.iter().zip(probes).map(layer).collect(),
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
    let heads = ["SIZE", "FORMAT", "RULE", "PATH", "MEDIA TYPE", "DIGEST", "WHY"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for layer in &inspection.layers {
        let path = layer.path.as_deref().or(layer.directory.as_deref()).unwrap_or("-");
        rows.push(vec![
            human(layer.size),
            layer.bytes.unwrap_or(layer.format.name()).into(),
            layer.rule.into(),
            printable(path),
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
