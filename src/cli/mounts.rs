//! `umount`, `list` and `status`: what works on mounts that are there, whoever owns them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::content::Standing;
use crate::daemon::Client;
use crate::daemon::client::Unanswered;
use crate::daemon::locate::{self, OwnerOf};
use crate::mount::{MountStatus, MountSummary};
use crate::registry::HostStatus;

use super::args::{GlobalArgs, ListArgs, OutputFormat, StatusArgs, UmountArgs};
use super::exit::{self, Failure};
use super::output::{human, print, print_json, printable, table};
use super::{log, pending, settings};

/// Unmounts each of the targets, and goes on after one that failed.
///
/// # Errors
/// The first failure, reported with all others.
pub(super) async fn umount(global: &GlobalArgs, arguments: &UmountArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let mut first: Option<ErrorKind> = None;
    for target in &arguments.targets {
        let done = match umount_one(global, target).await {
            // What the daemon is still to mount there, it need not.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match pending::cancel(global, target).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(error),
                    Err(error) => Err(error),
                }
            }
            done => done,
        };
        if let Err(error) = done {
            exit::report(&error);
            first.get_or_insert(error.kind());
        }
    }
    first.map_or(Ok(()), |kind| Err(Failure::Reported(kind)))
}

async fn umount_one(global: &GlobalArgs, target: &Path) -> Result<()> {
    let target = locate::resolve(target).await?;
    let owner = match locate::owner_of(&target).await {
        // Something else is mounted there.
        Err(error) if error.kind() == ErrorKind::Invalid => {
            if let Err(error) = pending::forget_lost(global, &target).await {
                exit::say(&format!("warning: {}", error.chain()));
            }
            return Err(error);
        }
        owner => owner?,
    };
    match owner {
        OwnerOf::Socket(socket) => match Client::new(&socket)?.unmount(&target).await {
            Ok(()) => Ok(()),
            Err(Unanswered::Failed(error)) if error.kind() == ErrorKind::TimedOut => {
                exit::say(&format!("warning: {}", error.chain()));
                locate::detach(&target).await
            }
            Err(Unanswered::Failed(error)) if error.kind() != ErrorKind::NotFound => Err(error),
            // The mount outlived its owner's interest in it.
            Err(_) => locate::detach(&target).await,
        },
        OwnerOf::Dead => {
            // First, so that it is not mounted again meanwhile. The owner that would may be none, or another's.
            if let Err(error) = pending::cancel(global, &target).await {
                exit::say(&format!("warning: {}", error.chain()));
            }
            match locate::owner_of(&target).await {
                Ok(OwnerOf::Dead) => locate::detach(&target).await,
                _ => Ok(()),
            }
        }
        OwnerOf::Hung => {
            exit::say(&format!("warning: the owner of {} does not answer", target.display()));
            locate::detach(&target).await
        }
        // The kernel decides whether this user may.
        OwnerOf::Foreign => locate::detach(&target).await.map_err(|error| {
            let shown = target.display();
            let text =
                format!("the mount on {shown} belongs to another user, who alone, or root, may unmount it");
            Error::new(ErrorKind::Unauthorized, format!("{text}: {}", error.chain()))
        }),
    }
}

/// A line of `list`.
#[derive(Debug, Serialize)]
struct Listed {
    mountpoint: PathBuf,
    reference: String,
    digest: Option<Digest>,
    subpath: Option<String>,
    file_count: Option<u64>,
    total_bytes: Option<u64>,
    /// Layers that are being read for the first time, so that more files may come.
    layers_reading: Option<u64>,
    /// Why not all files are known, and never will be.
    failed: Option<String>,
    /// Why it is not mounted again yet.
    error: Option<String>,
    /// `served`, `dead`, `hung`, `foreign` (another user's), `pending` (to be mounted again) or `unknown`.
    state: &'static str,
}

/// Lists the mounts in the kernel's table, and those that the daemon is to mount again.
///
/// # Errors
/// `Io` when the table cannot be read.
pub(super) async fn list(global: &GlobalArgs, arguments: &ListArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let mut owners: HashMap<PathBuf, Vec<MountSummary>> = HashMap::new();
    let mut listed = Vec::new();
    for mount in locate::mounts()? {
        let (state, socket) = match locate::owner_of(&mount.target).await {
            Ok(OwnerOf::Socket(socket)) => ("served", Some(socket)),
            Ok(OwnerOf::Dead) => ("dead", None),
            Ok(OwnerOf::Hung) => ("hung", None),
            Ok(OwnerOf::Foreign) => ("foreign", None),
            // Unmounted meanwhile, or under another mount.
            Err(_) => ("unknown", None),
        };
        if let Some(socket) = &socket
            && !owners.contains_key(socket)
        {
            let mounts = match Client::new(socket)?.list().await {
                Ok(mounts) => mounts,
                Err(error) => {
                    exit::say(&format!("warning: {}", Error::from(error).chain()));
                    Vec::new()
                }
            };
            owners.insert(socket.clone(), mounts);
        }
        let mounts = socket.and_then(|socket| owners.get(&socket));
        let summary =
            mounts.and_then(|mounts| mounts.iter().find(|summary| summary.mountpoint == mount.target));
        listed.push(Listed {
            mountpoint: mount.target,
            reference: summary
                .map_or(mount.source.to_string_lossy().into_owned(), |summary| summary.reference.clone()),
            digest: summary.map(|summary| summary.digest.clone()),
            subpath: summary.and_then(|summary| summary.subpath.clone()),
            file_count: summary.map(|summary| summary.files),
            total_bytes: summary.map(|summary| summary.total_bytes),
            layers_reading: summary.map(|summary| summary.layers_reading),
            failed: summary.and_then(|summary| summary.failed.clone()),
            error: None,
            state,
        });
    }
    for pending in pending::all(global).await {
        if listed.iter().any(|mount| mount.mountpoint == pending.mountpoint) {
            continue;
        }
        listed.push(Listed {
            mountpoint: pending.mountpoint,
            reference: pending.reference,
            digest: Some(pending.digest),
            subpath: None,
            file_count: None,
            total_bytes: None,
            layers_reading: None,
            failed: None,
            error: pending.error,
            state: "pending",
        });
    }
    match arguments.output.output {
        OutputFormat::Json => print_json(&listed),
        OutputFormat::Text => print(&list_text(&listed)),
    }
}

fn list_text(listed: &[Listed]) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|mount| {
            vec![
                printable(&mount.mountpoint.display().to_string()),
                state_name(mount).into(),
                number(mount.file_count),
                mount.total_bytes.map_or_else(|| "-".into(), human),
                printable(&mount.reference),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = ["MOUNTPOINT", "STATE", "FILES", "SIZE", "REFERENCE"].map(String::from).to_vec();
    table(&[vec![head], rows].concat())
}

/// The state in one word: of a mount that is served, also how far its files are known.
fn state_name(mount: &Listed) -> &'static str {
    match (&mount.failed, mount.layers_reading) {
        (Some(_), _) => "failed",
        (None, Some(1..)) => "reading",
        (None, _) => mount.state,
    }
}

/// Shows what is known about a mount.
///
/// # Errors
/// `NotFound` when nothing is mounted there; what the owner answered.
pub(super) async fn status(global: &GlobalArgs, arguments: &StatusArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let found = async {
        let target = locate::resolve(&arguments.target).await?;
        let owner = locate::owner_of(&target).await?;
        Ok((target, owner))
    };
    let (target, owner) = match found.await {
        Ok(found) => found,
        Err(error) if Error::kind(&error) == ErrorKind::NotFound => {
            return Err(pending::explained(global, &arguments.target, error).await.into());
        }
        Err(error) => return Err(error.into()),
    };
    let shown = target.display();
    let unserved = |kind, why: &str| Error::new(kind, format!("the mount on {shown} {why}"));
    let socket = match owner {
        OwnerOf::Socket(socket) => socket,
        OwnerOf::Dead => {
            let dead = locate::dead(&target);
            return Err(match pending::why_lost(global, &target).await {
                Some(why) => Error::new(dead.kind(), format!("{dead}; it could not be served on: {why}")),
                None => dead,
            }
            .into());
        }
        OwnerOf::Hung => {
            let given_up =
                settings::cache_dir(global).ok().and_then(|cache_dir| locate::given_up(&cache_dir));
            return Err(match given_up {
                Some(why) => unserved(ErrorKind::Io, &format!("cannot be read: {why}")).into(),
                None => unserved(ErrorKind::TimedOut, "does not answer").into(),
            });
        }
        OwnerOf::Foreign => {
            return Err(
                unserved(ErrorKind::Unauthorized, "belongs to another user, who alone may ask").into()
            );
        }
    };
    let status = Client::new(&socket)?.status(&target).await.map_err(Error::from)?;
    match arguments.output.output {
        OutputFormat::Json => print_json(&status),
        OutputFormat::Text => print(&status_text(&status)),
    }
}

fn status_text(status: &MountStatus) -> String {
    let summary = &status.summary;
    let mut facts = vec![
        ("reference", printable(&summary.reference)),
        ("digest", summary.digest.to_string()),
        ("mounted on", printable(&summary.mountpoint.display().to_string())),
    ];
    if let Some(subpath) = &summary.subpath {
        facts.push(("subpath", printable(subpath)));
    }
    facts.push(("fetched", human(status.network_bytes)));
    facts.extend(why_slow(status));
    facts.push(("cached", format!("{} of {}", human(status.cached_bytes), human(summary.total_bytes))));
    // Of a single host there is nothing to say that the reference does not, unless it fails.
    if status.hosts.len() > 1 || status.hosts.iter().any(|host| host.failures > 0) {
        facts.extend(status.hosts.iter().map(|host| ("served by", served_by(host))));
    }
    if status.rejected_chunks > 0 {
        facts.push(("rejected", format!("{} chunks that failed their check", status.rejected_chunks)));
    }
    if summary.layers_reading > 0 {
        let layers = match summary.layers_reading {
            1 => "1 layer".to_owned(),
            layers => format!("{layers} layers"),
        };
        let known = format!("{} so far, listed once all are known", summary.files);
        facts.push(("reading", format!("{layers} for the first time; more files may come ({known})")));
    }
    if let Some(why) = &summary.failed {
        let text = "; what had been found by then can be read, any other name is an I/O error";
        facts.push(("failed", format!("{}{text}", printable(why))));
    }
    if let Some(why) = &status.degraded {
        facts.push(("degraded", printable(why)));
    }
    facts.extend(summary.warnings.iter().map(|warning| ("warning", printable(warning))));
    let facts: Vec<Vec<String>> =
        facts.into_iter().map(|(name, value)| vec![format!("{name}:"), value]).collect();
    let files = status.files.iter().map(|file| {
        let passthrough = if file.passthrough { "passthrough" } else { "-" };
        vec![
            human(file.size),
            human(file.cached_bytes),
            standing_name(file.standing).into(),
            passthrough.into(),
            printable(&file.path),
        ]
    });
    let mut rows = vec![["SIZE", "CACHED", "STANDING", "OPEN", "PATH"].map(String::from).to_vec()];
    rows.extend(files);
    let left_out = match status.files_left_out {
        0 => String::new(),
        count => format!("... and {count} more, of which less is cached\n"),
    };
    format!("{}\n{}{left_out}", table(&facts), table(&rows))
}

/// What was fetched for what, and how long readers waited for it.
fn why_slow(status: &MountStatus) -> Vec<(&'static str, String)> {
    let fetched = &status.fetched_bytes;
    let causes = [
        (fetched.demand, "for readers"),
        (fetched.read_ahead, "ahead of readers"),
        (fetched.prefetch, "before anybody asked"),
        (fetched.first_reading, "to read archives"),
    ];
    let causes: Vec<String> = causes
        .into_iter()
        .filter(|(bytes, _)| *bytes > 0)
        .map(|(bytes, cause)| format!("{} {cause}", human(bytes)))
        .collect();
    let mut facts = Vec::new();
    if !causes.is_empty() {
        facts.push(("of these", causes.join(", ")));
    }
    if status.wasted_bytes > 0 {
        facts.push(("in vain", format!("{}, gone before anybody read it", human(status.wasted_bytes))));
    }
    if status.reads_waited > 0 {
        let plural = if status.reads_waited == 1 { "" } else { "s" };
        let (reads, seconds) = (status.reads_waited, status.waited_seconds);
        facts.push(("waited", format!("{reads} read{plural} that the cache had not, {seconds:.1} s in all")));
    }
    facts
}

fn served_by(host: &HostStatus) -> String {
    let mut text = format!("{}, {}", printable(&host.host), human(host.bytes));
    if host.is_mirror {
        text.push_str(" (mirror)");
    }
    if let Some(failure) = &host.last_failure {
        text.push_str(&format!("; {} failures, the last one: {}", host.failures, printable(failure)));
    }
    if let Some(seconds) = host.set_aside_seconds {
        text.push_str(&format!("; set aside for {seconds} s"));
    }
    if host.distrusted_blobs > 0 {
        text.push_str(&format!("; sent wrong bytes of {} blobs", host.distrusted_blobs));
    }
    text
}

fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Absent => "absent",
        Standing::Rejected => "rejected",
        Standing::Pending => "pending",
        Standing::Proven => "proven",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Algorithm;
    use crate::mount::{FetchedBytes, FileStatus};

    fn status_of_one_file() -> MountStatus {
        MountStatus {
            summary: MountSummary {
                reference: "h/r:v1".into(),
                digest: Digest::of(Algorithm::Sha256, b"x"),
                mountpoint: "/m".into(),
                subpath: None,
                files: 1,
                total_bytes: 10,
                layers_reading: 0,
                failed: None,
                warnings: vec!["odd".into()],
            },
            network_bytes: 5,
            fetched_bytes: FetchedBytes { demand: 2, read_ahead: 3, ..FetchedBytes::default() },
            wasted_bytes: 0,
            reads_waited: 0,
            waited_seconds: 0.0,
            cached_bytes: 5,
            rejected_chunks: 0,
            hosts: Vec::new(),
            degraded: None,
            files_left_out: 0,
            files: vec![FileStatus {
                path: "a\u{1b}b".into(),
                size: 10,
                cached_bytes: 5,
                standing: Standing::Pending,
                passthrough: false,
            }],
        }
    }

    #[test]
    fn the_fields_of_status_that_scripts_rely_on() {
        let value = serde_json::to_value(status_of_one_file()).unwrap();
        for name in
            ["reference", "digest", "mountpoint", "subpath", "network_bytes", "cached_bytes", "total_bytes"]
        {
            assert!(value.get(name).is_some(), "{name} is missing in {value}");
        }
        for name in ["wasted_bytes", "reads_waited", "waited_seconds"] {
            assert!(value[name].is_number(), "{name} is missing in {value}");
        }
        for name in ["demand", "read_ahead", "prefetch", "first_reading"] {
            assert!(value["fetched_bytes"][name].is_number(), "{name} is missing in {value}");
        }
        let file = &value["files"][0];
        assert_eq!(file["standing"], "pending");
        for name in ["path", "size", "cached_bytes", "passthrough"] {
            assert!(file.get(name).is_some(), "{name} is missing in {file}");
        }
    }

    #[test]
    fn the_text_of_status_says_that_layers_are_being_read_or_failed() {
        let mut status = status_of_one_file();
        status.summary.layers_reading = 1;
        let text = status_text(&status);
        assert!(
            text.contains("reading:     1 layer for the first time; more files may come (1 so far"),
            "{text}"
        );
        status.summary.layers_reading = 0;
        status.summary.failed = Some("layer x is cut short".into());
        let text = status_text(&status);
        assert!(text.contains("failed:      layer x is cut short; "), "{text}");
        assert!(!text.contains("reading:"), "{text}");
    }

    #[test]
    fn the_text_of_status_says_why_reads_were_slow() {
        let mut status = status_of_one_file();
        let text = status_text(&status);
        assert!(text.contains("of these:    2 B for readers, 3 B ahead of readers\n"), "{text}");
        assert!(!text.contains("in vain:") && !text.contains("waited:"), "{text}");
        (status.wasted_bytes, status.reads_waited, status.waited_seconds) = (3, 1, 0.25);
        let text = status_text(&status);
        assert!(text.contains("in vain:     3 B, gone before anybody read it\n"), "{text}");
        assert!(text.contains("waited:      1 read that the cache had not, 0.2 s in all\n"), "{text}");
    }

    #[test]
    fn the_state_in_a_list_says_that_layers_are_being_read_or_failed() {
        let mut listed = Listed {
            mountpoint: "/m".into(),
            reference: "h/r:v1".into(),
            digest: None,
            subpath: None,
            file_count: Some(1),
            total_bytes: Some(1),
            layers_reading: Some(0),
            failed: None,
            error: None,
            state: "served",
        };
        assert_eq!(state_name(&listed), "served");
        listed.layers_reading = Some(2);
        assert_eq!(state_name(&listed), "reading");
        listed.failed = Some("why".into());
        assert_eq!(state_name(&listed), "failed");
    }

    #[test]
    fn the_text_of_status_shows_warnings_and_no_control_characters() {
        let text = status_text(&status_of_one_file());
        assert!(text.contains("warning:     odd\n"), "{text}");
        assert!(text.contains("cached:      5 B of 10 B\n"), "{text}");
        assert!(text.ends_with("a\u{fffd}b\n"), "{text}");
    }
}
