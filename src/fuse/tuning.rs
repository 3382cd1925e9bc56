//! What is settled with the kernel beyond the protocol's defaults: capabilities, read-ahead, limits.

use std::io::Write as _;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

use crate::base::CHUNK_BYTES;

use super::greeting::Greeting;

/// What makes reading faster or names cheaper; each is taken where the kernel has it.
///
/// Not wanted: invalidation of pages when a time or size changes (nothing changes), and handles for NFS
/// export (a name is needed to get in). Nor `FUSE_READDIRPLUS_AUTO`, with which the kernel asks for names alone from
/// the second page of a directory on: whoever wants attributes too (`ls -l`, `find -printf`) then asks for each entry, in
/// 25 µs or so. The price is paid by whoever wants names alone: the first time some 2 µs, and about 1 KiB of the
/// kernel's memory that it may take back, for each.
const CAPABILITIES: [InitFlags; 11] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_NO_EXPORT_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // Needs `default_permissions`, which every mount of ours has.
    InitFlags::FUSE_ALLOW_IDMAP,
];

/// Read-ahead requests that the kernel may have under way. Eight readers of 16 requests each; the default
/// of 16 lets one slow read-ahead hold up all others.
const BACKGROUND_MAX: u16 = 128;

/// From here on the kernel reads less ahead. Three quarters, as the kernel's own default has it.
const CONGESTION_THRESHOLD: u16 = 96;

/// Read-ahead of the mount, which also bounds the size of a request; the default is 128.
const READ_AHEAD_KIB: u64 = CHUNK_BYTES / 1024;

/// Directory of the kernel's limits on FUSE.
const LIMITS: &str = "/proc/sys/fs/fuse";

/// What the library asks for by itself, of which later processes have to know too.
const OF_LIBRARY: InitFlags = InitFlags::FUSE_ASYNC_READ.union(InitFlags::FUSE_BIG_WRITES);

/// Applies all of it to `config`; returns whether files can be handed to the kernel, and what the kernel said.
pub(super) fn configure(config: &mut KernelConfig) -> (bool, Greeting) {
    let offered = config.capabilities();
    let mut agreed = offered & OF_LIBRARY;
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            tracing::debug!(?capability, "the kernel lacks a capability");
        }
        agreed |= offered & capability;
    }
    let bytes_max = u32::try_from(CHUNK_BYTES).unwrap_or(u32::MAX);
    // It also decides how many pages a read may have.
    let refused = [
        config.set_max_write(bytes_max).err(),
        config.set_max_background(BACKGROUND_MAX).err().map(u32::from),
        config.set_congestion_threshold(CONGESTION_THRESHOLD).err().map(u32::from),
    ];
    if refused.iter().any(Option::is_some) {
        tracing::debug!(?refused, "a limit was refused; the default stays");
    }
    // The kernel offers its default, 128 KiB; see `raise_read_ahead`.
    let max_readahead = config.set_max_readahead(u32::MAX).err().unwrap_or(bytes_max);
    if let Err(highest) = config.set_max_readahead(bytes_max) {
        tracing::debug!(highest, "read-ahead as the kernel offers it");
    }
    // A depth of 1 leaves room for an overlay file system above.
    let passthrough =
        config.set_max_stack_depth(1).is_ok() && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
    agreed |= offered & InitFlags::FUSE_PASSTHROUGH;
    let version = config.kernel_abi();
    let greeting =
        Greeting { major: version.0, minor: version.1, max_readahead, capabilities: agreed.bits() };
    (passthrough, greeting)
}

/// Raises the read-ahead of the mount with number `device` above what the handshake allows. Needs root and
/// a writable sysfs; without it requests are smaller.
pub(super) fn raise_read_ahead((major, minor): (u32, u32)) {
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let raised = std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(READ_AHEAD_KIB.to_string().as_bytes()));
    if let Err(error) = raised {
        tracing::debug!("read-ahead stays as it is: {path}: {error}");
    }
}

/// The time after which the kernel of this machine aborts a mount that leaves a request unanswered, if it
/// does that at all (`fs.fuse.default_request_timeout` and `fs.fuse.max_request_timeout`).
#[must_use]
pub fn request_timeout() -> Option<Duration> {
    effective_timeout(limit("default_request_timeout"), limit("max_request_timeout"))
}

/// After which a read is answered where the kernel aborts a mount after `timeout`.
#[must_use]
pub fn answer_limit(timeout: Duration) -> Duration {
    // The kernel counts from when it made the request, and looks every few seconds.
    timeout * 3 / 4
}

/// After which a read has to be answered so that the kernel does not abort the mount; warns where that
/// applies.
pub(super) fn read_limit() -> Option<Duration> {
    let timeout = request_timeout()?;
    let limit = answer_limit(timeout);
    tracing::warn!(
        "this machine aborts a FUSE mount that leaves a request unanswered for {} s (sysctl \
         fs.fuse.max_request_timeout), so a read fails after {} s",
        timeout.as_secs(),
        limit.as_secs(),
    );
    Some(limit)
}

fn effective_timeout(default: Option<Duration>, max: Option<Duration>) -> Option<Duration> {
    match (default, max) {
        (Some(default), Some(max)) => Some(default.min(max)),
        (only, None) | (None, only) => only,
    }
}

/// A limit in seconds; 0 is none, and so is a kernel without it.
fn limit(name: &str) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("{LIMITS}/{name}")).ok()?;
    let seconds: u64 = text.trim().parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_timeout_counts() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(effective_timeout(None, None), None);
        assert_eq!(effective_timeout(None, seconds(60)), seconds(60));
        assert_eq!(effective_timeout(seconds(60), None), seconds(60));
        assert_eq!(effective_timeout(seconds(90), seconds(60)), seconds(60));
    }
}
