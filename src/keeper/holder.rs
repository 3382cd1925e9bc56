//! The holder's life: it starts servers, keeps what they give it, and ends with the last of them.
//!
//! | from     | to       | when                                                                        |
//! |----------|----------|-----------------------------------------------------------------------------|
//! | starting | serving  | the server says that it serves                                              |
//! | starting | ended    | the first server ends by itself before it serves: its status is the holder's |
//! | any      | starting | a server that was to go on has died: at once, then after pauses that grow    |
//! | any      | given up | they have died too often with hardly a pause ([`Deaths`]); every request is EIO |
//! | given up | starting | SIGHUP                                                                      |
//! | serving  | starting | SIGHUP, or the server leaves: everything is handed over to the next one      |
//! | starting | starting | another program than served before does not come to serve: back to that one |
//! | any      | ended    | the server ends because it was told to, or has nothing left to serve        |
//!
//! A server that is still taking over, or leaving, is not told to end: it would take the mounts with it, dead. The one
//! that comes to serve is.
//!
//! Of a service, the server may leave everything as it was when it was told to end: the service manager has it all
//! then ([`super::manager`]), for the holder that it starts next.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::base::{Result, ResultExt as _, clock, process};

use super::deaths::Deaths;
use super::devices::Refused;
use super::manager::Manager;
use super::programs::{Program, Programs};
use super::server::{Failed, Phase, Server};
use super::signals::{Signals, Told};
use super::{HANDED_OVER, Message, receive, send};

/// How long a server that takes over may take until it is told to end even though it does not serve.
const END_AT_LATEST: Duration = Duration::from_secs(6);

/// How often the service manager hears meanwhile that there is life: from the holder, for the server before it, which did
/// so, is gone, and this one may never come to it. A service that is killed for that would not go back.
const TRIAL_SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// Deaths by SIGKILL, one after the other, that are held against such a program: a first one may be anybody's doing.
const TRIAL_KILLS_MAX: u32 = 3;

/// The status of a holder that cannot do its work.
const FAILED: u8 = 1;

/// What a holder starts, one after the other.
#[derive(Clone, Debug)]
pub struct Servers {
    /// The program of the first one.
    pub program: PathBuf,
    /// What follows [`SERVER`].
    pub arguments: Vec<OsString>,
    /// Whether this process is a service: it logs to standard error for as long as it lives, and a service manager may
    /// listen to it.
    pub is_service: bool,
}

/// Holds for `servers`, until the last one ends; returns that one's status. `given_up` is told why, should the holder
/// give up.
///
/// # Errors
/// What the first start failed with.
pub fn hold(servers: Servers, given_up: impl Fn(Option<&str>)) -> Result<u8> {
    let mut manager = servers.is_service.then(Manager::of_environment).flatten();
    let kept = manager.as_mut().map(Manager::take_stored).unwrap_or_default();
    // A mount takes one for each thread that serves it, and three more. Where there are none, it is fewer mounts.
    let _ = process::raise_descriptor_limit();
    let signals = Signals::listen().context(|| "cannot listen to signals")?;
    let Servers { program, arguments, is_service } = servers;
    let mut holder = Holder {
        programs: Programs::new(program),
        arguments,
        is_service,
        kept,
        manager,
        signals,
        deaths: Deaths::default(),
        has_served: false,
        told_to_end: None,
        given_up: &given_up,
    };
    holder.run()
}

struct Holder<'a> {
    programs: Programs,
    arguments: Vec<OsString>,
    is_service: bool,
    kept: BTreeMap<String, Vec<OwnedFd>>,
    manager: Option<Manager>,
    signals: Signals,
    deaths: Deaths,
    /// Whether any server has come to serve.
    has_served: bool,
    /// What the holder was told to end by, until a server has ended everything.
    told_to_end: Option<Signal>,
    given_up: &'a dyn Fn(Option<&str>),
}

impl Holder<'_> {
    fn run(&mut self) -> Result<u8> {
        loop {
            let program = self.programs.next();
            let mut server = match self.start(program) {
                Ok(server) => server,
                Err((_, error)) if !self.has_served => return Err(error),
                Err((program, error)) => {
                    if program.is_on_trial {
                        self.programs.go_back(&program, &error.chain());
                    } else {
                        self.deaths.note(None, false, error.chain());
                        if !self.goes_on() {
                            return Ok(FAILED);
                        }
                    }
                    continue;
                }
            };
            while self.step(&mut server) {}
            let status = server.wait().context(|| "cannot wait for the server")?;
            if server.phase == Phase::Ending && status.code() == Some(i32::from(HANDED_OVER)) {
                // The service manager has everything.
                return Ok(0);
            }
            if server.phase == Phase::Ending {
                return Ok(self.ended(status));
            }
            if self.is_failed_trial(&server, status) {
                self.programs.go_back(&server.program, &server.shown_end(status));
                continue;
            }
            if self.is_end(status) {
                return Ok(self.ended(status));
            }
            if is_handed_over(&server, status) {
                self.deaths.note_none();
            } else {
                let how = server.shown_end(status);
                self.deaths.note(server.serving_since, was_killed(status), how);
                if !self.goes_on() {
                    return Ok(FAILED);
                }
            }
        }
    }

    /// The status of a holder whose last server has ended everything with this one.
    fn ended(&mut self, status: ExitStatus) -> u8 {
        // There is nothing to go on with then: even the socket is gone. What a server that failed had not yet taken over
        // is there for the next attempt.
        if let Some(manager) = &mut self.manager
            && status.success()
        {
            manager.remove_all();
        }
        shown_status(status)
    }

    /// Whether there is to be another server after a death; returns when it is time for it.
    fn goes_on(&mut self) -> bool {
        // One that was to take over, and then to end, has died of that.
        if self.told_to_end.is_some() {
            return false;
        }
        if self.deaths.are_too_many() {
            self.give_up();
        }
        self.pause();
        true
    }

    fn start(&self, program: Program) -> Result<Server, Failed> {
        let mut server = Server::start(program, &self.arguments, !self.kept.is_empty())?;
        server.ends_by = self.told_to_end.map(|_| clock::now() + END_AT_LATEST);
        // A server that dies at once is no failure of ours.
        let _ = self.hand_over_to(&server);
        Ok(server)
    }

    fn hand_over_to(&self, server: &Server) -> io::Result<()> {
        let socket = server.socket.as_fd();
        for (name, descriptors) in &self.kept {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            send(socket, &Message::Keep { name: name.clone() }, &descriptors)?;
        }
        let all = Message::All {
            died: self.deaths.last().map(str::to_owned),
            deaths: self.deaths.all(),
            is_on_trial: server.program.is_on_trial,
            went_back: self.programs.failure().map(str::to_owned),
        };
        send(socket, &all, &[])
    }

    /// Waits for the server or a signal and does what is to be done; `false`: the server is gone.
    fn step(&mut self, server: &mut Server) -> bool {
        let mut wait = server.due().map(|by| by.saturating_duration_since(clock::now()));
        if wait.is_some_and(|wait| wait.is_zero()) {
            server.kill();
            wait = None;
        } else if let Some(by) = server.ends_by {
            let left = by.saturating_duration_since(clock::now());
            if left.is_zero() {
                self.tell_to_end(server);
            } else {
                wait = Some(wait.map_or(left, |wait| wait.min(left)));
            }
        }
        if let (Some(manager), true) = (&self.manager, server.is_tried()) {
            manager.tell("WATCHDOG=1");
            wait = wait.map(|wait| wait.min(TRIAL_SIGN_OF_LIFE));
        }
        let (from_server, from_signals) = wait_for(&[server.socket.as_fd(), self.signals.as_fd()], wait);
        if from_signals && let Some(told) = self.signals.take() {
            self.signalled(told, server);
        }
        if !from_server {
            return true;
        }
        match receive(server.socket.as_fd()) {
            Ok(Some((message, descriptors))) => {
                self.take(message, descriptors, server);
                true
            }
            // Of a later program, or without descriptors that there is no room for. Whoever sent it goes on, and is to be told
            // of signals.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                eprintln!("refmount: the server said what is not understood: {error}");
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    fn take(&mut self, message: Message, descriptors: Vec<OwnedFd>, server: &mut Server) {
        match message {
            Message::Keep { name } => {
                if let Some(manager) = &mut self.manager {
                    manager.store(&name, &descriptors);
                }
                self.kept.insert(name, descriptors);
            }
            Message::Forget { name } => {
                if let Some(manager) = &mut self.manager {
                    manager.remove(&name);
                }
                self.kept.remove(&name);
            }
            Message::Ready => {
                server.serves();
                self.programs.serves(&server.program);
                if !self.has_served {
                    self.has_served = true;
                    if !self.is_service {
                        let _ = process::let_go_of_stderr();
                    }
                }
                if server.can_end() {
                    self.tell_to_end(server);
                }
            }
            Message::Stays => {
                server.phase = Phase::Serving;
                self.told_to_end = None;
            }
            Message::Tell { text } => {
                if let Some(manager) = &self.manager {
                    manager.tell(&text);
                }
            }
            Message::Next { program } => self.programs.name(program),
            Message::HandOver => self.signalled(Told::HandOver, server),
            Message::All { .. } => {}
        }
    }

    fn signalled(&mut self, signal: Told, server: &mut Server) {
        match signal {
            Told::HandOver => {
                self.programs.try_again();
                // One that is ending everything leaves nothing to go on with.
                if !matches!(server.phase, Phase::Leaving { .. } | Phase::Ending)
                    && send(server.socket.as_fd(), &Message::HandOver, &[]).is_ok()
                {
                    server.leaves();
                    if let Some(manager) = &self.manager {
                        manager.tell_reloading();
                    }
                }
            }
            Told::End(signal) => {
                self.told_to_end = Some(signal);
                if let Some(manager) = &self.manager {
                    manager.tell("STOPPING=1");
                }
                if server.can_end() {
                    self.tell_to_end(server);
                } else if matches!(server.phase, Phase::Starting { .. }) && server.ends_by.is_none() {
                    server.ends_by = Some(clock::now() + END_AT_LATEST);
                }
            }
        }
    }

    /// Tells `server` to end, if the holder was told to.
    fn tell_to_end(&self, server: &mut Server) {
        server.ends_by = None;
        let Some(signal) = self.told_to_end else { return };
        server.phase = Phase::Ending;
        server.tell(signal);
    }

    /// Whether a server that ended so has ended everything.
    fn is_end(&self, status: ExitStatus) -> bool {
        match status.code() {
            Some(0) => true,
            Some(code) if code == i32::from(HANDED_OVER) => false,
            // What it failed with was said.
            Some(_) => !self.has_served,
            None => false,
        }
    }

    /// Whether a server that ended so was another program than served before, and did not come to serve by its own fault.
    fn is_failed_trial(&self, server: &Server, status: ExitStatus) -> bool {
        let is_by_others = was_killed(status) && !server.is_late();
        server.is_tried() && (!is_by_others || self.deaths.in_a_row() + 1 >= TRIAL_KILLS_MAX)
    }

    /// Waits as long as the deaths in a row make it, or until it is told something: to end everything, the next server has
    /// to take it over.
    fn pause(&mut self) {
        let until = clock::now() + self.deaths.pause();
        loop {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            wait_for(&[self.signals.as_fd()], Some(left));
            match self.signals.take() {
                Some(Told::End(signal)) => {
                    self.told_to_end = Some(signal);
                    return;
                }
                Some(Told::HandOver) => {
                    self.programs.try_again();
                    return;
                }
                None => {}
            }
        }
    }

    /// Answers every request with an I/O error until it is told to try again, or to end, which takes a server as well.
    fn give_up(&mut self) {
        let why = self.deaths.last().unwrap_or_default();
        let why = format!(
            "the process that serves it died {} times in a row, as it was started ({why}); once that is mended: kill \
             -HUP {}",
            self.deaths.in_a_row(),
            std::process::id()
        );
        (self.given_up)(Some(&why));
        if let Some(manager) = &self.manager {
            manager.tell(&format!("STATUS=Given up: {why}"));
        }
        let told = self.refuse_requests();
        (self.given_up)(None);
        self.deaths.begin_again();
        self.programs.try_again();
        if let Told::End(signal) = told {
            self.told_to_end = Some(signal);
        }
    }

    fn refuse_requests(&mut self) -> Told {
        let mut mounts: Vec<Refused> = self.kept.values().filter_map(|kept| Refused::of(kept)).collect();
        loop {
            let mut waited: Vec<PollFd<'_>> =
                mounts.iter().map(|mount| PollFd::new(mount.device(), PollFlags::IN)).collect();
            waited.push(PollFd::new(&self.signals, PollFlags::IN));
            // Interrupted by a signal, which is waiting in its pipe then.
            let _ = poll(&mut waited, None);
            let ready: Vec<bool> = waited.iter().map(|waited| !waited.revents().is_empty()).collect();
            if let Some(told) = self.signals.take() {
                return told;
            }
            let mut ready = ready.into_iter();
            mounts.retain(|mount| !ready.next().unwrap_or(false) || mount.refuse_next().is_ok());
        }
    }
}

fn is_handed_over(server: &Server, status: ExitStatus) -> bool {
    matches!(server.phase, Phase::Leaving { .. }) || status.code() == Some(i32::from(HANDED_OVER))
}

/// By SIGKILL.
fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

fn shown_status(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
}

/// Which of the two are ready, or neither after `limit`.
fn wait_for(descriptors: &[BorrowedFd<'_>], limit: Option<Duration>) -> (bool, bool) {
    let mut waited: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // Interrupted by a signal, which is waiting in its pipe then.
    let _ = poll(&mut waited, limit.as_ref());
    let is_ready = |at: usize| waited.get(at).is_some_and(|waited| !waited.revents().is_empty());
    (is_ready(0), is_ready(1))
}
