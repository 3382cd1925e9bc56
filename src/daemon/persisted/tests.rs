use std::sync::atomic::Ordering;

use super::*;
use crate::daemon::mounts::tests::{Double, request};
use crate::daemon::{Mounts, mounts::Answer};
use crate::daemon::{restore, unrestored};

fn recording(directory: &Path) -> (Arc<Double>, Arc<Records>, Arc<Mounts>) {
    let (double, records) = (Arc::new(Double::default()), Records::open(directory).unwrap());
    let mounts = Mounts::new(Recording::new(double.clone(), Arc::clone(&records)));
    (double, records, mounts)
}

async fn mount(mounts: &Arc<Mounts>, target: &str) {
    assert!(matches!(mounts.mount(request(target)).await.unwrap(), Answer::Mounted(_)));
}

fn recorded(records: &Records) -> Vec<PathBuf> {
    let mut targets: Vec<PathBuf> =
        records.read().into_iter().map(|record| record.unwrap().request.target).collect();
    targets.sort();
    targets
}

#[tokio::test]
async fn what_is_mounted_is_noted_until_it_is_unmounted() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records, mounts) = recording(directory.path());
    mount(&mounts, "/a").await;
    mount(&mounts, "/b").await;
    assert_eq!(recorded(&records), [Path::new("/a"), Path::new("/b")]);
    mounts.unmount(Path::new("/a")).await.unwrap();
    assert_eq!(recorded(&records), [Path::new("/b")]);
    mount(&mounts, "/a").await;
    records.close();
    mounts.close(std::time::Duration::from_secs(5)).await;
    assert_eq!(recorded(&records), [Path::new("/a"), Path::new("/b")], "an end is no unmount");
}

#[tokio::test]
async fn the_next_owner_mounts_again_what_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records, mounts) = recording(directory.path());
    mount(&mounts, "/a").await;
    mount(&mounts, "/b").await;
    drop((records, mounts));

    let (double, records, mounts) = recording(directory.path());
    records.expect_all();
    restore::mount_again(&mounts, &records).await;
    assert_eq!((records.pending(), mounts.list().len()), (Vec::new(), 2));
    // It is what it was asked for as, so asking again finds it.
    mount(&mounts, "/a").await;
    assert_eq!(double.mounted.load(Ordering::SeqCst), 2);
    mounts.unmount(Path::new("/a")).await.unwrap();
    assert_eq!(recorded(&records), [Path::new("/b")]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_mounted_is_tried_again_until_it_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records, mounts) = recording(directory.path());
    mount(&mounts, "/a").await;
    mount(&mounts, "/b").await;
    drop((records, mounts));

    let (double, records, mounts) = recording(directory.path());
    *double.failure.lock().unwrap() = Some(Error::new(ErrorKind::NotFound, "no such directory"));
    records.expect_all();
    restore::mount_again(&mounts, &records).await;
    let pending = records.pending();
    assert_eq!(pending.len(), 2);
    assert!(pending.iter().all(|pending| pending.error.as_deref() == Some("no such directory")));
    assert!(records.cancel(Path::new("/b")).await && !records.cancel(Path::new("/c")).await);
    assert_eq!(recorded(&records), [Path::new("/a")]);
    *double.failure.lock().unwrap() = None;
    let mut count = mounts.count();
    count.wait_for(|count| *count == 1).await.unwrap();
    while !records.pending().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(mounts.list().len(), 1);
    assert_eq!(recorded(&records), [Path::new("/a")]);
}

#[tokio::test]
async fn what_is_given_up_while_it_is_being_mounted_does_not_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records, mounts) = recording(directory.path());
    mount(&mounts, "/a").await;
    drop((records, mounts));

    let (double, records, mounts) = recording(directory.path());
    let gate = Arc::new(tokio::sync::Notify::new());
    *double.gate.lock().unwrap() = Some(gate.clone());
    records.expect_all();
    let (again, noted) = (Arc::clone(&mounts), Arc::clone(&records));
    let restoring = tokio::spawn(async move { restore::mount_again(&again, &noted).await });
    mounts.count().wait_for(|count| *count == 1).await.unwrap();
    assert!(records.cancel(Path::new("/a")).await);
    gate.notify_one();
    restoring.await.unwrap();
    assert_eq!(double.mounted.load(Ordering::SeqCst), 1);
    assert!(mounts.list().is_empty() && !mounts.has(Path::new("/a")));
    assert_eq!((recorded(&records), records.pending()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_missing_until_its_place_is_mounted_or_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records, mounts) = recording(directory.path());
    for target in ["/a", "/b", "/c", "/d"] {
        mount(&mounts, target).await;
    }
    let path = |target: &str| records.path(Path::new(target));
    durable::write(&path("/a"), b"{").unwrap();
    durable::write(&path("/b"), b"{}").unwrap();
    let later = std::fs::read_to_string(path("/c")).unwrap().replacen(r#""form":1"#, r#""form":7"#, 1);
    durable::write(&path("/c"), later.as_bytes()).unwrap();

    let (_, records, mounts) = recording(directory.path());
    records.expect_all();
    let missing = || unrestored::unrestored(&mounts, Some(&records));
    assert_eq!(missing().len(), 4);
    restore::mount_again(&mounts, &records).await;
    let all = missing();
    let of_c = &all[0];
    assert_eq!(
        (of_c.mountpoint.as_deref(), of_c.reference.as_deref()),
        (Some(Path::new("/c")), Some("h/r:v1"))
    );
    assert!(of_c.error.as_ref().unwrap().contains("is of the form 7"), "{of_c:?}");
    assert!(all[1..].iter().all(|nameless| nameless.mountpoint.is_none() && !nameless.retried), "{all:?}");
    assert_eq!(all.len(), 3);
    // Mounted, it has a record again.
    mount(&mounts, "/a").await;
    mount(&mounts, "/c").await;
    assert_eq!(missing().len(), 1);
    assert!(records.cancel(Path::new("/b")).await && !records.cancel(Path::new("/e")).await);
    assert_eq!(missing(), []);
    assert_eq!(recorded(&records), ["/a", "/c", "/d"].map(Path::new));
}

#[tokio::test]
async fn a_file_has_no_credentials_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let (_, records, mounts) = recording(directory.path());
    let mut with_login = request("/a");
    with_login.source.auth_files = vec!["/run/auth.json".into()];
    mounts.mount(with_login).await.unwrap();
    let text = std::fs::read_to_string(records.path(Path::new("/a"))).unwrap();
    assert!(text.contains("/run/auth.json"), "{text}");
    let known = ["auth_files", "auth_files_required", "certificate_dirs", "connect_timeout"];
    let source =
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["mount"]["request"]["source"].clone();
    for key in source.as_object().unwrap().keys() {
        let others =
            ["inactivity_timeout", "plain_http", "registry_config", "registry_drop_ins", "retry_budget"];
        assert!(
            known.contains(&&**key) || others.contains(&&**key),
            "is {key} something to be written down?"
        );
    }
}
