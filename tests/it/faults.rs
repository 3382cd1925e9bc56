//! What a reader of a real mount sees when something goes wrong: the program run as its users run it, over a
//! registry that follows a schedule of faults. docs/faults.md says which test shows what.

mod archives;
mod bytes;
mod daemon;
mod disk;
mod events;
mod mirror_layers;
mod mirrors;
mod network;
mod process;
mod pull;
mod secrets;
mod short_names;
mod stuck;
mod watching;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::Output;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde_json::Value;

use crate::support::artifact::ModelArtifact;
use crate::support::fault_registry::FaultRegistry;
use crate::workplace::{Workplace, assert_done, json, stdout, wait_until};

const MIB: u64 = 1 << 20;

/// What direct reads are multiples of.
const ALIGNMENT: u64 = 4096;

/// Files of every artifact here.
const CONFIG: &str = "config.json";
const SHARD: &str = "model/one.safetensors";
const OTHER: &str = "model/two.safetensors";

/// What a read may wait where it is to succeed: no test needs it, however busy the machine is.
const PATIENT: &str = "--read-timeout=60";

/// What it may wait where it is to fail.
const HASTY: &str = "--read-timeout=1";

/// A registry with an artifact, and a place to mount it.
struct Site {
    workplace: Workplace,
    registry: FaultRegistry,
    artifact: ModelArtifact,
}

impl Site {
    fn new() -> Self {
        let artifact = ModelArtifact::new(
            7,
            &[(CONFIG, 300), (SHARD, 12 * MIB as usize + 4321), (OTHER, 3 * MIB as usize)],
        );
        Self::with(artifact)
    }

    fn with(artifact: ModelArtifact) -> Self {
        let workplace = Workplace::new();
        std::fs::create_dir(workplace.path("mnt")).unwrap();
        Self { registry: FaultRegistry::with(&artifact), workplace, artifact }
    }

    /// A site with the artifact mounted, and nothing fetched that is not asked for.
    fn mounted(options: &[&str]) -> Self {
        let site = Self::new();
        site.mount(options);
        site
    }

    fn reference(&self) -> String {
        self.registry.reference("v1").to_string()
    }

    fn try_mount(&self, options: &[&str]) -> Output {
        let reference = self.reference();
        let mut arguments = vec!["mount", "--prefetch=off"];
        arguments.extend(options);
        arguments.extend([&*reference, "mnt"]);
        self.workplace.run(&arguments)
    }

    fn mount(&self, options: &[&str]) -> String {
        let output = self.try_mount(options);
        assert_done(&output);
        stdout(&output)
    }

    fn umount(&self) {
        assert_done(&self.workplace.run(&["umount", "mnt"]));
    }

    fn path(&self, file: &str) -> PathBuf {
        self.workplace.path("mnt").join(file)
    }

    /// Opened so that each read goes to the mount, past the pages that the kernel keeps.
    fn open(&self, file: &str) -> io::Result<File> {
        let flags = OFlags::DIRECT.bits().cast_signed();
        File::options().read(true).custom_flags(flags).open(self.path(file))
    }

    /// Exactly these bytes of a file; what is short is an error.
    fn read(&self, file: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let opened = self.open(file)?;
        // A file that the kernel reads from the cache's disk itself wants what that disk wants.
        let (start, end) = (range.start & !(ALIGNMENT - 1), range.end.next_multiple_of(ALIGNMENT));
        let mut buffer = vec![0; (end - start + ALIGNMENT) as usize];
        let aligned = buffer.as_ptr().align_offset(ALIGNMENT as usize);
        let buffer = &mut buffer[aligned..][..(end - start) as usize];
        let mut filled = 0;
        while start + (filled as u64) < range.end {
            match opened.read_at(&mut buffer[filled..], start + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(buffer[(range.start - start) as usize..(range.end - start) as usize].to_vec())
    }

    fn truth(&self, file: &str, range: Range<u64>) -> ::bytes::Bytes {
        self.artifact.file(file).slice(range.start as usize..range.end as usize)
    }

    fn assert_reads(&self, file: &str, range: Range<u64>) {
        let bytes = self.read(file, range.clone()).unwrap_or_else(|error| {
            panic!("{file} {range:?}: {error}\n{}", self.log());
        });
        assert!(bytes == self.truth(file, range.clone()), "wrong bytes in {range:?} of {file}");
    }

    /// Reads in `turns` places of [`SHARD`], which are others for each `reader`.
    fn assert_reads_here_and_there(&self, reader: u64, turns: u64) {
        for turn in 0..turns {
            let start = (reader * 5 + turn * 7) % 11 * MIB + 777_777;
            self.assert_reads(SHARD, start..start + 500_000);
        }
    }

    fn assert_reads_whole(&self, file: &str) {
        self.assert_reads(file, 0..self.artifact.file(file).len() as u64);
    }

    /// Asserts that the read fails, and that the log says at which file, blob, offset and registry and by what: at the
    /// latest of another such read, because a busy machine may have one wait in vain for as long as it waits at all.
    fn assert_fails(&self, file: &str, start: u64, causes: &[&str]) {
        let digest = self.artifact.layer(file).to_string();
        let offset = format!("offset={start}");
        let host = self.registry.host();
        let mut parts = vec!["a read failed", file, &digest, &offset, host];
        parts.extend(causes);
        wait_until(&format!("a line of the log has all of {parts:?}"), || {
            let error = self.read(file, start..start + 4096).map(drop).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()), "{error}");
            self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)))
        });
    }

    /// What the owner has logged.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.workplace.path("cache/owner.log"));
        text.unwrap_or_else(|error| format!("no log: {error}"))
    }

    fn status(&self) -> Value {
        json(&self.workplace.run(&["status", "-o", "json", "mnt"]))
    }

    fn status_of(&self, file: &str) -> Value {
        let status = self.status();
        status["files"].as_array().unwrap().iter().find(|there| there["path"] == file).unwrap().clone()
    }

    /// The ranges that were asked for of a file's blob, in order.
    fn ranges(&self, file: &str) -> Vec<Range<u64>> {
        let digest = self.artifact.layer(file);
        let records = self.registry.requests(crate::support::fault_registry::Target::Blob);
        records
            .into_iter()
            .filter(|record| record.digest.as_ref() == Some(&digest))
            .filter_map(|record| record.range)
            .collect()
    }
}
