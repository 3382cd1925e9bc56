//! Credential helpers: programs that keep secrets for Docker's tools (`docker-credential-NAME get`: the server
//! on stdin, JSON on stdout).
//!
//! A helper gets a bounded time. What it writes to stdout is never shown, since that is where secrets are.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::base::{Error, ErrorKind, Result};

use super::access::Fingerprinter;
use super::answer::one_line;
use super::credentials::Secret;

/// Helpers ask a local daemon or a cloud's token service; one that waits for a person to unlock something
/// would wait forever under a mount.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes taken of what a helper writes.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// How every helper's program name begins.
const PROGRAM_PREFIX: &str = "docker-credential-";

/// A helper, and the server that it is asked about.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    program: String,
    server: String,
    /// The file that names the helper.
    pub(super) file: PathBuf,
    timeout: Duration,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

impl Helper {
    /// The helper that `file` calls `name`.
    ///
    /// # Errors
    /// Why `name` is no program's name.
    pub(super) fn new(name: &str, server: &str, file: &Path) -> Result<Self, &'static str> {
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err("a credential helper's name holds only letters, digits, '-', '_' and '.'");
        }
        let program = format!("{PROGRAM_PREFIX}{name}");
        Ok(Self { program, server: server.to_owned(), file: file.to_owned(), timeout: HELPER_TIMEOUT })
    }

    /// Adds to `of` which helper it is and what it is asked for.
    pub(super) fn fingerprint(&self, of: &mut Fingerprinter) {
        of.add("helper").add(&self.program).add(&self.server).add(self.file.as_os_str().as_encoded_bytes());
    }

    /// What the helper knows about its server; `None` when it knows nothing.
    ///
    /// # Errors
    /// `Unauthorized` when it cannot be run, fails, or answers something else than it should; `TimedOut`.
    pub(super) async fn get(&self) -> Result<Option<Secret>> {
        let failed = |why: String| {
            Error::new(
                ErrorKind::Unauthorized,
                format!(
                    "credential helper {} (named in {}) for {}: {why}",
                    self.program,
                    self.file.display(),
                    self.server
                ),
            )
        };
        let mut child = Command::new(&self.program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .map_err(|error| {
                failed(format!("cannot be run: {error}; install it or log in with --authfile"))
            })?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut group = Group(id);
        let Ok(outcome) = tokio::time::timeout(self.timeout, self.converse(&mut child)).await else {
            let what = failed(format!("no answer within {} s", self.timeout.as_secs()));
            return Err(Error::new(ErrorKind::TimedOut, what.to_string()));
        };
        group.0 = None;
        let Output { succeeded, stdout, stderr } = outcome.map_err(|error| failed(error.to_string()))?;
        if !succeeded {
            // The protocol has no other sign for "I know nothing about this server".
            if String::from_utf8_lossy(&stdout).contains("credentials not found") {
                return Ok(None);
            }
            let said = one_line(&String::from_utf8_lossy(&stderr));
            return Err(failed(match said.as_str() {
                "" => "failed without a word".to_owned(),
                said => format!("failed: {said}"),
            }));
        }
        let answer: Answer = serde_json::from_slice(&stdout)
            .map_err(|_| failed("its answer is not the JSON object that was expected".into()))?;
        Ok(Secret::new(answer.username, answer.secret))
    }

    async fn converse(&self, child: &mut Child) -> std::io::Result<Output> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ask = async {
            if let Some(mut stdin) = stdin {
                // A helper that knows its only server need not read; what it answers decides.
                let _ = stdin.write_all(self.server.as_bytes()).await;
            }
            std::io::Result::Ok(())
        };
        let ((), stdout, stderr) = tokio::try_join!(ask, collect(stdout), collect(stderr))?;
        Ok(Output { succeeded: child.wait().await?.success(), stdout, stderr })
    }
}

/// A helper that was not heard to the end, and what it started, which would outlive it and keep its pipes open;
/// killed on drop, also when whoever asked has given up.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

struct Output {
    succeeded: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn collect(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use crate::base::program_file::write_program;

    use super::*;

    /// `script` as a helper, in a directory of its own.
    fn helper(script: &str, timeout: Duration) -> (tempfile::TempDir, Helper) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-test");
        write_program(&program, format!("#!/bin/sh\n{script}\n").as_bytes());
        let helper = Helper {
            program: program.display().to_string(),
            server: "r.example".into(),
            file: "/auth.json".into(),
            timeout,
        };
        (directory, helper)
    }

    /// Runs `script` as a helper.
    fn get(script: &str, timeout: Duration) -> Result<Option<Secret>> {
        let (_keep, helper) = helper(script, timeout);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(helper.get())
    }

    #[test]
    fn the_server_goes_in_and_the_secret_comes_out() {
        let script =
            r#"[ "$1" = get ] || exit 3; read server; printf '{"Username":"u","Secret":"%s"}' "$server""#;
        let secret = get(script, HELPER_TIMEOUT).unwrap();
        assert_eq!(secret, Some(Secret::Password { username: "u".into(), password: "r.example".into() }));
    }

    #[test]
    fn a_helper_that_knows_nothing_is_no_error() {
        for script in [
            "echo 'credentials not found in native keychain'; exit 1",
            r#"echo '{"ServerURL":"","Username":"","Secret":""}'"#,
        ] {
            assert_eq!(get(script, HELPER_TIMEOUT).unwrap(), None);
        }
    }

    #[test]
    fn a_failure_shows_stderr_and_never_stdout() {
        for script in ["echo hunter2; echo locked >&2; exit 1", "echo '{\"Secret\":\"hunter2\"}'"] {
            let error = get(script, HELPER_TIMEOUT).unwrap_err();
            let shown = error.chain();
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert!(shown.contains("/auth.json") && !shown.contains("hunter2"), "{shown}");
            assert_eq!(shown.contains("locked"), script.contains("locked"), "{shown}");
        }
    }

    #[tokio::test]
    async fn what_a_helper_started_ends_when_nobody_waits_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let (_keep, helper) = helper(
            &format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid.display()),
            HELPER_TIMEOUT,
        );
        let started = async {
            while !pid.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            got = helper.get() => panic!("it hangs, and answered {got:?}"),
            () = started => {}
        }
        let pid = std::fs::read_to_string(&pid).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        // A zombie has ended; who reaps it is not ours to say.
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn a_helper_that_hangs_is_given_up() {
        let error = get("sleep 1000 & sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
