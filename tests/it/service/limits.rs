//! A daemon that may not have as much of something as it is asked for.

use std::fs::File;
use std::io::Read as _;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::Daemon;
use crate::support::unprivileged::{NEWS, UUCP, as_user_with_fuse, let_pass};
use crate::workplace::{Workplace, assert_done, assert_failed, mounts_below, shard, stdout, wait_until};

/// What a daemon may have of descriptors here, and more mounts than it has room for then.
const DESCRIPTORS: usize = 256;
const TARGETS: usize = 40;

fn target(number: usize) -> String {
    format!("m{number}")
}

fn assert_served(workplace: &Workplace, mounted: usize) {
    for number in 0..mounted {
        let file = workplace.path(&target(number)).join("weights/model.safetensors");
        assert!(std::fs::read(&file).unwrap() == shard(), "{}", file.display());
    }
}

/// The server that follows `before`, once it answers.
fn next_server(workplace: &Workplace, before: Pid) {
    wait_until("another process serves", || {
        let server = workplace.server();
        server != workplace.owner() && server != Some(before) && workplace.run(&["list"]).status.success()
    });
}

#[test]
fn without_descriptors_mounts_are_refused_and_those_there_are_stay() {
    let workplace = Workplace::with_layout().with_directories(&(0..TARGETS).map(target).collect::<Vec<_>>());
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    let mut command = workplace.command_of("prlimit", &[&limit]);
    command.arg(&workplace.program);
    let daemon = Daemon::start_by(&workplace, command, &[]);
    let mount = |number: usize| workplace.run(&["mount", "oci:layout:v1", &target(number)]);
    let mounted = (0..TARGETS).find(|number| !mount(*number).status.success()).expect("all have room");
    assert!(mounted > 5, "{mounted} mounts");
    for _ in 0..3 {
        assert_failed(&mount(mounted), 1, "a higher limit (LimitNOFILE=, ulimit -Hn) makes room");
    }
    assert_eq!(mounts_below(workplace.directory.path()).len(), mounted);
    assert_served(&workplace, mounted);
    // The next server takes over all of them.
    for _ in 0..3 {
        let server = workplace.server().unwrap();
        kill_process(server, Signal::KILL).unwrap();
        next_server(&workplace, server);
        assert_served(&workplace, mounted);
    }
    // More files than there are descriptors, open at the same time.
    let open: Vec<File> = (0..DESCRIPTORS)
        .map(|number| {
            let file = if number % 2 == 0 { "config.json" } else { "weights/model.safetensors" };
            File::open(workplace.path(&target(number % mounted)).join(file)).unwrap()
        })
        .collect();
    for (number, mut file) in open.iter().enumerate() {
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert!(if number % 2 == 0 { content == b"{}\n" } else { content == shard() }, "file {number}");
    }
    drop(open);
    // There is room for another one in the place of one, as soon as that one's requests are answered.
    assert_done(&workplace.run(&["umount", &target(0)]));
    wait_until("there is room for one", || mount(mounted).status.success());
    daemon.end();
    assert_eq!(mounts_below(workplace.directory.path()), Vec::<std::path::PathBuf>::new());
}

/// What is done as a user who may have few threads, root not being bounded in them. The mounts go with the namespace.
const FEW_THREADS: &str = r#"
set -e
prlimit --nproc=60:60 "$1" daemon --cache-dir "$REFMOUNT_CACHE_DIR" 2>said & holder=$!
trap 'cat said >&2; kill -9 $holder $(cat /proc/$holder/task/$holder/children)' EXIT
until [ -S cache/control.sock ]; do sleep 0.1; done
mounted=0
while "$1" mount oci:layout:v1 "m$mounted" 2>refused; do mounted=$((mounted + 1)); done
cat refused >&2
served() {
    number=0
    while [ "$number" -lt "$mounted" ]; do
        cmp model/weights/model.safetensors "m$number/weights/model.safetensors"
        number=$((number + 1))
    done
}
served
"$1" list
server=$(cat /proc/$holder/task/$holder/children)
kill -9 $server
served
"$1" list
"$1" mount oci:layout:v1 m39 2>&1 && exit 1
served
echo "$mounted mounts"
"#;

/// `script` run by `user`, who may use FUSE, in a workplace with [`TARGETS`] directories; what it printed.
fn run_as(user: u32, script: &str) -> String {
    let targets: Vec<String> = (0..TARGETS).map(target).chain(["dev".to_owned()]).collect();
    let workplace = Workplace::with_layout().with_directories(&targets);
    let_pass(workplace.directory.path());
    let program = workplace.own_program();
    let ids = format!("{user}:{user}");
    let owned = Command::new("chown").args(["-R", &ids]).arg(workplace.directory.path()).status();
    assert!(owned.unwrap().success());
    let as_user = as_user_with_fuse(user, &workplace.path("dev"), "sh");
    let mut command = workplace.command_of("timeout", &["--signal=KILL", "600"]);
    command.arg(as_user.get_program()).args(as_user.get_args());
    let output = command.args(["-c", script, "sh"]).arg(&program).output().unwrap();
    assert_done(&output);
    stdout(&output)
}

#[test]
fn without_threads_mounts_are_refused_and_those_there_are_stay() {
    let said = run_as(NEWS, FEW_THREADS);
    let mounted = said.lines().last().and_then(|line| line.strip_suffix(" mounts")?.parse::<usize>().ok());
    assert!(mounted.is_some_and(|mounted| mounted > 2 && mounted < TARGETS - 1), "{said}");
    assert!(said.contains("Resource temporarily unavailable"), "{said}");
}

/// What is done as a user who has more descriptors on their way between processes than one of them may have: the kernel
/// takes no more then. (unix(7), ETOOMANYREFS)
const NO_WAY: &str = r#"
set -e
prlimit --nofile=256:256 "$1" daemon --cache-dir "$REFMOUNT_CACHE_DIR" 2>said & holder=$!
trap 'cat said >&2; kill -9 $holder $(cat /proc/$holder/task/$holder/children) $filler' EXIT
until [ -S cache/control.sock ]; do sleep 0.1; done
"$1" mount oci:layout:v1 m0
python3 -c "
import os, socket, time
here, there = socket.socketpair()
for _ in range(6):
    socket.send_fds(here, [b'x'], [0] * 50)
open('full', 'w')
while not os.path.exists('enough'):
    time.sleep(0.1)
" & filler=$!
until [ -e full ]; do sleep 0.1; done
kill -9 $(cat /proc/$holder/task/$holder/children)
until grep -q 'cannot be handed over' said; do sleep 0.1; done
touch enough
cmp model/weights/model.safetensors m0/weights/model.safetensors
"$1" status m0
kill -TERM $holder
wait $holder
trap - EXIT
cat said
"#;

#[test]
fn what_cannot_be_handed_over_now_is_handed_over_later() {
    let said = run_as(UUCP, NO_WAY);
    assert!(said.contains("cannot be handed over to it: Too many references"), "{said}");
}
