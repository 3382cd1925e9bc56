//! `cache ls`, `cache pin` and `cache unpin`: what the cache holds, and what stays in it.

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::daemon::api::{PinSummary, ReferenceQuery};
use crate::daemon::client::Unanswered;
use crate::daemon::content::is_meant;
use crate::daemon::start;
use crate::mount::{CacheContent, held};
use crate::oci::SourceRef;
use crate::registry;

use super::args::{GlobalArgs, ListArgs, OutputFormat, PinArgs, UnpinArgs};
use super::cache::{client, open};
use super::exit::Failure;
use super::output::{human, print, print_json, printable, table};
use super::settings;

/// Lists what the cache holds.
///
/// # Errors
/// `NotFound` when there is no cache; what the owner answered.
pub(super) async fn list(global: &GlobalArgs, arguments: &ListArgs) -> Result<(), Failure> {
    let content = match client(global)?.cache_content().await {
        Ok(content) => content,
        Err(Unanswered::NoOwner(_)) => held::content(&*open(global)?, &[])?,
        Err(Unanswered::Failed(error)) => return Err(error.into()),
    };
    match arguments.output.output {
        OutputFormat::Json => print_json(&content),
        OutputFormat::Text => print(&content_text(&content)),
    }
}

fn content_text(content: &CacheContent) -> String {
    let head = ["CACHED", "SIZE", "PINNED", "MOUNTS", "LAST USED", "REFERENCE"].map(String::from).to_vec();
    let mut rows = vec![head];
    for held in &content.artifacts {
        let pinned = match (held.pinned, held.pinned_subpaths.is_empty()) {
            (false, _) => "-",
            (true, true) => "all",
            (true, false) => "part",
        };
        let suffix = format!("@{}", held.digest);
        let name = held.reference.strip_suffix(&suffix).unwrap_or(&held.reference);
        rows.push(vec![
            human(held.cached_bytes),
            human(held.total_bytes),
            pinned.into(),
            held.mounts.to_string(),
            held.last_used.clone(),
            format!("{}{suffix}", printable(name)),
        ]);
    }
    let mut text = if content.artifacts.is_empty() { String::new() } else { table(&rows) };
    if content.other_layers > 0 {
        let plural = if content.other_layers == 1 { "" } else { "s" };
        text.push_str(&format!(
            "{} of {} layer{plural} that belong to no artifact that is known\n",
            human(content.other_bytes),
            content.other_layers
        ));
    }
    text
}

/// Pins an artifact, and says how much that is.
///
/// # Errors
/// What resolving it failed with; `NoSpace` when there is no room for it beside the other pins.
pub(super) async fn pin(global: &GlobalArgs, arguments: &PinArgs) -> Result<(), Failure> {
    let cache_dir = settings::cache_dir(global)?;
    let body = settings::artifact_body(&arguments.reference, &arguments.artifact)?;
    let command =
        settings::owner_command(global, &cache_dir, &arguments.artifact.limits, &arguments.artifact.watch)?;
    let ask = async |client: &crate::daemon::Client| client.pin(&body).await;
    let (_, pinned) = start::with_owner(&cache_dir, &command, ask).await?;
    match arguments.output.output {
        OutputFormat::Json => print_json(&pinned),
        OutputFormat::Text => print(&pin_line("pinned", &pinned)),
    }
}

/// Takes pins back.
///
/// # Errors
/// `NotFound` when it is not pinned.
pub(super) async fn unpin(global: &GlobalArgs, arguments: &UnpinArgs) -> Result<(), Failure> {
    let mut gone = Err(Error::new(ErrorKind::NotFound, "nothing is pinned"));
    for name in names(&arguments.reference)? {
        gone = unpin_as(global, name).await;
        if !gone.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    let gone = gone?;
    match arguments.output.output {
        OutputFormat::Json => print_json(&gone),
        OutputFormat::Text => print(&gone.iter().map(|pin| pin_line("unpinned", pin)).collect::<String>()),
    }
}

/// What was typed, as it may have been written down when it was pinned.
fn names(typed: &str) -> Result<Vec<String>> {
    if typed.parse::<Digest>().is_ok() {
        return Ok(vec![typed.to_owned()]);
    }
    let candidates = registry::candidates(&settings::reference(typed)?, &settings::usual_source()?)?;
    Ok(candidates.iter().map(SourceRef::to_string).collect())
}

async fn unpin_as(global: &GlobalArgs, reference: String) -> Result<Vec<PinSummary>> {
    let not_pinned = || {
        let text = format!("{reference} is not pinned; refmount cache ls shows what is");
        Error::new(ErrorKind::NotFound, text)
    };
    match client(global)?.unpin(&ReferenceQuery { reference: reference.clone() }).await {
        Ok(gone) => Ok(gone),
        Err(Unanswered::Failed(error)) => Err(error),
        Err(Unanswered::NoOwner(_)) => {
            let gone = open(global)?.unpin(|pin| is_meant(pin, &reference))?;
            if gone.is_empty() { Err(not_pinned()) } else { Ok(gone.iter().map(PinSummary::of).collect()) }
        }
    }
}

fn pin_line(what: &str, pin: &PinSummary) -> String {
    let suffix = format!("@{}", pin.digest);
    let name = pin.reference.strip_suffix(&suffix).unwrap_or(&pin.reference);
    let parts = match pin.subpaths.is_empty() {
        true => String::new(),
        false => format!(" ({})", pin.subpaths.join(", ")),
    };
    format!("{what} {}{suffix}{}, {}\n", printable(name), printable(&parts), human(pin.bytes))
}
