//! Platforms, and the choice of a manifest from an index.

use std::fmt;
use std::str::FromStr;

use crate::base::{Error, ErrorKind, Result};

use super::{Descriptor, Index};

/// The annotation by which attestations are told from content.
const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Operating system, architecture and variant by Go's names (image-spec, image-index.md, `platform`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
pub struct Platform {
    /// `linux`, …; empty: not given.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …; empty: not given.
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        Self { os: "linux".into(), architecture: std::env::consts::ARCH.into(), variant: None }.normalised()
    }

    fn is_empty(&self) -> bool {
        self.os.is_empty() && self.architecture.is_empty()
    }

    fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// One spelling for each platform: `x86_64` is `amd64`, `arm64` is `arm64/v8`, `arm` is `arm/v7`.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let architecture = match self.architecture.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let variant = match (architecture, self.variant.as_deref().filter(|variant| !variant.is_empty())) {
            ("arm64", None) => Some("v8"),
            ("arm", None) => Some("v7"),
            ("amd64", Some("v1")) => None,
            (_, variant) => variant,
        };
        Self {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => ("", "", None),
        };
        if parts.iter().any(|part| part.is_empty()) || os.is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("bad platform {text:?}: expected OS/ARCH[/VARIANT], for example linux/arm64"),
            ));
        }
        Ok(Self { os: os.into(), architecture: architecture.into(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// The manifest chosen from an index.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What to fetch next.
    pub descriptor: Descriptor,
    /// Why the choice may surprise.
    pub warning: Option<String>,
}

/// Chooses from `index`: the wanted platform; else an entry without one; else the only content entry,
/// since model data has no architecture. Attestations are no content.
///
/// # Errors
/// [`ErrorKind::NotFound`] when nothing fits, listing the platforms there are.
pub fn choose(index: &Index, wanted: &Platform) -> Result<Choice> {
    let content: Vec<&Descriptor> = index.manifests.iter().filter(|entry| is_content(entry)).collect();
    let chosen = |descriptor: &Descriptor, warning| Choice { descriptor: descriptor.clone(), warning };
    let normalised = wanted.normalised();
    let matching = |entry: &&&Descriptor| {
        entry.platform.as_ref().is_some_and(|platform| platform.normalised() == normalised)
    };
    if let Some(entry) = content.iter().find(matching) {
        return Ok(chosen(entry, None));
    }
    if let Some(entry) = content.iter().find(|entry| entry.platform.as_ref().is_none_or(Platform::is_empty)) {
        return Ok(chosen(entry, None));
    }
    match content[..] {
        [only] => {
            let has = only.platform.as_ref().map(ToString::to_string).unwrap_or_default();
            Ok(chosen(only, Some(format!("wanted {wanted}, took the only manifest there is, for {has}"))))
        }
        [] => Err(Error::new(ErrorKind::NotFound, "the index lists no manifest with content")),
        _ => {
            let there: Vec<String> =
                content.iter().filter_map(|entry| entry.platform.as_ref()).map(ToString::to_string).collect();
            Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "no manifest for {wanted}; there are {}; choose one with --platform",
                    there.join(", ")
                ),
            ))
        }
    }
}

fn is_content(entry: &Descriptor) -> bool {
    !entry.annotations.contains_key(DOCKER_REFERENCE_TYPE)
        && !entry.platform.as_ref().is_some_and(Platform::is_unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, Digest};

    fn entry(platform: Option<&str>) -> Descriptor {
        let name = platform.unwrap_or_default();
        Descriptor {
            media_type: super::super::media_type::OCI_MANIFEST.into(),
            digest: Digest::of(Algorithm::Sha256, name.as_bytes()),
            size: 2,
            annotations: Default::default(),
            artifact_type: None,
            platform: platform.map(|text| text.parse().unwrap()),
        }
    }

    fn index(platforms: &[Option<&str>]) -> Index {
        Index {
            media_type: super::super::media_type::OCI_INDEX.into(),
            artifact_type: None,
            manifests: platforms.iter().map(|platform| entry(*platform)).collect(),
        }
    }

    fn chosen(platforms: &[Option<&str>], wanted: &str) -> Result<(String, bool)> {
        choose(&index(platforms), &wanted.parse()?).map(|choice| {
            let name = choice.descriptor.platform.map(|platform| platform.to_string()).unwrap_or_default();
            (name, choice.warning.is_some())
        })
    }

    #[test]
    fn the_four_rules_in_their_order() {
        let both = [None, Some("linux/amd64"), Some("linux/arm64/v8")];
        assert_eq!(chosen(&both, "linux/arm64").unwrap(), ("linux/arm64/v8".into(), false));
        assert_eq!(chosen(&both, "linux/s390x").unwrap(), (String::new(), false));
        assert_eq!(chosen(&[Some("linux/amd64")], "linux/arm64").unwrap(), ("linux/amd64".into(), true));
        let error = chosen(&both[1..], "linux/s390x").unwrap_err();
        assert!(error.to_string().contains("there are linux/amd64, linux/arm64/v8"), "{error}");
    }

    #[test]
    fn attestations_are_no_content() {
        let mut index = index(&[Some("linux/amd64"), Some("unknown/unknown"), None]);
        index.manifests[2].annotations.insert(DOCKER_REFERENCE_TYPE.into(), "attestation-manifest".into());
        let choice = choose(&index, &"linux/arm64".parse().unwrap()).unwrap();
        assert_eq!(choice.descriptor, index.manifests[0]);
    }
}
