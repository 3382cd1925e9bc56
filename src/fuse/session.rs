//! The threads that serve one mount.

use std::fs::File;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};
use tokio::sync::watch;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

use super::adapter::Adapter;
use super::attachment::Attachment;
use super::invalidate::{self, NotifierSlot};

/// Fewer would let one slow disk read stop all others; more than this many only contend for the kernel's
/// queue, since a thread never waits for the network.
const THREADS: std::ops::RangeInclusive<usize> = 2..=8;

/// Greets the kernel and serves `device` until the mount is gone; what is returned turns `true` then.
pub(super) fn serve(
    adapter: Adapter,
    device: OwnedFd,
    attachment: Arc<Attachment>,
) -> Result<watch::Receiver<bool>> {
    let filesystem = Arc::clone(adapter.filesystem());
    // Who may look is the kernel's business (`allow_other`), which knows user namespaces and mapped users;
    // fuser's own check compares bare numbers.
    let session = Session::from_fd(adapter, device, SessionACL::All, config())
        .map_err(|error| Error::new(ErrorKind::Io, format!("the kernel's greeting failed: {error}")))?;
    let slot = NotifierSlot::new(session.notifier());
    let (sender, ended) = watch::channel(false);
    invalidate::watch(&filesystem, slot.clone())?;
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || {
            let served = session.run();
            slot.close();
            match served {
                Err(error) if !is_end(&error) => {
                    tracing::error!(mountpoint = %attachment.target().display(), "serving ended: {error}");
                }
                _ => {}
            }
            // Gone in most cases; after a failure or an abort it would answer ENOTCONN for ever.
            if let Err(error) = attachment.detach_if_left() {
                tracing::warn!("a mount stays behind: {}", error.chain());
            }
            sender.send_replace(true);
        })
        .context(|| "cannot start a thread")?;
    Ok(ended)
}

/// How the kernel ends a connection: by unmounting, or by cutting it off after a lazy unmount.
fn is_end(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NODEV | Errno::NOTCONN | Errno::CONNABORTED)
    )
}

fn config() -> Config {
    let cores = std::thread::available_parallelism().map_or(*THREADS.start(), NonZero::get);
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(cores.clamp(*THREADS.start(), *THREADS.end()));
    // A queue for each thread. fuser opens the device again for it, which not every user may.
    config.clone_fd = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    config
}
