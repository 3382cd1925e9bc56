//! What is mounted without asking the registry, and for whom.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use refmount::oci::media_type;
use serde_json::json;

use super::disk::{files, flip};
use super::{CONFIG, HASTY, MIB, PATIENT, SHARD, Site};
use crate::support::artifact::{ModelArtifact, digest_of};
use crate::support::fault_registry::{Auth, FaultRegistry, SECRET, Target};
use crate::support::producers::{Layer, Product, gzip, tar};
use crate::workplace::{Workplace, assert_done, assert_failed, json, stderr, wait_until};

const PASSWORD: &str = "hush-hush-password";
const OTHER_PASSWORD: &str = "hush-hush-other";

const NEVER: &str = "--pull=never";
const MISSING: &str = "--pull=missing";

impl Site {
    /// How often the registry was asked for a manifest.
    fn manifests_asked(&self) -> usize {
        self.registry.requests(Target::Manifest).len()
    }

    /// The digest that is mounted.
    fn digest(&self) -> String {
        self.status()["digest"].as_str().unwrap().to_owned()
    }

    fn put_login(&self, name: &str, password: &str) {
        let entry = json!({ "auth": STANDARD.encode(format!("user:{password}")) });
        let text = json!({ "auths": { self.registry.host(): entry } }).to_string();
        self.workplace.put(name, text.as_bytes());
    }

    /// Mounts and unmounts again.
    fn passes(&self, options: &[&str]) {
        self.mount(options);
        self.umount();
    }
}

#[test]
fn what_is_cached_is_mounted_and_read_while_the_registry_is_gone() {
    let mut site = Site::new();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [site.artifact.descriptor()],
    });
    site.registry.put_manifest("v1", media_type::OCI_INDEX, &Bytes::from(index.to_string()));
    site.mount(&[PATIENT]);
    site.assert_reads_whole(CONFIG);
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    let digest = site.digest();
    wait_until("what was read is stored", || site.status()["cached_bytes"] == MIB + 300);
    site.umount();
    site.registry.go_away();
    for policy in [MISSING, NEVER] {
        site.mount(&[policy, HASTY]);
        assert_eq!(site.digest(), digest);
        site.assert_reads_whole(CONFIG);
        site.assert_reads(SHARD, 3 * MIB..4 * MIB);
        site.assert_fails(SHARD, 9 * MIB, &["onnect"]);
        site.umount();
    }
    let host = site.registry.host().to_owned();
    assert_failed(&site.try_mount(&[HASTY]), 1, &host);
}

#[test]
fn a_compressed_layer_that_was_read_is_shown_while_the_registry_is_gone() {
    let content = vec![b'x'; 70_000];
    let blob = gzip(&tar(&[("a/b.txt", 0o644, &content)]));
    let product = Product::new("archive", "application/vnd.cncf.model.config.v1+json", "{}")
        .artifact_type("application/vnd.cncf.model.manifest.v1+json")
        .layer("modelpack", Layer::new("application/vnd.cncf.model.weight.v1.tar+gzip", blob));
    let mut registry = FaultRegistry::start();
    registry.put_product(&product, "v1");
    let workplace = Workplace::new();
    std::fs::create_dir(workplace.path("mnt")).unwrap();
    let reference = registry.reference("v1").to_string();
    assert_done(&workplace.run(&["mount", PATIENT, &reference, "mnt"]));
    assert!(std::fs::read(workplace.path("mnt/a/b.txt")).unwrap() == content);
    let status = || json(&workplace.run(&["status", "-o", "json", "mnt"]));
    wait_until("the layer is known", || status()["layers_reading"] == 0);
    assert_done(&workplace.run(&["umount", "mnt"]));
    registry.go_away();
    assert_done(&workplace.run(&["mount", NEVER, HASTY, &reference, "mnt"]));
    assert!(std::fs::read(workplace.path("mnt/a/b.txt")).unwrap() == content);
}

#[test]
fn what_is_not_cached_is_an_error_that_says_what_to_do() {
    let mut site = Site::new();
    let output = site.try_mount(&[NEVER]);
    assert_failed(&output, 3, &site.reference());
    assert!(stderr(&output).contains("--pull missing"), "{}", stderr(&output));
    assert_eq!(site.manifests_asked(), 0);
    site.passes(&[MISSING]);
    assert_eq!(site.manifests_asked(), 1);
    site.passes(&[NEVER]);
    site.passes(&[MISSING]);
    assert_eq!(site.manifests_asked(), 1);
    assert_done(&site.workplace.run(&["cache", "prune", "--all"]));
    site.registry.go_away();
    assert_failed(&site.try_mount(&[NEVER]), 3, "--pull missing");
    assert_failed(&site.try_mount(&[MISSING]), 1, site.registry.host());
}

#[test]
fn other_credentials_are_not_let_in() {
    let mut site = Site::new();
    site.registry.set_auth(Auth::Basic("user", PASSWORD));
    site.put_login("own.json", PASSWORD);
    site.put_login("other.json", OTHER_PASSWORD);
    site.workplace.put("none.json", b"");
    site.passes(&["--authfile=own.json"]);
    for file in ["--authfile=other.json", "--authfile=none.json"] {
        let asked = site.manifests_asked();
        let output = site.try_mount(&[NEVER, file]);
        assert_failed(&output, 4, "for other credentials");
        assert!(stderr(&output).contains("--pull missing") && !stderr(&output).contains(SECRET));
        assert_eq!(site.manifests_asked(), asked);
        assert_failed(&site.try_mount(&[MISSING, file]), 4, site.registry.host());
        assert!(site.manifests_asked() > asked);
    }
    // The password changes: whoever has the new one has to show it once.
    site.registry.set_auth(Auth::Basic("user", OTHER_PASSWORD));
    let asked = site.manifests_asked();
    site.passes(&[MISSING, "--authfile=other.json"]);
    assert!(site.manifests_asked() > asked);
    site.registry.go_away();
    for file in ["--authfile=own.json", "--authfile=other.json"] {
        for policy in [NEVER, MISSING] {
            site.passes(&[policy, file]);
        }
    }
    wait_until("the owner has ended", || site.workplace.owner().is_none());
    for file in files(&site.workplace.path("cache/v1"), "") {
        let bytes = std::fs::read(&file).unwrap();
        let holds = |secret: &str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        let encoded = STANDARD.encode(format!("user:{PASSWORD}"));
        assert!(!holds(SECRET) && !holds(&encoded), "a secret in {}", file.display());
    }
}

#[test]
fn what_a_registry_tells_anybody_is_told_to_anybody() {
    for auth in [Auth::Open, Auth::anonymous_bearer()] {
        let mut site = Site::new();
        site.registry.set_auth(auth);
        site.workplace.put("none.json", b"");
        site.passes(&["--authfile=none.json"]);
        site.put_login("own.json", PASSWORD);
        site.registry.go_away();
        site.passes(&[NEVER, "--authfile=own.json"]);
    }
}

#[test]
fn a_damaged_manifest_is_asked_for_again() {
    let site = Site::new();
    site.passes(&[PATIENT]);
    let manifests = site.workplace.path("cache/v1/manifests");
    let damage = || flip(&files(&manifests, "").pop().unwrap(), 100);
    damage();
    assert_failed(&site.try_mount(&[NEVER]), 3, &digest_of(&site.artifact.manifest).to_string());
    site.passes(&[MISSING]);
    assert_eq!(site.manifests_asked(), 2);
    site.passes(&[NEVER]);
    damage();
    site.passes(&[MISSING]);
    assert_eq!(site.manifests_asked(), 3);
}

#[test]
fn a_tag_that_moves_is_followed_by_those_who_always_ask() {
    let site = Site::new();
    site.mount(&[PATIENT]);
    let old = site.digest();
    site.umount();
    site.registry.put(&ModelArtifact::new(8, &[(CONFIG, 310)]), "v1");
    for (policy, is_old) in [(MISSING, true), (NEVER, true), ("--pull=always", false), (MISSING, false)] {
        site.mount(&[policy]);
        assert_eq!(site.digest() == old, is_old, "{policy}");
        site.umount();
    }
    assert_eq!(site.manifests_asked(), 2);
}
