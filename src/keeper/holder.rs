//! The holder's life: it starts servers, keeps what they give it, and ends with the last of them.
//!
//! | from     | to       | when                                                                        |
//! |----------|----------|-----------------------------------------------------------------------------|
//! | starting | serving  | the server says that it serves                                              |
//! | starting | ended    | the first server ends by itself before it serves: its status is the holder's |
//! | any      | starting | a server that was to go on has died: at once, then after pauses that grow    |
//! | any      | given up | it has died [`DEATHS_MAX`] times with hardly a pause; every request is EIO   |
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
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};

use crate::base::{Error, Result, ResultExt as _, clock, process};

use super::devices::Refused;
use super::manager::Manager;
use super::programs::{Program, Programs};
use super::{HANDED_OVER, Message, SERVER, receive, send};

/// Deaths in a row after which the holder gives up. With the pauses between them, some 20 seconds.
const DEATHS_MAX: u32 = 12;

/// The same for deaths by SIGKILL, which no server brings upon itself: somebody kills it, or the kernel, for memory.
const KILLS_MAX: u32 = 200;

/// The longest pause after one of those.
const PAUSE_AFTER_KILL: Duration = Duration::from_millis(100);

/// A server that has served for as long has not died in a row with those before it: what kills every server is a request
/// or a file that it meets at its start, and is given again at once.
const STEADY: Duration = Duration::from_millis(500);

/// The first pause is after the second death in a row: whatever killed one server need not kill the next.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a server may take to leave everything to the next one before it is killed.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);

/// How long a server that takes over may take until it is told to end even though it does not serve.
const END_AT_LATEST: Duration = Duration::from_secs(6);

/// How long another program than served before may take until it serves. It may have large maps to read, and mounts to
/// bring up; meanwhile readers wait.
const TRIAL_LIMIT: Duration = Duration::from_secs(30);

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
        state: State::default(),
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
    state: State,
    given_up: &'a dyn Fn(Option<&str>),
}

#[derive(Default)]
struct State {
    /// Whether any server has come to serve.
    has_served: bool,
    deaths_in_a_row: u32,
    /// Whether the last one was by SIGKILL.
    was_killed: bool,
    deaths: u64,
    died: Option<String>,
    /// What the holder was told to end by, until a server has ended everything.
    told_to_end: Option<Signal>,
}

/// A running server.
struct Server {
    child: Child,
    socket: OwnedFd,
    program: Program,
    serving_since: Option<Instant>,
    /// By when it must have left.
    leaves_by: Option<Instant>,
    /// By when it must serve.
    serves_by: Option<Instant>,
    /// Whether it has to take over what there is before it can end that.
    takes_over: bool,
    /// By when it is told to end, though it does not serve.
    ends_by: Option<Instant>,
    /// Whether it was told to end, and everything with it.
    is_ending: bool,
}

impl Server {
    /// Whether it can end everything that there is.
    fn can_end(&self) -> bool {
        self.leaves_by.is_none() && (self.serving_since.is_some() || !self.takes_over)
    }
}

impl Holder<'_> {
    fn run(&mut self) -> Result<u8> {
        loop {
            let program = self.programs.next();
            let mut server = match self.start(program) {
                Ok(server) => server,
                Err((_, error)) if !self.state.has_served => return Err(error),
                Err((program, error)) => {
                    if program.is_on_trial {
                        self.programs.go_back(&program, &error.chain());
                    } else {
                        self.note_death(None, error.chain());
                        if !self.goes_on() {
                            return Ok(FAILED);
                        }
                    }
                    continue;
                }
            };
            while self.step(&mut server) {}
            let status = server.child.wait().context(|| "cannot wait for the server")?;
            if server.is_ending && status.code() == Some(i32::from(HANDED_OVER)) {
                // The service manager has everything.
                return Ok(0);
            }
            if server.is_ending {
                return Ok(self.ended(status));
            }
            if self.is_failed_trial(&server, status) {
                self.programs.go_back(&server.program, &shown_end(status, &server));
                continue;
            }
            if self.is_end(status) {
                return Ok(self.ended(status));
            }
            if !self.is_handed_over(&server, status) {
                self.state.was_killed = status.signal() == Some(Signal::KILL.as_raw());
                self.note_death(server.serving_since, shown_end(status, &server));
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
        if self.state.told_to_end.is_some() {
            return false;
        }
        let deaths_max = if self.state.was_killed { KILLS_MAX } else { DEATHS_MAX };
        if self.state.deaths_in_a_row >= deaths_max {
            self.give_up();
        }
        self.pause();
        true
    }

    fn start(&self, program: Program) -> Result<Server, (Program, Error)> {
        match self.spawn(&program) {
            Err(error) => Err((program, error)),
            Ok((child, socket)) => {
                let serves_by = program.is_on_trial.then(|| clock::now() + TRIAL_LIMIT);
                let ends_by = self.state.told_to_end.map(|_| clock::now() + END_AT_LATEST);
                let server = Server {
                    child,
                    socket,
                    program,
                    serving_since: None,
                    leaves_by: None,
                    serves_by,
                    takes_over: !self.kept.is_empty(),
                    ends_by,
                    is_ending: false,
                };
                // A server that dies at once is no failure of ours.
                let _ = self.hand_over_to(&server);
                Ok(server)
            }
        }
    }

    fn spawn(&self, program: &Program) -> Result<(Child, OwnedFd)> {
        let cannot = || format!("cannot start {}", program.path.display());
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)
                .context(cannot)?;
        let child = Command::new(program.path_to_run())
            .arg0(&program.path)
            .arg(SERVER)
            .args(&self.arguments)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .context(cannot)?;
        Ok((child, socket))
    }

    fn hand_over_to(&self, server: &Server) -> io::Result<()> {
        let socket = server.socket.as_fd();
        for (name, descriptors) in &self.kept {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            send(socket, &Message::Keep { name: name.clone() }, &descriptors)?;
        }
        let all = Message::All {
            died: self.state.died.clone(),
            deaths: self.state.deaths,
            is_on_trial: server.program.is_on_trial,
            went_back: self.programs.failure().map(str::to_owned),
        };
        send(socket, &all, &[])
    }

    /// Waits for the server or a signal and does what is to be done; `false`: the server is gone.
    fn step(&mut self, server: &mut Server) -> bool {
        let by = [server.leaves_by, server.serves_by].into_iter().flatten().min();
        let mut wait = by.map(|by| by.saturating_duration_since(clock::now()));
        if wait.is_some_and(|wait| wait.is_zero()) {
            let _ = server.child.kill();
            wait = None;
        } else if let Some(by) = server.ends_by {
            let left = by.saturating_duration_since(clock::now());
            if left.is_zero() {
                self.tell_to_end(server);
            } else {
                wait = Some(wait.map_or(left, |wait| wait.min(left)));
            }
        }
        if let (Some(manager), Some(_)) = (&self.manager, server.serves_by) {
            manager.tell("WATCHDOG=1");
            wait = wait.map(|wait| wait.min(TRIAL_SIGN_OF_LIFE));
        }
        let (from_server, from_signals) = wait_for(&[server.socket.as_fd(), self.signals.pipe.as_fd()], wait);
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
                server.serving_since = Some(clock::now());
                server.serves_by = None;
                self.programs.serves(&server.program);
                if !self.state.has_served {
                    self.state.has_served = true;
                    if !self.is_service {
                        let _ = process::let_go_of_stderr();
                    }
                }
                if server.can_end() {
                    self.tell_to_end(server);
                }
            }
            Message::Stays => {
                server.is_ending = false;
                self.state.told_to_end = None;
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
                if server.leaves_by.is_none()
                    && !server.is_ending
                    && send(server.socket.as_fd(), &Message::HandOver, &[]).is_ok()
                {
                    server.leaves_by = Some(clock::now() + HAND_OVER_LIMIT);
                    if let Some(manager) = &self.manager {
                        manager.tell_reloading();
                    }
                }
            }
            Told::End(signal) => {
                self.state.told_to_end = Some(signal);
                if let Some(manager) = &self.manager {
                    manager.tell("STOPPING=1");
                }
                if server.can_end() {
                    self.tell_to_end(server);
                } else if server.leaves_by.is_none() && server.ends_by.is_none() {
                    server.ends_by = Some(clock::now() + END_AT_LATEST);
                }
            }
        }
    }

    /// Tells `server` to end, if the holder was told to.
    fn tell_to_end(&self, server: &mut Server) {
        server.ends_by = None;
        let Some(signal) = self.state.told_to_end else { return };
        server.is_ending = true;
        if let Some(pid) = i32::try_from(server.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether a server that ended so has ended everything.
    fn is_end(&self, status: ExitStatus) -> bool {
        match status.code() {
            Some(0) => true,
            Some(code) if code == i32::from(HANDED_OVER) => false,
            // What it failed with was said.
            Some(_) => !self.state.has_served,
            None => false,
        }
    }

    fn is_handed_over(&mut self, server: &Server, status: ExitStatus) -> bool {
        let is_so = server.leaves_by.is_some() || status.code() == Some(i32::from(HANDED_OVER));
        if is_so {
            self.state.died = None;
        }
        is_so
    }

    /// Whether a server that ended so was another program than served before, and did not come to serve by its own fault.
    fn is_failed_trial(&mut self, server: &Server, status: ExitStatus) -> bool {
        if !server.program.is_on_trial || server.serving_since.is_some() || server.leaves_by.is_some() {
            return false;
        }
        let is_late = server.serves_by.is_some_and(|by| by <= clock::now());
        let was_killed = status.signal() == Some(Signal::KILL.as_raw()) && !is_late;
        !was_killed || self.state.deaths_in_a_row + 1 >= TRIAL_KILLS_MAX
    }

    fn note_death(&mut self, serving_since: Option<Instant>, how: String) {
        let was_steady = serving_since.is_some_and(|since| since.elapsed() > STEADY);
        self.state.deaths_in_a_row = if was_steady { 0 } else { self.state.deaths_in_a_row + 1 };
        self.state.deaths += 1;
        self.state.died = Some(how);
    }

    /// Waits as long as the deaths in a row make it, or until it is told something: to end everything, the next server has
    /// to take it over.
    fn pause(&mut self) {
        let doublings = self.state.deaths_in_a_row.saturating_sub(2).min(16);
        let pause = match self.state.deaths_in_a_row {
            0 | 1 => return,
            _ if self.state.was_killed => PAUSE_AFTER_KILL.min(PAUSE_FIRST * (1 << doublings)),
            _ => (PAUSE_FIRST * (1 << doublings)).min(PAUSE_MAX),
        };
        let until = clock::now() + pause;
        loop {
            let left = until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            wait_for(&[self.signals.pipe.as_fd()], Some(left));
            match self.signals.take() {
                Some(Told::End(signal)) => {
                    self.state.told_to_end = Some(signal);
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
        let why = self.state.died.clone().unwrap_or_default();
        let why = format!(
            "the process that serves it died {} times in a row, as it was started ({why}); once that is mended: kill \
             -HUP {}",
            self.state.deaths_in_a_row,
            std::process::id()
        );
        (self.given_up)(Some(&why));
        if let Some(manager) = &self.manager {
            manager.tell(&format!("STATUS=Given up: {why}"));
        }
        let told = self.refuse_requests();
        (self.given_up)(None);
        self.state.deaths_in_a_row = 0;
        self.programs.try_again();
        if let Told::End(signal) = told {
            self.state.told_to_end = Some(signal);
        }
    }

    fn refuse_requests(&mut self) -> Told {
        let mut mounts: Vec<Refused> = self.kept.values().filter_map(|kept| Refused::of(kept)).collect();
        loop {
            let mut waited: Vec<PollFd<'_>> =
                mounts.iter().map(|mount| PollFd::new(mount.device(), PollFlags::IN)).collect();
            waited.push(PollFd::new(&self.signals.pipe, PollFlags::IN));
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

/// What the holder was told by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// SIGTERM, SIGINT.
    End(Signal),
    /// SIGHUP.
    HandOver,
}

/// The signals that came. What waits for a descriptor waits for them too.
struct Signals {
    pipe: UnixStream,
    terminate: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
    hand_over: Arc<AtomicBool>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let (pipe, written) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let [terminate, interrupt, hand_over] = <[Arc<AtomicBool>; 3]>::default();
        // First the flag, then what wakes up.
        for (signal, flag) in [(SIGTERM, &terminate), (SIGINT, &interrupt), (SIGHUP, &hand_over)] {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, written.try_clone()?)?;
        }
        Ok(Self { pipe, terminate, interrupt, hand_over })
    }

    /// What was told since the last time.
    fn take(&self) -> Option<Told> {
        let mut bytes = [0; 64];
        while (&self.pipe).read(&mut bytes).is_ok_and(|taken| taken > 0) {}
        let told = |flag: &AtomicBool| flag.swap(false, Ordering::Relaxed);
        match (told(&self.interrupt), told(&self.terminate), told(&self.hand_over)) {
            (true, ..) => Some(Told::End(Signal::INT)),
            (_, true, _) => Some(Told::End(Signal::TERM)),
            (.., hands_over) => hands_over.then_some(Told::HandOver),
        }
    }
}

/// How `server` ended, in words.
fn shown_end(status: ExitStatus, server: &Server) -> String {
    match (status.signal(), status.code()) {
        _ if server.serves_by.is_some_and(|by| by <= clock::now()) => {
            format!("it took longer than {} s", TRIAL_LIMIT.as_secs())
        }
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (None, code) => format!("it ended with status {}", code.unwrap_or_default()),
    }
}

fn shown_status(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
}

/// Which of the two are ready, or neither after `limit`.
fn wait_for(descriptors: &[std::os::fd::BorrowedFd<'_>], limit: Option<Duration>) -> (bool, bool) {
    let mut waited: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // Interrupted by a signal, which is waiting in its pipe then.
    let _ = poll(&mut waited, limit.as_ref());
    let is_ready = |at: usize| waited.get(at).is_some_and(|waited| !waited.revents().is_empty());
    (is_ready(0), is_ready(1))
}
