//! What goes wrong while a daemon serves several mounts.

use std::fs;
use std::thread;

use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;
use serde_json::Value;

use super::disk::{fill, remove};
use super::{MIB, OTHER, PATIENT, SHARD, Site};
use crate::service::{Daemon, Service};
use crate::workplace::{assert_done, assert_failed, json, mounts_below, wait_until};

/// A daemon for `site`, where it is looked for its log.
fn daemon(site: &Site, options: &[&str]) -> Daemon {
    let log = site.workplace.path("cache/owner.log");
    fs::create_dir_all(site.workplace.path("cache")).unwrap();
    Daemon::start(&site.workplace, &[options, &["--log-file", log.to_str().unwrap()]].concat())
}

/// What `path` has of a file at the second mount.
fn assert_second_reads(site: &Site, file: &str) {
    let read = fs::read(site.workplace.path("second").join(file)).unwrap();
    assert!(read == site.artifact.file(file), "{file}");
}

fn mount_second(site: &Site, options: &[&str]) -> std::process::Output {
    fs::create_dir_all(site.workplace.path("second")).unwrap();
    let reference = site.reference();
    site.workplace.run(&[&["mount", "--prefetch=off"], options, &[&reference, "second"]].concat())
}

#[test]
fn while_the_registry_is_gone_a_daemon_serves_what_it_has_also_after_a_crash() {
    let mut site = Site::new();
    let running = daemon(&site, &[]);
    site.mount(&["--read-timeout=6"]);
    assert_done(&mount_second(&site, &["--read-timeout=6"]));
    site.assert_reads_whole(OTHER);
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    site.registry.go_away();
    for signal in [None, Some(Signal::HUP), Some(Signal::KILL)] {
        if let Some(signal) = signal {
            let before = site.workplace.server();
            match signal {
                Signal::KILL => rustix::process::kill_process(before.unwrap(), signal).unwrap(),
                _ => running.tell(signal),
            }
            wait_until("the next one answers", || {
                site.workplace.server() != before && site.workplace.run(&["status", "mnt"]).status.success()
            });
        }
        site.assert_reads(SHARD, 3 * MIB..4 * MIB);
        site.assert_reads_whole(OTHER);
        assert_second_reads(&site, OTHER);
        site.assert_fails(SHARD, 7 * MIB, &["onnect"]);
    }
    fs::create_dir(site.workplace.path("third")).unwrap();
    let third = site.workplace.run(&["mount", &site.reference(), "third"]);
    assert_failed(&third, 1, site.registry.host());
    site.registry.come_back();
    wait_until("the return is noticed", || site.read(SHARD, 7 * MIB..8 * MIB).is_ok());
    wait_until("by all", || fs::read(site.workplace.path("second").join(SHARD)).is_ok());
    assert_second_reads(&site, SHARD);
    running.end();
    assert!(mounts_below(site.workplace.directory.path()).is_empty());
}

#[test]
fn on_a_full_disk_all_mounts_of_a_daemon_are_read_and_it_says_so() {
    let site = Site::new();
    let cache = site.workplace.path("cache");
    fs::create_dir(&cache).unwrap();
    mount("tmpfs", &cache, "tmpfs", MountFlags::empty(), c"size=8m,mode=0700").unwrap();
    let running = Daemon::start(&site.workplace, &["--cache-min-free=0"]);
    site.mount(&[PATIENT]);
    assert_done(&mount_second(&site, &[PATIENT]));
    let degraded =
        || -> Value { json(&site.workplace.run(&["cache", "info", "-o", "json"]))["degraded"].clone() };
    assert_eq!(degraded(), Value::Null);
    fill(&cache);
    for file in [SHARD, OTHER] {
        site.assert_reads_whole(file);
        assert_second_reads(&site, file);
    }
    wait_until("the full disk is noticed", || degraded().is_string());
    running.end();
    rustix::mount::unmount(&cache, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(mounts_below(site.workplace.directory.path()).is_empty());
}

/// Nobody can ask it anything then, which is no reason to have it killed and its mounts with it.
#[test]
fn a_daemon_whose_directory_is_removed_reads_on_and_its_watchdog_is_fed() {
    let site = Site::new();
    let mut service = Service::start(&site.workplace, &[]);
    site.mount(&[PATIENT]);
    assert_done(&mount_second(&site, &[PATIENT]));
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    let cache = site.workplace.path("cache");
    remove(&cache);
    let fed = service.watchdog();
    wait_until("the watchdog is fed", || service.watchdog() > fed + 3);
    for file in [SHARD, OTHER] {
        site.assert_reads_whole(file);
        assert_second_reads(&site, file);
    }
    assert_done(&site.workplace.run(&["umount", "second"]));
    assert_eq!(service.end_by("TERM")["result"], 0);
    assert!(mounts_below(site.workplace.directory.path()).is_empty());
}

#[test]
fn while_a_daemon_evicts_readers_of_all_mounts_get_the_right_bytes() {
    let site = Site::new();
    let running = daemon(&site, &["--cache-size=3MiB"]);
    site.mount(&[PATIENT]);
    assert_done(&mount_second(&site, &[PATIENT]));
    thread::scope(|scope| {
        for reader in 0..4 {
            let site = &site;
            scope.spawn(move || site.assert_reads_here_and_there(reader, 10));
        }
        for _ in 0..2 {
            scope.spawn(|| {
                [SHARD, OTHER, SHARD].into_iter().for_each(|file| assert_second_reads(&site, file))
            });
        }
    });
    let info = json(&site.workplace.run(&["cache", "info", "-o", "json"]));
    assert!(info["counters"]["evicted_chunks"].as_u64().unwrap() > 20, "{info}");
    assert!(info["used_bytes"].as_u64().unwrap() <= 3 * MIB, "{info}");
    running.end();
}
