//! The tar reader against other readers, against archives made to harm, and against any split of its input.

use std::collections::BTreeMap;

use refmount::base::Result;
use refmount::layer::tar::{TarEnd, TarItem, TarReader};
use refmount::layer::{Entry, EntryKind, Timestamp, Xattr};

use crate::support::extents::content;

pub(crate) mod archive;
mod differential;
mod hostile;
mod mutated;
pub(crate) mod splits;

/// The same in every run of the suite, so that what fails is what was changed; other seeds are for whoever
/// looks for more.
fn seed() -> u64 {
    let seed = std::env::var("REFMOUNT_TEST_SEED").map_or(12, |seed| seed.parse().unwrap());
    println!("REFMOUNT_TEST_SEED={seed}");
    seed
}

/// Everything that a reader says of `archive` when it comes in pieces of `piece` bytes.
fn read(archive: &[u8], piece: usize) -> Result<(Vec<TarItem>, TarEnd)> {
    let mut reader = TarReader::new();
    let mut items = Vec::new();
    for mut piece in archive.chunks(piece) {
        while !piece.is_empty() {
            let fed = reader.feed(piece)?;
            items.extend(fed.item);
            piece = &piece[fed.taken..];
        }
    }
    Ok((items, reader.finish()?))
}

/// One entry, flat, as other readers show it.
struct Shown<'a> {
    letter: char,
    name: String,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    target: Option<String>,
    device: Option<(u32, u32)>,
    xattrs: BTreeMap<String, String>,
    /// Of a file.
    content: Option<Vec<u8>>,
    kind: Option<&'a EntryKind>,
}

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { letter, name, size, mode, uid, gid, mtime, target, device, kind, .. } = self;
        write!(f, "{letter} {name:?} {size} {mode:o} {uid} {gid} {mtime:?} {target:?} {device:?} {kind:?}")
    }
}

fn show<'a>(archive: &[u8], item: &'a TarItem) -> Shown<'a> {
    match item {
        TarItem::Root(root) => Shown {
            letter: 'd',
            name: String::new(),
            size: 0,
            mode: root.mode,
            uid: root.uid,
            gid: root.gid,
            mtime: root.mtime,
            target: None,
            device: None,
            xattrs: shown_xattrs(&root.xattrs),
            content: None,
            kind: None,
        },
        TarItem::Entry(entry) => show_entry(archive, entry),
    }
}

fn show_entry<'a>(archive: &[u8], entry: &'a Entry) -> Shown<'a> {
    let (letter, size, target, device) = match &entry.kind {
        EntryKind::File { size, .. } => ('-', *size, None, None),
        EntryKind::Directory => ('d', 0, None, None),
        EntryKind::Symlink { target } => ('l', 0, Some(latin(target)), None),
        EntryKind::HardLink { target } => ('h', 0, Some(latin(target)), None),
        EntryKind::CharDevice { major, minor } => ('c', 0, None, Some((*major, *minor))),
        EntryKind::BlockDevice { major, minor } => ('b', 0, None, Some((*major, *minor))),
        EntryKind::Fifo => ('p', 0, None, None),
    };
    let content = match &entry.kind {
        EntryKind::File { size, extents } => Some(content(archive, *size, extents)),
        _ => None,
    };
    Shown {
        letter,
        name: latin(entry.path.as_bytes()),
        size,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        target,
        device,
        xattrs: shown_xattrs(&entry.xattrs),
        content,
        kind: Some(&entry.kind),
    }
}

fn shown_xattrs(xattrs: &[Xattr]) -> BTreeMap<String, String> {
    xattrs.iter().map(|xattr| (latin(&xattr.name), latin(&xattr.value))).collect()
}

/// Each byte as the character of its number, as the scripts write bytes.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
