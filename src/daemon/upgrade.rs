//! Replacing the process that serves by another program, which goes on with everything that is mounted.
//!
//! The program is asked first: `PROGRAM server --handover-version` prints a [`Handover`] as JSON. One that numbers inodes in
//! another way, or does not know how what is mounted is written down, is refused while nothing has happened yet. After
//! that the holder decides: it starts the program, and goes back to the one before should it not come to serve (see
//! [`crate::keeper`]).

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::keeper::{Keeper, SERVER};
use crate::mount::{LEFT_FORMAT, NUMBERING};

use super::bodies::UpgradeRequest;

/// The argument with which a program says what it goes on with, after the one that makes it a server.
pub const HANDOVER_VERSION: &str = "--handover-version";

/// How long a program may take to say so: it reads nothing and asks nobody.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of what it says.
const ANSWER_BYTES_MAX: u64 = 4 << 10;

/// How long the server stays for its answer to get out, before it leaves.
const LEAVE_AFTER: Duration = Duration::from_millis(100);

/// What a program can go on with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Handover {
    /// Its version, for people.
    pub version: String,
    /// How it numbers inodes.
    pub numbering: u32,
    /// The latest way of writing down what is mounted that it knows.
    pub format: u32,
}

impl Handover {
    /// That of this program.
    #[must_use]
    pub fn own() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), numbering: NUMBERING, format: LEFT_FORMAT }
    }

    /// Checks that `next` goes on with what a program with this one has mounted.
    fn require(&self, next: &Self) -> Result<()> {
        let why = if next.numbering != self.numbering {
            "numbers files in another way than what is mounted"
        } else if next.format < self.format {
            "does not know how what is mounted is written down"
        } else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("refmount {} {why}; unmount everything, then start it", next.version),
        ))
    }
}

/// What is going to happen.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct UpgradeBegun {
    /// The version that serves still.
    pub from: String,
    /// The version that is to serve.
    pub to: String,
    /// The process that serves still; once another one answers, it is over.
    pub server_pid: u32,
}

/// Leaves everything to `request.program`, a moment after this has returned.
///
/// # Errors
/// `Unsupported` when nobody holds for this process, or for a program that cannot go on with what is mounted; what asking
/// it failed with.
pub async fn begin(keeper: Option<&Arc<Keeper>>, request: UpgradeRequest) -> Result<UpgradeBegun> {
    let keeper = keeper.cloned().ok_or_else(|| {
        let text = "this owner is a `refmount mount -f`, whose mounts end with it; it cannot be replaced";
        Error::new(ErrorKind::Unsupported, text)
    })?;
    let program = request.program;
    if !program.is_absolute() {
        let text = format!("the program {} is not absolute", program.display());
        return Err(Error::new(ErrorKind::Usage, text));
    }
    let (own, next) = (Handover::own(), ask(&program).await?);
    own.require(&next)?;
    keeper.next(program.clone())?;
    tracing::info!(program = %program.display(), from = own.version, to = next.version, "upgrading");
    tokio::spawn(async move {
        tokio::time::sleep(LEAVE_AFTER).await;
        if let Err(error) = keeper.ask_for_hand_over() {
            tracing::error!("{}", error.chain());
        }
    });
    Ok(UpgradeBegun { from: own.version, to: next.version, server_pid: std::process::id() })
}

/// What `program` says that it goes on with.
async fn ask(program: &Path) -> Result<Handover> {
    let cannot = || format!("cannot run {}", program.display());
    let mut child = Command::new(program)
        .args([SERVER, HANDOVER_VERSION])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context(cannot)?;
    let mut said = Vec::new();
    let answer = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut said).await?;
        }
        child.wait().await
    };
    let late = |_| {
        let text =
            format!("{} does not say within {} s what it is", program.display(), ANSWER_LIMIT.as_secs());
        Error::new(ErrorKind::TimedOut, text)
    };
    let status = timeout(ANSWER_LIMIT, answer).await.map_err(late)?.context(cannot)?;
    let parsed = serde_json::from_slice(&said);
    match parsed {
        Ok(handover) if status.success() => Ok(handover),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} is no refmount that can go on with what is mounted: asked for it ({SERVER} {HANDOVER_VERSION}), it \
                 ended with {status}",
                program.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::base::program_file::write_program;

    use super::*;

    async fn asked(script: &str) -> Result<Handover> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        write_program(&program, script.as_bytes());
        ask(&program).await
    }

    #[tokio::test]
    async fn a_program_says_what_it_goes_on_with() {
        let text = r#"{"version":"9.9.9","numbering":7,"format":3,"more":true}"#;
        let script = format!("#!/bin/sh\ntest \"$1 $2\" = 'server --handover-version' && echo '{text}'\n");
        let said = asked(&script).await.unwrap();
        assert_eq!(said, Handover { version: "9.9.9".into(), numbering: 7, format: 3 });
        let error = Handover::own().require(&said).unwrap_err();
        assert!(error.to_string().contains("numbers files in another way"), "{error}");
        let own = Handover::own();
        own.require(&Handover { format: own.format + 1, ..own.clone() }).unwrap();
        let error = own.require(&Handover { format: own.format - 1, ..own.clone() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[tokio::test]
    async fn what_says_nothing_of_the_kind_is_refused() {
        for script in ["#!/bin/sh\nexit 0\n", "#!/bin/sh\necho '{}'\n", "#!/bin/sh\necho no; exit 1\n"] {
            let error = asked(script).await.unwrap_err();
            assert!(error.to_string().contains("is no refmount that can go on"), "{error}");
        }
        assert_eq!(ask(Path::new("/nowhere/refmount")).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_process_that_nobody_holds_for_stays() {
        let request = UpgradeRequest { program: "/bin/true".into() };
        assert_eq!(begin(None, request).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
