//! The programs that write such layers: containerd's converter, which wants a containerd of its own, and skopeo.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use refmount::base::durable;
use serde_json::{Value, json};

use crate::support::artifact::digest_of;

/// A layer as its writer left it.
pub(super) struct Layer {
    pub(super) blob: Vec<u8>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// What `ctr-remote images convert` makes with `arguments` of an image with this tar as its layer.
pub(super) fn containerd_converts(archive: &[u8], arguments: &[&str]) -> Layer {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    write_image(&work.path().join("image"), archive);
    run(Command::new("tar").args(["-C", &path("image"), "-cf", &path("image.tar"), "."]));
    let containerd = Containerd::start(work.path());
    let ctr = |arguments: &[&str]| {
        run(Command::new("ctr-remote").args(["-a", &containerd.socket]).args(arguments));
    };
    ctr(&["images", "import", "--no-unpack", "--base-name", "x", &path("image.tar")]);
    ctr(&[&["images", "convert", "--oci"], arguments, &["x:v1", "x:v2"]].concat());
    ctr(&["images", "export", &path("converted.tar"), "x:v2"]);
    drop(containerd);
    std::fs::create_dir(path("converted")).unwrap();
    run(Command::new("tar").args(["-C", &path("converted"), "-xf", &path("converted.tar")]));
    only_layer(Path::new(&path("converted")))
}

/// What skopeo makes of such an image when it is to compress it as zstd:chunked.
pub(super) fn skopeo_compresses(archive: &[u8]) -> Layer {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    write_image(&work.path().join("image"), archive);
    // Only what is not compressed yet is compressed, and only a directory may hold that.
    let skopeo = |arguments: &[&str]| {
        run(Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet"]).args(arguments));
    };
    let (image, plain, chunked) = (path("image"), path("plain"), path("chunked"));
    skopeo(&["--dest-decompress", &format!("oci:{image}:v1"), &format!("dir:{plain}")]);
    let format = ["--dest-compress", "--dest-compress-format", "zstd:chunked"];
    skopeo(&[&format[..], &[&format!("dir:{plain}"), &format!("oci:{chunked}:v1")]].concat());
    only_layer(Path::new(&chunked))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Writes a layout with an image of one layer, tagged `v1`.
fn write_image(directory: &Path, archive: &[u8]) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let write = |media_type: &str, bytes: &[u8]| {
        let digest = digest_of(bytes);
        durable::write(&blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let layer = write("application/vnd.oci.image.layer.v1.tar", archive);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [digest_of(archive)] },
    });
    let config = write("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer] });
    let mut manifest = write(manifest_type, manifest.to_string().as_bytes());
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    durable::write(&directory.join("index.json"), index.to_string().as_bytes()).unwrap();
    durable::write(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// The layer of the only image in the layout at `directory`.
fn only_layer(directory: &Path) -> Layer {
    let read = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        std::fs::read(directory.join("blobs/sha256").join(digest)).unwrap()
    };
    let index: Value = serde_json::from_slice(&std::fs::read(directory.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0])).unwrap();
    let layer = &manifest["layers"][0];
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    Layer { blob: read(layer), annotations: serde_json::from_value(layer["annotations"].clone()).unwrap() }
}

/// A containerd that keeps everything in one directory; ends with this value.
struct Containerd {
    process: Child,
    socket: String,
}

impl Containerd {
    fn start(directory: &Path) -> Self {
        let shown = directory.to_str().unwrap();
        let socket = format!("{shown}/containerd.sock");
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        // Only the content store is needed; a snapshotter would look for file systems of the machine.
        let plugins = ["overlayfs", "btrfs", "zfs", "aufs", "devmapper"]
            .map(|name| format!("\"io.containerd.snapshotter.v1.{name}\""))
            .join(", ");
        let config = format!(
            "version = 2\nroot = \"{shown}/root\"\nstate = \"{shown}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", {plugins}]\n\
             [grpc]\naddress = \"{socket}\"\nuid = {uid}\ngid = {gid}\n\
             [debug]\naddress = \"{shown}/debug.sock\"\nuid = {uid}\ngid = {gid}\n"
        );
        let config_file = directory.join("containerd.toml");
        durable::write(&config_file, config.as_bytes()).unwrap();
        let mut process = Command::new("containerd")
            .arg("--config")
            .arg(&config_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut all, mut line) = (String::new(), String::new());
        while log.read_line(&mut line).unwrap() > 0 && !line.contains("successfully booted") {
            all.push_str(&std::mem::take(&mut line));
        }
        assert!(!line.is_empty(), "containerd ended: {all}");
        std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
        Self { process, socket }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
