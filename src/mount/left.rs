//! What a mount leaves to the next process: three files without names, and the queues.
//!
//! *State* is what the mount was made of, as JSON; *open files* is the table of [`crate::fs::OpenTable`]; *numbers* are
//! the inode numbers that were given out while the tree still grew, each with its path, since those are no function
//! of the manifest.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::fuse::{FuseRecord, LeftMount};
use crate::keeper::Keeper;

use super::remembered::Answers;
use super::{MountRecord, MountRequest};

/// How inodes are numbered. A program that numbers them otherwise cannot serve on what this one has mounted.
pub const NUMBERING: u32 = 1;

/// How what is left is written: raised when there is something in it that earlier programs must not pass over. A program
/// reads what is written in its own way or in an earlier one.
pub const LEFT_FORMAT: u32 = 1;

/// What a mount was made of.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MountState {
    numbering: u32,
    /// As it was asked for.
    pub(super) request: MountRequest,
    /// What its reference stood for.
    pub(super) reference: String,
    pub(super) answers: Answers,
    pub(super) fuse: FuseRecord,
}

/// A mount that a process which is gone has left.
#[derive(Debug)]
pub struct LeftBehind {
    /// The name that it is kept under.
    name: String,
    pub(super) state: MountState,
    pub(super) files: KeptFiles,
    queues: Vec<OwnedFd>,
}

/// Why this program does not serve on what it was left.
#[derive(Debug)]
pub struct NotUnderstood {
    /// As what the mount was asked for, if that can be read.
    pub request: Option<Box<MountRequest>>,
    /// `Invalid` for what another program has noted; `Io` when it cannot be read.
    pub error: Error,
}

impl From<Error> for NotUnderstood {
    fn from(error: Error) -> Self {
        Self { request: None, error }
    }
}

impl LeftBehind {
    /// What is kept under `name`.
    ///
    /// # Errors
    /// See [`NotUnderstood`].
    pub fn read(name: &str, descriptors: Vec<OwnedFd>) -> Result<Self, NotUnderstood> {
        let invalid =
            |why: &str| Error::new(ErrorKind::Invalid, format!("{name} cannot be served on: {why}"));
        let mut descriptors = descriptors.into_iter();
        let mut next =
            || descriptors.next().map(File::from).ok_or_else(|| invalid("a file of it is missing"));
        let files = KeptFiles { state: next()?, open_table: next()?, numbers: next()? };
        let mut text = Vec::new();
        let mut file = &files.state;
        file.rewind().and_then(|()| file.read_to_end(&mut text)).context(|| format!("cannot read {name}"))?;
        let state: MountState =
            serde_json::from_slice(&text).map_err(|_| invalid("this program does not understand it"))?;
        if state.numbering != NUMBERING {
            let error = invalid("this program numbers files in another way");
            return Err(NotUnderstood { request: Some(Box::new(state.request)), error });
        }
        Ok(Self { name: name.to_owned(), state, files, queues: descriptors.collect() })
    }

    /// As what it was asked for.
    #[must_use]
    pub fn request(&self) -> &MountRequest {
        &self.state.request
    }

    pub(super) fn into_parts(
        self,
        keeper: Option<Arc<Keeper>>,
    ) -> Result<(MountState, LeftMount, Kept, KeptFiles)> {
        let Self { name, state, files, queues } = self;
        let open_table = files.open_table.try_clone().context(|| "cannot take over a table")?;
        let left = LeftMount { record: state.fuse.clone(), open_table, queues };
        Ok((state, left, Kept { keeper, name }, files))
    }
}

/// Of [`MountState`], what the kernel knows.
#[derive(Debug, Deserialize)]
struct InKernel {
    fuse: FuseRecord,
}

/// Unmounts what is kept as `mounts`, each of them by its descriptors, and served by nobody any more; lazily. Returns what
/// failed.
#[must_use]
pub fn unmount_left<'a>(mounts: impl Iterator<Item = &'a [OwnedFd]>) -> Vec<Error> {
    let (mut records, mut errors) = (Vec::new(), Vec::new());
    for descriptors in mounts {
        match read_record(descriptors) {
            Ok(record) => records.push(record),
            Err(error) => errors.push(Error::from(error).context("cannot find out where a mount is")),
        }
    }
    // One that lies in another goes with that; nobody would answer on the way to it.
    records.sort_by(|one, other| one.target().cmp(other.target()));
    errors.extend(records.into_iter().filter_map(|record| {
        let target = record.target().display().to_string();
        record.detach().context(|| format!("cannot unmount {target}")).err()
    }));
    errors
}

/// The rest of the state, which may be long, is passed over.
fn read_record(descriptors: &[OwnedFd]) -> std::io::Result<FuseRecord> {
    let state = descriptors.first().ok_or(std::io::ErrorKind::NotFound)?;
    let mut file = File::from(state.try_clone()?);
    file.rewind()?;
    let state: InKernel = serde_json::from_reader(std::io::BufReader::new(file))?;
    Ok(state.fuse)
}

/// The files of a mount.
#[derive(Debug)]
pub(super) struct KeptFiles {
    state: File,
    pub(super) open_table: File,
    pub(super) numbers: File,
}

impl KeptFiles {
    pub(super) fn new() -> Result<Self> {
        let file = |name: &str| {
            let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map_err(std::io::Error::from);
            file.map(File::from).context(|| "cannot make a file for the next process")
        };
        Ok(Self { state: file("state")?, open_table: file("open files")?, numbers: file("numbers")? })
    }

    /// Notes what the mount was made of, and has everything kept.
    pub(super) fn keep(
        &self,
        kept: &Kept,
        record: &MountRecord,
        fuse: &FuseRecord,
        queues: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let MountRecord { request, reference, answers, .. } = record.clone();
        let state = MountState { numbering: NUMBERING, request, reference, answers, fuse: fuse.clone() };
        let cannot = || "cannot note a mount for the next process";
        let text = serde_json::to_vec(&state).map_err(std::io::Error::from).context(cannot)?;
        (&self.state).write_all(&text).context(cannot)?;
        let files = [self.state.as_fd(), self.open_table.as_fd(), self.numbers.as_fd()];
        kept.keep(&files.into_iter().chain(queues.iter().copied()).collect::<Vec<_>>())
    }
}

/// The name that a mount is kept under, if anybody keeps it; it is not any more when this is dropped.
#[derive(Debug)]
pub(super) struct Kept {
    keeper: Option<Arc<Keeper>>,
    name: String,
}

impl Kept {
    pub(super) fn new(keeper: Arc<Keeper>, name: String) -> Self {
        Self { keeper: Some(keeper), name }
    }

    fn keep(&self, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        self.keeper.as_ref().map_or(Ok(()), |keeper| keeper.keep(&self.name, descriptors))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.forget(&self.name)
        {
            tracing::debug!("{}", error.chain());
        }
    }
}
