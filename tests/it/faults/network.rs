//! The registry, its token server and its store go wrong while something is mounted.

use std::thread;
use std::time::Duration;

use super::{HASTY, MIB, OTHER, PATIENT, SHARD, Site};
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Auth, Fault, Target};
use crate::workplace::wait_until;

#[test]
fn tokens_that_end_under_many_readers_are_renewed_once() {
    let site = Site::new();
    site.registry.set_auth(Auth::anonymous_bearer());
    site.mount(&[PATIENT]);
    site.assert_reads(SHARD, 0..10);
    let before = site.registry.requests(Target::Token).len();
    site.registry.revoke_tokens();
    thread::scope(|scope| {
        for chunk in 1..11 {
            let site = &site;
            scope.spawn(move || site.assert_reads(SHARD, chunk * MIB..chunk * MIB + 10));
        }
        scope.spawn(|| site.assert_reads(OTHER, 0..10));
    });
    assert_eq!(site.registry.requests(Target::Token).len(), before + 1);
}

#[test]
fn a_signed_url_that_has_expired_is_asked_for_again_once() {
    for refusal in [400, 403] {
        let site = Site::new();
        site.registry.redirect(usize::MAX, refusal);
        site.mount(&[PATIENT]);
        site.assert_reads(SHARD, 0..10);
        site.assert_reads(SHARD, 5 * MIB..5 * MIB + 10);
        assert_eq!(site.registry.requests(Target::Blob).len(), 1, "the store's URL is remembered");
        site.registry.expire_signatures();
        site.assert_reads(SHARD, 9 * MIB..9 * MIB + 10);
        assert_eq!(site.registry.requests(Target::Blob).len(), 2);
        let store: Vec<u16> =
            site.registry.requests(Target::Store).iter().map(|record| record.status).collect();
        assert_eq!(store, [206, 206, refusal, 206]);
    }
}

#[test]
fn urls_that_are_good_for_one_request_serve_a_whole_file() {
    let site = Site::new();
    site.registry.redirect(1, 403);
    site.mount(&[PATIENT]);
    for chunk in [7, 3, 11, 0] {
        site.assert_reads(SHARD, chunk * MIB..chunk * MIB + 10);
    }
    site.assert_reads_whole(OTHER);
}

#[test]
fn a_registry_without_ranges_is_read_whole_and_once() {
    let site = Site::mounted(&[PATIENT]);
    site.registry.faults(Target::Blob, 0, usize::MAX, Fault::IgnoredRange);
    site.assert_reads(SHARD, 9 * MIB - 5..9 * MIB + 5);
    site.assert_reads_whole(SHARD);
    assert_eq!(site.ranges(SHARD).len(), 1, "{:?}", site.ranges(SHARD));
    let size = site.artifact.file(SHARD).len();
    wait_until("all of it is stored", || site.status_of(SHARD)["cached_bytes"] == size);
}

/// A proxy that cuts long bodies makes no progress however often it is asked.
#[test]
fn a_registry_without_ranges_that_always_breaks_off_is_given_up() {
    let site = Site::mounted(&["--read-timeout=6"]);
    site.registry.faults(Target::Blob, 0, usize::MAX, Fault::IgnoredRangeCut(3 * MIB as usize + 7));
    site.assert_reads(SHARD, 2 * MIB..2 * MIB + 10);
    site.assert_fails(SHARD, 9 * MIB, &["truncated after 3145735 of 12587233 bytes"]);
}

#[test]
fn a_wrong_range_is_never_data() {
    let site = Site::mounted(&[PATIENT]);
    for (chunk, fault) in [(2, Fault::ShiftedRange), (5, Fault::MissingContentRange)] {
        site.registry.fault(Target::Blob, fault);
        site.assert_reads(SHARD, chunk * MIB..chunk * MIB + 100);
    }
    site.umount();
    site.mount(&[HASTY]);
    for (chunk, fault, cause) in
        [(3, Fault::ShiftedRange, "the wrong bytes"), (8, Fault::MissingContentRange, "no Content-Range")]
    {
        site.registry.faults(Target::Blob, 0, usize::MAX, fault);
        site.assert_fails(SHARD, chunk * MIB, &[cause]);
        site.registry.clear_faults();
        wait_until("a later read asks again", || site.read(SHARD, chunk * MIB..chunk * MIB + 10).is_ok());
    }
}

fn too_many(retry_after: Option<&str>) -> Fault {
    let headers = retry_after.map(|seconds| ("Retry-After", seconds.to_owned()));
    Fault::Status(429, headers.into_iter().collect())
}

#[test]
fn a_registry_that_is_asked_too_much_gets_its_pause() {
    let site = Site::mounted(&[PATIENT]);
    site.registry.fault(Target::Blob, too_many(Some("1")));
    let start = refmount::base::clock::now();
    site.assert_reads(SHARD, 0..10);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    site.registry.faults(Target::Blob, 0, 3, too_many(None));
    site.assert_reads(SHARD, 5 * MIB..5 * MIB + 10);
    assert_eq!(site.ranges(SHARD).len(), 2 + 4);
}

#[test]
fn a_pause_longer_than_a_read_may_wait_ends_it_with_the_reason() {
    let site = Site::mounted(&[HASTY]);
    site.registry.faults(Target::Blob, 0, usize::MAX, too_many(Some("3600")));
    site.assert_fails(SHARD, 0, &["429 Too Many Requests"]);
    site.registry.clear_faults();
    site.registry.faults(Target::Blob, 0, usize::MAX, too_many(None));
    site.assert_fails(SHARD, 4 * MIB, &["429 Too Many Requests"]);
}

#[test]
fn failures_of_the_registry_are_outlived() {
    let site = Site::mounted(&[PATIENT]);
    for status in [500, 502, 503, 504] {
        site.registry.fault(Target::Blob, Fault::Status(status, vec![]));
    }
    site.registry.fault(Target::Blob, Fault::Delivery(Delivery::Reset(0)));
    site.registry.fault(Target::Blob, Fault::Delivery(Delivery::Reset(300_000)));
    site.assert_reads(SHARD, 0..MIB);
    assert_eq!(site.ranges(SHARD).len(), 7);
    assert_eq!(site.registry.blob_traffic(&site.artifact.layer(SHARD)).0, 7);
}

#[test]
fn a_truncated_body_is_resumed_at_the_next_byte() {
    let site = Site::mounted(&[PATIENT]);
    site.registry.fault(Target::Blob, Fault::Delivery(Delivery::Truncate(700_000)));
    site.registry.fault(Target::Blob, Fault::Delivery(Delivery::Truncate(1)));
    site.assert_reads(SHARD, 2 * MIB..3 * MIB);
    let starts: Vec<u64> = site.ranges(SHARD).iter().map(|range| range.start - 2 * MIB).collect();
    assert_eq!(starts, [0, 700_000, 700_001]);
    assert_eq!(site.status()["network_bytes"], MIB, "no byte came twice");
}

/// In all it takes longer than a read may wait for nothing.
#[test]
fn a_body_that_trickles_is_waited_for() {
    let site = Site::mounted(&["--read-timeout=6"]);
    let trickle = Delivery::Trickle(1 << 16, Duration::from_millis(500));
    site.registry.fault(Target::Blob, Fault::Delivery(trickle));
    site.assert_reads(SHARD, 0..10);
}

#[test]
fn a_body_that_stalls_is_taken_up_again() {
    let site = Site::mounted(&["--read-timeout=15"]);
    site.registry.fault(Target::Blob, Fault::Delivery(Delivery::Stall(500_000)));
    site.assert_reads(SHARD, 0..MIB);
    let starts: Vec<u64> = site.ranges(SHARD).iter().map(|range| range.start).collect();
    assert_eq!(starts, [0, 500_000]);
}

#[test]
fn a_registry_that_only_stalls_is_an_error_in_time() {
    let site = Site::mounted(&[HASTY]);
    site.registry.faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Stall(0)));
    site.assert_fails(SHARD, 2 * MIB, &["stalled after 0 of"]);
}

#[test]
fn while_the_registry_is_gone_what_is_cached_is_read_and_its_return_is_noticed() {
    let mut site = Site::mounted(&["--read-timeout=6"]);
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    site.registry.go_away();
    site.assert_reads(SHARD, 3 * MIB..4 * MIB);
    site.assert_fails(SHARD, 7 * MIB, &["onnect"]);
    assert_eq!(std::fs::read_dir(site.path("model")).unwrap().count(), 2);
    site.registry.come_back();
    // Sooner or later: a pause between two attempts is not cut short.
    wait_until("the return is noticed", || site.read(SHARD, 7 * MIB..8 * MIB).is_ok());
    site.assert_reads(SHARD, 7 * MIB..8 * MIB);
}
