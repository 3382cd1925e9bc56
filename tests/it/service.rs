//! `refmount daemon`: as a service under a manager that the test plays, with a configuration file, and over its own end.

mod ended;
mod kept;
mod limits;
mod orphaned;
mod restored;
mod unrestored;
mod upgraded;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use refmount::base::clock;
use refmount::daemon::owner::EXIT_LIMIT;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::connection::Delivery;
use crate::support::fault_registry::{Fault, FaultRegistry, Target};
use crate::support::unprivileged::{NOBODY, as_nobody, let_pass};
use crate::workplace::{
    Workplace, assert_done, assert_failed, children, json, stderr, wait_until, workplace_with,
};

/// Speaks as a service manager does, and stores descriptors.
const MANAGER: &str = include_str!("service/manager.py");

/// A daemon and the manager that runs it.
pub(crate) struct Service {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Service {
    /// A manager for a daemon on the cache of `workplace`, which is started.
    pub(crate) fn start(workplace: &Workplace, options: &[&str]) -> Self {
        Self::start_with(workplace, options, &[("FDSTORE", "200"), ("WATCHDOG_USEC", "300000")])
    }

    fn start_with(workplace: &Workplace, options: &[&str], variables: &[(&str, &str)]) -> Self {
        let (socket, cache) = (workplace.path("notify"), workplace.path("cache"));
        let mut command = workplace.command_of("python3", &["-c", MANAGER, socket.to_str().unwrap()]);
        command.arg(&workplace.program).args(["daemon", "--cache-dir"]).arg(cache).args(options);
        command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut service = Self { commands: child.stdin.take(), answers, child };
        service.begin();
        service
    }

    /// Starts the daemon and waits until it is ready.
    fn begin(&mut self) {
        let before = self.ask("state")["ready"].as_u64();
        self.ask("start");
        wait_until("the daemon is ready", || self.ask("state")["ready"].as_u64() > before);
    }

    /// Tells the manager to do something, and returns what it knows then.
    fn ask(&mut self, word: &str) -> Value {
        let commands = self.commands.as_mut().unwrap();
        writeln!(commands, "{word}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{word}: {error}: {line:?}"))
    }

    /// Ends the daemon by `signal`, within its time, and returns what the manager knows then.
    pub(crate) fn end_by(&mut self, signal: &str) -> Value {
        let told = clock::now();
        self.ask(signal);
        let end = self.ask("wait");
        assert!(told.elapsed() < EXIT_LIMIT, "it took {:?} to end", told.elapsed());
        end
    }

    pub(crate) fn watchdog(&mut self) -> u64 {
        self.ask("state")["watchdog"].as_u64().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

/// A daemon without a manager.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn start(workplace: &Workplace, options: &[&str]) -> Self {
        Self::start_by(workplace, workplace.command(&[]), options)
    }

    /// One that `command` becomes, with further arguments.
    fn start_by(workplace: &Workplace, mut command: Command, options: &[&str]) -> Self {
        command.args(["daemon", "--cache-dir"]).arg(workplace.path("cache")).args(options);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let daemon = Self(command.spawn().unwrap());
        wait_until("the daemon is there", || workplace.path("cache/control.sock").exists());
        daemon
    }

    pub(crate) fn tell(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Tells it to end, and waits until it has, within its time.
    pub(crate) fn end(self) -> Output {
        let told = clock::now();
        self.tell(Signal::TERM);
        let output = self.output();
        assert!(told.elapsed() < EXIT_LIMIT, "it took {:?} to end", told.elapsed());
        assert_done(&output);
        output
    }

    /// Waits for its end.
    fn output(mut self) -> Output {
        let mut said = Vec::new();
        std::io::Read::read_to_end(&mut self.0.stderr.take().unwrap(), &mut said).unwrap();
        Output { status: self.0.wait().unwrap(), stdout: Vec::new(), stderr: said }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The one that serves goes on without the one that started it.
        let servers = children(Pid::from_child(&self.0));
        let _ = self.0.kill();
        let _ = self.0.wait();
        for server in servers {
            let _ = kill_process(server, Signal::KILL);
        }
    }
}

#[test]
fn a_daemon_is_ready_when_it_answers_and_lives_as_long_as_it_does() {
    let workplace = workplace_with(&["a"]);
    let mut service = Service::start(&workplace, &[]);
    assert_done(&workplace.run(&["cache", "info"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    wait_until("the status says so", || {
        service.ask("state")["status"].as_array().unwrap().last() == Some(&"Serving 1 mount".into())
    });
    let fed = service.watchdog();
    wait_until("the watchdog is fed", || service.watchdog() > fed + 2);

    // It hangs: nobody speaks for it.
    let server = workplace.server().unwrap();
    kill_process(server, Signal::STOP).unwrap();
    let mut fed = service.watchdog();
    wait_until("the watchdog gets nothing any more", || {
        thread::sleep(Duration::from_millis(500));
        std::mem::replace(&mut fed, service.watchdog()) == fed
    });
    kill_process(server, Signal::CONT).unwrap();
    wait_until("the watchdog is fed again", || service.watchdog() > fed);

    // It is replaced by the next one, for which the manager waits.
    let ready = service.ask("HUP")["ready"].as_u64();
    wait_until("the next one is ready", || service.ask("state")["ready"].as_u64() > ready);
    assert!(workplace.server().unwrap() != server);
    assert_eq!(service.ask("state")["reloading"], 1);

    // It stays without mounts, and ends when it is told to.
    assert_done(&workplace.run(&["umount", "a"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    let end = service.end_by("TERM");
    assert_eq!((&end["result"], &end["stopping"], &end["strangers"]), (&0.into(), &1.into(), &0.into()));
    assert_eq!(end["stored"], serde_json::json!([]));
    assert!(!workplace.is_mounted("a") && !workplace.path("cache/control.sock").exists());
    assert_eq!(workplace.owner(), None);
}

#[test]
fn mounts_go_to_the_daemon_and_a_second_one_is_told_of_the_first() {
    let workplace = workplace_with(&["a", "b"]);
    let daemon = Daemon::start(&workplace, &[]);
    let pid = Pid::from_child(&daemon.0);
    for target in ["a", "b"] {
        assert_done(&workplace.run(&["mount", "oci:layout:v1", target]));
    }
    assert_eq!(workplace.owner(), Some(pid));
    let second = workplace.run(&["daemon"]);
    assert_failed(&second, 6, &format!("is in use by process {}", pid.as_raw_nonzero()));
    assert!(workplace.is_mounted("a") && workplace.is_mounted("b"));
    daemon.tell(Signal::INT);
    assert_done(&daemon.output());
    assert!(!workplace.is_mounted("a") && !workplace.is_mounted("b"));
}

#[test]
fn a_daemon_told_to_end_under_load_does_so_and_leaves_no_mount() {
    let artifact =
        crate::support::artifact::ModelArtifact::new(3, &[("one.bin", 9 << 20), ("two.bin", 5 << 20)]);
    let registry = FaultRegistry::with(&artifact);
    let workplace = Workplace::new();
    let daemon = Daemon::start(&workplace, &[]);
    let targets = ["a", "b", "c", "d"];
    for target in targets {
        std::fs::create_dir(workplace.path(target)).unwrap();
        let reference = registry.reference("v1").to_string();
        let mount = ["mount", "--prefetch=off", "--read-timeout=3600", &reference, target];
        assert_done(&workplace.run(&mount));
    }
    assert!(std::fs::read(workplace.path("a/two.bin")).unwrap() == artifact.file("two.bin"));
    registry.faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Stall(0)));
    let fetched = registry.requests(Target::Blob).len();
    thread::scope(|scope| {
        for target in targets {
            // One that hangs, and one that reads what is cached, on each mount.
            let (stuck, busy) =
                (workplace.path(target).join("one.bin"), workplace.path(target).join("two.bin"));
            scope.spawn(move || std::fs::read(stuck).is_err());
            scope.spawn(move || while std::fs::read(&busy).is_ok() {});
        }
        wait_until("readers wait", || registry.requests(Target::Blob).len() > fetched);
        daemon.end();
    });
    assert!(targets.iter().all(|target| !workplace.is_mounted(target)));
}

#[test]
fn a_dead_mount_of_a_killed_daemon_is_mounted_over_and_unmounted() {
    let workplace = workplace_with(&["a", "b"]);
    let daemon = Daemon::start(&workplace, &[]);
    for target in ["a", "b"] {
        assert_done(&workplace.run(&["mount", "oci:layout:v1", target]));
    }
    workplace.signal_all(Signal::KILL);
    drop(daemon);
    wait_until("the mounts are dead", || std::fs::read_dir(workplace.path("b")).is_err());
    std::fs::remove_file(workplace.path("cache/control.sock")).unwrap();
    let _next = Daemon::start(&workplace, &[]);
    assert_done(&workplace.run(&["umount", "a"]));
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "b"]));
    assert!(!workplace.is_mounted("a"));
    assert_eq!(std::fs::read(workplace.path("b/config.json")).unwrap(), b"{}\n");
}

#[test]
fn another_user_gets_nothing_of_the_daemon_but_what_it_was_told_to_show() {
    let workplace = workplace_with(&["a", "b"]);
    let _daemon = Daemon::start(&workplace, &[]);
    assert_done(&workplace.run(&["mount", "oci:layout:v1", "a"]));
    assert_done(&workplace.run(&["mount", "--allow-other", "oci:layout:v1", "b"]));
    let_pass(workplace.directory.path());
    let socket = workplace.path("cache/control.sock");
    for (path, mode) in [(workplace.path("cache"), 0o777), (socket.clone(), 0o777)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let reads =
        |target: &str| as_nobody("cat").arg(workplace.path(target).join("config.json")).output().unwrap();
    assert!(!reads("a").status.success());
    assert_eq!(reads("b").stdout, b"{}\n");
    let ask = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect(sys.argv[1])
try:
    s.sendall(b'GET /v1/mounts HTTP/1.0\\r\\n\\r\\n')
    print(s.recv(100))
except (BrokenPipeError, ConnectionResetError):
    print(b'')";
    let asked = as_nobody("/usr/bin/python3").args(["-c", ask]).arg(&socket).output().unwrap();
    assert_eq!(asked.stdout, b"b''\n", "user {NOBODY}: {}", stderr(&asked));
}

#[test]
fn what_the_file_says_holds_for_the_daemon_and_for_mounts() {
    let workplace = workplace_with(&["a"]);
    let cache = workplace.path("other-cache");
    let text =
        format!("cache-dir = {cache:?}\ncache-size = '1GiB'\ncache-min-free = '1%'\npull = 'missing'\n");
    workplace.put("config.toml", text.as_bytes());
    let with_file = |arguments: &[&str]| {
        let mut command = workplace.command(arguments);
        command.env("REFMOUNT_CONFIG", "config.toml").env_remove("REFMOUNT_CACHE_DIR");
        command
    };
    let mut command = with_file(&["daemon", "--cache-min-free", "7"]);
    let daemon = Daemon(command.env("REFMOUNT_CACHE_SIZE", "2GiB").stderr(Stdio::piped()).spawn().unwrap());
    wait_until("the daemon is there", || cache.join("control.sock").exists());
    assert_done(&with_file(&["mount", "oci:layout:v1", "a"]).output().unwrap());
    let info = json(&with_file(&["cache", "info", "-o", "json"]).output().unwrap());
    assert_eq!((&info["directory"], &info["bytes_max"]), (&cache.to_str().into(), &(2_u64 << 30).into()));
    let pid = Pid::from_child(&daemon.0).as_raw_nonzero();
    assert_eq!(std::fs::read_to_string(cache.join("owner.lock")).unwrap().trim(), pid.to_string());
    daemon.tell(Signal::TERM);
    assert_done(&daemon.output());
    assert!(!workplace.is_mounted("a"));

    workplace.put("config.toml", b"\ncache-size = '1GiB'\nlimit = 3\n");
    for arguments in [&["daemon"][..], &["list"], &["mount", "oci:layout:v1", "a"]] {
        let output = with_file(arguments).output().unwrap();
        assert_failed(&output, 2, "config.toml, line 3: there is no key \"limit\"");
    }
    assert_failed(&workplace.run(&["--config", "nowhere.toml", "list"]), 3, "nowhere.toml");
}

#[test]
fn systemd_understands_the_unit() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = std::fs::read_to_string(root.join("packaging/systemd/refmount.service")).unwrap();
    let stored = unit.lines().filter_map(|line| line.strip_prefix("FileDescriptorStoreMax="));
    let told = unit.lines().filter_map(|line| line.strip_prefix("Environment=FDSTORE="));
    assert!(stored.eq(told), "the program is told how many descriptors are stored");
    let workplace = Workplace::new();
    let here = unit.replace("/usr/bin/refmount", workplace.program.to_str().unwrap());
    workplace.put("refmount.service", here.as_bytes());
    let mut command = workplace.command_of("systemd-analyze", &["verify", "--man=no", "refmount.service"]);
    let output = command.output().expect("systemd-analyze is missing; scripts/test installs systemd");
    assert_done(&output);
    let said = stderr(&output);
    assert!(!said.contains("refmount.service"), "{said}");
}
