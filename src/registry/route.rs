//! The route of a repository: at which hosts it is asked for, in what order, and how each of them is spoken to.
//!
//! What the configuration files say, in the terms of the requests that follow from it. Pure data: nothing here reads
//! a file or touches the network.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::HeaderMap;
use url::Url;

use crate::oci::RegistryRef;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// In the order in which they are asked: mirrors first. Never empty.
    pub(super) hosts: Vec<HostRoute>,
}

/// One host of a [`Route`].
#[derive(Clone, Debug)]
pub(super) struct HostRoute {
    /// What it is called: `HOST[:PORT]`, as credential files and errors name it (`docker.io`, not its server's name).
    pub(super) host: String,
    /// The API's addresses, each with a slash at its end (`https://host/v2/`), in the order in which they are tried
    /// where nothing is known yet. More than one only where TLS may be missing.
    pub(super) bases: Vec<Url>,
    /// The repository's name there.
    pub(super) repository: String,
    /// The registry in whose place it answers, sent as `?ns=` (containerd's hosts.md, "Registry Host Namespace").
    pub(super) namespace: Option<String>,
    /// Whether it stands in for another host. One that does gets less patience, since there is somebody else to ask,
    /// and has no say in what there is and what there is not.
    pub(super) is_mirror: bool,
    /// What it is asked for.
    pub(super) serves: Serves,
    /// How it proves who it is, and we who we are.
    pub(super) tls: TlsSettings,
    /// What is sent with every request to it.
    pub(super) headers: HeaderMap,
    /// How long a connection may take to come about, where the configuration says so.
    pub(super) connect_timeout: Option<Duration>,
}

impl HostRoute {
    /// The registry that `reference` names, reached at `bases`, and asked for everything.
    pub(super) fn of_registry(reference: &RegistryRef, bases: Vec<Url>, tls: TlsSettings) -> Self {
        Self {
            host: reference.host.clone(),
            bases,
            repository: reference.repository.clone(),
            namespace: None,
            is_mirror: false,
            serves: Serves::ALL,
            tls,
            headers: HeaderMap::new(),
            connect_timeout: None,
        }
    }
}

/// What a host is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serves {
    /// What a tag means.
    pub(super) tags: bool,
    /// Manifests and blobs by digest.
    pub(super) digests: bool,
}

impl Serves {
    /// Everything.
    pub(super) const ALL: Self = Self { tags: true, digests: true };
}

/// TLS with one host. The files are read when a source is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct TlsSettings {
    /// PEM files with authorities that are trusted beside those of the system.
    pub(super) authorities: Vec<PathBuf>,
    /// What we show of ourselves.
    pub(super) client: Option<ClientIdentity>,
    /// Whether any certificate will do.
    pub(super) skip_verify: bool,
}

/// A client's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientIdentity {
    /// A PEM file with the certificate and what leads to its authority.
    pub(super) certificate: PathBuf,
    /// A PEM file with its key; none where `certificate` holds it too.
    pub(super) key: Option<PathBuf>,
}
