//! Notes for the next process: JSON in a file without a name, which whoever holds for this one keeps.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::{Result, ResultExt as _};

/// A note of `value`, which `what` is the name of for people.
///
/// # Errors
/// `Io` when there is no room for it.
pub fn write(what: &str, value: &impl Serialize) -> Result<File> {
    let cannot = || format!("cannot note a {what} for the next process");
    let file = rustix::fs::memfd_create(what, MemfdFlags::CLOEXEC).map_err(std::io::Error::from);
    let file = File::from(file.context(cannot)?);
    let text = serde_json::to_vec(value).map_err(std::io::Error::from).context(cannot)?;
    (&file).write_all(&text).context(cannot)?;
    Ok(file)
}

/// What is in such a note.
///
/// # Errors
/// When it cannot be read, or is of something else.
pub fn read<T: DeserializeOwned>(note: OwnedFd) -> std::io::Result<T> {
    let mut file = File::from(note);
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
