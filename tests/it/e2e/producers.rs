//! Artifacts as their producers make them, mounted: every file is where its producer's own tools would put it.
//!
//! The ORAS client for Python, Helm's library and olot are run; what is a program that no package brings (modctl,
//! kit, docker, ollama, flux, wkg, podman of version 5) is in [`products`], as it makes its artifacts.

mod products;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use refmount::oci::SourceRef;
use serde_json::Value;

use super::{mount, registry};
use crate::support::producers::{Files, Product};
use crate::support::tree_comparison::assert_same;
use crate::workplace::{Workplace, assert_done, assert_failed, json, wait_until};

/// What is to be seen below `root`; all directories are walked.
fn files_below(root: &Path) -> Files {
    let (mut files, mut pending) = (Files::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()) {
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            if metadata.is_dir() {
                pending.push(entry.path());
                continue;
            }
            assert!(metadata.is_file(), "{} is no file", entry.path().display());
            let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let bytes = Bytes::from(fs::read(entry.path()).unwrap());
            assert_eq!(metadata.len(), bytes.len() as u64, "{path}");
            files.insert(path, (metadata.permissions().mode() & 0o7777, bytes));
        }
    }
    files
}

/// Paths, modes, sizes and digests, which say more than bytes do when a test fails.
fn summary(files: &Files) -> Vec<String> {
    let line = |(path, (mode, bytes)): (&String, &(u32, Bytes))| {
        format!("{path} {mode:04o} {} {}", bytes.len(), crate::support::artifact::digest_of(bytes))
    };
    files.iter().map(line).collect()
}

fn inspected(workplace: &Workplace, reference: &str) -> Value {
    json(&workplace.run(&["inspect", "-o", "json", reference]))
}

fn rules(inspection: &Value) -> Vec<&str> {
    inspection["layers"].as_array().unwrap().iter().map(|layer| layer["rule"].as_str().unwrap()).collect()
}

fn warnings(inspection: &Value) -> Vec<String> {
    let layers = inspection["layers"].as_array().unwrap().iter();
    let texts = layers.flat_map(|layer| layer["warnings"].as_array().unwrap());
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn end(workplace: &Workplace) {
    assert_done(&workplace.run(&["umount", "mnt"]));
    wait_until("the owner has ended", || workplace.owner().is_none());
}

/// Mounts what was made, and compares; returns what `inspect` says.
fn assert_shown(product: &Product) -> Value {
    let workplace = Workplace::new();
    let reference = product.write_layout(&workplace.path("layout"));
    mount(&workplace, &[], &reference, "mnt");
    assert_eq!(summary(&files_below(&workplace.path("mnt"))), summary(&product.files), "{}", product.name);
    let inspection = inspected(&workplace, &reference.to_string());
    assert_eq!(rules(&inspection), product.rules, "{}", product.name);
    assert_eq!(inspection["kind"], "artifact", "{}", product.name);
    end(&workplace);
    inspection
}

#[test]
fn modelpack_mixes_archives_and_files() {
    let inspection = assert_shown(&products::modelpack());
    assert_eq!(warnings(&inspection), [""; 0]);
}

#[test]
fn modelpack_by_its_older_names() {
    assert_shown(&products::modelpack_of_cnai());
}

#[test]
fn modelpack_whose_bytes_are_compressed_otherwise_than_said() {
    assert_shown(&products::modelpack_otherwise_compressed());
}

#[test]
fn modelpack_whose_later_archive_has_the_path_again() {
    assert_shown(&products::modelpack_twice());
}

#[test]
fn kitops_with_its_kitfile() {
    assert_shown(&products::kitops());
}

#[test]
fn oras_directories_of_any_media_type() {
    assert_shown(&products::oras_directory());
}

#[test]
fn docker_model_runner() {
    assert_shown(&products::docker_model_runner());
}

#[test]
fn ollama() {
    assert_shown(&products::ollama());
}

#[test]
fn helm_with_provenance() {
    assert_shown(&products::helm());
}

#[test]
fn flux() {
    assert_shown(&products::flux());
}

#[test]
fn wasm() {
    assert_shown(&products::wasm());
}

#[test]
fn podman_with_a_layer_that_has_no_title() {
    let warnings = warnings(&assert_shown(&products::podman()));
    assert!(warnings.iter().any(|text| text.contains("names no file")), "{warnings:?}");
}

#[test]
fn a_tar_by_its_type_that_is_none_is_a_file_with_a_warning() {
    for product in products::no_tars() {
        let warnings = warnings(&assert_shown(&product));
        assert!(warnings.iter().any(|text| text.contains("tar")), "{}: {warnings:?}", product.name);
    }
}

#[test]
fn formats_of_other_snapshotters_are_refused_by_name() {
    for (product, name) in products::conversions() {
        let workplace = Workplace::new();
        let reference = product.write_layout(&workplace.path("layout")).to_string();
        fs::create_dir(workplace.path("mnt")).unwrap();
        assert_failed(&workplace.run(&["mount", &reference, "mnt"]), 5, name);
        assert!(!workplace.is_mounted("mnt"));
    }
}

/// The script that makes artifacts with the producers of PyPI.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/e2e/producers.py");

/// Runs it, in the environment that scripts/test prepares.
fn produce(workplace: &Workplace, arguments: &[&str]) {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("producers-env/bin/python3");
    assert!(python.exists(), "{} is missing; scripts/python-packages makes it", python.display());
    let mut command = workplace.command_of("timeout", &["--signal=KILL", "900"]);
    command.arg(python).arg(SCRIPT).args(arguments).env("HOME", workplace.directory.path());
    assert_done(&command.output().unwrap());
}

/// A directory with files at three depths.
fn put_source(workplace: &Workplace) -> PathBuf {
    workplace.put("source/README.md", b"# Model card\n");
    workplace.put("source/config.json", b"{}\n");
    workplace.put("source/weights/model.bin", &crate::workplace::shard());
    workplace.put("source/weights/deep/scales.bin", b"scales");
    workplace.path("source")
}

/// Unpacks archives into one directory with GNU tar, one after the other.
fn extracted(workplace: &Workplace, archives: &[PathBuf]) -> PathBuf {
    let directory = workplace.path("extracted");
    fs::create_dir(&directory).unwrap();
    for archive in archives {
        let mut tar = workplace.command_of("tar", &["--numeric-owner", "-xpf"]);
        assert_done(&tar.arg(archive).arg("-C").arg(&directory).output().unwrap());
    }
    directory
}

/// The files of the layers of the manifest in the layout at `directory`, in their order.
fn layers(workplace: &Workplace, directory: &Path, reference: &str) -> Vec<PathBuf> {
    let inspection = inspected(workplace, reference);
    let layers = inspection["layers"].as_array().unwrap().iter();
    let digests = layers.map(|layer| layer["digest"].as_str().unwrap().replace(':', "/"));
    digests.map(|digest| directory.join("blobs").join(digest)).collect()
}

/// Exceptions for directories that no entry declares: tar makes them at the time of unpacking.
fn undeclared(directories: &[&str]) -> Vec<String> {
    let option = |directory: &&str| ["--ignore".to_owned(), format!("mtime:{directory}")];
    directories.iter().flat_map(option).collect()
}

fn assert_extracted(workplace: &Workplace, archives: &[PathBuf], directories: &[&str]) {
    let exceptions = undeclared(directories);
    let options: Vec<&str> = exceptions.iter().map(String::as_str).collect();
    println!("{}", assert_same(&extracted(workplace, archives), &workplace.path("mnt"), &options));
}

/// Helm 4 itself, as a library.
#[test]
fn helm_packages_and_pushes_a_chart() {
    let workplace = Workplace::new();
    workplace.put("demo/Chart.yaml", b"apiVersion: v2\nname: demo\nversion: 0.1.0\n");
    workplace.put("demo/values.yaml", b"replicas: 1\n");
    workplace.put("demo/templates/map.yaml", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: demo}\n");
    let place = format!("{}/producers", registry().host());
    produce(&workplace, &["helm", workplace.path("demo").to_str().unwrap(), &place]);
    let reference = format!("{place}/demo:0.1.0");
    mount(&workplace, &[], &reference.parse().unwrap(), "mnt");
    assert_extracted(&workplace, &[workplace.path("demo-0.1.0.tgz")], &[".", "demo", "demo/templates"]);
    assert_eq!(rules(&inspected(&workplace, &reference)), ["helm"]);
    end(&workplace);
}

/// The Python client packs directories, but leaves out the mark by which other clients know to unpack them: so they
/// are what `oras pull` makes of them, files.
#[test]
fn oras_for_python_pushes_files_and_directories() {
    let workplace = Workplace::new();
    let source = put_source(&workplace);
    let pushed = |how: &str, tag: &str| -> SourceRef {
        let place = format!("{}/producers/oras:{tag}", registry().host());
        produce(&workplace, &[how, source.to_str().unwrap(), &place]);
        place.parse().unwrap()
    };
    let reference = pushed("oras", "v1");
    mount(&workplace, &[], &reference, "mnt");
    let shown = files_below(&workplace.path("mnt"));
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["README.md", "config.json", "weights"]);
    assert!(shown["config.json"].1 == "{}\n" && shown["weights"].1.starts_with(b"\x1f\x8b"));
    assert_eq!(rules(&inspected(&workplace, &reference.to_string())), ["general"; 3]);
    end(&workplace);

    let reference = pushed("oras-unpacked", "v2");
    mount(&workplace, &[], &reference, "mnt");
    let contents = |files: Files| -> Vec<_> {
        files
            .into_iter()
            .map(|(path, (_, bytes))| (path, crate::support::artifact::digest_of(&bytes)))
            .collect()
    };
    assert_eq!(contents(files_below(&workplace.path("mnt"))), contents(files_below(&source)));
    assert_eq!(rules(&inspected(&workplace, &reference.to_string())), ["general"; 3]);
    end(&workplace);
}

#[test]
fn olot_makes_an_image_of_files() {
    let workplace = Workplace::new();
    let (source, layout) = (put_source(&workplace), workplace.path("layout"));
    produce(&workplace, &["olot-simple", source.to_str().unwrap(), layout.to_str().unwrap()]);
    let reference = format!("oci:{}:latest", layout.display());
    mount(&workplace, &[], &reference.parse().unwrap(), "mnt");
    assert_eq!(inspected(&workplace, &reference)["kind"], "image");
    let archives = layers(&workplace, &layout, &reference);
    assert_eq!(archives.len(), 4);
    assert_extracted(&workplace, &archives, &[".", "weights", "weights/deep"]);
    end(&workplace);
}

/// An index with an image for a platform, and a ModelPack for none that shares its layers: archives whose titles are
/// those of the files in them.
#[test]
fn olot_makes_a_modelcar_and_a_modelpack_of_the_same_layers() {
    let workplace = Workplace::new();
    let (source, layout) = (put_source(&workplace), workplace.path("layout"));
    produce(&workplace, &["olot-modelcar", source.to_str().unwrap(), layout.to_str().unwrap()]);
    let directories = [".", "models", "models/weights", "models/weights/deep"];
    let image = format!("oci:{}:latest", layout.display());
    mount(&workplace, &["--platform", "linux/amd64"], &image.parse().unwrap(), "mnt");
    assert_eq!(inspected(&workplace, &image)["kind"], "image");
    let archives = layers(&workplace, &layout, &image);
    assert_eq!(archives.len(), 5);
    assert_extracted(&workplace, &archives, &directories);
    end(&workplace);

    fs::remove_dir_all(workplace.path("extracted")).unwrap();
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let of_modelpack =
        |entry: &&Value| entry["annotations"]["io.opendatahub.modelcar.manifest.type"] == "modelpack";
    let entry = index["manifests"].as_array().unwrap().iter().find(of_modelpack).unwrap();
    let modelpack = format!("oci:{}@{}", layout.display(), entry["digest"].as_str().unwrap());
    mount(&workplace, &[], &modelpack.parse().unwrap(), "mnt");
    assert_eq!(rules(&inspected(&workplace, &modelpack)), ["modelpack"; 4]);
    assert_extracted(&workplace, &archives[1..], &directories);
    end(&workplace);
}

/// The fixtures hold what they say, whoever reads them.
#[test]
fn the_archives_of_the_products_are_what_gnu_tar_reads() {
    let workplace = Workplace::new();
    workplace.put("a.tar", &products::archive());
    let directory = extracted(&workplace, &[workplace.path("a.tar")]);
    assert_eq!(summary(&files_below(&directory)), summary(&products::archive_files()));
}
