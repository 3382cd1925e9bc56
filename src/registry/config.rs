//! The registries' configuration: which registries a name without one stands for, and the [`Route`] to each.
//!
//! Read anew for every source that is opened. What cannot be read or understood is an error, never as good as absent.

use crate::base::Result;
use crate::oci::{RegistryRef, ShortRef};

use super::SourceOptions;
use super::endpoint;
use super::route::{HostRoute, Route, Serves, TlsSettings};

/// Docker's registry, which is the only one for names without a registry where no configuration says more.
const DOCKER_HUB: &str = "docker.io";

/// What there is of configuration.
#[derive(Debug)]
pub(super) enum RegistryConfig {
    /// Nothing: Docker's defaults.
    Docker,
}

impl RegistryConfig {
    /// Reads what `options` names.
    ///
    /// # Errors
    /// `Invalid` for a file that is malformed or holds an unknown key, with file and line; `NotFound` or `Io` for one
    /// that cannot be read.
    pub(super) fn read(_options: &SourceOptions) -> Result<Self> {
        Ok(Self::Docker)
    }

    /// The references that `short` may stand for, in the order in which they are tried. Never empty.
    ///
    /// # Errors
    /// `Usage` where the configuration leaves none, or leaves the choice to the user.
    pub(super) fn candidates(&self, short: &ShortRef) -> Result<Vec<RegistryRef>> {
        match self {
            Self::Docker => Ok(vec![short.at(DOCKER_HUB)?]),
        }
    }

    /// The route of `reference`.
    ///
    /// # Errors
    /// `Unauthorized` for a registry that the configuration blocks, naming the file; `Usage` for a host that no URL can
    /// hold.
    pub(super) fn route(&self, reference: &RegistryRef, options: &SourceOptions) -> Result<Route> {
        let RegistryRef { host, repository, .. } = reference;
        match self {
            Self::Docker => {
                let origin = HostRoute {
                    host: host.clone(),
                    bases: endpoint::default_bases(host, options.plain_http)?,
                    repository: repository.clone(),
                    namespace: None,
                    is_mirror: false,
                    serves: Serves::ALL,
                    tls: TlsSettings::default(),
                    headers: Default::default(),
                    connect_timeout: None,
                };
                Ok(Route { hosts: vec![origin] })
            }
        }
    }
}
