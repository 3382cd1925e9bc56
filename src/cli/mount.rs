//! `mount` and the hidden `owner`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::pin;

use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::base::{Error, ErrorKind, Result, ResultExt as _, process};
use crate::cache::FreeSpaceFloor;
use crate::daemon::client::Unanswered;
use crate::daemon::locate::OwnerOf;
use crate::daemon::mounts::Answer;
use crate::daemon::owner::Owner;
use crate::daemon::surroundings::OfOwner;
use crate::daemon::watch::is_wanted;
use crate::daemon::{Client, locate, start};
use crate::keeper::{self, Keeper, Servers};
use crate::mount::{MountRequest, MountSummary};

use super::args::{CacheLimitArgs, GlobalArgs, MountArgs, OwnerArguments, WatchArgs};
use super::exit::{Failure, say};
use super::size::{Floor, Size};
use super::{log, output, settings};

/// How often the foreground asks whether it can become the owner itself, or one answers.
const FOREGROUND_ATTEMPTS: u32 = 50;

/// The pause between two of them.
const FOREGROUND_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// Mounts.
///
/// # Errors
/// What mounting failed with.
pub(super) async fn run(global: &GlobalArgs, arguments: &MountArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let target = locate::resolve(&arguments.target).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let shown = arguments.target.display();
            let text =
                format!("the mount point does not exist: {}; make it: mkdir -p {shown}", error.chain());
            Error::new(ErrorKind::NotFound, text)
        }
        _ => error,
    })?;
    let request = settings::mount_request(arguments, target)?;
    let cache_dir = settings::cache_dir(global)?;
    if arguments.foreground {
        return in_foreground(global, arguments, &request).await;
    }
    let command = settings::owner_command(global, &cache_dir, &arguments.limits, &arguments.watch)?;
    let (client, summary) =
        start::mount(&cache_dir, &request, settings::wanted_limits(&arguments.limits), &command).await?;
    warn_of_other_limits(&client, &arguments.limits).await;
    warn_of_other_address(&client, &arguments.watch).await;
    print_summary(&summary)
}

/// Becomes the owner, or hands over to the one there is and stays until the mount is gone.
async fn in_foreground(
    global: &GlobalArgs,
    arguments: &MountArgs,
    request: &MountRequest,
) -> Result<(), Failure> {
    let cache = settings::cache(global, &arguments.limits)?;
    let socket = crate::cache::CachePaths::new(&cache.directory).control_socket();
    let client = Client::new(&socket)?;
    // Before anything is mounted, since a signal may come as soon as it is.
    let listen = |kind| signal(kind).context(|| "cannot listen to signals");
    let mut told = [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?];
    let mut attempts = 0;
    loop {
        let busy = match Owner::start(cache.clone(), arguments.watch.metrics_addr) {
            Ok(owner) => return own(owner, request).await,
            Err(error) if error.kind() == ErrorKind::Busy => error,
            Err(error) => return Err(error.into()),
        };
        match start::ask(&client, request, settings::wanted_limits(&arguments.limits)).await {
            Ok(summary) => {
                warn_of_other_limits(&client, &arguments.limits).await;
                warn_of_other_address(&client, &arguments.watch).await;
                print_summary(&summary)?;
                return stay(&client, request, &mut told).await;
            }
            Err(Unanswered::Failed(error)) => return Err(error.into()),
            // Its owner is just coming or going.
            Err(Unanswered::NoOwner(_)) if attempts < FOREGROUND_ATTEMPTS => attempts += 1,
            Err(Unanswered::NoOwner(_)) => return Err(busy.into()),
        }
        tokio::time::sleep(FOREGROUND_PAUSE).await;
    }
}

/// Mounts as the owner, and serves until the last mount is gone, also those that others hand over.
async fn own(owner: Owner, request: &MountRequest) -> Result<(), Failure> {
    let mounts = std::sync::Arc::clone(owner.mounts());
    let (request, target) = (request.clone(), request.target.clone());
    let mounting = async move {
        let answer = mounts.mount(request).await.inspect_err(|_| {
            // Without a grace, unless another request has been taken meanwhile.
            mounts.close_if_empty();
        });
        match answer? {
            Answer::Mounted(summary) => print_summary(&summary),
            Answer::Ending => Err(Error::new(ErrorKind::Unavailable, "ended before it was mounted").into()),
        }
    };
    let (mut mounting, mut serving) = (pin!(mounting), pin!(owner.run_for(&target, say_left)));
    let mut mounted = None;
    loop {
        tokio::select! {
            result = &mut mounting, if mounted.is_none() => mounted = Some(result),
            // Also when a signal came before it was mounted.
            () = &mut serving => break,
        }
    }
    mounted.unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "ended before it was mounted").into()))
}

/// Says why this process does not end yet, after a signal.
fn say_left(mounts: &[PathBuf]) {
    if mounts.is_empty() {
        return;
    }
    let shown: Vec<String> =
        mounts.iter().map(|target| output::printable(&target.display().to_string())).collect();
    say(&format!(
        "this process also serves other mounts, and goes on until they are unmounted: {}; a second signal \
         unmounts them too",
        shown.join(", ")
    ));
}

/// Waits for the end of a mount that another process serves; unmounts it on a signal.
async fn stay(client: &Client, request: &MountRequest, told: &mut [Signal; 2]) -> Result<(), Failure> {
    let [interrupt, terminate] = told;
    loop {
        let ended = tokio::select! {
            ended = client.ended(&request.target) => ended,
            _ = interrupt.recv() => return Ok(client.unmount(&request.target).await.map_err(Error::from)?),
            _ = terminate.recv() => return Ok(client.unmount(&request.target).await.map_err(Error::from)?),
        };
        match ended {
            Ok(false) => {}
            Ok(true) => return Ok(()),
            // An owner that is gone has unmounted everything, or can't any more; or only its server is.
            Err(Unanswered::NoOwner(_)) => match locate::owner_of(&request.target).await {
                Ok(OwnerOf::Dead) => return Err(locate::dead(&request.target).into()),
                Ok(_) => tokio::time::sleep(FOREGROUND_PAUSE).await,
                Err(_) => return Ok(()),
            },
            Err(Unanswered::Failed(error)) => return Err(error.into()),
        }
    }
}

fn print_summary(summary: &MountSummary) -> Result<(), Failure> {
    for warning in &summary.warnings {
        say(&format!("warning: {}", output::printable(warning)));
    }
    output::print(&summary_line(summary))
}

fn summary_line(summary: &MountSummary) -> String {
    let pinned = format!("@{}", summary.digest);
    let name = summary.reference.strip_suffix(&pinned).unwrap_or(&summary.reference);
    let plural = |count| if count == 1 { "" } else { "s" };
    let so_far = match summary.layers_reading {
        0 => String::new(),
        reading => format!(" so far; {reading} layer{} still being read", plural(reading)),
    };
    format!(
        "{name}{pinned} on {}, {} file{}, {}{so_far}\n",
        summary.mountpoint.display(),
        summary.files,
        plural(summary.files),
        output::human(summary.total_bytes)
    )
}

/// The limits belong to the owner, which may have been started with others.
async fn warn_of_other_limits(client: &Client, limits: &CacheLimitArgs) {
    let wanted = settings::wanted_limits(limits);
    if wanted.cache_bytes_max.is_none() && wanted.cache_free_space_min.is_none() {
        return;
    }
    let Ok(owner) = client.version().await else { return };
    let mut kept = Vec::new();
    if let Some(size) = limits.cache_size
        && owner.cache_bytes_max != size.0
    {
        kept.push(format!("its size of {} (not {size})", Size(owner.cache_bytes_max)));
    }
    if let Some(floor) = limits.cache_min_free
        && let Some(there) = owner.cache_free_space_min
        && wanted.cache_free_space_min != Some(there)
    {
        let there = match there {
            FreeSpaceFloor::Bytes(bytes) => Floor::Bytes(bytes),
            FreeSpaceFloor::Percent(percent) => Floor::Percent(percent),
        };
        kept.push(format!("its free space of {} (not {})", floor_text(there), floor_text(floor)));
    }
    if !kept.is_empty() {
        say(&format!(
            "warning: the process that owns the cache {} (pid {}) keeps {}; a mount once all its mounts are \
             unmounted can have another",
            owner.cache_dir.display(),
            owner.pid,
            kept.join(" and ")
        ));
    }
}

/// So does the address that its metrics are told at.
async fn warn_of_other_address(client: &Client, watch: &WatchArgs) {
    let Some(wanted) = watch.metrics_addr else { return };
    let Ok(owner) = client.version().await else { return };
    if owner.metrics_addr.is_some_and(|there| is_wanted(there, wanted)) {
        return;
    }
    let there = owner.metrics_addr.map_or_else(|| "no address".to_owned(), |address| address.to_string());
    say(&format!(
        "warning: the process that owns the cache {} (pid {}) tells its metrics at {there} (not {wanted}); a mount \
         once all its mounts are unmounted can have another",
        owner.cache_dir.display(),
        owner.pid,
    ));
}

/// A floor for people; as text it is exact, for processes.
fn floor_text(floor: Floor) -> String {
    match floor {
        Floor::Bytes(bytes) => Size(bytes).to_string(),
        Floor::Percent(_) => floor.to_string(),
    }
}

/// Holds for the processes that serve the mounts of a cache directory, in the background of whoever started it.
/// `arguments` are theirs. Returns the status to end with.
///
/// # Errors
/// When it cannot begin.
pub(super) fn hold_in_background(arguments: Vec<OsString>) -> Result<u8> {
    match rustix::process::setsid() {
        // Started by hand from a shell, it leads a group already.
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => {
            return Err(Error::from(std::io::Error::from(error)).context("cannot leave the terminal"));
        }
    }
    let program = std::env::current_exe().context(|| "cannot find the path of this program")?;
    let cache_dir =
        arguments.windows(2).find(|pair| pair[0] == "--cache-dir").map(|pair| PathBuf::from(&pair[1]));
    let servers = Servers { program, arguments, is_service: false };
    keeper::hold(servers, &OfOwner { cache_dir, is_service: false })
}

/// Serves the mounts of a cache directory, for the holder that has started this process.
///
/// # Errors
/// `Busy` when another process owns the directory; what opening it failed with.
pub(super) async fn serve_held(arguments: &OwnerArguments) -> Result<(), Failure> {
    let OwnerArguments { global, limits, watch } = arguments;
    let (cache, metrics_addr) = (settings::cache(global, limits)?, watch.metrics_addr);
    let directory: PathBuf = cache.directory.clone();
    let log = || log::to_file(global, &start::log_path(&directory));
    let owner = match Keeper::inherit()? {
        Some((keeper, inherited)) if inherited.kept.is_empty() => {
            let owner = Owner::start_held(cache, metrics_addr, keeper, inherited)?;
            // Only now, with the directory made and taken.
            log()?;
            owner
        }
        Some((keeper, inherited)) => {
            log()?;
            Owner::start_held(cache, metrics_addr, keeper, inherited)?
        }
        None => return Err(Error::new(ErrorKind::Usage, "this is started by `refmount owner`").into()),
    };
    process::let_go_of_stderr().context(|| "cannot close standard error")?;
    owner.run().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, Digest};

    #[test]
    fn the_summary_names_the_digest_once() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let mut summary = MountSummary {
            reference: "h/r:v1".into(),
            digest: digest.clone(),
            mountpoint: "/m".into(),
            subpath: None,
            files: 1,
            total_bytes: 3 << 30,
            layers_reading: 0,
            failed: None,
            warnings: Vec::new(),
        };
        let line = format!("h/r:v1@{digest} on /m, 1 file, 3.0 GiB\n");
        assert_eq!(summary_line(&summary), line);
        summary.reference = format!("h/r:v1@{digest}");
        assert_eq!(summary_line(&summary), line);
        summary.layers_reading = 2;
        let line = summary_line(&summary);
        assert!(line.ends_with("1 file, 3.0 GiB so far; 2 layers still being read\n"), "{line}");
    }
}
