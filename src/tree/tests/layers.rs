//! Layers of artifacts: files, archives, directories of their own, and what one layer alone says.

use super::*;

fn archive(entries: Vec<Entry>) -> TreeLayer {
    layer(LayerRole::Archive, entries)
}

fn directory(path: &str, mode: u32) -> Entry {
    Entry { mode, ..entry(path, EntryKind::Directory) }
}

fn size(tree: &Tree, path: &str) -> (usize, u64) {
    match &inode(tree, path).kind {
        InodeKind::File(body) => (body.layer, body.size),
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn the_later_of_two_archives_wins_and_directories_become_one() {
    let layers = [
        archive(vec![directory("d", 0o700), file("d/a", 1), file("d/b", 2)]),
        archive(vec![directory("d", 0o750), file("d/b", 3), file("e/f", 4)]),
        layer(LayerRole::File, vec![file("e/f", 5)]),
        archive(vec![file("d/a", 6), link("e/g", "f")]),
    ];
    let tree = Tree::build(&layers).unwrap();
    assert_eq!(paths(&tree), ["d", "d/a", "d/b", "e", "e/f", "e/g"]);
    assert_eq!(inode(&tree, "d").mode, 0o750);
    assert_eq!([size(&tree, "d/a"), size(&tree, "d/b"), size(&tree, "e/f")], [(3, 6), (1, 3), (2, 5)]);
    let forward = Tree::build(&[archive(vec![file("a", 1)]), layer(LayerRole::File, vec![file("a", 2)])]);
    assert_eq!(size(&forward.unwrap(), "a"), (1, 2));
}

#[test]
fn names_that_hide_in_images_are_names_in_artifacts() {
    let layers = [
        archive(vec![file("d/a", 1), file("d/.wh.a", 1)]),
        archive(vec![file(".wh.d", 1), file("d/.wh..wh..opq", 1)]),
    ];
    let tree = Tree::build(&layers).unwrap();
    assert_eq!(paths(&tree), [".wh.d", "d", "d/.wh..wh..opq", "d/.wh.a", "d/a"]);
    assert_eq!(paths(&Tree::build(&layers[..1]).unwrap()), ["d", "d/.wh.a", "d/a"]);
}

#[test]
fn a_file_where_a_directory_must_be_is_refused_in_whatever_order() {
    let cases = [
        (vec![vec![file("a", 1), file("a/b", 1)]], "\"a/b\" needs the directory \"a\""),
        (vec![vec![file("a", 1)], vec![file("a/b", 1)]], "\"a/b\" needs the directory \"a\""),
        (vec![vec![file("a/b", 1)], vec![file("a", 1)]], "a file in one layer is a directory in another"),
        (vec![vec![file("a", 1)], vec![directory("a", 0)]], "a file in one layer is a directory in another"),
        (vec![vec![link("x", "d"), file("d/y", 1), file("x/y", 1)]], "needs the directory \"x\""),
        (vec![vec![link("x", "d")], vec![file("x/y", 1)]], "needs the directory \"x\""),
        (vec![vec![entry("p/f", EntryKind::Fifo), file("p/f/g/h", 1)]], "needs the directory \"p/f\""),
    ];
    for (layers, expected) in cases {
        let layers: Vec<_> = layers.into_iter().map(archive).collect();
        let error = Tree::build(&layers).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let digest = layers.last().unwrap().index.layer().as_str();
        assert!(error.to_string().contains(expected) && error.to_string().contains(digest), "{error}");
    }
}

#[test]
fn layers_of_two_directories_never_meet() {
    let in_directory = |directory: &str, entries, root| TreeLayer {
        index: Arc::new(LayerIndex::new(parts(entries, root)).unwrap()),
        directory: Some(directory.parse().unwrap()),
        role: LayerRole::Rootfs,
    };
    let root = |mode| {
        let mtime = Timestamp { seconds: 9, nanoseconds: 9 };
        Some(RootAttributes { mode, uid: 3, gid: 4, mtime, xattrs: Box::default() })
    };
    let layers = [
        in_directory("linux-arm64", vec![file("a", 1), link("l", "/x")], root(0o700)),
        in_directory("linux-amd64", vec![file("a", 2), file("b/c", 2)], None),
        in_directory("linux-arm64", vec![file("l/y", 3)], root(0o711)),
        in_directory("linux-amd64", vec![file(".wh.b", 0)], None),
        in_directory("linux-arm64", vec![file(".wh.a", 0)], None),
    ];
    let tree = Tree::build(&layers).unwrap();
    let shown =
        ["linux-amd64", "linux-amd64/a", "linux-arm64", "linux-arm64/l", "linux-arm64/x", "linux-arm64/x/y"];
    assert_eq!(paths(&tree), shown);
    assert_eq!((inode(&tree, "linux-arm64").mode, inode(&tree, "linux-arm64").uid), (0o711, 3));
    assert_eq!((inode(&tree, "linux-amd64").mode, inode(&tree, "").mode), (0o755, 0o755));
    let alone = Tree::build(&layers[..1]).unwrap();
    assert_eq!(paths(&alone), ["linux-arm64", "linux-arm64/a", "linux-arm64/l"]);
    assert_eq!(inode(&alone, "linux-arm64").mode, 0o700);
}

#[test]
fn attributes_come_whole() {
    let xattr = |name: &str| Xattr { name: name.as_bytes().into(), value: b"v".as_slice().into() };
    let extents =
        Extents::Sparse([crate::layer::Extent { file_offset: 5, stream_offset: 512, length: 3 }].into());
    let entries = vec![
        Entry { xattrs: Box::new([xattr("user.a"), xattr("user.b")]), ..file("f", 1) },
        entry("c", EntryKind::CharDevice { major: 1, minor: 3 }),
        entry("b", EntryKind::BlockDevice { major: 8, minor: 0 }),
        entry("p", EntryKind::Fifo),
        entry("s", EntryKind::File { size: 99, extents: extents.clone() }),
        Entry { mode: 0o4_755, ..file("setuid", 1) },
    ];
    let root = RootAttributes {
        mode: 0o1777,
        uid: 1,
        gid: 2,
        mtime: Timestamp::default(),
        xattrs: Box::new([xattr("user.root")]),
    };
    let index = Arc::new(LayerIndex::new(parts(entries, Some(root))).unwrap());
    let alone = TreeLayer { index, directory: None, role: LayerRole::Archive };
    let two = [alone.clone(), archive(Vec::new())];
    for tree in [Tree::build(&[alone]).unwrap(), Tree::build(&two).unwrap()] {
        assert_eq!(inode(&tree, "f").xattrs.len(), 2);
        assert_eq!(inode(&tree, "c").kind, InodeKind::CharDevice { major: 1, minor: 3 });
        assert_eq!(inode(&tree, "b").kind, InodeKind::BlockDevice { major: 8, minor: 0 });
        assert_eq!(inode(&tree, "p").kind, InodeKind::Fifo);
        let body = FileBody { layer: 0, size: 99, extents: extents.clone() };
        assert_eq!(inode(&tree, "s").kind, InodeKind::File(body));
        assert_eq!(inode(&tree, "setuid").mode, 0o4755);
        let root = inode(&tree, "");
        assert_eq!((root.mode, root.uid, root.xattrs.len()), (0o1777, 1, 1));
    }
}

#[test]
fn a_node_of_a_large_archive_is_small() {
    // Beside the name: the node, and its place among its parent's children.
    assert!(size_of::<Node>() + size_of::<u32>() <= 120, "{}", size_of::<Node>());
}

#[test]
fn a_million_entries() {
    let path = |number: u32| format!("usr/lib/{:03}/file-{number:07}", number % 997);
    let layer = layer(LayerRole::Archive, (0..1_000_000).map(|number| file(&path(number), 1)).collect());
    for layers in [vec![layer.clone()], vec![layer, archive(vec![file("x", 1)])]] {
        let tree = Tree::build(&layers).unwrap();
        assert!(tree.files().count() >= 1_000_000);
        assert!(matches!(inode(&tree, &path(999_999)).kind, InodeKind::File(_)));
    }
}
