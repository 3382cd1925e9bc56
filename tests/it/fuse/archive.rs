//! What archives and images hold besides files and links: devices, pipes, several names of one inode, holes and
//! extended attributes.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use refmount::base::{Algorithm, Digest};
use refmount::layer::{
    Entry, EntryKind, Extent, Extents, IndexParts, LayerIndex, LayerStream, RootAttributes, Timestamp, Xattr,
};
use refmount::tree::{LayerRole, Tree, TreeLayer, View};
use rustix::io::Errno;

use super::fixture::{Fixture, REFERENCE, random_bytes, run};

pub(super) fn entry(path: &str, kind: EntryKind) -> Entry {
    let mtime = Timestamp { seconds: 1_600_000_000, nanoseconds: 5 };
    Entry { path: path.parse().unwrap(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Box::default() }
}

pub(super) fn file(path: &str, stream_offset: u64, size: u64) -> Entry {
    entry(path, EntryKind::File { size, extents: Extents::Contiguous { stream_offset } })
}

pub(super) fn hard(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink { target: target.as_bytes().into() })
}

pub(super) fn layer(entries: Vec<Entry>, root: Option<RootAttributes>, role: LayerRole) -> TreeLayer {
    let entries = entries.into_iter().map(sorted).collect();
    let parts = IndexParts {
        layer: Digest::of(Algorithm::Sha256, b"layer"),
        blob_bytes: 1 << 20,
        stream_bytes: 1 << 20,
        diff_id: None,
        stream: LayerStream::Plain,
        root,
        entries,
        members: Vec::new(),
        warnings: Vec::new(),
        carried: None,
        trusted: true,
    };
    TreeLayer { index: Arc::new(LayerIndex::new(parts).unwrap()), directory: None, role }
}

/// As the readers give them: attributes by name.
fn sorted(mut entry: Entry) -> Entry {
    entry.xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    entry
}

fn mounted(entries: Vec<Entry>, root: Option<RootAttributes>, stream: Vec<u8>) -> Fixture {
    let tree = Arc::new(Tree::build(&[layer(entries, root, LayerRole::Rootfs)]).unwrap());
    Fixture::of(View::new(tree, None, REFERENCE).unwrap(), stream)
}

fn xattr(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

#[test]
fn devices_pipes_and_names_of_one_inode() {
    let stream = random_bytes(3, 100_000);
    let link = EntryKind::Symlink { target: b"d/f".as_slice().into() };
    let entries = vec![
        entry("null", EntryKind::CharDevice { major: 1, minor: 3 }),
        entry("disk", EntryKind::BlockDevice { major: 259, minor: 70_000 }),
        entry("pipe", EntryKind::Fifo),
        file("d/f", 1000, 5000),
        hard("a", "d/f"),
        hard("d/g", "/a"),
        entry("link", link),
        hard("link2", "link"),
    ];
    let fixture = mounted(entries, None, stream.clone());
    let stat = |name: &str| fs::symlink_metadata(fixture.target.join(name)).unwrap();
    assert!(stat("null").file_type().is_char_device() && stat("null").mode() & 0o7777 == 0o644);
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert!(stat("disk").file_type().is_block_device());
    assert_eq!(stat("disk").rdev(), rustix::fs::makedev(259, 70_000));
    assert!(stat("pipe").file_type().is_fifo() && stat("pipe").rdev() == 0);
    let refused = File::open(fixture.target.join("null")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
    for name in ["a", "d/f", "d/g"] {
        assert_eq!((stat(name).ino(), stat(name).nlink()), (stat("a").ino(), 3), "{name}");
        assert!(fs::read(fixture.target.join(name)).unwrap() == stream[1000..6000], "{name}");
    }
    assert_eq!((stat("link2").ino(), stat("link").nlink()), (stat("link").ino(), 2));
    assert_eq!(fs::read_link(fixture.target.join("link2")).unwrap(), Path::new("d/f"));
    // What the listing says, name by name, is what stat says.
    let listed = run(Command::new("find").arg(&fixture.target).args(["-printf", "%i %n %p\\n"]));
    assert_eq!(listed.lines().count(), 10);
    for line in listed.lines() {
        let (ino, rest) = line.split_once(' ').unwrap();
        let (nlink, path) = rest.split_once(' ').unwrap();
        let stat = fs::symlink_metadata(path).unwrap();
        assert_eq!((stat.ino().to_string(), stat.nlink().to_string()), (ino.to_owned(), nlink.to_owned()));
    }
    assert_eq!(rustix::fs::statvfs(&fixture.target).unwrap().f_files, 1);
}

#[test]
fn holes_are_zeros_and_take_no_blocks() {
    let stream = random_bytes(4, 10_000);
    let extents = [
        Extent { file_offset: 4096, stream_offset: 0, length: 4096 },
        Extent { file_offset: 500_000, stream_offset: 8192, length: 100 },
    ];
    let size = 1 << 20;
    let sparse = entry("sparse", EntryKind::File { size, extents: Extents::Sparse(extents.into()) });
    let fixture = mounted(vec![sparse], None, stream.clone());
    let mut expected = vec![0; 1 << 20];
    expected[4096..8192].copy_from_slice(&stream[..4096]);
    expected[500_000..500_100].copy_from_slice(&stream[8192..8292]);
    let path = fixture.target.join("sparse");
    assert!(fs::read(&path).unwrap() == expected);
    let stat = fs::metadata(&path).unwrap();
    assert_eq!((stat.len(), stat.blocks()), (size, 4196_u64.div_ceil(512)));
}

#[test]
fn extended_attributes_of_the_layer_and_ours() {
    let capability = [1_u32.to_le(), 0x0200_0001, 0x2000, 0, 0, 0];
    let capability: Vec<u8> = capability[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, 77), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let xattr_of = |name: &str, value: &[u8]| Xattr { name: name.as_bytes().into(), value: value.into() };
    let given = [
        xattr_of("user.note", b"text"),
        xattr_of("user.empty", b""),
        xattr_of("security.capability", &capability),
        xattr_of("trusted.overlay.opaque", b"y"),
        xattr_of("system.posix_acl_access", &acl),
        xattr_of("user.refmount.digest", b"not ours"),
    ];
    let root = RootAttributes {
        mode: 0o711,
        uid: 12,
        gid: 34,
        mtime: Timestamp { seconds: 99, nanoseconds: 0 },
        xattrs: Box::new([xattr_of("user.root", b"r")]),
    };
    let with = |entry: Entry| Entry { xattrs: Box::new(given.clone()), ..entry };
    let entries = vec![with(file("f", 0, 10)), with(entry("d", EntryKind::Directory))];
    let fixture = mounted(entries, Some(root), random_bytes(5, 100));
    for name in ["f", "d"] {
        let path = fixture.target.join(name);
        assert_eq!(xattr(&path, "user.note").unwrap(), b"text");
        assert_eq!(xattr(&path, "user.empty").unwrap(), b"");
        assert_eq!(xattr(&path, "security.capability").unwrap(), capability);
        assert_eq!(xattr(&path, "trusted.overlay.opaque").unwrap(), b"y");
        assert_eq!(xattr(&path, "system.posix_acl_access").unwrap(), acl);
        assert_eq!(xattr(&path, "user.none"), Err(Errno::NODATA));
    }
    let digest = xattr(&fixture.target.join("f"), "user.refmount.digest").unwrap();
    assert_eq!(digest, fixture.content.layers[0].digest.as_str().as_bytes());
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(fixture.target.join("f"), &mut names[..]).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let names: Vec<_> = names.split_terminator('\0').collect();
    assert!(names.contains(&"user.note") && names.contains(&"user.empty"));
    assert_eq!(names.iter().filter(|name| **name == "user.refmount.digest").count(), 1);
    assert_eq!(
        names[names.len() - 3..],
        ["user.refmount.digest", "user.refmount.cached_bytes", "user.refmount.standing"]
    );
    assert!(names.contains(&"security.capability") && names.contains(&"trusted.overlay.opaque"));
    let root = fs::metadata(&fixture.target).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid(), root.mtime()), (0o711, 12, 34, 99));
    assert_eq!(xattr(&fixture.target, "user.root").unwrap(), b"r");
}
