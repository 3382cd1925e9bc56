//! Referrers in an OCI layout: the manifests of its `index.json` that name a subject (image-spec, manifest.md).
//!
//! A layout has no list of them, so that every candidate is read. Some writers leave the artifact type out of the
//! index; then the manifest says it.

use serde::Deserialize;

use crate::base::{Digest, ErrorKind, Result};
use crate::oci::Descriptor;

use super::layout::{LayoutStore, read_manifest};

/// Manifests that are looked into. A layout with more of them is a mirror of a registry.
const CANDIDATES_MAX: usize = 256;

/// What matters of a manifest here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    subject: Option<Named>,
    artifact_type: Option<String>,
    config: Option<Typed>,
}

#[derive(Deserialize)]
struct Named {
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: String,
}

impl Referrer {
    /// Its artifact type, or that of its config, which stands for it (image-spec, manifest.md, "Guidelines").
    fn kind(&self) -> Option<&str> {
        let of_config = || self.config.as_ref().map(|config| config.media_type.as_str());
        self.artifact_type.as_deref().filter(|name| !name.is_empty()).or_else(of_config)
    }
}

/// The manifests of type `artifact_type` in `store` that refer to `subject`. Those whose blob is missing, or that are
/// no documents, are none.
///
/// # Errors
/// Those of the index, and of blobs that are there and cannot be read.
pub(super) fn of(store: &dyn LayoutStore, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
    let index = store.index()?;
    let candidates = index
        .manifests()
        .iter()
        .filter(|entry| entry.artifact_type.as_deref().is_none_or(|there| there == artifact_type));
    let mut found: Vec<Descriptor> = Vec::new();
    for entry in candidates.take(CANDIDATES_MAX) {
        if found.iter().any(|there| there.digest == entry.digest) {
            continue;
        }
        let document = match read_manifest(store, entry) {
            Ok(document) => document,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let Ok(referrer) = serde_json::from_slice::<Referrer>(&document.bytes) else { continue };
        let refers = referrer.subject.as_ref().is_some_and(|named| named.digest == *subject);
        if refers && referrer.kind() == Some(artifact_type) {
            found.push(Descriptor { artifact_type: Some(artifact_type.to_owned()), ..entry.clone() });
        }
    }
    Ok(found)
}
