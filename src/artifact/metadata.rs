//! The file metadata that ModelPack keeps in an annotation of the layer (model-spec, "Layer annotations").

use serde::Deserialize;

use crate::layer::Timestamp;
use crate::oci::Descriptor;

/// The annotation's names, newer first.
const KEYS: [&str; 2] = ["org.cncf.model.file.metadata+json", "org.cnai.model.file.metadata+json"];

/// What a raw layer's file has where its annotation says nothing.
const DEFAULT_MODE: u32 = 0o644;

/// Owner, mode and time of a raw layer's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileMetadata {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
}

/// The annotation's JSON. The size is left out: the descriptor's wins.
#[derive(Default, Deserialize)]
struct Raw {
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    mtime: Option<String>,
}

impl Default for FileMetadata {
    fn default() -> Self {
        Self { mode: DEFAULT_MODE, uid: 0, gid: 0, mtime: Timestamp::default() }
    }
}

impl FileMetadata {
    /// Reads the annotation of `layer`. What cannot be read is left at its default, with a warning: the
    /// bytes of the file are none the worse for it.
    pub(super) fn of(layer: &Descriptor, warnings: &mut Vec<String>) -> Self {
        let mut warn = |what: &str, why: String| {
            warnings.push(format!("layer {}: {what} of the file metadata is ignored: {why}", layer.digest));
        };
        let raw = match KEYS.iter().find_map(|key| layer.annotations.get(*key)) {
            None => Raw::default(),
            Some(json) => serde_json::from_str(json).unwrap_or_else(|error| {
                warn("all", error.to_string());
                Raw::default()
            }),
        };
        let mtime = match raw.mtime.as_deref().map(str::parse::<jiff::Timestamp>) {
            None => Timestamp::default(),
            Some(Ok(time)) => timestamp(time),
            Some(Err(error)) => {
                warn("the time", error.to_string());
                Timestamp::default()
            }
        };
        let mode = if raw.mode & 0o7777 == 0 { DEFAULT_MODE } else { raw.mode & 0o7777 };
        Self { mode, uid: raw.uid, gid: raw.gid, mtime }
    }
}

/// Before 1970, jiff counts both parts down from zero; file systems count nanoseconds up.
fn timestamp(time: jiff::Timestamp) -> Timestamp {
    let nanoseconds = time.as_nanosecond();
    Timestamp {
        seconds: i64::try_from(nanoseconds.div_euclid(1_000_000_000)).unwrap_or_default(),
        nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, Digest};

    fn metadata(json: &str) -> (FileMetadata, Vec<String>) {
        let mut layer = Descriptor::new("a/b", Digest::of(Algorithm::Sha256, b""), 0);
        layer.annotations.insert(KEYS[0].to_owned(), json.to_owned());
        let mut warnings = Vec::new();
        (FileMetadata::of(&layer, &mut warnings), warnings)
    }

    #[test]
    fn mode_owner_and_time_are_taken() {
        let json = r#"{"name":"x","mode":493,"uid":7,"gid":8,"size":99,"mtime":"2025-01-02T03:04:05.5+01:00","typeflag":48}"#;
        let (metadata, warnings) = metadata(json);
        assert!(warnings.is_empty());
        assert_eq!((metadata.mode, metadata.uid, metadata.gid), (0o755, 7, 8));
        assert_eq!(metadata.mtime, Timestamp { seconds: 1_735_783_445, nanoseconds: 500_000_000 });
    }

    #[test]
    fn what_is_unset_or_unreadable_has_defaults_and_a_warning() {
        let (unset, warnings) = metadata(r#"{"mode":0}"#);
        assert_eq!((unset.mode, warnings.len()), (0o644, 0));
        assert_eq!(metadata("{").1.len(), 1);
        assert_eq!(metadata(r#"{"mode":420,"mtime":"yesterday"}"#).1.len(), 1);
        let (early, _) = metadata(r#"{"mtime":"1969-12-31T23:59:59.25Z"}"#);
        assert_eq!(early.mtime, Timestamp { seconds: -1, nanoseconds: 250_000_000 });
    }
}
