//! What is asked for a part of a blob: a registry that gives it, one behind a proxy that gives everything, one that
//! has it from elsewhere first, and stores that want a fresh signature again and again.

use std::time::Duration;

use super::{FILES, REPOSITORY, Site, origin};
use crate::support::docker_registry::DockerRegistry;
use crate::support::nginx::Nginx;
use crate::support::signed_urls::SignedUrls;
use crate::workplace::wait_until;

/// For how long a signed URL is good, in seconds.
const LIFE: u64 = 2;

/// Such that several end.
const PERIOD: Duration = Duration::from_secs(8);

#[test]
fn a_registry_is_asked_for_ranges_and_gives_them() {
    let registry = origin().registry.another("");
    let site = Site::at(registry.host());
    site.mount(&[]);
    site.read_slowly(Duration::ZERO);
    site.assert_reads_whole();
    site.assert_discreet(&[]);
    let accesses = registry.accesses(REPOSITORY);
    let blobs: Vec<_> = accesses.iter().filter(|access| access.is_blob()).collect();
    assert!(blobs.iter().all(|access| access.status == 206), "{blobs:?}");
}

#[test]
fn a_proxy_that_ignores_ranges_sends_each_blob_once() {
    let settings = "max_ranges 0; proxy_set_header Range ''; proxy_hide_header Accept-Ranges;";
    let proxy = Nginx::before(origin().registry.host(), "", settings);
    let site = Site::at(proxy.host());
    site.mount(&[]);
    site.read_slowly(Duration::ZERO);
    site.assert_reads_whole();
    site.assert_discreet(&[]);
    for file in FILES {
        let blob = origin().artifact.layer(file).to_string();
        let statuses = || -> Vec<u16> {
            let passages = proxy.passages().into_iter().filter(|passage| passage.path.ends_with(&blob));
            passages.map(|passage| passage.status).collect()
        };
        wait_until("it is logged what was sent", || !statuses().is_empty());
        assert_eq!(statuses(), [200], "{file}");
    }
}

/// Until it has a blob itself, docker-registry as a mirror answers a range with the whole.
#[test]
fn a_mirror_that_has_nothing_yet_serves_all_bytes() {
    let mirror = DockerRegistry::mirror_of(origin().registry.host());
    let site = Site::at(mirror.host());
    site.mount(&[]);
    site.read_slowly(Duration::ZERO);
    site.assert_reads_whole();
    site.assert_discreet(&[]);
    let accesses = mirror.accesses(REPOSITORY);
    assert!(accesses.iter().any(|access| access.is_blob() && access.status == 200), "{accesses:?}");
}

#[test]
fn urls_that_expire_and_are_forbidden_then_are_signed_again() {
    read_through_signed_urls(403);
}

#[test]
fn urls_that_expire_and_are_bad_requests_then_are_signed_again() {
    read_through_signed_urls(400);
}

fn read_through_signed_urls(refusal: u16) {
    let registry = SignedUrls::before(&origin().registry, LIFE, refusal);
    let site = Site::at(registry.host());
    site.mount(&[]);
    site.read_slowly(PERIOD);
    site.assert_reads_whole();
    site.assert_discreet(&registry.issued());
    let statuses = registry.statuses();
    assert!(statuses.iter().all(|status| [206, refusal].contains(status)), "{statuses:?}");
    let refused = statuses.iter().filter(|status| **status == refusal).count();
    assert!(refused >= 2 * FILES.len(), "{refused} URLs had expired: {statuses:?}");
}
