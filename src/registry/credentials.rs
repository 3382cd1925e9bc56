//! The credentials for one repository: in which files they are looked for, and what these say at the moment.
//!
//! Assumes that the files are the user's own. They are read when a source is opened, to find what is wrong with them
//! early, and again each time that something is to be made of them: a mount outlives its password. Credential helpers
//! are run only then (see [`super::credential_helper`]). Secrets never reach an error or a log: errors name the file,
//! the line and the key, never a value.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Result};

use super::SourceOptions;
use super::access::Fingerprinter;
use super::config::HelperName;
use super::credential_file;
use super::credential_helper::Helper;
use super::credential_key::server_name;
use super::local_file::read_bounded;

/// Bytes of a credential file; one with a thousand registries has a tenth of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The user name by which files and helpers mark a secret as an identity token.
const IDENTITY_TOKEN_USER: &str = "<token>";

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
    /// What a file or a helper gives as user and secret; none if it gives neither, which is how some say that they have
    /// nothing.
    pub(super) fn new(username: String, password: String) -> Option<Self> {
        match username.as_str() {
            IDENTITY_TOKEN_USER => Some(Self::IdentityToken(password)),
            "" if password.is_empty() => None,
            _ => Some(Self::Password { username, password }),
        }
    }

    fn fingerprint(&self, of: &mut Fingerprinter) {
        match self {
            Self::Password { username, password } => {
                of.add("password").add(username).add(password);
            }
            Self::IdentityToken(token) => {
                of.add("identity token").add(token);
            }
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

/// One of the ways to a login that a file names.
#[derive(Debug)]
pub(super) enum Candidate {
    Known(Login),
    Helper(Helper),
}

/// Where the login for one repository is looked for.
#[derive(Clone, Debug)]
pub(super) struct Logins {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    host: String,
    repository: String,
    /// In the order in which they are asked.
    files: Vec<PathBuf>,
    are_required: bool,
    /// What the registries' configuration wants to be asked instead of the files, or with them among it; none: the files
    /// alone (containers-registries.conf(5), `credential-helpers`).
    helpers: Vec<HelperName>,
}

/// All that the files say about one repository at one time.
#[derive(Debug)]
pub(super) struct Said {
    /// In the order in which they are tried.
    candidates: Vec<Candidate>,
    /// The files that were read, for errors.
    files: Vec<PathBuf>,
}

/// What changes when a file of credentials is written to or replaced, for each of the files; none of one that is
/// missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<FileStamp>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl Logins {
    /// The files of `options`, for `repository` of the registry `host`; `helpers` are what the registries' configuration
    /// wants to be asked. Reads the files.
    ///
    /// # Errors
    /// `Invalid` for a malformed file, naming it and the line; a missing one is an error only if
    /// `options` says so.
    pub(super) fn open(
        host: &str,
        repository: &str,
        options: &SourceOptions,
        helpers: &[HelperName],
    ) -> Result<Self> {
        // A file that the user named is asked alone.
        let helpers = if options.auth_files_required { Vec::new() } else { helpers.to_vec() };
        let place = Place {
            host: host.to_owned(),
            repository: repository.to_owned(),
            files: options.auth_files.clone(),
            are_required: options.auth_files_required,
            helpers,
        };
        place.read()?;
        Ok(Self { place: Arc::new(place) })
    }

    /// What the files say now.
    ///
    /// # Errors
    /// `Unauthorized` for a file that is malformed or cannot be read: without it, what the registry wants is not there.
    pub(super) async fn read(&self) -> Result<Said> {
        let place = Arc::clone(&self.place);
        let said = off_thread(move || place.read()).await?;
        said.map_err(|error| Error::with_source(ErrorKind::Unauthorized, "no credentials can be had", error))
    }

    /// What tells whether the files are still what they were.
    pub(super) async fn stamp(&self) -> Stamp {
        let place = Arc::clone(&self.place);
        // One that cannot be taken is another one than before, which costs an attempt.
        off_thread(move || place.stamp()).await.unwrap_or_default()
    }
}

/// A file may lie on a disk that does not answer.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Io, format!("reading the credentials broke off: {error}")))
}

impl Place {
    fn read(&self) -> Result<Said> {
        let mut said = Said { candidates: Vec::new(), files: Vec::new() };
        if self.helpers.is_empty() {
            self.read_files(&mut said)?;
        }
        for helper in &self.helpers {
            if helper.is_auth_files() {
                self.read_files(&mut said)?;
                continue;
            }
            let found = Helper::new(&helper.name, server_name(&self.host), helper.file());
            said.candidates.push(Candidate::Helper(found.map_err(|why| helper.error(why))?));
            said.files.push(helper.file().to_owned());
        }
        Ok(said)
    }

    fn read_files(&self, said: &mut Said) -> Result<()> {
        for path in &self.files {
            let bytes = match read_bounded(path, FILE_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound && !self.are_required => continue,
                Err(error) => return Err(error.context("cannot use the credentials file")),
            };
            // Tools leave empty files behind where a login was undone.
            if !bytes.trim_ascii().is_empty() {
                let found = credential_file::candidates(path, &bytes, &self.host, &self.repository)?;
                said.candidates.extend(found);
            }
            said.files.push(path.clone());
        }
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some(FileStamp {
                device: metadata.dev(),
                inode: metadata.ino(),
                bytes: metadata.len(),
                modified_seconds: metadata.mtime(),
                modified_nanoseconds: metadata.mtime_nsec(),
            })
        };
        Stamp(self.files.iter().map(stamp).collect())
    }
}

impl Said {
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

    /// Adds to `of` what would be sent. Of a helper, that it would be asked, and for what: what it answers changes by
    /// the hour.
    pub(super) fn fingerprint(&self, of: &mut Fingerprinter) {
        for candidate in &self.candidates {
            match candidate {
                Candidate::Known(login) => return login.secret.fingerprint(of),
                Candidate::Helper(helper) => helper.fingerprint(of),
            }
        }
        of.add("nothing");
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
    let runtime = directory("XDG_RUNTIME_DIR").map(|directory| directory.join("containers"));
    let configuration = directory("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
    let docker = directory("DOCKER_CONFIG").or_else(|| below_home(".docker"));
    // Where there is no session, as for root and for services.
    let runtime = runtime
        .unwrap_or_else(|| PathBuf::from(format!("/run/containers/{}", rustix::process::getuid().as_raw())));
    [
        Some(runtime.join("auth.json")),
        configuration.map(|directory| directory.join("containers/auth.json")),
        docker.map(|directory| directory.join("config.json")),
        below_home(".dockercfg"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::durable;
    use crate::registry::config::RegistryConfig;

    fn options(files: &[PathBuf]) -> SourceOptions {
        SourceOptions { auth_files: files.to_vec(), ..Default::default() }
    }

    #[test]
    fn a_missing_file_matters_only_when_it_was_named() {
        let mut options = options(&["/nowhere/auth.json".into()]);
        Logins::open("r.example", "a", &options, &[]).unwrap();
        options.auth_files_required = true;
        let error = Logins::open("r.example", "a", &options, &[]).unwrap_err();
        assert!(error.chain().contains("/nowhere/auth.json"), "{}", error.chain());
    }

    #[test]
    fn the_configuration_of_registries_names_helpers() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let put = |name: &str, text: &str| durable::write(&path(name), text.as_bytes()).unwrap();
        put("auth.json", r#"{"auths":{"r.example":{"username":"user","password":"1"}}}"#);
        let mut options =
            SourceOptions { registry_config: Some(path("registries.conf")), ..options(&[path("auth.json")]) };
        let kinds = |options: &SourceOptions| -> Result<String> {
            let config = RegistryConfig::read(options)?;
            let said = Logins::open("r.example", "a", options, config.credential_helpers())?.place.read()?;
            let kind = |candidate| if matches!(candidate, &Candidate::Helper(_)) { 'h' } else { 'f' };
            Ok(said.candidates.iter().map(kind).collect())
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

    #[tokio::test]
    async fn the_files_are_read_again_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth.json");
        let put = |password: &str| {
            let text = format!(r#"{{"auths":{{"r.example":{{"username":"u","password":"{password}"}}}}}}"#);
            durable::write(&file, text.as_bytes()).unwrap();
        };
        put("one");
        let logins = Logins::open("r.example", "a", &options(std::slice::from_ref(&file)), &[]).unwrap();
        let stamp = logins.stamp().await;
        assert_eq!(logins.stamp().await, stamp);
        put("two");
        assert_ne!(logins.stamp().await, stamp);
        let login = logins.read().await.unwrap().find().await.unwrap().unwrap();
        assert_eq!(login.secret, Secret::Password { username: "u".into(), password: "two".into() });
        durable::write(&file, b"{").unwrap();
        let error = logins.read().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.chain().contains("auth.json, line 1"), "{}", error.chain());
        std::fs::remove_file(&file).unwrap();
        assert!(logins.read().await.unwrap().find().await.unwrap().is_none());
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
            [
                "/run/containers/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json",
                "/h/.dockercfg"
            ]
            .map(PathBuf::from)
        );
        let own = format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw());
        assert_eq!(files(&[("DOCKER_CONFIG", "/d")]), [own.into(), PathBuf::from("/d/config.json")]);
    }
}
