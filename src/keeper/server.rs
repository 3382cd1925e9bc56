//! A running server, as its holder knows it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{ffi::OsString, io};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};

use crate::base::{Result, ResultExt as _, clock};

use super::programs::Program;
use super::{HANDED_OVER, Message, SERVER};

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
    /// What it is to be sent as soon as there is room for that: it may hang, and the holder does not for it.
    pub(super) unsent: VecDeque<Message>,
    /// Whether it has to take over what there is before it can end that.
    takes_over: bool,
    /// When the holder has killed it and why, if it has.
    killed: Option<(Instant, String)>,
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
                Ok(Self {
                    child,
                    socket,
                    program,
                    phase,
                    serving_since: None,
                    unsent: VecDeque::new(),
                    takes_over,
                    killed: None,
                })
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

    /// By when it must have come to the end of its phase, and what it is killed for otherwise.
    pub(super) fn due(&self) -> Option<(Instant, String)> {
        match self.phase {
            Phase::Starting { by } => by.map(|by| (by, too_long("it took", TRIAL_LIMIT))),
            Phase::Leaving { by } => Some((by, too_long("to leave took it", HAND_OVER_LIMIT))),
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

    /// Kills it for what `why` says, unless that was done for something else already.
    pub(super) fn kill_for(&mut self, why: String) {
        if self.killed.is_none() {
            let _ = self.child.kill();
            self.killed = Some((clock::now(), why));
        }
    }

    /// When the holder has killed it, if it has.
    pub(super) fn killed_at(&self) -> Option<Instant> {
        self.killed.as_ref().map(|(at, _)| *at)
    }

    /// Whether anybody else has killed it, by SIGKILL: a user, or the kernel, for memory.
    pub(super) fn is_killed_by_others(&self, end: End) -> bool {
        end.is_by(Signal::KILL) && self.killed.is_none()
    }

    /// Waits for its end, which has begun; or, if it `hangs`, only looks for it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn wait(&mut self, hangs: bool) -> io::Result<End> {
        match hangs {
            true => self.child.try_wait().map(End),
            false => self.child.wait().map(|status| End(Some(status))),
        }
    }

    /// How it ended, in words.
    pub(super) fn shown(&self, end: End) -> String {
        match (&self.killed, end.0.and_then(|status| status.signal()), end.code()) {
            (Some((_, why)), ..) => why.clone(),
            (None, Some(signal), _) => format!("it was killed by signal {signal}"),
            (None, None, Some(code)) => format!("it ended with status {code}"),
            (None, None, None) => "it hangs".to_owned(),
        }
    }
}

/// How a server has ended; none for one that was killed and hangs in the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct End(Option<ExitStatus>);

impl End {
    /// What it has returned, if it has.
    pub(super) fn code(self) -> Option<u8> {
        self.0?.code().and_then(|code| u8::try_from(code).ok())
    }

    /// Whether it has done all that it was to.
    pub(super) fn is_success(self) -> bool {
        self.code() == Some(0)
    }

    /// Whether it has died of `signal`.
    pub(super) fn is_by(self, signal: Signal) -> bool {
        self.0.and_then(|status| status.signal()) == Some(signal.as_raw())
    }

    /// Whether it has left everything to the next one.
    pub(super) fn has_handed_over(self) -> bool {
        self.code() == Some(HANDED_OVER)
    }
}

fn too_long(what: &str, limit: Duration) -> String {
    format!("{what} longer than {} s", limit.as_secs())
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
