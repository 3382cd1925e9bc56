//! Real reads of mounts, to find out whether they are served.
//!
//! They are made by a process of their own. Who waits for an answer of a mount cannot always be killed before it comes; a
//! thread of ours that did would keep this process from ending, and so the next one from beginning, which alone could
//! answer it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Advice, fadvise, getxattr};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::base::clock;

/// The first argument of a process that reads mounts.
pub const READ_PROBE: &str = "read-probe";

/// How long the reads of all mounts together may take: an answer out of the cache takes some milliseconds, a first
/// one from a registry that is well hardly a second.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Bytes that are read of a file.
const READ_BYTES: usize = 4096;

/// The attribute that every file and root has. The kernel keeps no attributes, so that each question comes to us.
const ATTRIBUTE: &str = "user.refmount.digest";

/// See the module's text. One process reads at a time, so that no number of them is left behind.
#[derive(Debug, Default)]
pub(super) struct ReadProbe {
    running: Mutex<Option<Child>>,
}

impl ReadProbe {
    /// Reads each of `paths`, which lie in mounts, within a few seconds.
    ///
    /// # Errors
    /// Which of them cannot be read, and why, in words.
    pub(super) async fn read(&self, paths: Vec<PathBuf>) -> Result<(), String> {
        if paths.is_empty() {
            return Ok(());
        }
        let deadline = Instant::from_std(clock::now() + READ_LIMIT);
        let mut running = timeout_at(deadline, self.running.lock())
            .await
            .map_err(|_| "another check is under way and does not end".to_owned())?;
        if let Some(child) = running.as_mut()
            && !matches!(child.try_wait(), Ok(Some(_)))
        {
            return Err("a read that an earlier check began still hangs".to_owned());
        }
        let child = running.insert(start(&paths).map_err(|error| format!("cannot start a check: {error}"))?);
        let mut missing: Vec<Option<&Path>> = paths.iter().map(|path| Some(path.as_path())).collect();
        let answered = timeout_at(deadline, answers(child, &mut missing)).await;
        let missing: Vec<String> = missing.iter().flatten().map(|path| path.display().to_string()).collect();
        match answered {
            Ok(result) => {
                // It is at its end; one that fails may have other reads that hang.
                let _ = child.start_kill();
                let _ = timeout_at(deadline, child.wait()).await;
                result?;
                match missing.is_empty() {
                    true => Ok(()),
                    false => Err(format!("not read: {}", missing.join(", "))),
                }
            }
            Err(_) => {
                // The next check finds out whether that was of use.
                let _ = child.start_kill();
                Err(format!("not read within {} s: {}", READ_LIMIT.as_secs(), missing.join(", ")))
            }
        }
    }
}

fn start(paths: &[PathBuf]) -> io::Result<Child> {
    // Also when another version lies in our place.
    Command::new("/proc/self/exe")
        .arg(READ_PROBE)
        .args(paths)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

/// Takes the answers of `child`: the number of a path that was read, or the number of one and why it was not. Those that
/// were answered are not missing any more.
async fn answers(child: &mut Child, missing: &mut [Option<&Path>]) -> Result<(), String> {
    let Some(stdout) = child.stdout.take() else { return Ok(()) };
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let (number, why) = line.split_once(' ').unwrap_or((&line, ""));
        let place = number.parse().ok().and_then(|number: usize| missing.get_mut(number));
        if let Some(path) = place.and_then(Option::take)
            && !why.is_empty()
        {
            return Err(format!("cannot read {}: {why}", path.display()));
        }
    }
    Ok(())
}

/// The work of the process that reads: prints a line for each of `paths` as soon as it was read, or could not be.
pub fn probe_reads(paths: Vec<OsString>) -> ExitCode {
    let (tell, told) = mpsc::channel();
    for (number, path) in paths.into_iter().enumerate() {
        let tell = tell.clone();
        // One that hangs leaves the others alone.
        let work = move || {
            // Nobody listens any more only when all is over.
            let _ = tell.send((number, read(Path::new(&path))));
        };
        if std::thread::Builder::new().spawn(work).is_err() {
            return ExitCode::FAILURE;
        }
    }
    drop(tell);
    for (number, result) in told {
        let why = result.map_or_else(|error| format!(" {error}").replace('\n', " "), |()| String::new());
        if writeln!(io::stdout(), "{number}{why}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Asks for an attribute of `path`, and for its first bytes if it is a file, past what the kernel has of them.
fn read(path: &Path) -> io::Result<()> {
    getxattr(path, ATTRIBUTE, &mut [0_u8; 256][..])?;
    let file = File::open(path)?;
    if file.metadata()?.is_file() {
        fadvise(&file, 0, None, Advice::DontNeed)?;
        file.read_at(&mut [0; READ_BYTES], 0)?;
    }
    Ok(())
}
