//! A file with credentials: what it says about one repository.
//!
//! Docker's `config.json`, podman's `auth.json` and Kubernetes' `.dockerconfigjson` are one format; the older
//! `.dockercfg` is what stands under `auths` there. Which of them a file is, its content tells. Pure parsing: nothing
//! here reads a file or runs a helper.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::base::{Error, ErrorKind, Result};

use super::credential_helper::Helper;
use super::credential_key::{Key, server_name};
use super::credentials::{Candidate, Login, Secret};

/// `auth` fields come with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
struct AuthFile {
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    /// Settings of no use here; of a `.dockercfg`, the entries.
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Entry {
    /// The secret; nothing for an entry that only remembers that a store has it.
    ///
    /// # Errors
    /// What is wrong with it, without its content.
    fn secret(&self) -> Result<Option<Secret>, &'static str> {
        fn given(field: &Option<String>) -> Option<&String> {
            field.as_ref().filter(|text| !text.is_empty())
        }
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Secret::IdentityToken(token.clone())));
        }
        if let Some(auth) = given(&self.auth) {
            let bytes = BASE64.decode(auth.trim()).map_err(|_| "the field auth is not base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "the field auth is not text")?;
            let (username, password) = text.split_once(':').ok_or("the field auth lacks a colon")?;
            // Docker pads some of its own with NUL.
            return Ok(Secret::new(username.into(), password.trim_end_matches('\0').into()));
        }
        Ok(given(&self.username)
            .zip(self.password.as_ref())
            .and_then(|(username, password)| Secret::new(username.clone(), password.clone())))
    }
}

/// The bytes of a file, and where they are from.
struct Source<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

impl Source<'_> {
    fn parse(&self) -> Result<AuthFile> {
        // The parser's own message may quote the value that it did not expect.
        serde_json::from_slice(self.bytes).map_err(|error| {
            let why = if error.is_data() { "a field is not what it should be" } else { "not valid JSON" };
            self.malformed(error.line(), why)
        })
    }

    fn malformed(&self, line: usize, why: &str) -> Error {
        let path = self.path.display();
        Error::new(ErrorKind::Invalid, format!("malformed credentials file {path}, line {line}: {why}"))
    }

    fn malformed_at(&self, key: &str, why: &str) -> Error {
        self.malformed(self.line_of(key), why)
    }

    /// The line on which the JSON key `key` first stands.
    fn line_of(&self, key: &str) -> usize {
        let quoted = serde_json::Value::from(key).to_string();
        let text = String::from_utf8_lossy(self.bytes);
        let place = text.find(&quoted).unwrap_or(0);
        text[..place].matches('\n').count() + 1
    }

    fn helper(&self, name: &str, server: &str, key: &str) -> Result<Candidate> {
        let helper = Helper::new(name, server, self.path).map_err(|why| self.malformed_at(key, why))?;
        Ok(Candidate::Helper(helper))
    }

    /// The entries of a file without `auths`: settings are words, and what has an entry is a host.
    fn bare_entries(&self, others: BTreeMap<String, serde_json::Value>) -> Result<BTreeMap<String, Entry>> {
        let is_host = |key: &str| key == "localhost" || key.contains(['.', ':', '/']);
        let entries = others.into_iter().filter(|(key, _)| is_host(key)).map(|(key, value)| {
            let entry = serde_json::from_value(value)
                .map_err(|_| self.malformed_at(&key, "a field is not what it should be"))?;
            Ok((key, entry))
        });
        entries.collect()
    }
}

/// What the file at `path` says about `repository` of `host`, in the order in which it counts: a helper named for this
/// registry, an entry, the store for all.
///
/// # Errors
/// `Invalid`, naming the file and the line.
pub(super) fn candidates(path: &Path, bytes: &[u8], host: &str, repository: &str) -> Result<Vec<Candidate>> {
    let source = Source { path, bytes };
    let file = source.parse()?;
    let mut candidates = Vec::new();
    let server = server_name(host);
    let mut uses_store = true;
    for (key, name) in file.helpers.iter().flatten() {
        if Key::parse(key).is_host(host) {
            // A helper without a name is how a registry is kept out of the store.
            uses_store = false;
            if !name.is_empty() {
                candidates.push(source.helper(name, server, key)?);
            }
        }
    }
    let is_bare = file.auths.is_none() && file.helpers.is_none() && file.store.is_none();
    let entries = if is_bare { source.bare_entries(file.others)? } else { file.auths.unwrap_or_default() };
    let mut fitting: Vec<_> = entries
        .iter()
        .filter_map(|(text, entry)| Some((Key::parse(text).fit(host, repository)?, text, entry)))
        .collect();
    fitting.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    for (_, key, entry) in fitting {
        if let Some(secret) = entry.secret().map_err(|why| source.malformed_at(key, why))? {
            candidates.push(Candidate::Known(Login { secret, file: path.to_owned() }));
            break;
        }
    }
    if let Some(name) = file.store.filter(|name| uses_store && !name.is_empty()) {
        candidates.push(source.helper(&name, server, "credsStore")?);
    }
    Ok(candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str, host: &str, repository: &str) -> Result<Option<Secret>> {
        let candidates = candidates(Path::new("/auth.json"), text.as_bytes(), host, repository)?;
        Ok(candidates.into_iter().find_map(|candidate| match candidate {
            Candidate::Known(login) => Some(login.secret),
            Candidate::Helper(_) => None,
        }))
    }

    fn password(username: &str, password: &str) -> Option<Secret> {
        Some(Secret::Password { username: username.into(), password: password.into() })
    }

    #[test]
    fn the_most_specific_key_counts() {
        let text = r#"{"auths":{
            "r.example":{"username":"host","password":"1"},
            "r.example/a":{"username":"namespace","password":"2"},
            "r.example/a/b":{"username":"repository","password":"3"},
            "r.example/a/bc":{"username":"other","password":"4"},
            "*.example/a/b":{"username":"any","password":"5"}}}"#;
        for (host, repository, user, secret) in [
            ("r.example", "a/b", "repository", "3"),
            ("r.example", "a/c", "namespace", "2"),
            ("r.example", "ab/c", "host", "1"),
            ("r.example", "z", "host", "1"),
            ("q.example", "a/b", "any", "5"),
        ] {
            assert_eq!(login(text, host, repository).unwrap(), password(user, secret), "{host}/{repository}");
        }
        assert_eq!(login(text, "r.example:5000", "a/b").unwrap(), None);
    }

    #[test]
    fn keys_as_dockers_tools_write_them() {
        // "user:pass:word", without padding where it could have some.
        for key in ["https://index.docker.io/v1/", "docker.io", "http://docker.io/v2", "INDEX.docker.io"] {
            let entry = format!(r#""{key}":{{"auth":"dXNlcjpwYXNzOndvcmQ","email":"u@example.invalid"}}"#);
            for text in [format!(r#"{{"auths":{{{entry}}}}}"#), format!("{{{entry}}}")] {
                let found = login(&text, "docker.io", "library/alpine").unwrap();
                assert_eq!(found, password("user", "pass:word"), "{text}");
            }
        }
    }

    #[test]
    fn an_entry_without_user_and_password_is_none() {
        for entry in ["{}", r#"{"auth":"Og=="}"#, r#"{"auth":"","username":"","password":""}"#] {
            let text = format!(
                r#"{{"auths":{{"r.example/a":{entry},"r.example":{{"username":"u","password":""}}}}}}"#
            );
            assert_eq!(login(&text, "r.example", "a").unwrap(), password("u", ""), "{entry}");
        }
    }

    #[test]
    fn settings_beside_the_entries_are_none() {
        let text = r#"{"detachKeys":"ctrl-x","HttpHeaders":{"X":"y"},"r.example:5000":{"username":"u","password":"p"}}"#;
        assert_eq!(login(text, "r.example:5000", "a").unwrap(), password("u", "p"));
        // Beside `auths` there are settings only.
        let text = r#"{"auths":{},"r.example":{"username":"u","password":"p"}}"#;
        assert_eq!(login(text, "r.example", "a").unwrap(), None);
    }

    #[test]
    fn identity_tokens_in_both_spellings() {
        for entry in [r#"{"auth":"dTpw","identitytoken":"T"}"#, r#"{"username":"<token>","password":"T"}"#] {
            let text = format!(r#"{{"auths":{{"r.example":{entry}}}}}"#);
            assert_eq!(login(&text, "r.example", "a").unwrap(), Some(Secret::IdentityToken("T".into())));
        }
    }

    #[test]
    fn who_is_asked_for_what_is_not_in_the_file() {
        let store = r#""auths":{"r.example":{}},"credsStore":"desktop""#;
        for (helpers, host, count) in [
            ("null", "r.example", 1),
            (r#"{"https://r.example":"own"}"#, "r.example", 1),
            (r#"{"https://r.example:443/v2/":"own"}"#, "r.example", 1),
            (r#"{"r.example":""}"#, "r.example", 0),
            (r#"{"index.docker.io":"own"}"#, "docker.io", 1),
        ] {
            let text = format!(r#"{{{store},"credHelpers":{helpers}}}"#);
            let candidates = candidates(Path::new("/c.json"), text.as_bytes(), host, "a").unwrap();
            assert_eq!(candidates.len(), count, "{text}: {candidates:?}");
            let is_own = format!("{candidates:?}").contains("docker-credential-own");
            assert_eq!(is_own, helpers.contains("own") && !helpers.contains("443"), "{text}: {candidates:?}");
        }
    }

    #[test]
    fn a_malformed_file_is_an_error_with_its_line_and_without_its_secrets() {
        for (text, line) in [
            ("{\n\"auths\":{\n\"r.example\":{\"auth\":\"!hunter2!\"}}}", 3),
            ("{\n\"auths\":{\"r.example\":{\"auth\":[\"hunter2\"]}}}", 2),
            ("{\n\"auths\":\n\"hunter2\"}", 3),
            ("hunter2", 1),
            ("{\n\"credHelpers\":{\n\"r.example\":\"../hunter2\"}}", 3),
            ("{\n\"r.example\":{\"auth\":\"!hunter2!\"}}", 2),
            ("{\n\n\"r.example\":\"hunter2\"}", 3),
            ("[\"hunter2\"]", 1),
        ] {
            let error = login(text, "r.example", "a").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let shown = error.chain();
            assert!(shown.contains(&format!("/auth.json, line {line}: ")), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
