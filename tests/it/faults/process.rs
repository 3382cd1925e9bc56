//! Loads, users and changes, on a mount as the program makes it.

use std::os::unix::fs::PermissionsExt as _;

use super::{OTHER, PATIENT, Site};
use crate::workplace::{assert_done, assert_failed, stdout};

fn python(site: &Site, script: &str, file: &str) -> String {
    site.workplace.put("source", &site.artifact.file(file));
    let mounted = site.path(file);
    let output = site.workplace.command_of("python3", &["-c", script, mounted.to_str().unwrap(), "source"]);
    let output = { output }.output().unwrap();
    assert_done(&output);
    stdout(&output)
}

#[test]
fn many_threads_fault_and_read_one_file_while_it_is_fetched() {
    let site = Site::mounted(&[PATIENT]);
    assert_eq!(python(&site, include_str!("../fuse/faults.py"), OTHER), "128 threads\n");
    // With less room than the file needs, and the pages shared with nobody.
    let site = Site::mounted(&[PATIENT, "--cache-size=2MiB"]);
    assert_eq!(python(&site, include_str!("../fuse/faults.py"), OTHER), "128 threads\n");
}

#[test]
fn mappings_direct_reads_and_sendfile_give_the_bytes_while_they_are_fetched() {
    for options in [&[PATIENT][..], &[PATIENT, "--cache-size=2MiB"], &[PATIENT, "--verify=before-read"]] {
        let site = Site::mounted(options);
        assert_eq!(python(&site, include_str!("../fuse/loads.py"), OTHER), "mmap populate direct sendfile\n");
    }
}

#[test]
fn whatever_would_change_something_is_refused_as_read_only() {
    let site = Site::mounted(&[PATIENT]);
    let target = site.path("");
    let script = include_str!("../fuse/writes.py");
    let mut command = site.workplace.command_of("python3", &["-c", script, target.to_str().unwrap()]);
    let output = command.output().unwrap();
    assert_done(&output);
    assert_eq!(stdout(&output), "all refused\n");
}

#[test]
fn another_user_reads_only_where_the_mount_allows_it() {
    for (options, status) in [(&[PATIENT][..], 1), (&[PATIENT, "--allow-other"], 0)] {
        let site = Site::mounted(options);
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(site.workplace.directory.path(), open).unwrap();
        let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "cat", "mnt/config.json"];
        let output = site.workplace.command_of("setpriv", &as_nobody).output().unwrap();
        match status {
            0 => assert!(output.stdout == site.artifact.file("config.json")),
            _ => assert_failed(&output, status, "Permission denied"),
        }
    }
}
