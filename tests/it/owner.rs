//! Mounts and their owner as processes: who owns the cache, who hands over, and how all of it ends.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use refmount::base::clock;
use refmount::daemon::owner::EXIT_LIMIT;
use rustix::process::{Signal, kill_process};

use crate::workplace::{
    Workplace, assert_done, assert_failed, is_running, json, mounts_below, shard, stderr, stdout, wait_until,
    workplace_with,
};

#[test]
fn a_mount_shows_the_files_and_its_owner_ends_with_it() {
    let workplace = workplace_with(&["a"]);
    let output = workplace.run(&["mount", "oci:layout:v1", "a"]);
    assert_done(&output);
    let line = stdout(&output);
    assert!(line.contains(":v1@sha256:") && line.ends_with("/a, 2 files, 2.9 MiB\n"), "{line}");
    assert!(std::fs::read(workplace.path("a/weights/model.safetensors")).unwrap() == shard());
    let status = json(&workplace.run(&["status", "-o", "json", "a"]));
    assert_eq!(status["files"].as_array().unwrap().len(), 2);
    assert_eq!(status["total_bytes"], 3_000_003);
    assert_eq!(status["mountpoint"], workplace.path("a").to_str().unwrap());
    let listed = json(&workplace.run(&["list", "-o", "json"]));
    let here = |mount: &serde_json::Value| mount["mountpoint"] == workplace.path("a").to_str().unwrap();
    assert_eq!(listed.as_array().unwrap().iter().filter(|mount| here(mount)).count(), 1);
    let info = json(&workplace.run(&["cache", "info", "-o", "json"]));
    assert_eq!(info["directory"], workplace.path("cache").to_str().unwrap());

    assert_done(&workplace.run(&["umount", "a"]));
    assert!(!workplace.is_mounted("a"));
    wait_until("the owner has ended", || workplace.owner().is_none());
    assert!(!workplace.path("cache/control.sock").exists());
    let info = json(&workplace.run(&["cache", "info", "-o", "json"]));
    assert_eq!(info["used_bytes"].as_u64().map(|bytes| bytes > 0), Some(true), "{info}");
}

#[test]
fn a_file_that_is_too_large_for_the_cache_does_not_end_the_prefetch_of_the_others() {
    let workplace = Workplace::new();
    workplace.put("model/a-large", &vec![1; 6 << 20]);
    workplace.put("model/b-small", &vec![2; 2 << 20]);
    workplace.put("model/c-no-room-beside-b", &vec![3; 3 << 20]);
    std::fs::create_dir(workplace.path("m")).unwrap();
    assert_done(&workplace.run(&["pack", "model", "oci:layout:v1"]));
    let mount = ["mount", "--prefetch=all", "--cache-size=4MiB", "--cache-min-free=0", "oci:layout:v1", "m"];
    assert_done(&workplace.run(&mount));
    let cached = || {
        let status = json(&workplace.run(&["status", "-o", "json", "m"]));
        let files = status["files"].as_array().unwrap().clone();
        files.iter().map(|file| file["cached_bytes"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    wait_until("the file that fits is here", || cached() == [0, 2 << 20, 0]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(cached(), [0, 2 << 20, 0], "what has no room drives nothing out");
    assert_done(&workplace.run(&["umount", "m"]));
}

/// Each round finds the owner of the one before in another moment of its end.
#[test]
fn a_mount_that_meets_an_ending_owner_gets_the_next_one() {
    let workplace = workplace_with(&["a"]);
    for round in 0..8_u64 {
        assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
        assert_done(&workplace.run(&["umount", "a"]));
        std::thread::sleep(std::time::Duration::from_millis(960 + round * 10));
    }
}

#[test]
fn the_same_mount_again_is_done_and_another_there_is_busy() {
    let workplace = workplace_with(&["a", "b"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let other = workplace.run(&["mount", "--subpath", "weights", "oci:layout:v1", "a"]);
    assert_failed(&other, 6, "refmount umount");
    let other_size = workplace.run(&["mount", "--cache-size", "1GiB", "oci:layout:v1", "b"]);
    assert_done(&other_size);
    assert!(
        stderr(&other_size).contains("keeps its size of 50.0 GiB (not 1.0 GiB)"),
        "{}",
        stderr(&other_size)
    );
}

#[test]
fn limits_given_right_after_the_last_unmount_count() {
    let workplace = workplace_with(&["a", "b"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let kept = workplace.run(&["mount", "--cache-min-free", "1GiB", "oci:layout:v1", "b"]);
    assert_done(&kept);
    assert!(stderr(&kept).contains("its free space of 5% (not 1.0 GiB)"), "{}", stderr(&kept));
    assert_done(&workplace.run(&["umount", "a", "b"]));
    let other = ["mount", "--cache-size=1GiB", "--cache-min-free=1%", "oci:layout:v1", "a"];
    let output = workplace.run(&other);
    assert_done(&output);
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
    let info = json(&workplace.run(&["cache", "info", "-o", "json"]));
    assert_eq!(info["bytes_max"], 1 << 30);
}

#[test]
fn a_dead_mount_is_named_unmounted_and_mounted_over() {
    let workplace = workplace_with(&["a", "b"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    workplace.signal_all(Signal::KILL);
    wait_until("the mount is dead", || std::fs::read_dir(workplace.path("a")).is_err());
    wait_until("the owner is gone", || workplace.owner().is_none());
    assert_failed(&workplace.run(&["status", "a"]), 1, "its process is gone");
    assert_done(&workplace.run(&["umount", "a"]));
    assert!(!workplace.is_mounted("a"));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    assert!(workplace.path("b/config.json").exists());
}

#[test]
fn an_owner_that_hangs_holds_nobody_up_for_good() {
    let workplace = workplace_with(&["a", "b"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    workplace.signal_all(Signal::STOP);
    assert_failed(&workplace.run(&["mount", "oci:layout:v1", "b"]), 1, "did not answer in time");
    assert_failed(&workplace.run(&["status", "a"]), 1, "does not answer");
    let umount = workplace.run(&["umount", "a"]);
    assert_done(&umount);
    assert!(stderr(&umount).contains("does not answer"), "{}", stderr(&umount));
    assert!(!workplace.is_mounted("a"));
    // Nothing is mounted any more, and it notices.
    workplace.signal_all(Signal::CONT);
    wait_until("the owner has ended", || workplace.owner().is_none());
}

#[test]
fn an_owner_told_to_end_does_so_with_files_open() {
    let workplace = workplace_with(&["a"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let mut open = File::open(workplace.path("a/weights/model.safetensors")).unwrap();
    open.read_exact(&mut [0; 10]).unwrap();
    kill_process(workplace.owner().unwrap(), Signal::TERM).unwrap();
    wait_until("the owner has ended", || workplace.owner().is_none());
    assert!(!workplace.is_mounted("a"));
    assert!(!workplace.path("cache/control.sock").exists());
    drop(open);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
}

/// A mount may lie in another one, and nobody answers on the way to it.
#[test]
fn an_owner_whose_server_is_killed_or_hangs_as_it_ends_leaves_no_mount() {
    let workplace = workplace_with(&["a", "b"]);
    for is_killed in [true, false] {
        for target in ["a", "a/weights", "b"] {
            assert_done(&workplace.run(&["mount", "oci:layout:v1", target]));
        }
        let (owner, server) = (workplace.owner().unwrap(), workplace.server().unwrap());
        assert!(owner != server);
        kill_process(server, Signal::STOP).unwrap();
        let told = clock::now();
        kill_process(owner, Signal::TERM).unwrap();
        if is_killed {
            kill_process(server, Signal::KILL).unwrap();
        }
        wait_until("the owner has ended", || !is_running(owner));
        assert!(told.elapsed() < EXIT_LIMIT, "it took {:?} to end", told.elapsed());
        assert_eq!(mounts_below(workplace.directory.path()), Vec::<std::path::PathBuf>::new());
        assert!(!workplace.path("cache/control.sock").exists());
    }
}

#[test]
fn an_unmount_with_files_open_frees_the_directory_and_keeps_the_reader() {
    let workplace = workplace_with(&["a"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let mut open = File::open(workplace.path("a/weights/model.safetensors")).unwrap();
    assert_done(&workplace.run(&["umount", "a"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    assert_done(&workplace.run(&["umount", "a"]));
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert!(content == shard());
}

#[test]
fn in_the_foreground_a_signal_unmounts() {
    let workplace = workplace_with(&["a", "b"]);
    let spawn = |target: &str| {
        let mut command = workplace.command(&["mount", "-f", "oci:layout:v1", target]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let owner = spawn("a");
    wait_until("it is mounted", || workplace.path("a/config.json").exists());
    // The second one has to hand its request over, and stays until it is unmounted.
    let second = spawn("b");
    wait_until("it is mounted", || workplace.path("b/config.json").exists());
    kill_process(rustix::process::Pid::from_child(&second), Signal::INT).unwrap();
    assert_done(&second.wait_with_output().unwrap());
    assert!(!workplace.is_mounted("b") && workplace.is_mounted("a"));
    kill_process(rustix::process::Pid::from_child(&owner), Signal::INT).unwrap();
    assert_done(&owner.wait_with_output().unwrap());
    assert!(!workplace.is_mounted("a"));
}

#[test]
fn a_foreground_that_serves_others_too_unmounts_them_only_when_told_twice() {
    let workplace = workplace_with(&["a", "b", "c"]);
    let cache = workplace.path("cache");
    let arguments = ["--cache-dir", cache.to_str().unwrap(), "mount", "-f", "oci:layout:v1", "a"];
    let mut command = workplace.command(&arguments);
    let mut owner = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it is mounted", || workplace.path("a/config.json").exists());
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "c"]));
    let pid = rustix::process::Pid::from_child(&owner);
    assert_eq!(workplace.owner(), Some(pid));
    kill_process(pid, Signal::INT).unwrap();
    let mut line = String::new();
    BufReader::new(owner.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let others = [workplace.path("b"), workplace.path("c")].map(|path| path.display().to_string()).join(", ");
    assert!(line.contains(&others) && line.contains("a second signal"), "{line}");
    assert!(!workplace.is_mounted("a"), "its own is still there");
    assert_eq!(std::fs::read(workplace.path("b/config.json")).unwrap(), b"{}\n");
    // It takes more of them, and a signal counts also after some have gone.
    assert_done(&workplace.run(&["umount", "c"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "c"]));
    assert_eq!(workplace.owner(), Some(pid));
    kill_process(pid, Signal::TERM).unwrap();
    assert!(owner.wait().unwrap().success());
    assert!(!workplace.is_mounted("b") && !workplace.is_mounted("c"));
}

#[test]
fn a_foreground_told_once_ends_with_the_last_mount_of_others() {
    let workplace = workplace_with(&["a", "b"]);
    let mut command = workplace.command(&["mount", "-f", "oci:layout:v1", "a"]);
    let owner = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it is mounted", || workplace.path("a/config.json").exists());
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    kill_process(rustix::process::Pid::from_child(&owner), Signal::INT).unwrap();
    wait_until("its own is unmounted", || !workplace.is_mounted("a"));
    assert!(workplace.path("b/config.json").exists());
    assert_done(&workplace.run(&["umount", "b"]));
    assert_done(&owner.wait_with_output().unwrap());
}

#[test]
fn a_service_manager_ends_a_foreground_and_leaves_no_mount_of_others_behind() {
    let workplace = workplace_with(&["a", "b"]);
    let mut command = workplace.command(&["mount", "-f", "oci:layout:v1", "a"]);
    let owner = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it is mounted", || workplace.path("a/config.json").exists());
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    kill_process(rustix::process::Pid::from_child(&owner), Signal::TERM).unwrap();
    assert_done(&owner.wait_with_output().unwrap());
    assert!(!workplace.is_mounted("a") && !workplace.is_mounted("b"));
}

#[test]
fn a_mount_over_what_it_reads_from_is_refused() {
    let workplace = workplace_with(&["a", "parent"]);
    assert_failed(&workplace.run(&["mount", "oci:layout:v1", "layout"]), 2, "would hide");
    assert_failed(&workplace.run(&["mount", "oci:layout:v1", "."]), 2, "would hide");
    let cache = ["--cache-dir", "parent/cache", "mount", "oci:layout:v1", "parent"];
    assert_failed(&workplace.run(&cache), 2, "would hide");
}

#[test]
fn a_foreground_whose_owner_was_killed_fails() {
    let workplace = workplace_with(&["a", "b"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let mut command = workplace.command(&["mount", "-f", "oci:layout:v1", "b"]);
    let mut foreground = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Until it has its answer, it would ask a new owner again.
    let mut line = String::new();
    BufReader::new(foreground.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("/b, 2 files"), "{line}");
    workplace.signal_all(Signal::KILL);
    assert_failed(&foreground.wait_with_output().unwrap(), 1, "its process is gone");
}

#[test]
fn another_user_gets_nothing_from_the_control_socket() {
    let workplace = workplace_with(&["a"]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let socket = workplace.path("cache/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    // Even where every mode on the way is open, the peer is looked at.
    for path in [workplace.directory.path().to_owned(), workplace.path("cache"), socket.clone()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ask = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect(sys.argv[1])
try:
    s.sendall(b'GET /v1/version HTTP/1.0\\r\\n\\r\\n')
    print(s.recv(100))
except (BrokenPipeError, ConnectionResetError):
    print(b'')";
    let asked = |user: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups", "/usr/bin/python3", "-c", ask])
            .arg(&socket)
            .output()
            .expect("setpriv is missing; scripts/test installs util-linux");
        assert_done(&output);
        stdout(&output)
    };
    assert_eq!(asked("65534"), "b''\n");
    assert!(asked("0").starts_with("b'HTTP/1"), "{}", asked("0"));
}

/// `script` run without root in `workplace`, which has a directory `dev`; in a mount namespace of its own, with a device that
/// everybody may open, as distributions have it and containers often have not.
fn run_without_root(workplace: &Workplace, script: &str) -> std::process::Output {
    let done = Command::new("chown").args(["-R", "65534:65534"]).arg(workplace.directory.path()).status();
    assert!(done.unwrap().success());
    workplace.own_program();
    let as_root = "set -e
        mount -t tmpfs -o mode=0755 tmpfs dev
        mknod -m 0666 dev/fuse c 10 229
        mount --bind dev/fuse /dev/fuse
        exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \"$1\"";
    let arguments = ["--mount", "--propagation", "private", "sh", "-c", as_root, "sh", script];
    let output = workplace.command_of("unshare", &arguments).output().unwrap();
    assert_done(&output);
    output
}

#[test]
fn without_root_it_goes_through_fusermount3() {
    let workplace = workplace_with(&["a", "dev"]);
    let as_user = "set -e
        ./refmount mount oci:layout:v1 a
        cmp a/weights/model.safetensors model/weights/model.safetensors
        grep ' /.*/a fuse.refmount ro,nosuid,nodev' /proc/mounts
        ./refmount status a
        ./refmount umount a
        test ! -e a/config.json";
    let output = run_without_root(&workplace, as_user);
    assert!(stdout(&output).contains("oci:"), "{}", stdout(&output));
    wait_until("the owner has ended", || workplace.owner().is_none());
}

#[test]
fn without_root_what_a_killed_server_has_not_unmounted_is_unmounted() {
    let workplace = workplace_with(&["a", "dev"]);
    let as_user = "set -e
        ./refmount mount oci:layout:v1 a
        owner=$(cat cache/owner.lock)
        server=$(cat /proc/$owner/task/$owner/children)
        kill -STOP $server
        kill -TERM $owner
        kill -KILL $server
        while grep -q . /proc/$owner/cmdline; do sleep 0.1; done
        if grep \" $PWD/a fuse.refmount\" /proc/mounts; then exit 1; fi
        ./refmount mount oci:layout:v1 a
        cmp a/weights/model.safetensors model/weights/model.safetensors
        ./refmount umount a";
    run_without_root(&workplace, as_user);
    wait_until("the owner has ended", || workplace.owner().is_none());
}
