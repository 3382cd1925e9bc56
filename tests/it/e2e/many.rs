//! As many mounts at the same time as a node ever has.

use std::process::{Child, Stdio};

use rustix::process::Pid;

use super::push;
use crate::support::artifact::ModelArtifact;
use crate::workplace::{Workplace, assert_done, is_running, mounts_below, resident_bytes, wait_until};

const MOUNTS: usize = 200;
const ARTIFACTS: usize = 20;

/// What holder and server may use together.
const RESIDENT_BYTES_MAX: u64 = 500 << 20;

/// All processes at once, each with the arguments of one mount.
fn all_at_once(workplace: &Workplace, arguments: impl Fn(usize) -> Vec<String>) {
    let start = |number| -> Child {
        let arguments = arguments(number);
        let mut command = workplace.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<Child> = (0..MOUNTS).map(start).collect();
    for child in all {
        assert_done(&child.wait_with_output().unwrap());
    }
}

#[test]
fn two_hundred_mounts_of_twenty_artifacts_at_once_on_a_fresh_cache_have_one_owner() {
    let name = |number: usize| format!("weights-{}.bin", number % ARTIFACTS);
    let artifacts: Vec<(String, ModelArtifact)> = (0..ARTIFACTS)
        .map(|number| {
            let bytes = 5000 + number as u64;
            let files = [(&*name(number), (1 << 20) + bytes), ("config.json", bytes)];
            let (reference, artifact) = push(&format!("models/many-{number}"), &files);
            (reference.to_string(), artifact)
        })
        .collect();
    let artifact = |number: usize| &artifacts[number % ARTIFACTS];
    let target = |number: usize| format!("m{number}");
    let workplace = Workplace::new().with_directories(&(0..MOUNTS).map(target).collect::<Vec<_>>());
    all_at_once(&workplace, |number| vec!["mount".to_owned(), artifact(number).0.clone(), target(number)]);
    let mounted = mounts_below(workplace.directory.path());
    assert_eq!(mounted.len(), MOUNTS, "{mounted:?}");
    let processes: Vec<Pid> = workplace.processes();
    assert_eq!(processes.len(), 2, "a holder and a server: {processes:?}");
    for number in 0..MOUNTS {
        let mount = workplace.path(&target(number));
        for file in [&*name(number), "config.json"] {
            let read = std::fs::read(mount.join(file)).unwrap();
            assert!(read == artifact(number).1.file(file), "{file} of {}", mount.display());
        }
    }
    let resident = |what| processes.iter().map(|process| resident_bytes(*process, what)).sum::<u64>();
    let (now, peak) = (resident("VmRSS"), resident("VmHWM"));
    println!("holder and server: {} MiB resident, {} MiB at most", now >> 20, peak >> 20);
    assert!(now < RESIDENT_BYTES_MAX, "{now} bytes are resident");
    assert_eq!(workplace.processes(), processes, "nobody has died meanwhile");

    all_at_once(&workplace, |number| vec!["umount".to_owned(), target(number)]);
    assert_eq!(mounts_below(workplace.directory.path()), Vec::<std::path::PathBuf>::new());
    wait_until("holder and server have ended", || !processes.iter().any(|process| is_running(*process)));
}
