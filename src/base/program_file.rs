//! Program files that tests make and then run.
//!
//! Another program writes them. Whatever this process had open for writing, a child that another test's thread
//! forks meanwhile has open too, until it executes its own program, and the kernel runs no file that somebody
//! writes (`ETXTBSY`).

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes `path` a program with `content`, a script or a binary.
pub(crate) fn write_program(path: &Path, content: &[u8]) {
    let script = r#"cat > "$1" && chmod 755 "$1""#;
    let mut writer =
        Command::new("sh").args(["-c", script, "sh"]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(content).unwrap();
    assert!(writer.wait().unwrap().success(), "{}", path.display());
}
