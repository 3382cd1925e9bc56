//! Readers that wait hold up nobody else.

use std::thread;

use rustix::process::{Signal, kill_process};

use super::{MIB, OTHER, SHARD, Site};
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::workplace::{assert_done, stdout, wait_until};

fn stall_everything(registry: &FaultRegistry) {
    registry.faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Stall(0)));
}

#[test]
fn while_many_reads_hang_names_and_cached_bytes_are_served() {
    let site = Site::mounted(&["--read-timeout=5"]);
    site.assert_reads_whole(OTHER);
    let fetched = site.registry.requests(Target::Blob).len();
    stall_everything(&site.registry);
    thread::scope(|scope| {
        let stuck: Vec<_> = (0..48)
            .map(|reader| {
                let start = reader % 12 * MIB + reader * 10;
                let site = &site;
                scope.spawn(move || site.read(SHARD, start..start + 10).is_err())
            })
            .collect();
        wait_until("readers wait for the registry", || site.registry.requests(Target::Blob).len() > fetched);
        for _ in 0..20 {
            site.assert_reads_whole(OTHER);
            assert_eq!(std::fs::read_dir(site.path("model")).unwrap().count(), 2);
            assert_eq!(std::fs::metadata(site.path(SHARD)).unwrap().len(), 12 * MIB + 4321);
        }
        assert_eq!(site.status_of(SHARD)["cached_bytes"], 0);
        for reader in stuck {
            assert!(reader.join().unwrap(), "what never came was read");
        }
    });
    site.registry.clear_faults();
    site.assert_reads_whole(SHARD);
}

#[test]
fn an_owner_told_to_end_does_so_while_reads_hang() {
    let site = Site::mounted(&["--read-timeout=3600"]);
    site.assert_reads(SHARD, 0..MIB);
    stall_everything(&site.registry);
    thread::scope(|scope| {
        let stuck = scope.spawn(|| site.read(SHARD, 5 * MIB..5 * MIB + 10));
        wait_until("the reader waits", || site.registry.requests(Target::Blob).len() > 1);
        kill_process(site.workplace.owner().unwrap(), Signal::TERM).unwrap();
        wait_until("the owner has ended", || site.workplace.owner().is_none());
        assert!(stuck.join().unwrap().is_err());
    });
    assert!(!site.workplace.is_mounted("mnt"));
    site.registry.clear_faults();
    let fetched = site.registry.requests(Target::Blob).len();
    site.mount(&[]);
    site.assert_reads(SHARD, 0..MIB);
    assert_eq!(site.registry.requests(Target::Blob).len(), fetched, "what was whole is kept");
    site.assert_reads_whole(SHARD);
}

/// On a machine that aborts mounts which leave a request unanswered; or so it looks to the program, in a mount
/// namespace of its own.
#[test]
fn a_read_is_answered_before_the_kernel_loses_patience() {
    let site = Site::new();
    stall_everything(&site.registry);
    site.workplace.put("limits/max_request_timeout", b"4\n");
    site.workplace.put("limits/default_request_timeout", b"0\n");
    let script = "set -e
        mount --bind limits /proc/sys/fs/fuse
        \"$1\" mount --read-timeout 3600 --prefetch off \"$2\" mnt
        ! head -c 10 mnt/model/one.safetensors
        ls -l mnt/model/one.safetensors
        \"$1\" umount mnt";
    let program = env!("CARGO_BIN_EXE_refmount");
    let reference = site.reference();
    let arguments = ["--mount", "--propagation", "private", "sh", "-c", script, "sh", program, &reference];
    let output = site.workplace.command_of("unshare", &arguments).output().unwrap();
    assert_done(&output);
    assert!(stdout(&output).contains("12587233"), "{}", stdout(&output));
    let log = site.log();
    assert!(log.contains("max_request_timeout), so a read fails after 3 s"), "{log}");
    assert!(log.contains("a read failed") && log.contains("all that the kernel allows"), "{log}");
    wait_until("the owner has ended", || site.workplace.owner().is_none());
}
