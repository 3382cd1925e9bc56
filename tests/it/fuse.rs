//! Real mounts of a filesystem whose content is in memory.

mod archive;
mod content;
mod fixture;
mod growing;
mod mounting;
mod reading;
mod users;
mod writing;
