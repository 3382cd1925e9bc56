//! The refmount command.

use std::process::ExitCode;

fn main() -> ExitCode {
    refmount::cli::run(std::env::args_os())
}
