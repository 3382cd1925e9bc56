//! Mounts that the daemon is still to mount again: nothing in the kernel's table tells of them, so the owner of the cache
//! directory is asked.

use std::path::Path;

use crate::base::{Error, ErrorKind, Result};
use crate::cache::CachePaths;
use crate::daemon::Client;
use crate::daemon::persisted::Pending;

use super::args::GlobalArgs;
use super::settings;

/// All of them; none where nobody can be asked.
pub(super) async fn all(global: &GlobalArgs) -> Vec<Pending> {
    let Some(client) = client(global) else { return Vec::new() };
    client.pending().await.unwrap_or_default()
}

/// The error for a mount that is not there, `not_found`, explained if it is still to come.
pub(super) async fn explained(global: &GlobalArgs, target: &Path, not_found: Error) -> Error {
    let Some(pending) = at(global, target).await else { return not_found };
    let shown = target.display();
    let why = match &pending.error {
        Some(error) => format!("tried {} times, the last time: {error}", pending.attempts),
        None => "it is being tried".to_owned(),
    };
    let text = format!(
        "nothing is mounted on {shown} yet; {} is to be mounted there again ({why}); refmount umount {shown} gives it up",
        pending.reference
    );
    Error::new(ErrorKind::NotFound, text)
}

/// Gives up what was still to be mounted on `target`; says whether there was something.
///
/// # Errors
/// What the owner answered.
pub(super) async fn cancel(global: &GlobalArgs, target: &Path) -> Result<bool> {
    let (Some(pending), Some(client)) = (at(global, target).await, client(global)) else { return Ok(false) };
    client.unmount(&pending.mountpoint).await?;
    Ok(true)
}

async fn at(global: &GlobalArgs, target: &Path) -> Option<Pending> {
    // The mount point may be gone, and then only its name is left; or it is behind a link.
    let named = std::path::absolute(target).ok()?;
    let resolved = std::fs::canonicalize(&named).unwrap_or_else(|_| named.clone());
    let is_it = |pending: &Pending| pending.mountpoint == resolved || pending.mountpoint == named;
    all(global).await.into_iter().find(is_it)
}

fn client(global: &GlobalArgs) -> Option<Client> {
    let socket = CachePaths::new(settings::cache_dir(global).ok()?).control_socket();
    socket.exists().then(|| Client::new(&socket).ok()).flatten()
}
