//! [`RegistriesConf`]: what containers-registries.conf(5) says, of a file and of the drop-ins beside it.
//!
//! A drop-in replaces what came before it: single settings as a whole, a `[[registry]]` by its prefix, an alias by its
//! name, as containers/image merges them. Where this differs from it: what it would pass over is an error; a mirror that
//! is for digests alone serves the blobs of what a tag was resolved to elsewhere; and a prefix with a tag or a digest, of
//! which the manual speaks, is one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::oci::{RegistryRef, ShortRef};
use crate::registry::SourceOptions;
use crate::registry::endpoint;
use crate::registry::route::{HostRoute, Route, Serves, TlsSettings};

use super::certificates;
use super::document::Place;
use super::location;
use super::registries_table::{self, HelperName, Namespace, Parsed, Pulls};
use super::short_names::ShortNames;

/// See the module's text.
#[derive(Debug, Default)]
pub(in crate::registry) struct RegistriesConf {
    namespaces: BTreeMap<String, Namespace>,
    short_names: ShortNames,
    credential_helpers: Vec<HelperName>,
    /// What was read.
    files: Vec<PathBuf>,
}

impl RegistriesConf {
    /// Reads the file at `path`, the drop-ins in the directory `path` with `.d`, and those in `further` directories. One
    /// of all these must exist.
    ///
    /// # Errors
    /// `Invalid` for malformed files, with the line; `NotFound` and `Io`.
    pub(super) fn read(path: &Path, further: &[PathBuf]) -> Result<Self> {
        let mut conf = Self::default();
        let beside = drop_in_directory(path);
        let directories = std::iter::once(&beside).chain(further);
        let drop_ins = directories.map(|directory| drop_ins(directory)).collect::<Result<Vec<_>>>()?;
        match registries_table::read(path) {
            Ok(parsed) => conf.merge(path, parsed),
            Err(error) if error.kind() == ErrorKind::NotFound && drop_ins.iter().any(Option::is_some) => {}
            Err(error) => return Err(error),
        }
        for path in drop_ins.into_iter().flatten().flatten() {
            let parsed = registries_table::read(&path)?;
            conf.merge(&path, parsed);
        }
        Ok(conf)
    }

    fn merge(&mut self, path: &Path, parsed: Parsed) {
        self.files.push(path.to_owned());
        self.namespaces.extend(parsed.namespaces);
        let names = &mut self.short_names;
        names.aliases.extend(parsed.aliases);
        names.search = parsed.search.or(names.search.take());
        names.mode = parsed.mode.or(names.mode.take());
        if let Some(helpers) = parsed.credential_helpers {
            self.credential_helpers = helpers;
        }
    }

    /// The credential helpers that are asked, in their order.
    pub(super) fn credential_helpers(&self) -> &[HelperName] {
        &self.credential_helpers
    }

    /// As [`ShortNames::candidates`].
    ///
    /// # Errors
    /// The same.
    pub(super) fn candidates(&self, short: &ShortRef) -> Result<Vec<RegistryRef>> {
        self.short_names.candidates(short, &self.files)
    }

    /// The namespace with the longest prefix of `reference`, and how many bytes of its name the prefix stands for.
    fn namespace_of(&self, reference: &RegistryRef) -> Option<(&Namespace, usize)> {
        let name = location::full_name(reference);
        let matches = self.namespaces.iter().filter_map(|(prefix, namespace)| {
            Some((prefix.len(), namespace, location::match_length(&name, prefix)?))
        });
        // Of two of the same length the first counts: the one with a wildcard.
        let longest = matches.rev().max_by_key(|(prefix_length, ..)| *prefix_length);
        longest.map(|(_, namespace, length)| (namespace, length))
    }

    /// The route of `reference`.
    ///
    /// # Errors
    /// `Unauthorized` for what is blocked; `Invalid` for a location that fits no such reference, and for certificates
    /// that lack their keys.
    pub(super) fn route(&self, reference: &RegistryRef, options: &SourceOptions) -> Result<Route> {
        let Some((namespace, length)) = self.namespace_of(reference) else {
            return Ok(Route { hosts: vec![found_at(reference, false, options)?] });
        };
        if namespace.blocked {
            let place = &namespace.place;
            let text = format!("{reference} is blocked by {place}; leave out `blocked` there to allow it");
            return Err(Error::new(ErrorKind::Unauthorized, text));
        }
        let rewritten = |location: &str, place: &Place| {
            let found = location::rewrite(reference, length, location);
            found.map_err(|flaw| place.error(format!("bad location for {reference}: {flaw}")))
        };
        let mut hosts = Vec::new();
        for mirror in &namespace.mirrors {
            let Some(serves) = serves(mirror.pulls, reference) else { continue };
            let found = rewritten(&mirror.location, &mirror.place)?;
            let namespace = (found.host != reference.host).then(|| reference.host.clone());
            let route = found_at(&found, mirror.insecure, options)?;
            hosts.push(HostRoute { namespace, is_mirror: true, serves, ..route });
        }
        let origin = match &namespace.location {
            Some(location) => &rewritten(location, &namespace.place)?,
            None => reference,
        };
        hosts.push(found_at(origin, namespace.insecure, options)?);
        Ok(Route { hosts })
    }
}

/// What a mirror that `pulls` such things is asked for on the way to `reference`; none if for nothing.
fn serves(pulls: Pulls, reference: &RegistryRef) -> Option<Serves> {
    match (pulls, reference.digest.is_some()) {
        (Pulls::TagOnly, true) => None,
        (Pulls::DigestOnly, false) => Some(Serves { tags: false, digests: true }),
        _ => Some(Serves::ALL),
    }
}

/// The registry at which `reference` is found.
///
/// # Errors
/// `Usage` for a host that no URL can hold; those of [`certificates::for_host`].
fn found_at(reference: &RegistryRef, insecure: bool, options: &SourceOptions) -> Result<HostRoute> {
    let tls = certificates::for_host(&reference.host, &options.certificate_dirs)?;
    let bases = match insecure {
        true => endpoint::insecure_bases(&reference.host, options.plain_http)?,
        false => endpoint::default_bases(&reference.host, options.plain_http)?,
    };
    Ok(HostRoute::of_registry(reference, bases, TlsSettings { skip_verify: insecure, ..tls }))
}

/// Where the drop-ins of the file at `path` are.
fn drop_in_directory(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".d");
    name.into()
}

/// The files `*.conf` of `directory`, by name; none if there is no such directory.
fn drop_ins(directory: &Path) -> Result<Option<Vec<PathBuf>>> {
    let what = || format!("cannot read {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(what),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.context(what)?.path();
        if path.extension() == Some(OsStr::new("conf")) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(Some(paths))
}

#[cfg(test)]
mod tests;
