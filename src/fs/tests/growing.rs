//! A filesystem whose tree is still growing.

use futures_util::FutureExt as _;

use super::*;
use crate::tree::{GrowingView, Growth, GrowthLayer};

const STALL: Duration = Duration::from_secs(30);

fn named(path: &str) -> Entry {
    let mtime = Timestamp::default();
    let kind = EntryKind::whole_stream(5);
    Entry { path: path.parse().unwrap(), kind, mode: 0o600, uid: 0, gid: 0, mtime, xattrs: Box::default() }
}

fn growing() -> (Arc<Filesystem>, Arc<Growth>) {
    let content = memory(&[]);
    let digest = content.files[0].0.clone();
    let layer =
        GrowthLayer { digest: digest.clone(), directory: None, role: LayerRole::Archive, known: None };
    let growth = Arc::new(Growth::new(vec![layer]));
    let view =
        GrowingView::new(Arc::clone(&growth), None, "host/model", STALL).now_or_never().unwrap().unwrap();
    let identity = Identity { reference: "host/model:v1".into(), digest, owner: None };
    (Arc::new(Filesystem::new(view, Arc::new(content), identity)), growth)
}

fn tree(paths: &[&str]) -> Arc<Tree> {
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let layers: Vec<_> = paths.iter().map(|path| layer(&digest, named(path))).collect();
    Arc::new(Tree::build(&layers).unwrap())
}

fn lookup(fs: &Filesystem, name: &str) -> FsResult<Ino> {
    fs.lookup(Ino::ROOT, OsStr::new(name)).map(|attributes| attributes.ino)
}

#[tokio::test(start_paused = true)]
async fn names_are_waited_for_and_files_found_so_far_are_read() {
    let (fs, growth) = growing();
    assert!(matches!(lookup(&fs, "a"), Err(FsError::NotYet)));
    assert!(matches!(fs.read_directory(Ino::ROOT, 0, |_| true), Err(FsError::NotYet)));
    assert_eq!(fs.statistics().files, 0);
    let waits = |name: &'static str| {
        let fs = Arc::clone(&fs);
        tokio::spawn(async move { fs.when_known(None, |fs| lookup(fs, name)).await })
    };
    let (a, none) = (waits("a"), waits("none"));
    tokio::task::yield_now().await;
    growth.push(0, &named("a"));
    let a = a.await.unwrap().unwrap();
    assert_eq!(read(&fs, a, 0, 99).await.unwrap(), b"hello");
    assert_eq!(fs.statistics().files, 1);
    assert!(fs.xattr_names(a).unwrap().starts_with(b"user.refmount.digest\0"));
    // As long as reading goes on there is reason to wait, however long it takes.
    for _ in 0..10 {
        tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        growth.progress();
        assert!(!none.is_finished());
    }
    growth.finish(Ok(tree(&["a", "b"])));
    assert!(matches!(none.await.unwrap(), Err(FsError::NotFound)));
    assert_eq!(lookup(&fs, "a").unwrap(), a);
    assert_eq!(fs.statistics().files, 2);
    let mut listed = Vec::new();
    fs.read_directory(Ino::ROOT, 2, |entry| {
        listed.push(entry.attributes.ino);
        true
    })
    .unwrap();
    assert_eq!(listed, [a, lookup(&fs, "b").unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_told() {
    let (fs, growth) = growing();
    growth.push(0, &named("a"));
    let start = tokio::time::Instant::now();
    for (limit, expected) in [(None, STALL), (Some(STALL / 3), STALL / 3), (Some(STALL * 3), STALL)] {
        let before = start.elapsed();
        let error = fs.when_known(limit, |fs| lookup(fs, "b")).await.unwrap_err();
        assert_eq!(error.errno(), rustix::io::Errno::IO);
        assert!(matches!(error, FsError::Content(error) if error.kind() == ErrorKind::TimedOut));
        let waited = start.elapsed() - before;
        assert!(waited >= expected && waited < expected + Duration::from_secs(1), "{waited:?} for {limit:?}");
    }
    let a = lookup(&fs, "a").unwrap();
    growth.finish(Err(Error::new(ErrorKind::Corrupt, "the layer broke off")));
    for _ in 0..2 {
        assert_eq!(errno(lookup(&fs, "b")), rustix::io::Errno::IO);
        assert_eq!(errno(fs.read_directory(Ino::ROOT, 0, |_| true)), rustix::io::Errno::IO);
    }
    assert_eq!(lookup(&fs, "a").unwrap(), a);
    assert_eq!(read(&fs, a, 0, 99).await.unwrap(), b"hello");
}
