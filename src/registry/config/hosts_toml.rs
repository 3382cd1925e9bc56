//! The route of a repository as containerd's `certs.d` describes it (containerd, docs/hosts.md): a directory for each
//! registry with a file `hosts.toml`, or with nothing but certificates.
//!
//! Hosts are asked in the order of the file, the registry or what `server` puts in its place last. Where this differs
//! from containerd: a file that it would log about and pass over is an error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{IgnoredAny, IntoDeserializer as _};
use toml::Spanned;
use toml::de::DeValue;
use url::Url;

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::oci::RegistryRef;
use crate::registry::endpoint;
use crate::registry::route::{ClientIdentity, HostRoute, Route, Serves, TlsSettings};

use super::certificates::{self, Keys};
use super::document::Document;
use super::{go_duration, host_address};

/// What describes the format, for errors.
const DESCRIBED_IN: &str = "containerd's docs/hosts.md";

/// The directory of all registries that have none of their own.
const DEFAULT_DIRECTORY: &str = "_default";

/// What is said of one host.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostTable {
    capabilities: Option<Vec<Spanned<String>>>,
    ca: Option<Paths>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<Spanned<String>, Spanned<Values>>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
    proxy: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
enum Paths {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, a list of paths or a list of pairs [certificate, key]")]
enum Clients {
    One(PathBuf),
    Several(Vec<Client>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path or a pair [certificate, key]")]
enum Client {
    Whole(PathBuf),
    Pair(PathBuf, PathBuf),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum Values {
    One(String),
    Several(Vec<String>),
}

/// The route of `reference` by the directories in `root`.
///
/// # Errors
/// `Invalid` for a malformed file, with the line; `Usage` for a host that no URL can hold; `Io`.
pub(super) fn route(root: &Path, reference: &RegistryRef, plain_http: bool) -> Result<Route> {
    let bases = endpoint::default_bases(&reference.host, plain_http)?;
    let registry = |tls| HostRoute::of_registry(reference, bases.clone(), tls);
    let Some(directory) = directory_of(root, &reference.host)? else {
        return Ok(Route { hosts: vec![registry(TlsSettings::default())] });
    };
    let document = match Document::read(&directory.join("hosts.toml"), DESCRIBED_IN) {
        Ok(document) if !document.is_empty() => document,
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {
            let tls = certificates::read(&directory, Keys::BesideOrWithin)?;
            return Ok(Route { hosts: vec![registry(tls)] });
        }
    };
    let reader = Reader { document, directory: &directory, registry: registry(TlsSettings::default()) };
    Ok(Route { hosts: reader.hosts()? })
}

/// Checks that nothing in `root` says that it is another directory than one with a directory for each registry: what it
/// holds would be passed over.
///
/// # Errors
/// `Invalid`, with what says so; `Io`.
pub(super) fn check_root(root: &Path) -> Result<()> {
    let what = || format!("cannot read the registries' configuration {}", root.display());
    for entry in std::fs::read_dir(root).context(what)? {
        let path = entry.context(what)?.path();
        let is_hosts_toml = path.file_name() == Some(OsStr::new("hosts.toml"));
        if (is_hosts_toml || path.extension() == Some(OsStr::new("conf"))) && !path.is_dir() {
            let text = format!(
                "{} is not in the directory of a registry; name the directory above that, or a registries.conf",
                path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
    }
    Ok(())
}

/// The directory in `root` that speaks of `host`, if there is one.
fn directory_of(root: &Path, host: &str) -> Result<Option<PathBuf>> {
    let with_port = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    let without_colon = with_port.map(|(name, port)| format!("{name}_{port}_"));
    for name in without_colon.as_deref().into_iter().chain([host, DEFAULT_DIRECTORY]) {
        let found = super::entry_in_any_case(root, name);
        let found = found.context(|| format!("cannot read {}", root.join(name).display()))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// One `hosts.toml`.
struct Reader<'a> {
    document: Document,
    directory: &'a Path,
    /// The registry that the reference names, by Docker's defaults.
    registry: HostRoute,
}

impl Reader<'_> {
    fn hosts(&self) -> Result<Vec<HostRoute>> {
        let mut table = self.document.table()?;
        let server = table.get_mut().remove("server");
        let hosts = table.get_mut().remove("host");
        // What is left is said of the last host, which is `server` or the registry.
        let last = HostTable::deserialize(table.into_deserializer());
        let last = last.map_err(|error| self.document.syntax_error(&error))?;
        let mut routes = Vec::new();
        if let Some(hosts) = hosts {
            let tables = BTreeMap::<Spanned<String>, HostTable>::deserialize(hosts.into_deserializer());
            let tables = tables.map_err(|error| self.document.syntax_error(&error))?;
            let mut tables: Vec<_> = tables.into_iter().collect();
            tables.sort_by_key(|(url, _)| url.span().start);
            for (url, table) in tables {
                routes.push(HostRoute { is_mirror: true, ..self.host_at(&url, table)? });
            }
        }
        routes.push(match server {
            Some(server) => match server.get_ref() {
                DeValue::String(url) if !url.is_empty() => {
                    self.host_at(&Spanned::new(server.span(), url.to_string()), last)?
                }
                DeValue::String(_) => self.registry_with(last)?,
                _ => return Err(self.document.error(&server.span(), "server is a URL, in quotes")),
            },
            None => self.registry_with(last)?,
        });
        Ok(routes)
    }

    /// The registry that the reference names; what the file lets it be asked for counts for `server` alone.
    fn registry_with(&self, table: HostTable) -> Result<HostRoute> {
        Ok(HostRoute { serves: Serves::ALL, ..self.host(self.registry.bases.clone(), table)? })
    }

    fn host_at(&self, url: &Spanned<String>, table: HostTable) -> Result<HostRoute> {
        let has_tls = table.ca.is_some() || table.client.is_some() || table.skip_verify.is_some();
        let bases = host_address::bases(url.get_ref(), table.override_path, has_tls);
        let bases = bases
            .map_err(|flaw| self.document.error(&url.span(), format!("bad address of a host: {flaw}")))?;
        self.host(bases, table)
    }

    fn host(&self, bases: Vec<Url>, table: HostTable) -> Result<HostRoute> {
        if let Some(proxy) = table.proxy {
            let why =
                "a proxy for one host is not supported; set HTTPS_PROXY and NO_PROXY in the environment";
            return Err(self.document.error(&proxy.span(), why));
        }
        let registry = &self.registry;
        let is_registry = bases.iter().any(|base| host_address::is_same_server(base, &registry.bases[0]));
        let serves = table.capabilities.map(|list| self.serves(&list)).transpose()?;
        Ok(HostRoute {
            host: match bases.first().filter(|_| !is_registry) {
                Some(base) => endpoint::shown_host(base),
                None => registry.host.clone(),
            },
            bases,
            namespace: (!is_registry).then(|| registry.host.clone()),
            serves: serves.unwrap_or(Serves::ALL),
            tls: TlsSettings {
                authorities: table.ca.map_or_else(Vec::new, |paths| self.authorities(paths)),
                client: table.client.and_then(|clients| self.client(clients)),
                skip_verify: table.skip_verify.unwrap_or(false),
            },
            headers: self.headers(table.header)?,
            connect_timeout: table.dial_timeout.map(|text| self.timeout(&text)).transpose()?.flatten(),
            ..registry.clone()
        })
    }

    /// An empty list is as good as none.
    fn serves(&self, capabilities: &[Spanned<String>]) -> Result<Serves> {
        let mut serves = Serves { tags: false, digests: false };
        for capability in capabilities {
            match capability.get_ref().to_ascii_lowercase().as_str() {
                "pull" => serves.digests = true,
                "resolve" => serves.tags = true,
                // Nothing is pushed, and a list of referrers is asked of whoever has the manifests.
                "push" | "referrers" => {}
                _ => {
                    let why = "a capability is pull, resolve, push or referrers";
                    return Err(self.document.error(&capability.span(), why));
                }
            }
        }
        Ok(if capabilities.is_empty() { Serves::ALL } else { serves })
    }

    fn authorities(&self, paths: Paths) -> Vec<PathBuf> {
        let paths = match paths {
            Paths::One(path) => vec![path],
            Paths::Several(paths) => paths,
        };
        paths.into_iter().map(|path| self.directory.join(path)).collect()
    }

    fn client(&self, clients: Clients) -> Option<ClientIdentity> {
        let clients = match clients {
            Clients::One(path) => vec![Client::Whole(path)],
            Clients::Several(clients) => clients,
        };
        let identities = clients.into_iter().map(|client| {
            let (certificate, key) = match client {
                Client::Whole(path) => (path, None),
                Client::Pair(certificate, key) => (certificate, Some(key)),
            };
            let key = key.filter(|key| !key.as_os_str().is_empty()).map(|key| self.directory.join(key));
            ClientIdentity { certificate: self.directory.join(certificate), key }
        });
        certificates::only(identities.collect(), self.directory)
    }

    fn headers(&self, table: BTreeMap<Spanned<String>, Spanned<Values>>) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, values) in table {
            let span = values.span();
            let name: HeaderName = name.get_ref().parse().map_err(|_| {
                self.document
                    .error(&name.span(), "this is no name of a header; use letters, digits and dashes")
            })?;
            let values = match values.into_inner() {
                Values::One(value) => vec![value],
                Values::Several(values) => values,
            };
            for value in values {
                let mut value = HeaderValue::from_str(&value).map_err(|_| {
                    self.document.error(&span, "a header's value is one line of printable characters")
                })?;
                // It may be what a mirror asks for as proof.
                value.set_sensitive(true);
                headers.append(&name, value);
            }
        }
        Ok(headers)
    }

    /// None where it is without an end, which it is not here.
    fn timeout(&self, text: &Spanned<String>) -> Result<Option<Duration>> {
        let duration = go_duration::parse(text.get_ref());
        let why = "dial_timeout is a duration such as 500ms, 3s or 1m30s";
        let duration = duration.ok_or_else(|| self.document.error(&text.span(), why))?;
        Ok(Some(duration).filter(|duration| !duration.is_zero()))
    }
}

#[cfg(test)]
mod tests;
