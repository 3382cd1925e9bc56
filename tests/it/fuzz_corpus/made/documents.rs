//! Seeds that are text: manifests as producers write them, cut down, and references.

/// Manifests and indexes by label.
pub(super) const MANIFESTS: [(&str, &str); 9] = [
    (
        "titles",
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.example","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/octet-stream","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":3,"annotations":{"org.opencontainers.image.title":"a/b.txt"}}],"annotations":null}"#,
    ),
    (
        "modelpack",
        r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.model.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":9,"annotations":{"org.cncf.model.filepath":"model.safetensors","org.cncf.model.file.metadata+json":"{\"name\":\"a\",\"mode\":420,\"uid\":0,\"gid\":0,\"size\":9,\"mtime\":\"2024-01-01T00:00:00Z\",\"typeflag\":48}"}}]}"#,
    ),
    (
        "docker-model",
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.docker.ai.model.config.v0.1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.docker.ai.gguf.v3","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1},{"mediaType":"application/vnd.docker.ai.license","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1}]}"#,
    ),
    (
        "ollama",
        r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"from":"x"},{"mediaType":"application/vnd.ollama.image.tensor","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"name":"a.b"}]}"#,
    ),
    (
        "kitops",
        r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.kitops.modelkit.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.kitops.modelkit.model.v1.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":512}]}"#,
    ),
    (
        "image",
        r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":512}]}"#,
    ),
    (
        "index",
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"platform":{"os":"linux","architecture":"amd64"}},{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"platform":{"os":"unknown","architecture":"unknown"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}"#,
    ),
    ("no-layers", r#"{"schemaVersion":2,"layers":[]}"#),
    ("schema-1", r#"{"schemaVersion":1,"name":"a","tag":"b"}"#),
];

/// References by label.
pub(super) const REFERENCES: [(&str, &str); 12] = [
    ("short", "alpine"),
    ("hub", "ai/smollm2:360M"),
    ("registry", "quay.io/a/b-c_d.e:v1.2_3"),
    ("port", "127.0.0.1:5000/models/m:v1"),
    ("ipv6", "[::1]:5000/m:v1"),
    ("scheme", "oci://ghcr.io/a/b:1"),
    ("docker-scheme", "docker://ghcr.io/a/b"),
    ("digest", "r.example/a:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("layout", "oci:/a/b:v1"),
    ("layout-digest", "oci:./x:y/z@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("archive", "oci-archive:/a/b.tar:v1"),
    ("transport", "docker-archive:/a.tar"),
];
