//! Several names of one inode.

use super::*;

fn hard(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink { target: target.as_bytes().into() })
}

const ROLES: [LayerRole; 2] = [LayerRole::Archive, LayerRole::Rootfs];

/// The names that share an inode with `path`, and what it says of their number.
fn names_of(tree: &Tree, path: &str) -> (Vec<String>, u32) {
    let all = listing(tree);
    let ino = all.iter().find(|(other, _)| other == path).unwrap_or_else(|| panic!("no {path}")).1;
    let names = all.into_iter().filter(|(_, other)| *other == ino).map(|(path, _)| path).collect();
    (names, tree.inode(ino).unwrap().nlink)
}

/// One layer alone, and the same one on top of another.
fn both_ways(role: LayerRole, entries: &[Entry]) -> [Tree; 2] {
    let alone = layer(role, entries.to_vec());
    let below = layer(role, vec![file("below", 1)]);
    [Tree::build(std::slice::from_ref(&alone)).unwrap(), Tree::build(&[below, alone]).unwrap()]
}

#[test]
fn chains_and_names_before_the_file_share_its_inode() {
    let entries = [
        hard("a", "m/file"),
        hard("b", "./c"),
        hard("c", "/m/file"),
        file("m/file", 9),
        link("m/link", "x"),
        hard("z", "m//link"),
        entry("fifo", EntryKind::Fifo),
        hard("fifo2", "fifo"),
    ];
    for role in ROLES {
        for tree in both_ways(role, &entries) {
            assert_eq!(names_of(&tree, "m/file"), (["a", "b", "c", "m/file"].map(String::from).to_vec(), 4));
            assert_eq!(names_of(&tree, "z"), (["m/link", "z"].map(String::from).to_vec(), 2));
            assert_eq!(names_of(&tree, "fifo2").1, 2);
            assert_eq!(tree.path_of(listing(&tree)[1].1), b"a");
            assert_eq!(tree.files().filter(|file| file.body.size == 9).count(), 1);
            assert_eq!(walk(&tree, "c"), walk(&tree, "m/file"));
            for (path, ino) in listing(&tree) {
                assert!(tree.inode(ino).is_some(), "{path} leads to nothing");
            }
        }
    }
}

#[test]
fn links_that_name_no_file_of_the_tree_are_refused_with_layer_entry_and_target() {
    let cases = [
        ("../x", "no path inside"),
        ("d/../../x", "no path inside"),
        ("", "no path inside"),
        ("/", "no path inside"),
        ("missing", "neither the layer nor one below it has"),
        ("d/file/x", "neither the layer nor one below it has"),
        ("d", "is a directory"),
        ("e", "is a directory"),
        ("link", "leads back to the link itself"),
        ("./link", "leads back to the link itself"),
        ("loop", "leads back to the link itself"),
    ];
    for role in ROLES {
        for (target, why) in cases {
            let entries = vec![
                entry("d", EntryKind::Directory),
                file("d/file", 1),
                file("e/x", 1),
                hard("link", target),
                hard("loop", "link"),
            ];
            let alone = layer(role, entries);
            for layers in [vec![alone.clone()], vec![layer(role, vec![file("a", 1)]), alone.clone()]] {
                let error = Tree::build(&layers).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                let text = error.to_string();
                let digest = alone.index.layer().as_str();
                assert!(text.contains(why) && text.contains(digest), "{target:?}: {text}");
                assert!(text.contains("\"link\"") || text.contains("\"loop\""), "{text}");
            }
        }
    }
}

#[test]
fn what_a_lower_layer_shows_can_be_linked_to_though_it_goes() {
    let lower = || vec![file("a", 1), hard("b", "a"), file("c", 2)];
    let upper = vec![hard("n", "a"), file(".wh.a", 0), file("c", 3), hard("m", "c"), hard("k", "b")];
    let layers = [layer(LayerRole::Rootfs, lower()), layer(LayerRole::Rootfs, upper)];
    let tree = Tree::build(&layers).unwrap();
    assert_eq!(names_of(&tree, "n"), (["b", "k", "n"].map(String::from).to_vec(), 3));
    // Its own layer's file comes first.
    assert_eq!(names_of(&tree, "m"), (["c", "m"].map(String::from).to_vec(), 2));
    assert!(matches!(&inode(&tree, "m").kind, InodeKind::File(body) if (body.layer, body.size) == (1, 3)));

    let layers =
        [layer(LayerRole::Archive, lower()), layer(LayerRole::Archive, vec![file("a", 7), hard("n", "b")])];
    let tree = Tree::build(&layers).unwrap();
    assert_eq!(names_of(&tree, "n"), (["b", "n"].map(String::from).to_vec(), 2));
    assert_eq!(names_of(&tree, "a"), (["a"].map(String::from).to_vec(), 1));
    let gone = layer(LayerRole::Rootfs, vec![file(".wh.b", 0), file(".wh.c", 0)]);
    let tree = Tree::build(&[layers[0].clone(), gone]).unwrap();
    assert_eq!(names_of(&tree, "a"), (["a"].map(String::from).to_vec(), 1));
}

#[test]
fn links_behind_links_of_an_image_lead_to_the_file() {
    let entries = vec![
        link("lib", "usr/lib"),
        file("usr/lib/a", 1),
        hard("x", "lib/a"),
        hard("usr/lib/b", "lib/a"),
        hard("y", "lib/b"),
        hard("lib/c", "a2"),
        file("a2", 1),
    ];
    for tree in both_ways(LayerRole::Rootfs, &entries) {
        let names = ["usr/lib/a", "usr/lib/b", "x", "y"].map(String::from).to_vec();
        assert_eq!(names_of(&tree, "x"), (names, 4));
        assert_eq!(names_of(&tree, "a2"), (["a2", "usr/lib/c"].map(String::from).to_vec(), 2));
    }
}

#[test]
fn what_aufs_put_aside_for_its_links_is_found_and_not_shown() {
    let entries =
        vec![file(".wh..wh.plnk/7.1", 5), hard("a", "/.wh..wh.plnk/7.1"), hard("b", ".wh..wh.plnk/7.1")];
    for tree in both_ways(LayerRole::Rootfs, &entries) {
        assert_eq!(names_of(&tree, "a"), (["a", "b"].map(String::from).to_vec(), 2));
    }
    let error =
        Tree::build(&[layer(LayerRole::Rootfs, vec![file(".wh.x", 0), hard("a", ".wh.x")])]).unwrap_err();
    assert!(error.to_string().contains("neither"), "{error}");
}

#[test]
fn chains_of_twenty_thousand_links_are_followed_once() {
    let mut entries: Vec<Entry> =
        (0..20_000).map(|number| hard(&format!("{number:06}"), &format!("{:06}", number + 1))).collect();
    entries.push(file("020000", 1));
    for role in ROLES {
        for tree in both_ways(role, &entries) {
            assert_eq!(tree.inode(walk(&tree, "010000").unwrap()).unwrap().nlink, 20_001);
        }
    }
}

#[test]
fn a_view_has_what_it_has_a_name_for() {
    let tree = Tree::build(&[layer(
        LayerRole::Archive,
        vec![
            file("a/one", 10),
            hard("b/c/one", "a/one"),
            hard("b/again", "a/one"),
            file("b/own", 5),
            hard("z", "b/own"),
            file("out", 1),
            hard("a/out", "out"),
        ],
    )]);
    let tree = Arc::new(tree.unwrap());
    let view = View::new(Arc::clone(&tree), Some("b"), "r").unwrap();
    assert_eq!((view.file_count(), view.total_bytes()), (2, 15));
    let files: Vec<_> = view.files().map(|file| view.path_of(file.ino)).collect();
    assert_eq!(files, [b"again".to_vec(), b"own".to_vec()]);
    let one = view.lookup(Ino::ROOT, OsStr::new("again")).unwrap();
    assert_eq!(view.inode(one).unwrap().nlink, 3);
    assert_eq!(view.parent(one), Some(Ino::ROOT));
    let directory = view.lookup(Ino::ROOT, OsStr::new("c")).unwrap();
    assert_eq!(view.lookup(directory, OsStr::new("one")), Some(one));
    assert!(view.inode(walk(&tree, "out").unwrap()).is_none());
    let deep = View::new(Arc::clone(&tree), Some("b/c"), "r").unwrap();
    assert_eq!(
        deep.files().map(|file| (deep.path_of(file.ino), file.ino)).collect::<Vec<_>>(),
        [(b"one".to_vec(), one)]
    );
    let single = View::new(tree, Some("b/c/one"), "r").unwrap();
    assert!(single.is_file());
    assert_eq!((single.file_count(), single.total_bytes()), (1, 10));
    assert_eq!(single.files().map(|file| file.ino).collect::<Vec<_>>(), [Ino::ROOT]);
}
