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

use super::args::{GlobalArgs, ListArgs, OutputFormat, StatusArgs, UmountArgs};
use super::exit::{self, Failure};
use super::log;
use super::output::{human, print, print_json, printable, table};

/// Unmounts each of the targets, and goes on after one that failed.
///
/// # Errors
/// The first failure, reported with all others.
pub(super) async fn umount(global: &GlobalArgs, arguments: &UmountArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let mut first: Option<ErrorKind> = None;
    for target in &arguments.targets {
        if let Err(error) = umount_one(target).await {
            exit::report(&error);
            first.get_or_insert(error.kind());
        }
    }
    first.map_or(Ok(()), |kind| Err(Failure::Reported(kind)))
}

async fn umount_one(target: &Path) -> Result<()> {
    let target = locate::resolve(target).await?;
    match locate::owner_of(&target).await? {
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
        OwnerOf::Dead => locate::detach(&target).await,
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
    /// `served`, `dead`, `hung`, `foreign` (another user's) or `unknown`.
    state: &'static str,
}

/// Lists the mounts in the kernel's table.
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
            state,
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
                mount.state.into(),
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

/// Shows what is known about a mount.
///
/// # Errors
/// `NotFound` when nothing is mounted there; what the owner answered.
pub(super) async fn status(global: &GlobalArgs, arguments: &StatusArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let target = locate::resolve(&arguments.target).await?;
    let shown = target.display();
    let unserved = |kind, why: &str| Error::new(kind, format!("the mount on {shown} {why}"));
    let socket = match locate::owner_of(&target).await? {
        OwnerOf::Socket(socket) => socket,
        OwnerOf::Dead => return Err(locate::dead(&target).into()),
        OwnerOf::Hung => return Err(unserved(ErrorKind::TimedOut, "does not answer").into()),
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
    facts.push(("cached", format!("{} of {}", human(status.cached_bytes), human(summary.total_bytes))));
    if status.rejected_chunks > 0 {
        facts.push(("rejected", format!("{} chunks that failed their check", status.rejected_chunks)));
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
    format!("{}\n{}", table(&facts), table(&rows))
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
    use crate::mount::FileStatus;

    fn status_of_one_file() -> MountStatus {
        MountStatus {
            summary: MountSummary {
                reference: "h/r:v1".into(),
                digest: Digest::of(Algorithm::Sha256, b"x"),
                mountpoint: "/m".into(),
                subpath: None,
                files: 1,
                total_bytes: 10,
                warnings: vec!["odd".into()],
            },
            network_bytes: 5,
            cached_bytes: 5,
            rejected_chunks: 0,
            degraded: None,
            layers_reading: 0,
            failed: None,
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
        let file = &value["files"][0];
        assert_eq!(file["standing"], "pending");
        for name in ["path", "size", "cached_bytes", "passthrough"] {
            assert!(file.get(name).is_some(), "{name} is missing in {file}");
        }
    }

    #[test]
    fn the_text_of_status_shows_warnings_and_no_control_characters() {
        let text = status_text(&status_of_one_file());
        assert!(text.contains("warning:     odd\n"), "{text}");
        assert!(text.contains("cached:      5 B of 10 B\n"), "{text}");
        assert!(text.ends_with("a\u{fffd}b\n"), "{text}");
    }
}
