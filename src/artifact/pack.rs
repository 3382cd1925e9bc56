//! The making of a ModelPack artifact (CNCF model-spec 0.0.7) from files or archives whose blobs are stored already:
//! the configuration and the manifest.
//!
//! Pure: what is made depends on the arguments alone, so that the same files give the same digest.

use serde_json::{Value, json};

use crate::base::limits::LAYERS_MAX;
use crate::base::{Algorithm, Digest, Error, ErrorKind, RelPath, Result};
use crate::layer::Timestamp;
use crate::layer::encoding::Codec;
use crate::oci::media_type;

/// The artifact's type.
pub const ARTIFACT_TYPE: &str = "application/vnd.cncf.model.manifest.v1+json";
/// The type of its configuration.
const CONFIG_TYPE: &str = "application/vnd.cncf.model.config.v1+json";
/// A layer's file.
const FILEPATH: &str = "org.cncf.model.filepath";
/// What the file system knew about it.
const FILE_METADATA: &str = "org.cncf.model.file.metadata+json";
/// A layer's file, for those who know no models.
const TITLE: &str = "org.opencontainers.image.title";
/// The `typeflag` of a regular file, as tar has it: `'0'`.
const TYPEFLAG_REGULAR: u8 = b'0';

/// A file whose content is stored as a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedFile {
    /// Where it stands.
    pub path: RelPath,
    /// The blob of its content.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The time of its last change.
    pub mtime: Timestamp,
}

/// The documents of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The configuration's blob.
    pub config: Vec<u8>,
    /// The manifest.
    pub manifest: Vec<u8>,
}

/// Makes the documents for `files`, each a layer of its own, in the order of their paths.
///
/// # Errors
/// `Usage` for no files, more than a manifest may list, or a name that a manifest cannot hold.
pub fn documents(mut files: Vec<PackedFile>, created: Timestamp) -> Result<Packed> {
    if files.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "there are no files to pack"));
    }
    // The configuration counts among a manifest's blobs too.
    if files.len() >= LAYERS_MAX {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} files are more than the {} layers of one manifest", files.len(), LAYERS_MAX - 1),
        ));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    // A raw layer is its own content, so that both digests are the same.
    let diff_ids: Vec<&Digest> = files.iter().map(|file| &file.digest).collect();
    let layers = files.iter().map(layer).collect::<Result<Vec<Value>>>()?;
    of_layers(&diff_ids, &layers, created)
}

/// The files of one kind as an archive that is stored as a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedArchive {
    /// What it holds.
    pub kind: FileKind,
    /// The blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// The digest of the archive before it was compressed.
    pub diff_id: Digest,
    /// How it was compressed.
    pub compression: Option<Codec>,
}

/// Makes the documents for `archives`, each a layer, in the order of their kinds.
///
/// # Errors
/// `Usage` for no archives.
pub fn archive_documents(mut archives: Vec<PackedArchive>, created: Timestamp) -> Result<Packed> {
    if archives.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "there are no files to pack"));
    }
    archives.sort_by_key(|archive| archive.kind);
    let diff_ids: Vec<&Digest> = archives.iter().map(|archive| &archive.diff_id).collect();
    let layer = |archive: &PackedArchive| {
        let suffix = match archive.compression {
            None => "tar",
            Some(Codec::Gzip) => "tar+gzip",
            Some(Codec::Zstd) => "tar+zstd",
        };
        json!({
            "mediaType": format!("application/vnd.cncf.model.{}.v1.{suffix}", archive.kind.name()),
            "digest": archive.digest,
            "size": archive.size,
        })
    };
    let layers: Vec<Value> = archives.iter().map(layer).collect();
    of_layers(&diff_ids, &layers, created)
}

fn of_layers(diff_ids: &[&Digest], layers: &[Value], created: Timestamp) -> Result<Packed> {
    let config = json!({
        "descriptor": { "createdAt": rfc3339(created)? },
        "modelfs": { "type": "layers", "diffIds": diff_ids },
        "config": {},
    });
    let config = to_bytes(&config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": Digest::of(Algorithm::Sha256, &config),
            "size": config.len(),
        },
        "layers": layers,
    });
    Ok(Packed { config, manifest: to_bytes(&manifest)? })
}

fn layer(file: &PackedFile) -> Result<Value> {
    let path = text_path(&file.path)?;
    let name = path.rsplit('/').next().unwrap_or(path);
    let metadata = json!({
        "name": name,
        "mode": file.mode,
        "uid": file.uid,
        "gid": file.gid,
        "size": file.size,
        "mtime": rfc3339(file.mtime)?,
        "typeflag": TYPEFLAG_REGULAR,
    });
    Ok(json!({
        "mediaType": layer_media_type(name),
        "digest": file.digest,
        "size": file.size,
        "annotations": { FILEPATH: path, FILE_METADATA: metadata.to_string(), TITLE: path },
    }))
}

/// The path as text.
///
/// # Errors
/// `Usage` for one that is no UTF-8, since a manifest is.
pub fn text_path(path: &RelPath) -> Result<&str> {
    std::str::from_utf8(path.as_bytes()).map_err(|_| {
        Error::new(
            ErrorKind::Usage,
            format!("the name {path:?} is not UTF-8, which a manifest must be; rename it"),
        )
    })
}

fn to_bytes(document: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|error| Error::with_source(ErrorKind::Invalid, "cannot write a manifest", error))
}

fn rfc3339(time: Timestamp) -> Result<String> {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or_default();
    jiff::Timestamp::new(time.seconds, nanoseconds).map(|time| time.to_string()).map_err(|_| {
        Error::new(
            ErrorKind::Usage,
            format!("the time {} s since 1970 is outside of any calendar", time.seconds),
        )
    })
}

/// What a file is to a model (model-spec, "Layer media types"), in the order in which archives of them are layered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// Weights.
    Weight,
    /// What is needed to use them: configuration, tokenizers.
    WeightConfig,
    /// Documentation.
    Doc,
    /// Programs.
    Code,
    /// Data to train or to test with.
    Dataset,
}

impl FileKind {
    /// The kind of a file `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let lower = name.to_ascii_lowercase();
        let stem = lower.split('.').next().unwrap_or_default();
        if matches!(stem, "license" | "licence" | "notice" | "readme" | "copying" | "changelog") {
            return Self::Doc;
        }
        match lower.rsplit_once('.').map(|(_, extension)| extension) {
            Some(
                "safetensors" | "gguf" | "ggml" | "bin" | "pt" | "pth" | "ckpt" | "onnx" | "h5" | "npz"
                | "npy" | "pb" | "tflite" | "msgpack" | "engine" | "mlmodel" | "pdparams" | "dduf",
            ) => Self::Weight,
            Some(
                "json" | "yaml" | "yml" | "toml" | "txt" | "model" | "vocab" | "merges" | "tiktoken"
                | "jinja" | "cfg" | "ini" | "config" | "spm",
            ) => Self::WeightConfig,
            Some("md" | "rst" | "pdf" | "html" | "png" | "jpg" | "jpeg" | "svg" | "gif" | "webp") => {
                Self::Doc
            }
            Some(
                "py" | "sh" | "ipynb" | "c" | "cc" | "cpp" | "h" | "hpp" | "cu" | "rs" | "go" | "js" | "ts"
                | "lua" | "patch",
            ) => Self::Code,
            Some("parquet" | "arrow" | "csv" | "tsv" | "jsonl") => Self::Dataset,
            // Unknown kinds are mostly weights in a format of their own, and those are what must not be missed.
            Some(_) => Self::Weight,
            None => Self::Doc,
        }
    }

    /// Its name in media types.
    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::WeightConfig => "weight.config",
            Self::Doc => "doc",
            Self::Code => "code",
            Self::Dataset => "dataset",
        }
    }
}

/// The media type of the raw layer of a file `name`, by its kind.
#[must_use]
pub fn layer_media_type(name: &str) -> String {
    let kind = match FileKind::of(name) {
        // As ever, so that files packed again have the digest that they had.
        FileKind::Dataset => FileKind::Weight,
        kind => kind,
    };
    format!("application/vnd.cncf.model.{}.v1.raw", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Document;

    fn file(path: &str, content: &[u8]) -> PackedFile {
        PackedFile {
            path: path.parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, content),
            size: content.len() as u64,
            mode: 0o640,
            uid: 1000,
            gid: 100,
            mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 },
        }
    }

    #[test]
    fn a_manifest_lists_its_files_by_path_with_what_was_known_of_them() {
        let files =
            vec![file("shards/b.safetensors", b"b"), file("README.md", b"r"), file("config.json", b"")];
        let packed = documents(files, Timestamp { seconds: 0, nanoseconds: 0 }).unwrap();
        let Document::Manifest(manifest) = Document::parse(&packed.manifest, None).unwrap() else { panic!() };
        assert_eq!(manifest.artifact_type.as_deref(), Some(ARTIFACT_TYPE));
        assert_eq!(manifest.config.digest, Digest::of(Algorithm::Sha256, &packed.config));
        let paths: Vec<&str> =
            manifest.layers.iter().map(|layer| layer.annotations[FILEPATH].as_str()).collect();
        assert_eq!(paths, ["README.md", "config.json", "shards/b.safetensors"]);
        let shard = &manifest.layers[2];
        assert_eq!(shard.media_type, "application/vnd.cncf.model.weight.v1.raw");
        let metadata: Value = serde_json::from_str(&shard.annotations[FILE_METADATA]).unwrap();
        assert_eq!(
            metadata,
            json!({
                "name": "b.safetensors", "mode": 0o640, "uid": 1000, "gid": 100, "size": 1,
                "mtime": "2023-11-14T22:13:20.123456789Z", "typeflag": 48,
            })
        );
        let config: Value = serde_json::from_slice(&packed.config).unwrap();
        assert_eq!(config["descriptor"]["createdAt"], "1970-01-01T00:00:00Z");
        assert_eq!(config["modelfs"]["diffIds"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn the_order_of_the_files_does_not_change_the_artifact() {
        let (a, b) = (file("a", b"1"), file("b", b"2"));
        let created = Timestamp::default();
        let one = documents(vec![a.clone(), b.clone()], created).unwrap();
        assert_eq!(one, documents(vec![b, a], created).unwrap());
    }

    #[test]
    fn archives_are_layers_in_the_order_of_their_kinds() {
        let archive = |kind, content: &[u8], compression| PackedArchive {
            kind,
            digest: Digest::of(Algorithm::Sha256, content),
            size: content.len() as u64,
            diff_id: Digest::of(Algorithm::Sha512, content),
            compression,
        };
        let archives = vec![
            archive(FileKind::Dataset, b"d", None),
            archive(FileKind::Doc, b"doc", Some(Codec::Gzip)),
            archive(FileKind::Weight, b"w", Some(Codec::Zstd)),
        ];
        let packed = archive_documents(archives.clone(), Timestamp::default()).unwrap();
        let Document::Manifest(manifest) = Document::parse(&packed.manifest, None).unwrap() else { panic!() };
        let types: Vec<&str> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert_eq!(
            types,
            [
                "application/vnd.cncf.model.weight.v1.tar+zstd",
                "application/vnd.cncf.model.doc.v1.tar+gzip",
                "application/vnd.cncf.model.dataset.v1.tar",
            ]
        );
        let config: Value = serde_json::from_slice(&packed.config).unwrap();
        let diff_ids = [2, 1, 0].map(|at| archives[at].diff_id.as_str());
        assert_eq!(config["modelfs"]["diffIds"], json!(diff_ids));
    }

    #[test]
    fn nothing_to_pack_is_an_error() {
        assert_eq!(documents(Vec::new(), Timestamp::default()).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(archive_documents(Vec::new(), Timestamp::default()).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_name_that_json_cannot_hold_is_refused() {
        let mut bad = file("x", b"");
        bad.path = RelPath::parse(b"model-\xff.bin").unwrap();
        let error = documents(vec![bad], Timestamp::default()).unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn kinds_of_files() {
        for (name, kind) in [
            ("model-00001-of-00004.safetensors", "weight"),
            ("pytorch_model.BIN", "weight"),
            ("config.json", "weight.config"),
            ("tokenizer.model", "weight.config"),
            ("LICENSE", "doc"),
            ("LICENSE.txt", "doc"),
            ("README.md", "doc"),
            ("modeling.py", "code"),
            ("weights.unheard-of", "weight"),
            ("train.parquet", "weight"),
        ] {
            assert_eq!(layer_media_type(name), format!("application/vnd.cncf.model.{kind}.v1.raw"), "{name}");
        }
        assert_eq!(FileKind::of("train.parquet"), FileKind::Dataset);
    }
}
