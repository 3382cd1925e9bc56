//! Random small layers of an image, merged and, beside it, extracted one after the other into a plain map.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What stands at a path of the model: an inode by number, or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Directory { mode: u32 },
    Inode(u64),
}

type Model = BTreeMap<String, Held>;

#[derive(Clone, Debug)]
enum Made {
    File,
    Directory,
    HardLink(String),
    Whiteout,
    Opaque,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(NAMES.to_vec()), 1..4)
        .prop_map(|names| names.join("/"))
}

fn made() -> impl Strategy<Value = (String, Made)> {
    let kind = prop_oneof![
        4 => Just(Made::File),
        3 => Just(Made::Directory),
        2 => path().prop_map(Made::HardLink),
        2 => Just(Made::Whiteout),
        1 => Just(Made::Opaque),
    ];
    (path(), kind)
}

fn layers() -> impl Strategy<Value = Vec<Vec<(String, Made)>>> {
    proptest::collection::vec(proptest::collection::vec(made(), 0..7), 1..5)
}

fn marked(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((directory, name)) => format!("{directory}/.wh.{name}"),
        None => format!(".wh.{path}"),
    }
}

/// The entries of a layer, each with a mode of its own, so that one can tell whose attributes count.
fn entries(number: usize, made: &[(String, Made)]) -> Vec<Entry> {
    let entries = made.iter().zip(0_u32..).map(|((path, made), at)| {
        let mode = (u32::try_from(number).unwrap() << 4 | at) & 0o7777;
        let made = match made {
            Made::File => file(path, u64::from(mode)),
            Made::Directory => entry(path, EntryKind::Directory),
            Made::HardLink(target) => entry(path, EntryKind::HardLink { target: target.as_bytes().into() }),
            Made::Whiteout => file(&marked(path), 0),
            Made::Opaque => file(&format!("{path}/.wh..wh..opq"), 0),
        };
        Entry { mode, ..made }
    });
    entries.collect()
}

fn parents(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect()
}

fn remove_below(model: &mut Model, path: &str) {
    model.retain(|other, _| !other.starts_with(&format!("{path}/")));
}

/// Extracts a layer onto `model`, or nothing if it is to be refused: its whiteouts, then what it has itself. Of
/// several entries with one path the last one counts.
fn extract(model: &Model, number: usize, list: &[(String, Made)], inodes: &mut u64) -> Option<Model> {
    let mut own: BTreeMap<String, (u32, Made)> = BTreeMap::new();
    let mut hidden = BTreeSet::new();
    let mut opaque = BTreeSet::new();
    for (entry, (path, made)) in entries(number, list).iter().zip(list) {
        match made {
            Made::Whiteout => drop(hidden.insert(path.clone())),
            Made::Opaque => drop(opaque.insert(path.clone())),
            _ => drop(own.insert(path.clone(), (entry.mode, made.clone()))),
        }
    }
    let mut new = model.clone();
    for path in &hidden {
        new.remove(path);
        remove_below(&mut new, path);
    }
    for path in &opaque {
        remove_below(&mut new, path);
    }
    for (path, (mode, made)) in &own {
        for parent in parents(path) {
            if own.get(&parent).is_some_and(|(_, made)| !matches!(made, Made::Directory)) {
                return None;
            }
            if !matches!(new.get(&parent), Some(Held::Directory { .. })) {
                new.insert(parent, Held::Directory { mode: 0o755 });
            }
        }
        match made {
            Made::Directory => drop(new.insert(path.clone(), Held::Directory { mode: *mode })),
            _ => {
                remove_below(&mut new, path);
                *inodes += 1;
                new.insert(path.clone(), Held::Inode(*inodes));
            }
        }
    }
    for (path, (_, made)) in &own {
        let Made::HardLink(mut target) = made.clone() else { continue };
        let mut seen = BTreeSet::from([path.clone()]);
        let held = loop {
            if !seen.insert(target.clone()) {
                return None;
            }
            match own.get(&target) {
                Some((_, Made::HardLink(further))) => target = further.clone(),
                Some((_, Made::File)) => break new[&target].clone(),
                Some(_) => return None,
                // A directory that the layer only implies is one all the same.
                None if own.keys().any(|other| other.starts_with(&format!("{target}/"))) => {
                    match model.get(&target) {
                        Some(held @ Held::Inode(_)) => break held.clone(),
                        _ => return None,
                    }
                }
                None => match model.get(&target) {
                    Some(held @ Held::Inode(_)) => break held.clone(),
                    _ => return None,
                },
            }
        };
        new.insert(path.clone(), held);
    }
    Some(new)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_is_what_extracting_one_layer_after_the_other_gives(made in layers()) {
        let mut model = Some(Model::new());
        let mut inodes = 0;
        for (number, list) in made.iter().enumerate() {
            model = model.and_then(|model| extract(&model, number, list, &mut inodes));
        }
        let layers: Vec<_> = made
            .iter()
            .enumerate()
            .map(|(number, list)| layer(LayerRole::Rootfs, entries(number, list)))
            .collect();
        let tree = Tree::build(&layers);
        let Some(model) = model else {
            prop_assert_eq!(tree.map(|tree| paths(&tree)).map_err(|error| error.kind()), Err(ErrorKind::Invalid));
            return Ok(());
        };
        let tree = match tree {
            Ok(tree) => tree,
            Err(error) => return Err(TestCaseError::fail(error.chain())),
        };
        prop_assert_eq!(paths(&tree), sorted(model.keys()));
        let mut numbers: BTreeMap<u64, Ino> = BTreeMap::new();
        for (path, ino) in listing(&tree).into_iter().skip(1) {
            let inode = tree.inode(ino).unwrap();
            match &model[&path] {
                Held::Directory { mode } => prop_assert_eq!((inode.kind.is_directory(), inode.mode), (true, *mode)),
                Held::Inode(number) => {
                    prop_assert_eq!(*numbers.entry(*number).or_insert(ino), ino);
                    let names = model.values().filter(|held| **held == Held::Inode(*number)).count();
                    prop_assert_eq!(inode.nlink as usize, names);
                }
            }
        }
        let distinct: BTreeSet<_> = numbers.values().collect();
        prop_assert_eq!(distinct.len(), numbers.len());
        // One layer takes another way than the same one among others.
        if let [layer] = &layers[..] {
            let empty = super::layer(LayerRole::Rootfs, Vec::new());
            let merged = Tree::build(&[layer.clone(), empty]).unwrap();
            prop_assert_eq!(listing(&merged), listing(&tree));
        }
    }
}

/// In the order of components.
fn sorted<'a>(paths: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut paths: Vec<_> = paths.cloned().collect();
    paths.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    paths
}
