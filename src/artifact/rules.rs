//! The rules that say what a manifest is and where each of its layers' bytes appear in the tree.
//!
//! Pure: descriptors in, entries or an error out. A layer that no rule can serve is refused by name; it never
//! just goes missing.

use crate::base::{Error, ErrorKind, RelPath, Result, ResultExt as _};
use crate::layer::{Entry, EntryKind, LayerEntries};
use crate::oci::{Descriptor, Manifest, SourceRef, media_type};

use super::metadata::FileMetadata;
use super::{Artifact, ArtifactLayer, Kind, LayerFormat};

/// The file's path (model-spec, annotations), newer name first.
const FILEPATH: [&str; 2] = ["org.cncf.model.filepath", "org.cnai.model.filepath"];
/// The file's name (image-spec, annotations.md; ORAS and podman name files by it).
const TITLE: &str = "org.opencontainers.image.title";
/// ORAS's mark of a directory that was packed into a gzip-compressed tar.
const ORAS_UNPACK: &str = "io.deis.oras.content.unpack";

/// Media types whose naming rules are not written yet: served by the general rule, their files would stand
/// under wrong names.
const UNSERVED_PREFIXES: [&str; 6] = [
    "application/vnd.kitops.",
    "application/vnd.docker.ai.",
    "application/vnd.ollama.",
    "application/vnd.cncf.helm.",
    "application/vnd.cncf.flux.",
    "application/vnd.wasm.",
];

/// Media types whose names say that the bytes are an archive or compressed.
const ENCODED_SUFFIXES: [&str; 7] = [".tar", "+gzip", "+zstd", ".gzip", ".gz", "/gzip", "/zstd"];

/// Applies the rules to `manifest`, whose document has `digest`.
///
/// # Errors
/// `Unsupported` for a layer that cannot be served, with its digest and media type, and for a manifest
/// without layers; `Invalid` for a path that leads out of the tree, with the layer's digest.
pub(super) fn apply(
    reference: &SourceRef,
    raw: &super::RawManifest,
    manifest: &Manifest,
) -> Result<Artifact> {
    if manifest.layers.is_empty() {
        let what = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{reference} ({what}) has no layers, so there is nothing to mount"),
        ));
    }
    let kind = kind(manifest);
    let layers =
        manifest.layers.iter().map(|layer| apply_to_layer(kind, layer)).collect::<Result<Vec<_>>>()?;
    Ok(Artifact {
        reference: reference.clone(),
        digest: raw.digest.clone(),
        media_type: manifest.media_type.clone(),
        artifact_type: manifest.artifact_type.clone(),
        kind,
        layers,
        warnings: Vec::new(),
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
    if has_image_config && manifest.artifact_type.is_none() && manifest.layers.iter().all(is_rootfs) {
        Kind::Image
    } else {
        Kind::Artifact
    }
}

fn apply_to_layer(kind: Kind, layer: &Descriptor) -> Result<ArtifactLayer> {
    if kind == Kind::Image {
        return Err(unsupported(layer, "image layers are not served yet, only artifacts of raw layers"));
    }
    let mut warnings = Vec::new();
    let annotation = |keys: &[&str]| keys.iter().find_map(|key| layer.annotations.get(*key));
    let filepath = annotation(&FILEPATH);
    let title = layer.annotations.get(TITLE);
    let media_type = layer.media_type.as_str();
    let is_model = media_type.starts_with("application/vnd.cncf.model.")
        || media_type.starts_with("application/vnd.cnai.model.");
    let says_encoded = ENCODED_SUFFIXES.iter().any(|suffix| media_type.ends_with(suffix));

    if layer.annotations.get(ORAS_UNPACK).is_some_and(|value| value == "true") {
        return Err(unsupported(layer, "packed directories are not served yet, only raw layers"));
    }
    if UNSERVED_PREFIXES.iter().any(|prefix| media_type.starts_with(prefix)) && filepath.is_none() {
        return Err(unsupported(layer, "this producer's layers are not served yet"));
    }
    // ORAS gives plain files the image layer's media type by default, so a title says more than the type;
    // a ModelPack or KitOps type is exact.
    let is_exact = is_model || UNSERVED_PREFIXES.iter().any(|prefix| media_type.starts_with(prefix));
    if says_encoded && (is_exact || (title.is_none() && filepath.is_none())) {
        return Err(unsupported(layer, "archives and compressed layers are not served yet, only raw layers"));
    }

    let named = if is_exact { filepath.or(title) } else { title.or(filepath) };
    let path = match named {
        Some(name) => RelPath::parse(name.as_bytes()).context(|| format!("layer {}", layer.digest))?,
        None => {
            let name = format!("{}-{}", layer.digest.algorithm().name(), layer.digest.hex());
            warnings.push(format!("layer {} names no file; it appears as {name}", layer.digest));
            name.parse()?
        }
    };
    let metadata = FileMetadata::of(layer, &mut warnings);
    let entry = Entry {
        path,
        kind: EntryKind::File { size: layer.size },
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: metadata.mtime,
    };
    Ok(ArtifactLayer {
        descriptor: layer.clone(),
        format: LayerFormat::Raw,
        entries: LayerEntries { digest: layer.digest.clone(), entries: vec![entry] },
        warnings,
    })
}

fn unsupported(layer: &Descriptor, why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("layer {} ({}): {why}", layer.digest, layer.media_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, Digest};
    use crate::registry::RawManifest;

    fn layer(media_type: &str, annotations: &[(&str, &str)]) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest: Digest::of(Algorithm::Sha256, media_type.as_bytes()),
            size: 5,
            annotations: annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            artifact_type: None,
            platform: None,
        }
    }

    fn paths(config: &str, layers: Vec<Descriptor>) -> Result<Vec<String>> {
        let manifest = Manifest {
            media_type: media_type::OCI_MANIFEST.into(),
            artifact_type: None,
            config: layer(config, &[]),
            layers,
            annotations: Default::default(),
        };
        let raw = RawManifest {
            digest: Digest::of(Algorithm::Sha256, b"manifest"),
            media_type: None,
            bytes: bytes::Bytes::new(),
        };
        let artifact = apply(&"localhost/a".parse().unwrap(), &raw, &manifest)?;
        Ok(artifact.layers.iter().map(|layer| layer.entries.entries[0].path.to_string()).collect())
    }

    #[test]
    fn raw_layers_are_named_by_their_producers_rules() {
        let weight = "application/vnd.cncf.model.weight.v1.raw";
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let layers = vec![
            layer(weight, &[("org.cncf.model.filepath", "./a/w.safetensors"), (TITLE, "w")]),
            layer("application/vnd.cnai.model.doc.v1.raw", &[("org.cnai.model.filepath", "README")]),
            layer(tar, &[(TITLE, "b/model.gguf")]),
            layer("text/plain", &[("org.cncf.model.filepath", "notes")]),
        ];
        let named = paths("application/vnd.oci.empty.v1+json", layers).unwrap();
        assert_eq!(named, ["a/w.safetensors", "README", "b/model.gguf", "notes"]);
    }

    #[test]
    fn a_layer_without_a_name_appears_under_its_digest() {
        let nameless = layer("application/octet-stream", &[]);
        let named = paths("a/b", vec![nameless.clone()]).unwrap();
        assert_eq!(named, [format!("sha256-{}", nameless.digest.hex())]);
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_digest_and_media_type() {
        for refused in [
            layer("application/vnd.cncf.model.weight.v1.tar", &[(TITLE, "x")]),
            layer("application/vnd.oci.image.layer.v1.tar+gzip", &[]),
            layer("application/vnd.oci.image.layer.v1.tar", &[(TITLE, "x"), (ORAS_UNPACK, "true")]),
            layer("application/vnd.ollama.image.model", &[]),
            layer("application/vnd.kitops.modelkit.model.v1.raw+gzip", &[(FILEPATH[0], "x")]),
        ] {
            let error = paths("a/b", vec![refused.clone()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", refused.media_type);
            let text = error.to_string();
            assert!(text.contains(refused.digest.as_str()) && text.contains(&refused.media_type), "{text}");
        }
        let image = layer("application/vnd.oci.image.layer.v1.tar", &[(TITLE, "x")]);
        assert!(paths(media_type::OCI_IMAGE_CONFIG, vec![image]).is_err());
    }

    #[test]
    fn an_empty_artifact_is_an_error_not_an_empty_directory() {
        assert_eq!(paths("a/b", Vec::new()).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_path_that_leads_out_names_the_layer() {
        let hostile = layer("a/b", &[(TITLE, "a/../../etc/passwd")]);
        let error = paths("a/b", vec![hostile.clone()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.chain().contains(hostile.digest.as_str()), "{}", error.chain());
    }
}
