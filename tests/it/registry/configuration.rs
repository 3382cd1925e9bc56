//! Which registries are asked, and in which order, by the files of configuration of podman and containerd.

use std::path::Path;
use std::process::Command;

use refmount::base::durable;
use refmount::oci::SourceRef;
use refmount::registry::SourceOptions;

use super::{assert_reads, options, small};
use crate::support::docker_registry::DockerRegistry;
use crate::support::empty_registries::EmptyRegistries;
use crate::workplace::{Workplace, assert_failed};

const DIGEST: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Configurations and references. `{A}` and the like are registries.
const CONFIGURATIONS: &[(&str, &str)] = &[
    ("", "{A}/m:v1"),
    ("[[registry]]\nlocation = '{B}'", "{A}/m:v1"),
    ("[[registry]]\nprefix = '{A}'\nlocation = '{B}'", "{A}/m:v1"),
    ("[[registry]]\nprefix = '{A}'\nlocation = '{B}/x/y/'", "{A}/a/m:v1"),
    ("[[registry]]\nprefix = '{A}/a'\nlocation = '{B}'", "{A}/a/m:v1"),
    ("[[registry]]\nprefix = '{A}/a'\nlocation = '{B}'", "{A}/am:v1"),
    ("[[registry]]\nprefix = '{A}/m'\nlocation = '{B}/n'", "{A}/m@"),
    (
        "[[registry]]\nprefix = '{A}'\nlocation = '{B}'\n[[registry]]\nprefix = '{A}/a'\nlocation = '{C}'",
        "{A}/a/m:v1",
    ),
    // A host stands for all its ports, and a wildcard for what lies before the domain.
    ("[[registry]]\nprefix = '127.0.0.1'\nlocation = '127.0.0.1'", "{A}/m:v1"),
    ("[[registry]]\nlocation = '127.0.0.1'\nblocked = true", "{A}/m:v1"),
    ("[[registry]]\nprefix = '*.0.0.1'\n[[registry.mirror]]\nlocation = '{B}'", "{A}/m:v1"),
    ("[[registry]]\nlocation = '{A}'\nblocked = true", "{A}/m:v1"),
    ("[[registry]]\nlocation = '{A}/a'\nblocked = true", "{A}/m:v1"),
    (
        "[[registry]]\nlocation = '{A}'\n[[registry.mirror]]\nlocation = '{B}'\n[[registry.mirror]]\nlocation = '{C}/x'",
        "{A}/m:v1",
    ),
    (
        "[[registry]]\nlocation = '{A}'\n[[registry.mirror]]\nlocation = '{X}'\n[[registry.mirror]]\nlocation = '{C}/x'",
        "{A}/a/m:v1",
    ),
    (
        "[[registry]]\nprefix = '{A}/a'\nlocation = '{B}'\n[[registry.mirror]]\nlocation = '{C}/x'",
        "{A}/a/m:v1",
    ),
    // What each mirror is for.
    (
        "[[registry]]\nlocation = '{A}'\n[[registry.mirror]]\nlocation = '{B}'\npull-from-mirror = 'digest-only'\n[[registry.mirror]]\nlocation = '{C}'\npull-from-mirror = 'tag-only'",
        "{A}/m:v1",
    ),
    (
        "[[registry]]\nlocation = '{A}'\n[[registry.mirror]]\nlocation = '{B}'\npull-from-mirror = 'digest-only'\n[[registry.mirror]]\nlocation = '{C}'\npull-from-mirror = 'tag-only'",
        "{A}/m@",
    ),
    (
        "[[registry]]\nlocation = '{A}'\n[[registry.mirror]]\nlocation = '{B}'\npull-from-mirror = 'all'",
        "{A}/m@",
    ),
    (
        "[[registry]]\nlocation = '{A}'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = '{B}'",
        "{A}/m:v1",
    ),
    (
        "[[registry]]\nlocation = '{A}'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = '{B}'",
        "{A}/m@",
    ),
];

/// Asks for `reference` by the configuration at `path`; what came of it is in the registries' log.
async fn ask(reference: &str, path: &Path) {
    let options = SourceOptions { registry_config: Some(path.to_owned()), ..options() };
    if let Ok(source) = refmount::registry::open(&reference.parse().unwrap(), &options) {
        source.resolve().await.unwrap_err();
    }
}

#[tokio::test]
async fn registries_are_asked_in_the_order_in_which_skopeo_asks_them() {
    let registries = EmptyRegistries::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registries.conf");
    let mut asked = 0;
    for (text, reference) in CONFIGURATIONS {
        let reference = registries.filled_in(&reference.replace('@', DIGEST));
        durable::write(&path, registries.filled_in(text).as_bytes()).unwrap();
        let skopeo = Command::new("skopeo")
            .arg("--registries-conf")
            .arg(&path)
            .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")])
            .env("HOME", directory.path())
            .output()
            .unwrap();
        assert!(!skopeo.status.success());
        let expected = registries.take_requests();
        ask(&reference, &path).await;
        let ours: Vec<String> = registries
            .take_requests()
            .iter()
            .map(|request| request.split('?').next().unwrap().to_owned())
            .collect();
        let said = String::from_utf8_lossy(&skopeo.stderr);
        assert_eq!(ours, expected, "{reference} with {text}; skopeo said: {said}");
        asked += expected.len();
    }
    assert!(asked > CONFIGURATIONS.len(), "skopeo asked {asked} times only");
}

/// Directories of certs.d with their `hosts.toml`.
type Directories = &'static [(&'static str, &'static str)];

/// Directories, a reference, and the requests that follow.
const HOSTS: &[(Directories, &str, &[&str])] = &[
    (&[], "{A}/m:v1", &["A /v2/m/manifests/v1"]),
    (
        &[("{A}", "[host.'http://{C}']\n[host.'http://{B}/x']\ncapabilities = ['pull', 'resolve']")],
        "{A}/a/m:v1",
        &["C /v2/a/m/manifests/v1?ns={A}", "B /x/v2/a/m/manifests/v1?ns={A}", "A /v2/a/m/manifests/v1"],
    ),
    (
        &[(
            "_default",
            "server = 'http://{C}/v2/y'\noverride_path = true\n[host.'http://{X}']\n[host.'http://{B}']\nskip_verify = true",
        )],
        "{A}/m:v1",
        &["B /v2/m/manifests/v1?ns={A}", "C /v2/y/m/manifests/v1?ns={A}"],
    ),
    (
        &[("_default", "server = 'http://{C}'"), ("{A}", "[host.'http://{B}']\ncapabilities = ['pull']")],
        "{A}/m:v1",
        &["A /v2/m/manifests/v1"],
    ),
    (
        &[(
            "_default",
            "[host.'http://{B}']\ncapabilities = ['pull']\n[host.'http://{C}']\ncapabilities = ['resolve']",
        )],
        "{A}/m@",
        &["B /v2/m/manifests/@?ns={A}", "A /v2/m/manifests/@"],
    ),
];

#[tokio::test]
async fn hosts_are_asked_in_the_order_of_containerds_file() {
    let registries = EmptyRegistries::start();
    for (files, reference, expected) in HOSTS {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in *files {
            let directory = root.path().join(registries.filled_in(name));
            std::fs::create_dir(&directory).unwrap();
            durable::write(&directory.join("hosts.toml"), registries.filled_in(text).as_bytes()).unwrap();
        }
        ask(&registries.filled_in(&reference.replace('@', DIGEST)), root.path()).await;
        let expected: Vec<String> =
            expected.iter().map(|request| registries.filled_in(request).replace('@', &DIGEST[1..])).collect();
        let asked: Vec<String> =
            registries.take_requests().iter().map(|request| request.replace("%3A", ":")).collect();
        assert_eq!(asked, expected, "{reference} with {files:?}");
    }
}

#[tokio::test]
async fn a_mirror_serves_what_cannot_be_had_from_the_registry() {
    let artifact = small();
    let registry = DockerRegistry::start();
    let SourceRef::Registry(pushed) = registry.push(&artifact, "mirror/small", "v1") else { panic!() };
    let nowhere = EmptyRegistries::start();
    let text = format!(
        "[[registry]]\nprefix = '{{X}}/models'\n[[registry.mirror]]\nlocation = '{}/mirror'",
        pushed.host
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registries.conf");
    durable::write(&path, nowhere.filled_in(&text).as_bytes()).unwrap();
    let options = SourceOptions { registry_config: Some(path), ..options() };
    let reference = nowhere.filled_in("{X}/models/small:v1").parse().unwrap();
    let source = refmount::registry::open(&reference, &options).unwrap();
    assert_eq!(source.resolve().await.unwrap().bytes, artifact.manifest);
    assert_reads(&*source, &artifact, 5..70_000).await;
}

#[test]
fn the_examples_of_the_documentation_work() {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let examples: Vec<&str> =
        document.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        let directory = tempfile::tempdir().unwrap();
        let (file, config) = match example.starts_with("[[registry]]") {
            true => ("registries.conf", "registries.conf"),
            false => ("certs.d/registry.example/hosts.toml", "certs.d"),
        };
        let file = directory.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        durable::write(&file, example.as_bytes()).unwrap();
        let options = SourceOptions { registry_config: Some(directory.path().join(config)), ..options() };
        let source = refmount::registry::open(&"registry.example/m".parse().unwrap(), &options).unwrap();
        let hosts: Vec<(String, bool)> =
            source.hosts().into_iter().map(|host| (host.host, host.is_mirror)).collect();
        assert!(hosts[0].0.starts_with("127.0.0.1:") && hosts[0].1, "{hosts:?} from {example}");
        assert_eq!(hosts[1..], [("registry.example".to_owned(), false)], "{example}");
    }
}

#[test]
fn the_configuration_that_was_named_counts() {
    let workplace = Workplace::new();
    let inspect =
        |path: &str, reference: &str| workplace.run(&["inspect", "--registry-config", path, reference]);
    workplace.put("blocked.conf", b"[[registry]]\nlocation = '127.0.0.1:1'\nblocked = true\n");
    workplace.put("broken.conf", b"\nlocation = '127.0.0.1:1'\n");
    workplace.put("empty.conf", b"");
    workplace.put("certs.d/127.0.0.1_1_/hosts.toml", b"[host.'https://user:hush-hush@127.0.0.1:1']");
    workplace.put("certs.d/127.0.0.1_2_/hosts.toml", b"[host.'https://127.0.0.1:1']\nca = 'ca.crt'");
    assert_failed(&inspect("blocked.conf", "127.0.0.1:1/m"), 4, "blocked.conf, line 1");
    assert_failed(&inspect("broken.conf", "127.0.0.1:1/m"), 1, "broken.conf, line 2: unknown field");
    assert_failed(&inspect("certs.d", "127.0.0.1:1/m"), 1, "hosts.toml, line 1: bad address");
    // It is not as if the mirror were down.
    assert_failed(&inspect("certs.d", "127.0.0.1:2/m"), 3, "certs.d/127.0.0.1_2_/ca.crt");
    assert_failed(&inspect("empty.conf", "m"), 2, "write the registry out");
    assert_failed(&inspect("nowhere.conf", "127.0.0.1:1/m"), 3, "nowhere.conf");
    let output = workplace
        .command(&["inspect", "127.0.0.1:1/m"])
        .env("CONTAINERS_REGISTRIES_CONF", "blocked.conf")
        .output()
        .unwrap();
    assert_failed(&output, 4, "blocked.conf, line 1");
}
