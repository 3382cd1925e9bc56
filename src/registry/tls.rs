//! Whom TLS trusts and who we are in it, read from the files that a route names.
//!
//! A file that is named and cannot be used is an error that names it. Keys never reach an error or a log.

use std::path::Path;

use reqwest::{Certificate, ClientBuilder, Identity};

use crate::base::{Error, ErrorKind, Result};

use super::local_file::read_bounded;
use super::route::{ClientIdentity, TlsSettings};

/// Bytes of a PEM file; the bundle of all public authorities has a fifth of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The content of the files.
#[derive(Debug)]
pub(super) struct Trust {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
    skip_verify: bool,
}

impl TlsSettings {
    /// Reads the files.
    ///
    /// # Errors
    /// `NotFound` or `Io` for a file that cannot be read, `Invalid` for one that does not hold what it should.
    pub(super) fn read(&self) -> Result<Trust> {
        let mut authorities = Vec::new();
        for path in &self.authorities {
            let found = Certificate::from_pem_bundle(&read(path)?).unwrap_or_default();
            if found.is_empty() {
                return Err(malformed(path, "PEM certificate"));
            }
            authorities.extend(found);
        }
        let identity = self.client.as_ref().map(ClientIdentity::read).transpose()?;
        Ok(Trust { authorities, identity, skip_verify: self.skip_verify })
    }
}

impl ClientIdentity {
    fn read(&self) -> Result<Identity> {
        let mut pem = read(&self.certificate)?;
        if let Some(key) = &self.key {
            pem.push(b'\n');
            pem.extend(read(key)?);
        }
        // The parser's message may quote what it did not expect.
        let key = self.key.as_ref().unwrap_or(&self.certificate);
        Identity::from_pem(&pem).map_err(|_| malformed(key, "PEM key that fits its certificate"))
    }
}

impl Trust {
    /// `builder` with this trust beside that of the system, and our identity if it is shown.
    pub(super) fn apply(&self, builder: ClientBuilder, shows_identity: bool) -> ClientBuilder {
        let builder = builder
            .tls_certs_merge(self.authorities.iter().cloned())
            .tls_danger_accept_invalid_certs(self.skip_verify);
        match self.identity.as_ref().filter(|_| shows_identity) {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
    }

    /// `builder`, which trusts nobody else.
    pub(super) fn alone(&self, builder: ClientBuilder) -> ClientBuilder {
        builder.tls_certs_only(self.authorities.iter().cloned())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read_bounded(path, FILE_BYTES_MAX).map_err(|error| error.context("cannot use a file for TLS"))
}

fn malformed(path: &Path, expected: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{} holds no {expected}", path.display()))
}
