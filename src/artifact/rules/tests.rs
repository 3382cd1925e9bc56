//! Manifests as their producers write them, and what becomes of them.
//!
//! Each is the producer's own document, key by key, with short blobs; where the facts are from is said beside
//! it, as project and file.

use super::*;
use crate::base::{Algorithm, Digest};
use crate::oci::{Document, SourceRef};
use crate::registry::RawManifest;

const TITLE: &str = "org.opencontainers.image.title";
const FILEPATH: &str = "org.cncf.model.filepath";

/// The digest of the blob that a test calls `name`.
fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

/// Applies the rules to a manifest in which each `@name` stands for the digest of the blob of this name.
fn apply_to(document: &str) -> Result<Artifact> {
    let mut text = String::new();
    for (number, part) in document.split('@').enumerate() {
        let name: String = part.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        match number {
            0 => text.push_str(part),
            _ => text.push_str(&format!("{}{}", digest(&name), &part[name.len()..])),
        }
    }
    let reference: SourceRef = "localhost/a".parse().unwrap();
    let raw = RawManifest {
        digest: Digest::of(Algorithm::Sha256, text.as_bytes()),
        media_type: None,
        bytes: text.clone().into(),
    };
    let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else {
        panic!("an index")
    };
    apply(&reference, &raw, &manifest)
}

fn path(layer: &ArtifactLayer) -> String {
    layer.file.path.to_string()
}

/// Rule and path of each layer.
fn taken(document: &str) -> Vec<(&'static str, String)> {
    let artifact = apply_to(document).unwrap_or_else(|error| panic!("{}: {document}", error.chain()));
    artifact.layers.iter().map(|layer| (layer.rule, path(layer))).collect()
}

fn assert_taken(document: &str, expected: &[(&str, &str)]) {
    let taken = taken(document);
    let taken: Vec<(&str, &str)> = taken.iter().map(|(rule, path)| (*rule, path.as_str())).collect();
    assert_eq!(taken, expected);
}

fn layer(media_type: &str, annotations: &[(&str, &str)]) -> Descriptor {
    let mut layer = Descriptor::new(media_type, digest(media_type), 5);
    layer.annotations = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    layer
}

/// Applies the rules to a manifest of one layer.
fn apply_to_one(config: &str, layer: &Descriptor) -> Result<Artifact> {
    let manifest = Manifest {
        media_type: media_type::OCI_MANIFEST.into(),
        artifact_type: None,
        config: Descriptor::new(config, digest("config"), 2),
        layers: vec![layer.clone()],
        annotations: Default::default(),
    };
    let raw = RawManifest { digest: digest("manifest"), media_type: None, bytes: bytes::Bytes::new() };
    apply(&"localhost/a".parse().unwrap(), &raw, &manifest)
}

/// modelpack/modctl, pkg/backend/build (`--raw`; interceptor/nydus.go adds checksums for Nydus to layers that
/// are whole files all the same); modelpack/model-spec, docs/spec.md.
#[test]
fn modelpack() {
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "artifactType":"application/vnd.cncf.model.manifest.v1+json",
        "config":{"mediaType":"application/vnd.cncf.model.config.v1+json","digest":"@config","size":301},
        "layers":[
        {"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":"@w","size":9,"annotations":{
          "org.cncf.model.file.mediatype.untested":"true",
          "org.cncf.model.file.metadata+json":"{\"name\":\"w.safetensors\",\"mode\":420,\"uid\":0,\"gid\":0,\"size\":9,\"mtime\":\"2025-03-31T12:05:30Z\",\"typeflag\":48}",
          "org.cncf.model.filepath":"./weights/w.safetensors","org.opencontainers.image.title":"w"}},
        {"mediaType":"application/vnd.cncf.model.dataset.v1.raw","digest":"@d","size":1,"annotations":{
          "org.cnai.nydus.crcs":"{\"files\":[]}","org.cncf.model.filepath":"d.csv"}}]}"#,
        &[("modelpack", "weights/w.safetensors"), ("modelpack", "d.csv")],
    );
}

/// CloudNativeAI/model-spec before its move to CNCF, specs-go/v1/mediatype.go and annotations.go.
#[test]
fn modelpack_by_its_older_names() {
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "artifactType":"application/vnd.cnai.model.manifest.v1+json",
        "config":{"mediaType":"application/vnd.cnai.model.config.v1+json","digest":"@config","size":3},
        "layers":[
        {"mediaType":"application/vnd.cnai.model.doc.v1.raw","digest":"@doc","size":4,"annotations":{
          "org.cnai.model.file.metadata+json":"{\"name\":\"README\",\"mode\":384,\"uid\":7}",
          "org.cnai.model.filepath":"README"}},
        {"mediaType":"application/vnd.cnai.model.weight.v1.raw","digest":"@both","size":4,"annotations":{
          "org.cnai.model.filepath":"older","org.cncf.model.filepath":"newer"}}]}"#;
    assert_taken(manifest, &[("modelpack", "README"), ("modelpack", "newer")]);
    let layers = apply_to(manifest).unwrap().layers;
    let entry = &layers[0].file;
    assert_eq!((entry.mode, entry.uid), (0o600, 7));
}

/// kitops-ml/kitops, pkg/lib/constants/mediatype/kitops.go and pkg/lib/filesystem/local-storage.go.
#[test]
fn kitops_with_its_kitfile() {
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "artifactType":"application/vnd.kitops.modelkit.manifest.v1+json",
        "config":{"mediaType":"application/vnd.kitops.modelkit.config.v1+json","digest":"@config","size":321},
        "layers":[
        {"mediaType":"application/vnd.kitops.modelkit.model.v1.raw","digest":"@m","size":7,"annotations":{
          "org.cncf.model.filepath":"model.onnx"}},
        {"mediaType":"application/vnd.kitops.modelkit.docs.v1.raw","digest":"@d","size":7,"annotations":{
          "org.cncf.model.filepath":"docs/README.md"}}],
        "annotations":{"ml.kitops.modelkit.cli-version":"1.6.0"}}"#;
    assert_taken(manifest, &[("kitfile", "Kitfile"), ("kitops", "model.onnx"), ("kitops", "docs/README.md")]);
    let kitfile = &apply_to(manifest).unwrap().layers[0];
    assert_eq!(kitfile.descriptor.digest, digest("config"), "checked against its own digest");
    assert_eq!(kitfile.file.kind, EntryKind::whole_stream(321));

    let own = manifest.replace("model.onnx", "Kitfile");
    assert_eq!(taken(&own)[0], ("kitops", "Kitfile".into()));
    assert_eq!(apply_to(&own).unwrap().warnings.len(), 1);
    let error = apply_to(&manifest.replace(":321", ":5000000")).unwrap_err();
    assert!(error.to_string().contains("claims 5000000 bytes"), "{error}");
}

/// A ModelKit of nothing but a package description is still its Kitfile.
#[test]
fn kitops_without_layers() {
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "artifactType":"application/vnd.kitops.modelkit.manifest.v1+json",
        "config":{"mediaType":"application/vnd.kitops.modelkit.config.v1+json","digest":"@config","size":3},
        "layers":[]}"#,
        &[("kitfile", "Kitfile")],
    );
}

/// oras-project/oras, `oras push REF model/config.json notes.txt:text/plain`; oras-go, pack.go.
#[test]
fn oras() {
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "artifactType":"application/vnd.unknown.artifact.v1",
        "config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"@empty","size":2,"data":"e30="},
        "layers":[
        {"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@c","size":3,
         "annotations":{"org.opencontainers.image.title":"model/config.json"}},
        {"mediaType":"text/plain","digest":"@n","size":3,
         "annotations":{"org.opencontainers.image.title":"notes.txt"}},
        {"mediaType":"application/gzip","digest":"@z","size":3,
         "annotations":{"org.opencontainers.image.title":"data.csv.gz"}}],
        "annotations":{"org.opencontainers.image.created":"2025-01-01T00:00:00Z"}}"#,
        &[("general", "model/config.json"), ("general", "notes.txt"), ("general", "data.csv.gz")],
    );
}

/// containers/podman, pkg/libartifact/store/store.go: `podman artifact add` titles each file.
#[test]
fn podman() {
    let nameless = format!("sha256-{}", digest("n").hex());
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"@empty","size":2,"data":"e30="},
        "layers":[
        {"mediaType":"application/octet-stream","digest":"@f","size":3,
         "annotations":{"org.opencontainers.image.title":"weights.bin"}},
        {"mediaType":"text/plain; charset=utf-8","digest":"@n","size":3}]}"#,
        &[("general", "weights.bin"), ("general", &nameless)],
    );
}

/// docker/model-runner, pkg/distribution/types and pkg/distribution/internal/bundle/unpack.go.
#[test]
fn docker_model_runner_counts_its_shards() {
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.docker.ai.model.config.v0.1+json","size":363,"digest":"@config"},
        "layers":[
        {"mediaType":"application/vnd.docker.ai.gguf.v3","size":9,"digest":"@g"},
        {"mediaType":"application/vnd.docker.ai.mmproj","size":9,"digest":"@p"},
        {"mediaType":"application/vnd.docker.ai.chat.template.jinja","size":9,"digest":"@t"},
        {"mediaType":"application/vnd.docker.ai.license","size":13,"digest":"@l"}]}"#,
        &[
            ("docker-model-runner", "model.gguf"),
            ("docker-model-runner", "model.mmproj"),
            ("docker-model-runner", "template.jinja"),
            ("docker-model-runner", "LICENSE"),
        ],
    );
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.docker.ai.model.config.v0.1+json","size":3,"digest":"@config"},
        "layers":[
        {"mediaType":"application/vnd.docker.ai.gguf.v3","size":9,"digest":"@a"},
        {"mediaType":"application/vnd.docker.ai.license","size":13,"digest":"@l"},
        {"mediaType":"application/vnd.docker.ai.gguf.v3","size":9,"digest":"@b"},
        {"mediaType":"application/vnd.docker.ai.safetensors","size":9,"digest":"@s"}]}"#,
        &[
            ("docker-model-runner", "model-00001-of-00002.gguf"),
            ("docker-model-runner", "LICENSE"),
            ("docker-model-runner", "model-00002-of-00002.gguf"),
            ("docker-model-runner", "model.safetensors"),
        ],
    );
}

/// docker/model-runner, pkg/distribution/builder: configuration v0.2, every file with its path.
#[test]
fn docker_model_runner_with_paths() {
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.docker.ai.model.config.v0.2+json","size":3,"digest":"@config"},
        "layers":[
        {"mediaType":"application/vnd.docker.ai.safetensors","size":9,"digest":"@u","annotations":{
          "org.cncf.model.filepath":"unet/model.safetensors"}},
        {"mediaType":"application/vnd.docker.ai.safetensors","size":9,"digest":"@v","annotations":{
          "org.cncf.model.filepath":"vae/model.safetensors"}},
        {"mediaType":"application/vnd.docker.ai.model.file","size":9,"digest":"@f","annotations":{
          "org.cncf.model.filepath":"unet/config.json","org.cncf.model.file.mediatype.untested":"false"}}]}"#,
        &[
            ("docker-model-runner", "unet/model.safetensors"),
            ("docker-model-runner", "vae/model.safetensors"),
            ("docker-model-runner", "unet/config.json"),
        ],
    );
}

/// ollama/ollama, server/create.go and server/images.go; two licences as `llama3.2` has them.
#[test]
fn ollama() {
    assert_taken(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",
        "config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"@config","size":561},
        "layers":[
        {"mediaType":"application/vnd.ollama.image.model","digest":"@m","size":9,"from":"/root/.ollama/models/blobs/sha256-00"},
        {"mediaType":"application/vnd.ollama.image.projector","digest":"@j","size":9},
        {"mediaType":"application/vnd.ollama.image.template","digest":"@t","size":9},
        {"mediaType":"application/vnd.ollama.image.license","digest":"@l","size":9},
        {"mediaType":"application/vnd.ollama.image.license","digest":"@k","size":9},
        {"mediaType":"application/vnd.ollama.image.params","digest":"@p","size":9},
        {"mediaType":"application/vnd.ollama.image.adapter","digest":"@a","size":9},
        {"mediaType":"application/vnd.ollama.image.adapter","digest":"@b","size":9}]}"#,
        &[
            ("ollama", "model.gguf"),
            ("ollama", "projector.gguf"),
            ("ollama", "template"),
            ("ollama", "license"),
            ("ollama", "license-2"),
            ("ollama", "params"),
            ("ollama", "adapter.gguf"),
            ("ollama", "adapter-2.gguf"),
        ],
    );
}

/// ollama/ollama, manifest/layer.go (`name`) and x/create: models of safetensors, a layer for each tensor.
#[test]
fn ollama_of_tensors() {
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",
        "config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"@config","size":5},
        "layers":[
        {"mediaType":"application/vnd.ollama.image.tensor","digest":"@t","size":9,"name":"text_encoder/model.embed_tokens.weight"},
        {"mediaType":"application/vnd.ollama.image.json","digest":"@j","size":9,"name":"text_encoder/config.json"}]}"#;
    assert_taken(
        manifest,
        &[("ollama", "text_encoder/model.embed_tokens.weight"), ("ollama", "text_encoder/config.json")],
    );
    let hostile = manifest.replace("text_encoder/config.json", "../config.json");
    let error = apply_to(&hostile).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.chain().contains(digest("j").as_str()), "{}", error.chain());
}

/// CNCF TAG Runtime, "Wasm OCI Artifact layout"; bytecodealliance/wasm-pkg-tools, crates/wkg.
#[test]
fn wasm() {
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.wasm.config.v0+json","digest":"@config","size":235},
        "layers":[{"mediaType":"application/wasm","digest":"@w","size":9}]}"#;
    assert_taken(manifest, &[("wasm", "module.wasm")]);
    let titled = manifest
        .replace(r#""size":9"#, r#""size":9,"annotations":{"org.opencontainers.image.title":"hello.wasm"}"#);
    assert_taken(&titled, &[("wasm", "hello.wasm")]);
    let other = manifest.replace("application/vnd.wasm.config.v0+json", media_type::OCI_EMPTY);
    assert_eq!(taken(&other)[0].0, "general", "under another configuration it is any file");
}

#[test]
fn the_reason_names_the_rule_and_the_place_of_the_path() {
    let reason = |layer: &Descriptor| apply_to_one("a/b", layer).unwrap().layers[0].reason.clone();
    for (layer, words) in [
        (layer("application/vnd.cncf.model.doc.v1.raw", &[(FILEPATH, "x")]), ["ModelPack", FILEPATH]),
        (layer("text/plain", &[(TITLE, "x")]), ["no known producer", TITLE]),
        (layer("text/plain", &[]), ["no known producer", "digest"]),
        (layer("application/vnd.ollama.image.model", &[]), ["Ollama", "its kind's"]),
    ] {
        let reason = reason(&layer);
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
    }
}

#[test]
fn a_layer_without_a_name_appears_under_its_digest_with_a_warning() {
    for media_type in ["application/octet-stream", "application/vnd.ollama.image.tensor"] {
        let nameless = layer(media_type, &[]);
        let artifact = apply_to_one("a/b", &nameless).unwrap();
        assert_eq!(path(&artifact.layers[0]), format!("sha256-{}", nameless.digest.hex()));
        assert!(artifact.layers[0].warnings[0].contains("names no file"));
    }
}

#[test]
fn a_layer_that_a_registry_need_not_hold_has_a_warning() {
    let foreign = layer("application/vnd.oci.image.layer.nondistributable.v1.tar", &[(TITLE, "x")]);
    let warnings = &apply_to_one("a/b", &foreign).unwrap().layers[0].warnings;
    assert!(warnings[0].contains("not distributable"), "{warnings:?}");
}

#[test]
fn archives_are_told_by_their_media_types_and_annotations() {
    let archives = [
        ("modelpack", layer("application/vnd.cncf.model.weight.v1.tar", &[(FILEPATH, "x")])),
        ("modelpack", layer("application/vnd.cnai.model.weight.v1.tar+gzip", &[(FILEPATH, "x")])),
        ("general", layer("application/vnd.oci.image.layer.v1.tar+gzip", &[])),
        (
            "general",
            layer(
                "application/vnd.oci.image.layer.v1.tar",
                &[(TITLE, "x"), ("io.deis.oras.content.unpack", "true")],
            ),
        ),
        ("general", layer("application/octet-stream", &[("io.deis.oras.content.unpack", "true")])),
        ("docker-model-runner", layer("application/vnd.docker.ai.vllm.config.tar", &[])),
        ("docker-model-runner", layer("application/vnd.docker.ai.dir.tar", &[(FILEPATH, "x")])),
        ("helm", layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip", &[])),
        ("flux", layer("application/vnd.cncf.flux.content.v1.tar+gzip", &[])),
        ("kitops", layer("application/vnd.kitops.modelkit.model.v1.tar+zstd", &[])),
    ];
    for (rule, layer) in archives {
        let artifact = apply_to_one("a/b", &layer).unwrap();
        let taken = &artifact.layers[0];
        assert_eq!((taken.format, taken.rule), (LayerFormat::Archive, rule), "{}", layer.media_type);
        assert!(taken.warnings.is_empty() && !taken.is_rootfs, "{:?}", taken.warnings);
        // What it is if its bytes are no archive.
        let name = layer.annotations.get(TITLE).or(layer.annotations.get(FILEPATH));
        let expected = name.cloned().unwrap_or_else(|| format!("sha256-{}", layer.digest.hex()));
        assert_eq!(path(taken), expected);
    }
}

#[test]
fn one_file_may_be_compressed() {
    let raw = layer("application/vnd.kitops.modelkit.model.v1.raw+gzip", &[(FILEPATH, "model.bin")]);
    let artifact = apply_to_one("a/b", &raw).unwrap();
    assert_eq!(
        (artifact.layers[0].format, path(&artifact.layers[0])),
        (LayerFormat::Compressed, "model.bin".into())
    );
}

#[test]
fn layers_of_an_image_are_a_root_file_system() {
    for media_type in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        let artifact =
            apply_to_one(media_type::OCI_IMAGE_CONFIG, &layer(media_type, &[(TITLE, "x")])).unwrap();
        let taken = &artifact.layers[0];
        assert_eq!((artifact.kind, taken.format, taken.rule), (Kind::Image, LayerFormat::Archive, "image"));
        assert!(taken.is_rootfs);
    }
}

/// containerd/nydus-snapshotter, pkg/converter/constant.go; containerd/accelerated-container-image,
/// pkg/label/label.go and cmd/convertor/builder/builder_engine.go.
#[test]
fn formats_of_other_snapshotters_are_refused_by_their_names() {
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let tar = "application/vnd.oci.image.layer.v1.tar";
    for (layer, format) in [
        (layer("application/vnd.oci.image.layer.nydus.blob.v1", &[]), "Nydus (RAFS blobs)"),
        (layer(gzip, &[("containerd.io/snapshot/nydus-blob", "true")]), "Nydus (RAFS blobs)"),
        (layer(gzip, &[("containerd.io/snapshot/nydus-bootstrap", "true")]), "RAFS bootstrap"),
        (layer(tar, &[("containerd.io/snapshot/overlaybd/blob-digest", "sha256:0")]), "overlaybd"),
        (
            layer(gzip, &[("containerd.io/snapshot/overlaybd/turbo-oci/target-digest", "sha256:0")]),
            "TurboOCI",
        ),
    ] {
        let error = apply_to_one(media_type::OCI_IMAGE_CONFIG, &layer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.chain();
        assert!(text.contains(format) && text.contains(layer.digest.as_str()), "{text}");
    }
    let error = apply_to(
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "artifactType":"application/vnd.containerd.overlaybd.native.v1+json",
        "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@config","size":5},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@l","size":9}]}"#,
    )
    .unwrap_err();
    assert!(error.chain().contains("overlaybd is not supported"), "{}", error.chain());
}

#[test]
fn an_empty_artifact_is_an_error_not_an_empty_directory() {
    let error = apply_to(
        r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"@config","size":5},"layers":[]}"#,
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_path_that_leads_out_names_the_layer() {
    let hostile = layer("a/b", &[(TITLE, "a/../../etc/passwd")]);
    let error = apply_to_one("a/b", &hostile).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.chain().contains(hostile.digest.as_str()), "{}", error.chain());
}
