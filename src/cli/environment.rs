//! Options as environment variables: an empty one counts as not given, as it does in shells and in other programs.

use std::ffi::OsStr;

/// `command`, with only those environment variables for its options, and for those of its subcommands, that `is_set`.
#[must_use]
pub(super) fn of_variables_that_are(
    is_set: impl Fn(&OsStr) -> bool,
    command: clap::Command,
) -> clap::Command {
    without_unset(&is_set, command)
}

fn without_unset(is_set: &dyn Fn(&OsStr) -> bool, command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| match argument.get_env() {
            Some(name) if !is_set(name) => argument.env(None::<&'static str>),
            _ => argument,
        })
        .mut_subcommands(|subcommand| without_unset(is_set, subcommand))
}
