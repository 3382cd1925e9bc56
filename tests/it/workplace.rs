//! A directory in which the program is run, and what is said about its results.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::program_file::write_program;

/// A directory to work in, and the program run in it with nothing of the caller's environment that matters.
pub(crate) struct Workplace {
    pub(crate) directory: TempDir,
    pub(crate) program: PathBuf,
}

impl Workplace {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), program: env!("CARGO_BIN_EXE_refmount").into() }
    }

    /// One with a layout `layout:v1` of the model that [`Self::put_model`] makes.
    pub(crate) fn with_layout() -> Self {
        let workplace = Self::new();
        workplace.put_model();
        assert_done(&workplace.run(&["pack", "model", "oci:layout:v1"]));
        workplace
    }

    /// And a directory for each of `targets` in it.
    pub(crate) fn with_directories(self, targets: &[impl AsRef<str>]) -> Self {
        for target in targets {
            std::fs::create_dir(self.path(target.as_ref())).unwrap();
        }
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), content).unwrap();
    }

    /// A copy of the program, for tests that change it or whose user must get at it.
    pub(crate) fn own_program(&self) -> PathBuf {
        let path = self.path("refmount");
        write_program(&path, &std::fs::read(&self.program).unwrap());
        path
    }

    pub(crate) fn put_model(&self) {
        self.put("model/config.json", b"{}\n");
        self.put("model/weights/model.safetensors", &shard());
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&self.program, arguments)
    }

    /// Another program, run in the same way.
    pub(crate) fn command_of(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("REFMOUNT_")) {
                command.env_remove(name);
            }
        }
        command.env_remove("CONTAINERS_REGISTRIES_CONF");
        // Nor of the machine's.
        command.env("REFMOUNT_CONFIG", "/dev/null");
        command.env("REFMOUNT_CACHE_DIR", self.path("cache")).env("SOURCE_DATE_EPOCH", "1700000000");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The process that owns the cache.
    pub(crate) fn owner(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.path("cache/owner.lock")).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        // The file outlives its writer, whose number may be another's by now.
        let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let cache = self.path("cache");
        let cache = cache.to_str().unwrap().as_bytes();
        command.windows(cache.len()).any(|part| part == cache).then_some(pid)
    }

    /// The processes behind the cache: its owner, and the one that serves for it, unless that is the same.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let Some(owner) = self.owner() else { return Vec::new() };
        std::iter::once(owner).chain(children(owner)).collect()
    }

    /// The process that serves the mounts.
    pub(crate) fn server(&self) -> Option<Pid> {
        self.processes().pop()
    }

    /// Sends `signal` to all processes behind the cache, the owner first, which would start another server. None sees
    /// another one be killed, which a server takes for the end of its service, and unmounts.
    pub(crate) fn signal_all(&self, signal: Signal) {
        let processes = self.processes();
        let send = |signal| {
            for process in &processes {
                let _ = rustix::process::kill_process(*process, signal);
            }
        };
        if signal == Signal::KILL {
            send(Signal::STOP);
        }
        send(signal);
    }

    /// What the owner answers to a question for `path` on its socket.
    pub(crate) fn ask(&self, path: &str) -> (u16, String) {
        let socket = self.path("cache/control.sock");
        curl(&["--unix-socket", socket.to_str().unwrap(), &format!("http://refmount{path}")])
    }

    /// Whether something is mounted on `name`.
    pub(crate) fn is_mounted(&self, name: &str) -> bool {
        mounts_below(&self.path(name)).contains(&self.path(name))
    }

    /// The blob that holds `content`.
    pub(crate) fn blob_of(&self, content: &[u8]) -> PathBuf {
        let blobs = self.path("layout/blobs/sha256");
        let holds = |path: &PathBuf| std::fs::read(path).unwrap() == content;
        std::fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().path()).find(holds).unwrap()
    }
}

/// Nothing stays mounted and no owner alive, however a test ends.
impl Drop for Workplace {
    fn drop(&mut self) {
        for target in mounts_below(self.directory.path()) {
            let _ = rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH);
        }
        self.signal_all(Signal::KILL);
    }
}

/// A workplace with a layout, and a directory for each of `targets`.
pub(crate) fn workplace_with(targets: &[&str]) -> Workplace {
    Workplace::with_layout().with_directories(targets)
}

/// The status and the text of an answer over HTTP; 0 if there is none.
pub(crate) fn curl(arguments: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "120", "--noproxy", "*", "--write-out", "\n%{http_code}"]);
    let text = stdout(&command.args(arguments).output().unwrap());
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// The processes that the first thread of `process` has started and that are still there.
pub(crate) fn children(process: Pid) -> Vec<Pid> {
    let number = process.as_raw_nonzero();
    let listed = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
    let listed = listed.unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Whether `process` is there and has not ended, which one may have that nobody has waited for yet.
pub(crate) fn is_running(process: Pid) -> bool {
    let command = std::fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero()));
    command.is_ok_and(|command| !command.is_empty())
}

/// What the kernel says of the memory of `process` under `name`: `VmRSS` for what is resident, `VmHWM` for the most that
/// ever was.
pub(crate) fn resident_bytes(process: Pid, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// The mount points at and below `directory`.
pub(crate) fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    targets.filter(|target| target.starts_with(directory)).collect()
}

/// Asks `done` again and again until it says yes; fails the test after a time that no machine needs.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..15_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain until {what}");
}

/// Content that does not repeat within a megabyte, longer than any buffer on its way.
pub(crate) fn shard() -> Vec<u8> {
    (0..3_000_000_u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub(crate) fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
}

pub(crate) fn assert_failed(output: &Output, status: i32, words: &str) {
    assert_eq!(output.status.code(), Some(status), "{}", stderr(output));
    assert!(stderr(output).contains(words), "{words:?} is not in {:?}", stderr(output));
    assert!(output.stdout.is_empty(), "printed on standard output: {:?}", stdout(output));
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn json(output: &Output) -> Value {
    assert_done(output);
    serde_json::from_slice(&output.stdout).unwrap()
}
