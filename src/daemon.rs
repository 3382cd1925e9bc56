//! The owner of a cache directory: one process that holds many mounts and takes requests on a control socket.
//!
//! The socket is `control.sock` in the cache directory and speaks HTTP and JSON ([`api`]). Who may use the
//! cache directory's lock is the owner; the socket of a dead owner is replaced, never asked who it was. An
//! owner ends with its last mount, after a short grace. Nothing here knows what a mount does inside: it
//! sees mounts through [`mounts::Mounter`].

pub mod api;
pub mod bodies;
pub mod client;
pub mod content;
pub mod locate;
mod losses;
pub mod mounts;
pub mod owner;
pub mod persisted;
mod restore;
pub mod server;
pub mod start;
pub mod surroundings;
pub mod unrestored;
pub mod upgrade;
pub mod warms;
pub mod watch;

pub use client::Client;
pub use mounts::{Mount, Mounter, Mounts};
pub use warms::Warms;
