//! What a process asks of the system for itself.

use std::fs::File;
use std::io;

use rustix::process::{Resource, getrlimit, setpriority_process, setrlimit};
use rustix::thread::gettid;

/// Allows this process as many file descriptors as it may allow itself.
///
/// # Errors
/// What the kernel says; the limit is what it was then.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// How much this thread gives way to others: next to them it gets a tenth of a core, alone all of it.
const YIELDING: i32 = 10;

/// From now on, this thread runs when others do not need the core. There is no way back without privileges. Where the
/// kernel refuses, nothing changes.
pub fn yield_to_others() {
    let _ = setpriority_process(Some(gettid()), YIELDING);
}

/// How many file descriptors this process may have; none: as many as it likes.
#[must_use]
pub fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Closes standard error, which from then on takes everything and keeps nothing. For processes whose starter reads it
/// until they are ready, and not after.
///
/// # Errors
/// What the kernel says.
pub fn let_go_of_stderr() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}
