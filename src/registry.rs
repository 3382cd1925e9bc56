//! Where blobs come from: a registry over HTTP, or an OCI layout on disk, as a directory or in a tar archive.
//!
//! A [`BlobSource`] is bound to one repository with one set of credentials; what is fetched through it was
//! authorised by them. It retries what asks for a token or a manifest; a blob's body is handed out as it
//! arrives, and who reads it decides about resuming. Nothing here caches content.

use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::{Descriptor, SourceRef};

mod access;
mod answer;
mod archive;
mod auth;
mod body;
mod challenge;
mod config;
mod credential_file;
mod credential_helper;
mod credential_key;
mod credentials;
mod endpoint;
mod layout;
mod layout_directory;
mod layout_index;
mod layout_writer;
mod layout_referrers;
mod local_file;
mod pace;
pub mod probe;
mod record;
mod redirect;
mod registry_source;
mod remote;
mod route;
mod tls;
mod token;
mod traffic;
mod transport;

pub use access::{Access, AccessKey, Fingerprint};
pub use credentials::default_auth_files;
pub use layout::LayoutSource;
pub use layout_writer::LayoutWriter;
pub use record::HostStatus;
pub use registry_source::RegistrySource;
pub use traffic::{HostTotals, traffic};

/// The references that `reference` may stand for, in the order in which they are tried: itself, unless it has no
/// registry. Never empty.
///
/// # Errors
/// `Invalid` for a malformed configuration of registries, with file and line; `Usage` where it leaves no registry to
/// ask, or leaves the choice to the user.
pub fn candidates(reference: &SourceRef, options: &SourceOptions) -> Result<Vec<SourceRef>> {
    match reference {
        SourceRef::Registry(_) | SourceRef::Layout(_) => Ok(vec![reference.clone()]),
        SourceRef::Short(short) => {
            let candidates = config::RegistryConfig::read(options)?.candidates(short)?;
            Ok(candidates.into_iter().map(SourceRef::Registry).collect())
        }
    }
}

/// Opens the source that `reference`, one of [`candidates`], names. Reads files of configuration and credentials, or a
/// layout's first file; nothing is sent yet.
///
/// # Errors
/// `Invalid` for a malformed file or layout, `NotFound` for a missing one, `Unauthorized` for a registry that the
/// configuration blocks, `Usage` for a host that no URL can hold.
pub fn open(reference: &SourceRef, options: &SourceOptions) -> Result<Arc<dyn BlobSource>> {
    Ok(match reference {
        SourceRef::Registry(registry) => Arc::new(RegistrySource::open(registry, options)?),
        SourceRef::Short(short) => {
            return Err(Error::new(ErrorKind::Usage, format!("{short} names no registry")));
        }
        SourceRef::Layout(layout) => Arc::new(LayoutSource::open(layout)?),
    })
}

/// A place that resolves one reference and holds the blobs it leads to.
#[async_trait]
pub trait BlobSource: Debug + Send + Sync {
    /// The host, directory or archive, as shown in errors and logs; without secrets.
    fn name(&self) -> &str;

    /// The manifest or index that the source's reference names right now.
    ///
    /// # Errors
    /// `NotFound`, `Unauthorized`, `Corrupt` (the bytes are not those of the digest asked for),
    /// `Unavailable` or `TimedOut` after the attempts that [`SourceOptions`] allows.
    async fn resolve(&self) -> Result<RawManifest>;

    /// The manifest or index that `descriptor` names, checked against its digest and size.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest>;

    /// Opens `range` (non-empty, within `size`) of the blob `digest` of `size` bytes. One attempt: at most
    /// one renewed token, and a fresh redirect where a remembered one has expired.
    ///
    /// # Errors
    /// As [`Self::resolve`]; a wrong or missing `Content-Range` is `Unavailable`. Never data of another range.
    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody>;

    /// The manifests of the artifact type `artifact_type` that refer to the manifest `subject` (distribution-spec,
    /// "Listing Referrers"). Anyone who may push to the repository may add some: nothing vouches for them but their
    /// authors. A source that keeps no such list has none.
    ///
    /// # Errors
    /// As [`Self::resolve`], but for `NotFound`; `Invalid` for a list that is malformed.
    async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
        let _ = (subject, artifact_type);
        Ok(Vec::new())
    }

    /// Notes that bytes of the blob `digest` that came from here make little sense, without proof that they are wrong. Says
    /// whether the next ones may come from somewhere else.
    fn doubt(&self, digest: &Digest) -> bool {
        let _ = digest;
        false
    }

    /// Notes that bytes of the blob `digest` that came from here did not match it. Says whether the next ones come
    /// from somewhere else.
    fn distrust(&self, digest: &Digest) -> bool {
        let _ = digest;
        false
    }

    /// By what way and with which credentials this source asks, as fingerprints under `key`. None of a source that
    /// nobody guards.
    ///
    /// # Errors
    /// `Unauthorized` for files of credentials that cannot be read any more.
    async fn access(&self, key: &AccessKey) -> Result<Option<Access>> {
        let _ = key;
        Ok(None)
    }

    /// The hosts behind this source and what they have served; none of a source without hosts.
    fn hosts(&self) -> Vec<HostStatus> {
        Vec::new()
    }
}

/// Checks that `range` can be asked of a blob of `size` bytes.
fn check_range(size: u64, range: &Range<u64>) -> Result<()> {
    if range.is_empty() || range.end > size {
        let message = format!("bytes {range:?} of a blob of {size} bytes cannot be asked for");
        return Err(Error::new(ErrorKind::Usage, message));
    }
    Ok(())
}

/// A manifest's bytes and what they are.
#[derive(Clone, Debug)]
pub struct RawManifest {
    /// The digest of `bytes`, computed here.
    pub digest: Digest,
    /// The media type that the source declares.
    pub media_type: Option<String>,
    /// The document.
    pub bytes: Bytes,
}

/// The body of a blob on its way.
pub struct BlobBody {
    /// The bytes of the blob that the body holds: those asked for; or the whole blob, from a server that does
    /// not do ranges (RFC 9110, section 14.2: a 200 answer).
    pub range: Range<u64>,
    /// The pieces in order, of any length. Ends with an error (`Unavailable`, `TimedOut`) when it is cut
    /// short or stalls, and never yields more than `range` holds.
    pub pieces: BoxStream<'static, Result<Bytes>>,
}

impl Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody").field("range", &self.range).finish_non_exhaustive()
    }
}

/// How a source is reached.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct SourceOptions {
    /// Plain HTTP also to hosts that are not loopback addresses.
    pub plain_http: bool,
    /// The configuration of registries: a file as containers-registries.conf(5) describes it, or a directory of
    /// containerd's (`certs.d`). None: Docker's defaults.
    pub registry_config: Option<PathBuf>,
    /// Directories with drop-ins for that file, which count after those beside it, in their order; missing ones hold
    /// none.
    #[serde(default)]
    pub registry_drop_ins: Vec<PathBuf>,
    /// Directories with authorities and client certificates by host (`HOST[:PORT]/*.crt`, `*.cert`, `*.key`;
    /// containers-certs.d(5)); of those that have the host, the first counts.
    pub certificate_dirs: Vec<PathBuf>,
    /// Files with credentials, in the order in which they are asked; missing ones are skipped unless
    /// `auth_files_required`.
    pub auth_files: Vec<PathBuf>,
    /// Whether a missing file of `auth_files` is an error, as it is when the user named it.
    pub auth_files_required: bool,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a body or an answer may make no progress.
    pub inactivity_timeout: Duration,
    /// How long a request may be retried in all before its error is reported.
    pub retry_budget: Duration,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            registry_config: None,
            registry_drop_ins: Vec::new(),
            certificate_dirs: Vec::new(),
            auth_files: Vec::new(),
            auth_files_required: false,
            connect_timeout: Duration::from_secs(10),
            // A registry that fetches from cold storage pauses for seconds, hardly for half a minute.
            inactivity_timeout: Duration::from_secs(30),
            // Below the two minutes after which the kernel reports a reader as hung.
            retry_budget: Duration::from_secs(90),
        }
    }
}
