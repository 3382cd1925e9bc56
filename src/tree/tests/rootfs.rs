//! Layers of images: whiteouts, replacement, links on the way.

use super::*;

fn directory(path: &str, mode: u32) -> Entry {
    Entry { mode, ..entry(path, EntryKind::Directory) }
}

fn image(layers: Vec<Vec<Entry>>) -> Result<Tree> {
    let layers: Vec<_> = layers.into_iter().map(|entries| layer(LayerRole::Rootfs, entries)).collect();
    Tree::build(&layers)
}

fn shown(layers: Vec<Vec<Entry>>) -> Vec<String> {
    paths(&image(layers).unwrap())
}

fn hides(path: &str) -> Entry {
    file(path, 0)
}

#[test]
fn whiteouts_hide_what_is_below_and_never_their_own_layer() {
    let lower =
        || vec![directory("d", 0o700), file("d/a", 1), file("d/b", 1), file("e/f/g", 1), file("x", 1)];
    assert_eq!(shown(vec![lower(), vec![hides("d/.wh.a")]]), ["d", "d/b", "e", "e/f", "e/f/g", "x"]);
    assert_eq!(shown(vec![lower(), vec![hides(".wh.e"), hides(".wh.x")]]), ["d", "d/a", "d/b"]);
    assert_eq!(
        shown(vec![
            lower(),
            vec![
                hides(".wh.none"),
                hides("no/.wh.where"),
                hides("x/.wh.y"),
                hides(".wh.d"),
                hides(".wh.e"),
                hides(".wh...")
            ]
        ]),
        ["x"]
    );
    for flip in [false, true] {
        let mut upper = vec![hides("d/.wh.a"), file("d/a", 2), hides(".wh.e"), file("e/h", 1)];
        if flip {
            upper.reverse();
        }
        let tree = image(vec![lower(), upper]).unwrap();
        assert_eq!(paths(&tree), ["d", "d/a", "d/b", "e", "e/h", "x"]);
        assert!(matches!(&inode(&tree, "d/a").kind, InodeKind::File(body) if body.size == 2));
    }
    // Whatever stands in a lowest layer hides nothing and is not shown.
    let lowest =
        vec![hides(".wh.a"), file("a", 1), hides("d/.wh..wh..opq"), file("d/c", 1), hides(".wh..wh.aufs")];
    assert_eq!(shown(vec![lowest.clone()]), ["a", "d", "d/c"]);
    assert_eq!(shown(vec![lowest, Vec::new()]), ["a", "d", "d/c"]);
}

#[test]
fn an_opaque_directory_keeps_only_what_its_layer_has() {
    let lower = || vec![directory("d", 0o700), file("d/a", 1), file("d/s/t/u", 1), file("x", 1)];
    assert_eq!(shown(vec![lower(), vec![hides("d/.wh..wh..opq")]]), ["d", "x"]);
    let tree = image(vec![lower(), vec![hides("d/.wh..wh..opq"), file("d/s/t/v", 1)]]).unwrap();
    assert_eq!(paths(&tree), ["d", "d/s", "d/s/t", "d/s/t/v", "x"]);
    assert_eq!(inode(&tree, "d").mode, 0o700);
    assert_eq!(shown(vec![lower(), vec![file("new", 1), hides(".wh..wh..opq")]]), ["new"]);
    // The layers above are not hidden.
    assert_eq!(shown(vec![lower(), vec![hides(".wh..wh..opq")], vec![file("d/z", 1)]]), ["d", "d/z"]);
}

#[test]
fn a_directory_that_was_hidden_and_is_named_again_is_new() {
    let lower = || vec![directory("d", 0o700), directory("d/s", 0o711), file("d/s/a", 1)];
    let tree = image(vec![lower(), vec![hides(".wh.d"), file("d/s/b", 1)]]).unwrap();
    assert_eq!(paths(&tree), ["d", "d/s", "d/s/b"]);
    assert_eq!((inode(&tree, "d").mode, inode(&tree, "d/s").mode), (0o755, 0o755));
    let tree = image(vec![lower(), vec![hides(".wh.d"), directory("d", 0o750)]]).unwrap();
    assert_eq!((paths(&tree), inode(&tree, "d").mode), (vec!["d".to_owned()], 0o750));
}

#[test]
fn the_upper_entry_replaces_and_two_directories_become_one() {
    let xattr = Xattr { name: b"user.x".as_slice().into(), value: Box::default() };
    let upper = Entry { xattrs: Box::new([xattr]), uid: 77, ..directory("d", 0o711) };
    let lower =
        || vec![directory("d", 0o700), file("d/a", 1), file("f", 1), link("l", "d"), directory("l2", 0)];
    let tree = image(vec![
        lower(),
        vec![upper, file("f/g", 1), directory("l", 0o700), link("l2", "f"), file("d/a/b", 1)],
    ])
    .unwrap();
    assert_eq!(paths(&tree), ["d", "d/a", "d/a/b", "f", "f/g", "l", "l2"]);
    let top = inode(&tree, "d");
    assert_eq!((top.mode, top.uid, top.xattrs.len()), (0o711, 77, 1));
    assert_eq!(shown(vec![lower(), vec![file("d", 1)]]), ["d", "f", "l", "l2"]);
}

#[test]
fn within_one_layer_a_file_is_no_directory() {
    for entries in [vec![file("a", 1), file("a/b", 1)], vec![link("l", "f"), file("f", 1), file("l/x", 1)]] {
        for layers in [vec![entries.clone()], vec![vec![file("q", 1)], entries]] {
            let error = image(layers).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("needs the directory"), "{error}");
        }
    }
    let error = image(vec![vec![link("l", "d"), file("d/x/y", 1), file("l/x", 1)]]).unwrap_err();
    assert!(error.to_string().contains("\"l/x\" is a file and a directory in one"), "{error}");
}

#[test]
fn entries_land_where_links_lead_inside_the_root() {
    let lower = || {
        vec![
            link("lib", "usr/lib"),
            directory("usr/lib", 0o755),
            link("out", "../../../etc/"),
            link("abs", "/usr/./lib"),
            link("two", "lib"),
        ]
    };
    let upper = vec![
        file("lib/a", 1),
        file("out/passwd", 1),
        file("abs/b", 1),
        directory("two/deep/er", 0o700),
        link("own", "made/here"),
        file("own/c", 1),
        link("back", "gone/../kept"),
        file("back/d", 1),
    ];
    let expected = [
        "abs",
        "back",
        "etc",
        "etc/passwd",
        "kept",
        "kept/d",
        "lib",
        "made",
        "made/here",
        "made/here/c",
        "out",
        "own",
        "two",
        "usr",
        "usr/lib",
        "usr/lib/a",
        "usr/lib/b",
        "usr/lib/deep",
        "usr/lib/deep/er",
    ];
    assert_eq!(shown(vec![lower(), upper.clone()]), expected);
    let mut alone = lower();
    alone.extend(upper);
    assert_eq!(shown(vec![alone]), expected);
}

#[test]
fn whiteouts_go_where_links_lead() {
    let lower = || vec![link("lib", "/usr/lib"), file("usr/lib/a", 1), file("usr/lib/b", 1)];
    assert_eq!(shown(vec![lower(), vec![hides("lib/.wh.a")]]), ["lib", "usr", "usr/lib", "usr/lib/b"]);
    assert_eq!(
        shown(vec![lower(), vec![hides("lib/.wh..wh..opq"), file("lib/c", 1)]]),
        ["lib", "usr", "usr/lib", "usr/lib/c"]
    );
    assert_eq!(shown(vec![lower(), vec![hides(".wh.lib")]]), ["usr", "usr/lib", "usr/lib/a", "usr/lib/b"]);
    // The link has been replaced by a directory of the layer itself.
    assert_eq!(
        shown(vec![lower(), vec![directory("lib", 0), hides("lib/.wh.a")]]),
        ["lib", "usr", "usr/lib", "usr/lib/a", "usr/lib/b"]
    );
}

#[test]
fn what_stands_at_its_own_name_counts_before_what_a_link_brings() {
    let entries = vec![
        link("l", "z"),
        file("l/a", 1),
        file("z/a", 2),
        directory("l/d", 0o700),
        directory("z/d", 0o711),
    ];
    let tree = image(vec![entries]).unwrap();
    assert_eq!(paths(&tree), ["l", "z", "z/a", "z/d"]);
    assert_eq!(inode(&tree, "z/d").mode, 0o711);
    assert!(matches!(&inode(&tree, "z/a").kind, InodeKind::File(body) if body.size == 2));
}

#[test]
fn loops_of_links_are_refused() {
    for entries in [
        vec![link("l", "l"), file("l/a", 1)],
        vec![link("l", "m/x"), link("m", "l"), file("l/a", 1)],
        vec![link("l", "l"), hides("l/.wh.a")],
    ] {
        let error = image(vec![entries, Vec::new()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("loop"), "{error}");
    }
}

#[test]
fn links_that_take_too_long_to_follow_are_refused_by_a_named_limit() {
    let target = |number: usize| format!("/l{:02}/", number + 1) + &"../".repeat(1300);
    let mut entries: Vec<Entry> =
        (0..39).map(|number| link(&format!("l{number:02}"), &target(number))).collect();
    entries.extend((0..1000).map(|number| file(&format!("l00/{number}/x"), 1)));
    let error = image(vec![entries]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("LINKED_NAMES_MAX"), "{error}");
}

#[test]
fn whiteouts_in_a_thousand_nested_directories_take_no_time() {
    let mut lower = Vec::new();
    let mut upper = Vec::new();
    for depth in 1..1000 {
        let path = vec!["d"; depth].join("/");
        lower.push(file(&format!("{path}/low"), 1));
        upper.push(hides(&format!("{path}/.wh..wh..opq")));
        upper.push(hides(&format!("{path}/.wh.d")));
    }
    upper.push(file(&format!("{}/x", vec!["d"; 1000].join("/")), 1));
    let tree = image(vec![lower, upper]).unwrap();
    assert_eq!(paths(&tree).len(), 1001);
}
