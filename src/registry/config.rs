//! The registries' configuration: which registries a name without one stands for, and the [`Route`] to each.
//!
//! Read anew for every source that is opened. What cannot be read or understood is an error, never as good as absent:
//! it may be what keeps requests and credentials away from where they do not belong.

mod certificates;
mod document;
mod go_duration;
mod host_address;
mod hosts_toml;
mod location;
mod registries_conf;
mod registries_table;
mod short_names;
#[cfg(test)]
mod shown;

use std::io;
use std::path::{Path, PathBuf};

use crate::base::{ErrorKind, Result, ResultExt as _};
use crate::oci::{RegistryRef, ShortRef};

use super::SourceOptions;
use super::endpoint;
use super::route::{HostRoute, Route};

use registries_conf::RegistriesConf;
pub(super) use registries_table::HelperName;

/// Docker's registry, which is the only one for names without a registry where no configuration says more.
const DOCKER_HUB: &str = "docker.io";

/// The entry of `directory` that is called `name`, in whatever case: a host's is as somebody typed it.
fn entry_in_any_case(directory: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let as_typed = directory.join(name);
    match std::fs::metadata(&as_typed) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {}
        found => return found.map(|_| Some(as_typed)),
    }
    let entries = match std::fs::read_dir(directory) {
        // What may be entered and not listed has been asked.
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().eq_ignore_ascii_case(name) && entry.path().exists() {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// What there is of configuration.
#[derive(Debug)]
pub(super) enum RegistryConfig {
    /// Nothing: Docker's defaults.
    Docker,
    /// Files as containers-registries.conf(5) describes them.
    Registries(RegistriesConf),
    /// A directory of containerd's, with a directory for each host.
    Containerd(PathBuf),
}

impl RegistryConfig {
    /// Reads what `options` names.
    ///
    /// # Errors
    /// `Invalid` for a file that is malformed or holds an unknown key, with file and line; `NotFound` or `Io` for one
    /// that cannot be read.
    pub(super) fn read(options: &SourceOptions) -> Result<Self> {
        let Some(path) = &options.registry_config else { return Ok(Self::Docker) };
        let what = || format!("cannot use the registries' configuration {}", path.display());
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                hosts_toml::check_root(path)?;
                Ok(Self::Containerd(path.clone()))
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(what),
            // Its drop-ins may be there without it.
            _ => RegistriesConf::read(path, &options.registry_drop_ins).map(Self::Registries).map_err(
                |error| match error.kind() {
                    ErrorKind::NotFound => {
                        error.context("name another configuration of registries with --registry-config")
                    }
                    _ => error,
                },
            ),
        }
    }

    /// The credential helpers that are asked, in their order. Empty: the files of credentials alone.
    pub(super) fn credential_helpers(&self) -> &[HelperName] {
        match self {
            Self::Docker | Self::Containerd(_) => &[],
            Self::Registries(conf) => conf.credential_helpers(),
        }
    }

    /// The references that `short` may stand for, in the order in which they are tried. Never empty.
    ///
    /// # Errors
    /// `Usage` where the configuration leaves none, or leaves the choice to the user.
    pub(super) fn candidates(&self, short: &ShortRef) -> Result<Vec<RegistryRef>> {
        match self {
            Self::Docker | Self::Containerd(_) => Ok(vec![short.at(DOCKER_HUB)?]),
            Self::Registries(conf) => conf.candidates(short),
        }
    }

    /// The route of `reference`.
    ///
    /// # Errors
    /// `Unauthorized` for a registry that the configuration blocks, naming the file; `Invalid` for a malformed file of
    /// this host, with the line, and for certificates without keys; `Usage` for a host that no URL can hold.
    pub(super) fn route(&self, reference: &RegistryRef, options: &SourceOptions) -> Result<Route> {
        match self {
            Self::Docker => {
                let bases = endpoint::default_bases(&reference.host, options.plain_http)?;
                let tls = certificates::for_host(&reference.host, &options.certificate_dirs)?;
                Ok(Route { hosts: vec![HostRoute::of_registry(reference, bases, tls)] })
            }
            Self::Registries(conf) => conf.route(reference, options),
            Self::Containerd(directory) => hosts_toml::route(directory, reference, options.plain_http),
        }
    }
}
