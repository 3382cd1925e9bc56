//! Mirrors that go wrong before a registry that does not: readers get the right bytes and no error, and `status` says who
//! failed.

use std::time::Duration;

use ::bytes::Bytes;
use refmount::base::clock;
use refmount::oci::media_type;
use serde_json::{Value, json};

use super::{CONFIG, HASTY, MIB, OTHER, PATIENT, SHARD, Site};
use crate::support::artifact::ModelArtifact;
use crate::support::connection::Delivery;
use crate::support::fault_registry::{Auth, Fault, FaultRegistry, REPOSITORY, SECRET, Target};
use crate::workplace::{assert_done, stderr, wait_until};

/// A registry, and mirrors that come before it.
pub(super) struct Mirrored {
    pub(super) site: Site,
    pub(super) mirrors: Vec<FaultRegistry>,
}

impl Mirrored {
    /// So many mirrors that have what the registry has.
    pub(super) fn new(mirrors: usize) -> Self {
        let site = Site::new();
        let mirrors = (0..mirrors).map(|_| FaultRegistry::with(&site.artifact)).collect();
        Self::of(site, mirrors)
    }

    /// These mirrors before the registry of `site`.
    pub(super) fn of(site: Site, mirrors: Vec<FaultRegistry>) -> Self {
        let mirrored = Self { site, mirrors };
        mirrored.configure("");
        mirrored
    }

    /// Has containerd's configuration name the mirrors, each with `more` in its table.
    fn configure(&self, more: &str) {
        let directory = format!("registries/{}_", self.site.registry.host().replace(':', "_"));
        let tables = self.mirrors.iter().enumerate().map(|(at, mirror)| {
            let more = more.replace("INDEX", &at.to_string());
            format!("[host.\"http://{}\"]\n{more}\n", mirror.host())
        });
        let text: String = tables.collect();
        self.site.workplace.put(&format!("{directory}/hosts.toml"), text.as_bytes());
    }

    pub(super) fn mount(&self, options: &[&str]) {
        self.site.mount(&[&["--registry-config=registries"], options].concat());
    }

    fn mounted(mirrors: usize, options: &[&str]) -> Self {
        let mirrored = Self::new(mirrors);
        mirrored.mount(options);
        mirrored
    }

    /// What `status` says of `registry`.
    fn status_of(&self, registry: &FaultRegistry) -> Value {
        let status = self.site.status();
        let hosts = status["hosts"].as_array().unwrap();
        hosts.iter().find(|host| host["host"] == registry.host()).unwrap().clone()
    }

    pub(super) fn mirror(&self, at: usize) -> Value {
        self.status_of(&self.mirrors[at])
    }

    fn registry(&self) -> Value {
        self.status_of(&self.site.registry)
    }

    /// Asserts that the last failure of a mirror that `status` shows has these words.
    fn assert_failed(&self, at: usize, words: &str) {
        let mirror = self.mirror(at);
        let failure = mirror["last_failure"].as_str().unwrap_or_else(|| panic!("no failure: {mirror}"));
        assert!(mirror["failures"].as_u64() > Some(0) && failure.contains(words), "{mirror}");
    }

    /// The file's blob with a wrong byte at `offset`, at this mirror.
    fn damage(&self, at: usize, file: &str, offset: usize) {
        let mut bytes = self.site.artifact.file(file).to_vec();
        bytes[offset] ^= 1;
        self.mirrors[at].replace_blob(&self.site.artifact.layer(file), Some(bytes.into()));
    }
}

fn bytes_of(host: &Value) -> u64 {
    host["bytes"].as_u64().unwrap()
}

#[test]
fn what_a_mirror_has_comes_from_it_alone() {
    let all = Mirrored::mounted(1, &[PATIENT]);
    all.site.assert_reads_whole(SHARD);
    all.site.assert_reads_whole(OTHER);
    assert_eq!(all.site.registry.requests(Target::Blob).len(), 0);
    assert_eq!((bytes_of(&all.registry()), &all.mirror(0)["failures"]), (0, &json!(0)));
}

#[test]
fn a_mirror_that_lacks_the_manifest_is_passed_over() {
    let all = Mirrored::of(Site::new(), vec![FaultRegistry::start()]);
    all.mount(&[PATIENT]);
    all.site.assert_reads_whole(SHARD);
    all.assert_failed(0, "404 Not Found");
    assert_eq!(bytes_of(&all.mirror(0)), 0);
}

#[test]
fn a_mirror_that_lacks_one_blob_serves_the_others() {
    let all = Mirrored::new(1);
    let shard = all.site.artifact.layer(SHARD);
    all.mirrors[0].replace_blob(&shard, None);
    all.mount(&[PATIENT]);
    let start = clock::now();
    all.site.assert_reads_whole(OTHER);
    all.site.assert_reads(SHARD, 0..10);
    all.site.assert_reads_whole(OTHER);
    all.site.assert_reads(SHARD, 8 * MIB..9 * MIB);
    all.assert_failed(0, "404 Not Found");
    assert_eq!(all.mirror(0)["set_aside_seconds"], Value::Null);
    let asked = all.mirrors[0].blob_traffic(&shard).0 as u64;
    let may_be_asked = 1..=1 + start.elapsed().as_secs() / 5;
    assert!(may_be_asked.contains(&asked), "it is asked {asked} times, not once in 5 s");
    assert_eq!(all.site.registry.blob_traffic(&all.site.artifact.layer(OTHER)).0, 0);
}

#[test]
fn a_mirror_that_refuses_is_set_aside_for_as_long_as_it_asks() {
    let retry_after = vec![("Retry-After", "77".to_owned())];
    for (status, headers, seconds) in [(500, vec![], 5), (429, retry_after, 77), (400, vec![], 5)] {
        let all = Mirrored::mounted(1, &[PATIENT]);
        all.mirrors[0].faults(Target::Blob, 0, usize::MAX, Fault::Status(status, headers));
        all.site.assert_reads(SHARD, 0..MIB);
        let (mirror, log) = (all.mirror(0), all.site.log());
        all.site.assert_reads_whole(SHARD);
        all.assert_failed(0, &status.to_string());
        // A later line may be of a later time.
        let first = log.lines().find(|line| line.contains("a mirror is set aside"));
        assert!(first.is_some_and(|line| line.contains(&format!("pause_s={seconds} "))), "{log}");
        let aside = mirror["set_aside_seconds"].as_u64();
        // The short pause may be over by now.
        assert!(seconds == 5 || aside.is_some_and(|aside| (6..=77).contains(&aside)), "{mirror}");
    }
}

/// All of them together leave the reader time for the registry.
#[test]
fn mirrors_that_say_nothing_take_no_more_time_together_than_a_read_has() {
    let all = Mirrored::mounted(4, &["--read-timeout=6"]);
    for mirror in &all.mirrors {
        mirror.faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Silence));
    }
    all.site.assert_reads_whole(OTHER);
    for at in 0..4 {
        all.assert_failed(at, "no answer within 0.5 s");
    }
}

#[test]
fn a_mirror_that_stalls_is_followed_by_the_registry_at_the_next_byte() {
    for after in [0, 700_000] {
        let all = Mirrored::mounted(1, &["--read-timeout=15"]);
        all.mirrors[0].faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Stall(after)));
        all.site.assert_reads(SHARD, 0..MIB);
        all.assert_failed(0, "stalled");
        assert_eq!(all.site.ranges(SHARD)[0].start, after as u64);
    }
}

#[test]
fn a_mirror_that_trickles_is_followed_by_the_registry() {
    let all = Mirrored::mounted(1, &["--read-timeout=15"]);
    let trickle = Delivery::Trickle(100, Duration::from_millis(100));
    all.mirrors[0].faults(Target::Blob, 0, usize::MAX, Fault::Delivery(trickle));
    all.site.assert_reads(SHARD, 0..MIB);
    all.assert_failed(0, "too slow after");
    assert_ne!(all.site.ranges(SHARD)[0].start, 0, "what came was not taken");
}

#[test]
fn a_mirror_that_truncates_again_and_again_is_followed_by_the_registry() {
    let all = Mirrored::mounted(1, &["--read-timeout=6"]);
    // Less than a chunk, so that no request of it goes well.
    all.mirrors[0].faults(Target::Blob, 0, usize::MAX, Fault::Delivery(Delivery::Truncate(700_000)));
    all.site.assert_reads_whole(SHARD);
    all.assert_failed(0, "truncated");
    let (mirror, registry) = (bytes_of(&all.mirror(0)), bytes_of(&all.registry()));
    assert!(mirror > 0 && registry > 0);
    assert_eq!(all.site.status()["rejected_chunks"], 0);
}

#[test]
fn with_verification_before_reading_no_wrong_byte_of_a_mirror_is_ever_served() {
    let all = Mirrored::new(1);
    all.damage(0, OTHER, 2 * MIB as usize + 1);
    all.mount(&[PATIENT, "--verify=before-read"]);
    all.site.assert_reads(OTHER, 2 * MIB..2 * MIB + 10);
    all.site.assert_reads_whole(OTHER);
    assert_eq!(all.site.status_of(OTHER)["standing"], "proven");
    assert_eq!(all.mirror(0)["distrusted_blobs"], 1);
    all.assert_failed(0, "wrong bytes of blob");
    // For that blob alone.
    wait_until("the mirror is used again", || {
        let _ = all.site.read(CONFIG, 0..10);
        all.mirror(0)["set_aside_seconds"].is_null()
    });
    all.site.assert_reads_whole(SHARD);
    assert!(all.mirrors[0].blob_traffic(&all.site.artifact.layer(SHARD)).0 > 0);
    assert_eq!(all.registry()["distrusted_blobs"], 0);
}

#[test]
fn wrong_bytes_of_a_mirror_are_replaced_by_those_of_the_registry() {
    let all = Mirrored::new(1);
    all.damage(0, OTHER, 5);
    all.mount(&[PATIENT]);
    let truth = all.site.artifact.file(OTHER);
    // By its policy it may show the wrong ones, until the blob is complete.
    let read = || std::fs::read(all.site.path(OTHER)).unwrap();
    wait_until("the right bytes are there", || read() == truth);
    wait_until("they are proven", || all.site.status_of(OTHER)["standing"] == "proven");
    assert!(read() == truth);
    assert_eq!(all.mirror(0)["distrusted_blobs"], 1);
    assert_eq!(all.site.status_of(OTHER)["standing"], "proven");
}

#[test]
fn of_two_mirrors_with_wrong_bytes_neither_is_believed() {
    let all = Mirrored::new(2);
    all.damage(0, SHARD, 5);
    all.damage(1, SHARD, 11 * MIB as usize);
    all.mount(&[PATIENT, "--verify=before-read"]);
    all.site.assert_reads_whole(SHARD);
    for at in 0..2 {
        assert_eq!(all.mirror(at)["distrusted_blobs"], 1, "{}", all.mirror(at));
    }
    assert_eq!(all.registry()["distrusted_blobs"], 0);
}

/// Whoever is known to send wrong bytes is not asked for them again and again while nobody else can be asked.
#[test]
fn while_the_registry_is_gone_wrong_bytes_of_a_mirror_are_fetched_once() {
    let mut all = Mirrored::new(1);
    let shard = all.site.artifact.layer(SHARD);
    all.damage(0, SHARD, 5);
    all.mount(&["--read-timeout=6", "--verify=before-read"]);
    all.site.registry.go_away();
    assert!(all.site.read(SHARD, 0..10).is_err());
    let (_, bytes) = all.mirrors[0].blob_traffic(&shard);
    let once = all.site.artifact.file(SHARD).len() as u64;
    assert!(bytes < 2 * once, "{bytes} bytes of a blob of {once}");
    all.site.registry.come_back();
    wait_until("the registry's return is noticed", || all.site.read(SHARD, 0..10).is_ok());
    all.site.assert_reads_whole(SHARD);
}

/// Where the registry does not even know us, a mirror that fails in passing is all there is.
#[test]
fn a_mirror_that_fails_in_passing_before_a_registry_that_refuses_is_asked_again() {
    let all = Mirrored::mounted(1, &[PATIENT]);
    all.site.registry.set_auth(Auth::Basic("nobody", "nothing"));
    all.mirrors[0].faults(Target::Blob, 0, 2, Fault::Status(503, vec![]));
    all.site.assert_reads_whole(SHARD);
    all.mirrors[0].fault(Target::Blob, Fault::Delivery(Delivery::Reset(0)));
    all.site.assert_reads_whole(OTHER);
}

#[test]
fn another_manifest_under_the_digest_that_was_asked_for_is_refused() {
    let all = Mirrored::new(1);
    let digest = all.site.artifact.descriptor().digest;
    let other = ModelArtifact::new(8, &[(CONFIG, 200)]);
    all.mirrors[0].replace_manifest(digest.as_str(), media_type::OCI_MANIFEST, &other.manifest);
    let reference = format!("{}/{REPOSITORY}@{digest}", all.site.registry.host());
    let arguments = ["mount", "--prefetch=off", "--registry-config=registries", &reference, "mnt"];
    assert_done(&all.site.workplace.run(&arguments));
    all.site.assert_reads_whole(SHARD);
    all.assert_failed(0, "the bytes have the digest");
}

/// What stands in a mirror's place may answer everything with its own pages.
#[test]
fn what_is_no_manifest_is_none_though_a_mirror_says_so() {
    let all = Mirrored::new(1);
    let page = Bytes::from_static(b"<html>Welcome! Please log in.</html>");
    all.mirrors[0].replace_manifest("v1", "text/html", &page);
    all.mount(&[PATIENT]);
    all.site.assert_reads_whole(SHARD);
    assert!(all.mirror(0)["failures"].as_u64() > Some(0));
}

#[test]
fn the_registrys_credentials_are_not_a_mirrors() {
    let login = Some(("user", "hush-hush-password"));
    let bearer =
        |realm| Auth::Bearer { realm, login, identity_token: None, uses: usize::MAX, expires_in: 300.0 };
    let all = Mirrored::new(2);
    let (registry, mirrors) = (&all.site.registry, &all.mirrors);
    registry.set_auth(bearer(None));
    mirrors[0].set_auth(Auth::Basic("user", "hush-hush-password"));
    // The other one would have us log in at the registry's own token server.
    mirrors[1].set_auth(bearer(Some(format!("http://{}/token", registry.host()))));
    let auths =
        json!({ "auths": { registry.host(): { "username": "user", "password": "hush-hush-password" } } });
    all.site.workplace.put("auth.json", auths.to_string().as_bytes());
    all.mount(&[PATIENT, "--authfile=auth.json"]);
    all.site.assert_reads_whole(SHARD);
    for (at, mirror) in mirrors.iter().enumerate() {
        let requests = [Target::Manifest, Target::Blob, Target::Token].map(|target| mirror.requests(target));
        let requests = requests.concat();
        assert!(!requests.is_empty() && requests.iter().all(|request| !request.is_authorized));
        all.assert_failed(at, "refused");
    }
    assert!(!all.site.log().contains("hush-hush"));
}

/// What `hosts.toml` has sent to a mirror is for it alone, and not to be seen where the mirror echoes it.
#[test]
fn headers_for_a_mirror_go_to_no_other_host_and_into_no_error() {
    let all = Mirrored::new(2);
    all.configure(&format!(
        "header = {{ x-key = \"{SECRET}-for-INDEX\", authorization = \"Basic {SECRET}\" }}"
    ));
    let key = |at: usize| ("x-key".to_owned(), format!("{SECRET}-for-{at}"));
    let bearer = Auth::anonymous_bearer();
    for mirror in &all.mirrors {
        mirror.set_auth(bearer.clone());
        mirror.redirect(usize::MAX, 403);
    }
    all.mount(&[PATIENT]);
    all.site.assert_reads(SHARD, 0..MIB);
    let first = &all.mirrors[0];
    assert!(first.requests(Target::Manifest).iter().all(|request| request.headers.contains(&key(0))));
    assert!(first.requests(Target::Blob).iter().all(|request| request.headers.contains(&key(0))));
    for target in [Target::Store, Target::Token] {
        let requests = first.requests(target);
        assert!(!requests.is_empty(), "{target:?}");
        let has_secret = |(_, value): &(String, String)| value.contains(SECRET);
        assert!(requests.iter().all(|request| !request.headers.iter().any(has_secret)), "{target:?}");
    }
    first.faults(Target::Blob, 0, usize::MAX, Fault::Echo(403));
    first.faults(Target::Store, 0, usize::MAX, Fault::Status(404, vec![]));
    first.expire_signatures();
    all.site.assert_reads_whole(OTHER);
    all.assert_failed(0, "403");
    let status = stderr(&all.site.workplace.run(&["status", "mnt"])) + &all.site.status().to_string();
    assert!(!status.contains(SECRET) && !all.site.log().contains(SECRET), "{status}\n{}", all.site.log());
}

#[test]
fn a_mirror_that_redirects_to_a_store_that_fails_is_followed_by_the_registry() {
    let all = Mirrored::new(1);
    all.mirrors[0].redirect(usize::MAX, 403);
    all.mount(&["--read-timeout=6"]);
    all.site.assert_reads(SHARD, 0..MIB);
    assert!(!all.mirrors[0].requests(Target::Store).is_empty());
    all.mirrors[0].faults(Target::Store, 0, usize::MAX, Fault::Delivery(Delivery::Silence));
    all.site.assert_reads_whole(OTHER);
    all.assert_failed(0, "no answer within 2 s");
    let store = FaultRegistry::start();
    all.mirrors[0].clear_faults();
    all.mirrors[0].faults(
        Target::Blob,
        0,
        usize::MAX,
        Fault::Status(307, vec![("Location", format!("http://{}/nowhere", store.host()))]),
    );
    all.site.assert_reads_whole(SHARD);
    let _ = store.take_violations();
}

/// Each has its own way to what both show.
#[test]
fn two_mounts_of_one_artifact_with_different_mirrors_share_what_is_right() {
    let all = Mirrored::new(1);
    all.damage(0, SHARD, 5);
    let (site, other) = (&all.site, FaultRegistry::with(&all.site.artifact));
    all.mount(&[PATIENT, "--verify=before-read"]);
    let directory = format!("others/{}_", site.registry.host().replace(':', "_"));
    let text = format!("server = \"http://{}\"\n", other.host());
    site.workplace.put(&format!("{directory}/hosts.toml"), text.as_bytes());
    std::fs::create_dir(site.workplace.path("second")).unwrap();
    let options = ["mount", "--prefetch=off", "--registry-config=others", "--verify=before-read", HASTY];
    assert_done(&site.workplace.run(&[&options[..], &[&site.reference(), "second"]].concat()));
    site.assert_reads_whole(SHARD);
    assert!(std::fs::read(site.workplace.path("second").join(SHARD)).unwrap() == site.artifact.file(SHARD));
}
