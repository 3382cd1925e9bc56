use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::*;
use crate::base::{Algorithm, Digest};
use crate::mount::{PrefetchPolicy, PullPolicy, VerifyPolicy};

/// Mounts nothing, but keeps to the rules of those that do: one mount for each target at a time.
#[derive(Default)]
pub(crate) struct Double {
    live: Arc<Mutex<Vec<PathBuf>>>,
    pub(crate) mounted: AtomicUsize,
    pub(crate) failure: Mutex<Option<Error>>,
    pub(crate) is_read: Arc<AtomicBool>,
    /// Set: mounting waits until it is told to go on.
    pub(crate) gate: Mutex<Option<Arc<Notify>>>,
}

struct DoubleMount {
    summary: MountSummary,
    record: MountRecord,
    live: Arc<Mutex<Vec<PathBuf>>>,
    gone: watch::Sender<bool>,
    /// Whether files of it are open, so that it outlives its place.
    is_read: Arc<AtomicBool>,
}

#[async_trait]
impl Mounter for Double {
    async fn mount(&self, request: &MountRequest) -> Result<Arc<dyn Mount>> {
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        if let Some(failure) = self.failure.lock().unwrap().clone() {
            return Err(failure);
        }
        let mut live = self.live.lock().unwrap();
        assert!(!live.contains(&request.target), "mounted twice on {}", request.target.display());
        live.push(request.target.clone());
        drop(live);
        self.mounted.fetch_add(1, Ordering::SeqCst);
        let summary = MountSummary {
            reference: request.reference.clone(),
            digest: Digest::of(Algorithm::Sha256, b""),
            mountpoint: request.target.clone(),
            subpath: request.subpath.clone(),
            files: 1,
            total_bytes: 2,
            layers_reading: 0,
            failed: None,
            warnings: Vec::new(),
        };
        let (live, is_read) = (Arc::clone(&self.live), Arc::clone(&self.is_read));
        let record = MountRecord::of(request, &summary.digest);
        Ok(Arc::new(DoubleMount { summary, record, live, gone: watch::Sender::new(false), is_read }))
    }

    async fn mount_again(&self, record: MountRecord) -> Result<Arc<dyn Mount>> {
        self.mount(&record.request).await
    }

    fn is_mounted(&self, target: &Path) -> bool {
        self.live.lock().unwrap().iter().any(|live| live == target)
    }
}

#[async_trait]
impl Mount for DoubleMount {
    fn summary(&self) -> MountSummary {
        self.summary.clone()
    }

    fn record(&self) -> Option<MountRecord> {
        Some(self.record.clone())
    }

    fn status(&self) -> MountStatus {
        MountStatus {
            summary: self.summary(),
            network_bytes: 0,
            fetched_bytes: Default::default(),
            wasted_bytes: 0,
            reads_waited: 0,
            waited_seconds: 0.0,
            cached_bytes: 0,
            rejected_chunks: 0,
            hosts: Vec::new(),
            degraded: None,
            files_left_out: 0,
            files: Vec::new(),
        }
    }

    async fn ended(&self) {
        self.gone.subscribe().wait_for(|gone| *gone).await.unwrap();
    }

    async fn unmount(&self) -> Result<()> {
        self.live.lock().unwrap().retain(|target| *target != self.summary.mountpoint);
        if !self.is_read.load(Ordering::SeqCst) {
            self.gone.send_replace(true);
        }
        Ok(())
    }
}

pub(crate) fn request(target: &str) -> MountRequest {
    MountRequest {
        reference: "h/r:v1".into(),
        target: target.into(),
        subpath: None,
        platform: None,
        pull: PullPolicy::default(),
        verify: VerifyPolicy::default(),
        prefetch: PrefetchPolicy::default(),
        allow_other: false,
        read_timeout: Duration::from_secs(1),
        source: Default::default(),
    }
}

fn mounts() -> (Arc<Double>, Arc<Mounts>) {
    let double = Arc::new(Double::default());
    let mounts = Mounts::new(double.clone());
    (double, mounts)
}

async fn mounted(mounts: &Arc<Mounts>, request: MountRequest) -> MountSummary {
    match mounts.mount(request).await.unwrap() {
        Answer::Mounted(summary) => *summary,
        Answer::Ending => panic!("the owner is ending"),
    }
}

#[tokio::test]
async fn the_same_request_twice_is_one_mount() {
    let (double, mounts) = mounts();
    let both = tokio::join!(mounted(&mounts, request("/a")), mounted(&mounts, request("/a")));
    assert_eq!(both.0.digest, both.1.digest);
    mounted(&mounts, request("/a")).await;
    mounted(&mounts, request("/b")).await;
    assert_eq!(double.mounted.load(Ordering::SeqCst), 2);
    let targets: Vec<PathBuf> = mounts.list().into_iter().map(|mount| mount.mountpoint).collect();
    assert_eq!(targets, [PathBuf::from("/a"), "/b".into()]);
}

#[tokio::test]
async fn another_request_on_the_same_target_is_busy() {
    let (_, mounts) = mounts();
    mounted(&mounts, request("/a")).await;
    let other = MountRequest { subpath: Some("x".into()), ..request("/a") };
    let error = mounts.mount(other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("refmount umount /a"), "{error}");
}

#[tokio::test]
async fn other_credentials_are_the_same_request() {
    let (double, mounts) = mounts();
    mounted(&mounts, request("/a")).await;
    let mut again = request("/a");
    again.source.auth_files = vec!["/elsewhere".into()];
    mounted(&mounts, again).await;
    assert_eq!(double.mounted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failed_mount_leaves_nothing_and_can_be_tried_again() {
    let (double, mounts) = mounts();
    *double.failure.lock().unwrap() = Some(Error::new(ErrorKind::NotFound, "no such tag"));
    let (one, other) = tokio::join!(mounts.mount(request("/a")), mounts.mount(request("/a")));
    assert_eq!(one.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(other.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(mounts.list().is_empty());
    *double.failure.lock().unwrap() = None;
    mounted(&mounts, request("/a")).await;
}

#[tokio::test]
async fn a_mount_lives_on_when_its_client_goes_away() {
    let (double, mounts) = mounts();
    let gate = Arc::new(Notify::new());
    *double.gate.lock().unwrap() = Some(gate.clone());
    let client = tokio::spawn({
        let mounts = mounts.clone();
        async move { mounts.mount(request("/a")).await.map(drop) }
    });
    mounts.count().wait_for(|count| *count == 1).await.unwrap();
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    gate.notify_one();
    *double.gate.lock().unwrap() = None;
    mounted(&mounts, request("/a")).await;
    assert_eq!(double.mounted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_target_unmounted_by_others_is_mounted_anew() {
    let (double, mounts) = mounts();
    mounted(&mounts, request("/a")).await;
    // The kernel's table first, and the word of it later, as it is with umount(8).
    let old = mounts.get(Path::new("/a")).unwrap();
    double.live.lock().unwrap().clear();
    let again = tokio::spawn({
        let mounts = mounts.clone();
        async move { mounted(&mounts, MountRequest { subpath: Some("x".into()), ..request("/a") }).await }
    });
    tokio::task::yield_now().await;
    old.unmount().await.unwrap();
    assert_eq!(again.await.unwrap().subpath.as_deref(), Some("x"));
    assert_eq!(double.mounted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn unmounting_waits_until_it_can_be_mounted_again() {
    let (_, mounts) = mounts();
    mounted(&mounts, request("/a")).await;
    assert!(!mounts.ended(Path::new("/a"), Duration::ZERO).await);
    mounts.unmount(Path::new("/a")).await.unwrap();
    assert_eq!(mounts.get(Path::new("/a")).err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    assert!(mounts.ended(Path::new("/a"), Duration::ZERO).await);
    assert_eq!(mounts.unmount(Path::new("/a")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_mount_with_open_files_frees_its_place_and_keeps_its_owner() {
    let (double, mounts) = mounts();
    double.is_read.store(true, Ordering::SeqCst);
    mounted(&mounts, request("/a")).await;
    let old = mounts.get(Path::new("/a")).unwrap();
    mounts.unmount(Path::new("/a")).await.unwrap();
    assert!(mounts.list().is_empty());
    assert!(mounts.ended(Path::new("/a"), Duration::ZERO).await);
    assert!(!mounts.close_if_empty(), "files of it are open");
    mounted(&mounts, request("/a")).await;
    assert_eq!(*mounts.count().borrow(), 2);
    double.is_read.store(false, Ordering::SeqCst);
    mounts.unmount(Path::new("/a")).await.unwrap();
    old.unmount().await.unwrap();
    mounts.count().wait_for(|count| *count == 0).await.unwrap();
    assert!(mounts.close_if_empty());
}

#[tokio::test]
async fn an_owner_that_ends_takes_no_more_mounts() {
    let (double, mounts) = mounts();
    mounted(&mounts, request("/a")).await;
    assert!(!mounts.close_if_empty(), "it has a mount");
    mounts.close(Duration::from_secs(5)).await;
    assert!(double.live.lock().unwrap().is_empty());
    assert!(matches!(mounts.mount(request("/b")).await.unwrap(), Answer::Ending));
    assert!(mounts.close_if_empty());
}

/// A mount that panics on its way must not leave others waiting.
#[tokio::test]
async fn a_panic_while_mounting_is_an_error_and_frees_the_target() {
    struct Panics;
    #[async_trait]
    impl Mounter for Panics {
        async fn mount(&self, _: &MountRequest) -> Result<Arc<dyn Mount>> {
            panic!("on purpose")
        }
        fn is_mounted(&self, _: &Path) -> bool {
            false
        }
    }
    let mounts = Mounts::new(Arc::new(Panics));
    let error = mounts.mount(request("/a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(*mounts.count().borrow(), 0);
}

#[tokio::test]
async fn a_lost_mount_is_missing_until_its_place_is_free_or_mounted_anew() {
    let (double, mounts) = mounts();
    let lose = |target: &str| {
        double.live.lock().unwrap().push(target.into());
        mounts.lose(&request(target), &Error::new(ErrorKind::Io, "nothing is left of it"));
    };
    let lost =
        || mounts.unrestored().into_iter().filter_map(|missing| missing.mountpoint).collect::<Vec<PathBuf>>();
    ["/a", "/b", "/c"].into_iter().for_each(lose);
    assert_eq!(lost(), ["/a", "/b", "/c"].map(PathBuf::from));
    // Unmounted by others, by us, and mounted over.
    double.live.lock().unwrap().retain(|target| target == Path::new("/b"));
    assert_eq!(lost(), [PathBuf::from("/b")]);
    assert!(mounts.forget_lost(Path::new("/b")) && !mounts.forget_lost(Path::new("/b")));
    lose("/c");
    double.live.lock().unwrap().clear();
    mounted(&mounts, request("/c")).await;
    assert_eq!(lost(), [] as [PathBuf; 0]);
}
