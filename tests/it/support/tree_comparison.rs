//! Two trees compared in all that system calls tell of them, by a program that knows nothing of ours.

use std::path::Path;
use std::process::{Command, Output};

use crate::workplace::{assert_done, stdout};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/e2e/compare_trees.py");

/// Compares; `options` are the program's, exceptions mostly.
pub(crate) fn compare(left: &Path, right: &Path, options: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "1800", "python3", PROGRAM]).arg(left).arg(right).args(options);
    command.output().unwrap()
}

/// They are the same; returns what the program says of them.
pub(crate) fn assert_same(left: &Path, right: &Path, options: &[&str]) -> String {
    let output = compare(left, right, options);
    assert!(output.status.success(), "{}{}", stdout(&output), String::from_utf8_lossy(&output.stderr));
    assert_done(&output);
    stdout(&output)
}
