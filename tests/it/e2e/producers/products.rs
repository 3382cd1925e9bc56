//! The artifacts, each with the source of what it follows.

use bytes::Bytes;

use crate::support::artifact::digest_of;
use crate::support::producers::{Files, Layer, Product, gzip, tar, zstd};
use crate::workplace::shard;

const FILEPATH: &str = "org.cncf.model.filepath";
const METADATA: &str = "org.cncf.model.file.metadata+json";
const TITLE: &str = "org.opencontainers.image.title";
const UNPACK: &str = "io.deis.oras.content.unpack";
const EMPTY: (&str, &str) = ("application/vnd.oci.empty.v1+json", "{}");

/// The path under which a layer appears that nothing names.
fn fallback(layer: &Layer) -> String {
    format!("sha256-{}", digest_of(&layer.bytes).hex())
}

/// An archive of a directory with two files.
pub(super) fn archive() -> Vec<u8> {
    tar(&[
        ("weights/", 0o750, b""),
        ("weights/model.bin", 0o640, &shard()),
        ("weights/deep/", 0o755, b""),
        ("weights/deep/run.sh", 0o755, b"#!/bin/sh\n"),
    ])
}

pub(super) fn archive_files() -> Files {
    Files::from([
        ("weights/model.bin".into(), (0o640, shard().into())),
        ("weights/deep/run.sh".into(), (0o755, Bytes::from_static(b"#!/bin/sh\n"))),
    ])
}

fn with_archive(mut product: Product) -> Product {
    product.files.extend(archive_files());
    product
}

/// CNCF's model-spec (docs/spec.md, docs/annotations.md), packed by modctl in its two ways.
pub(super) fn modelpack() -> Product {
    let card = b"# Card\n";
    let product = Product::new("modelpack", "application/vnd.cncf.model.config.v1+json", r#"{"descriptor":{}}"#)
        .artifact_type("application/vnd.cncf.model.manifest.v1+json")
        .layer(
            "modelpack",
            Layer::new("application/vnd.cncf.model.weight.v1.tar", archive())
                .annotated(FILEPATH, "weights")
                .annotated("org.cncf.model.file.mediatype.untested", "true"),
        )
        .layer(
            "modelpack",
            Layer::new(
                "application/vnd.cncf.model.weight.config.v1.tar+gzip",
                gzip(&tar(&[("config.json", 0o644, b"{}\n"), ("tokenizer/vocab.txt", 0o600, b"a\nb\n")])),
            ),
        )
        .layer(
            "modelpack",
            Layer::new(
                "application/vnd.cncf.model.dataset.v1.tar+zstd",
                zstd(&tar(&[("data/", 0o755, b""), ("data/train.csv", 0o644, &shard()[..1_500_000])])),
            ),
        )
        .layer(
            "modelpack",
            Layer::new("application/vnd.cncf.model.doc.v1.raw", &card[..]).annotated(FILEPATH, "README.md").annotated(
                METADATA,
                r#"{"name":"README.md","mode":493,"uid":0,"gid":0,"size":7,"mtime":"2024-01-01T00:00:00Z","typeflag":48}"#,
            ),
        );
    with_archive(product)
        .file("config.json", 0o644, &b"{}\n"[..])
        .file("tokenizer/vocab.txt", 0o600, &b"a\nb\n"[..])
        .file("data/train.csv", 0o644, shard()[..1_500_000].to_vec())
        .file("README.md", 0o755, &card[..])
}

/// The same under the names before it became CNCF's.
pub(super) fn modelpack_of_cnai() -> Product {
    let product =
        Product::new("modelpack (cnai)", "application/vnd.cnai.model.config.v1+json", r#"{"descriptor":{}}"#)
            .artifact_type("application/vnd.cnai.model.manifest.v1+json")
            .layer(
                "modelpack",
                Layer::new("application/vnd.cnai.model.weight.v1.tar", archive())
                    .annotated("org.cnai.model.filepath", "weights"),
            )
            .layer(
                "modelpack",
                Layer::new(
                    "application/vnd.cnai.model.code.v1.tar+gzip",
                    gzip(&tar(&[("a.py", 0o644, b"1\n")])),
                ),
            )
            .layer(
                "modelpack",
                Layer::new("application/vnd.cnai.model.weight.config.v1.raw", &b"{}\n"[..])
                    .annotated("org.cnai.model.filepath", "config.json")
                    .annotated("org.cnai.model.file.metadata+json", r#"{"mode":384}"#),
            );
    with_archive(product).file("a.py", 0o644, &b"1\n"[..]).file("config.json", 0o600, &b"{}\n"[..])
}

/// The bytes decide, not the media type.
pub(super) fn modelpack_otherwise_compressed() -> Product {
    let layer = |kind: &str, bytes: Vec<u8>| Layer::new(&format!("application/vnd.cncf.model.{kind}"), bytes);
    let product =
        Product::new("modelpack, otherwise compressed", "application/vnd.cncf.model.config.v1+json", "{}")
            .artifact_type("application/vnd.cncf.model.manifest.v1+json")
            .layer("modelpack", layer("weight.v1.tar", gzip(&archive())))
            .layer("modelpack", layer("code.v1.tar+gzip", zstd(&tar(&[("a.py", 0o644, b"1\n")]))))
            .layer("modelpack", layer("doc.v1.tar+zstd", tar(&[("b.md", 0o644, b"2\n")])));
    with_archive(product).file("a.py", 0o644, &b"1\n"[..]).file("b.md", 0o644, &b"2\n"[..])
}

/// The layer with the higher index wins (KEP-4639).
pub(super) fn modelpack_twice() -> Product {
    let layer = |bytes: Vec<u8>| Layer::new("application/vnd.cncf.model.weight.v1.tar", bytes);
    Product::new("modelpack, one path twice", "application/vnd.cncf.model.config.v1+json", "{}")
        .artifact_type("application/vnd.cncf.model.manifest.v1+json")
        .layer("modelpack", layer(tar(&[("a", 0o644, b"first"), ("b", 0o644, b"only in the first")])))
        .layer(
            "modelpack",
            layer(tar(&[("a", 0o600, b"second"), (".wh.b", 0o644, b"no mark in an artifact")])),
        )
        .file("a", 0o600, &b"second"[..])
        .file("b", 0o644, &b"only in the first"[..])
        .file(".wh.b", 0o644, &b"no mark in an artifact"[..])
}

/// kit pack (kitops-ml/kitops, pkg/lib/filesystem: tars from the kit's root; raw layers since version 1.6).
pub(super) fn kitops() -> Product {
    const TYPE: &str = "application/vnd.kitops.modelkit";
    let kitfile = r#"{"manifestVersion":"1.0.0","package":{"name":"demo"},"model":{"path":"weights"}}"#;
    let layer = |kind: &str, bytes: Vec<u8>| Layer::new(&format!("{TYPE}.{kind}"), bytes);
    let product = Product::new("kitops", "application/vnd.kitops.modelkit.config.v1+json", kitfile)
        .artifact_type("application/vnd.kitops.modelkit.manifest.v1+json")
        .layer("kitops", layer("model.v1.tar", archive()))
        .layer(
            "kitops",
            layer("code.v1.tar+gzip", gzip(&tar(&[("src/", 0o755, b""), ("src/a.py", 0o644, b"1\n")]))),
        )
        .layer("kitops", layer("docs.v1.tar+zstd", zstd(&tar(&[("docs/b.md", 0o644, b"2\n")]))))
        .layer("kitops", layer("dataset.v1.raw+gzip", gzip(b"x,y\n")).annotated(FILEPATH, "data/train.csv"))
        .layer("kitops", layer("modelpart.v1.raw", b"part".to_vec()).annotated(FILEPATH, "parts/lora.bin"))
        .shown_first("kitfile");
    with_archive(product)
        .file("Kitfile", 0o644, kitfile)
        .file("src/a.py", 0o644, &b"1\n"[..])
        .file("docs/b.md", 0o644, &b"2\n"[..])
        .file("data/train.csv", 0o644, &b"x,y\n"[..])
        .file("parts/lora.bin", 0o644, &b"part"[..])
}

/// oras push of a directory (oras-project/oras-go, content/file/file.go): whatever media type the user gave it.
pub(super) fn oras_directory() -> Product {
    let directory = |media_type: &str, title: &str, bytes: Vec<u8>| {
        Layer::new(media_type, gzip(&bytes))
            .annotated(TITLE, title)
            .annotated(UNPACK, "true")
            .annotated("io.deis.oras.content.digest", digest_of(&bytes).as_str())
    };
    let other = tar(&[("data/", 0o755, b""), ("data/a.csv", 0o644, b"1,2\n")]);
    let product = Product::new("oras", EMPTY.0, EMPTY.1)
        .artifact_type("application/vnd.example.model")
        .layer("general", directory("application/vnd.oci.image.layer.v1.tar+gzip", "weights", archive()))
        .layer("general", directory("application/vnd.example.data", "data", other))
        .layer(
            "general",
            Layer::new("application/vnd.oci.image.layer.v1.tar", "{}\n").annotated(TITLE, "conf/a.json"),
        );
    with_archive(product).file("data/a.csv", 0o644, &b"1,2\n"[..]).file("conf/a.json", 0o644, &b"{}\n"[..])
}

/// docker model package (docker/model-runner, pkg/distribution/types and internal/bundle/unpack.go).
pub(super) fn docker_model_runner() -> Product {
    const TYPE: &str = "application/vnd.docker.ai";
    let layer = |kind: &str, bytes: &[u8]| Layer::new(&format!("{TYPE}.{kind}"), bytes.to_vec());
    let rule = "docker-model-runner";
    let configuration = tar(&[("config.json", 0o644, b"{}\n"), ("tokenizer.json", 0o644, b"[]\n")]);
    let product =
        Product::new("docker model runner", "application/vnd.docker.ai.model.config.v0.1+json", "{}")
            .layer(rule, layer("safetensors", b"shard one"))
            .layer(rule, layer("safetensors", b"shard two"))
            .layer(rule, layer("vllm.config.tar", &configuration))
            .layer(rule, layer("dir.tar", &archive()))
            .layer(rule, layer("model.file", b"by path").annotated(FILEPATH, "deep/er/file.bin"))
            .layer(rule, layer("chat.template.jinja", b"{{ a }}"))
            .layer(rule, layer("license", b"MIT"));
    with_archive(product)
        .file("model-00001-of-00002.safetensors", 0o644, &b"shard one"[..])
        .file("model-00002-of-00002.safetensors", 0o644, &b"shard two"[..])
        .file("config.json", 0o644, &b"{}\n"[..])
        .file("tokenizer.json", 0o644, &b"[]\n"[..])
        .file("deep/er/file.bin", 0o644, &b"by path"[..])
        .file("template.jinja", 0o644, &b"{{ a }}"[..])
        .file("LICENSE", 0o644, &b"MIT"[..])
}

/// ollama create (ollama/ollama, manifest/layer.go): Docker's manifest, an image's configuration, names in the
/// descriptors.
pub(super) fn ollama() -> Product {
    let layer = |kind: &str, bytes: &[u8]| {
        Layer::new(&format!("application/vnd.ollama.image.{kind}"), bytes.to_vec())
    };
    Product::new("ollama", "application/vnd.docker.container.image.v1+json", r#"{"model_format":"gguf"}"#)
        .docker()
        .layer("ollama", layer("model", &shard()).with("from", "/models/blobs/sha256-1"))
        .layer("ollama", layer("template", b"{{ .Prompt }}"))
        .layer("ollama", layer("license", b"MIT"))
        .layer("ollama", layer("license", b"Apache-2.0"))
        .layer("ollama", layer("params", b"{\"stop\":[]}"))
        .layer("ollama", layer("json", b"{}").with("name", "tokenizer/config.json"))
        .file("model.gguf", 0o644, shard())
        .file("template", 0o644, &b"{{ .Prompt }}"[..])
        .file("license", 0o644, &b"MIT"[..])
        .file("license-2", 0o644, &b"Apache-2.0"[..])
        .file("params", 0o644, &b"{\"stop\":[]}"[..])
        .file("tokenizer/config.json", 0o644, &b"{}"[..])
}

/// helm push (helm/helm, pkg/registry/constants.go), with the signature that `--sign` adds.
pub(super) fn helm() -> Product {
    let chart =
        gzip(&tar(&[("demo/Chart.yaml", 0o644, b"name: demo\n"), ("demo/templates/a.yaml", 0o644, b"{}\n")]));
    let provenance =
        Layer::new("application/vnd.cncf.helm.chart.provenance.v1.prov", "-----BEGIN PGP SIGNED");
    let path = fallback(&provenance);
    Product::new("helm", "application/vnd.cncf.helm.config.v1+json", r#"{"name":"demo","version":"0.1.0"}"#)
        .layer("helm", Layer::new("application/vnd.cncf.helm.chart.content.v1.tar+gzip", chart))
        .layer("helm", provenance)
        .file("demo/Chart.yaml", 0o644, &b"name: demo\n"[..])
        .file("demo/templates/a.yaml", 0o644, &b"{}\n"[..])
        .file(&path, 0o644, "-----BEGIN PGP SIGNED")
}

/// flux push artifact (fluxcd/pkg, oci/constants.go).
pub(super) fn flux() -> Product {
    let archive = gzip(&tar(&[("kustomization.yaml", 0o644, b"{}\n"), ("apps/a.yaml", 0o600, b"a: 1\n")]));
    Product::new("flux", "application/vnd.cncf.flux.config.v1+json", "{}")
        .layer("flux", Layer::new("application/vnd.cncf.flux.content.v1.tar+gzip", archive))
        .file("kustomization.yaml", 0o644, &b"{}\n"[..])
        .file("apps/a.yaml", 0o600, &b"a: 1\n"[..])
}

/// wkg oci push ("Wasm OCI Artifact layout" of the CNCF's TAG Runtime).
pub(super) fn wasm() -> Product {
    let module = b"\0asm\x0d\0\x01\0";
    Product::new("wasm", "application/vnd.wasm.config.v0+json", r#"{"architecture":"wasm","os":"wasip2"}"#)
        .layer("wasm", Layer::new("application/wasm", &module[..]))
        .file("module.wasm", 0o644, &module[..])
}

/// podman artifact add (containers/podman, pkg/libartifact/store); a layer without a title is another tool's.
pub(super) fn podman() -> Product {
    let untitled = Layer::new("application/octet-stream", "nothing names this");
    let path = fallback(&untitled);
    Product::new("podman", EMPTY.0, EMPTY.1)
        .artifact_type("application/vnd.example.podman")
        .layer("general", Layer::new("application/octet-stream", "titled").annotated(TITLE, "a.bin"))
        .layer("general", untitled)
        .file("a.bin", 0o644, "titled")
        .file(&path, 0o644, "nothing names this")
}

/// Media types that say tar, of bytes that are none. Each is one file, of the bytes as they are in the blob.
pub(super) fn no_tars() -> Vec<Product> {
    let product = |name, config, rule, media_type: &str, bytes: Vec<u8>| {
        let layer = Layer::new(media_type, bytes.clone());
        let path = fallback(&layer);
        Product::new(name, config, "{}").layer(rule, layer).file(&path, 0o644, bytes)
    };
    let (image, weight) =
        ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.cncf.model.weight.v1.tar");
    vec![
        product("text as tar+gzip", EMPTY.0, "general", image, b"neither gzip nor tar".to_vec()),
        product("gzip of no tar", EMPTY.0, "general", image, gzip(&shard())),
        product("weights as tar", "application/vnd.cncf.model.config.v1+json", "modelpack", weight, shard()),
    ]
}

/// What images were converted to for another snapshotter, and what the refusal has to name.
pub(super) fn conversions() -> Vec<(Product, &'static str)> {
    let image = "application/vnd.oci.image.config.v1+json";
    vec![
        (
            Product::new("nydus", image, "{}").layer(
                "",
                Layer::new("application/vnd.oci.image.layer.nydus.blob.v1", "blob")
                    .annotated("containerd.io/snapshot/nydus-blob", "true"),
            ),
            "Nydus",
        ),
        (
            Product::new("overlaybd", image, "{}").layer(
                "",
                Layer::new("application/vnd.oci.image.layer.v1.tar", "blob")
                    .annotated("containerd.io/snapshot/overlaybd/blob-digest", "sha256:1")
                    .annotated("containerd.io/snapshot/overlaybd/blob-size", "4"),
            ),
            "overlaybd",
        ),
    ]
}
