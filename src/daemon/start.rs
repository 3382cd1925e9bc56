//! Handing a request to the owner of a cache directory, and starting one where there is none.
//!
//! Nobody decides who becomes the owner but the lock of the directory: whoever finds no answer starts a process,
//! and one that comes too late ends as busy, which is no failure here. An owner that is just ending refuses,
//! and the request goes to the next one.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::time::sleep;

use crate::base::backoff::Backoff;
use crate::base::{Error, ErrorKind, Result, ResultExt as _, clock};
use crate::cache::CachePaths;
use crate::mount::{MountRequest, MountSummary};

use super::Client;
use super::api::WantedLimits;
use super::client::Unanswered;

/// How long owners may come and go before one takes the request. Two hundred processes that start at once on two
/// cores need some ten seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The first pause before a socket is tried again: an owner answers some 10 ms after its start.
const PAUSE_FIRST: Duration = Duration::from_millis(5);

/// The longest pause: short beside the grace of an owner without mounts.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Bytes kept of what an owner says when it fails to start.
const COMPLAINT_BYTES_MAX: u64 = 16 << 10;

/// The exit status of a process that found the directory owned.
pub const BUSY_STATUS: i32 = 6;

/// Where the owner of `cache_dir` logs.
#[must_use]
pub fn log_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join("owner.log")
}

/// How an owner is started.
#[derive(Clone, Debug)]
pub struct OwnerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl OwnerCommand {
    fn spawn(&self) -> Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            // Neither a directory nor a terminal is held by a process that may live for months.
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| format!("cannot start the owner of the cache ({})", self.program.display()))
    }
}

/// Asks the owner of `cache_dir` for a mount in a cache with the bounds `limits`, and starts an owner if there is
/// none. Not all owners keep to the bounds; see [`WantedLimits`].
///
/// # Errors
/// What the owner answered; what an owner that could not start said.
pub async fn mount(
    cache_dir: &Path,
    request: &MountRequest,
    limits: WantedLimits,
    command: &OwnerCommand,
) -> Result<(Client, MountSummary)> {
    let ask = async |client: &Client| ask(client, request, limits).await;
    with_owner(cache_dir, command, ask).await
}

/// Has `ask` ask the owner of `cache_dir`, and starts an owner if there is none, until one has answered.
///
/// # Errors
/// What the owner answered; what an owner that could not start said.
pub async fn with_owner<T>(
    cache_dir: &Path,
    command: &OwnerCommand,
    ask: impl AsyncFn(&Client) -> Result<T, Unanswered>,
) -> Result<(Client, T)> {
    let client = Client::new(&CachePaths::new(cache_dir).control_socket())?;
    let deadline = clock::now() + START_LIMIT;
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    let mut child: Option<Child> = None;
    loop {
        let unanswered = match ask(&client).await {
            Ok(answer) => return Ok((client, answer)),
            Err(Unanswered::Failed(error)) => return Err(error),
            Err(Unanswered::NoOwner(error)) => error,
        };
        if clock::now() > deadline {
            return Err(unanswered.context(format!(
                "no owner of the cache {} came about within {} s; see {}",
                cache_dir.display(),
                START_LIMIT.as_secs(),
                log_path(cache_dir).display()
            )));
        }
        child = match child.take() {
            None => Some(command.spawn()?),
            Some(running) => still_starting(running, cache_dir)?,
        };
        sleep(backoff.pause(None)).await;
    }
}

/// Asks an owner for a mount. First for a sign of life: a mount may take minutes, an owner that hangs should not.
///
/// # Errors
/// See [`Unanswered`].
pub async fn ask(
    client: &Client,
    request: &MountRequest,
    limits: WantedLimits,
) -> Result<MountSummary, Unanswered> {
    client.sign_of_life().await?;
    client.mount_within(request, limits).await
}

/// The started process, as long as it lives; nothing when it left the directory to another one.
fn still_starting(mut child: Child, cache_dir: &Path) -> Result<Option<Child>> {
    let status = child.try_wait().context(|| "cannot ask for the owner's state")?;
    let Some(status) = status else { return Ok(Some(child)) };
    if status.success() || status.code() == Some(BUSY_STATUS) {
        return Ok(None);
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What can't be read leaves the status, which is reported anyway.
        let _ = stderr.take(COMPLAINT_BYTES_MAX).read_to_end(&mut said);
    }
    Err(complaint(status, &String::from_utf8_lossy(&said), cache_dir))
}

fn complaint(status: ExitStatus, said: &str, cache_dir: &Path) -> Error {
    let said = said.trim().trim_start_matches("refmount: ");
    let kind = if status.code() == Some(2) { ErrorKind::Usage } else { ErrorKind::Io };
    let why = if said.is_empty() { format!("it ended with {status}") } else { said.replace('\n', "; ") };
    Error::new(kind, format!("the owner of the cache {} could not start: {why}", cache_dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{PrefetchPolicy, PullPolicy, VerifyPolicy};

    fn request() -> MountRequest {
        MountRequest {
            reference: "oci:/nowhere".into(),
            target: "/nowhere".into(),
            subpath: None,
            platform: None,
            pull: PullPolicy::default(),
            verify: VerifyPolicy::default(),
            prefetch: PrefetchPolicy::default(),
            allow_other: false,
            read_timeout: Duration::from_secs(1),
            source: Default::default(),
        }
    }

    #[tokio::test]
    async fn the_words_of_an_owner_that_could_not_start_are_shown() {
        let directory = tempfile::tempdir().unwrap();
        let command = OwnerCommand {
            program: "/bin/sh".into(),
            arguments: ["-c", "echo 'refmount: the disk is on fire' >&2; exit 1"].map(Into::into).into(),
        };
        let error = mount(directory.path(), &request(), WantedLimits::default(), &command).await.unwrap_err();
        assert!(error.to_string().ends_with("could not start: the disk is on fire"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let command = OwnerCommand { program: "/nowhere/refmount".into(), arguments: Vec::new() };
        let error = mount(directory.path(), &request(), WantedLimits::default(), &command).await.unwrap_err();
        assert!(error.chain().contains("/nowhere/refmount"), "{}", error.chain());
    }

    #[test]
    fn coming_too_late_is_no_failure() {
        let mut child = Command::new("/bin/sh").args(["-c", "exit 6"]).spawn().unwrap();
        child.wait().unwrap();
        assert!(still_starting(child, Path::new("/x")).unwrap().is_none());
    }
}
