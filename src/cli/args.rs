//! What can be typed. What it means is made of it in [`super::settings`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use crate::oci::WantedPlatform;

use super::cat::RangeArg;
use super::size::{Floor, Size};

/// Mount OCI artifacts lazily: a read-only tree within a second, only what is read is fetched.
#[derive(Debug, Parser)]
#[command(name = "refmount", version, propagate_version = true, max_term_width = 100, after_help = EXIT_STATUS)]
pub(super) struct Arguments {
    /// What holds for every command.
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 not authorised, \
     5 unsupported format, 6 busy.\nEvery option can also be given as an environment variable: --cache-dir as \
     REFMOUNT_CACHE_DIR.";

/// Options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(super) struct GlobalArgs {
    /// The file that says what options are by default [default: /etc/refmount/config.toml for root, else
    /// $XDG_CONFIG_HOME/refmount/config.toml].
    #[arg(long, global = true, env = "REFMOUNT_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,
    /// The cache directory [default: /var/cache/refmount for root, else $XDG_CACHE_HOME/refmount].
    #[arg(long, global = true, env = "REFMOUNT_CACHE_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) cache_dir: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace or a filter such as refmount=debug.
    #[arg(long, global = true, env = "REFMOUNT_LOG_LEVEL", value_name = "LEVEL", default_value = "warn")]
    pub(super) log_level: String,
    /// How log lines look.
    #[arg(long, global = true, env = "REFMOUNT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One object on each line.
    Json,
}

/// How results look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// For people.
    Text,
    /// One document.
    Json,
}

/// When bytes are checked against the digest of their blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum VerifyArg {
    /// As soon as a blob is complete; until then its bytes may be read.
    OnComplete,
    /// Before the first byte of a file is served.
    BeforeRead,
}

/// When the registry is asked what a reference stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PullArg {
    /// At each mount.
    Always,
    /// When the cache does not know it.
    Missing,
    /// Not at all: what the cache does not know is an error.
    Never,
}

/// What is fetched without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PrefetchArg {
    /// Nothing but what lies ahead of a reader.
    Off,
    /// The rest of a file once it is plainly being read through.
    Auto,
    /// Everything.
    All,
}

/// How a directory is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PackFormat {
    /// One uncompressed layer for each file.
    Raw,
    /// One archive for each kind of files.
    Tar,
    /// The same, gzip-compressed.
    #[value(name = "tar+gzip")]
    TarGzip,
    /// The same, zstd-compressed.
    #[value(name = "tar+zstd")]
    TarZstd,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Mount an artifact read-only on a directory.
    Mount(MountArgs),
    /// Unmount; also mounts whose process has died.
    #[command(alias = "unmount")]
    Umount(UmountArgs),
    /// List the mounts of this machine that can be seen.
    List(ListArgs),
    /// Show what of a mount is cached, and what is known about it.
    Status(StatusArgs),
    /// Show what a reference leads to, and what each layer was taken for. Of a layer, its first and last bytes are fetched at
    /// most, and the index that it carries.
    Inspect(InspectArgs),
    /// List the files of an artifact. Layers that are files are not fetched; of archives, what tells their entries.
    Tree(TreeArgs),
    /// Write a file of an artifact to standard output.
    Cat(CatArgs),
    /// Make a ModelPack artifact from a directory.
    Pack(PackArgs),
    /// Own a cache directory as a service: serve its mounts until told to end.
    Daemon(DaemonArgs),
    /// Fetch an artifact, or parts of it, into the cache before anybody mounts it.
    Warm(WarmArgs),
    /// Look at the cache, empty it, or say what stays in it.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Have the process that serves the mounts replaced by another program, without a reader noticing.
    Upgrade(UpgradeArgs),
    /// Check what is needed of this machine and, for a reference, of its registries.
    Doctor(DoctorArgs),
    /// Print the completions of a shell.
    Completions(CompletionsArgs),
}

/// Serve the mounts of a cache directory; started by `mount`.
///
/// A grammar of its own, since a hidden command would still be offered by completions and in errors.
#[derive(Debug, Parser)]
#[command(name = "refmount owner", max_term_width = 100)]
pub(super) struct OwnerArguments {
    /// What holds for every command.
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    /// The bounds of the cache.
    #[command(flatten)]
    pub(super) limits: CacheLimitArgs,
    /// What can be watched.
    #[command(flatten)]
    pub(super) watch: WatchArgs,
}

/// How a registry is reached.
#[derive(Args, Clone, Debug)]
pub(super) struct SourceArgs {
    /// Speak plain HTTP to the registry, not only to loopback addresses.
    #[arg(long, env = "REFMOUNT_PLAIN_HTTP", value_parser = FalseyValueParser::new())]
    pub(super) plain_http: bool,
    /// Take credentials from this file alone [default: the files of podman and docker].
    #[arg(long, env = "REFMOUNT_AUTHFILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) authfile: Option<PathBuf>,
    /// How registries are reached: a registries.conf, or a directory such as containerd's certs.d [default: podman's, else
    /// containerd's].
    #[arg(long, env = "REFMOUNT_REGISTRY_CONFIG", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(super) registry_config: Option<PathBuf>,
    /// The platform wanted where there are several, or "all" for each in a directory of its own [default: this
    /// machine's].
    #[arg(long, env = "REFMOUNT_PLATFORM", value_name = "OS/ARCH[/VARIANT]|all")]
    pub(super) platform: Option<WantedPlatform>,
}

/// The bounds of a cache; they hold for its owner process from its start.
#[derive(Args, Clone, Debug)]
pub(super) struct CacheLimitArgs {
    /// How much the cache may hold [default: 50GiB].
    #[arg(long, env = "REFMOUNT_CACHE_SIZE", value_name = "SIZE")]
    pub(super) cache_size: Option<Size>,
    /// How much of the cache's file system stays free, as a size or a percentage [default: 5%].
    #[arg(long, env = "REFMOUNT_CACHE_MIN_FREE", value_name = "SIZE|PERCENT")]
    pub(super) cache_min_free: Option<Floor>,
}

/// What can be watched of an owner process; it holds from its start.
#[derive(Args, Clone, Debug)]
pub(super) struct WatchArgs {
    /// Tell metrics also over TCP, to anyone who reaches this address: /metrics, /healthz and /readyz.
    #[arg(long, env = "REFMOUNT_METRICS_ADDR", value_name = "ADDR:PORT")]
    pub(super) metrics_addr: Option<SocketAddr>,
}

/// Arguments of `mount`.
#[derive(Args, Debug)]
pub(super) struct MountArgs {
    /// Stay in the foreground until unmounted, or unmount on Ctrl-C.
    #[arg(short, long, env = "REFMOUNT_FOREGROUND", value_parser = FalseyValueParser::new())]
    pub(super) foreground: bool,
    /// Show only this directory or file of the artifact.
    #[arg(long, env = "REFMOUNT_SUBPATH", value_name = "PATH")]
    pub(super) subpath: Option<String>,
    /// The bounds of the cache.
    #[command(flatten)]
    pub(super) limits: CacheLimitArgs,
    /// What can be watched.
    #[command(flatten)]
    pub(super) watch: WatchArgs,
    /// When the registry is asked what the reference stands for. What is not cached is fetched in each case, when it is
    /// read.
    #[arg(long, env = "REFMOUNT_PULL", value_name = "WHEN", default_value = "always")]
    pub(super) pull: PullArg,
    /// When bytes are checked against the digest of their blob.
    #[arg(long, env = "REFMOUNT_VERIFY", value_name = "WHEN", default_value = "on-complete")]
    pub(super) verify: VerifyArg,
    /// What is fetched without being asked for.
    #[arg(long, env = "REFMOUNT_PREFETCH", value_name = "WHAT", default_value = "auto")]
    pub(super) prefetch: PrefetchArg,
    /// Let other users read, as the files' permissions say.
    #[arg(long, env = "REFMOUNT_ALLOW_OTHER", value_parser = FalseyValueParser::new())]
    pub(super) allow_other: bool,
    /// How many seconds a read may wait for bytes that do not come, before it fails.
    #[arg(long, env = "REFMOUNT_READ_TIMEOUT", value_name = "SECONDS", default_value = "100", value_parser = seconds)]
    pub(super) read_timeout: Duration,
    /// How the registry is reached.
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// What is mounted.
    #[arg(
        value_name = "REF",
        help = "HOST[:PORT]/REPO[:TAG][@DIGEST], oci:DIR[:TAG] or oci-archive:FILE[:TAG]"
    )]
    pub(super) reference: String,
    /// Where it is mounted: a directory, or a file if --subpath names one.
    #[arg(value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub(super) target: PathBuf,
}

/// Arguments of `daemon`.
#[derive(Args, Debug)]
pub(super) struct DaemonArgs {
    /// The bounds of the cache.
    #[command(flatten)]
    pub(super) limits: CacheLimitArgs,
    /// What can be watched.
    #[command(flatten)]
    pub(super) watch: WatchArgs,
    /// Mount again what was mounted when the last daemon ended, at the same digests.
    #[arg(long, env = "REFMOUNT_RESTORE", value_parser = FalseyValueParser::new())]
    pub(super) restore: bool,
    /// Leave the mounts to the next daemon on SIGTERM, rather than unmount them.
    #[arg(long, env = "REFMOUNT_KEEP_MOUNTS", value_parser = FalseyValueParser::new())]
    pub(super) keep_mounts: bool,
    /// Log to this file [default: standard error].
    #[arg(long, env = "REFMOUNT_LOG_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) log_file: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if (1..=86_400).contains(&seconds) => Ok(Duration::from_secs(seconds.into())),
        _ => Err("expected whole seconds from 1 to 86400".into()),
    }
}

/// Arguments of `umount`.
#[derive(Args, Debug)]
pub(super) struct UmountArgs {
    /// The mount points.
    #[arg(required = true, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub(super) targets: Vec<PathBuf>,
}

/// How a result looks.
#[derive(Args, Debug)]
pub(super) struct OutputArgs {
    /// How the result looks.
    #[arg(short, long, env = "REFMOUNT_OUTPUT", value_name = "FORMAT", default_value = "text")]
    pub(super) output: OutputFormat,
}

/// Arguments of `list`.
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The mount point.
    #[arg(value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub(super) target: PathBuf,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// What is looked at.
    #[arg(value_name = "REF")]
    pub(super) reference: String,
    /// How the registry is reached.
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `tree`.
#[derive(Args, Debug)]
pub(super) struct TreeArgs {
    /// What is looked at.
    #[arg(value_name = "REF")]
    pub(super) reference: String,
    /// Only this file, or this directory and what lies below it.
    pub(super) path: Option<String>,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
    /// How the registry is reached.
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Arguments of `cat`.
#[derive(Args, Debug)]
pub(super) struct CatArgs {
    /// What the file is part of.
    #[arg(value_name = "REF")]
    pub(super) reference: String,
    /// The file.
    pub(super) path: String,
    /// Only these bytes: A-B from A to B, both included; A- from A on; -N the last N.
    #[arg(long, env = "REFMOUNT_RANGE", value_name = "A-B", allow_hyphen_values = true)]
    pub(super) range: Option<RangeArg>,
    /// How the registry is reached.
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Arguments of `pack`.
#[derive(Args, Debug)]
pub(super) struct PackArgs {
    /// What is packed: every file below it.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) directory: PathBuf,
    /// Where the artifact goes: an OCI layout directory, made if it does not exist, and a tag.
    #[arg(value_name = "oci:LAYOUT[:TAG]")]
    pub(super) destination: String,
    /// How the files are packed.
    #[arg(long, env = "REFMOUNT_FORMAT", value_name = "FORMAT", default_value = "raw")]
    pub(super) format: PackFormat,
    /// How much is compressed, against time: 0 to 9 for gzip (6 if not given), 1 to 19 for zstd (3).
    #[arg(long, env = "REFMOUNT_LEVEL", value_name = "N")]
    pub(super) level: Option<u32>,
}

/// Arguments of `upgrade`.
#[derive(Args, Debug)]
pub(super) struct UpgradeArgs {
    /// The program that is to serve [default: this one].
    #[arg(long, env = "REFMOUNT_PROGRAM", value_name = "PATH", value_hint = ValueHint::ExecutablePath)]
    pub(super) program: Option<PathBuf>,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// What is to be mounted: its registries are asked too.
    #[arg(value_name = "REF")]
    pub(super) reference: Option<String>,
    /// The bounds that the cache would have.
    #[command(flatten)]
    pub(super) limits: CacheLimitArgs,
    /// Whether other users are to read.
    #[arg(long, env = "REFMOUNT_ALLOW_OTHER", value_parser = FalseyValueParser::new())]
    pub(super) allow_other: bool,
    /// How many seconds a read would wait for bytes that do not come.
    #[arg(long, env = "REFMOUNT_READ_TIMEOUT", value_name = "SECONDS", default_value = "100", value_parser = seconds)]
    pub(super) read_timeout: Duration,
    /// How the registry is reached.
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// The commands on the cache.
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Show how full the cache is.
    Info(ListArgs),
    /// List what the cache holds, by artifact.
    Ls(ListArgs),
    /// Keep an artifact, or parts of it, from being evicted: what is cached of it, and what will be.
    Pin(Box<PinArgs>),
    /// Take a pin back.
    Unpin(UnpinArgs),
    /// Drop what no mount uses.
    Prune(PruneArgs),
}

/// Which artifact is fetched or pinned, and which parts of it.
#[derive(Args, Debug)]
pub(super) struct ArtifactArgs {
    /// Only this directory or file of the artifact; may be given several times.
    #[arg(long = "subpath", env = "REFMOUNT_SUBPATH", value_name = "PATH")]
    pub(super) subpaths: Vec<String>,
    /// When the registry is asked what the reference stands for.
    #[arg(long, env = "REFMOUNT_PULL", value_name = "WHEN", default_value = "always")]
    pub(super) pull: PullArg,
    /// The bounds of the cache.
    #[command(flatten)]
    pub(super) limits: CacheLimitArgs,
    /// What can be watched.
    #[command(flatten)]
    pub(super) watch: WatchArgs,
    /// How the registry is reached.
    #[command(flatten)]
    pub(super) source: SourceArgs,
}

/// Arguments of `warm`.
#[derive(Args, Debug)]
pub(super) struct WarmArgs {
    /// What is fetched.
    #[arg(value_name = "REF", required_unless_present_any = ["list", "cancel"])]
    pub(super) reference: Option<String>,
    /// Which parts of it.
    #[command(flatten)]
    pub(super) artifact: ArtifactArgs,
    /// Stay until everything is there; otherwise only until it has begun.
    #[arg(long, env = "REFMOUNT_WAIT", value_parser = FalseyValueParser::new())]
    pub(super) wait: bool,
    /// List what is being fetched, and what was lately.
    #[arg(long, env = "REFMOUNT_LIST", value_parser = FalseyValueParser::new(), conflicts_with_all = ["reference", "cancel"])]
    pub(super) list: bool,
    /// End the one of this number. What it has fetched stays.
    #[arg(long, env = "REFMOUNT_CANCEL", value_name = "ID", conflicts_with = "reference")]
    pub(super) cancel: Option<u64>,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `cache pin`.
#[derive(Args, Debug)]
pub(super) struct PinArgs {
    /// What stays.
    #[arg(value_name = "REF")]
    pub(super) reference: String,
    /// Which parts of it.
    #[command(flatten)]
    pub(super) artifact: ArtifactArgs,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `cache unpin`.
#[derive(Args, Debug)]
pub(super) struct UnpinArgs {
    /// By which reference it was pinned, or its digest.
    #[arg(value_name = "REF|DIGEST")]
    pub(super) reference: String,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `cache prune`.
#[derive(Args, Debug)]
pub(super) struct PruneArgs {
    /// Drop also what mounts have cached, except what is being read.
    #[arg(long, env = "REFMOUNT_ALL", value_parser = FalseyValueParser::new())]
    pub(super) all: bool,
    /// How the result looks.
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_parser = clap::builder::EnumValueParser::<CompletionShell>::new())]
    pub(super) shell: CompletionShell,
}

/// The shells that there are completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CompletionShell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

impl From<CompletionShell> for Shell {
    fn from(shell: CompletionShell) -> Self {
        match shell {
            CompletionShell::Bash => Self::Bash,
            CompletionShell::Zsh => Self::Zsh,
            CompletionShell::Fish => Self::Fish,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
        OwnerArguments::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_environment_variable() {
        fn check(command: &clap::Command) {
            for option in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let long = option.get_long().unwrap();
                if matches!(long, "help" | "version") {
                    continue;
                }
                let expected = format!("REFMOUNT_{}", long.to_uppercase().replace('-', "_"));
                let found = option.get_env().and_then(|name| name.to_str());
                assert_eq!(found, Some(expected.as_str()), "{} --{long}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
        check(&OwnerArguments::command());
    }
}
