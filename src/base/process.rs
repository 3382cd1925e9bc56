//! What a process asks of the system for itself.

use std::fs::File;
use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Allows this process as many file descriptors as it may allow itself.
///
/// # Errors
/// What the kernel says; the limit is what it was then.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
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
