//! Mounts that the daemon is still to mount again: nothing in the kernel's table tells of them, so the owner of the cache
//! directory is asked.

use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result};
use crate::cache::CachePaths;
use crate::daemon::Client;
use crate::daemon::client::Unanswered;
use crate::daemon::persisted::Pending;
use crate::daemon::unrestored::Unrestored;

use super::args::GlobalArgs;
use super::settings;

/// All of them; none where nobody can be asked.
pub(super) async fn all(global: &GlobalArgs) -> Vec<Pending> {
    let Some(client) = client(global) else { return Vec::new() };
    client.pending().await.unwrap_or_default()
}

/// The error for a mount that is not there, `not_found`, explained if it is still to come or could not be served on.
pub(super) async fn explained(global: &GlobalArgs, target: &Path, not_found: Error) -> Error {
    let shown = target.display();
    let Some(pending) = at(global, target).await else {
        let Some(why) = why_lost(global, target).await else { return not_found };
        let text = format!(
            "nothing is mounted on {shown} any more: what was could not be served on: {why}; mount it again, or have it \
             forgotten by refmount umount {shown}"
        );
        return Error::new(ErrorKind::NotFound, text);
    };
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

/// Has the owner give up what was mounted on `target` before it was started and is not mounted now; says whether there was
/// something.
///
/// # Errors
/// What the owner answered.
pub(super) async fn cancel(global: &GlobalArgs, target: &Path) -> Result<bool> {
    let Some(client) = client(global) else { return Ok(false) };
    let places = places(target);
    // What is just being mounted there is none of that.
    let is_it = |place: &PathBuf| places.contains(place);
    let unrestored = unrestored(&client).await;
    let pending = client.pending().await.unwrap_or_default();
    if !unrestored.iter().any(|missing| missing.mountpoint.as_ref().is_none_or(is_it))
        && !pending.iter().any(|pending| is_it(&pending.mountpoint))
    {
        return Ok(false);
    }
    give_up(&client, &places).await
}

/// Has the owner forget the mount on `target` that could not be served on, if there was one and it is not tried again: its
/// place is used for something else.
///
/// # Errors
/// What the owner answered.
pub(super) async fn forget_lost(global: &GlobalArgs, target: &Path) -> Result<()> {
    let Some(client) = client(global) else { return Ok(()) };
    let places = places(target);
    if unrestored(&client).await.iter().any(|missing| !missing.retried && is_in(missing, &places)) {
        give_up(&client, &places).await?;
    }
    Ok(())
}

async fn give_up(client: &Client, places: &[PathBuf]) -> Result<bool> {
    for place in places {
        match client.unmount(place).await {
            Ok(()) => return Ok(true),
            Err(Unanswered::NoOwner(_)) => return Ok(false),
            Err(Unanswered::Failed(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(Unanswered::Failed(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// Why the mount on `target` could not be served on, if the owner says so.
pub(super) async fn why_lost(global: &GlobalArgs, target: &Path) -> Option<String> {
    let places = places(target);
    unrestored(&client(global)?).await.into_iter().find(|missing| is_in(missing, &places))?.error
}

/// Whether `missing` was mounted in one of `places`.
fn is_in(missing: &Unrestored, places: &[PathBuf]) -> bool {
    missing.mountpoint.as_ref().is_some_and(|at| places.contains(at))
}

async fn unrestored(client: &Client) -> Vec<Unrestored> {
    client.health().await.map(|health| health.unrestored).unwrap_or_default()
}

async fn at(global: &GlobalArgs, target: &Path) -> Option<Pending> {
    let places = places(target);
    all(global).await.into_iter().find(|pending| places.contains(&pending.mountpoint))
}

/// What `target` may be called. The mount point may be gone, and then only its name is left; or it is behind a link.
fn places(target: &Path) -> Vec<PathBuf> {
    let Ok(named) = std::path::absolute(target) else { return Vec::new() };
    let mut places: Vec<PathBuf> = std::fs::canonicalize(&named).into_iter().chain([named]).collect();
    places.dedup();
    places
}

fn client(global: &GlobalArgs) -> Option<Client> {
    let socket = CachePaths::new(settings::cache_dir(global).ok()?).control_socket();
    socket.exists().then(|| Client::new(&socket).ok()).flatten()
}
