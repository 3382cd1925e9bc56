//! Registries as nodes have them: Debian's docker-registry behind nginx, behind a store with signed URLs, beside a token
//! server and as the mirror of another one; the program run as its users run it. Every program here logs all it can,
//! and nothing of that is a secret.

mod mirrors;
mod ranges;
mod tls;
mod tokens;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use refmount::base::clock;
use serde_json::json;

use crate::support::artifact::ModelArtifact;
use crate::support::docker_registry::DockerRegistry;
use crate::support::pattern::Pattern;
use crate::workplace::{Workplace, assert_done, stderr, stdout};

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "models/served";

/// The files of the artifact, of this size each.
const FILES: [&str; 3] = ["one.bin", "two.bin", "three.bin"];
const FILE_BYTES: u64 = CHUNKS * MIB + 4321;
const CHUNKS: u64 = 16;

/// What opens registries here.
const USER: &str = "user";
const PASSWORD: &str = "hush-hush-password";

/// What is behind everything here: a registry that anyone may read from, and the artifact in it.
struct Origin {
    registry: DockerRegistry,
    artifact: ModelArtifact,
}

fn origin() -> &'static Origin {
    static ORIGIN: OnceLock<Origin> = OnceLock::new();
    ORIGIN.get_or_init(|| {
        let registry = DockerRegistry::start();
        let pattern = |number| Pattern { number, bytes: FILE_BYTES };
        let files =
            FILES.iter().zip(0..).map(|(path, number)| ((*path).to_owned(), pattern(number).whole().into()));
        let artifact = ModelArtifact::of(files.collect());
        registry.push(&artifact, REPOSITORY, "v1");
        Origin { registry, artifact }
    })
}

/// A place to mount the artifact, from the registry that is reached at `host`.
struct Site {
    workplace: Workplace,
    host: String,
    /// What programs have printed.
    said: Mutex<String>,
}

impl Site {
    fn at(host: &str) -> Self {
        let workplace = Workplace::new();
        std::fs::create_dir(workplace.path("mnt")).unwrap();
        Self { workplace, host: host.to_owned(), said: Mutex::default() }
    }

    /// Puts a file of credentials for the registry.
    fn put_login(&self, password: &str) {
        let login = json!({ "auths": { &self.host: { "username": USER, "password": password } } });
        self.workplace.put("auth.json", login.to_string().as_bytes());
    }

    /// The program with these arguments, that is to say all it can.
    fn command(&self, arguments: &[&str]) -> Command {
        self.workplace.command(&[&["--log-level=trace"], arguments].concat())
    }

    /// Runs it.
    fn run(&self, command: &mut Command) -> Output {
        let output = command.output().unwrap();
        *self.said.lock().unwrap() += &(stdout(&output) + &stderr(&output));
        output
    }

    /// The command that mounts, with nothing fetched that is not asked for.
    fn mount_command(&self, options: &[&str]) -> Command {
        let reference = format!("{}/{REPOSITORY}:v1", self.host);
        let always = ["mount", "--prefetch=off", "--read-timeout=60"];
        self.command(&[&always, options, &[reference.as_str(), "mnt"]].concat())
    }

    fn mount(&self, options: &[&str]) {
        assert_done(&self.run(&mut self.mount_command(options)));
    }

    fn path(&self, file: &str) -> PathBuf {
        self.workplace.path("mnt").join(file)
    }

    fn assert_reads(&self, file: &str, start: u64, bytes: u64) {
        let mut buffer = vec![0; bytes as usize];
        let read = File::open(self.path(file)).and_then(|file| file.read_exact_at(&mut buffer, start));
        read.unwrap_or_else(|error| panic!("{file} at {start}: {error}\n{}", self.log()));
        let truth = origin().artifact.file(file).slice(start as usize..(start + bytes) as usize);
        assert!(buffer == truth, "wrong bytes in {file} at {start}");
    }

    /// Reads a bit of every chunk of every file, from all files at once, such that it takes `period` and nothing can be
    /// fetched ahead: backwards. Returns how long the readers took for each chunk.
    fn read_slowly(&self, period: Duration) -> Vec<Duration> {
        let (start, mut took) = (clock::now(), Vec::new());
        for chunk in (0..CHUNKS).rev() {
            let begun = clock::now();
            thread::scope(|scope| {
                for file in FILES {
                    scope.spawn(move || self.assert_reads(file, chunk * MIB, 64 << 10));
                }
            });
            took.push(begun.elapsed());
            let due = start + period * (CHUNKS - chunk) as u32 / CHUNKS as u32;
            thread::sleep(due.saturating_duration_since(clock::now()));
        }
        took
    }

    /// Reads everything.
    fn assert_reads_whole(&self) {
        for file in FILES {
            self.assert_reads(file, 0, FILE_BYTES);
        }
    }

    /// What the owner has logged.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.workplace.path("cache/owner.log"));
        text.unwrap_or_else(|error| format!("no log: {error}"))
    }

    /// Asserts that nothing that was logged or printed holds the password or one of `secrets`.
    fn assert_discreet(&self, secrets: &[String]) {
        let (log, said) = (self.log(), self.said.lock().unwrap());
        assert!(log.contains("TRACE"), "the log holds what libraries say as well: {log}");
        let login = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let own = [PASSWORD.to_owned(), login, STANDARD.encode(PASSWORD)];
        for secret in own.iter().chain(secrets) {
            for (name, text) in [("owner.log", &log), ("the output", &*said)] {
                let line = text.lines().find(|line| line.contains(secret.as_str()));
                assert_eq!(line, None, "{name} holds a secret");
            }
        }
    }
}
