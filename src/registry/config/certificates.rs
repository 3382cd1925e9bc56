//! Directories with one host's certificates, as Docker and podman lay them out (containers-certs.d(5)): `*.crt` are
//! authorities, `NAME.cert` with `NAME.key` is what we show of ourselves.
//!
//! Only names are looked at here; the files are read when the first connection is made.

use std::ffi::OsStr;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::registry::route::{ClientIdentity, TlsSettings};

/// What the first of `directories` that has a directory for `host` (`HOST[:PORT]`) says of it.
///
/// # Errors
/// `Invalid` for a certificate without its key, and a key without its certificate; `Io`.
pub(super) fn for_host(host: &str, directories: &[PathBuf]) -> Result<TlsSettings> {
    for directory in directories {
        match super::entry_in_any_case(directory, host) {
            Ok(Some(found)) => return read(&found, Keys::Beside),
            Ok(None) => {}
            // The system's directories may be for other users.
            Err(error) if error.kind() == Io::PermissionDenied => {
                tracing::debug!(directory = %directory.display(), "certificates are not readable");
            }
            Err(error) => {
                return Err(error).context(|| format!("cannot read {}", directory.join(host).display()));
            }
        }
    }
    Ok(TlsSettings::default())
}

/// Where the keys of certificates are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// Each in a file of its own.
    Beside,
    /// There, or else in the certificate's file, as containerd has it.
    BesideOrWithin,
}

/// What the names in `directory` say.
///
/// # Errors
/// As [`for_host`].
pub(super) fn read(directory: &Path, keys: Keys) -> Result<TlsSettings> {
    let what = || format!("cannot read {}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).context(what)? {
        let path = entry.context(what)?.path();
        if !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    let with = |extension: &str| {
        let wanted = OsStr::new(extension).to_owned();
        files.iter().filter(move |path| path.extension() == Some(&wanted))
    };
    let mut identities = Vec::new();
    for certificate in with("cert") {
        let key = certificate.with_extension("key");
        let key = files.contains(&key).then_some(key);
        if key.is_none() && keys == Keys::Beside {
            let missing = certificate.with_extension("key");
            return Err(lone(certificate, &missing, "an authority's certificate ends in .crt"));
        }
        identities.push(ClientIdentity { certificate: certificate.clone(), key });
    }
    for key in with("key").filter(|_| keys == Keys::Beside) {
        let certificate = key.with_extension("cert");
        if !files.contains(&certificate) {
            return Err(lone(key, &certificate, "a client's certificate ends in .cert"));
        }
    }
    let authorities = with("crt").cloned().collect();
    Ok(TlsSettings { authorities, client: only(identities, directory), skip_verify: false })
}

/// The identity to show: the first, as long as nobody has asked for one in particular.
pub(super) fn only(identities: Vec<ClientIdentity>, place: &Path) -> Option<ClientIdentity> {
    if identities.len() > 1 {
        let place = place.display();
        tracing::warn!(%place, "of several client certificates, only the first one is used");
    }
    identities.into_iter().next()
}

fn lone(file: &Path, missing: &Path, note: &str) -> Error {
    let (file, missing) = (file.display(), missing.display());
    let text = format!("{file} is there without {missing}; put that beside it, or remove the file ({note})");
    Error::new(ErrorKind::Invalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(path).unwrap();
        }
        directory
    }

    #[test]
    fn the_first_directory_that_has_the_host_counts() {
        let first = directory(&["other.example/ca.crt"]);
        let second = directory(&["r.example:5000/b.crt", "r.example:5000/a.crt", "r.example:5000/readme"]);
        let third = directory(&["r.example:5000/c.crt", "r.example/c.cert", "r.example/c.key"]);
        let directories = [&first, &second, &third].map(|directory| directory.path().to_owned());
        let found = for_host("r.example:5000", &directories).unwrap();
        let host = directories[1].join("r.example:5000");
        assert_eq!(found.authorities, [host.join("a.crt"), host.join("b.crt")]);
        assert_eq!(found.client, None);
        let found = for_host("r.example", &directories).unwrap();
        let host = directories[2].join("r.example");
        let client = ClientIdentity { certificate: host.join("c.cert"), key: Some(host.join("c.key")) };
        assert_eq!(found, TlsSettings { client: Some(client), ..TlsSettings::default() });
        assert_eq!(for_host("x.example", &directories).unwrap(), TlsSettings::default());
    }

    #[test]
    fn half_an_identity_is_refused_by_name() {
        for (there, missing) in [("client.cert", "client.key"), ("client.key", "client.cert")] {
            let directory = directory(&[&format!("r.example/{there}")]);
            let error = for_host("r.example", &[directory.path().to_owned()]).unwrap_err();
            let missing = directory.path().join("r.example").join(missing).display().to_string();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.chain().contains(&missing), "{}", error.chain());
        }
        let directory = directory(&["r.example/client.cert"]);
        let found = read(&directory.path().join("r.example"), Keys::BesideOrWithin).unwrap();
        assert_eq!(found.client.unwrap().key, None);
    }
}
