//! A running server, as its holder knows it.

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{ffi::OsString, io};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};

use crate::base::{Result, ResultExt as _, clock};

use super::SERVER;
use super::programs::Program;

/// How long another program than served before may take until it serves. It may have large maps to read, and mounts to
/// bring up; meanwhile readers wait.
const TRIAL_LIMIT: Duration = Duration::from_secs(30);

/// How long a server may take to leave everything to the next one before it is killed.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);

/// What a server is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It takes over what there is, until then if it is on trial.
    Starting {
        by: Option<Instant>,
    },
    Serving,
    /// It is to leave everything to the next one, until then.
    Leaving {
        by: Instant,
    },
    /// It was told to end, and everything with it.
    Ending,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) socket: OwnedFd,
    pub(super) program: Program,
    pub(super) phase: Phase,
    /// Since when it has served, if it has.
    pub(super) serving_since: Option<Instant>,
    /// Whether it has to take over what there is before it can end that.
    takes_over: bool,
    /// By when it is told to end, though it does not serve.
    pub(super) ends_by: Option<Instant>,
}

impl Server {
    /// Starts `program`, which is to take over what there is, if there is something.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(program: Program, arguments: &[OsString], takes_over: bool) -> Result<Self, Failed> {
        match spawn(&program, arguments) {
            Err(error) => Err((program, error)),
            Ok((child, socket)) => {
                let phase = Phase::Starting { by: program.is_on_trial.then(|| clock::now() + TRIAL_LIMIT) };
                Ok(Self { child, socket, program, phase, serving_since: None, takes_over, ends_by: None })
            }
        }
    }

    /// It serves.
    pub(super) fn serves(&mut self) {
        self.serving_since = Some(clock::now());
        if matches!(self.phase, Phase::Starting { .. }) {
            self.phase = Phase::Serving;
        }
    }

    /// It is to leave everything to the next one.
    pub(super) fn leaves(&mut self) {
        self.phase = Phase::Leaving { by: clock::now() + HAND_OVER_LIMIT };
    }

    /// By when it must have come to the end of its phase.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { by } => by,
            Phase::Leaving { by } => Some(by),
            Phase::Serving | Phase::Ending => None,
        }
    }

    /// Whether it is on trial, and has not come to serve.
    pub(super) fn is_tried(&self) -> bool {
        matches!(self.phase, Phase::Starting { by: Some(_) })
    }

    /// Whether it can end everything that there is.
    pub(super) fn can_end(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } => !self.takes_over,
            Phase::Serving | Phase::Ending => true,
            Phase::Leaving { .. } => false,
        }
    }

    pub(super) fn tell(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// How it ended, in words.
    pub(super) fn shown_end(&self, status: ExitStatus) -> String {
        match (status.signal(), status.code()) {
            _ if self.is_late() => format!("it took longer than {} s", TRIAL_LIMIT.as_secs()),
            (Some(signal), _) => format!("it was killed by signal {signal}"),
            (None, code) => format!("it ended with status {}", code.unwrap_or_default()),
        }
    }

    /// Whether its trial took too long.
    pub(super) fn is_late(&self) -> bool {
        matches!(self.phase, Phase::Starting { by: Some(by) } if by <= clock::now())
    }
}

/// What could not be started, and why.
pub(super) type Failed = (Program, crate::base::Error);

fn spawn(program: &Program, arguments: &[OsString]) -> Result<(Child, OwnedFd)> {
    let cannot = || format!("cannot start {}", program.path.display());
    let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)
        .context(cannot)?;
    let child = Command::new(program.path_to_run())
        .arg0(&program.path)
        .arg(SERVER)
        .args(arguments)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .context(cannot)?;
    Ok((child, socket))
}
