use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::base::{Algorithm, Result};
use crate::content::{DirectFile, Standing};
use crate::layer::{Entry, EntryKind, LayerIndex, Timestamp};
use crate::tree::{LayerRole, Tree, TreeLayer, View};

mod growing;

/// Content in memory that refuses every range that does not lie within its file.
#[derive(Debug)]
struct Memory {
    files: Vec<(Digest, Vec<u8>)>,
    /// Layers whose bytes are not in the cache.
    cold: Vec<usize>,
    /// Bytes that every read leaves out at the end.
    missing: usize,
    failing: bool,
    stuck: bool,
    opened: AtomicUsize,
}

impl Memory {
    fn bytes(&self, layer: usize, range: Range<u64>) -> Result<Vec<u8>> {
        assert!(!range.is_empty(), "an empty range needs no content");
        if self.failing {
            return Err(Error::new(ErrorKind::Unavailable, "the registry is gone"));
        }
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = self.files[layer].1.get(range).expect("a range within the file").to_vec();
        bytes.truncate(bytes.len() - self.missing);
        Ok(bytes)
    }
}

#[async_trait]
impl FileContent for Memory {
    fn read_cached(&self, file: &FileBody, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<bool> {
        let layer = file.layer;
        if self.cold.contains(&layer) {
            return Ok(false);
        }
        buffer.clear();
        buffer.extend(self.bytes(layer, range)?);
        Ok(true)
    }

    async fn read(self: Arc<Self>, file: &FileBody, range: Range<u64>) -> Result<Bytes> {
        let layer = file.layer;
        if self.stuck {
            std::future::pending::<()>().await;
        }
        self.bytes(layer, range).map(Bytes::from)
    }

    fn opened(self: Arc<Self>, _file: &FileBody) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    fn direct(&self, _file: &FileBody) -> Option<DirectFile> {
        None
    }

    fn digest(&self, layer: usize) -> &Digest {
        &self.files[layer].0
    }

    fn cached_bytes(&self, file: &FileBody) -> u64 {
        let layer = file.layer;
        if self.cold.contains(&layer) { 0 } else { self.files[layer].1.len() as u64 }
    }

    fn standing(&self, file: &FileBody) -> Standing {
        let layer = file.layer;
        if self.cold.contains(&layer) { Standing::Absent } else { Standing::Proven }
    }

    fn on_rejected(&self, _callback: Box<dyn Fn(usize) + Send + Sync>) {}
}

const MANIFEST: &[u8] = b"manifest";

fn memory(cold: &[usize]) -> Memory {
    let files = [b"hello world".to_vec(), vec![7; 5000], Vec::new()]
        .map(|bytes| (Digest::of(Algorithm::Sha256, &bytes), bytes));
    Memory {
        files: files.into(),
        cold: cold.to_vec(),
        missing: 0,
        failing: false,
        stuck: false,
        opened: AtomicUsize::new(0),
    }
}

fn layer(digest: &Digest, entry: Entry) -> TreeLayer {
    let index = LayerIndex::of_raw_file(digest, 1 << 20, entry).unwrap();
    TreeLayer { index: Arc::new(index), directory: None, role: LayerRole::File }
}

fn filesystem(content: Memory, subpath: Option<&str>) -> (Filesystem, Arc<Memory>) {
    let mtime = Timestamp { seconds: 12, nanoseconds: 34 };
    let entry = |path: &str, kind| Entry {
        path: path.parse().unwrap(),
        kind,
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime,
        xattrs: Box::default(),
    };
    let mut layers: Vec<TreeLayer> = ["dir/hello", "dir/sevens", "empty"]
        .iter()
        .zip(&content.files)
        .map(|(path, (digest, bytes))| {
            let size = bytes.len() as u64;
            layer(digest, entry(path, EntryKind::whole_stream(size)))
        })
        .collect();
    let link = entry("link", EntryKind::Symlink { target: b"dir/hello".as_slice().into() });
    layers.push(layer(&Digest::of(Algorithm::Sha256, b"link"), link));
    let tree = Arc::new(Tree::build(&layers).unwrap());
    let view = View::new(tree, subpath, "host/model").unwrap();
    let identity = Identity {
        reference: "host/model:v1".into(),
        digest: Digest::of(Algorithm::Sha256, MANIFEST),
        owner: Some("/run/owner.sock".into()),
    };
    let content = Arc::new(content);
    let shared: Arc<dyn FileContent> = Arc::<Memory>::clone(&content);
    (Filesystem::new(view, shared, identity), content)
}

fn find(fs: &Filesystem, path: &str) -> Ino {
    path.split('/').fold(Ino::ROOT, |ino, name| fs.lookup(ino, OsStr::new(name)).unwrap().ino)
}

fn errno<T: std::fmt::Debug>(result: FsResult<T>) -> rustix::io::Errno {
    result.unwrap_err().errno()
}

async fn read(fs: &Filesystem, ino: Ino, offset: u64, length: u32) -> FsResult<Vec<u8>> {
    let mut buffer = b"left over".to_vec();
    match fs.read_cached(ino, offset, length, &mut buffer)? {
        true => Ok(buffer),
        false => fs.read(ino, offset, length, None).await.map(Vec::from),
    }
}

#[tokio::test]
async fn reads_are_clamped_to_the_file_and_never_short_before_its_end() {
    for cold in [&[][..], &[0, 1, 2]] {
        let (fs, _) = filesystem(memory(cold), None);
        let hello = find(&fs, "dir/hello");
        assert_eq!(read(&fs, hello, 0, 5).await.unwrap(), b"hello");
        assert_eq!(read(&fs, hello, 6, 4096).await.unwrap(), b"world");
        for offset in [11, 12, u64::MAX] {
            assert_eq!(read(&fs, hello, offset, 4096).await.unwrap(), b"");
        }
        assert_eq!(read(&fs, find(&fs, "empty"), 0, 1).await.unwrap(), b"");
    }
}

#[tokio::test]
async fn content_that_falls_short_is_an_error_not_an_end_of_file() {
    for cold in [&[][..], &[0, 1, 2]] {
        let (fs, _) = filesystem(Memory { missing: 1, ..memory(cold) }, None);
        assert_eq!(errno(read(&fs, find(&fs, "dir/hello"), 0, 5).await), rustix::io::Errno::IO);
        let (fs, _) = filesystem(Memory { failing: true, ..memory(cold) }, None);
        assert_eq!(errno(read(&fs, find(&fs, "dir/hello"), 0, 5).await), rustix::io::Errno::IO);
    }
}

#[tokio::test]
async fn a_read_that_gets_nothing_ends_before_the_kernel_loses_patience() {
    let (fs, _) = filesystem(Memory { stuck: true, ..memory(&[0]) }, None);
    let error = fs.read(find(&fs, "dir/hello"), 0, 5, Some(Duration::from_millis(5))).await.unwrap_err();
    assert_eq!(error.errno(), rustix::io::Errno::IO);
    assert!(matches!(error, FsError::Content(error) if error.kind() == ErrorKind::TimedOut));
}

#[tokio::test]
async fn only_files_are_read_and_opened() {
    let (fs, content) = filesystem(memory(&[]), None);
    assert_eq!(errno(read(&fs, Ino::ROOT, 0, 1).await), rustix::io::Errno::ISDIR);
    assert_eq!(errno(read(&fs, find(&fs, "link"), 0, 1).await), rustix::io::Errno::INVAL);
    assert_eq!(errno(read(&fs, Ino(99), 0, 1).await), rustix::io::Errno::NOENT);
    assert_eq!(errno(fs.opened(Ino::ROOT)), rustix::io::Errno::ISDIR);
    assert_eq!(content.opened.load(Ordering::Relaxed), 0);
    assert_eq!(fs.opened(find(&fs, "dir/sevens")).unwrap().layer, 1);
    assert_eq!(content.opened.load(Ordering::Relaxed), 1);
}

#[test]
fn attributes_are_those_of_the_tree() {
    let (fs, _) = filesystem(memory(&[]), None);
    let sevens = fs.attributes(find(&fs, "dir/sevens")).unwrap();
    assert_eq!((sevens.kind, sevens.size, sevens.blocks), (FileKind::File, 5000, 10));
    assert_eq!((sevens.mode, sevens.uid, sevens.gid, sevens.nlink), (0o644, 1, 2, 1));
    assert_eq!(sevens.mtime, Timestamp { seconds: 12, nanoseconds: 34 });
    let link = fs.attributes(find(&fs, "link")).unwrap();
    assert_eq!((link.kind, link.size), (FileKind::Symlink, 9));
    assert_eq!(*fs.read_link(link.ino).unwrap(), *b"dir/hello");
    assert_eq!(errno(fs.read_link(sevens.ino)), rustix::io::Errno::INVAL);
    assert_eq!(errno(fs.lookup(Ino::ROOT, OsStr::new("none"))), rustix::io::Errno::NOENT);
    assert_eq!(errno(fs.lookup(sevens.ino, OsStr::new("x"))), rustix::io::Errno::NOTDIR);
    assert_eq!(fs.statistics(), Statistics { block_bytes: 4096, blocks: 2, files: 3 });
}

#[test]
fn a_listing_goes_on_wherever_it_was_left() {
    let (fs, _) = filesystem(memory(&[]), None);
    let mut all = Vec::new();
    fs.read_directory(Ino::ROOT, 0, |entry| {
        all.push((entry.name.to_owned(), entry.attributes.ino, entry.next_offset));
        true
    })
    .unwrap();
    let names: Vec<_> = all.iter().map(|(name, _, _)| name.to_str().unwrap()).collect();
    assert_eq!(names, [".", "..", "dir", "empty", "link"]);
    // One entry at a time, from each entry's own offset.
    let mut offset = 0;
    for expected in &all {
        let mut seen = Vec::new();
        fs.read_directory(Ino::ROOT, offset, |entry| {
            seen.push((entry.name.to_owned(), entry.attributes.ino, entry.next_offset));
            false
        })
        .unwrap();
        assert_eq!(seen.first(), Some(expected));
        assert_eq!(seen.len(), 1);
        offset = expected.2;
    }
    for offset in [offset, u64::MAX] {
        fs.read_directory(Ino::ROOT, offset, |entry| panic!("{entry:?} after the end")).unwrap();
    }
    let mut parents = Vec::new();
    fs.read_directory(find(&fs, "dir"), 1, |entry| {
        parents.push(entry.attributes.ino);
        false
    })
    .unwrap();
    assert_eq!(parents, [Ino::ROOT]);
    assert_eq!(errno(fs.read_directory(find(&fs, "link"), 0, |_| true)), rustix::io::Errno::NOTDIR);
}

#[test]
fn xattrs_say_what_is_mounted_and_how_far_bytes_are_trusted() {
    let (fs, content) = filesystem(memory(&[1]), None);
    let value = |ino, name: &str| String::from_utf8(fs.xattr(ino, OsStr::new(name)).unwrap()).unwrap();
    assert_eq!(value(Ino::ROOT, "user.refmount.reference"), "host/model:v1");
    assert_eq!(value(Ino::ROOT, "user.refmount.digest"), Digest::of(Algorithm::Sha256, MANIFEST).as_str());
    assert_eq!(value(Ino::ROOT, "user.refmount.owner"), "/run/owner.sock");
    let (hello, sevens) = (find(&fs, "dir/hello"), find(&fs, "dir/sevens"));
    assert_eq!(value(hello, "user.refmount.digest"), content.files[0].0.as_str());
    assert_eq!(value(hello, "user.refmount.cached_bytes"), "11");
    assert_eq!(value(hello, "user.refmount.standing"), "proven");
    assert_eq!(value(sevens, "user.refmount.standing"), "absent");
    let names = String::from_utf8(fs.xattr_names(hello).unwrap()).unwrap();
    assert_eq!(names, "user.refmount.digest\0user.refmount.cached_bytes\0user.refmount.standing\0");
    assert_eq!(fs.xattr_names(find(&fs, "dir")).unwrap(), b"");
    for (ino, name) in
        [(Ino::ROOT, "user.refmount.standing"), (hello, "user.refmount.reference"), (hello, "user.x")]
    {
        assert_eq!(errno(fs.xattr(ino, OsStr::new(name))), rustix::io::Errno::NODATA);
    }
}

#[test]
fn a_root_that_is_a_file_has_the_attributes_of_both() {
    let (fs, content) = filesystem(memory(&[]), Some("dir/hello"));
    let value = |name: &str| String::from_utf8(fs.xattr(Ino::ROOT, OsStr::new(name)).unwrap()).unwrap();
    assert_eq!(value("user.refmount.digest"), Digest::of(Algorithm::Sha256, MANIFEST).as_str());
    assert_eq!(value("user.refmount.layer_digest"), content.files[0].0.as_str());
    assert_eq!(value("user.refmount.cached_bytes"), "11");
    assert_eq!(fs.attributes(Ino::ROOT).unwrap().kind, FileKind::File);
    assert_eq!(fs.inodes_of(0), [Ino::ROOT]);
    assert_eq!(fs.inodes_of(1), []);
}
