//! One file in the format of containers-registries.conf(5), version 2: what may stand in it, and what that means.
//!
//! An unknown key is an error, and so is what contradicts itself: a file that says something else than its author
//! meant would send requests, and credentials, where they do not belong.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use crate::base::{Error, Result};
use crate::oci::reference::is_host;
use crate::oci::{RegistryRef, SourceRef};

use super::document::{Document, Place};
use super::location;
use super::short_names::{Alias, Mode, SearchList};

/// What describes the format, for errors.
const DESCRIBED_IN: &str = "containers-registries.conf(5)";

const VERSION_1: &str = "this is version 1 of the format, which is not supported; write \
    unqualified-search-registries = [...] for registries.search, and a [[registry]] with its location and insecure = true \
    or blocked = true for each of registries.insecure and registries.block";

/// What one file says. What it does not speak of is none.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) search: Option<SearchList>,
    pub(super) mode: Option<(Mode, Place)>,
    pub(super) credential_helpers: Option<Vec<HelperName>>,
    /// By short name; none for one that is taken back.
    pub(super) aliases: BTreeMap<String, Option<Alias>>,
    /// By prefix.
    pub(super) namespaces: BTreeMap<String, Namespace>,
}

/// A credential helper as the file calls it.
#[derive(Clone, Debug)]
pub(in crate::registry) struct HelperName {
    pub(in crate::registry) name: String,
    place: Place,
}

impl HelperName {
    /// What stands for the files of credentials (containers-auth.json(5)).
    const AUTH_FILES: &str = "containers-auth.json";

    /// Whether it is none, but stands for the files of credentials.
    pub(in crate::registry) fn is_auth_files(&self) -> bool {
        self.name == Self::AUTH_FILES
    }

    /// The file that names it.
    pub(in crate::registry) fn file(&self) -> &Path {
        &self.place.path
    }

    /// The error for a name that is none.
    pub(in crate::registry) fn error(&self, why: &str) -> Error {
        self.place.error(format!("bad credential helper: {why}"))
    }
}

/// What holds for all references with one prefix.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    /// Where they are found; none: where they say.
    pub(super) location: Option<String>,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) place: Place,
}

/// What is asked before the location.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) pulls: Pulls,
    pub(super) place: Place,
}

/// What a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulls {
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileTable {
    unqualified_search_registries: Option<Spanned<Vec<Spanned<String>>>>,
    short_name_mode: Option<Spanned<String>>,
    credential_helpers: Option<Vec<Spanned<String>>>,
    /// For the storage of other engines.
    #[serde(rename = "additional-layer-store-auth-helper")]
    _additional_layer_store_auth_helper: Option<IgnoredAny>,
    #[serde(default)]
    aliases: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    registry: Vec<Spanned<RegistryTable>>,
    /// Version 1.
    registries: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RegistryTable {
    prefix: Option<Spanned<String>>,
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Spanned<MirrorTable>>,
    /// A mirror's, which is easily written in the wrong table.
    pull_from_mirror: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MirrorTable {
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Spanned<String>>,
}

/// Reads the file at `path`.
///
/// # Errors
/// `Invalid`, with the line; `NotFound` and `Io`.
pub(super) fn read(path: &Path) -> Result<Parsed> {
    let document = Document::read(path, DESCRIBED_IN)?;
    let file: FileTable = document.parse()?;
    if let Some(version_1) = file.registries {
        return Err(document.error(&version_1.span(), VERSION_1));
    }
    let search = file.unqualified_search_registries.map(|list| search_list(&document, list)).transpose()?;
    let mode = file.short_name_mode.map(|text| mode(&document, &text)).transpose()?.flatten();
    let helper = |name: Spanned<String>| {
        let place = document.place(&name.span());
        HelperName { name: name.into_inner(), place }
    };
    Ok(Parsed {
        search,
        mode,
        credential_helpers: file.credential_helpers.map(|names| names.into_iter().map(helper).collect()),
        aliases: aliases(&document, file.aliases)?,
        namespaces: namespaces(&document, file.registry)?,
    })
}

fn search_list(document: &Document, list: Spanned<Vec<Spanned<String>>>) -> Result<SearchList> {
    let place = document.place(&list.span());
    let mut registries = Vec::new();
    for entry in list.into_inner() {
        let host = location::location(entry.get_ref()).ok().filter(|host| !host.contains('/'));
        let why = "a registry to search is HOST[:PORT], with a dot, a port or localhost for its host";
        registries.push(host.ok_or_else(|| document.error(&entry.span(), why))?);
    }
    Ok(SearchList { registries, place })
}

/// The mode that `text` names; none for an empty one.
fn mode(document: &Document, text: &Spanned<String>) -> Result<Option<(Mode, Place)>> {
    let place = document.place(&text.span());
    match text.get_ref().as_str() {
        "" => Ok(None),
        "enforcing" => Ok(Some((Mode::Enforcing, place))),
        // They differ where there is somebody to ask.
        "permissive" | "disabled" => Ok(Some((Mode::AllInOrder, place))),
        _ => Err(place.error("short-name-mode is enforcing, permissive or disabled")),
    }
}

fn aliases(
    document: &Document,
    table: BTreeMap<Spanned<String>, Spanned<String>>,
) -> Result<BTreeMap<String, Option<Alias>>> {
    let mut aliases = BTreeMap::new();
    for (name, value) in table {
        let is_short =
            |reference| matches!(reference, SourceRef::Short(short) if short.name == *name.get_ref());
        if !name.get_ref().parse().is_ok_and(is_short) {
            let why = "an alias is a name without registry, tag and digest";
            return Err(document.error(&name.span(), why));
        }
        let alias = match value.get_ref().as_str() {
            "" => None,
            text => Some(alias(text).ok_or_else(|| {
                let why = "an alias stands for HOST[:PORT]/REPO, without tag and digest: those are the short name's";
                document.error(&value.span(), why)
            })?),
        };
        aliases.insert(name.into_inner(), alias);
    }
    Ok(aliases)
}

fn alias(text: &str) -> Option<Alias> {
    let (host, _) = text.split_once('/')?;
    let is_bare = is_host(host) && location::suffix(text).is_empty();
    let RegistryRef { host, repository, .. } = text.parse().ok().filter(|_| is_bare)?;
    Some(Alias { host, repository })
}

fn namespaces(
    document: &Document,
    tables: Vec<Spanned<RegistryTable>>,
) -> Result<BTreeMap<String, Namespace>> {
    let mut namespaces = BTreeMap::<String, Namespace>::new();
    for table in tables {
        let (prefix, namespace) = namespace(document, &table.span(), table.into_inner())?;
        let own_location = |prefix: &str, namespace: &Namespace| {
            namespace.location.clone().unwrap_or_else(|| prefix.to_owned())
        };
        for (other_prefix, other) in &namespaces {
            let (here, there) = (&namespace.place, other.place.line);
            if *other_prefix == prefix {
                let why =
                    format!("the prefix {prefix} has a [[registry]] on line {there} already; merge the two");
                return Err(here.error(why));
            }
            let is_same = own_location(other_prefix, other) == own_location(&prefix, &namespace);
            if is_same && (other.insecure, other.blocked) != (namespace.insecure, namespace.blocked) {
                let why = format!(
                    "the [[registry]] on line {there} has the same location, but not the same insecure and blocked; \
                     let them agree"
                );
                return Err(here.error(why));
            }
        }
        namespaces.insert(prefix, namespace);
    }
    Ok(namespaces)
}

fn namespace(document: &Document, span: &Range<usize>, table: RegistryTable) -> Result<(String, Namespace)> {
    if let Some(misplaced) = table.pull_from_mirror {
        let why =
            "pull-from-mirror belongs into [[registry.mirror]]; for all mirrors, use mirror-by-digest-only";
        return Err(document.error(&misplaced.span(), why));
    }
    let location = checked(document, table.location.as_ref(), "location", location::location)?;
    let prefix = checked(document, table.prefix.as_ref(), "prefix", location::prefix)?;
    let own_prefix = || location.as_deref().and_then(|location| location::prefix(location).ok());
    let Some(prefix) = prefix.or_else(own_prefix) else {
        let why = "a [[registry]] needs a prefix or a location, such as location = \"registry.example\"";
        return Err(document.error(span, why));
    };
    let mut namespace = Namespace {
        location: location.filter(|location| *location != prefix),
        insecure: table.insecure,
        blocked: table.blocked,
        mirrors: Vec::new(),
        place: document.place(span),
    };
    if let Some(location) = &namespace.location {
        check_suffixes(&prefix, location, &namespace.place)?;
    }
    for mirror in table.mirror {
        let mirror =
            self::mirror(document, &mirror.span(), mirror.into_inner(), table.mirror_by_digest_only)?;
        check_suffixes(&prefix, &mirror.location, &mirror.place)?;
        namespace.mirrors.push(mirror);
    }
    Ok((prefix, namespace))
}

fn mirror(
    document: &Document,
    span: &Range<usize>,
    table: MirrorTable,
    by_digest_only: bool,
) -> Result<Mirror> {
    let Some(location) = checked(document, table.location.as_ref(), "location", location::location)? else {
        let why = "a [[registry.mirror]] needs a location, such as location = \"mirror.example\"";
        return Err(document.error(span, why));
    };
    let wanted = table.pull_from_mirror.filter(|text| !text.get_ref().is_empty());
    if let Some(wanted) = wanted.as_ref().filter(|_| by_digest_only) {
        let why = "pull-from-mirror contradicts the registry's mirror-by-digest-only; leave one of them out";
        return Err(document.error(&wanted.span(), why));
    }
    let pulls = match wanted.as_ref().map(|text| text.get_ref().as_str()) {
        None if by_digest_only => Pulls::DigestOnly,
        None | Some("all") => Pulls::All,
        Some("digest-only") => Pulls::DigestOnly,
        Some("tag-only") => Pulls::TagOnly,
        Some(_) => {
            let span = wanted.map_or_else(|| span.clone(), |text| text.span());
            return Err(document.error(&span, "pull-from-mirror is all, digest-only or tag-only"));
        }
    };
    Ok(Mirror { location, insecure: table.insecure, pulls, place: document.place(span) })
}

/// The text of a key, checked; none for an empty one.
fn checked(
    document: &Document,
    text: Option<&Spanned<String>>,
    key: &str,
    check: impl Fn(&str) -> Result<String, location::Flaw>,
) -> Result<Option<String>> {
    let Some(text) = text.filter(|text| !text.get_ref().is_empty()) else { return Ok(None) };
    let flaw = |flaw| document.error(&text.span(), format!("bad {key}: {flaw}"));
    check(text.get_ref()).map(Some).map_err(flaw)
}

/// A tag means the same everywhere, so that a prefix with one is rewritten to a location with the same.
fn check_suffixes(prefix: &str, location: &str, place: &Place) -> Result<()> {
    match location::suffix(prefix) == location::suffix(location) {
        true => Ok(()),
        false => Err(place.error("prefix and location must end in the same tag or digest, or both in none")),
    }
}
