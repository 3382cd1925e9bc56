//! `warm`: artifacts into the cache, before anybody mounts them.

use crate::base::{Error, ErrorKind, Result};
use crate::daemon::Client;
use crate::daemon::api::{WarmQuery, WarmStatusQuery};
use crate::daemon::client::Unanswered;
use crate::daemon::start;
use crate::mount::{WarmState, WarmStatus};

use super::args::{GlobalArgs, OutputFormat, WarmArgs};
use super::cache::client;
use super::exit::{Failure, say};
use super::output::{human, print, print_json, printable, table};
use super::progress::Progress;
use super::{log, settings};

/// Warms, or lists or ends what is being warmed.
///
/// # Errors
/// What resolving or fetching failed with; `NotFound` for a number that is none.
pub(super) async fn run(global: &GlobalArgs, arguments: &WarmArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let format = arguments.output.output;
    if let Some(id) = arguments.cancel {
        return Ok(client(global)?.cancel_warm(&WarmQuery { id }).await.map_err(
            |unanswered| match unanswered {
                Unanswered::Failed(error) => error,
                Unanswered::NoOwner(_) => Error::new(ErrorKind::NotFound, "nothing is being warmed"),
            },
        )?);
    }
    let Some(reference) = &arguments.reference else { return list(global, format).await };
    let cache_dir = settings::cache_dir(global)?;
    let body = settings::artifact_body(reference, &arguments.artifact)?;
    let command =
        settings::owner_command(global, &cache_dir, &arguments.artifact.limits, &arguments.artifact.watch)?;
    let ask = async |client: &Client| client.warm(&body).await;
    let (client, begun) = start::with_owner(&cache_dir, &command, ask).await?;
    warn(&begun);
    let status = match arguments.wait {
        true => wait(&client, begun).await?,
        false => begun,
    };
    if let Some(failed) = status.error.clone() {
        return Err(Error::from(failed).into());
    }
    if arguments.wait && status.state == WarmState::Cancelled {
        return Err(Error::new(ErrorKind::Unavailable, "it was cancelled before everything was there").into());
    }
    match format {
        OutputFormat::Json => print_json(&status),
        OutputFormat::Text => print(&line(&status)),
    }
}

/// Says what may surprise, and what there is no room for.
fn warn(status: &WarmStatus) {
    for warning in &status.warnings {
        say(&format!("warning: {}", printable(warning)));
    }
    if status.left_out_files > 0 {
        say(&format!(
            "warning: {} files of {} do not fit into the cache with the others and what is pinned, and are left out; \
             give it more with --cache-size",
            status.left_out_files,
            human(status.left_out_bytes)
        ));
    }
}

/// Stays until it is over, and shows how far it is.
async fn wait(client: &Client, begun: WarmStatus) -> Result<WarmStatus> {
    let progress = Progress::bytes(0);
    let (mut status, mut known) = (begun.clone(), begun.file_count.is_some());
    while !status.state.is_over() {
        let text = match status.state {
            WarmState::Resolving => "resolving",
            WarmState::Reading => "reading archives",
            WarmState::Verifying => "verifying",
            _ => "fetching",
        };
        progress.name(text);
        progress.set(status.cached_bytes, status.total_bytes.unwrap_or_default());
        status = client.warm_status(&WarmStatusQuery { id: begun.id, wait: true }).await?;
        if !known && status.file_count.is_some() {
            known = true;
            warn(&WarmStatus { warnings: Vec::new(), ..status.clone() });
        }
    }
    Ok(status)
}

fn line(status: &WarmStatus) -> String {
    let suffix = status.digest.as_ref().map_or_else(String::new, |digest| format!("@{digest}"));
    let name = printable(status.reference.strip_suffix(&suffix).unwrap_or(&status.reference));
    let what = match status.state {
        WarmState::Done => "warmed",
        _ => "warming",
    };
    let size = match (status.file_count, status.total_bytes) {
        (Some(files), Some(bytes)) => {
            format!(", {files} file{}, {}", if files == 1 { "" } else { "s" }, human(bytes))
        }
        _ => ", archives are being read".to_owned(),
    };
    let number = if status.state.is_over() { String::new() } else { format!(" (number {})", status.id) };
    format!("{what} {name}{suffix}{size}{number}\n")
}

async fn list(global: &GlobalArgs, format: OutputFormat) -> Result<(), Failure> {
    let warms = match client(global)?.warms().await {
        Ok(warms) => warms,
        // Where nobody serves, nothing goes on.
        Err(Unanswered::NoOwner(_)) => Vec::new(),
        Err(Unanswered::Failed(error)) => return Err(error.into()),
    };
    match format {
        OutputFormat::Json => print_json(&warms),
        OutputFormat::Text => print(&list_text(&warms)),
    }
}

fn list_text(warms: &[WarmStatus]) -> String {
    if warms.is_empty() {
        return String::new();
    }
    let head = ["NUMBER", "STATE", "CACHED", "SIZE", "REFERENCE"].map(String::from).to_vec();
    let row = |status: &WarmStatus| {
        vec![
            status.id.to_string(),
            format!("{:?}", status.state).to_lowercase(),
            human(status.cached_bytes),
            status.total_bytes.map_or_else(|| "-".into(), human),
            printable(&status.reference),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(warms.iter().map(row)).collect();
    table(&rows)
}
