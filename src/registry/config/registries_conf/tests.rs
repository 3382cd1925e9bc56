use super::*;
use crate::oci::SourceRef;
use crate::registry::config::shown;

const DIGEST: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A directory with `files`, of which `registries.conf` is the configuration.
struct Configured {
    directory: tempfile::TempDir,
    options: SourceOptions,
}

impl Configured {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), text.as_bytes()).unwrap();
        }
        let options = SourceOptions {
            registry_config: Some(directory.path().join("registries.conf")),
            certificate_dirs: vec![directory.path().join("certs.d")],
            ..Default::default()
        };
        Self { directory, options }
    }

    fn of(text: &str) -> Self {
        Self::with(&[("registries.conf", text)])
    }

    fn route(&self, reference: &str) -> Result<Vec<String>> {
        shown::route(reference, &self.options)
    }

    fn candidates(&self, typed: &str) -> Result<Vec<String>> {
        let SourceRef::Short(short) = typed.parse().unwrap() else { panic!("{typed} names a registry") };
        let conf = RegistriesConf::read(
            self.options.registry_config.as_ref().unwrap(),
            &self.options.registry_drop_ins,
        )?;
        Ok(conf.candidates(&short)?.iter().map(ToString::to_string).collect())
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// The example at the end of the manual page.
const MANUAL: &str = r#"
unqualified-search-registries = ["example.com"]

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
"#;

#[test]
fn the_manuals_example() {
    let conf = Configured::of(MANUAL);
    assert_eq!(
        conf.route("example.com/foo/image:latest").unwrap(),
        [
            "mirror https://example-mirror-0.local/v2/ mirror-for-foo/image ns=example.com",
            "mirror https://example-mirror-1.local/v2/|http://example-mirror-1.local/v2/ mirrors/foo/image ns=example.com skip_verify",
            "origin https://internal-registry-for-example.com/v2/ bar/image",
        ]
    );
    assert_eq!(
        conf.route("registry.com/image:latest").unwrap(),
        [
            "mirror https://mirror.registry.com/v2/ image ns=registry.com",
            "origin https://registry.com/v2/ image"
        ]
    );
    // What no prefix matches goes where it says.
    for (reference, expected) in [
        ("example.com/food/image", "origin https://example.com/v2/ food/image"),
        ("mirror.registry.com/image", "origin https://mirror.registry.com/v2/ image"),
        ("docker.io/alpine", "origin https://registry-1.docker.io/v2/ library/alpine as docker.io"),
    ] {
        assert_eq!(conf.route(reference).unwrap(), [expected]);
    }
    assert_eq!(conf.candidates("image:v1").unwrap(), ["example.com/image:v1"]);
}

#[test]
fn prefixes_and_locations() {
    for (text, reference, expected) in [
        // The manual's words on location and on wildcards.
        (
            "[[registry]]\nprefix = 'example.com/foo'\nlocation = 'internal-registry-for-example.net/bar'",
            "example.com/foo/myimage:latest",
            "origin https://internal-registry-for-example.net/v2/ bar/myimage",
        ),
        (
            "[[registry]]\nprefix = '*.example.com'\ninsecure = true",
            "blah.example.com/foo/myimage:latest",
            "origin https://blah.example.com/v2/|http://blah.example.com/v2/ foo/myimage skip_verify",
        ),
        (
            "[[registry]]\nprefix = '*.example.com'\nlocation = 'all.example'",
            "a.b.example.com:5000/m",
            "origin https://all.example:5000/v2/ m",
        ),
        // Docker's library is part of the name.
        (
            "[[registry]]\nprefix = 'docker.io/library'\nlocation = 'r.example/hub'",
            "docker.io/alpine",
            "origin https://r.example/v2/ hub/alpine",
        ),
        (
            "[[registry]]\nprefix = 'docker.io/alpine'\nlocation = 'r.example/hub'",
            "docker.io/alpine",
            "origin https://registry-1.docker.io/v2/ library/alpine as docker.io",
        ),
        // A prefix alone is where it says; the longest one counts, tags and digests included.
        (
            "[[registry]]\nprefix = 'r.example/a'\ninsecure = true",
            "r.example/a/m",
            "origin https://r.example/v2/|http://r.example/v2/ a/m skip_verify",
        ),
        (
            "[[registry]]\nprefix = 'r.example'\nlocation = 'x.example'\n[[registry]]\nprefix = 'r.example/a/m:v1'\nlocation = 'y.example/m:v1'\n[[registry]]\nprefix = 'r.example/a'\nlocation = 'z.example'",
            "r.example/a/m:v1",
            "origin https://y.example/v2/ m",
        ),
        (
            "[[registry]]\nlocation = 'r.example/'\ninsecure = true",
            "r.example/m",
            "origin https://r.example/v2/|http://r.example/v2/ m skip_verify",
        ),
        (
            "[[registry]]\nprefix = 'r.example'\nlocation = 'docker.io'",
            "r.example/alpine",
            "origin https://registry-1.docker.io/v2/ library/alpine as docker.io",
        ),
        (
            "[[registry]]\nprefix = 'r.example'\nlocation = '127.0.0.1:5000'",
            "r.example/m",
            "origin https://127.0.0.1:5000/v2/|http://127.0.0.1:5000/v2/ m",
        ),
    ] {
        assert_eq!(Configured::of(text).route(reference).unwrap(), [expected], "{reference} with {text}");
    }
    let pinned = format!("[[registry]]\nprefix = 'r.example/m{DIGEST}'\nlocation = 'x.example/y{DIGEST}'");
    let conf = Configured::of(&pinned);
    assert_eq!(conf.route(&format!("r.example/m:v1{DIGEST}")).unwrap(), ["origin https://x.example/v2/ y"]);
    assert_eq!(conf.route("r.example/m:v1").unwrap(), ["origin https://r.example/v2/ m"]);
}

#[test]
fn what_mirrors_are_asked_for() {
    const ALL: &str = "mirror https://m.example/v2/ a ns=r.example";
    const DIGESTS: &str = "mirror https://m.example/v2/ a ns=r.example digests";
    const ORIGIN: &str = "origin https://r.example/v2/ a";
    for (registry, mirror, by_tag, by_digest) in [
        ("", "", Some(ALL), Some(ALL)),
        ("", "pull-from-mirror = 'all'", Some(ALL), Some(ALL)),
        ("", "pull-from-mirror = ''", Some(ALL), Some(ALL)),
        ("", "pull-from-mirror = 'digest-only'", Some(DIGESTS), Some(ALL)),
        ("", "pull-from-mirror = 'tag-only'", Some(ALL), None),
        ("mirror-by-digest-only = true", "", Some(DIGESTS), Some(ALL)),
        ("mirror-by-digest-only = true", "pull-from-mirror = ''", Some(DIGESTS), Some(ALL)),
        ("mirror-by-digest-only = false", "pull-from-mirror = 'tag-only'", Some(ALL), None),
    ] {
        let text = format!(
            "[[registry]]\nlocation = 'r.example'\n{registry}\n[[registry.mirror]]\nlocation = 'm.example'\n{mirror}"
        );
        let conf = Configured::of(&text);
        for (reference, expected) in [
            ("r.example/a:v1".to_owned(), by_tag),
            (format!("r.example/a{DIGEST}"), by_digest),
            (format!("r.example/a:v1{DIGEST}"), by_digest),
        ] {
            let expected: Vec<&str> = expected.into_iter().chain([ORIGIN]).collect();
            assert_eq!(conf.route(&reference).unwrap(), expected, "{reference} with {text}");
        }
    }
}

#[test]
fn a_mirror_on_the_registrys_own_host_is_sent_no_namespace() {
    let conf = Configured::of(
        "[[registry]]\nprefix = 'r.example/a'\n[[registry.mirror]]\nlocation = 'r.example/mirror'",
    );
    assert_eq!(
        conf.route("r.example/a/b").unwrap(),
        ["mirror https://r.example/v2/ mirror/b", "origin https://r.example/v2/ a/b"]
    );
}

#[test]
fn what_is_blocked_is_refused_with_the_place() {
    let conf = Configured::of(
        "[[registry]]\nlocation = 'R.example'\nblocked = true\n[[registry]]\nlocation = 'r.example/a'",
    );
    let error = conf.route("r.example/b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error.chain().contains(&format!("{}, line 1", conf.path("registries.conf"))),
        "{}",
        error.chain()
    );
    assert!(conf.route("r.example:5000/b").is_err());
    assert!(conf.route("R.example/b").is_err());
    let hub = Configured::of("[[registry]]\nlocation = 'docker.io'\nblocked = true");
    for name in ["docker.io/alpine", "index.docker.io/alpine", "index.docker.io/library/alpine"] {
        assert!(hub.route(name).is_err(), "{name}");
    }
    conf.route("r.example/a/b").unwrap();
}

#[test]
fn certificates_are_those_of_the_location() {
    let conf = Configured::with(&[
        ("registries.conf", "[[registry]]\nprefix = 'r.example'\nlocation = 'x.example:5000'"),
        ("certs.d/r.example/wrong.crt", ""),
        ("certs.d/x.example:5000/ca.crt", ""),
    ]);
    let reference = "r.example/a".parse().unwrap();
    let path = conf.options.registry_config.as_ref().unwrap();
    let route = RegistriesConf::read(path, &[]).unwrap().route(&reference, &conf.options).unwrap();
    let expected = conf.directory.path().join("certs.d/x.example:5000/ca.crt");
    assert_eq!(route.hosts[0].tls.authorities, [expected]);
}

#[test]
fn names_without_a_registry() {
    let two = "unqualified-search-registries = ['a.example', 'docker.io']\n";
    let aliases = "[aliases]\n'm' = 'r.example/x/m'\n'a/b' = 'docker.io/alpine'\n";
    let pinned = format!("m{DIGEST}");
    for (text, typed, expected) in [
        (two.to_owned(), "m:v1", vec!["a.example/m:v1", "docker.io/library/m:v1"]),
        (format!("short-name-mode = ''\n{two}"), "a/b", vec!["a.example/a/b:latest", "docker.io/a/b:latest"]),
        (
            format!("short-name-mode = 'permissive'\n{two}"),
            "m",
            vec!["a.example/m:latest", "docker.io/library/m:latest"],
        ),
        (
            format!("short-name-mode = 'disabled'\n{two}"),
            "m",
            vec!["a.example/m:latest", "docker.io/library/m:latest"],
        ),
        (format!("short-name-mode = 'enforcing'\n{two}{aliases}"), "m:v1", vec!["r.example/x/m:v1"]),
        (format!("{two}{aliases}"), "a/b", vec!["docker.io/library/alpine:latest"]),
        (aliases.to_owned(), &pinned, vec![&format!("r.example/x/m{DIGEST}")]),
        (
            "short-name-mode = 'enforcing'\nunqualified-search-registries = ['a.example:5000']".to_owned(),
            "m",
            vec!["a.example:5000/m:latest"],
        ),
    ] {
        assert_eq!(Configured::of(&text).candidates(typed).unwrap(), expected, "{typed} with {text}");
    }
}

#[test]
fn a_choice_that_is_the_users_lists_what_there_is() {
    let conf = Configured::of(
        "unqualified-search-registries = ['a.example', 'b.example']\nshort-name-mode = 'enforcing'",
    );
    let error = conf.candidates("m:v1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let place = format!("{}, line 2", conf.path("registries.conf"));
    for part in ["a.example/m:v1 or b.example/m:v1", &place, "write out"] {
        assert!(error.chain().contains(part), "{part} is not in: {}", error.chain());
    }
}

#[test]
fn without_registries_to_search_there_is_none() {
    for (text, place) in
        [("", "registries.conf"), ("\nunqualified-search-registries = []", "registries.conf, line 2")]
    {
        let conf = Configured::of(text);
        let error = conf.candidates("m:v1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        for part in [&conf.path(place), "docker.io/library/m:v1", "unqualified-search-registries"] {
            assert!(error.chain().contains(part), "{part} is not in: {}", error.chain());
        }
    }
}

#[test]
fn drop_ins_replace_what_came_before() {
    let conf = Configured::with(&[
        (
            "registries.conf",
            "unqualified-search-registries = ['a.example', 'b.example']\nshort-name-mode = 'enforcing'\n\
             [aliases]\nm = 'a.example/m'\nn = 'a.example/n'\n[[registry]]\nprefix = 'r.example'\nlocation = 'a.example'\n\
             [[registry]]\nlocation = 's.example'\nblocked = true",
        ),
        (
            "registries.conf.d/20.conf",
            "[[registry]]\nprefix = 'r.example'\nlocation = 'c.example'\n[aliases]\nm = ''",
        ),
        (
            "registries.conf.d/10.conf",
            "unqualified-search-registries = ['c.example', 'd.example']\nshort-name-mode = 'disabled'\n\
             [[registry]]\nprefix = 'r.example'\nlocation = 'b.example'\ninsecure = true\n[aliases]\nm = 'b.example/m'",
        ),
        ("registries.conf.d/30.toml", "not even TOML"),
        ("registries.conf.d/40.conf/a.conf", "not even TOML"),
    ]);
    assert_eq!(conf.route("r.example/m").unwrap(), ["origin https://c.example/v2/ m"]);
    assert!(conf.route("s.example/m").is_err());
    assert_eq!(conf.candidates("m").unwrap(), ["c.example/m:latest", "d.example/m:latest"]);
    assert_eq!(conf.candidates("n").unwrap(), ["a.example/n:latest"]);
}

#[test]
fn drop_ins_of_other_directories_come_last() {
    let mut conf = Configured::with(&[
        ("registries.conf", "unqualified-search-registries = ['file.example']"),
        ("registries.conf.d/z.conf", "unqualified-search-registries = ['beside.example']"),
        ("user/a.conf", "unqualified-search-registries = ['user.example']"),
    ]);
    assert_eq!(conf.candidates("m").unwrap(), ["beside.example/m:latest"]);
    conf.options.registry_drop_ins = ["missing", "user"].map(|name| conf.directory.path().join(name)).into();
    assert_eq!(conf.candidates("m").unwrap(), ["user.example/m:latest"]);
    for gone in ["registries.conf", "registries.conf.d/z.conf"] {
        std::fs::remove_file(conf.path(gone)).unwrap();
    }
    assert_eq!(conf.candidates("m").unwrap(), ["user.example/m:latest"]);
}

#[test]
fn drop_ins_may_stand_alone() {
    let conf =
        Configured::with(&[("registries.conf.d/a.conf", "unqualified-search-registries = ['a.example']")]);
    assert_eq!(conf.candidates("m").unwrap(), ["a.example/m:latest"]);
    let error = Configured::with(&[]).route("r.example/m").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.chain().contains("registries.conf"), "{}", error.chain());
}

#[test]
fn what_is_malformed_or_contradicts_itself_is_refused_with_the_line() {
    for (text, line, why) in [
        ("\n[[registry]", 2, "containers-registries.conf(5)"),
        ("\n[[registry]]\nlocatoin = 'r.example'", 3, "expected one of `prefix`, `location`"),
        ("\nsearch = []", 2, "expected one of `unqualified-search-registries`"),
        ("[[registry]]\nlocation = 'r.example'\ninsecure = 'yes'", 3, "expected a boolean"),
        ("[[registry]]\nlocation = 'r.example'\nlocation = 'r.example'", 3, "duplicate key"),
        ("[aliases]\nm = 'r.example/m'\nm = 'r.example/n'", 3, "duplicate key"),
        ("\n[registries.search]\nregistries = ['r.example']", 2, "version 1"),
        ("[registries.insecure]\nregistries = []", 1, "[[registry]]"),
        ("short-name-mode = 'strict'", 1, "enforcing, permissive or disabled"),
        ("unqualified-search-registries = ['r.example',\n'hub']", 2, "HOST[:PORT]"),
        ("unqualified-search-registries = ['r.example/a']", 1, "HOST[:PORT]"),
        ("[aliases]\nm = 'r.example/m:v1'", 2, "without tag"),
        ("[aliases]\nm = 'library/m'", 2, "HOST[:PORT]/REPO"),
        ("[aliases]\nm = 'm'", 2, "HOST[:PORT]/REPO"),
        ("[aliases]\n'm:v1' = 'r.example/m'", 2, "name without registry"),
        ("[aliases]\n'r.example/m' = 'r.example/m'", 2, "name without registry"),
        ("[aliases]\n'localhost/m' = 'r.example/m'", 2, "name without registry"),
        ("[[registry]]\ninsecure = true", 1, "location = "),
        ("[[registry]]\nlocation = ''", 1, "location = "),
        ("[[registry]]\nlocation = 'https://r.example'", 2, "leave out the scheme"),
        ("[[registry]]\nlocation = 'alpine'", 2, "HOST[:PORT]"),
        ("[[registry]]\nprefix = 'r.*.example'", 2, "HOST[:PORT]"),
        ("[[registry]]\nprefix = '*.example/a'", 2, "*.DOMAIN"),
        ("[[registry]]\nlocation = '*.example'", 2, "HOST[:PORT]"),
        ("[[registry]]\nprefix = 'r.example/a:v1'\nlocation = 'x.example/a'", 1, "same tag or digest"),
        ("[[registry]]\nlocation = 'r.example'\npull-from-mirror = 'all'", 3, "[[registry.mirror]]"),
        ("[[registry]]\nlocation = 'r.example'\n[[registry.mirror]]\ninsecure = true", 3, "location = "),
        (
            "[[registry]]\nlocation = 'r.example'\n[[registry.mirror]]\nlocation = 'm.example'\nblocked = true",
            5,
            "unknown field",
        ),
        (
            "[[registry]]\nlocation = 'r.example'\n[[registry.mirror]]\nlocation = 'm.example'\npull-from-mirror = 'some'",
            5,
            "all, digest-only or tag-only",
        ),
        (
            "[[registry]]\nlocation = 'r.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm.example'\npull-from-mirror = 'all'",
            6,
            "leave one of them out",
        ),
        ("[[registry]]\nprefix = 'r.example'\n[[registry]]\nprefix = 'r.example/'", 3, "line 1 already"),
        (
            "[[registry]]\nprefix = 'a.example'\nlocation = 'r.example'\n[[registry]]\nprefix = 'b.example'\nlocation = 'r.example'\ninsecure = true",
            4,
            "let them agree",
        ),
    ] {
        for name in ["registries.conf", "registries.conf.d/x.conf"] {
            let conf = Configured::with(&[("registries.conf", ""), (name, text)]);
            let error = conf.route("z.example/m").unwrap_err();
            let shown = error.chain();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{shown}");
            let place = format!("{}, line {line}: ", conf.path(name));
            assert!(
                shown.contains(&place) && shown.contains(why),
                "{why:?} on line {line} of {text:?}: {shown}"
            );
        }
    }
}

#[test]
fn a_location_that_makes_no_reference_is_refused_with_the_line() {
    let conf = Configured::of("\n[[registry]]\nprefix = 'r.example/a'\nlocation = 'x.example'");
    let shown = conf.route("r.example/a:v1").unwrap_err().chain();
    assert!(shown.contains("registries.conf, line 2: bad location for r.example/a:v1"), "{shown}");
    conf.route("r.example/a/b:v1").unwrap();
}

#[test]
fn settings_for_other_engines_pass() {
    let conf =
        Configured::of("additional-layer-store-auth-helper = 'helper'\ncredential-helpers = ['a', 'b']");
    let conf = RegistriesConf::read(conf.options.registry_config.as_ref().unwrap(), &[]).unwrap();
    let names: Vec<&str> = conf.credential_helpers().iter().map(|helper| helper.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}
