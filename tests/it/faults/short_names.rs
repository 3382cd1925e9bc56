//! Names without a registry, where some of the registries that they may stand for cannot be used.

use refmount::oci::media_type;
use serde_json::json;

use super::{PATIENT, SHARD, Site};
use crate::support::artifact::digest_of;
use crate::support::fault_registry::{Auth, FaultRegistry, REPOSITORY};
use crate::workplace::{assert_done, assert_failed, stderr, stdout};

/// A site, and a configuration by which names stand for `first` and then for the site's registry.
fn searching(first: &FaultRegistry) -> Site {
    let site = Site::new();
    let text = format!(
        "unqualified-search-registries = [\"{}\", \"{}\"]\nshort-name-mode = \"disabled\"\n",
        first.host(),
        site.registry.host()
    );
    site.workplace.put("registries.conf", text.as_bytes());
    site
}

fn mount(site: &Site) -> std::process::Output {
    let name = format!("{REPOSITORY}:v1");
    site.workplace.run(&[
        "mount",
        "--prefetch=off",
        PATIENT,
        "--registry-config=registries.conf",
        &name,
        "mnt",
    ])
}

#[test]
fn a_name_that_no_registry_has_lists_them_all_with_their_reasons() {
    let first = FaultRegistry::start();
    first.set_auth(Auth::Basic("user", "password"));
    let site = searching(&first);
    let manifest = &site.artifact.manifest;
    let built_for = |architecture: &str| {
        json!({
            "mediaType": media_type::OCI_MANIFEST,
            "digest": digest_of(manifest),
            "size": manifest.len(),
            "platform": { "os": "plan9", "architecture": architecture },
        })
    };
    let manifests = [built_for("mips"), built_for("arm")];
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
    site.registry.put_manifest("v1", media_type::OCI_INDEX, &index.to_string().into());
    let output = mount(&site);
    assert!(!output.status.success());
    assert_failed(&output, output.status.code().unwrap(), "write the registry out");
    for words in [first.host(), "refused", site.registry.host(), "plan9/mips"] {
        assert!(stderr(&output).contains(words), "{words:?} is not in {:?}", stderr(&output));
    }
    assert!(!site.workplace.is_mounted("mnt"));
}

#[test]
fn a_registry_that_cannot_be_reached_is_passed_over_with_a_warning() {
    let mut first = FaultRegistry::start();
    let site = searching(&first);
    first.go_away();
    let output = mount(&site);
    assert_done(&output);
    for words in ["would have been", first.host()] {
        assert!(stderr(&output).contains(words), "{words:?} is not in {:?}", stderr(&output));
    }
    assert!(stdout(&output).contains(site.registry.host()), "{}", stdout(&output));
    site.assert_reads_whole(SHARD);
}
