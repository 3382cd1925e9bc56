//! How long the kernel waited for its answers, counted for all mounts of the process and for as long as it lives.
//!
//! A request costs two looks at the clock and two atomic additions more for it.

use std::time::Instant;

use crate::base::histogram::Observed;
use crate::base::{Histogram, clock};

/// What the kernel asks for. What is never answered otherwise than with a refusal is not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A name in a directory.
    Lookup,
    /// Attributes.
    Getattr,
    /// The target of a link.
    Readlink,
    /// A file is opened.
    Open,
    /// Bytes of a file.
    Read,
    /// A file is closed for the last time.
    Release,
    /// A directory is opened.
    Opendir,
    /// The names in a directory.
    Readdir,
    /// The same with attributes.
    Readdirplus,
    /// The size of the file system.
    Statfs,
    /// An extended attribute.
    Getxattr,
    /// The names of extended attributes.
    Listxattr,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Lookup,
        Self::Getattr,
        Self::Readlink,
        Self::Open,
        Self::Read,
        Self::Release,
        Self::Opendir,
        Self::Readdir,
        Self::Readdirplus,
        Self::Statfs,
        Self::Getxattr,
        Self::Listxattr,
    ];

    /// The name used in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Getattr => "getattr",
            Self::Readlink => "readlink",
            Self::Open => "open",
            Self::Read => "read",
            Self::Release => "release",
            Self::Opendir => "opendir",
            Self::Readdir => "readdir",
            Self::Readdirplus => "readdirplus",
            Self::Statfs => "statfs",
            Self::Getxattr => "getxattr",
            Self::Listxattr => "listxattr",
        }
    }
}

static DURATIONS: [Histogram; Operation::ALL.len()] = [const { Histogram::new() }; _];

/// What was measured for each operation since the process began.
pub fn request_durations() -> impl Iterator<Item = (Operation, Observed)> {
    Operation::ALL.into_iter().zip(&DURATIONS).map(|(operation, durations)| (operation, durations.observed()))
}

/// A request that is being answered. It counts when it is dropped, which is to be when the answer was given.
#[derive(Debug)]
pub(super) struct Request {
    operation: Operation,
    since: Instant,
}

impl Request {
    /// It has just come.
    pub(super) fn new(operation: Operation) -> Self {
        Self { operation, since: clock::now() }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let took = clock::now().saturating_duration_since(self.since);
        DURATIONS[self.operation as usize].add(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_its_place() {
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, place);
        }
        let of_readlink = || {
            request_durations().find(|(operation, _)| *operation == Operation::Readlink).unwrap().1.count()
        };
        let before = of_readlink();
        drop(Request::new(Operation::Readlink));
        assert_eq!(of_readlink(), before + 1);
    }
}
