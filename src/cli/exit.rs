//! How a command ends: its exit status, and what it says on standard error.

use std::process::ExitCode;

use crate::base::{Error, ErrorKind};

use super::output::printable;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// This is to be reported.
    Error(Error),
    /// Everything was reported on the way; this is the worst of it.
    Reported(ErrorKind),
    /// Nobody reads what is printed any more (`refmount tree … | head`); nothing is wrong.
    BrokenPipe,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The exit status for a kind of error.
#[must_use]
pub(super) fn status(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid
        | ErrorKind::Corrupt
        | ErrorKind::Unavailable
        | ErrorKind::TimedOut
        | ErrorKind::NoSpace
        | ErrorKind::Io => 1,
        ErrorKind::Usage => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Unauthorized => 4,
        ErrorKind::Unsupported => 5,
        ErrorKind::Busy => 6,
    }
}

/// Reports what has to be reported, and gives the exit status.
#[must_use]
pub(super) fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) | Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        Err(Failure::Reported(kind)) => status(kind).into(),
        Err(Failure::Error(error)) => {
            report(&error);
            status(error.kind()).into()
        }
    }
}

/// Writes `error` to standard error.
pub(super) fn report(error: &Error) {
    say(&error.chain());
}

/// Writes a line to standard error, without what could move the cursor of a terminal: names of archives stand in errors.
/// A closed standard error is no reason to fail.
pub(super) fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "refmount: {}", printable(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_that_scripts_rely_on() {
        for (kind, expected) in [
            (ErrorKind::Io, 1),
            (ErrorKind::Corrupt, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::Unauthorized, 4),
            (ErrorKind::Unsupported, 5),
            (ErrorKind::Busy, 6),
        ] {
            assert_eq!(status(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        assert_eq!(finish(Err(Failure::BrokenPipe)), ExitCode::SUCCESS);
    }
}
