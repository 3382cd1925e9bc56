//! A private authority, as clusters have them, and certificates that only those trust who know it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::supervised::put;

/// What the kinds of certificates say. Nothing is taken from the machine's configuration.
const CONFIGURATION: &str = "\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1, DNS:localhost
extendedKeyUsage = serverAuth
[client]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth
[signer]
basicConstraints = CA:FALSE
";

/// An authority and what it has issued, all in files in the form of PEM: a certificate for servers on 127.0.0.1 and
/// localhost, one for clients, and one for the signing of tokens.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { directory: tempfile::tempdir().unwrap() };
        put(authority.directory.path(), "openssl.cnf", CONFIGURATION);
        for kind in ["authority", "server", "client", "signer"] {
            authority.issue(kind);
        }
        authority
    }

    /// The certificate of `kind`: `authority`, `server`, `client` or `signer`.
    pub(crate) fn certificate(&self, kind: &str) -> PathBuf {
        self.directory.path().join(format!("{kind}.crt"))
    }

    /// The key of such a certificate.
    pub(crate) fn key(&self, kind: &str) -> PathBuf {
        self.directory.path().join(format!("{kind}.key"))
    }

    fn issue(&self, kind: &str) {
        let configuration = self.directory.path().join("openssl.cnf");
        let (certificate, key) = (self.certificate(kind), self.key(kind));
        let (issuer, issuer_key) = (self.certificate("authority"), self.key("authority"));
        let [configuration, certificate, key, issuer, issuer_key] =
            [&configuration, &certificate, &key, &issuer, &issuer_key].map(|path| path.to_str().unwrap());
        let subject = format!("/CN=refmount test {kind}");
        let mut arguments = vec!["req", "-x509", "-config", configuration, "-extensions", kind];
        arguments.extend(["-nodes", "-days", "2", "-subj", &subject, "-keyout", key, "-out", certificate]);
        // Tokens are signed with RSA, which takes long to make.
        arguments.extend(match kind {
            "signer" => ["-newkey", "rsa:2048"].as_slice(),
            _ => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        });
        if kind != "authority" {
            arguments.extend(["-CA", issuer, "-CAkey", issuer_key]);
        }
        openssl(&arguments, b"");
    }
}

/// What openssl makes of `input`.
pub(crate) fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is missing; scripts/test installs it, or apt-get does");
    openssl.stdin.take().unwrap().write_all(input).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
