//! `inspect` and `tree`: what a manifest alone tells.

use std::collections::HashMap;

use serde::Serialize;

use crate::artifact::{Artifact, ArtifactLayer, Kind, LayerFormat, PlatformManifest};
use crate::base::Digest;
use crate::layer::{Entry, EntryKind, Timestamp};

use super::args::{GlobalArgs, InspectArgs, OutputFormat, TreeArgs};
use super::exit::Failure;
use super::output::{human, print, print_json, printable, table};
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
    /// The file that the layer is; none for a layer of several.
    path: Option<String>,
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
pub(super) async fn inspect(global: &GlobalArgs, arguments: &InspectArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let opened = source::open(&arguments.reference, &arguments.source).await?;
    let inspection = inspection(&opened.artifact);
    match arguments.output.output {
        OutputFormat::Json => print_json(&inspection),
        OutputFormat::Text => print(&inspection_text(&inspection)),
    }
}

fn inspection(artifact: &Artifact) -> Inspection {
    let layer = |layer: &ArtifactLayer| InspectedLayer {
        digest: layer.descriptor.digest.clone(),
        media_type: layer.descriptor.media_type.clone(),
        size: layer.descriptor.size,
        format: layer.format,
        path: match &layer.entries.entries[..] {
            [only] => Some(only.path.to_string()),
            _ => None,
        },
        rule: layer.rule,
        reason: layer.reason.clone(),
        warnings: layer.warnings.clone(),
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
        layers: artifact.layers.iter().map(layer).collect(),
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
        let format = match layer.format {
            LayerFormat::Raw => "raw",
        };
        rows.push(vec![
            human(layer.size),
            format.into(),
            layer.rule.into(),
            printable(layer.path.as_deref().unwrap_or("-")),
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

/// Lists the files of an artifact.
///
/// # Errors
/// Those of [`crate::artifact::load`]; `NotFound` for a path that is not there.
pub(super) async fn tree(global: &GlobalArgs, arguments: &TreeArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let opened = source::open(&arguments.reference, &arguments.source).await?;
    let entries = match &arguments.path {
        // The root by its usual names.
        Some(path) if !matches!(path.as_str(), "." | "./" | "/") => source::below(&opened.artifact, path)?,
        _ => source::entries(&opened.artifact)?,
    };
    let width = entries.iter().map(|(_, entry)| source::entry_bytes(entry)).max().unwrap_or_default();
    let width = width.to_string().len();
    let lines: String = entries.iter().map(|(_, entry)| tree_line(entry, width)).collect();
    print(&lines)
}

fn tree_line(entry: &Entry, width: usize) -> String {
    let arrow = match &entry.kind {
        EntryKind::Symlink { target } => format!(" -> {}", printable(&String::from_utf8_lossy(target))),
        // As `tar -tv` says it.
        EntryKind::HardLink { target } => format!(" link to {}", printable(&String::from_utf8_lossy(target))),
        EntryKind::File { .. }
        | EntryKind::Directory
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
        | EntryKind::Fifo => String::new(),
    };
    format!(
        "{} {:>width$} {} {}{arrow}\n",
        mode_text(entry),
        source::entry_bytes(entry),
        time_text(entry.mtime),
        printable(&entry.path.to_string())
    )
}

/// The mode as `ls -l` shows it.
fn mode_text(entry: &Entry) -> String {
    let kind = match entry.kind {
        EntryKind::File { .. } => '-',
        EntryKind::Directory => 'd',
        EntryKind::Symlink { .. } => 'l',
        EntryKind::HardLink { .. } => 'h',
        EntryKind::CharDevice { .. } => 'c',
        EntryKind::BlockDevice { .. } => 'b',
        EntryKind::Fifo => 'p',
    };
    let mode = entry.mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// The time in UTC, to the minute.
fn time_text(time: Timestamp) -> String {
    jiff::Timestamp::from_second(time.seconds)
        .map(|time| time.strftime("%Y-%m-%d %H:%M").to_string())
        // A time of another age, which no calendar has.
        .unwrap_or_else(|_| "????-??-?? ??:??".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, mode: u32) -> Entry {
        Entry {
            path: "a/b".parse().unwrap(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 5 },
            xattrs: Box::default(),
        }
    }

    #[test]
    fn lines_look_like_those_of_ls() {
        let file = entry(EntryKind::whole_stream(42), 0o644);
        assert_eq!(tree_line(&file, 4), "-rw-r--r--   42 2023-11-14 22:13 a/b\n");
        let link = entry(EntryKind::Symlink { target: (*b"x").into() }, 0o777);
        assert_eq!(tree_line(&link, 1), "lrwxrwxrwx 1 2023-11-14 22:13 a/b -> x\n");
        assert_eq!(mode_text(&entry(EntryKind::Directory, 0o5750)), "drwsr-x--T");
        assert_eq!(time_text(Timestamp { seconds: i64::MAX, nanoseconds: 0 }), "????-??-?? ??:??");
    }
}
