use std::sync::Arc;

use super::*;
use crate::base::{Algorithm, Digest, ErrorKind, RelPath};
use crate::layer::{Entry, EntryKind, Extents, IndexParts, LayerStream, RootAttributes};

mod hard_links;
mod layers;
mod model;
mod rootfs;

fn entry(path: &str, kind: EntryKind) -> Entry {
    let mtime = Timestamp { seconds: 7, nanoseconds: 5 };
    Entry { path: path.parse().unwrap(), kind, mode: 0o640, uid: 1, gid: 2, mtime, xattrs: Box::default() }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, EntryKind::whole_stream(size))
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::Symlink { target: target.as_bytes().into() })
}

fn parts(entries: Vec<Entry>, root: Option<RootAttributes>) -> IndexParts {
    let name = format!("{:?}", entries.iter().take(9).collect::<Vec<_>>());
    IndexParts {
        layer: Digest::of(Algorithm::Sha256, name.as_bytes()),
        blob_bytes: 1 << 40,
        stream_bytes: 1 << 40,
        diff_id: None,
        stream: LayerStream::Plain,
        root,
        entries,
        members: Vec::new(),
        warnings: Vec::new(),
        carried: None,
        trusted: true,
    }
}

fn layer(role: LayerRole, entries: Vec<Entry>) -> TreeLayer {
    TreeLayer { index: Arc::new(LayerIndex::new(parts(entries, None)).unwrap()), directory: None, role }
}

/// Each path with its inode's number, in the order of paths.
fn listing(tree: &Tree) -> Vec<(String, Ino)> {
    let (mut found, mut ahead) = (Vec::new(), vec![(String::new(), Ino::ROOT)]);
    while let Some((path, ino)) = ahead.pop() {
        let below = tree.children(ino, 0).map(|(name, ino)| {
            let name = name.to_string_lossy();
            (if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") }, ino)
        });
        let below: Vec<_> = below.collect();
        found.push((path, ino));
        ahead.extend(below.into_iter().rev());
    }
    found
}

fn paths(tree: &Tree) -> Vec<String> {
    listing(tree).into_iter().skip(1).map(|(path, _)| path).collect()
}

fn inode<'a>(tree: &'a Tree, path: &str) -> &'a Inode {
    let found = listing(tree).into_iter().find(|(other, _)| other == path);
    tree.inode(found.unwrap_or_else(|| panic!("no {path}")).1).unwrap()
}

/// One layer for each entry, as raw artifacts have them.
fn raw(entries: Vec<Entry>) -> Vec<TreeLayer> {
    entries.into_iter().map(|entry| layer(LayerRole::File, vec![entry])).collect()
}

fn tree(entries: Vec<Entry>) -> Arc<Tree> {
    Arc::new(Tree::build(&raw(entries)).unwrap())
}

fn walk(tree: &Tree, path: &str) -> Result<Ino, Missing> {
    tree.walk(&path.parse::<RelPath>().unwrap())
}

fn names(tree: &Tree, ino: Ino) -> Vec<String> {
    tree.children(ino, 0).map(|(name, _)| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn numbers_do_not_depend_on_the_order_of_the_layers() {
    let mut entries = vec![file("a/b", 1), file("a-b", 2), file("a/c/d", 3), file("B", 4), link("z", "a")];
    let numbers = |entries: &[Entry]| -> Vec<(String, u64)> {
        let tree = tree(entries.to_vec());
        (1..)
            .map_while(|ino| {
                tree.inode(Ino(ino))
                    .map(|_| (String::from_utf8_lossy(&tree.path_of(Ino(ino))).into_owned(), ino))
            })
            .collect()
    };
    let expected = numbers(&entries);
    let paths: Vec<&str> = expected.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["", "B", "a", "a/b", "a/c", "a/c/d", "a-b", "z"]);
    entries.reverse();
    assert_eq!(numbers(&entries), expected);
}

#[test]
fn missing_parents_are_made_and_links_counted() {
    let tree = tree(vec![file("a/b/c", 9), file("a/d", 1)]);
    let directory = tree.inode(walk(&tree, "a").unwrap()).unwrap();
    assert_eq!((directory.mode, directory.uid, directory.gid, directory.nlink), (0o755, 0, 0, 3));
    assert_eq!(directory.mtime, Timestamp::default());
    assert_eq!(tree.inode(Ino::ROOT).unwrap().nlink, 3);
    let inode = tree.inode(walk(&tree, "a/b/c").unwrap()).unwrap();
    assert_eq!((inode.mode, inode.uid, inode.gid, inode.nlink), (0o640, 1, 2, 1));
    assert_eq!(
        inode.kind,
        InodeKind::File(FileBody { layer: 0, size: 9, extents: Extents::Contiguous { stream_offset: 0 } })
    );
    assert_eq!(tree.files().map(|file| file.body.size).collect::<Vec<_>>(), [9, 1]);
    assert_eq!(tree.inode(Ino(0)), None);
    assert_eq!(tree.inode(Ino(u64::MAX)), None);
}

#[test]
fn described_directories_keep_their_attributes_whatever_the_order() {
    let directory = entry("a", EntryKind::Directory);
    for entries in [vec![file("a/b", 1), directory.clone()], vec![directory, file("a/b", 1)]] {
        let tree = tree(entries);
        let inode = tree.inode(walk(&tree, "a").unwrap()).unwrap();
        assert_eq!((inode.mode, inode.uid, inode.nlink), (0o640, 1, 2));
    }
}

#[test]
fn children_are_found_and_continued_in_order() {
    let tree = tree(vec![file("b", 1), file("a", 1), file("c/x", 1), file("aa", 1)]);
    assert_eq!(names(&tree, Ino::ROOT), ["a", "aa", "b", "c"]);
    let rest: Vec<_> = tree.children(Ino::ROOT, 2).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(rest, ["b", "c"]);
    assert_eq!(tree.children(Ino::ROOT, 99).count(), 0);
    for (name, ino) in tree.children(Ino::ROOT, 0) {
        assert_eq!(tree.lookup(Ino::ROOT, name), Some(ino));
        assert_eq!(tree.parent(ino), Some(Ino::ROOT));
    }
    for name in ["", "A", "ab", "d", "c/x", ".", ".."] {
        assert_eq!(tree.lookup(Ino::ROOT, OsStr::new(name)), None, "{name}");
    }
}

#[test]
fn two_layers_with_the_same_file_are_refused_with_both_digests() {
    let layers = raw(vec![file("m/a", 1), file("m/a", 2)]);
    let error = Tree::build(&layers).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for part in ["m/a", layers[0].index.layer().as_str(), layers[1].index.layer().as_str()] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_file_where_a_directory_must_be_is_refused_with_layer_and_entry() {
    let cases = [
        vec![file("a", 1), file("a/b", 2)],
        vec![link("a", "x"), file("a/b/c", 2)],
        vec![file("a", 1), file("a-b", 1), file("a/b", 2)],
    ];
    for entries in cases {
        let layers = raw(entries);
        let error = Tree::build(&layers).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(layers.last().unwrap().index.layer().as_str()), "{error}");
        assert!(error.to_string().contains("a/b"), "{error}");
    }
    let mixed = raw(vec![file("a", 1), entry("a", EntryKind::Directory)]);
    assert!(Tree::build(&mixed).unwrap_err().to_string().contains("directory in another"));
}

#[test]
fn as_many_levels_as_a_path_can_have() {
    // 4096 bytes of "a/": no path can be deeper.
    let path = ["a"; 2048].join("/");
    let tree = tree(vec![file(&path, 5), file("b", 1)]);
    let deepest = walk(&tree, &path).unwrap();
    assert_eq!(tree.path_of(deepest), path.as_bytes());
    assert_eq!(tree.files().count(), 2);
}

#[test]
fn half_a_million_names_in_one_directory() {
    let entries: Vec<Entry> = (0..500_000).rev().map(|number| file(&format!("d/{number:06}"), 1)).collect();
    let tree = Tree::build(&[layer(LayerRole::Archive, entries)]).unwrap();
    let directory = walk(&tree, "d").unwrap();
    for number in [0, 1, 250_000, 499_999] {
        let name = format!("{number:06}");
        let ino = tree.lookup(directory, OsStr::new(&name)).unwrap();
        assert_eq!(tree.children(directory, number).next(), Some((OsStr::new(&name), ino)));
    }
    assert_eq!(tree.children(directory, 0).count(), 500_000);
}

#[test]
fn links_are_resolved_inside_the_tree() {
    let tree = tree(vec![
        file("a/b/file", 1),
        link("to-a", "a"),
        link("a/up", "../../../../to-a/b"),
        link("absolute", "/a/b/../b/file"),
        link("loop", "loop"),
        link("one", "two"),
        link("two", "./one/x"),
        link("dangling", "/etc/passwd"),
        link("root", "/"),
        link("through-file", "a/b/file/x"),
    ]);
    let target = walk(&tree, "a/b/file").unwrap();
    for path in ["to-a/b/file", "a/up/file", "absolute", "root/root/a/b/file"] {
        assert_eq!(walk(&tree, path), Ok(target), "{path}");
    }
    for path in ["loop", "one", "loop/x"] {
        assert_eq!(walk(&tree, path).unwrap_err().obstacle, Obstacle::TooManyLinks, "{path}");
    }
    assert_eq!(
        walk(&tree, "dangling").unwrap_err(),
        Missing { nearest: Ino::ROOT, obstacle: Obstacle::NoEntry }
    );
    let missing = Missing { nearest: target, obstacle: Obstacle::NotDirectory };
    assert_eq!(walk(&tree, "through-file").unwrap_err(), missing);
}

mod views {
    use super::*;

    fn sample() -> Arc<Tree> {
        tree(vec![
            file("a/b/one", 10),
            file("a/b/two", 20),
            file("a/three", 30),
            file("four", 40),
            link("to-b", "/a/b"),
        ])
    }

    fn view(subpath: Option<&str>) -> Result<View> {
        View::new(sample(), subpath, "host/model:v1")
    }

    #[test]
    fn the_root_is_one_and_the_rest_keeps_its_numbers() {
        let tree = sample();
        for subpath in ["a", "./a/", "a//."] {
            let view = view(Some(subpath)).unwrap();
            let inner = view.lookup(Ino::ROOT, OsStr::new("b")).unwrap();
            assert_eq!(Some(inner), tree.lookup(walk(&tree, "a").unwrap(), OsStr::new("b")));
            assert_eq!(view.parent(inner), Some(Ino::ROOT));
            assert_eq!(view.parent(Ino::ROOT), Some(Ino::ROOT));
            let one = view.lookup(inner, OsStr::new("one")).unwrap();
            assert_eq!(view.path_of(one), b"b/one");
            assert_eq!((view.file_count(), view.total_bytes()), (3, 60));
            // Neither the root's other number nor anything outside.
            assert!(view.inode(walk(&tree, "a").unwrap()).is_none());
            assert!(view.inode(walk(&tree, "four").unwrap()).is_none());
        }
    }

    #[test]
    fn a_file_is_a_root_too_and_links_lead_there() {
        let file = view(Some("a/b/two")).unwrap();
        assert!(file.is_file());
        assert_eq!((file.file_count(), file.total_bytes()), (1, 20));
        assert_eq!(file.files().next().unwrap().ino, Ino::ROOT);
        let through_link = view(Some("to-b/two")).unwrap();
        assert_eq!(through_link.files().next(), file.files().next());
        assert_eq!(view(Some("to-b")).unwrap().total_bytes(), 30);
        assert_eq!(view(None).unwrap().total_bytes(), 100);
    }

    #[test]
    fn a_subpath_to_a_device_or_a_pipe_is_refused() {
        for kind in [EntryKind::Fifo, EntryKind::CharDevice { major: 1, minor: 3 }] {
            let error =
                View::new(tree(vec![entry("d/odd", kind)]), Some("d/odd"), "host/model:v1").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(
                error.to_string().contains("\"d/odd\" of host/model:v1 is neither a directory"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_missing_subpath_names_the_nearest_parent_and_what_it_holds() {
        let error = view(Some("a/x/y")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "subPath \"a/x/y\" does not exist in host/model:v1; \
             the nearest parent that exists is \"a\" and holds: b, three"
        );
        let error = view(Some("nothing")).unwrap_err().to_string();
        assert!(error.contains("is the root and holds: a, four, to-b"), "{error}");
        let error = view(Some("four/x")).unwrap_err().to_string();
        assert!(error.contains("\"four\" is not a directory"), "{error}");
    }

    #[test]
    fn a_subpath_that_leads_out_is_a_usage_error() {
        for typed in ["", ".", "/a", "..", "a/..", "../a", "a\0"] {
            assert_eq!(view(Some(typed)).unwrap_err().kind(), ErrorKind::Usage, "{typed:?}");
        }
    }
}
