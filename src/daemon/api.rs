//! What travels over the control socket, beside the bodies of requests ([`super::bodies`]). Version 1; fields are added,
//! never changed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Digest, Error, ErrorKind};
use crate::cache::{FreeSpaceFloor, PinnedArtifact};
use crate::mount::{ArtifactRequest, MountRequest, held};
use crate::registry::SourceOptions;

use super::unrestored::Unrestored;

/// GET: [`OwnerInfo`].
pub const VERSION: &str = "/v1/version";
/// GET: a list of [`crate::mount::MountSummary`]. POST [`MountBody`][super::bodies::MountBody]: one. DELETE with [`TargetQuery`].
pub const MOUNTS: &str = "/v1/mounts";
/// GET with [`TargetQuery`]: [`crate::mount::MountStatus`].
pub const STATUS: &str = "/v1/mounts/status";
/// GET with [`TargetQuery`]: [`Ended`], as soon as the mount is gone, or after [`ENDED_WAIT`].
pub const ENDED: &str = "/v1/mounts/ended";
/// GET: a list of [`super::persisted::Pending`]: what was mounted before the owner was started, and is not yet again.
pub const PENDING: &str = "/v1/mounts/pending";
/// GET: what the cache says of itself.
pub const CACHE: &str = "/v1/cache";
/// POST [`PruneRequest`][super::bodies::PruneRequest]: what was dropped.
pub const PRUNE: &str = "/v1/cache/prune";

/// GET: [`crate::mount::CacheContent`].
pub const CONTENT: &str = "/v1/cache/content";
/// GET: a list of [`PinSummary`]. POST [`ArtifactBody`][super::bodies::ArtifactBody]: one. DELETE with [`ReferenceQuery`]: those that are gone.
pub const PINS: &str = "/v1/cache/pins";
/// GET: a list of [`crate::mount::WarmStatus`]. POST [`ArtifactBody`][super::bodies::ArtifactBody]: one. DELETE with [`WarmQuery`].
pub const WARMS: &str = "/v1/warms";
/// GET with [`WarmStatusQuery`]: [`crate::mount::WarmStatus`].
pub const WARM_STATUS: &str = "/v1/warms/status";
/// GET: [`Health`].
pub const HEALTH: &str = "/v1/health";
/// POST [`super::bodies::UpgradeRequest`]: [`super::upgrade::UpgradeBegun`].
pub const UPGRADE: &str = "/v1/upgrade";

/// Bytes of a request. The largest is a mount request: two paths and a few file names.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Bytes of an answer. The largest is the status of a mount of [`crate::mount::LISTED_FILES_MAX`] files with
/// paths as long as the kernel takes them.
pub const ANSWER_BYTES_MAX: usize = 128 << 20;

/// How long a request for [`ENDED`] is held.
pub const ENDED_WAIT: Duration = Duration::from_secs(20);

/// How long an unmount may take before it is reported as failed.
pub const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long it may take until an artifact is resolved and, for a pin, its archives are read for their entries: a
/// compressed one is read from its start to its end, as long as that takes.
#[must_use]
pub fn artifact_timeout(request: &ArtifactRequest) -> Duration {
    let source = &request.source;
    manifests_timeout(source).saturating_add(READING_TIMEOUT)
}

/// The part of it that first readings may take.
const READING_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long a mount may take: everything that its source may retry, twice (index and manifest), the wait for the first
/// bytes of its layers, and the system calls.
#[must_use]
pub fn mount_timeout(request: &MountRequest) -> Duration {
    let layers = request.read_timeout.saturating_mul(2);
    manifests_timeout(&request.source).saturating_add(layers).saturating_add(Duration::from_secs(15))
}

/// The part of it that index and manifest may take.
fn manifests_timeout(source: &SourceOptions) -> Duration {
    let SourceOptions { retry_budget, connect_timeout, inactivity_timeout, .. } = source;
    retry_budget.saturating_add(*connect_timeout).saturating_add(*inactivity_timeout).saturating_mul(2)
}

/// Who answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OwnerInfo {
    /// The version of its program.
    pub version: String,
    /// Its process: the one to be told to end.
    pub pid: u32,
    /// The process that serves for it.
    #[serde(default)]
    pub server_pid: Option<u32>,
    /// How many processes that served for it have died.
    #[serde(default)]
    pub deaths: u64,
    /// Why its program is not the one that was to follow the last one, if it is not: an upgrade that went wrong.
    #[serde(default)]
    pub went_back: Option<String>,
    /// The cache directory that it owns.
    pub cache_dir: PathBuf,
    /// The bound of its cache, in bytes.
    pub cache_bytes_max: u64,
    /// What its cache leaves free of its file system; not known of older owners.
    #[serde(default)]
    pub cache_free_space_min: Option<FreeSpaceFloor>,
    /// Where it tells its metrics over TCP, if it does.
    #[serde(default)]
    pub metrics_addr: Option<SocketAddr>,
}

impl OwnerInfo {
    /// Whether the owner's cache has the bounds that are `wanted`. One that is too old to tell has them.
    #[must_use]
    pub fn keeps_to(&self, wanted: &WantedLimits) -> bool {
        let bytes_differ = wanted.cache_bytes_max.is_some_and(|bytes| bytes != self.cache_bytes_max);
        let floors_differ = wanted
            .cache_free_space_min
            .is_some_and(|floor| self.cache_free_space_min.is_some_and(|there| there != floor));
        !bytes_differ && !floors_differ
    }
}

/// The bounds that the cache shall have. An owner without mounts, whose bounds are others, leaves the request to
/// the next owner; one with mounts keeps its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct WantedLimits {
    /// What it may hold, in bytes.
    pub cache_bytes_max: Option<u64>,
    /// What stays free of its file system.
    pub cache_free_space_min: Option<FreeSpaceFloor>,
}

/// Which mount is meant.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TargetQuery {
    /// The mount point, absolute.
    pub target: PathBuf,
}

/// Which pins are meant.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReferenceQuery {
    /// The reference by which it was pinned, its digest, or both.
    pub reference: String,
}

/// Which warming is meant.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct WarmQuery {
    /// Its number.
    pub id: u64,
}

/// Which warming is asked about.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct WarmStatusQuery {
    /// Its number.
    pub id: u64,
    /// Whether its end is waited for, for half a second at most.
    #[serde(default)]
    pub wait: bool,
}

/// An artifact that is pinned.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PinSummary {
    /// By which reference it was pinned.
    pub reference: String,
    /// What that stood for.
    pub digest: Digest,
    /// The parts of it; none: all.
    pub subpaths: Vec<String>,
    /// The bytes that stay in the cache once they are there.
    pub bytes: u64,
    /// Since when, in RFC 3339.
    pub since: String,
}

impl PinSummary {
    /// That of `pin`.
    #[must_use]
    pub fn of(pin: &PinnedArtifact) -> Self {
        Self {
            reference: pin.reference.clone(),
            digest: pin.digest.clone(),
            subpaths: pin.subpaths.clone(),
            bytes: pin.bytes(),
            since: held::rfc3339(Duration::from_secs(pin.since)),
        }
    }
}

/// How the owner is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// Why the cache takes nothing, if it does not.
    pub cache: Option<String>,
    /// Mounts that are being served.
    pub mounts: u64,
    /// Those of them whose files are not all known and never will be.
    pub mounts_failed: u64,
    /// What was mounted before and is not mounted now; not known of older owners.
    #[serde(default)]
    pub unrestored: Vec<Unrestored>,
    /// How many processes that served have died.
    pub deaths: u64,
    /// Why an upgrade was taken back, if it was.
    pub went_back: Option<String>,
}

/// See [`Health`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Nothing is wrong.
    Ok,
    /// Something is, and the fields beside say what.
    Degraded,
}

/// Whether a mount is gone.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Ended {
    /// Gone; otherwise the question should be asked again.
    pub ended: bool,
}

/// An error on its way to the client.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ErrorBody {
    /// What the caller can do about it.
    pub kind: ErrorKind,
    /// The whole chain.
    pub message: String,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), message: error.chain() }
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Self {
        Self::new(body.kind, body.message)
    }
}

/// The status line for an error; the body says the same more exactly. 410 is not among them: it is the word of
/// an owner that is ending.
#[must_use]
pub fn http_status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::Usage | ErrorKind::Invalid => 400,
        ErrorKind::Unauthorized => 403,
        ErrorKind::NotFound => 404,
        ErrorKind::Busy => 409,
        ErrorKind::Unsupported => 422,
        ErrorKind::Corrupt | ErrorKind::Unavailable => 502,
        ErrorKind::TimedOut => 504,
        ErrorKind::NoSpace => 507,
        ErrorKind::Io => 500,
    }
}

/// The status of an answer that says: ask the next owner.
pub const STATUS_ENDING: u16 = 410;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_words() {
        let error = Error::new(ErrorKind::Busy, "x is a mount point already").context("cannot mount y");
        let text = serde_json::to_string(&ErrorBody::from(&error)).unwrap();
        assert_eq!(text, r#"{"kind":"busy","message":"cannot mount y: x is a mount point already"}"#);
        let back: Error = serde_json::from_str::<ErrorBody>(&text).unwrap().into();
        assert_eq!((back.kind(), back.chain()), (ErrorKind::Busy, error.chain()));
    }
}
