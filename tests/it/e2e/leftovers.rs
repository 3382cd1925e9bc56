//! What processes leave behind them that come and go: descriptors, other processes, registrations with the kernel.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rustix::process::Pid;

use super::python;
use crate::workplace::{Workplace, children, is_running, wait_until};

const REGISTRATIONS: &str = include_str!("registrations.py");

/// What a holder and its server have open: how often, by kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Open {
    holder: BTreeMap<String, usize>,
    server: BTreeMap<String, usize>,
}

impl Open {
    pub(super) fn of(workplace: &Workplace) -> Self {
        let of = |process: Option<Pid>| descriptors(process.unwrap(), &workplace.path("cache/v1"));
        Self { holder: of(workplace.owner()), server: of(workplace.server()) }
    }
}

/// Beside what varies by itself: files of the cache, which stay open for a while after they were read, and connections to
/// registries, which wait for the next request.
fn descriptors(process: Pid, cache: &Path) -> BTreeMap<String, usize> {
    let directory = format!("/proc/{}", process.as_raw_nonzero());
    let connections = connections(&directory);
    let mut found = BTreeMap::new();
    let listed = std::fs::read_dir(format!("{directory}/fd")).into_iter().flatten();
    for target in listed.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()) {
        let shown = target.to_str().unwrap();
        let kind = match shown.split_once(":[") {
            Some(("socket", inode)) if connections.contains(inode.trim_end_matches(']')) => continue,
            Some((kind @ ("socket" | "pipe"), _)) => kind,
            _ if target.starts_with(cache) && !target.ends_with("owner.lock") => continue,
            _ => shown,
        };
        *found.entry(kind.to_owned()).or_default() += 1;
    }
    found
}

/// The inodes of sockets over TCP.
fn connections(process: &str) -> HashSet<String> {
    let table = |name: &str| std::fs::read_to_string(format!("{process}/net/{name}")).unwrap_or_default();
    let both = table("tcp") + &table("tcp6");
    both.lines().filter_map(|line| line.split_whitespace().nth(9)).map(str::to_owned).collect()
}

/// Asserts that there is, once nobody reads any more, what there was `before` and nothing else.
pub(super) fn assert_none(workplace: &Workplace, before: &Open) {
    let mut now = Open::of(workplace);
    // What was closed last is on its way.
    for _ in 0..6000 {
        if now == *before {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        now = Open::of(workplace);
    }
    assert_eq!(now, *before, "descriptors");
    let holder = workplace.owner().unwrap();
    let mut processes = Vec::new();
    wait_until("the holder has one child", || {
        processes = children(holder);
        processes.len() == 1
    });
    assert!(is_running(processes[0]), "a process that has ended was not waited for");
    let cache = workplace.path("cache");
    let mut all: Vec<Pid> = using(cache.to_str().unwrap());
    all.retain(|process| *process != holder && *process != processes[0]);
    assert_eq!(all, Vec::<Pid>::new(), "processes beside the holder and its server");
    let holder = holder.as_raw_nonzero().to_string();
    let found = python(Path::new("python3"), REGISTRATIONS, &[&holder]);
    let (devices, registrations) = found.trim().split_once(' ').unwrap();
    assert!(devices.parse::<usize>().unwrap() > 0, "{found}");
    assert_eq!(registrations, "0", "files that the kernel has registered");
}

/// The processes that were started with `argument`.
fn using(argument: &str) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let number = |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let numbers = processes.filter_map(number).filter(|number: &i32| {
        let command = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
    });
    numbers.filter_map(Pid::from_raw).collect()
}
