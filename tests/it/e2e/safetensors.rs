//! The package that reads most models, on a mount.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{mount, python, registry, seed, status};
use crate::support::artifact::ModelArtifact;
use crate::workplace::{Workplace, assert_done, wait_until};

const SCRIPT: &str = include_str!("safetensors.py");
const SHARDS: usize = 3;
const TENSORS_OF_EACH: usize = 10;

/// The interpreter of the environment that scripts/test prepares.
fn interpreter() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("safetensors-env/bin/python3");
    assert!(
        path.exists(),
        "{} is missing: scripts/test makes this environment, with the packages of \
         tests/it/e2e/requirements.txt; or run scripts/python-packages",
        path.display()
    );
    path
}

#[test]
fn the_real_package_opens_shards_and_finds_the_tensors_of_the_source() {
    let (python_path, seed, workplace) = (interpreter(), seed() % (1 << 32), Workplace::new());
    let source = workplace.path("source");
    std::fs::create_dir(&source).unwrap();
    python(&python_path, SCRIPT, &["make", source.to_str().unwrap(), &seed.to_string()]);
    let files: Vec<(String, Bytes)> = std::fs::read_dir(&source)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap().into()))
        .collect();
    assert_eq!(files.len(), SHARDS);
    let reference = registry().push(&ModelArtifact::of(files), "models/safetensors", "v1");
    mount(&workplace, &[], &reference, "mnt");
    let (mounted, source) = (workplace.path("mnt"), source.to_str().unwrap());
    let compare = || {
        let printed = python(&python_path, SCRIPT, &["compare", mounted.to_str().unwrap(), source]);
        assert_eq!(printed, format!("{} tensors\n", SHARDS * TENSORS_OF_EACH));
        status(&workplace, "mnt")
    };
    let first = compare();
    assert_eq!(first["rejected_chunks"], 0);
    wait_until("all of it is stored", || status(&workplace, "mnt")["cached_bytes"] == first["total_bytes"]);
    // Now all of it is here, and the kernel may read it itself.
    let fetched = status(&workplace, "mnt")["network_bytes"].clone();
    assert_eq!(compare()["network_bytes"], fetched);
    assert_done(&workplace.run(&["umount", "mnt"]));
}
