//! What the holder is told by signals.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

/// What the holder was told by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// SIGTERM, SIGINT.
    End(Signal),
    /// SIGHUP.
    HandOver,
}

/// The signals that came. What waits for a descriptor waits for them too.
#[derive(Debug)]
pub(super) struct Signals {
    pipe: UnixStream,
    terminate: Arc<AtomicBool>,
    interrupt: Arc<AtomicBool>,
    hand_over: Arc<AtomicBool>,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
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
    pub(super) fn take(&self) -> Option<Told> {
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

/// Readable when there is something to take.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
