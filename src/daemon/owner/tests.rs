use std::sync::atomic::Ordering;

use super::*;
use crate::base::ErrorKind;
use crate::cache::FreeSpaceFloor;
use crate::daemon::Client;
use crate::daemon::api::WantedLimits;
use crate::daemon::bodies::PruneRequest;
use crate::daemon::client::Unanswered;
use crate::daemon::mounts::tests::{Double, request};
use crate::mount::MountRequest;

fn settings(directory: &Path) -> CacheSettings {
    CacheSettings {
        directory: directory.to_owned(),
        bytes_max: 1 << 30,
        free_space_min: FreeSpaceFloor::Bytes(0),
    }
}

fn start(directory: &Path) -> (Arc<Double>, Client, Owner) {
    let double = Arc::new(Double::default());
    let mounter = double.clone();
    let cache = Cache::open(settings(directory)).unwrap();
    let mounts = Mounts::new(mounter);
    let layers = layers(&cache);
    let watch = Watch::new(Arc::clone(&mounts), None, Arc::clone(layers.fetcher()), 0);
    let warms = Warms::new(layers, mounts, None);
    let begin = std::future::ready(());
    let owner =
        Owner::start_with(settings(directory), watch, warms, None, HeldAs::alone(), None, begin).unwrap();
    let client = Client::new(&directory.join("control.sock")).unwrap();
    (double, client, owner)
}

#[tokio::test]
async fn requests_over_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let (double, client, owner) = start(directory.path());
    let running = tokio::spawn(owner.run());
    let version = client.version().await.unwrap();
    assert_eq!((version.pid, version.cache_bytes_max), (std::process::id(), 1 << 30));

    let summary = client.mount(&request("/a b?&")).await.unwrap();
    assert_eq!(summary.mountpoint, Path::new("/a b?&"));
    client.mount(&request("/a b?&")).await.unwrap();
    assert_eq!(double.mounted.load(Ordering::SeqCst), 1);
    let other = MountRequest { subpath: Some("x".into()), ..request("/a b?&") };
    let Err(Unanswered::Failed(error)) = client.mount(&other).await else { panic!() };
    assert_eq!(error.kind(), ErrorKind::Busy);
    let Err(Unanswered::Failed(error)) = client.mount(&request("relative")).await else { panic!() };
    assert_eq!(error.kind(), ErrorKind::Usage);

    assert_eq!(client.list().await.unwrap().len(), 1);
    assert_eq!(client.status(&summary.mountpoint).await.unwrap().summary.files, 1);
    let Err(Unanswered::Failed(error)) = client.status(Path::new("/b")).await else { panic!() };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(client.cache_info().await.unwrap().bytes_max, 1 << 30);
    client.prune(PruneRequest { all: true }).await.unwrap();

    client.unmount(&summary.mountpoint).await.unwrap();
    assert!(client.ended(&summary.mountpoint).await.unwrap());
    // Its last mount is gone, and so it goes itself.
    running.await.unwrap();
    assert!(!directory.path().join("control.sock").exists());
    assert!(matches!(client.version().await, Err(Unanswered::NoOwner(_))));
}

#[tokio::test]
async fn a_mount_point_is_the_same_by_whatever_path() {
    let directory = tempfile::tempdir().unwrap();
    let (double, client, owner) = start(directory.path());
    let real = std::fs::canonicalize(directory.path()).unwrap().join("real");
    let link = directory.path().join("link");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    for target in [&link, &real, &link] {
        let summary = client.mount(&request(target.to_str().unwrap())).await.unwrap();
        assert_eq!(summary.mountpoint, real);
    }
    assert_eq!(double.mounted.load(Ordering::SeqCst), 1);
    client.status(&link).await.unwrap();
    client.unmount(&link.join("../real")).await.unwrap();
    assert!(client.ended(&link).await.unwrap());
    owner.end().await;
}

#[tokio::test]
async fn a_second_owner_is_refused_and_the_next_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (_, client, owner) = start(directory.path());
    let error = Owner::start(settings(directory.path()), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    // The one that was refused has not touched the socket.
    client.version().await.unwrap();
    owner.end().await;
    drop(client);
    start(directory.path()).2.end().await;
}

#[tokio::test]
async fn an_owner_that_is_ending_sends_clients_to_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let (_, client, owner) = start(directory.path());
    assert!(owner.mounts().close_if_empty());
    assert!(matches!(client.mount(&request("/a")).await, Err(Unanswered::NoOwner(_))));
    owner.end().await;
}

#[tokio::test]
async fn an_owner_gives_way_to_one_with_other_limits_only_after_its_last_mount() {
    let directory = tempfile::tempdir().unwrap();
    let (_, client, mut owner) = start(directory.path());
    owner.last_mount_grace = Duration::from_secs(60);
    let mut count = owner.mounts().count();
    let running = tokio::spawn(owner.run());
    let other_size = WantedLimits { cache_bytes_max: Some(1 << 20), ..WantedLimits::default() };
    let other_floor =
        WantedLimits { cache_free_space_min: Some(FreeSpaceFloor::Percent(1.0)), ..WantedLimits::default() };
    let same =
        WantedLimits { cache_bytes_max: Some(1 << 30), cache_free_space_min: Some(FreeSpaceFloor::Bytes(0)) };
    // Its first mount is still to come, and while it has mounts it keeps them.
    client.mount_within(&request("/a"), other_size).await.unwrap();
    client.mount_within(&request("/b"), other_floor).await.unwrap();
    for target in ["/a", "/b"] {
        client.unmount(Path::new(target)).await.unwrap();
        assert!(client.ended(Path::new(target)).await.unwrap());
    }
    client.mount_within(&request("/c"), same).await.unwrap();
    client.unmount(Path::new("/c")).await.unwrap();
    // Its place is free before all of it is gone.
    count.wait_for(|count| *count == 0).await.unwrap();
    let refused = client.mount_within(&request("/d"), other_floor).await;
    assert!(matches!(refused, Err(Unanswered::NoOwner(_))), "{refused:?}");
    running.await.unwrap();
}

#[tokio::test]
async fn what_is_no_request_gets_an_error_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let (_, _, owner) = start(directory.path());
    let http = reqwest::Client::builder().unix_socket(directory.path().join("control.sock")).build().unwrap();
    let huge = "x".repeat(crate::daemon::api::REQUEST_BYTES_MAX + 1);
    for (answer, status, kind) in [
        (http.get("http://owner/v2/mounts").send(), 404, "unsupported"),
        (http.put("http://owner/v1/mounts").send(), 405, "unsupported"),
        (http.post("http://owner/v1/mounts").body("{").send(), 400, "usage"),
        (http.post("http://owner/v1/mounts").json(&huge).send(), 400, "usage"),
        (http.get("http://owner/v1/mounts/status").send(), 400, "usage"),
    ] {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), status);
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["kind"], kind, "{body}");
        assert!(body["message"].is_string(), "{body}");
    }
    owner.end().await;
}
