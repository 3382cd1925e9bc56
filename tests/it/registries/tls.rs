//! A registry behind TLS with the certificate of a private authority, which wants a user and a password, and may want
//! the certificate of a client too.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{PASSWORD, REPOSITORY, Site, USER, origin};
use crate::support::authority::{Authority, openssl};
use crate::support::nginx::Nginx;
use crate::workplace::{assert_done, stderr, stdout, wait_until};

/// Such a registry.
pub(super) struct Secured {
    pub(super) proxy: Nginx,
    pub(super) authority: Authority,
    _users: tempfile::TempDir,
}

impl Secured {
    /// One over the registry of all tests here.
    pub(super) fn start(wants_client_certificate: bool) -> Self {
        let (authority, users) = (Authority::new(), tempfile::tempdir().unwrap());
        let hash = openssl(&["passwd", "-apr1", "-stdin"], PASSWORD.as_bytes());
        let hash = String::from_utf8(hash).unwrap();
        let file = users.path().join("users");
        refmount::base::durable::write(&file, format!("{USER}:{hash}").as_bytes()).unwrap();
        let mut settings = format!(
            "ssl_certificate {}; ssl_certificate_key {};\nauth_basic registry; auth_basic_user_file {};\n",
            authority.certificate("server").display(),
            authority.key("server").display(),
            file.display(),
        );
        if wants_client_certificate {
            let trusted = authority.certificate("authority");
            settings += &format!("ssl_client_certificate {}; ssl_verify_client on;\n", trusted.display());
        }
        let proxy = Nginx::before(origin().registry.host(), "ssl http2", &settings);
        Self { proxy, authority, _users: users }
    }

    /// A place to mount from it, with the right credentials in a file.
    pub(super) fn site(&self) -> Site {
        let site = Site::at(self.proxy.host());
        site.put_login(PASSWORD);
        site
    }

    /// A mount that takes the machine's authorities from the environment.
    fn trusting_mount(&self, site: &Site) -> Command {
        let mut command = site.mount_command(&["--authfile=auth.json"]);
        command.env("SSL_CERT_FILE", self.authority.certificate("authority"));
        command
    }
}

/// The error that was printed; what is logged may come before and after it.
fn error_line(said: &str) -> &str {
    said.lines().find(|line| line.starts_with("refmount: ")).unwrap_or_else(|| panic!("no error: {said}"))
}

#[test]
fn an_unknown_authority_is_refused_with_host_and_remedy() {
    let registry = Secured::start(false);
    let site = registry.site();
    let output = site.run(&mut site.mount_command(&["--authfile=auth.json"]));
    let said = stderr(&output);
    assert!(!output.status.success());
    let error = error_line(&said);
    for words in [registry.proxy.host(), "certificate that is not trusted", "authority"] {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
    assert!(!site.workplace.is_mounted("mnt"));
    assert!(registry.proxy.passages().is_empty(), "nothing was sent to it");
    site.assert_discreet(&[]);
}

#[test]
fn a_server_that_refuses_the_handshake_is_not_asked_again_and_again() {
    let authority = Authority::new();
    let settings = format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.1;",
        authority.certificate("server").display(),
        authority.key("server").display()
    );
    let server = Nginx::start("ssl", &settings);
    let site = Site::at(server.host());
    let said = stderr(&site.run(&mut site.mount_command(&[])));
    let error = error_line(&said);
    assert!(error.contains(&format!("{} refuses the connection", server.host())), "{error}");
    assert!(!said.contains("trying again"), "{said}");
}

#[test]
fn a_certificate_that_is_not_checked_is_not_called_trusted() {
    let registry = Secured::start(false);
    let site = registry.site();
    let text = format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", site.host);
    site.workplace.put("registries.conf", text.as_bytes());
    let reference = format!("{}/{REPOSITORY}:v1", site.host);
    let options = ["doctor", "--authfile=auth.json", "--registry-config=registries.conf", &reference];
    let said = stdout(&site.run(&mut site.command(&options)));
    let line = said.lines().find(|line| line.split_whitespace().nth(1) == Some("tls"));
    assert!(line.is_some_and(|line| line.starts_with("warning") && line.contains("not checked")), "{said}");
}

#[test]
fn an_authority_of_the_machine_is_trusted() {
    let registry = Secured::start(false);
    let site = registry.site();
    assert_done(&site.run(&mut registry.trusting_mount(&site)));
    site.read_slowly(Duration::ZERO);
    site.assert_reads_whole();
    site.assert_discreet(&[]);
}

#[test]
fn manifests_come_over_http_2_and_ranges_of_blobs_over_connections_of_their_own() {
    let registry = Secured::start(false);
    let site = registry.site();
    assert_done(&site.run(&mut registry.trusting_mount(&site)));
    site.read_slowly(Duration::ZERO);
    let spoken_for = |kind: &str| -> BTreeSet<String> {
        let passages = registry.proxy.passages().into_iter().filter(|passage| passage.path.contains(kind));
        passages.map(|passage| passage.protocol).collect()
    };
    wait_until("both are logged", || {
        ["/manifests/", "/blobs/"].iter().all(|kind| !spoken_for(kind).is_empty())
    });
    assert_eq!(spoken_for("/manifests/"), ["HTTP/2.0".to_owned()].into());
    assert_eq!(spoken_for("/blobs/"), ["HTTP/1.1".to_owned()].into());
}

#[test]
fn a_wrong_password_names_the_file_that_holds_it() {
    const WRONG: &str = "hush-hush-wrong";
    let registry = Secured::start(false);
    let site = registry.site();
    site.put_login(WRONG);
    let output = site.run(&mut registry.trusting_mount(&site));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let error = error_line(&said);
    for words in [registry.proxy.host(), "auth.json", "podman login"] {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
    site.assert_discreet(&[WRONG.to_owned()]);
}

/// Puts the configuration of a registry's host, in the form that containerd reads, and a copy of each file in `files`
/// beside it; returns the option that names it.
pub(super) fn put_hosts(site: &Site, text: &str, files: &[PathBuf]) -> &'static str {
    let directory = format!("registries/{}_", site.host.replace(':', "_"));
    site.workplace.put(&format!("{directory}/hosts.toml"), text.as_bytes());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        site.workplace.put(&format!("{directory}/{name}"), &std::fs::read(file).unwrap());
    }
    "--registry-config=registries"
}

#[test]
fn tls_with_private_authority() {
    let registry = Secured::start(false);
    let site = registry.site();
    let configuration =
        put_hosts(&site, "ca = \"authority.crt\"\n", &[registry.authority.certificate("authority")]);
    site.mount(&["--authfile=auth.json", configuration]);
    site.read_slowly(Duration::ZERO);
    site.assert_reads_whole();
    site.assert_discreet(&[]);
}

#[test]
fn tls_with_the_certificate_of_a_client() {
    let registry = Secured::start(true);
    let site = registry.site();
    let files = [
        registry.authority.certificate("authority"),
        registry.authority.certificate("client"),
        registry.authority.key("client"),
    ];
    let text = "ca = \"authority.crt\"\nclient = [[\"client.crt\", \"client.key\"]]\n";
    let configuration = put_hosts(&site, text, &files);
    site.mount(&["--authfile=auth.json", configuration]);
    site.read_slowly(Duration::ZERO);
    site.assert_reads_whole();
    assert!(registry.proxy.passages().iter().all(|passage| passage.path.contains(REPOSITORY)));
    let key = std::fs::read_to_string(registry.authority.key("client")).unwrap();
    site.assert_discreet(&[key.lines().nth(1).unwrap().to_owned()]);
}
