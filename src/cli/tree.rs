//! `tree`: the files of an artifact, as `ls -l` would list them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use serde::Serialize;

use crate::layer::Timestamp;
use crate::tree::{Ino, Inode, InodeKind, Tree};

use super::args::{GlobalArgs, OutputFormat, TreeArgs};
use super::exit::Failure;
use super::output::{print, print_json, printable};
use super::{log, source};

/// Where a line stands, and what it shows.
struct Listed<'a> {
    path: Vec<u8>,
    inode: &'a Inode,
}

/// An entry for programs.
#[derive(Debug, Serialize)]
struct Entry {
    /// What of the name is not UTF-8 is replaced.
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Four octal digits, as `stat -c %a` has them.
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    /// Seconds since 1970.
    mtime: i64,
    mtime_nanoseconds: u32,
    nlink: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
}

/// Lists the files of an artifact.
///
/// # Errors
/// Those of [`crate::artifact::load`]; `NotFound` for a path that is not there.
pub(super) async fn run(global: &GlobalArgs, arguments: &TreeArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let opened = source::open(&arguments.reference, &arguments.source).await?;
    let files = source::files(&opened).await?;
    let (top, path) = files.find(&opened.artifact, arguments.path.as_deref().unwrap_or("/"))?;
    let listed = list(&files.tree, top, path.map(|path| path.as_bytes().to_vec()).unwrap_or_default());
    match arguments.output.output {
        OutputFormat::Json => print_json(&listed.iter().map(entry).collect::<Vec<_>>()),
        OutputFormat::Text => print(&text(&listed)),
    }
}

/// `top`, which stands at `path`, and what is below it, in the order of the paths. Of the root, only what is below.
fn list(tree: &Tree, top: Ino, path: Vec<u8>) -> Vec<Listed<'_>> {
    let mut listed = Vec::new();
    let mut ahead = vec![(top, path)];
    while let Some((ino, path)) = ahead.pop() {
        let children: Vec<(&OsStr, Ino)> = tree.children(ino, 0).collect();
        for (name, child) in children.into_iter().rev() {
            let below = match path.is_empty() {
                true => name.as_bytes().to_vec(),
                false => [&path, &b"/"[..], name.as_bytes()].concat(),
            };
            ahead.push((child, below));
        }
        if let Some(inode) = tree.inode(ino).filter(|_| !path.is_empty()) {
            listed.push(Listed { path, inode });
        }
    }
    listed
}

fn text(listed: &[Listed<'_>]) -> String {
    let width = |cell: &dyn Fn(&Listed<'_>) -> String| {
        listed.iter().map(|listed| cell(listed).chars().count()).max().unwrap_or_default()
    };
    let (sizes, owners) =
        (width(&|listed| size_text(listed.inode)), width(&|listed| owner_text(listed.inode)));
    listed.iter().map(|listed| line(listed, owners, sizes)).collect()
}

fn line(listed: &Listed<'_>, owners: usize, sizes: usize) -> String {
    let Listed { path, inode } = listed;
    let arrow = match &inode.kind {
        InodeKind::Symlink { target } => format!(" -> {}", printable(&String::from_utf8_lossy(target))),
        _ => String::new(),
    };
    format!(
        "{} {:<owners$} {:>sizes$} {} {}{arrow}\n",
        mode_text(inode),
        owner_text(inode),
        size_text(inode),
        time_text(inode.mtime),
        printable(&String::from_utf8_lossy(path))
    )
}

fn owner_text(inode: &Inode) -> String {
    format!("{}/{}", inode.uid, inode.gid)
}

/// The size; of a device its numbers.
fn size_text(inode: &Inode) -> String {
    match device(inode) {
        Some((major, minor)) => format!("{major},{minor}"),
        None => size(inode).to_string(),
    }
}

/// Bytes of what an inode holds, as `ls` counts them.
fn size(inode: &Inode) -> u64 {
    match &inode.kind {
        InodeKind::File(body) => body.size,
        InodeKind::Symlink { target } => target.len() as u64,
        _ => 0,
    }
}

fn device(inode: &Inode) -> Option<(u32, u32)> {
    match inode.kind {
        InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
            Some((major, minor))
        }
        _ => None,
    }
}

fn entry(listed: &Listed<'_>) -> Entry {
    let Listed { path, inode } = listed;
    let (kind, _) = kind(inode);
    Entry {
        path: String::from_utf8_lossy(path).into_owned(),
        kind,
        mode: format!("{:04o}", inode.mode),
        uid: inode.uid,
        gid: inode.gid,
        size: size(inode),
        mtime: inode.mtime.seconds,
        mtime_nanoseconds: inode.mtime.nanoseconds,
        nlink: inode.nlink,
        target: match &inode.kind {
            InodeKind::Symlink { target } => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        },
        device: device(inode),
    }
}

/// What an inode is, in a word and in the letter of `ls -l`.
fn kind(inode: &Inode) -> (&'static str, char) {
    match inode.kind {
        InodeKind::File(_) => ("file", '-'),
        InodeKind::Directory => ("directory", 'd'),
        InodeKind::Symlink { .. } => ("symlink", 'l'),
        InodeKind::CharDevice { .. } => ("char-device", 'c'),
        InodeKind::BlockDevice { .. } => ("block-device", 'b'),
        InodeKind::Fifo => ("fifo", 'p'),
    }
}

/// The mode as `ls -l` shows it.
fn mode_text(inode: &Inode) -> String {
    let mode = inode.mode;
    let mut text = String::from(kind(inode).1);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// The time in UTC, to the minute.
fn time_text(time: Timestamp) -> String {
    jiff::Timestamp::from_second(time.seconds)
        .map(|time| time.strftime("%Y-%m-%d %H:%M").to_string())
        // A time of another age, which no calendar has.
        .unwrap_or_else(|_| "????-??-?? ??:??".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Extents, FileBody};

    fn inode(kind: InodeKind, mode: u32) -> Inode {
        Inode {
            kind,
            mode,
            uid: 0,
            gid: 7,
            mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 5 },
            nlink: 1,
            xattrs: Box::default(),
        }
    }

    fn shown(kind: InodeKind, mode: u32, sizes: usize) -> String {
        let inode = inode(kind, mode);
        line(&Listed { path: b"a/b".to_vec(), inode: &inode }, 4, sizes)
    }

    #[test]
    fn lines_look_like_those_of_ls() {
        let body = FileBody { layer: 0, size: 42, extents: Extents::Contiguous { stream_offset: 0 } };
        assert_eq!(shown(InodeKind::File(body), 0o644, 4), "-rw-r--r-- 0/7    42 2023-11-14 22:13 a/b\n");
        let link = InodeKind::Symlink { target: (*b"x").into() };
        assert_eq!(shown(link, 0o777, 1), "lrwxrwxrwx 0/7  1 2023-11-14 22:13 a/b -> x\n");
        let device = InodeKind::CharDevice { major: 1, minor: 3 };
        assert_eq!(shown(device, 0o666, 3), "crw-rw-rw- 0/7  1,3 2023-11-14 22:13 a/b\n");
        assert_eq!(mode_text(&inode(InodeKind::Directory, 0o5750)), "drwsr-x--T");
        assert_eq!(time_text(Timestamp { seconds: i64::MAX, nanoseconds: 0 }), "????-??-?? ??:??");
    }
}
