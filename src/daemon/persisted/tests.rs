use std::sync::atomic::Ordering;

use super::*;
use crate::daemon::mounts::tests::{Double, request};
use crate::daemon::restore;
use crate::daemon::{Mounts, mounts::Answer};

fn recording(directory: &Path) -> (Arc<Double>, Arc<Records>, Arc<Mounts>) {
    let (double, records) = (Arc::new(Double::default()), Records::open(directory).unwrap());
    let mounts = Mounts::new(Recording::new(double.clone(), Arc::clone(&records)));
    (double, records, mounts)
}

async fn mount(mounts: &Arc<Mounts>, target: &str) {
    assert!(matches!(mounts.mount(request(target)).await.unwrap(), Answer::Mounted(_)));
}

fn recorded(records: &Records) -> Vec<PathBuf> {
    records.read().into_iter().map(|record| record.request.target).collect()
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
    std::fs::File::create(directory.path().join("damaged.json")).unwrap();

    let (double, records, mounts) = recording(directory.path());
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
