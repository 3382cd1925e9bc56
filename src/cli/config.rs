//! The configuration file: what options are where neither the command line nor the environment says otherwise.
//!
//! A key is an option without its dashes, and holds for every command that has it, so that `mount` and the daemon that
//! it asks agree about the cache. The values go through the options' own parsers. What is not understood is an error
//! with file and line, and never as good as absent.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Arg;
use toml::de::{DeTable, DeValue};

use crate::base::{Error, ErrorKind, Result};
use crate::keeper::note;

/// Bytes of a file: one with every key and its explanation has a twentieth of that.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `true` or `false`.
    Flag,
    /// A string.
    Text,
    /// A string that is an absolute path: the file does not know from where it is read.
    Path,
    /// A string, or a number without a unit.
    Number,
}

/// Every key.
const KEYS: [(&str, Kind); 17] = [
    ("cache-dir", Kind::Path),
    ("cache-size", Kind::Number),
    ("cache-min-free", Kind::Number),
    ("metrics-addr", Kind::Text),
    ("log-level", Kind::Text),
    ("log-format", Kind::Text),
    ("log-file", Kind::Path),
    ("restore", Kind::Flag),
    ("keep-mounts", Kind::Flag),
    ("pull", Kind::Text),
    ("verify", Kind::Text),
    ("prefetch", Kind::Text),
    ("allow-other", Kind::Flag),
    ("read-timeout", Kind::Number),
    ("authfile", Kind::Path),
    ("registry-config", Kind::Path),
    ("platform", Kind::Text),
];

/// What a file says: the option and its value, as it would be typed.
pub(super) type Defaults = Vec<(&'static str, String)>;

/// The file that is read unless another one is named.
#[must_use]
pub(super) fn default_path(is_root: bool, environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if is_root {
        return Some("/etc/refmount/config.toml".into());
    }
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("refmount/config.toml"))
}

/// Reads the file that is `named`, or the default one if it is there, for the options of `command`.
///
/// # Errors
/// `Usage`, with file and line, for what is no configuration; `NotFound` for a named file that is not there; `Io`.
pub(super) fn read(named: Option<&Path>, command: &clap::Command) -> Result<Defaults> {
    let is_root = rustix::process::geteuid().is_root();
    let path = match named {
        Some(named) => Some(named.to_owned()),
        None => default_path(is_root, |name| std::env::var_os(name)),
    };
    let Some(path) = path else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    let opened = File::open(&path);
    match opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)) {
        Ok(_) => parse(&path, bytes, command),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(Vec::new()),
        Err(error) => {
            Err(Error::from(error).context(format!("cannot read the configuration {}", path.display())))
        }
    }
}

/// A file without a name that holds `defaults`, for the next process.
///
/// # Errors
/// `Io` when it cannot be made.
pub(super) fn kept(defaults: &Defaults) -> Result<File> {
    note::write("configuration", defaults)
}

/// What is in such a file. Keys that are none any more are passed over.
pub(super) fn of_kept(file: OwnedFd) -> Option<Defaults> {
    let kept: Vec<(String, String)> = note::read(file).ok()?;
    let known = |(key, typed)| Some((KEYS.iter().find(|(name, _)| *name == key)?.0, typed));
    Some(kept.into_iter().filter_map(known).collect())
}

fn parse(path: &Path, bytes: Vec<u8>, command: &clap::Command) -> Result<Defaults> {
    let bad = |place: &dyn std::fmt::Display, why: &str| {
        let text = format!("bad configuration in {}{place}: {why}", path.display());
        Error::new(ErrorKind::Usage, text)
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(bad(&"", &format!("it is longer than {} KiB", FILE_BYTES_MAX >> 10)));
    }
    let text = String::from_utf8(bytes).map_err(|_| bad(&"", "it is not UTF-8; save it in that encoding"))?;
    let at = |bytes: Range<usize>, why: &str| {
        let before = text.as_bytes().get(..bytes.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        bad(&format_args!(", line {line}"), why)
    };
    let table = DeTable::parse(&text).map_err(|error| {
        at(error.span().unwrap_or_default(), &error.message().trim_end().replace('\n', ", "))
    })?;
    let mut defaults = Vec::new();
    for (key, value) in table.get_ref() {
        let Some((name, kind)) = KEYS.into_iter().find(|(name, _)| name == key.get_ref()) else {
            let known = KEYS.map(|(name, _)| name).join(", ");
            return Err(at(key.span(), &format!("there is no key {:?}; there are {known}", key.get_ref())));
        };
        let typed = typed(kind, value.get_ref()).map_err(|why| at(value.span(), &format!("{name} {why}")))?;
        if kind != Kind::Flag
            && let Some(option) = option(command, name)
        {
            check(option, &typed).map_err(|why| at(value.span(), &why))?;
        }
        defaults.push((name, typed));
    }
    Ok(defaults)
}

/// A value as it would be typed, or what it has to be.
fn typed(kind: Kind, value: &DeValue<'_>) -> std::result::Result<String, &'static str> {
    match (kind, value) {
        (Kind::Flag, DeValue::Boolean(flag)) => Ok(flag.to_string()),
        (Kind::Flag, _) => Err("has to be true or false"),
        (Kind::Text | Kind::Number, DeValue::String(text)) => Ok(text.to_string()),
        (Kind::Text, _) => Err("has to be a string"),
        (Kind::Number, DeValue::Integer(number)) => u64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "has to be positive"),
        (Kind::Number, _) => Err("has to be a number, or a string with a number and its unit"),
        (Kind::Path, DeValue::String(text)) if Path::new(text.as_ref()).is_absolute() => Ok(text.to_string()),
        (Kind::Path, _) => Err("has to be a string with an absolute path"),
    }
}

/// The option of this name, of whichever command.
fn option<'a>(command: &'a clap::Command, name: &str) -> Option<&'a Arg> {
    let own = command.get_arguments().find(|argument| argument.get_long() == Some(name));
    own.or_else(|| command.get_subcommands().find_map(|subcommand| option(subcommand, name)))
}

/// Whether `option` takes `typed`; otherwise what it says, as one line.
fn check(option: &Arg, typed: &str) -> std::result::Result<(), String> {
    let name = option.get_long().unwrap_or_default();
    let alone = clap::Command::new("config").no_binary_name(true).arg(option.clone().env(None::<&str>));
    alone.try_get_matches_from([format!("--{name}={typed}")]).map(drop).map_err(|error| {
        let said = error.to_string();
        let first = said.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        first.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// `command`, and its subcommands, with these defaults of their options.
#[must_use]
pub(super) fn apply(defaults: &Defaults, command: clap::Command) -> clap::Command {
    let value = |option: &Arg| {
        defaults.iter().find(|(name, _)| option.get_long() == Some(name)).map(|(_, typed)| typed.clone())
    };
    command
        .mut_args(|option| match value(&option) {
            Some(typed) => option.default_value(typed),
            None => option,
        })
        .mut_subcommands(|subcommand| apply(defaults, subcommand))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};

    use super::*;
    use crate::cli::args::{Arguments, Command, PullArg};
    use crate::cli::size::{Floor, Size};

    fn parsed(text: &str) -> Result<Defaults> {
        parse(Path::new("/c.toml"), text.into(), &Arguments::command())
    }

    fn arguments(text: &str, typed: &[&str]) -> Arguments {
        let command = apply(&parsed(text).unwrap(), Arguments::command());
        Arguments::from_arg_matches(&command.try_get_matches_from(typed).unwrap()).unwrap()
    }

    #[test]
    fn every_key_is_an_option_of_the_same_kind() {
        let command = Arguments::command();
        for (name, kind) in KEYS {
            let option = option(&command, name).unwrap_or_else(|| panic!("there is no --{name}"));
            assert_eq!(option.get_action().takes_values(), kind != Kind::Flag, "{name}");
        }
    }

    #[test]
    fn every_option_of_the_daemon_has_its_key() {
        let command = Arguments::command();
        let daemon = command.find_subcommand("daemon").unwrap();
        for option in daemon.get_arguments().chain(command.get_arguments()) {
            let Some(name) = option.get_long().filter(|name| !["config", "help", "version"].contains(name))
            else {
                continue;
            };
            assert!(KEYS.iter().any(|(key, _)| *key == name), "{name} is no key");
        }
    }

    #[test]
    fn what_is_typed_counts_before_what_the_file_says() {
        let text = "cache-dir = '/c'\ncache-size = '1GiB'\ncache-min-free = 7\npull = 'missing'\nallow-other = true\n\
                    read-timeout = 5\nkeep-mounts = true";
        let parsed = arguments(text, &["refmount", "mount", "--pull=never", "oci:/a", "/m"]);
        assert_eq!(parsed.global.cache_dir, Some("/c".into()));
        let Command::Mount(mount) = parsed.command else { panic!() };
        assert_eq!((mount.pull, mount.allow_other), (PullArg::Never, true));
        assert_eq!(mount.limits.cache_size, Some(Size(1 << 30)));
        assert_eq!(mount.limits.cache_min_free, Some(Floor::Bytes(7)));
        assert_eq!(mount.read_timeout.as_secs(), 5);
        let Command::Daemon(daemon) = arguments(text, &["refmount", "daemon"]).command else { panic!() };
        assert!(daemon.keep_mounts && !daemon.restore);
        let no = arguments("keep-mounts = false", &["refmount", "daemon"]).command;
        assert!(matches!(no, Command::Daemon(daemon) if !daemon.keep_mounts));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, line, why) in [
            ("\ncach-size = 1", 2, "there is no key \"cach-size\"; there are cache-dir"),
            ("pull = 'missing'\npull = 'never'", 2, "duplicate key"),
            ("restore = 'yes'", 1, "restore has to be true or false"),
            ("# x\ncache-size = '1 potato'", 2, "is no size"),
            ("cache-size = -1", 1, "has to be positive"),
            ("cache-size = 1.5", 1, "has to be a number"),
            ("authfile = 'auth.json'", 1, "absolute path"),
            ("pull = 3", 1, "has to be a string"),
            ("pull = 'sometimes'", 1, "possible values: always, missing, never"),
            ("read-timeout = 0", 1, "whole seconds"),
            ("[mount]\npull = 'never'", 1, "there is no key \"mount\""),
            ("a = \n", 1, ""),
        ] {
            let error = parsed(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            let shown = error.chain();
            let place = format!("bad configuration in /c.toml, line {line}: ");
            assert!(shown.starts_with(&place) && shown.contains(why), "{text:?}: {shown}");
            assert!(!shown.contains('\n'), "{shown}");
        }
    }

    #[test]
    fn the_packaged_file_has_every_key() {
        let text = include_str!("../../packaging/config.toml");
        let commented = |line: &str| KEYS.iter().any(|(name, _)| line.starts_with(&format!("#{name} = ")));
        let lines = text.lines().map(|line| if commented(line) { &line[1..] } else { line });
        let defaults = parsed(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        for (name, _) in KEYS {
            assert!(defaults.iter().any(|(there, _)| *there == name), "{name} is missing");
        }
        parsed(text).unwrap();
    }

    #[test]
    fn a_file_that_is_named_has_to_be_there() {
        let command = Arguments::command();
        let error = read(Some(Path::new("/nowhere/c.toml")), &command).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.chain().contains("/nowhere/c.toml"), "{error}");
        assert_eq!(read(Some(Path::new("/dev/null")), &command).unwrap(), []);
        let environment = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        let path = |is_root, pairs| default_path(is_root, environment(pairs));
        assert_eq!(path(true, &[("HOME", "/root")]), Some("/etc/refmount/config.toml".into()));
        assert_eq!(path(false, &[("HOME", "/h")]), Some("/h/.config/refmount/config.toml".into()));
        let both = &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")];
        assert_eq!(path(false, both), Some("/x/refmount/config.toml".into()));
    }
}
