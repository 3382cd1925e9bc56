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
//! | any      | ended    | the holder was told to end, and no server comes to that within [`END_LIMIT`] |
//!
//! A server that is still taking over, or leaving, is not told to end. The one that comes to serve is.
//!
//! Whatever becomes of the last server, no dead mount is left: what it has not unmounted, the holder does.
//!
//! Of a service, the server may leave everything as it was when it was told to end: the service manager has it all
//! then ([`super::manager`]), for the holder that it starts next. Where mounts are to be kept and no manager stores
//! them, a server that is killed as it is told to end is followed by another one, which is told again.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::base::{Result, ResultExt as _, clock, process};

use super::deaths::Deaths;
use super::devices::Refused;
use super::manager::Manager;
use super::programs::{Program, Programs};
use super::server::{End, Failed, Phase, Server};
use super::signals::{Signals, Told};
use super::{Kept, Message, receive, send_now};

/// How long servers may take to end everything once the holder was told to end. What they have not ended by then, it ends
/// itself.
pub const END_LIMIT: Duration = Duration::from_millis(8500);

/// How long the holder waits then for the death of a server that it has killed, which one that hangs in the kernel does not
/// die.
const DEATH_LIMIT: Duration = Duration::from_millis(500);

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
    /// What follows [`super::SERVER`].
    pub arguments: Vec<OsString>,
    /// Whether this process is a service: it logs to standard error for as long as it lives, and a service manager may
    /// listen to it.
    pub is_service: bool,
}

/// What a holder has others do, who know what it keeps.
pub trait Surroundings {
    /// The holder gives up, and why; or tries again.
    fn given_up(&self, why: Option<&str>);

    /// Unmounts those of `kept` that are mounts and still mounted. Nobody serves them any more.
    fn unmount(&self, kept: &Kept);

    /// Removes what leads others to the servers, if it is among `kept` and so no other holder's.
    fn close(&self, kept: &Kept);
}

/// Holds for `servers`, until the last one ends; returns that one's status, or a failure if it did not end as it was to.
///
/// # Errors
/// What the first start failed with.
pub fn hold(servers: Servers, surroundings: &dyn Surroundings) -> Result<u8> {
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
        keeps_mounts: !kept.is_empty(),
        kept,
        manager,
        signals,
        deaths: Deaths::default(),
        has_served: false,
        has_stayed: false,
        told_to_end: None,
        surroundings,
    };
    holder.run()
}

struct Holder<'a> {
    programs: Programs,
    arguments: Vec<OsString>,
    is_service: bool,
    kept: Kept,
    manager: Option<Manager>,
    signals: Signals,
    deaths: Deaths,
    /// Whether any server has come to serve.
    has_served: bool,
    /// Whether any server goes on for the mounts that there still are, though it was told to end.
    has_stayed: bool,
    /// Whether SIGTERM is to leave the mounts as they are: as the servers say, and before, as what was stored says.
    keeps_mounts: bool,
    told_to_end: Option<ToldToEnd>,
    surroundings: &'a dyn Surroundings,
}

/// What the holder was told to end by, until a server has ended everything.
#[derive(Clone, Copy, Debug)]
struct ToldToEnd {
    signal: Signal,
    /// By when servers must have done so.
    by: Instant,
    /// Whether it was told so again.
    again: bool,
}

impl ToldToEnd {
    fn now(signal: Signal) -> Self {
        Self { signal, by: clock::now() + END_LIMIT, again: false }
    }

    /// As after another such signal: Ctrl-C holds on, and time runs on.
    fn and(self, signal: Signal) -> Self {
        let signal = if self.signal == Signal::INT { self.signal } else { signal };
        Self { signal, again: true, ..self }
    }

    fn is_over(&self) -> bool {
        self.by <= clock::now()
    }
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
                        let why = error.chain();
                        self.deaths.note(None, false, why.clone());
                        if let Some(status) = self.after_death(&why) {
                            return Ok(status);
                        }
                    }
                    continue;
                }
            };
            let hangs = loop {
                match self.step(&mut server) {
                    Step::Next => {}
                    Step::Ended => break false,
                    Step::Hangs => break true,
                }
            };
            let end = server.wait(hangs).context(|| "cannot wait for the server")?;
            if let Some(status) = self.after(&server, end) {
                return Ok(status);
            }
        }
    }

    /// What follows on the end of a server: the end of the holder, with this status, or another server, once it is time for
    /// that.
    fn after(&mut self, server: &Server, end: End) -> Option<u8> {
        let is_ending = server.phase == Phase::Ending;
        if is_ending && end.has_handed_over() {
            self.leave_to_manager();
            return Some(0);
        }
        // There may have been nothing to end yet, and nobody to hear of it.
        let is_unheard = |told: ToldToEnd| self.kept.is_empty() && end.is_by(told.signal);
        if is_ending && (end.is_success() || self.told_to_end.is_some_and(is_unheard)) {
            self.end_all();
            return Some(0);
        }
        let is_over = self.told_to_end.is_some_and(|told| told.is_over());
        if !is_ending && !is_over {
            if self.is_failed_trial(server, end) {
                self.programs.go_back(&server.program, &server.shown(end));
                return None;
            }
            match end.code() {
                Some(0) => {
                    self.end_all();
                    return Some(0);
                }
                // What it failed with was said. What it had not yet taken over is there for the next attempt.
                Some(code) if !self.has_served && !end.has_handed_over() => return Some(code),
                _ => {}
            }
            if matches!(server.phase, Phase::Leaving { .. }) || end.has_handed_over() {
                self.deaths.note_none();
                return None;
            }
        }
        let how = server.shown(end);
        self.deaths.note(server.serving_since, server.is_killed_by_others(end), how.clone());
        self.after_death(&how)
    }

    /// What follows on the death of a server, as for [`Self::after`]. If it was to end everything, or to take it over and
    /// then to end it, the holder does so; unless mounts are to be kept, and nobody but servers could, who do not all die.
    fn after_death(&mut self, how: &str) -> Option<u8> {
        let Some(told) = self.told_to_end else {
            self.pause();
            return None;
        };
        let keeps = self.keeps_mounts && told.signal == Signal::TERM;
        let is_stored = self.manager.as_ref().is_some_and(Manager::stores);
        if keeps && !is_stored && !told.again && !self.deaths.are_too_many() {
            self.pause();
            // For the next one, time begins anew.
            self.told_to_end =
                self.told_to_end.map(|told| ToldToEnd { by: clock::now() + END_LIMIT, ..told });
            return None;
        }
        eprintln!("refmount: the process that was to end everything did not come to it: {how}");
        if keeps && is_stored {
            self.leave_to_manager();
        } else {
            self.end_all();
            self.surroundings.close(&self.kept);
        }
        Some(FAILED)
    }

    /// Ends what is left. The service manager has nothing to go on with then: even the socket is gone.
    fn end_all(&mut self) {
        self.surroundings.unmount(&self.kept);
        if let Some(manager) = &mut self.manager {
            manager.remove_all();
        }
    }

    /// Leaves everything to the service manager; what that does not store ends.
    fn leave_to_manager(&mut self) {
        let manager = self.manager.as_ref();
        self.kept.retain(|name, _| !manager.is_some_and(|manager| manager.has_stored(name)));
        self.surroundings.unmount(&self.kept);
    }

    fn start(&self, program: Program) -> Result<Server, Failed> {
        let mut server = Server::start(program, &self.arguments, !self.kept.is_empty())?;
        server.unsent.extend(self.kept.keys().map(|name| Message::Keep { name: name.clone() }));
        server.unsent.push_back(Message::All {
            died: self.deaths.last().map(str::to_owned),
            deaths: self.deaths.all(),
            is_on_trial: server.program.is_on_trial,
            went_back: self.programs.failure().map(str::to_owned),
        });
        Ok(server)
    }

    /// Sends `server` as much of what it is to be sent as there is room for. One that cannot be sent it is killed, and the
    /// next one is tried after a pause.
    fn send_to(&self, server: &mut Server) {
        while let Some(message) = server.unsent.front() {
            let kept = match message {
                Message::Keep { name } => self.kept.get(name).map(Vec::as_slice).unwrap_or_default(),
                _ => &[],
            };
            let descriptors: Vec<_> = kept.iter().map(AsFd::as_fd).collect();
            match send_now(server.socket.as_fd(), message, &descriptors) {
                Ok(()) => server.unsent.pop_front(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // One that has died is no failure of ours.
                    if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                        let what = match message {
                            Message::Keep { name } => name,
                            _ => "all that there is",
                        };
                        let why = format!("{what} cannot be handed over to it: {error}");
                        eprintln!("refmount: {why}");
                        server.kill_for(why);
                    }
                    return server.unsent.clear();
                }
            };
        }
    }

    /// Waits for the server or a signal and does what is to be done.
    fn step(&mut self, server: &mut Server) -> Step {
        let look = self.next_look(server);
        let mut wait = look.map(|at| at.saturating_duration_since(clock::now()));
        if server.killed_at().is_some() && wait.is_some_and(|wait| wait.is_zero()) {
            return Step::Hangs;
        }
        if let (Some(manager), true) = (&self.manager, server.is_tried()) {
            manager.tell("WATCHDOG=1");
            wait = wait.map(|wait| wait.min(TRIAL_SIGN_OF_LIFE));
        }
        let of_server = match server.unsent.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        };
        let [from_server, from_signals] =
            wait_for([(server.socket.as_fd(), of_server), (self.signals.as_fd(), PollFlags::IN)], wait);
        if !from_signals.is_empty()
            && let Some(told) = self.signals.take()
        {
            self.signalled(told, server);
        }
        if from_server.contains(PollFlags::OUT) {
            self.send_to(server);
        }
        if from_server.difference(PollFlags::OUT).is_empty() {
            return Step::Next;
        }
        match receive(server.socket.as_fd()) {
            Ok(Some((message, descriptors))) => {
                self.take(message, descriptors, server);
                Step::Next
            }
            // Of a later program, or without descriptors that there is no room for. Whoever sent it goes on, and is to be told
            // of signals.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                eprintln!("refmount: the server said what is not understood: {error}");
                Step::Next
            }
            Ok(None) | Err(_) => Step::Ended,
        }
    }

    /// Kills a server that takes too long. Returns when it is to be looked at again should it do nothing; one that was
    /// killed is dead by then, or hangs.
    fn next_look(&self, server: &mut Server) -> Option<Instant> {
        let end = self.told_to_end.map(|told| (told.by, "it did not end in time".to_owned()));
        let due = server.due().into_iter().chain(end).min_by_key(|(by, _)| *by);
        match due {
            Some((by, _)) if by > clock::now() && server.killed_at().is_none() => return Some(by),
            Some((_, why)) => server.kill_for(why),
            None => {}
        }
        // Without an end that waits for it, its death is waited for as long as it takes.
        self.told_to_end.zip(server.killed_at()).map(|(told, at)| told.by.max(at + DEATH_LIMIT))
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
                self.has_stayed = true;
                // Told again, it does not.
                if !self.told_to_end.is_some_and(|told| told.again) {
                    server.phase = Phase::Serving;
                    self.told_to_end = None;
                }
            }
            Message::KeepsMounts { keeps } => self.keeps_mounts = keeps,
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
                if !matches!(server.phase, Phase::Leaving { .. } | Phase::Ending) {
                    server.unsent.push_back(Message::HandOver);
                    server.leaves();
                    if let Some(manager) = &self.manager {
                        manager.tell_reloading();
                    }
                }
            }
            Told::End(signal) => {
                self.note_told_to_end(signal);
                if let Some(manager) = &self.manager {
                    manager.tell("STOPPING=1");
                }
                if server.can_end() {
                    self.tell_to_end(server);
                }
            }
        }
    }

    fn note_told_to_end(&mut self, signal: Signal) {
        // After the first SIGTERM, which one server has heard, the next one unmounts, whoever serves by then.
        let signal = if self.has_stayed { Signal::INT } else { signal };
        let told = self.told_to_end.map_or_else(|| ToldToEnd::now(signal), |told| told.and(signal));
        self.told_to_end = Some(told);
    }

    /// Tells `server` to end, if the holder was told to.
    fn tell_to_end(&self, server: &mut Server) {
        let Some(told) = self.told_to_end else { return };
        server.phase = Phase::Ending;
        server.tell(told.signal);
    }

    /// Whether a server that ended so was another program than served before, and did not come to serve by its own fault.
    fn is_failed_trial(&self, server: &Server, end: End) -> bool {
        let is_at_fault = !server.is_killed_by_others(end);
        server.is_tried() && (is_at_fault || self.deaths.in_a_row() + 1 >= TRIAL_KILLS_MAX)
    }

    /// Waits as long as the deaths in a row make it, or until it is told something: to end everything, the next server has
    /// to take it over. After too many, gives up until then.
    fn pause(&mut self) {
        if self.deaths.are_too_many() {
            self.give_up();
        }
        let until = clock::now() + self.deaths.pause();
        loop {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            wait_for([(self.signals.as_fd(), PollFlags::IN)], Some(left));
            match self.signals.take() {
                Some(Told::End(signal)) => {
                    self.note_told_to_end(signal);
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
        self.surroundings.given_up(Some(&why));
        if let Some(manager) = &self.manager {
            manager.tell(&format!("STATUS=Given up: {why}"));
        }
        let told = self.refuse_requests();
        self.surroundings.given_up(None);
        self.deaths.begin_again();
        self.programs.try_again();
        if let Told::End(signal) = told {
            self.note_told_to_end(signal);
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

/// What a look at a server has shown.
enum Step {
    /// It goes on.
    Next,
    /// It is gone, or about to be.
    Ended,
    /// It was killed, and does not die.
    Hangs,
}

/// Waits for what is asked of descriptors, and at most for `limit`. Returns what is the case of each; nothing after the limit.
fn wait_for<const N: usize>(
    asked: [(BorrowedFd<'_>, PollFlags); N],
    limit: Option<Duration>,
) -> [PollFlags; N] {
    let mut waited = asked.map(|(descriptor, flags)| PollFd::from_borrowed_fd(descriptor, flags));
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // Interrupted by a signal, which is waiting in its pipe then.
    let _ = poll(&mut waited, limit.as_ref());
    waited.map(|waited| waited.revents())
}
