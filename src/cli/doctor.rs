//! `doctor`: what refmount needs of this machine and, for a reference, of its registries; and what to do where
//! something is missing.
//!
//! A check tries what a mount would do and changes nothing that stays. Each has a time limit, so that the command ends
//! whatever hangs. It succeeds where nothing is an error: warnings and notes are things that work, but worse.

mod disk;
mod finding;
mod host;
mod kernel;
mod reference;
mod speed;

use std::time::Duration;

use crate::base::ErrorKind;

use super::args::{DoctorArgs, GlobalArgs, OutputFormat};
use super::exit::Failure;
use super::output::{print, print_json};
use super::{log, settings};

use finding::{Finding, Level, text_of};

/// How long one check of this machine may take. They are system calls, which only hang where a disk or a server of
/// files does.
const LOCAL_LIMIT: Duration = Duration::from_secs(10);

/// Runs the checks and prints what they found.
///
/// # Errors
/// `Usage` for a malformed reference; a failure with status 1 after a finding that is an error.
pub(super) async fn run(global: &GlobalArgs, arguments: &DoctorArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let reference = arguments.reference.as_deref().map(settings::reference).transpose()?;
    let options = settings::source(&arguments.source)?;
    let cache = settings::cache(global, &arguments.limits)?;
    let is_text = arguments.output.output == OutputFormat::Text;
    let mut all = Vec::new();
    let mut show = |found: Vec<Finding>| {
        let printed = if is_text { print(&text_of(&found)) } else { Ok(()) };
        all.extend(found);
        printed
    };
    let (allow_other, read_timeout) = (arguments.allow_other, arguments.read_timeout);
    show(within("kernel", move || kernel::check(allow_other, read_timeout)).await)?;
    show(disk::check(cache).await)?;
    if let Some(reference) = &reference {
        show(reference::check(reference, &arguments.source, options).await)?;
    }
    if !is_text {
        print_json(&all)?;
    }
    match all.iter().any(|finding| finding.level == Level::Error) {
        true => Err(Failure::Reported(ErrorKind::Io)),
        false => Ok(()),
    }
}

/// What `check` finds about `subject`; on a thread that is left behind where it hangs.
async fn within(subject: &str, check: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Vec<Finding> {
    match tokio::time::timeout(LOCAL_LIMIT, tokio::task::spawn_blocking(check)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => vec![Finding::error("doctor", subject, format!("a check failed: {error}"))],
        Err(_) => {
            let text = format!("no answer within {} s", LOCAL_LIMIT.as_secs());
            let remedy = "see which disk or server of files hangs; `dmesg` may name it";
            vec![Finding::error("doctor", subject, text).remedy(remedy)]
        }
    }
}
