//! `upgrade`: another program goes on with what is mounted.

use std::time::Duration;

use tokio::time::sleep;

use crate::base::{Error, ErrorKind, Result, ResultExt as _, clock};
use crate::cache::CachePaths;
use crate::daemon::Client;
use crate::daemon::api::OwnerInfo;
use crate::daemon::bodies::UpgradeRequest;
use crate::daemon::client::Unanswered;
use crate::daemon::upgrade::UpgradeBegun;

use super::args::{GlobalArgs, UpgradeArgs};
use super::exit::Failure;
use super::output::print;
use super::{log, settings};

/// How long it may take until another process answers: leaving, a program that does not come to serve, and the one
/// before it coming back. Together they are given 35 seconds by the holder.
const UPGRADE_LIMIT: Duration = Duration::from_secs(90);

/// How often it is asked whether another process answers.
const PAUSE: Duration = Duration::from_millis(20);

/// Has the owner's server replaced, and says by what.
///
/// # Errors
/// `NotFound` when nothing serves; what the owner answered; `Io` when the program did not come to serve.
pub(super) async fn run(global: &GlobalArgs, arguments: &UpgradeArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let program = match &arguments.program {
        Some(program) => {
            std::path::absolute(program).context(|| format!("bad --program {}", program.display()))?
        }
        None => std::env::current_exe().context(|| "cannot find the path of this program")?,
    };
    let cache_dir = settings::cache_dir(global)?;
    let client = Client::new(&CachePaths::new(&cache_dir).control_socket())?;
    let begun = client.upgrade(&UpgradeRequest { program }).await.map_err(|unanswered| match unanswered {
        Unanswered::Failed(error) => error,
        Unanswered::NoOwner(error) => {
            let text = format!(
                "nothing serves with the cache {} ({}); what is started next is the program that starts it",
                cache_dir.display(),
                error.chain()
            );
            Error::new(ErrorKind::NotFound, text)
        }
    })?;
    let info = next_to_answer(&client, &begun).await?;
    if let Some(why) = info.went_back {
        let text = format!("{why}; refmount {} serves on, and everything is mounted", info.version);
        return Err(Error::new(ErrorKind::Io, text).into());
    }
    print(&format!("upgraded from {} to {}\n", begun.from, info.version))
}

async fn next_to_answer(client: &Client, begun: &UpgradeBegun) -> Result<OwnerInfo> {
    let deadline = clock::now() + UPGRADE_LIMIT;
    loop {
        match client.version().await {
            Ok(info) if info.server_pid != Some(begun.server_pid) => return Ok(info),
            Ok(_) | Err(_) if clock::now() < deadline => sleep(PAUSE).await,
            Ok(_) => {
                let text = "the process that serves has not left; its log (owner.log) says why";
                return Err(Error::new(ErrorKind::TimedOut, text));
            }
            Err(unanswered) => return Err(unanswered.into()),
        }
    }
}
