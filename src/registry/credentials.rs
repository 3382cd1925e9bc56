//! The credential files of Docker and podman: which one knows a repository, and what it says.
//!
//! Assumes that the files are the user's own. They are read once, when a source is opened; credential
//! helpers are run when a registry asks (see [`super::credential_helper`]). Secrets never reach an error or
//! a log: errors name the file, the line and the key, never a value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::base::{Error, ErrorKind, Result};

use super::SourceOptions;
use super::config::RegistryConfig;
use super::credential_helper::Helper;
use super::local_file::read_bounded;

/// Bytes of a credential file; one with a thousand registries has a tenth of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The user name by which files and helpers mark a secret as an identity token.
const IDENTITY_TOKEN_USER: &str = "<token>";

/// `auth` fields come with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// User and password.
    Password {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token for the token server (distribution, "OAuth2 Token Authentication").
    IdentityToken(String),
}

impl Secret {
    /// What a file or a helper gives as user and secret.
    pub(super) fn new(username: String, password: String) -> Self {
        match username.as_str() {
            IDENTITY_TOKEN_USER => Self::IdentityToken(password),
            _ => Self::Password { username, password },
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A secret and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) secret: Secret,
    /// The file that held it or named its helper.
    pub(super) file: PathBuf,
}

/// All that the credential files say about one repository.
#[derive(Debug)]
pub(super) struct Logins {
    /// In the order in which they are tried.
    candidates: Vec<Candidate>,
    /// The files that were read, for errors.
    files: Vec<PathBuf>,
}

#[derive(Debug)]
enum Candidate {
    Known(Login),
    Helper(Helper),
}

impl Logins {
    /// Reads the files of `options` for `repository` of the registry `host`, or what the registries' configuration wants
    /// to be asked instead (containers-registries.conf(5), `credential-helpers`).
    ///
    /// # Errors
    /// `Invalid` for a malformed file, naming it and the line; a missing one is an error only if
    /// `options` says so.
    pub(super) fn read(host: &str, repository: &str, options: &SourceOptions) -> Result<Self> {
        let mut logins = Self { candidates: Vec::new(), files: Vec::new() };
        let config = RegistryConfig::read(options)?;
        let helpers = config.credential_helpers();
        // A file that the user named is asked alone.
        if helpers.is_empty() || options.auth_files_required {
            logins.add_files(host, repository, options)?;
            return Ok(logins);
        }
        for helper in helpers {
            if helper.is_auth_files() {
                logins.add_files(host, repository, options)?;
                continue;
            }
            let found = Helper::new(&helper.name, server_name(host), helper.file());
            logins.candidates.push(Candidate::Helper(found.map_err(|why| helper.error(why))?));
            logins.files.push(helper.file().to_owned());
        }
        Ok(logins)
    }

    fn add_files(&mut self, host: &str, repository: &str, options: &SourceOptions) -> Result<()> {
        for path in &options.auth_files {
            let bytes = match read_bounded(path, FILE_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound && !options.auth_files_required => continue,
                Err(error) => return Err(error.context("cannot use the credentials file")),
            };
            // Tools leave empty files behind where a login was undone.
            if !bytes.trim_ascii().is_empty() {
                self.candidates.extend(candidates_in(path, &bytes, host, repository)?);
            }
            self.files.push(path.clone());
        }
        Ok(())
    }

    /// The first login there is; runs credential helpers.
    ///
    /// # Errors
    /// Those of the helper.
    pub(super) async fn find(&self) -> Result<Option<Login>> {
        for candidate in &self.candidates {
            match candidate {
                Candidate::Known(login) => return Ok(Some(login.clone())),
                Candidate::Helper(helper) => {
                    if let Some(secret) = helper.get().await? {
                        return Ok(Some(Login { secret, file: helper.file.clone() }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The files that were asked, as a sentence shows them.
    pub(super) fn files(&self) -> String {
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        if files.is_empty() { "any credentials file (there is none)".to_owned() } else { files.join(", ") }
    }
}

/// Where the tools of Docker and podman keep credentials, in the order in which podman asks them.
/// `variable` reads the environment.
#[must_use]
pub fn default_auth_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let directory = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = directory("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = directory("HOME");
    let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
    let configuration = directory("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
    let docker = directory("DOCKER_CONFIG").or_else(|| below_home(".docker"));
    [
        directory("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
        configuration.map(|directory| directory.join("containers/auth.json")),
        docker.map(|directory| directory.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[derive(Deserialize)]
struct AuthFile {
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
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
            return Ok(Some(Secret::new(username.into(), password.trim_end_matches('\0').into())));
        }
        Ok(given(&self.username)
            .zip(self.password.as_ref())
            .map(|(username, password)| Secret::new(username.clone(), password.clone())))
    }
}

/// What one file says, in the order in which it counts: a helper named for this registry, an entry, the
/// store for all.
fn candidates_in(path: &Path, bytes: &[u8], host: &str, repository: &str) -> Result<Vec<Candidate>> {
    let malformed = |line: usize, why: &str| {
        Error::new(
            ErrorKind::Invalid,
            format!("malformed credentials file {}, line {line}: {why}", path.display()),
        )
    };
    // The parser's own message may quote the value that it did not expect.
    let file: AuthFile = serde_json::from_slice(bytes).map_err(|error| {
        let why = if error.is_data() { "a field is not what it should be" } else { "not valid JSON" };
        malformed(error.line(), why)
    })?;
    let mut candidates = Vec::new();
    let helper = |name: &str, key: &str| {
        Helper::new(name, server_name(host), path)
            .map_err(|why| malformed(line_of(bytes, key), why))
            .map(Candidate::Helper)
    };
    for (key, name) in file.helpers.iter().flatten() {
        if key_of(key) == canonical_host(host) && !name.is_empty() {
            candidates.push(helper(name, key)?);
        }
    }
    let entries = file.auths.unwrap_or_default();
    'entries: for wanted in keys_for(host, repository) {
        for (key, entry) in entries.iter().filter(|(key, _)| key_of(key) == wanted) {
            if let Some(secret) = entry.secret().map_err(|why| malformed(line_of(bytes, key), why))? {
                candidates.push(Candidate::Known(Login { secret, file: path.to_owned() }));
                break 'entries;
            }
        }
    }
    if let Some(name) = file.store.filter(|name| !name.is_empty()) {
        candidates.push(helper(&name, "credsStore")?);
    }
    Ok(candidates)
}

/// `host/ns/repo`, `host/ns`, `host`: the most specific key first, as podman looks them up.
fn keys_for(host: &str, repository: &str) -> Vec<String> {
    let host = canonical_host(host);
    let whole = format!("{host}/{repository}");
    let cuts = whole.rmatch_indices('/').map(|(place, _)| whole[..place].to_owned());
    std::iter::once(whole.clone()).chain(cuts).collect()
}

/// The canonical form of a key: without the scheme and the API version that Docker's tools write.
fn key_of(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    match path.trim_end_matches('/') {
        "" | "v1" | "v2" => canonical_host(host),
        path => format!("{}/{path}", canonical_host(host)),
    }
}

/// What helpers call `host`.
fn server_name(host: &str) -> &str {
    if canonical_host(host) == "docker.io" { "https://index.docker.io/v1/" } else { host }
}

/// One name for Docker Hub, which has several.
fn canonical_host(host: &str) -> String {
    match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// The line on which the JSON key `key` first stands.
fn line_of(bytes: &[u8], key: &str) -> usize {
    let quoted = serde_json::Value::from(key).to_string();
    let text = String::from_utf8_lossy(bytes);
    let place = text.find(&quoted).unwrap_or(0);
    text[..place].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str, host: &str, repository: &str) -> Result<Option<Secret>> {
        let candidates = candidates_in(Path::new("/auth.json"), text.as_bytes(), host, repository)?;
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
            "r.example/a/bc":{"username":"other","password":"4"}}}"#;
        for (repository, user, secret) in
            [("a/b", "repository", "3"), ("a/c", "namespace", "2"), ("ab/c", "host", "1"), ("z", "host", "1")]
        {
            assert_eq!(login(text, "r.example", repository).unwrap(), password(user, secret), "{repository}");
        }
        assert_eq!(login(text, "r.example:5000", "a/b").unwrap(), None);
    }

    #[test]
    fn keys_as_dockers_tools_write_them() {
        // "user:pass:word", without padding where it could have some.
        for key in ["https://index.docker.io/v1/", "docker.io", "http://docker.io/v2", "INDEX.docker.io"] {
            let text = format!(r#"{{"auths":{{"{key}":{{"auth":"dXNlcjpwYXNzOndvcmQ"}}}}}}"#);
            assert_eq!(login(&text, "docker.io", "library/alpine").unwrap(), password("user", "pass:word"));
        }
    }

    #[test]
    fn identity_tokens_in_both_spellings() {
        for entry in [r#"{"auth":"dTpw","identitytoken":"T"}"#, r#"{"username":"<token>","password":"T"}"#] {
            let text = format!(r#"{{"auths":{{"r.example":{entry}}}}}"#);
            assert_eq!(login(&text, "r.example", "a").unwrap(), Some(Secret::IdentityToken("T".into())));
        }
    }

    #[test]
    fn an_entry_without_a_secret_is_left_to_the_store() {
        let text = r#"{"auths":{"r.example":{}},"credHelpers":null,"credsStore":"desktop"}"#;
        let candidates = candidates_in(Path::new("/c.json"), text.as_bytes(), "r.example", "a").unwrap();
        assert!(matches!(&candidates[..], [Candidate::Helper(_)]), "{candidates:?}");
    }

    #[test]
    fn a_malformed_file_is_an_error_with_its_line_and_without_its_secrets() {
        for (text, line) in [
            ("{\n\"auths\":{\n\"r.example\":{\"auth\":\"!hunter2!\"}}}", 3),
            ("{\n\"auths\":{\"r.example\":{\"auth\":[\"hunter2\"]}}}", 2),
            ("{\n\"auths\":\n\"hunter2\"}", 3),
            ("hunter2", 1),
            ("{\n\"credHelpers\":{\n\"r.example\":\"../hunter2\"}}", 3),
        ] {
            let error = login(text, "r.example", "a").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let shown = error.chain();
            assert!(shown.contains(&format!("/auth.json, line {line}: ")), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_missing_file_matters_only_when_it_was_named() {
        let mut options =
            SourceOptions { auth_files: vec!["/nowhere/auth.json".into()], ..Default::default() };
        Logins::read("r.example", "a", &options).unwrap();
        options.auth_files_required = true;
        let error = Logins::read("r.example", "a", &options).unwrap_err();
        assert!(error.chain().contains("/nowhere/auth.json"), "{}", error.chain());
    }

    #[test]
    fn the_configuration_of_registries_names_helpers() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let put = |name: &str, text: &str| {
            std::io::Write::write_all(&mut std::fs::File::create(path(name)).unwrap(), text.as_bytes())
                .unwrap();
        };
        put("auth.json", r#"{"auths":{"r.example":{"username":"user","password":"1"}}}"#);
        let mut options = SourceOptions {
            auth_files: vec![path("auth.json")],
            registry_config: Some(path("registries.conf")),
            ..Default::default()
        };
        let kinds = |options: &SourceOptions| -> Result<String> {
            let logins = Logins::read("r.example", "a", options)?;
            let kind = |candidate| if matches!(candidate, &Candidate::Helper(_)) { 'h' } else { 'f' };
            Ok(logins.candidates.iter().map(kind).collect())
        };
        for (list, expected) in
            [("[]", "f"), ("['one', 'two']", "hh"), ("['one', 'containers-auth.json', 'two']", "hfh")]
        {
            put("registries.conf", &format!("credential-helpers = {list}"));
            assert_eq!(kinds(&options).unwrap(), expected, "{list}");
        }
        put("registries.conf", "credential-helpers = [\n'../evil']");
        let error = kinds(&options).unwrap_err().chain();
        assert!(error.contains("registries.conf, line 2: "), "{error}");
        options.auth_files_required = true;
        assert_eq!(kinds(&options).unwrap(), "f");
    }

    #[test]
    fn where_the_files_are() {
        let files = |variables: &[(&str, &str)]| {
            let variables: BTreeMap<String, OsString> =
                variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            default_auth_files(|name| variables.get(name).cloned())
        };
        assert_eq!(files(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/f")]), [PathBuf::from("/f")]);
        assert_eq!(
            files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run"), ("REGISTRY_AUTH_FILE", "")]),
            ["/run/containers/auth.json", "/h/.config/containers/auth.json", "/h/.docker/config.json"]
                .map(PathBuf::from)
        );
        assert_eq!(files(&[("DOCKER_CONFIG", "/d")]), [PathBuf::from("/d/config.json")]);
    }
}
