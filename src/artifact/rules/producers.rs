//! Who makes which layers: the table of the rules, the first that fits counts.
//!
//! A row says of a layer's media type whose it is and where its file's name is looked for. What a row leaves
//! out is the same for all producers: [`super::form`] and [`super::naming`].

use crate::oci::Descriptor;

use super::super::Kind;

use super::naming::NameSource::{self, DescriptorName, Filepath, Fixed, MediaTypeEnd, Shards, Title};

/// Whose rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Producer {
    ModelPack,
    KitOps,
    DockerModelRunner,
    Ollama,
    Helm,
    Flux,
    Wasm,
    /// The manifest's, when it is an image.
    Image,
    General,
}

impl Producer {
    /// The name that `inspect` shows and scripts compare.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ModelPack => "modelpack",
            Self::KitOps => "kitops",
            Self::DockerModelRunner => "docker-model-runner",
            Self::Ollama => "ollama",
            Self::Helm => "helm",
            Self::Flux => "flux",
            Self::Wasm => "wasm",
            Self::Image => "image",
            Self::General => "general",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::ModelPack => "ModelPack's",
            Self::KitOps => "KitOps's",
            Self::DockerModelRunner => "Docker Model Runner's",
            Self::Ollama => "Ollama's",
            Self::Helm => "Helm's",
            Self::Flux => "Flux's",
            Self::Wasm => "that of a Wasm module",
            Self::Image => "that of an image's layer",
            Self::General => "no known producer's",
        }
    }
}

/// The media types of a rule.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    /// This one.
    Is(&'static str),
    /// All that begin so.
    Begins(&'static str),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) producer: Producer,
    /// The media types of the layers.
    media_type: Pattern,
    /// What the manifest's configuration must be, where the layer's media type alone decides too little.
    config: Option<&'static str>,
    /// Where the name is looked for, in this order; the blob's digest comes last.
    pub(super) names: &'static [NameSource],
}

impl Rule {
    const fn new(producer: Producer, media_type: Pattern, names: &'static [NameSource]) -> Self {
        Self { producer, media_type, config: None, names }
    }

    fn fits(&self, media_type: &str, config: &str) -> bool {
        self.config.is_none_or(|wanted| wanted == config)
            && match self.media_type {
                Pattern::Is(name) => media_type == name,
                Pattern::Begins(prefix) => media_type.starts_with(prefix),
            }
    }

    /// The part of the media type that the rule leaves open.
    pub(super) fn media_type_end<'a>(&self, media_type: &'a str) -> &'a str {
        match self.media_type {
            Pattern::Is(name) | Pattern::Begins(name) => media_type.strip_prefix(name).unwrap_or_default(),
        }
    }

    /// Whether its producer means what the media type says about archives and compression.
    pub(super) fn is_exact(&self) -> bool {
        self.producer != Producer::General
    }

    /// Why the rule applies, for `inspect`.
    pub(super) fn why(&self) -> String {
        format!("the media type is {}", self.producer.title())
    }
}

/// The rule of `layer` in a manifest of this `kind` whose configuration is a `config`.
pub(super) fn rule_of(layer: &Descriptor, config: &str, kind: Kind) -> &'static Rule {
    if kind == Kind::Image {
        return &IMAGE;
    }
    RULES.iter().find(|rule| rule.fits(&layer.media_type, config)).unwrap_or(&GENERAL)
}

use Pattern::{Begins, Is};
use Producer::{DockerModelRunner, Flux, Helm, KitOps, ModelPack, Ollama, Wasm};

/// ORAS and `podman artifact` title their files and leave the media type to the user; the last resort is
/// podman's as well (containers/podman, pkg/libartifact/store/store.go: digests in place of missing titles).
const GENERAL: Rule = Rule::new(Producer::General, Begins(""), &[Title, Filepath]);

/// Image-spec, layer.md. What its files are called stands in the layer.
const IMAGE: Rule = Rule::new(Producer::Image, Begins(""), &[]);

const RULES: [Rule; 23] = [
    // modelpack/model-spec, docs/spec.md and docs/annotations.md; `cnai` before it became CNCF's.
    Rule::new(ModelPack, Begins("application/vnd.cncf.model."), &[Filepath, Title]),
    Rule::new(ModelPack, Begins("application/vnd.cnai.model."), &[Filepath, Title]),
    // kitops-ml/kitops, pkg/lib/constants/mediatype/kitops.go; pkg/lib/filesystem/raw.go.
    Rule::new(KitOps, Begins("application/vnd.kitops.modelkit."), &[Filepath, Title]),
    // docker/model-runner, pkg/distribution/types (media types, annotation) and
    // pkg/distribution/internal/bundle/unpack.go (names). The types of GGUF adapters and projectors are those
    // of docker/model-spec, spec.md, version 0.1.
    Rule::new(
        DockerModelRunner,
        Is("application/vnd.docker.ai.gguf.v3"),
        &[Filepath, Shards("model", "gguf")],
    ),
    Rule::new(
        DockerModelRunner,
        Is("application/vnd.docker.ai.safetensors"),
        &[Filepath, Shards("model", "safetensors")],
    ),
    Rule::new(DockerModelRunner, Is("application/vnd.docker.ai.dduf"), &[Filepath, Fixed("model.dduf")]),
    Rule::new(DockerModelRunner, Is("application/vnd.docker.ai.mmproj"), &[Filepath, Fixed("model.mmproj")]),
    Rule::new(
        DockerModelRunner,
        Is("application/vnd.docker.ai.gguf.v3.mmproj"),
        &[Filepath, Fixed("model.mmproj")],
    ),
    Rule::new(
        DockerModelRunner,
        Is("application/vnd.docker.ai.gguf.v3.lora"),
        &[Filepath, Fixed("adapter.gguf")],
    ),
    Rule::new(
        DockerModelRunner,
        Is("application/vnd.docker.ai.chat.template.jinja"),
        &[Filepath, Fixed("template.jinja")],
    ),
    Rule::new(DockerModelRunner, Is("application/vnd.docker.ai.license"), &[Filepath, Fixed("LICENSE")]),
    Rule::new(DockerModelRunner, Begins("application/vnd.docker.ai."), &[Filepath, Title]),
    // ollama/ollama, manifest/layer.go (the descriptor's keys), server/images.go (the kinds).
    Rule::new(Ollama, Is("application/vnd.ollama.image.json"), &[DescriptorName]),
    Rule::new(Ollama, Is("application/vnd.ollama.image.tensor"), &[DescriptorName]),
    Rule::new(Ollama, Is("application/vnd.ollama.image.model"), &[Fixed("model.gguf")]),
    Rule::new(Ollama, Is("application/vnd.ollama.image.projector"), &[Fixed("projector.gguf")]),
    Rule::new(Ollama, Is("application/vnd.ollama.image.adapter"), &[Fixed("adapter.gguf")]),
    Rule::new(Ollama, Begins("application/vnd.ollama.image."), &[MediaTypeEnd]),
    // helm/helm, pkg/registry/constants.go.
    Rule::new(Helm, Begins("application/vnd.cncf.helm."), &[Title, Filepath]),
    // fluxcd/pkg, oci/constants.go.
    Rule::new(Flux, Begins("application/vnd.cncf.flux.content.v1"), &[Title, Filepath]),
    // CNCF TAG Runtime, "Wasm OCI Artifact layout"; the other types are those of its forerunner,
    // engineerd/wasm-to-oci (pkg/oci/types.go).
    Rule {
        producer: Wasm,
        media_type: Is("application/wasm"),
        config: Some("application/vnd.wasm.config.v0+json"),
        names: &[Title, Fixed("module.wasm")],
    },
    Rule::new(Wasm, Is("application/vnd.wasm.content.layer.v1+wasm"), &[Title, Fixed("module.wasm")]),
    Rule::new(Wasm, Is("application/vnd.module.wasm.content.layer.v1+wasm"), &[Title, Fixed("module.wasm")]),
];
