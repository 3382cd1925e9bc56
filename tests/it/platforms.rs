//! Indexes and producers as a user meets them: `inspect`, `tree` and `cat` of a layout, and mounts of it.

use refmount::oci::{Descriptor, Platform, media_type};
use refmount::registry::LayoutWriter;
use serde_json::{Value, json};

use crate::support::artifact::digest_of;
use crate::support::producers::{gzip, tar, zstd};
use crate::workplace::{
    Workplace, assert_done, assert_failed, json as parsed, shard, stderr, stdout, wait_until,
};

/// A layout being written, by the descriptors of what is in it.
struct Layout(LayoutWriter);

impl Layout {
    fn new(workplace: &Workplace) -> Self {
        Self(LayoutWriter::open(&workplace.path("layout")).unwrap())
    }

    fn blob(&self, media_type: &str, bytes: &[u8], annotations: &[(&str, &str)]) -> Descriptor {
        let (digest, size) = self.0.add_blob(bytes, &mut |_| ()).unwrap();
        assert_eq!(digest, digest_of(bytes));
        let mut descriptor = Descriptor::new(media_type, digest, size);
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        descriptor.annotations = annotations.iter().map(owned).collect();
        descriptor
    }

    fn titled(&self, title: &str, bytes: &[u8]) -> Descriptor {
        self.blob("application/octet-stream", bytes, &[("org.opencontainers.image.title", title)])
    }

    /// A manifest of `layers`, named by nothing yet.
    fn manifest(&self, platform: Option<&str>, layers: &[Descriptor]) -> Descriptor {
        let config = self.blob(media_type::OCI_EMPTY, b"{}", &[]);
        let document = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": config,
            "layers": layers,
        });
        let mut entry = self.blob(media_type::OCI_MANIFEST, document.to_string().as_bytes(), &[]);
        entry.platform = platform.map(|platform| platform.parse::<Platform>().unwrap());
        entry
    }

    fn tag(&self, media_type: &str, document: &Value) -> Descriptor {
        self.0.add_manifest(Some("v1"), media_type, None, document.to_string().as_bytes()).unwrap()
    }
}

/// A workplace with the index `layout:v1` of two platforms, which share a shard, and an attestation.
fn two_platforms() -> (Workplace, Descriptor) {
    let workplace = Workplace::new();
    let layout = Layout::new(&workplace);
    let shared = layout.titled("weights/model.safetensors", &shard());
    let of = |name: &str| layout.titled("engine.bin", format!("built for {name}").as_bytes());
    let mut attestation = layout.manifest(Some("unknown/unknown"), &[layout.titled("statement", b"x")]);
    attestation.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [
            layout.manifest(Some("linux/amd64"), &[shared.clone(), of("amd64")]),
            layout.manifest(Some("linux/arm64"), &[shared, of("arm64")]),
            attestation,
        ],
    });
    let index = layout.tag(media_type::OCI_INDEX, &index);
    (workplace, index)
}

#[test]
fn all_platforms_are_inspected_and_read_without_a_mount() {
    let (workplace, index) = two_platforms();
    let shown = parsed(&workplace.run(&["inspect", "--platform", "all", "-o", "json", "oci:layout:v1"]));
    assert_eq!(shown["digest"], index.digest.as_str());
    assert_eq!(shown["media_type"], media_type::OCI_INDEX);
    let directories: Vec<&Value> =
        shown["platforms"].as_array().unwrap().iter().map(|platform| &platform["directory"]).collect();
    assert_eq!(directories, ["linux-amd64", "linux-arm64-v8"]);
    assert_eq!(shown["layers"][3]["path"], "linux-arm64-v8/engine.bin");
    let text = stdout(&workplace.run(&["inspect", "--platform", "all", "oci:layout:v1"]));
    assert!(text.contains("platform:    linux-arm64-v8, manifest sha256:"), "{text}");
    // What both share is counted once.
    assert!(text.contains("4, 2.9 MiB"), "{text}");

    let one =
        parsed(&workplace.run(&["inspect", "--platform", "linux/arm64", "-o", "json", "oci:layout:v1"]));
    assert_eq!((&one["platforms"], &one["layers"][1]["path"]), (&Value::Null, &json!("engine.bin")));
    assert_eq!(one["digest"], shown["platforms"][1]["digest"]);

    let tree = stdout(&workplace.run(&["tree", "--platform", "all", "oci:layout:v1", "linux-amd64"]));
    let directories = tree.lines().filter(|line| line.starts_with('d')).count();
    assert_eq!((directories, tree.lines().count()), (2, 4), "{tree}");
    let engine = ["cat", "--platform", "all", "oci:layout:v1", "linux-arm64-v8/engine.bin"];
    assert_eq!(stdout(&workplace.run(&engine)), "built for arm64");
}

#[test]
fn platforms_of_one_mount_share_what_they_have_in_common() {
    let (workplace, index) = two_platforms();
    std::fs::create_dir(workplace.path("a")).unwrap();
    let output = workplace.run(&["mount", "--platform", "all", "oci:layout:v1", "a"]);
    assert_done(&output);
    assert!(stdout(&output).contains(&format!("@{} on ", index.digest)), "{}", stdout(&output));
    for architecture in ["amd64", "arm64"] {
        let directory =
            workplace.path(if architecture == "amd64" { "a/linux-amd64" } else { "a/linux-arm64-v8" });
        let engine = std::fs::read_to_string(directory.join("engine.bin")).unwrap();
        assert_eq!(engine, format!("built for {architecture}"));
        assert!(std::fs::read(directory.join("weights/model.safetensors")).unwrap() == shard());
    }
    let status = parsed(&workplace.run(&["status", "-o", "json", "a"]));
    let paths: Vec<&Value> = status["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(
        paths,
        [
            "linux-amd64/engine.bin",
            "linux-amd64/weights/model.safetensors",
            "linux-arm64-v8/engine.bin",
            "linux-arm64-v8/weights/model.safetensors",
        ]
    );
    // Reading ahead may fetch a little twice, but not the shard for each platform.
    assert!(status["network_bytes"].as_u64().unwrap() < 6_000_000, "{status}");
    wait_until("all of it is stored", || {
        parsed(&workplace.run(&["status", "-o", "json", "a"]))["files"][3]["cached_bytes"] == 3_000_000
    });
}

#[test]
fn a_subpath_picks_one_platform() {
    let (workplace, _) = two_platforms();
    std::fs::create_dir(workplace.path("a")).unwrap();
    let mount = |subpath: &str| {
        workplace.run(&["mount", "--platform", "all", "--subpath", subpath, "oci:layout:v1", "a"])
    };
    assert_failed(&mount("linux-s390x"), 3, "linux-s390x");
    assert_done(&mount("linux-arm64-v8"));
    assert_eq!(std::fs::read_to_string(workplace.path("a/engine.bin")).unwrap(), "built for arm64");
    let busy = workplace.run(&["mount", "--subpath", "linux-arm64-v8", "oci:layout:v1", "a"]);
    assert!(!busy.status.success(), "another platform is another mount: {}", stderr(&busy));
}

/// kitops-ml/kitops, pkg/lib/constants/mediatype/kitops.go: what `kit pack` makes of raw layers.
#[test]
fn a_modelkit_is_mounted_with_its_kitfile() {
    let workplace = Workplace::new();
    let layout = Layout::new(&workplace);
    let kitfile = br#"{"manifestVersion":"1.0.0","model":{"path":"model.onnx"}}"#;
    let config = layout.blob("application/vnd.kitops.modelkit.config.v1+json", kitfile, &[]);
    let filepath = [("org.cncf.model.filepath", "model.onnx")];
    let model = layout.blob("application/vnd.kitops.modelkit.model.v1.raw", b"onnx", &filepath);
    layout.tag(
        media_type::OCI_MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "artifactType": "application/vnd.kitops.modelkit.manifest.v1+json",
            "config": config,
            "layers": [model],
        }),
    );
    std::fs::create_dir(workplace.path("a")).unwrap();
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    assert_eq!(std::fs::read(workplace.path("a/Kitfile")).unwrap(), kitfile);
    assert_eq!(std::fs::read(workplace.path("a/model.onnx")).unwrap(), b"onnx");
}

#[test]
fn inspect_lists_the_warning_of_a_layer_below_the_table() {
    let workplace = Workplace::new();
    let layout = Layout::new(&workplace);
    let nameless = layout.blob("text/plain", b"text", &[]);
    let manifest = layout.manifest(None, &[nameless]);
    layout.tag(
        media_type::OCI_INDEX,
        &json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [manifest] }),
    );
    let text = stdout(&workplace.run(&["inspect", "oci:layout:v1"]));
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("warning: layer sha256:") && last.contains("names no file"), "{text}");
    let shown = parsed(&workplace.run(&["inspect", "-o", "json", "oci:layout:v1"]));
    assert_eq!(shown["layers"][0]["rule"], "general");
    assert_eq!(shown["layers"][0]["warnings"].as_array().unwrap().len(), 1);
}

/// A tar of one file in a zstd frame, and a seek table that says so (zstd's `contrib/seekable_format`).
fn with_seek_table(archive: &[u8]) -> Vec<u8> {
    let mut layer = zstd(archive);
    let sizes = [layer.len() as u32, archive.len() as u32].map(u32::to_le_bytes).concat();
    for word in [0x184d_2a5e_u32, 17] {
        layer.extend_from_slice(&word.to_le_bytes());
    }
    layer.extend_from_slice(&sizes);
    layer.extend_from_slice(&1_u32.to_le_bytes());
    layer.push(0);
    layer.extend_from_slice(&0x8f92_eab1_u32.to_le_bytes());
    layer
}

#[test]
fn inspect_names_the_index_that_a_layer_carries_and_why_one_is_not_used() {
    let workplace = Workplace::new();
    let layout = Layout::new(&workplace);
    let archive = tar(&[("a", 0o644, b"a")]);
    let media_type = "application/vnd.cncf.model.weight.v1.tar";
    let toc = ("containerd.io/snapshot/stargz/toc.digest", &*digest_of(b"none").to_string());
    let layers = [
        layout.blob(media_type, &archive, &[]),
        layout.blob(&format!("{media_type}+zstd"), &with_seek_table(&archive), &[]),
        layout.blob(&format!("{media_type}+gzip"), &gzip(&archive), &[toc]),
        layout.titled("file", b"file"),
    ];
    let manifest = layout.manifest(None, &layers);
    layout.tag(
        media_type::OCI_INDEX,
        &json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [manifest] }),
    );
    let shown = parsed(&workplace.run(&["inspect", "-o", "json", "oci:layout:v1"]));
    let indexes: Vec<&Value> = (0..4).map(|at| &shown["layers"][at]["index"]).collect();
    assert_eq!(indexes, [&json!(null), &json!("seek table"), &json!(null), &json!(null)]);
    let warning = shown["layers"][2]["warnings"][0].as_str().unwrap();
    assert!(warning.contains(layers[2].digest.as_str()), "{warning}");
    assert!(warning.contains("its own index (estargz) is not used"), "{warning}");
    let text = stdout(&workplace.run(&["inspect", "oci:layout:v1"]));
    assert!(text.contains("  tar+zstd  seek table  "), "{text}");
    assert!(text.contains("is not used"), "{text}");
}
