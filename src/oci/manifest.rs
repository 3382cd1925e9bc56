//! Descriptors, manifests and indexes (image-spec, descriptor.md, manifest.md, image-index.md), and their
//! Docker twins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::limits::{BLOB_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::base::{Digest, Error, ErrorKind, Result};

use super::Platform;
use super::media_type;

/// A blob as a manifest names it (image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is said to be.
    pub media_type: String,
    /// The blob's name.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// The blob's annotations in this place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: the artifact type of the manifest it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// In an index: what the manifest it names is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Ollama's key for the path of a file that a model is made of; not of the specification.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_nothing")]
    pub name: Option<String>,
    /// Ollama's key for the model that a layer was taken from; not of the specification.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text_or_nothing")]
    pub from: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing but what each must have.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            artifact_type: None,
            platform: None,
            name: None,
            from: None,
        }
    }
}

/// A manifest: one artifact or one image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The manifest's own media type.
    pub media_type: String,
    /// What kind of artifact it is, when it says so.
    pub artifact_type: Option<String>,
    /// The configuration blob.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An index: a list of manifests or further indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The index's own media type.
    pub media_type: String,
    /// What kind of artifact it is, when it says so.
    pub artifact_type: Option<String>,
    /// The entries, in their order.
    pub manifests: Vec<Descriptor>,
}

/// What a manifest URL can answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one is made for each mount, and taken apart at once")]
pub enum Document {
    /// A manifest.
    Manifest(Manifest),
    /// An index.
    Index(Index),
}

/// The fields of both kinds, before they are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    annotations: BTreeMap<String, String>,
}

/// Go's encoders write `null` for an empty map.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A key that the specification does not know may hold anything (descriptor.md, "Reserved": unknown keys must
/// not cause an error); what is no text is another producer's and means nothing here.
fn text_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(Some(text)),
        _ => Ok(None),
    }
}

impl Document {
    /// Parses a manifest or an index. `declared` is the media type of the descriptor or of the HTTP answer;
    /// it counts where the document does not name its own.
    ///
    /// A document that could be read as both is refused (GHSA-77vh-xpmg-72qh).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for malformed documents, [`ErrorKind::Unsupported`] for kinds that are not served.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, format!("bad manifest: {why}"));
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(invalid(format!("it is larger than {MANIFEST_BYTES_MAX} bytes")));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        if raw.schema_version != 2 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("manifest schema version {} is not supported, only 2", raw.schema_version),
            ));
        }
        let named = raw.media_type.as_deref().or(declared).filter(|name| !name.is_empty());
        let entries = raw.layers.iter().chain(&raw.manifests).flatten().chain(&raw.config);
        for entry in entries.clone() {
            if entry.size > BLOB_BYTES_MAX {
                return Err(invalid(format!("{} claims {} bytes", entry.digest, entry.size)));
            }
        }
        if entries.count() > LAYERS_MAX {
            return Err(invalid(format!("it lists more than {LAYERS_MAX} blobs")));
        }
        match (raw.layers, raw.manifests) {
            (Some(_), Some(_)) => Err(invalid("it has both layers and manifests".into())),
            (None, None) => Err(unsupported(named)),
            (Some(layers), None) => {
                let media_type = named.unwrap_or(media_type::OCI_MANIFEST).to_owned();
                if !media_type::is_manifest(&media_type) {
                    return Err(unsupported(Some(&media_type)));
                }
                let config = raw.config.ok_or_else(|| invalid("it has no config".into()))?;
                let Raw { artifact_type, annotations, .. } = raw;
                Ok(Self::Manifest(Manifest { media_type, artifact_type, config, layers, annotations }))
            }
            (None, Some(manifests)) => {
                let media_type = named.unwrap_or(media_type::OCI_INDEX).to_owned();
                if !media_type::is_index(&media_type) {
                    return Err(unsupported(Some(&media_type)));
                }
                Ok(Self::Index(Index { media_type, artifact_type: raw.artifact_type, manifests }))
            }
        }
    }
}

fn unsupported(media_type: Option<&str>) -> Error {
    let name = media_type.unwrap_or("without a media type");
    Error::new(ErrorKind::Unsupported, format!("a manifest {name} with these fields is not supported"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTOR: &str = r#"{"mediaType":"a/b","size":3,"annotations":null,"digest":
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#;

    fn parse(fields: &str) -> Result<Document> {
        let text = format!(r#"{{"schemaVersion":2,{fields}}}"#).replace("DESCRIPTOR", DESCRIPTOR);
        Document::parse(text.as_bytes(), None)
    }

    #[test]
    fn manifests_and_indexes_are_told_apart_by_their_fields() {
        let manifest = parse(r#""config":DESCRIPTOR,"layers":[DESCRIPTOR,DESCRIPTOR]"#).unwrap();
        assert!(matches!(manifest, Document::Manifest(manifest) if manifest.layers.len() == 2));
        assert!(matches!(parse(r#""manifests":[DESCRIPTOR]"#).unwrap(), Document::Index(_)));
    }

    #[test]
    fn a_document_that_is_both_is_refused() {
        let error = parse(r#""config":DESCRIPTOR,"layers":[],"manifests":[]"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error =
            parse(r#""mediaType":"application/vnd.oci.image.index.v1+json","config":DESCRIPTOR,"layers":[]"#)
                .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn keys_of_other_producers_are_kept_as_text_or_ignored() {
        let named = DESCRIPTOR.replace("\"size\"", r#""name":"a/b","from":{"any":1},"dtype":"BF16","size""#);
        let Document::Manifest(manifest) =
            parse(&format!(r#""config":DESCRIPTOR,"layers":[{named}]"#)).unwrap()
        else {
            panic!("an index")
        };
        assert_eq!((manifest.layers[0].name.as_deref(), &manifest.layers[0].from), (Some("a/b"), &None));
        assert_eq!(serde_json::to_value(&manifest.config).unwrap().get("name"), None);
    }

    #[test]
    fn hostile_sizes_and_digests_are_refused() {
        for bad in [
            DESCRIPTOR.replace(":3,", ":-1,"),
            DESCRIPTOR.replace(":3,", ":9223372036854775807,"),
            DESCRIPTOR.replace("e3b0", "../0"),
        ] {
            let error = parse(&format!(r#""config":{bad},"layers":[]"#)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        let huge = vec![b' '; MANIFEST_BYTES_MAX as usize + 1];
        assert!(Document::parse(&huge, None).unwrap_err().to_string().contains("larger than"));
    }
}
