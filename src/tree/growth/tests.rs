//! Growth against the trees that come of it, and what may be shown before.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::base::{Algorithm, ErrorKind};
use crate::layer::{EntryKind, IndexParts, LayerStream, Timestamp};
use crate::tree::{GrowingView, Shown, ShownInode, TreeLayer};

const STALL: Duration = Duration::from_millis(20);

fn entry(path: &str, kind: EntryKind) -> Entry {
    let mtime = Timestamp::default();
    Entry { path: path.parse().unwrap(), kind, mode: 0o600, uid: 1, gid: 2, mtime, xattrs: Box::default() }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, EntryKind::whole_stream(size))
}

fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Directory)
}

fn hard(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink { target: target.as_bytes().into() })
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink { target: target.as_bytes().into() })
}

fn digest(entries: &[Entry]) -> Digest {
    Digest::of(Algorithm::Sha256, format!("{entries:?}").as_bytes())
}

fn index_of(entries: &[Entry]) -> Arc<LayerIndex> {
    let parts = IndexParts {
        layer: digest(entries),
        blob_bytes: 1 << 40,
        stream_bytes: 1 << 40,
        diff_id: None,
        stream: LayerStream::Plain,
        root: None,
        entries: entries.to_vec(),
        members: Vec::new(),
        warnings: Vec::new(),
        carried: None,
        trusted: true,
    };
    Arc::new(LayerIndex::new(parts).unwrap())
}

/// Layers of one role, of which those that are `known` are so from the start.
struct Sample {
    role: LayerRole,
    layers: Vec<Vec<Entry>>,
}

impl Sample {
    fn growth(&self, known: &[usize]) -> Arc<Growth> {
        let layer = |(at, entries): (usize, &Vec<Entry>)| GrowthLayer {
            digest: digest(entries),
            directory: None,
            role: self.role,
            known: known.contains(&at).then(|| index_of(entries)),
        };
        Arc::new(Growth::new(self.layers.iter().enumerate().map(layer).collect()))
    }

    fn tree(&self) -> Result<Arc<Tree>> {
        let layer =
            |entries: &Vec<Entry>| TreeLayer { index: index_of(entries), directory: None, role: self.role };
        Tree::build(&self.layers.iter().map(layer).collect::<Vec<_>>()).map(Arc::new)
    }
}

async fn view(growth: &Arc<Growth>, subpath: Option<&str>) -> Result<Shown> {
    GrowingView::new(Arc::clone(growth), subpath, "host/model", STALL).await.map(Shown::from)
}

fn whole(growth: &Arc<Growth>) -> Shown {
    futures_util::FutureExt::now_or_never(view(growth, None)).unwrap().unwrap()
}

/// Follows `path` by its names. None for what is not known yet.
fn look(shown: &Shown, path: &str) -> Option<Option<Ino>> {
    let mut at = Ino::ROOT;
    for name in path.split('/') {
        match shown.lookup(at, OsStr::new(name)) {
            Ok(Some(ino)) => at = ino,
            Ok(None) => return Some(None),
            Err(Unknown::NotYet) => return None,
            Err(Unknown::Failed(error)) => panic!("{}", error.chain()),
        }
    }
    Some(Some(at))
}

fn known(shown: &Shown, path: &str) -> Ino {
    look(shown, path).unwrap_or_else(|| panic!("{path} is not known")).unwrap_or_else(|| panic!("no {path}"))
}

fn mode(shown: &Shown, path: &str) -> u32 {
    shown.inode(known(shown, path)).unwrap().mode
}

#[test]
fn what_has_been_found_is_there_and_what_has_not_is_not_absent() {
    let entries = vec![file("a/b", 1), hard("l", "a/b"), hard("m", "z"), directory("a"), file("z", 2)];
    let sample = Sample { role: LayerRole::Archive, layers: vec![entries.clone()] };
    let growth = sample.growth(&[]);
    let shown = whole(&growth);
    assert_eq!(look(&shown, "a"), None);
    let mut progress = growth.progress_made();
    growth.push(0, &entries[0]);
    assert!(progress.has_changed().unwrap());
    progress.borrow_and_update();
    growth.progress();
    assert!(progress.has_changed().unwrap());
    assert_eq!((mode(&shown, "a"), mode(&shown, "a/b")), (0o755, 0o600));
    assert_eq!(look(&shown, "a/none"), None);
    assert!(matches!(shown.children(Ino::ROOT, 0).err(), Some(Unknown::NotYet)));
    for entry in &entries[1..4] {
        growth.push(0, entry);
    }
    let before = known(&shown, "a/b");
    assert_eq!((known(&shown, "l"), shown.inode(before).unwrap().nlink), (before, 2));
    assert_eq!(look(&shown, "m"), None, "its target is not known");
    assert_eq!(mode(&shown, "a"), 0o600);
    assert_eq!((shown.file_count(), shown.total_bytes(), shown.path_of(before)), (1, 1, b"a/b".to_vec()));
    assert_eq!(shown.inodes_of(0), [before]);
    assert!(!shown.is_settled());

    growth.push(0, &entries[4]);
    growth.layer_known(0, index_of(&entries));
    growth.finish(sample.tree());
    assert!(shown.is_settled());
    assert_eq!([known(&shown, "a/b"), known(&shown, "l")], [before; 2]);
    assert_eq!(look(&shown, "a/none"), Some(None));
    assert_eq!(known(&shown, "m"), known(&shown, "z"));
    assert!(known(&shown, "z").0 < INO_MIN, "it was not given out before");
    let children: Vec<_> = shown.children(Ino::ROOT, 0).unwrap().map(|(_, ino)| ino).collect();
    assert_eq!(children, ["a", "l", "m", "z"].map(|name| known(&shown, name)));
    assert_eq!(shown.parent(before), Some(known(&shown, "a")));
    let files: Vec<_> = shown.files().map(|file| file.ino).collect();
    assert_eq!(files, [before, known(&shown, "z")]);
    assert_eq!(shown.inodes_of(0), files);
}

#[test]
fn a_path_that_became_another_file_has_another_number() {
    let entries = vec![file("a", 1), file("d/x", 2), file("a", 3), file("b", 4), hard("b", "a")];
    let sample = Sample { role: LayerRole::Archive, layers: vec![entries.clone()] };
    let growth = sample.growth(&[]);
    let shown = whole(&growth);
    entries.iter().for_each(|entry| growth.push(0, entry));
    let (a, b, x) = (known(&shown, "a"), known(&shown, "b"), known(&shown, "d/x"));
    growth.finish(sample.tree());
    let size = |ino| match &shown.inode(ino).unwrap().kind {
        InodeKind::File(body) => body.size,
        other => panic!("{other:?}"),
    };
    assert_eq!((size(a), size(b)), (1, 4), "whoever has them open keeps them");
    let new = known(&shown, "a");
    assert_eq!((size(new), known(&shown, "b")), (3, new));
    assert!(![a, b, x].contains(&new));
    assert_eq!(known(&shown, "d/x"), x);
    assert_eq!(shown.path_of(a), b"");
}

#[test]
fn nothing_is_shown_that_a_layer_above_may_cover() {
    let role = LayerRole::Rootfs;
    let layers = vec![
        vec![directory("d"), file("d/low", 1), file("d/gone", 1), file("covered", 1), file("below", 1)],
        vec![directory("d"), file("d/mid", 1), file("covered", 2), directory("e"), file("e/f/g", 1)],
        vec![directory("d"), file("d/.wh.gone", 0), file("top", 1), file(".wh.e", 0)],
    ];
    let sample = Sample { role, layers: layers.clone() };
    let growth = sample.growth(&[0]);
    let shown = whole(&growth);
    layers[1].iter().for_each(|entry| growth.push(1, entry));
    assert_eq!(look(&shown, "d"), None);
    layers[2].iter().for_each(|entry| growth.push(2, entry));
    let top = known(&shown, "top");
    assert_eq!((look(&shown, "d/mid"), look(&shown, ".wh.e"), look(&shown, "e")), (None, None, None));
    growth.layer_known(2, index_of(&layers[2]));
    layers[1].iter().for_each(|entry| growth.push(1, entry));
    let middle = [known(&shown, "d/mid"), known(&shown, "covered")];
    assert_eq!((look(&shown, "below"), look(&shown, "e")), (None, None));
    growth.layer_known(1, index_of(&layers[1]));
    // No entry of the middle layer describes e/f, so a link below it might lead anywhere.
    assert_eq!(look(&shown, "below"), None);
    growth.finish(sample.tree());
    assert_eq!([known(&shown, "d/mid"), known(&shown, "covered")], middle);
    assert_eq!(
        (known(&shown, "top"), look(&shown, "d/gone"), look(&shown, "e")),
        (top, Some(None), Some(None))
    );
}

#[test]
fn an_image_shows_nothing_below_what_may_be_a_link() {
    let layers = vec![
        vec![link("lib", "usr/lib"), directory("usr"), file("usr/b", 1)],
        vec![file("lib/a", 1), file("c", 1)],
    ];
    let sample = Sample { role: LayerRole::Rootfs, layers: layers.clone() };
    let growth = sample.growth(&[]);
    let shown = whole(&growth);
    layers[1].iter().for_each(|entry| growth.push(1, entry));
    assert_eq!(look(&shown, "lib"), None);
    let c = known(&shown, "c");
    growth.layer_known(1, index_of(&layers[1]));
    // The lowest layer has nothing below it, but the one above may send its entries anywhere.
    layers[0].iter().for_each(|entry| growth.push(0, entry));
    assert_eq!(look(&shown, "usr"), None);
    growth.finish(sample.tree());
    assert_eq!(known(&shown, "c"), c);
    assert!(look(&shown, "usr/lib/a").flatten().is_some());
}

#[test]
fn the_lowest_layer_of_an_image_needs_no_entries_for_directories() {
    let entries = vec![file("usr/bin/a", 1), link("usr/bin", "x")];
    let sample = Sample { role: LayerRole::Rootfs, layers: vec![entries.clone()] };
    let growth = sample.growth(&[]);
    let shown = whole(&growth);
    growth.push(0, &entries[0]);
    let before = known(&shown, "usr/bin/a");
    growth.push(0, &entries[1]);
    growth.finish(sample.tree());
    // The link that came late has moved it.
    assert!(matches!(shown.inode(known(&shown, "usr/bin")).unwrap().kind, InodeKind::Symlink { .. }));
    assert!(shown.inode(before).is_some() && shown.path_of(before).is_empty());
    assert!(look(&shown, "usr/x/a").flatten().is_some());
}

#[test]
fn what_is_known_stays_when_the_rest_fails() {
    let sample = Sample { role: LayerRole::Archive, layers: vec![Vec::new()] };
    let growth = sample.growth(&[]);
    let shown = whole(&growth);
    growth.push(0, &file("a", 1));
    growth.finish(Err(Error::new(ErrorKind::Corrupt, "broken")));
    growth.finish(sample.tree());
    assert!(matches!(shown.inode(known(&shown, "a")), Some(ShownInode::Growing(_))));
    let failed = |result: Result<Option<Ino>, Unknown>| {
        assert!(matches!(result, Err(Unknown::Failed(error)) if error.kind() == ErrorKind::Corrupt));
    };
    failed(shown.lookup(Ino::ROOT, OsStr::new("b")));
    failed(shown.children(Ino::ROOT, 0).map(|_| None));
    assert!(!shown.is_settled());
}

#[tokio::test(start_paused = true)]
async fn a_subpath_to_a_pipe_is_refused_as_soon_as_it_is_known() {
    let sample = Sample { role: LayerRole::Archive, layers: vec![Vec::new()] };
    let growth = sample.growth(&[]);
    growth.push(0, &entry("pipe", EntryKind::Fifo));
    let view = GrowingView::new(growth, Some("pipe"), "host/model:v1", Duration::from_secs(1)).await;
    assert_eq!(view.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_subpath_is_waited_for() {
    let entries = vec![directory("d"), file("d/a", 1), link("l", "d"), file("d/b", 2)];
    let sample = Sample { role: LayerRole::Archive, layers: vec![entries.clone()] };
    let growth = sample.growth(&[]);
    let stalled = view(&growth, Some("d")).await.unwrap_err();
    assert_eq!(stalled.kind(), ErrorKind::TimedOut);
    assert_eq!(view(&growth, Some("../d")).await.unwrap_err().kind(), ErrorKind::Usage);
    let waits = tokio::spawn({
        let growth = Arc::clone(&growth);
        async move { view(&growth, Some("d")).await }
    });
    tokio::task::yield_now().await;
    entries[..3].iter().for_each(|entry| growth.push(0, entry));
    let shown = waits.await.unwrap().unwrap();
    let a = known(&shown, "a");
    let linked = tokio::spawn({
        let growth = Arc::clone(&growth);
        async move { (view(&growth, Some("l/b")).await, view(&growth, Some("none")).await) }
    });
    tokio::task::yield_now().await;
    growth.finish(sample.tree());
    let (linked, none) = linked.await.unwrap();
    assert!(linked.unwrap().is_file());
    assert!(none.unwrap_err().to_string().contains("the nearest parent that exists"));
    assert_eq!((known(&shown, "a"), shown.path_of(a), shown.parent(a)), (a, b"a".to_vec(), Some(Ino::ROOT)));
    assert_eq!((shown.file_count(), shown.total_bytes(), look(&shown, "l")), (2, 3, Some(None)));
    let children: Vec<_> = shown.children(Ino::ROOT, 0).unwrap().map(|(_, ino)| ino).collect();
    assert_eq!(children, [a, known(&shown, "b")]);
}

fn hides(path: &str) -> Entry {
    match path.rsplit_once('/') {
        Some((directory, name)) => file(&format!("{directory}/.wh.{name}"), 0),
        None => file(&format!(".wh.{path}"), 0),
    }
}

/// A layer as most tools write one: each directory before what it holds, each path once.
fn tidy(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kinds: BTreeMap<String, bool> = BTreeMap::new();
    let mut tidy: Vec<Entry> = Vec::new();
    for entry in entries {
        let path = entry.path.to_string();
        let parents: Vec<_> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        if kinds.contains_key(&path) || parents.iter().any(|parent| kinds.get(parent) == Some(&false)) {
            continue;
        }
        for parent in parents {
            if kinds.insert(parent.clone(), true).is_none() {
                tidy.push(directory(&parent));
            }
        }
        kinds.insert(path, entry.kind == EntryKind::Directory);
        tidy.push(entry);
    }
    tidy
}

fn made() -> impl Strategy<Value = Entry> {
    let path = || {
        proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c"]), 1..4)
            .prop_map(|names| names.join("/"))
    };
    let made = |(kind, path, target, size): (usize, String, String, u64)| match kind {
        0 => hard(&path, &target),
        1 => link(&path, &target),
        2 => hides(&path),
        3 => file(&format!("{path}/.wh..wh..opq"), 0),
        4..7 => directory(&path),
        _ => file(&path, size),
    };
    (0..12_usize, path(), path(), 1..1000_u64).prop_map(made)
}

fn all_paths(shown: &Shown) -> BTreeMap<String, Ino> {
    let (mut found, mut ahead) = (BTreeMap::new(), vec![(String::new(), Ino::ROOT)]);
    while let Some((path, ino)) = ahead.pop() {
        for (name, child) in shown.children(ino, 0).unwrap() {
            let name = name.to_str().unwrap();
            ahead.push((if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }, child));
        }
        found.insert(path, ino);
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was shown of an image while it grew: at the end no number stands for two inodes and none for
    /// another than before, and only what an entry of its own layer replaced has changed.
    #[test]
    fn numbers_mean_the_same_ever_after(
        layers in proptest::collection::vec(proptest::collection::vec(made(), 0..7), 1..4),
        (is_image, is_tidy) in any::<(bool, bool)>(),
        given in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let role = if is_image { LayerRole::Rootfs } else { LayerRole::Archive };
        let layers = if is_tidy { layers.into_iter().map(tidy).collect() } else { layers };
        let sample = Sample { role, layers };
        let Ok(tree) = sample.tree() else { return Ok(()) };
        let growth = sample.growth(&[]);
        let shown = whole(&growth);
        let mut seen: BTreeMap<String, (Ino, Arc<Inode>)> = BTreeMap::new();
        let mut given = given.into_iter().cycle();
        for (number, entries) in sample.layers.iter().enumerate().rev() {
            for entry in entries {
                growth.push(number, entry);
                if given.next() == Some(true) {
                    for path in ["a", "b", "c", "a/a", "a/b", "b/a", "c/a", "a/b/c"] {
                        if let Some(Some(ino)) = look(&shown, path)
                            && let Some(ShownInode::Growing(inode)) = shown.inode(ino)
                        {
                            let before = seen.insert(path.to_owned(), (ino, Arc::clone(&inode)));
                            prop_assert!(before.is_none_or(|(before, _)| before == ino));
                        }
                    }
                }
            }
            growth.layer_known(number, index_of(entries));
        }
        growth.finish(Ok(Arc::clone(&tree)));
        let paths = all_paths(&shown);
        // One number for each inode, as in the tree.
        let mut numbers = BTreeMap::new();
        for (path, ino) in &paths {
            let in_tree = path.split('/').filter(|name| !name.is_empty()).try_fold(Ino::ROOT, |at, name| {
                tree.lookup(at, OsStr::new(name))
            });
            prop_assert_eq!(*numbers.entry(*ino).or_insert(in_tree), in_tree);
            prop_assert_eq!(&*shown.inode(*ino).unwrap(), tree.inode(in_tree.unwrap()).unwrap());
        }
        let inodes: std::collections::BTreeSet<_> = numbers.values().collect();
        prop_assert_eq!(inodes.len(), numbers.len());
        for (path, (ino, inode)) in seen {
            prop_assert_eq!(&shown.inode(ino).unwrap().kind, &inode.kind, "the number of {}", path);
            let is_kept = paths.get(&path) == Some(&ino);
            let excused = sample.layers.iter().any(|entries| has_duplicates(entries) || names_a_link_late(entries));
            prop_assert!(is_kept || excused, "{} has gone", path);
        }
    }
}

/// Whether a link comes after what stands below it, which then stands elsewhere.
fn names_a_link_late(entries: &[Entry]) -> bool {
    let is_link = |entry: &Entry| !matches!(entry.kind, EntryKind::Directory);
    (1..entries.len()).any(|at| {
        let below = format!("{}/", entries[at].path);
        is_link(&entries[at]) && entries[..at].iter().any(|entry| entry.path.to_string().starts_with(&below))
    })
}

fn has_duplicates(entries: &[Entry]) -> bool {
    let paths: std::collections::BTreeSet<_> = entries.iter().map(|entry| &entry.path).collect();
    paths.len() < entries.len()
}
