//! Real mounts of a filesystem whose content is in memory.

mod content;
mod fixture;
mod mounting;
mod reading;
mod users;
mod writing;
