//! The threads that serve one mount, each with a queue of its own where the user may have one.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use tokio::sync::watch;

use crate::base::{Error, ErrorKind, Result, ResultExt as _, clock};
use crate::keeper;

use super::adapter::Adapter;
use super::attachment::Attachment;
use super::device::{self, Device};
use super::greeting::Greeting;
use super::invalidate::{self, NotifierSlot};
use super::threads::{PATIENCE, PAUSE, spawn};

/// Fewer would let one slow disk read stop all others; more than this many only contend for the kernel's
/// queue, since a thread never waits for the network.
const THREADS: std::ops::RangeInclusive<usize> = 2..=8;

/// The queues of a mount, greeted and not yet served.
pub(super) struct Queues {
    sessions: Vec<Session<Adapter>>,
    device: Device,
    greeting: Greeting,
}

impl Queues {
    /// Waits for the greeting of the kernel on `device`, and opens further queues of it.
    pub(super) fn greet(adapter: &Adapter, device: &Device, first: OwnedFd) -> Result<Self> {
        let is_single = device::open().is_err();
        let session = Session::from_fd(adapter.clone(), first, SessionACL::All, config(is_single))
            .map_err(|error| Error::new(ErrorKind::Io, format!("the kernel's greeting failed: {error}")))?;
        let greeting = adapter
            .greeting()
            .ok_or_else(|| Error::new(ErrorKind::Io, "the kernel's greeting was not understood"))?;
        let mut queues = Self { sessions: vec![session], device: device.clone(), greeting };
        while !is_single && queues.sessions.len() < threads() {
            let other = device::clone(queues.first()).context(|| "cannot open another queue")?;
            queues.add(adapter, &other, is_single)?;
        }
        Ok(queues)
    }

    /// Takes over `descriptors`, which a process before this one has served and which `greeting` was said to. The kernel
    /// sends again what that one has left without an answer.
    pub(super) fn take_over(
        adapter: &Adapter,
        device: &Device,
        descriptors: &[OwnedFd],
        greeting: Greeting,
    ) -> Result<Self> {
        let mut queues = Self { sessions: Vec::new(), device: device.clone(), greeting };
        for queue in descriptors {
            queues.add(adapter, queue, descriptors.len() == 1)?;
        }
        if let Some(first) = descriptors.first()
            && let Err(error) = keeper::resend(first)
        {
            tracing::debug!("the kernel does not send again what was not answered: {error}");
        }
        Ok(queues)
    }

    fn add(&mut self, adapter: &Adapter, queue: &OwnedFd, is_single: bool) -> Result<()> {
        let session = greeted(self.greeting, adapter, queue, is_single);
        self.sessions.push(session.context(|| "cannot serve a queue")?);
        Ok(())
    }

    pub(super) fn greeting(&self) -> Greeting {
        self.greeting
    }

    /// The descriptors of the queues.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sessions.iter().map(|session| session.as_fd())
    }

    fn first(&self) -> BorrowedFd<'_> {
        self.sessions[0].as_fd()
    }

    /// Serves until the mount is gone; what is returned turns `true` then. Threads are waited for as long as `patience`.
    pub(super) fn serve(
        self,
        adapter: &Adapter,
        attachment: Arc<Attachment>,
        patience: Duration,
    ) -> Result<watch::Receiver<bool>> {
        let filesystem = Arc::clone(adapter.filesystem());
        let Some(first) = self.sessions.first() else {
            return Err(Error::new(ErrorKind::Io, "there is no queue to serve"));
        };
        let slot = NotifierSlot::new(first.notifier());
        let (sender, ended) = watch::channel(false);
        invalidate::watch(&filesystem, slot.clone(), patience)?;
        let mut threads = Vec::new();
        let (greeting, is_single) = (self.greeting, self.sessions.len() == 1);
        for session in self.sessions {
            let adapter = adapter.clone();
            let run = move || run(session, |queue| greeted(greeting, &adapter, queue, is_single));
            threads.push(spawn("fuse-session", patience, run)?);
        }
        let device = self.device;
        spawn("fuse-end", patience, move || {
            for thread in threads {
                match thread.join() {
                    Ok(Some(Err(error))) if !is_end(&error) => {
                        let mountpoint = attachment.target().display();
                        tracing::error!(%mountpoint, "serving ended: {error}");
                    }
                    Ok(_) => {}
                    Err(_) => tracing::error!("a bug: a thread that serves a mount panicked"),
                }
            }
            slot.close();
            device.close();
            // Gone in most cases; after a failure or an abort it would answer ENOTCONN for ever.
            if let Err(error) = attachment.detach_if_left() {
                tracing::warn!("a mount stays behind: {}", error.chain());
            }
            sender.send_replace(true);
        })?;
        Ok(ended)
    }
}

/// A session on `queue`, to which `greeting` was said.
fn greeted(
    greeting: Greeting,
    adapter: &Adapter,
    queue: &OwnedFd,
    is_single: bool,
) -> io::Result<Session<Adapter>> {
    let (ours, theirs) = greeting.waiting()?;
    let session = Session::from_fd(adapter.clone(), ours, SessionACL::All, config(is_single))?;
    drop(theirs);
    device::replace(session.as_fd(), queue)?;
    Ok(session)
}

/// Runs `session` to its end. fuser starts one more thread for it, and a session for which there is none is over: `again`
/// makes another one of its queue.
fn run(
    mut session: Session<Adapter>,
    again: impl Fn(&OwnedFd) -> io::Result<Session<Adapter>>,
) -> io::Result<()> {
    let deadline = clock::now() + PATIENCE;
    let queue = session.as_fd().try_clone_to_owned()?;
    loop {
        match session.run() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && clock::now() < deadline => {
                std::thread::sleep(PAUSE);
                session = again(&queue)?;
            }
            ended => return ended,
        }
    }
}

/// How the kernel ends a connection: by unmounting, or by cutting it off after a lazy unmount.
fn is_end(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NODEV | Errno::NOTCONN | Errno::CONNABORTED)
    )
}

fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(*THREADS.start(), NonZero::get);
    cores.clamp(*THREADS.start(), *THREADS.end())
}

/// `is_single`: all threads share one queue.
fn config(is_single: bool) -> Config {
    let mut config = Config::default();
    // Who may look is the kernel's business (`allow_other`), which knows user namespaces and mapped users;
    // fuser's own check compares bare numbers.
    config.acl = SessionACL::All;
    config.n_threads = Some(if is_single { threads() } else { 1 });
    config
}
