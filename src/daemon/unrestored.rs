//! What was mounted before this process and is not mounted now.
//!
//! A process takes over what the one before it has left; a service mounts it again, and goes on trying. A mount that could
//! not be served on, or whose record cannot be read, is given up. Either is told of until it is mounted or unmounted by
//! whoever wants it otherwise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::mount::MountRequest;

use super::Mounts;
use super::persisted::Records;

/// Mounts that a text names, so that it stays one for people.
const NAMED_MAX: usize = 20;

/// A mount that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Unrestored {
    /// Where; not known of a record that cannot be read.
    pub mountpoint: Option<PathBuf>,
    /// What, as it was asked for; not known of such a record.
    pub reference: Option<String>,
    /// Whether it is still being brought back; otherwise it is given up.
    pub retried: bool,
    /// Why it is not there; none while it is brought back for the first time.
    pub error: Option<String>,
}

impl Unrestored {
    /// What was mounted as `request` asks.
    pub(super) fn of(request: &MountRequest, retried: bool, error: Option<String>) -> Self {
        let (mountpoint, reference) = (Some(request.target.clone()), Some(request.reference.clone()));
        Self { mountpoint, reference, retried, error }
    }
}

/// What is missing in `mounts`, and of what `records` have.
#[must_use]
pub fn unrestored(mounts: &Mounts, records: Option<&Records>) -> Vec<Unrestored> {
    let mut nameless = Vec::new();
    let mut all: BTreeMap<PathBuf, Unrestored> = BTreeMap::new();
    // What is tried again is so whatever else is known of it; that may say why it is not there.
    for missing in records.map(Records::unrestored).into_iter().flatten().chain(mounts.unrestored()) {
        match missing.mountpoint.clone() {
            None => nameless.push(missing),
            Some(mountpoint) => {
                let error = missing.error.clone();
                let there = all.entry(mountpoint).or_insert(missing);
                there.error = there.error.take().or(error);
            }
        }
    }
    all.into_values().chain(nameless).collect()
}

/// Why a process that lacks `missing` is not ready: a line for each mount.
#[must_use]
pub fn text(missing: &[Unrestored]) -> String {
    let mut lines: Vec<String> = missing.iter().take(NAMED_MAX).map(line).collect();
    if missing.len() > NAMED_MAX {
        lines.push(format!("and {} more", missing.len() - NAMED_MAX));
    }
    lines.join("\n")
}

fn line(missing: &Unrestored) -> String {
    let name = |place: &Path| place.display().to_string();
    let place = missing.mountpoint.as_deref().map_or_else(|| "a mount".to_owned(), name);
    let yet = if missing.retried { " yet" } else { ", and given up" };
    let why = missing.error.as_deref().unwrap_or("it is being tried");
    // One line, whatever stands in a path or an error.
    format!("{place} is not mounted again{yet}: {why}").replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_what_is_missing_and_why() {
        let missing = |place: &str, retried, error: Option<&str>| Unrestored {
            mountpoint: Some(place.into()),
            reference: None,
            retried,
            error: error.map(Into::into),
        };
        let mut all = vec![missing("/a", true, None), missing("/b", true, Some("no\nway"))];
        all.push(missing("/c", false, Some("it is gone")));
        all.push(Unrestored { mountpoint: None, ..missing("/", false, Some("cannot read x.json")) });
        let lines = [
            "/a is not mounted again yet: it is being tried",
            "/b is not mounted again yet: no way",
            "/c is not mounted again, and given up: it is gone",
            "a mount is not mounted again, and given up: cannot read x.json",
        ];
        assert_eq!(text(&all), lines.join("\n"));
        let many = vec![missing("/a", true, None); 30];
        assert!(text(&many).ends_with("\nand 10 more"), "{}", text(&many));
    }
}
