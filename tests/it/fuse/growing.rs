//! A mount whose only layer is read for the first time while it is used.

use std::fs::{self, File};
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use refmount::base::{Algorithm, Digest, Error, ErrorKind};
use refmount::layer::{Entry, EntryKind};
use refmount::tree::{GrowingView, Growth, GrowthLayer, LayerRole, Tree};
use rustix::io::Errno;

use super::archive::{entry, file, hard, layer};
use super::fixture::{Fixture, REFERENCE, random_bytes, run};

fn growing(stall_timeout: Duration) -> (Fixture, Arc<Growth>) {
    let digest = Digest::of(Algorithm::Sha256, b"layer");
    let growing = GrowthLayer { digest, directory: None, role: LayerRole::Archive, known: None };
    let growth = Arc::new(Growth::new(vec![growing]));
    let view = GrowingView::new(Arc::clone(&growth), None, REFERENCE, stall_timeout);
    let view = view.now_or_never().unwrap().unwrap();
    (Fixture::of(view, random_bytes(6, 200_000)), growth)
}

fn finish(growth: &Growth, entries: &[Entry]) {
    let layer = layer(entries.to_vec(), None, LayerRole::Archive);
    growth.layer_known(0, Arc::clone(&layer.index));
    growth.finish(Tree::build(&[layer]).map(Arc::new));
}

/// The output of `command`, in a thread of its own.
fn spawned(command: &str, path: PathBuf) -> std::thread::JoinHandle<String> {
    let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
    std::thread::spawn(move || run(Command::new(&words[0]).args(&words[1..]).arg(path)))
}

#[test]
fn what_is_found_is_used_at_once_and_the_rest_is_waited_for() {
    let (fixture, growth) = growing(Duration::from_secs(60));
    let (stream, target) = (&fixture.files[0], &fixture.target);
    let entries = vec![
        file("d/a", 1000, 5000),
        file("d/replaced", 0, 100),
        hard("h", "d/a"),
        Entry { mode: 0o700, ..entry("d", EntryKind::Directory) },
        file("d/replaced", 500, 300),
        file("d/b", 7000, 10),
        file("later/e/f", 0, 1),
    ];
    let later = spawned("stat -c %s", target.join("d/b"));
    let listing = spawned("ls -lR", target.clone());
    let absent = {
        let path = target.join("d/none");
        std::thread::spawn(move || fs::metadata(path).unwrap_err().kind())
    };
    entries[..3].iter().for_each(|entry| growth.push(0, entry));
    assert!(fs::read(target.join("d/a")).unwrap() == stream[1000..6000]);
    assert_eq!(fs::metadata(target.join("d")).unwrap().mode() & 0o7777, 0o755);
    let ino = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
    let before = ["d", "d/a", "h", "d/replaced"].map(ino);
    assert_eq!(before[1], before[2]);
    let open = File::open(target.join("d/replaced")).unwrap();
    assert!(fs::read(target.join("d/replaced")).unwrap() == stream[..100]);
    rustix::fs::statvfs(target).unwrap();
    assert!(!later.is_finished() && !listing.is_finished() && !absent.is_finished());

    entries[3..].iter().for_each(|entry| growth.push(0, entry));
    assert_eq!(later.join().unwrap(), "10\n");
    assert_eq!(fs::metadata(target.join("d")).unwrap().mode() & 0o7777, 0o700);
    assert!(!listing.is_finished() && !absent.is_finished());

    finish(&growth, &entries);
    let listing = listing.join().unwrap();
    assert!(listing.contains("replaced") && listing.contains("later"), "{listing}");
    assert_eq!(absent.join().unwrap(), IoErrorKind::NotFound);
    assert_eq!(["d", "d/a", "h"].map(ino), before[..3]);
    // The path is the other file now; who has the first one open keeps it.
    assert!(fs::read(target.join("d/replaced")).unwrap() == stream[500..800]);
    assert_ne!(ino("d/replaced"), before[3]);
    let mut bytes = vec![0; 200];
    assert_eq!(open.read_at(&mut bytes, 0).unwrap(), 100);
    assert!(bytes[..100] == stream[..100]);
    assert_eq!(open.metadata().unwrap().len(), 100);
    all_agree(&fixture);
}

/// What `find`, `ls -i` and `stat` say of each path.
fn all_agree(fixture: &Fixture) {
    let found = run(Command::new("find").arg(&fixture.target).args(["-printf", "%i %y %n %p\\n"]));
    let mut numbers = std::collections::HashMap::new();
    for line in found.lines() {
        let (said, path) = line.split_at(line.match_indices(' ').nth(2).unwrap().0);
        let path = &path[1..];
        let stat = run(Command::new("stat").args(["-c", "%i %h", path]));
        let listed = run(Command::new("ls").args(["-di", path]));
        let mut words = said.split(' ');
        let (ino, nlink) = (words.next().unwrap(), words.nth(1).unwrap());
        assert_eq!(stat.trim(), format!("{ino} {nlink}"), "{path}");
        assert_eq!(listed.split_whitespace().next(), Some(ino), "{path}");
        numbers.entry(ino.to_owned()).or_insert_with(Vec::new).push(path.to_owned());
    }
    for (ino, paths) in numbers {
        let is_file = fs::metadata(&paths[0]).unwrap().is_file();
        let nlink = fs::metadata(&paths[0]).unwrap().nlink();
        assert!(if is_file { nlink == paths.len() as u64 } else { paths.len() == 1 }, "{ino} is {paths:?}");
    }
}

#[test]
fn readers_race_with_a_growing_tree_and_agree_with_it() {
    let (fixture, growth) = growing(Duration::from_secs(60));
    let name = |number: usize| format!("d{}/e{}/f{number}", number % 7, number % 31);
    let entries: Vec<Entry> = (0..3000)
        .map(|number| match number % 10 {
            9 => hard(&format!("links/{number}"), &name(number - 1)),
            _ => file(&name(number), number as u64, number as u64),
        })
        .collect();
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (target, stream) = (&fixture.target, &fixture.files[0]);
            scope.spawn(move || {
                for number in (reader..3000).step_by(37) {
                    let path = match number % 10 {
                        9 => format!("links/{number}"),
                        _ => name(number),
                    };
                    let number = if number % 10 == 9 { number - 1 } else { number };
                    assert!(fs::read(target.join(&path)).unwrap() == stream[number..2 * number], "{path}");
                }
                assert_eq!(fs::read_dir(target).unwrap().count(), 8);
            });
        }
        for entry in &entries {
            growth.push(0, entry);
            std::thread::yield_now();
        }
        finish(&growth, &entries);
    });
    let found = run(Command::new("find").arg(&fixture.target).args(["-type", "f", "-printf", "%i %n %p\\n"]));
    assert_eq!(found.lines().count(), 3000);
    for line in found.lines() {
        let mut words = line.splitn(3, ' ');
        let (ino, nlink, path) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let stat = fs::metadata(path).unwrap();
        assert_eq!((stat.ino().to_string(), stat.nlink().to_string()), (ino.to_owned(), nlink.to_owned()));
    }
}

#[test]
fn a_growth_that_stands_still_or_fails_ends_the_waiting() {
    let (fixture, growth) = growing(Duration::from_millis(50));
    let errno = |name: &str| {
        Errno::from_raw_os_error(fs::metadata(fixture.target.join(name)).unwrap_err().raw_os_error().unwrap())
    };
    growth.push(0, &file("a", 0, 100));
    assert_eq!(errno("b"), Errno::IO);
    assert!(fs::read_dir(&fixture.target).is_err());
    growth.push(0, &file("b", 0, 100));
    assert_eq!(fs::metadata(fixture.target.join("b")).unwrap().len(), 100);
    let open = File::open(fixture.target.join("a")).unwrap();
    growth.finish(Err(Error::new(ErrorKind::Corrupt, "the layer is not what it should be")));
    assert_eq!(errno("c"), Errno::IO);
    assert!(fs::read_dir(&fixture.target).is_err());
    let mut bytes = [0; 200];
    assert_eq!(open.read_at(&mut bytes, 0).unwrap(), 100);
    assert_eq!(fs::read(fixture.target.join("b")).unwrap(), fixture.files[0][..100]);
}
