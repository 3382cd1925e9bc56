//! The fuzz targets without a fuzzer: the committed corpus, and seeds that are made here, go through the same checks.
//!
//! With `REFMOUNT_FUZZ_SEEDS=DIR` the seeds are written below DIR as well; `scripts/fuzz --seeds` makes the committed
//! corpus of them.

use std::path::Path;

use super::support::seeds::keep;

mod made;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Runs one input, and says which one it was when it fails.
fn run(name: &str, label: &str, check: fn(&[u8]), data: &[u8]) {
    let outcome = std::panic::catch_unwind(|| check(data));
    assert!(outcome.is_ok(), "the fuzz target {name} fails on {label}");
}

#[test]
fn an_input_that_is_known_breaks_a_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, check) in targets::TARGETS {
        let files = std::fs::read_dir(corpus.join(name)).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        for file in &files {
            run(name, &file.display().to_string(), check, &std::fs::read(file).unwrap());
        }
        assert!(!files.is_empty(), "no seeds of {name}");
    }
}

#[test]
fn a_well_formed_input_breaks_a_promise() {
    for (name, check) in targets::TARGETS {
        for (label, data) in made::seeds(name) {
            keep(name, &label, &data);
            run(name, &label, check, &data);
        }
    }
}

/// A directory without a target would never be looked at.
#[test]
fn a_corpus_or_a_target_is_forgotten() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let known = |name: &str| targets::TARGETS.iter().any(|(target, _)| *target == name);
    for entry in std::fs::read_dir(root.join("corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known(&name), "fuzz/corpus/{name} has no target");
    }
    for entry in std::fs::read_dir(root.join("fuzz_targets")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known(name.trim_end_matches(".rs")), "fuzz/fuzz_targets/{name} is not in TARGETS");
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (name, _) in targets::TARGETS {
        assert!(
            manifest.contains(&format!("\nname = \"{name}\"\n")),
            "{name} is no binary of fuzz/Cargo.toml"
        );
    }
}
