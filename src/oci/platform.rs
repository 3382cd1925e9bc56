//! Platforms, and the choice of a manifest from an index.

use std::fmt;
use std::str::FromStr;

use crate::base::{Error, ErrorKind, Result};

use super::{Descriptor, Index};

/// The annotation by which attestations are told from content.
const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Artifact types that nydusify (`contrib/nydusify/pkg/utils/constant.go`) and accelerated-container-image
/// (`cmd/convertor/builder`) give to the images they convert, beside the originals in one index.
const CONVERSION_PREFIXES: [&str; 2] = ["application/vnd.nydus.", "application/vnd.containerd.overlaybd."];

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

    /// The name of the directory that stands for this platform where all are shown: `linux-amd64`,
    /// `linux-arm64-v8`; `any` for a platform that says nothing. Made of what a manifest says, so that it may
    /// hold anything.
    #[must_use]
    pub fn directory_name(&self) -> String {
        let Self { os, architecture, variant } = self.normalised();
        let parts = [os, architecture, variant.unwrap_or_default()];
        let name: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if name.is_empty() { "any".into() } else { name.join("-") }
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

/// What is wanted of an index. As text and as JSON, [`Self::All`] is `all`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WantedPlatform {
    /// Every content entry, each in a directory of its own.
    All,
    /// The entry that [`choose`] takes for this platform.
    #[serde(untagged)]
    One(Platform),
}

impl WantedPlatform {
    /// The platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        Self::One(Platform::host())
    }
}

impl FromStr for WantedPlatform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::One)
                .map_err(|error: Error| Error::new(error.kind(), format!("{error}; or \"all\""))),
        }
    }
}

impl fmt::Display for WantedPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One(platform) => platform.fmt(f),
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
    let content = content_entries(index);
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

/// The entries of `index` that are content, in their order. Attestations are none. An image converted to a
/// format that needs its own snapshotter stands beside its original, for the same platform: it counts only
/// where the original is not there, so that its format is refused by name.
#[must_use]
pub fn content_entries(index: &Index) -> Vec<&Descriptor> {
    let content = || index.manifests.iter().filter(|entry| !is_attestation(entry));
    let originals: Vec<&Descriptor> = content().filter(|entry| !is_conversion(entry)).collect();
    if originals.is_empty() { content().collect() } else { originals }
}

fn is_conversion(entry: &Descriptor) -> bool {
    let artifact_type = entry.artifact_type.as_deref().unwrap_or_default();
    CONVERSION_PREFIXES.iter().any(|prefix| artifact_type.starts_with(prefix))
}

fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.contains_key(DOCKER_REFERENCE_TYPE)
        || entry.platform.as_ref().is_some_and(Platform::is_unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, Digest};

    fn entry(platform: Option<&str>) -> Descriptor {
        let digest = Digest::of(Algorithm::Sha256, platform.unwrap_or_default().as_bytes());
        let mut entry = Descriptor::new(super::super::media_type::OCI_MANIFEST, digest, 2);
        entry.platform = platform.map(|text| text.parse().unwrap());
        entry
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

    #[test]
    fn a_converted_image_is_no_rival_of_its_original() {
        let mut index = index(&[Some("linux/amd64"), Some("linux/amd64")]);
        index.manifests[0].artifact_type = Some("application/vnd.nydus.image.manifest.v1+json".into());
        index.manifests[1].size = 7;
        assert_eq!(choose(&index, &"linux/amd64".parse().unwrap()).unwrap().descriptor.size, 7);
        index.manifests.pop();
        assert_eq!(content_entries(&index).len(), 1, "alone, it is refused by its name");
    }

    #[test]
    fn directories_have_one_name_for_each_platform() {
        for (platform, name) in [
            ("linux/amd64", "linux-amd64"),
            ("linux/x86_64/v1", "linux-amd64"),
            ("linux/arm64", "linux-arm64-v8"),
            ("linux/arm/v6", "linux-arm-v6"),
        ] {
            assert_eq!(platform.parse::<Platform>().unwrap().directory_name(), name);
        }
        assert_eq!(Platform::default().directory_name(), "any");
    }

    #[test]
    fn all_is_a_word_and_one_keeps_its_fields() {
        for (text, json) in [("all", r#""all""#), ("linux/arm64", r#"{"os":"linux","architecture":"arm64"}"#)]
        {
            let wanted: WantedPlatform = text.parse().unwrap();
            assert_eq!(wanted.to_string(), text);
            assert_eq!(serde_json::to_string(&wanted).unwrap(), json);
            assert_eq!(serde_json::from_str::<WantedPlatform>(json).unwrap(), wanted);
        }
        let error = "every".parse::<WantedPlatform>().unwrap_err();
        assert!(error.to_string().contains("or \"all\""), "{error}");
    }
}
