//! The command line: arguments become settings, settings become commands.
//!
//! A command prints its result on standard output and nothing else there; warnings, progress and errors go to
//! standard error. Its exit status follows from the kind of its error alone.

mod args;

mod cache;
mod cat;
mod doctor;
mod environment;
mod exit;
mod inspect;
mod log;
mod mount;
mod mounts;
mod output;
mod pack;
mod progress;
mod registry_files;
mod settings;
mod size;
mod source;
mod tree;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::base::ResultExt as _;
use crate::keeper;

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
    let result = if first == keeper::SERVER {
        arguments.remove(1);
        parse::<OwnerArguments>(arguments)
            .map(|owner| wait_for(mount::serve_held(&owner.global, &owner.limits)))
    } else {
        parse::<Arguments>(arguments).map(|arguments| dispatch(&arguments))
    };
    match result {
        Ok(result) => exit::finish(result),
        Err(error) => {
            // Help and version are no errors. Where they can't be printed, nobody wants them.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(2).into()
        }
    }
}

fn parse<T: CommandFactory + FromArgMatches>(arguments: Vec<OsString>) -> Result<T, clap::Error> {
    let is_set = |name: &OsStr| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let matches = environment::of_variables_that_are(is_set, T::command()).try_get_matches_from(arguments)?;
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
        Command::Cache(cache) => wait_for(cache::run(global, cache)),
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
