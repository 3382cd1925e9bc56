//! Names without a registry, as containers-registries.conf(5) completes them: an alias, else the registries to search.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::base::{Error, ErrorKind, Result};
use crate::oci::{RegistryRef, ShortRef};

use super::document::Place;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct ShortNames {
    pub(super) aliases: BTreeMap<String, Option<Alias>>,
    pub(super) search: Option<SearchList>,
    pub(super) mode: Option<(Mode, Place)>,
}

/// What a short name stands for.
#[derive(Clone, Debug)]
pub(super) struct Alias {
    pub(super) host: String,
    pub(super) repository: String,
}

/// The registries that are searched, in their order.
#[derive(Debug)]
pub(super) struct SearchList {
    pub(super) registries: Vec<String>,
    pub(super) place: Place,
}

/// What becomes of a name that several registries may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The user chooses.
    Enforcing,
    /// They are asked in their order.
    AllInOrder,
}

impl ShortNames {
    /// The references that `short` may stand for, in the order in which they are tried. Never empty. `files` is what
    /// was read, for errors.
    ///
    /// # Errors
    /// `Usage` where there is none, or where the choice is the user's.
    pub(super) fn candidates(&self, short: &ShortRef, files: &[PathBuf]) -> Result<Vec<RegistryRef>> {
        if let Some(Some(alias)) = self.aliases.get(&short.name) {
            let Alias { host, repository } = alias.clone();
            let ShortRef { tag, digest, .. } = short.clone();
            return Ok(vec![RegistryRef { host, repository, tag, digest }]);
        }
        let registries = self.search.as_ref().map_or(&[][..], |search| &search.registries);
        let candidates =
            registries.iter().map(|registry| short.at(registry)).collect::<Result<Vec<RegistryRef>>>()?;
        match (&candidates[..], &self.mode) {
            ([], _) => Err(self.no_registry(short, files)),
            ([_, _, ..], Some((Mode::Enforcing, place))) => Err(ambiguous(short, &candidates, place)),
            _ => Ok(candidates),
        }
    }

    fn no_registry(&self, short: &ShortRef, files: &[PathBuf]) -> Error {
        let place = match &self.search {
            Some(search) => search.place.to_string(),
            None => files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", "),
        };
        let written_out =
            short.at("docker.io").map_or_else(|_| "HOST/REPO".to_owned(), |found| found.to_string());
        let text = format!(
            "{short} names no registry, and there is neither an alias for it nor a registry to search \
             (unqualified-search-registries) in {place}; write the registry out, such as {written_out}, or add one there"
        );
        Error::new(ErrorKind::Usage, text)
    }
}

fn ambiguous(short: &ShortRef, candidates: &[RegistryRef], place: &Place) -> Error {
    let candidates: Vec<String> = candidates.iter().map(RegistryRef::to_string).collect();
    let text = format!(
        "{short} may be {}, and short-name-mode = \"enforcing\" ({place}) leaves the choice to you; write out the one that \
         you mean, or give it an alias there",
        candidates.join(" or ")
    );
    Error::new(ErrorKind::Usage, text)
}
