//! The commands on the cache: through the owner if there is one, else directly.

use crate::base::{Error, ErrorKind, Result};
use crate::cache::{Cache, CacheInfo, CachePaths, PruneReport};
use crate::daemon::Client;
use crate::daemon::bodies::PruneRequest;
use crate::daemon::client::Unanswered;
use crate::daemon::server::prune_of;

use super::args::{CacheCommand, CacheLimitArgs, GlobalArgs, OutputFormat};
use super::exit::Failure;
use super::output::{human, print, print_json, printable, table};
use super::{log, pins, settings};

/// Runs one of the commands.
///
/// # Errors
/// `NotFound` when there is no cache; what the owner answered.
pub(super) async fn run(global: &GlobalArgs, command: &CacheCommand) -> Result<(), Failure> {
    log::to_stderr(global)?;
    match command {
        CacheCommand::Info(arguments) => {
            let info = match client(global)?.cache_info().await {
                Ok(info) => info,
                Err(Unanswered::NoOwner(_)) => open(global)?.info(),
                Err(Unanswered::Failed(error)) => return Err(error.into()),
            };
            match arguments.output.output {
                OutputFormat::Json => print_json(&info),
                OutputFormat::Text => print(&info_text(&info)),
            }
        }
        CacheCommand::Ls(arguments) => pins::list(global, arguments).await,
        CacheCommand::Pin(arguments) => pins::pin(global, arguments).await,
        CacheCommand::Unpin(arguments) => pins::unpin(global, arguments).await,
        CacheCommand::Prune(arguments) => {
            let request = PruneRequest { all: arguments.all };
            let report = match client(global)?.prune(request).await {
                Ok(report) => report,
                Err(Unanswered::NoOwner(_)) => open(global)?.prune(prune_of(request))?,
                Err(Unanswered::Failed(error)) => return Err(error.into()),
            };
            match arguments.output.output {
                OutputFormat::Json => print_json(&report),
                OutputFormat::Text => print(&prune_text(&report)),
            }
        }
    }
}

pub(super) fn client(global: &GlobalArgs) -> Result<Client> {
    Client::new(&CachePaths::new(settings::cache_dir(global)?).control_socket())
}

/// The cache itself. Looking at one must not make one.
pub(super) fn open(global: &GlobalArgs) -> Result<std::sync::Arc<Cache>> {
    let settings = settings::cache(global, &CacheLimitArgs { cache_size: None, cache_min_free: None })?;
    // Every owner has left its lock there, whatever its version.
    if !CachePaths::new(&settings.directory).owner_lock().is_file() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no cache at {}; name another with --cache-dir", settings.directory.display()),
        ));
    }
    Cache::open(settings)
}

fn info_text(info: &CacheInfo) -> String {
    let counters = &info.counters;
    let mut facts = vec![
        ("directory", printable(&info.directory.display().to_string())),
        ("used", format!("{} of {}", human(info.used_bytes), human(info.bytes_max))),
        ("free on disk", human(info.free_bytes)),
        ("files", format!("{}, {} complete", info.segments, info.complete_segments)),
        ("chunks", info.chunks.to_string()),
        ("reads", format!("{} hits, {} misses", counters.hits, counters.misses)),
        ("evicted", format!("{} chunks", counters.evicted_chunks)),
        ("damaged", format!("{} chunks", counters.damaged_chunks)),
    ];
    if let Some(why) = &info.degraded {
        facts.push(("degraded", printable(why)));
    }
    let rows: Vec<Vec<String>> =
        facts.into_iter().map(|(name, value)| vec![format!("{name}:"), value]).collect();
    table(&rows)
}

fn prune_text(report: &PruneReport) -> String {
    format!("dropped {}, kept {}\n", human(report.removed_bytes), human(report.kept_bytes))
}
