//! The whole way: the program, its owner and the kernel, against a real registry.

mod archives;
mod images;
mod kills;
mod lazy;
mod leftovers;
mod many;
mod mix;
mod outliving;
mod producers;
mod safetensors;
mod subpath;
pub(crate) mod upgrading;

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

use refmount::oci::SourceRef;
use serde_json::Value;

use crate::support::artifact::ModelArtifact;
use crate::support::docker_registry::DockerRegistry;
use crate::support::pattern::Pattern;
use crate::workplace::{Workplace, assert_done, json};

/// Overrides the seed of everything random here, to see a failure again. A test that fails has printed its own.
const SEED: &str = "E2E_SEED";

/// One registry for all tests; each has a repository of its own in it.
fn registry() -> &'static DockerRegistry {
    static REGISTRY: OnceLock<DockerRegistry> = OnceLock::new();
    REGISTRY.get_or_init(DockerRegistry::start)
}

/// A seed that is new in each run, printed.
fn seed() -> u64 {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED} is no number: {text}")),
        Err(_) => rand::random(),
    };
    println!("seed: {seed}; {SEED}={seed} repeats it");
    seed
}

/// Files of these paths and sizes, pushed as `repository:v1`.
fn push(repository: &str, files: &[(&str, u64)]) -> (SourceRef, ModelArtifact) {
    let made = files.iter().enumerate().map(|(number, (path, bytes))| {
        ((*path).to_owned(), Pattern { number: number as u32, bytes: *bytes }.whole().into())
    });
    let artifact = ModelArtifact::of(made.collect());
    (registry().push(&artifact, repository, "v1"), artifact)
}

/// Mounts `reference` on the new directory `target` of `workplace`.
fn mount(workplace: &Workplace, options: &[&str], reference: &SourceRef, target: &str) {
    std::fs::create_dir_all(workplace.path(target)).unwrap();
    let reference = reference.to_string();
    let arguments = [&["mount"], options, &[reference.as_str(), target]].concat();
    assert_done(&workplace.run(&arguments));
}

fn status(workplace: &Workplace, target: &str) -> Value {
    json(&workplace.run(&["status", "-o", "json", target]))
}

/// Runs a Python script that is bounded in what it does, and returns what it printed. A hang ends it too.
fn python(interpreter: &Path, script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "900"]).arg(interpreter).args(["-c", script]).args(arguments);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}{err}", shown(output.status));
    out.into_owned()
}

fn shown(status: ExitStatus) -> String {
    match status.code() {
        Some(137) => "it hung, or was killed".to_owned(),
        _ => status.to_string(),
    }
}
