//! `daemon`: the owner of a cache directory as a service in the foreground.
//!
//! The process that was started is the holder, and stays the service's main process; it starts the servers with the
//! arguments that it was given itself, so that each of them reads the configuration file anew.

use std::ffi::OsString;
use std::os::fd::AsFd as _;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::daemon::owner::{Owner, Service};
use crate::daemon::surroundings::OfOwner;
use crate::keeper::{self, Inherited, Keeper, Servers};

use super::args::{DaemonArgs, GlobalArgs};
use super::config::{self, Defaults};
use super::exit::Failure;
use super::{log, settings};

/// The second argument of a server that is to be a service's, before the arguments of its holder.
pub(super) const DAEMON: &str = "daemon";

/// Holds for the servers; `typed` are all arguments, the program's name first. Returns the status to end with.
///
/// # Errors
/// When it cannot begin.
pub(super) fn hold(global: &GlobalArgs, typed: Vec<OsString>) -> Result<u8> {
    let program = std::env::current_exe().context(|| "cannot find the path of this program")?;
    let cache_dir = settings::cache_dir(global)?;
    let arguments = std::iter::once(DAEMON.into()).chain(typed.into_iter().skip(1)).collect();
    let surroundings = OfOwner { cache_dir: Some(cache_dir), is_service: true };
    keeper::hold(Servers { program, arguments, is_service: true }, &surroundings)
}

/// The name that what the configuration file says is kept under, for the next process.
pub(super) const OPTIONS: &str = "options";

/// What the configuration file says.
pub(super) struct Options {
    pub(super) defaults: Defaults,
    /// Why that is what it said before, if it is.
    pub(super) complaint: Option<Error>,
}

/// Serves, for the holder that has started this process.
///
/// # Errors
/// `Busy` when another process owns the directory; what opening it failed with.
pub(super) async fn serve(
    global: &GlobalArgs,
    arguments: &DaemonArgs,
    options: Options,
    keeper: Keeper,
    inherited: Inherited,
) -> Result<(), Failure> {
    match &arguments.log_file {
        Some(path) => log::to_file(global, path)?,
        None => log::to_stderr(global)?,
    }
    match options.complaint {
        Some(error) => tracing::error!("going on with the configuration before: {}", error.chain()),
        None => keeper.keep(OPTIONS, &[config::kept(&options.defaults)?.as_fd()])?,
    }
    let cache = settings::cache(global, &arguments.limits)?;
    let service = Service { keeps_mounts: arguments.keep_mounts, restores: arguments.restore };
    Owner::start_service(cache, arguments.watch.metrics_addr, keeper, inherited, service)?.serve().await;
    Ok(())
}

/// The error for whoever types what only a holder says.
pub(super) fn not_by_hand() -> Error {
    Error::new(ErrorKind::Usage, "this is started by `refmount daemon`")
}
