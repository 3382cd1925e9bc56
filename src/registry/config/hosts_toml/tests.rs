use super::*;
use crate::registry::SourceOptions;
use crate::registry::config::shown;

/// A directory `certs.d` with `files`.
struct Configured {
    root: tempfile::TempDir,
    options: SourceOptions,
}

impl Configured {
    fn with(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), text.as_bytes()).unwrap();
        }
        let options = SourceOptions { registry_config: Some(root.path().to_owned()), ..Default::default() };
        Self { root, options }
    }

    fn shown(&self, reference: &str) -> Result<Vec<String>> {
        shown::route(reference, &self.options)
    }

    fn hosts(&self, reference: &str) -> Vec<HostRoute> {
        route(self.root.path(), &reference.parse().unwrap(), false).unwrap().hosts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }
}

#[test]
fn the_documents_examples() {
    for (directory, text, reference, expected) in [
        (
            "docker.io",
            "server = \"https://docker.io\"\n\n[host.\"https://registry-1.docker.io\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            "docker.io/alpine",
            vec![
                "mirror https://registry-1.docker.io/v2/ library/alpine as docker.io",
                "origin https://registry-1.docker.io/v2/ library/alpine as docker.io",
            ],
        ),
        (
            "docker.io",
            "server = \"https://registry-1.docker.io\"\n[host.\"https://public-mirror.example.com\"]\n  capabilities = [\"pull\"]\n[host.\"https://docker-mirror.internal\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"docker-mirror.crt\"\n",
            "docker.io/alpine",
            vec![
                "mirror https://public-mirror.example.com/v2/ library/alpine ns=docker.io digests",
                "mirror https://docker-mirror.internal/v2/ library/alpine ns=docker.io",
                "origin https://registry-1.docker.io/v2/ library/alpine as docker.io",
            ],
        ),
        (
            "_default",
            "[host.\"https://registry.example.com\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            "other.example/a/b",
            vec![
                "mirror https://registry.example.com/v2/ a/b ns=other.example",
                "origin https://other.example/v2/ a/b",
            ],
        ),
        (
            "_default",
            "server = \"https://registry.example.com\"",
            "other.example/a/b",
            vec!["origin https://registry.example.com/v2/ a/b ns=other.example"],
        ),
        (
            "docker.io",
            "server = \"https://registry-1.docker.io\"\n[host.\"http://192.168.31.250:5000\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  skip_verify = true\n",
            "docker.io/alpine",
            vec![
                "mirror https://192.168.31.250:5000/v2/|http://192.168.31.250:5000/v2/ library/alpine ns=docker.io skip_verify",
                "origin https://registry-1.docker.io/v2/ library/alpine as docker.io",
            ],
        ),
        (
            "myregistry.io_5000_",
            "[host.\"https://mymirror.io\"]",
            "myregistry.io:5000/image_name:tag_name",
            vec![
                "mirror https://mymirror.io/v2/ image_name ns=myregistry.io:5000",
                "origin https://myregistry.io:5000/v2/ image_name",
            ],
        ),
    ] {
        let configured = Configured::with(&[(&format!("{directory}/hosts.toml"), text)]);
        assert_eq!(configured.shown(reference).unwrap(), expected, "{reference} with {text}");
    }
}

/// The document's last example, with everything that a host may have.
const ALL_FIELDS: &str = r#"
[host."https://mirror.registry"]
  capabilities = ["pull"]
  ca = "/etc/certs/mirror.pem"
  skip_verify = false
  dial_timeout = "1s"
  [host."https://mirror.registry".header]
    x-custom-2 = ["value1", "value2"]

[host."https://mirror-bak.registry/us"]
  capabilities = ["pull"]
  skip_verify = true

[host."http://mirror.registry"]
  capabilities = ["pull"]

[host."https://test-1.registry"]
  capabilities = ["pull", "resolve", "push"]
  ca = ["/etc/certs/test-1-ca.pem", "special.pem"]
  client = [["/etc/certs/client.cert", "/etc/certs/client.key"],["/etc/certs/client.pem", ""]]

[host."https://test-2.registry"]
  client = "client.pem"

[host."https://test-3.registry"]
  client = ["/etc/certs/client-1.pem", "/etc/certs/client-2.pem"]

[host."https://non-compliant-mirror.registry/v2/upstream"]
  capabilities = ["pull"]
  override_path = true
"#;

#[test]
fn every_field_of_a_host() {
    let configured = Configured::with(&[("r.example/hosts.toml", ALL_FIELDS)]);
    assert_eq!(
        configured.shown("r.example/a").unwrap(),
        [
            "mirror https://mirror.registry/v2/ a ns=r.example digests",
            "mirror https://mirror-bak.registry/us/v2/ a ns=r.example digests skip_verify",
            "mirror http://mirror.registry/v2/ a ns=r.example digests",
            "mirror https://test-1.registry/v2/ a ns=r.example",
            "mirror https://test-2.registry/v2/ a ns=r.example",
            "mirror https://test-3.registry/v2/ a ns=r.example",
            "mirror https://non-compliant-mirror.registry/v2/upstream/ a ns=r.example digests",
            "origin https://r.example/v2/ a",
        ]
    );
    let hosts = configured.hosts("r.example/a");
    let values: Vec<_> = hosts[0].headers.get_all("x-custom-2").iter().collect();
    assert_eq!(values, ["value1", "value2"]);
    assert!(values.iter().all(|value| value.is_sensitive()));
    assert_eq!(hosts[0].connect_timeout, Some(Duration::from_secs(1)));
    assert_eq!(hosts[0].tls.authorities, [PathBuf::from("/etc/certs/mirror.pem")]);
    let special = configured.path("r.example/special.pem");
    assert_eq!(hosts[3].tls.authorities, [PathBuf::from("/etc/certs/test-1-ca.pem"), special]);
    let client = |host: usize| hosts[host].tls.client.clone().unwrap();
    let identity =
        |certificate: PathBuf, key: Option<&str>| ClientIdentity { certificate, key: key.map(PathBuf::from) };
    assert_eq!(client(3), identity("/etc/certs/client.cert".into(), Some("/etc/certs/client.key")));
    assert_eq!(client(4), identity(configured.path("r.example/client.pem"), None));
    assert_eq!(client(5), identity("/etc/certs/client-1.pem".into(), None));
    assert_eq!(hosts[7].tls, TlsSettings::default());
}

#[test]
fn what_stands_at_the_top_is_the_last_hosts() {
    let text = "server = 'https://x.example'\nca = 'ca.pem'\nskip_verify = true\ndial_timeout = '500ms'\n\
                capabilities = ['pull']\n[header]\nx-a = 'b'\n[host.'https://m.example']";
    let without_server = text.split_once('\n').unwrap().1;
    let configured =
        Configured::with(&[("r.example/hosts.toml", text), ("s.example/hosts.toml", without_server)]);
    assert_eq!(
        configured.shown("r.example/a").unwrap(),
        [
            "mirror https://m.example/v2/ a ns=r.example",
            "origin https://x.example/v2/ a ns=r.example digests skip_verify"
        ]
    );
    assert_eq!(
        configured.shown("s.example/a").unwrap(),
        ["mirror https://m.example/v2/ a ns=s.example", "origin https://s.example/v2/ a skip_verify"]
    );
    for name in ["r.example", "s.example"] {
        let hosts = configured.hosts(&format!("{name}/a"));
        let last = hosts.last().unwrap();
        assert_eq!(last.tls.authorities, [configured.path(name).join("ca.pem")]);
        assert_eq!(last.headers["x-a"], "b");
        assert_eq!(last.connect_timeout, Some(Duration::from_millis(500)));
        assert_eq!((hosts[0].headers.len(), hosts[0].connect_timeout), (0, None));
    }
}

/// As Spegel and Dragonfly's client write them for containerd on each node.
#[test]
fn files_of_node_local_mirrors() {
    let spegel = "[host.'http://127.0.0.1:30020']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n\
                  [host.'http://127.0.0.1:30020'.header]\nAuthorization = 'Basic c2VjcmV0'\n\n\
                  [host.'http://127.0.0.1:30021']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'";
    let dragonfly = "server = \"https://r.example\"\n\n[host.\"http://127.0.0.1:4001\"]\n\
                     capabilities = [\"pull\", \"resolve\"]\n\n[host.\"http://127.0.0.1:4001\".header]\n\
                     X-Dragonfly-Registry = \"https://r.example\"";
    let configured = Configured::with(&[
        ("_default/hosts.toml", spegel),
        ("_backup/s.example/hosts.toml", "server = ''"),
        ("r.example/hosts.toml", dragonfly),
    ]);
    assert_eq!(
        configured.shown("s.example/a").unwrap(),
        [
            "mirror http://127.0.0.1:30020/v2/ a ns=s.example",
            "mirror http://127.0.0.1:30021/v2/ a ns=s.example",
            "origin https://s.example/v2/ a"
        ]
    );
    assert_eq!(
        configured.shown("r.example/a").unwrap(),
        ["mirror http://127.0.0.1:4001/v2/ a ns=r.example", "origin https://r.example/v2/ a"]
    );
    let spegel = &configured.hosts("s.example/a")[0];
    assert!(spegel.headers["authorization"].is_sensitive());
    assert_eq!(spegel.connect_timeout, Some(Duration::from_millis(200)));
    assert_eq!(configured.hosts("r.example/a")[0].headers["x-dragonfly-registry"], "https://r.example");
}

#[test]
fn the_order_is_the_files() {
    let text = "[host.'https://z.example'.header]\na = 'b'\n[host.'https://z.example']\n[host.'https://a.example']\n\
                [host.'https://c.example'.header]\na = 'b'\n[host.'https://b.example']";
    let configured = Configured::with(&[("r.example/hosts.toml", text)]);
    let hosts: Vec<String> = configured.hosts("r.example/a").into_iter().map(|route| route.host).collect();
    assert_eq!(hosts, ["z.example", "a.example", "c.example", "b.example", "r.example"]);
}

#[test]
fn the_nearest_directory_counts() {
    let server = |name: &str| format!("server = 'https://{name}.example'");
    let all = ["r.example_5000_", "r.example:5000", "r.example", "_default"];
    let texts: Vec<(String, String)> = all
        .iter()
        .zip(["one", "two", "three", "four"])
        .map(|(d, s)| (format!("{d}/hosts.toml"), server(s)))
        .collect();
    for (first, reference, expected) in [
        (0, "r.example:5000/a", "one.example"),
        (1, "r.example:5000/a", "two.example"),
        (2, "r.example:5000/a", "four.example"),
        (0, "r.example/a", "three.example"),
        (3, "r.example/a", "four.example"),
        (0, "other.example/a", "four.example"),
        (4, "other.example/a", "other.example"),
    ] {
        let files: Vec<(&str, &str)> = texts[first..].iter().map(|(d, t)| (d.as_str(), t.as_str())).collect();
        assert_eq!(
            Configured::with(&files).hosts(reference)[0].host,
            expected,
            "{reference} from {first} on"
        );
    }
    let configured = Configured::with(&[
        ("[::1]_5000_/hosts.toml", &server("six")),
        ("[::1]/hosts.toml", &server("seven")),
    ]);
    assert_eq!(configured.hosts("[::1]:5000/a")[0].host, "six.example");
    assert_eq!(configured.hosts("[::1]/a")[0].host, "seven.example");
}

#[test]
fn a_directory_may_hold_certificates_alone() {
    for with_empty_file in [false, true] {
        let mut files = vec![("r.example/ca.crt", ""), ("r.example/me.cert", ""), ("r.example/me.key", "")];
        if with_empty_file {
            files.push(("r.example/hosts.toml", ""));
        }
        let configured = Configured::with(&files);
        let [origin] = &configured.hosts("r.example/a")[..] else { panic!() };
        let path = |name: &str| configured.path("r.example").join(name);
        let client = ClientIdentity { certificate: path("me.cert"), key: Some(path("me.key")) };
        let expected =
            TlsSettings { authorities: vec![path("ca.crt")], client: Some(client), skip_verify: false };
        assert_eq!((&origin.tls, origin.is_mirror), (&expected, false));
    }
}

#[test]
fn without_a_directory_it_is_dockers_defaults() {
    let configured = Configured::with(&[]);
    assert_eq!(configured.shown("r.example/a").unwrap(), ["origin https://r.example/v2/ a"]);
    assert_eq!(
        configured.shown("127.0.0.1:5000/a").unwrap(),
        ["origin https://127.0.0.1:5000/v2/|http://127.0.0.1:5000/v2/ a"]
    );
}

#[test]
fn what_is_malformed_is_refused_with_the_line_and_without_values() {
    for (text, line, why) in [
        ("\nserver = ", 2, "docs/hosts.md"),
        ("servers = 'https://secret.example'", 1, "unknown field `servers`"),
        ("\nserver = 3", 2, "a URL"),
        ("server = 'https://user:secret@r.example'", 1, "leave them out"),
        ("server = 'ftp://secret.example'", 1, "https nor http"),
        ("server = ['secret']", 1, "a URL"),
        ("\n\n[host.'https://m.example?secret']", 3, "leave that out"),
        ("[host.'https://']", 1, "https://HOST"),
        ("[host.'https://m.example']\ncapabilites = []", 2, "expected one of `capabilities`"),
        (
            "[host.'https://m.example']\ncapabilities = ['pull',\n'write']",
            3,
            "pull, resolve, push or referrers",
        ),
        ("[host.'https://m.example']\nskip_verify = 'secret'", 2, "expected a boolean"),
        ("[host.'https://m.example']\nca = 3", 2, "a list of paths"),
        ("[host.'https://m.example']\nclient = [['a', 'b', 'c']]", 2, "pairs [certificate, key]"),
        ("[host.'https://m.example']\ndial_timeout = '3'", 2, "500ms"),
        ("[host.'https://m.example']\noverride_path = 1", 2, "expected a boolean"),
        ("[host.'https://m.example']\nproxy = 'http://secret:1'", 2, "HTTPS_PROXY"),
        ("[host.'https://m.example'.header]\n'x y' = 'secret'", 2, "letters, digits"),
        ("[host.'https://m.example'.header]\nx = \"secret\\n\"", 2, "one line"),
        ("[host.'https://m.example'.header]\nx = { secret = 'secret' }", 2, "a list of texts"),
        ("[host.'https://m.example']\nheader = 'secret'", 2, "expected a map"),
        (
            "[host.'https://m.example']\n[host.'https://m.example'.host.'https://n.example']",
            2,
            "unknown field `host`",
        ),
        ("host = 'secret'", 1, "expected a map"),
    ] {
        let configured = Configured::with(&[("r.example/hosts.toml", text)]);
        let error = configured.shown("r.example/a").unwrap_err();
        let shown = error.chain();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{shown}");
        let place = format!("{}, line {line}: ", configured.path("r.example/hosts.toml").display());
        assert!(shown.contains(&place) && shown.contains(why), "{why:?} on line {line} of {text:?}: {shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
    // Another registry's file is nobody's business.
    let configured = Configured::with(&[("r.example/hosts.toml", "[")]);
    configured.shown("s.example/a").unwrap();
}

#[test]
fn another_directory_is_not_taken_for_one_of_registries() {
    for file in ["hosts.toml", "registries.conf", "10-blocked.conf"] {
        let error = Configured::with(&[(file, "")]).shown("r.example/m").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.chain().contains(file), "{}", error.chain());
    }
    Configured::with(&[("r.conf/hosts.toml", ""), ("readme.txt", "")]).shown("r.example/m").unwrap();
}

#[test]
fn hosts_in_capital_letters_are_the_same() {
    for directory in ["r.example_5000_", "R.example_5000_", "r.Example:5000"] {
        let conf = Configured::with(&[(&format!("{directory}/hosts.toml"), "server = 'https://m.example'")]);
        for reference in ["r.example:5000/m", "R.EXAMPLE:5000/m"] {
            let shown = conf.shown(reference).unwrap();
            assert_eq!(
                shown,
                ["origin https://m.example/v2/ m ns=r.example:5000"],
                "{directory} {reference}"
            );
        }
    }
}
