//! Which program the next server is.
//!
//! It is the one that was named, unless that has failed. The file of the one that served last is kept open, so that it
//! can be gone back to even if another file stands in its place by now: one that does not come to serve, as after an
//! upgrade that went wrong, costs a pause and no mount.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Programs {
    named: PathBuf,
    served: Option<Program>,
    /// Why the one that was named is not to be started again, if it is not.
    failure: Option<String>,
}

/// A program that is about to be started.
#[derive(Debug)]
pub(super) struct Program {
    /// What it is called.
    pub(super) path: PathBuf,
    /// What is there under this name.
    file: Option<File>,
    /// Whether there is another one to go back to, should it not come to serve.
    pub(super) is_on_trial: bool,
}

impl Program {
    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), file: File::open(path).ok(), is_on_trial: false }
    }

    /// A path that leads to the file, whatever stands under its name by now.
    pub(super) fn path_to_run(&self) -> PathBuf {
        match &self.file {
            Some(file) if !is_same(file, &self.path) => {
                // Of this process, which has it open for longer than an interpreter of a script would.
                format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
            }
            _ => self.path.clone(),
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl Programs {
    /// `program` is the first one.
    pub(super) fn new(program: PathBuf) -> Self {
        Self { named: program, served: None, failure: None }
    }

    /// From now on it is `program`.
    pub(super) fn name(&mut self, program: PathBuf) {
        self.named = program;
        self.failure = None;
    }

    /// The one that was named may be tried again.
    pub(super) fn try_again(&mut self) {
        self.failure = None;
    }

    /// The one to start.
    pub(super) fn next(&self) -> Program {
        let served = self.served.as_ref().and_then(|served| {
            let file = served.file.as_ref()?;
            Some((served, file, file.try_clone().ok()?))
        });
        match served {
            // Without one to go back to, there is no choice.
            None => Program::at(&self.named),
            Some((served, _, file)) if self.failure.is_some() => {
                Program { path: served.path.clone(), file: Some(file), is_on_trial: false }
            }
            Some((_, file, _)) => {
                Program { is_on_trial: !is_same(file, &self.named), ..Program::at(&self.named) }
            }
        }
    }

    /// `program` serves.
    pub(super) fn serves(&mut self, program: &Program) {
        let file = program.file.as_ref().and_then(|file| file.try_clone().ok());
        self.served = Some(Program { path: program.path.clone(), file, is_on_trial: false });
    }

    /// `program`, which was on trial, has not come to serve.
    pub(super) fn go_back(&mut self, program: &Program, why: &str) {
        self.failure = Some(format!("{} did not come to serve: {why}", program.path.display()));
        if let Some(served) = &self.served {
            self.named.clone_from(&served.path);
        }
    }

    /// Why the program that serves is not the one that was to follow it, if it is not.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(program: &Program) -> String {
        std::fs::read_to_string(program.path_to_run()).unwrap()
    }

    fn put(path: &Path, text: &str) {
        crate::base::durable::write(path, text.as_bytes()).unwrap();
    }

    #[test]
    fn what_served_is_gone_back_to_under_its_name_and_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        put(&old, "old");
        put(&new, "new");
        let mut programs = Programs::new(old.clone());
        let first = programs.next();
        assert!(!first.is_on_trial, "there is nothing to go back to");
        programs.serves(&first);
        assert!(!programs.next().is_on_trial, "it is the same");
        programs.name(new.clone());
        let trial = programs.next();
        assert!(trial.is_on_trial);
        programs.go_back(&trial, "it ended with status 1");
        assert!(programs.failure().unwrap().ends_with("new did not come to serve: it ended with status 1"));
        let back = programs.next();
        assert_eq!((back.path_to_run(), back.is_on_trial), (old.clone(), false));
        // Another file in its place, and then none.
        put(&old, "other");
        assert_eq!(content(&programs.next()), "old");
        std::fs::remove_file(&old).unwrap();
        assert_eq!(content(&programs.next()), "old");
        put(&old, "other");
        programs.serves(&programs.next());
        programs.try_again();
        let again = programs.next();
        assert!(again.is_on_trial && programs.failure().is_none());
        assert_eq!(content(&again), "other");
    }

    #[test]
    fn a_program_that_is_missing_is_on_trial_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        put(&path, "x");
        let mut programs = Programs::new(path.clone());
        programs.serves(&programs.next());
        std::fs::remove_file(&path).unwrap();
        let missing = programs.next();
        assert!(missing.is_on_trial && !missing.path_to_run().exists());
        programs.go_back(&missing, "there is none");
        assert_eq!(content(&programs.next()), "x");
    }
}
