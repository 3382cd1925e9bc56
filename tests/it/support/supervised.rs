//! A server that is another program: it runs in a directory of its own, and both end with the value here or with the
//! process of the tests, however that ends.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

/// Runs `$2…` until standard input ends, and removes the directory `$1`. Of the shell itself nothing stays open, so
/// that the end of what the server prints is the server's.
const SUPERVISOR: &str = r#"
directory=$1
shift
"$@" &
server=$!
exec >/dev/null 2>&1
read -r _
kill "$server"
wait "$server"
rm -rf -- "$directory"
"#;

/// A running server.
#[derive(Debug)]
pub(crate) struct Supervised {
    supervisor: Child,
    alive: Option<ChildStdin>,
}

impl Supervised {
    /// Starts `command`, whose directory this becomes, and waits until it says `ready` on standard error: returns the
    /// line in which it does, or all that it said before it ended.
    pub(crate) fn start(directory: TempDir, command: &[&str], ready: &str) -> Result<(Self, String), String> {
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(directory.keep())
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let alive = supervisor.stdin.take();
        let mut lines = BufReader::new(supervisor.stderr.take().unwrap()).lines().map_while(Result::ok);
        let server = Self { supervisor, alive };
        let mut said = String::new();
        for line in lines.by_ref() {
            if line.contains(ready) {
                // A full pipe would stop it.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok((server, line));
            }
            said = said + &line + "\n";
        }
        Err(said)
    }

    /// What the server prints; can be taken once.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.supervisor.stdout.take().unwrap()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.alive.take());
        let _ = self.supervisor.wait();
    }
}

/// Puts a file that a server reads into its directory.
pub(crate) fn put(directory: &Path, name: &str, text: &str) {
    refmount::base::durable::write(&directory.join(name), text.as_bytes()).unwrap();
}
