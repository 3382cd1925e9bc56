//! The command line: arguments become settings, settings become commands.
//!
//! A command prints its result on standard output and nothing else there; warnings, progress and errors go to
//! standard error. Its exit status follows from the kind of its error alone.

mod args;

mod cache;
mod cat;
mod config;
mod daemon;
mod doctor;
mod environment;
mod exit;
mod inspect;
mod log;
mod mount;
mod mounts;
mod output;
mod pack;
mod pending;
mod pins;
mod progress;
mod registry_files;
mod settings;
mod size;
mod source;
mod tree;
mod upgrade;
mod warm;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::base::{Error, ResultExt as _};
use crate::daemon::upgrade::{HANDOVER_VERSION, Handover};
use crate::daemon::watch;
use crate::keeper::{self, Keeper};

use args::{Arguments, Command, CompletionsArgs, OwnerArguments};
use exit::Failure;

/// Runs the command that `arguments`, the first of them the program's name, ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let first = arguments.get(1).cloned().unwrap_or_default();
    if first == settings::OWNER {
        // Small, and without any of what follows: it may live for months.
        return match mount::hold_in_background(arguments.split_off(2)) {
            Ok(status) => status.into(),
            Err(error) => exit::finish(Err(error.into())),
        };
    }
    if first == watch::READ_PROBE {
        return watch::probe_reads(arguments.split_off(2));
    }
    let second = arguments.get(2);
    let asks_for_handover = second.is_some_and(|second| second == HANDOVER_VERSION);
    let is_service = second.is_some_and(|second| second == daemon::DAEMON);
    let result = if first == keeper::SERVER && asks_for_handover {
        Ok(output::print_json(&Handover::own()))
    } else if first == keeper::SERVER && is_service {
        // What follows is what the holder was started with.
        arguments.drain(1..=2);
        serve_as_service(arguments)
    } else if first == keeper::SERVER {
        arguments.remove(1);
        parse::<OwnerArguments>(arguments, &Vec::new())
            .map(|owner| wait_for(mount::serve_held(&owner)))
            .map_err(Unparsed::Usage)
    } else {
        let typed = arguments.clone();
        match parse_with_file(arguments) {
            Ok(Arguments { global, command: Command::Daemon(_) }) => {
                return match daemon::hold(&global, typed) {
                    Ok(status) => status.into(),
                    Err(error) => exit::finish(Err(error.into())),
                };
            }
            parsed => parsed.map(|arguments| dispatch(&arguments)),
        }
    };
    match result {
        Ok(result) => exit::finish(result),
        Err(Unparsed::File(error)) => exit::finish(Err(error.into())),
        Err(Unparsed::Usage(error)) => {
            // Help and version are no errors. Where they can't be printed, nobody wants them.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(2).into()
        }
    }
}

/// Why there are no arguments.
enum Unparsed {
    /// What was typed makes no sense, or help was asked for.
    Usage(clap::Error),
    /// The configuration file does not.
    File(Error),
}

/// What `arguments` say, and for what they do not say, the configuration file.
fn parse_with_file(arguments: Vec<OsString>) -> Result<Arguments, Unparsed> {
    // Once without the file, to know which one it is.
    let first: Arguments = parse(arguments.clone(), &Vec::new()).map_err(Unparsed::Usage)?;
    let named = first.global.config.as_deref();
    match config::read(named, &Arguments::command()).map_err(Unparsed::File)? {
        defaults if defaults.is_empty() => Ok(first),
        defaults => parse(arguments, &defaults).map_err(Unparsed::Usage),
    }
}

/// Serves as a service, for the holder that has started this process. A configuration file that makes no sense any more is
/// no reason to lose what is mounted: what it said before holds on then.
fn serve_as_service(arguments: Vec<OsString>) -> Result<Result<(), Failure>, Unparsed> {
    let held = Keeper::inherit().and_then(|held| held.ok_or_else(daemon::not_by_hand));
    let (keeper, mut inherited) = match held {
        Ok(held) => held,
        Err(error) => return Ok(Err(error.into())),
    };
    let kept = inherited.kept.remove(daemon::OPTIONS).and_then(|mut kept| config::of_kept(kept.pop()?));
    let first: Arguments = parse(arguments.clone(), &Vec::new()).map_err(Unparsed::Usage)?;
    let read = config::read(first.global.config.as_deref(), &Arguments::command());
    let (defaults, complaint) = match (read, kept) {
        (Ok(defaults), _) => (defaults, None),
        (Err(error), Some(kept)) => (kept, Some(error)),
        (Err(error), None) => return Err(Unparsed::File(error)),
    };
    let parsed: Arguments = parse(arguments, &defaults).map_err(Unparsed::Usage)?;
    let Command::Daemon(daemon) = &parsed.command else { return Ok(Err(daemon::not_by_hand().into())) };
    let options = daemon::Options { defaults, complaint };
    Ok(wait_for(daemon::serve(&parsed.global, daemon, options, keeper, inherited)))
}

fn parse<T: CommandFactory + FromArgMatches>(
    arguments: Vec<OsString>,
    defaults: &config::Defaults,
) -> Result<T, clap::Error> {
    let is_set = |name: &OsStr| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let command = config::apply(defaults, T::command());
    let matches = environment::of_variables_that_are(is_set, command).try_get_matches_from(arguments)?;
    T::from_arg_matches(&matches)
}

fn dispatch(arguments: &Arguments) -> Result<(), Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Mount(mount) => wait_for(mount::run(global, mount)),
        Command::Umount(umount) => wait_for(mounts::umount(global, umount)),
        Command::List(list) => wait_for(mounts::list(global, list)),
        Command::Status(status) => wait_for(mounts::status(global, status)),
        Command::Inspect(inspect) => wait_for(inspect::run(global, inspect)),
        Command::Tree(tree) => wait_for(tree::run(global, tree)),
        Command::Cat(cat) => wait_for(cat::run(global, cat)),
        Command::Pack(pack) => pack::run(global, pack),
        // It is taken care of before.
        Command::Daemon(_) => Ok(()),
        Command::Warm(warm) => wait_for(warm::run(global, warm)),
        Command::Cache(cache) => wait_for(cache::run(global, cache)),
        Command::Upgrade(upgrade) => wait_for(upgrade::run(global, upgrade)),
        Command::Doctor(doctor) => wait_for(doctor::run(global, doctor)),
        Command::Completions(completions) => complete(completions),
    }
}

/// Runs a command that waits for the network or for others.
fn wait_for(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(|| "cannot start the threads of the program")?;
    let result = runtime.block_on(command);
    // What still waits for a disk or a dead mount must not hold up the end.
    runtime.shutdown_background();
    result
}

fn complete(arguments: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    let shell = clap_complete::Shell::from(arguments.shell);
    clap_complete::generate(shell, &mut Arguments::command(), "refmount", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
