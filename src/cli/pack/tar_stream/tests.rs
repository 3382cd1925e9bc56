use super::*;
use crate::base::ErrorKind;
use crate::cli::pack::tests::{directory, put};
use crate::layer::tar::{TarEnd, TarItem, TarReader};
use crate::layer::{Entry, EntryKind, Extents};

fn member(path: &[u8], content: Content) -> TarMember {
    let mtime = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };
    TarMember { path: RelPath::parse(path).unwrap(), content, mode: 0o644, uid: 1, gid: 2, mtime }
}

fn file(source: PathBuf) -> Content {
    let found = version(&std::fs::metadata(&source).unwrap());
    Content::File { source, found }
}

fn archive(members: &[TarMember]) -> io::Result<Vec<u8>> {
    let progress = Progress::bytes(0);
    let mut bytes = Vec::new();
    let mut stream = TarStream::new(members, &progress);
    stream.read_to_end(&mut bytes)?;
    assert_eq!(stream.read(&mut [0; 9])?, 0, "the end is the end, as often as one asks");
    Ok(bytes)
}

fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut reader = TarReader::new();
    let mut rest = archive;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let fed = reader.feed(rest).unwrap();
        rest = &rest[fed.taken..];
        match fed.item {
            Some(TarItem::Entry(entry)) => entries.push(entry),
            Some(TarItem::Root(_)) => panic!("an entry for the root"),
            None => {}
        }
    }
    assert_eq!(reader.finish().unwrap(), TarEnd::Marked);
    entries
}

#[test]
fn an_archive_says_all_that_it_was_given() {
    let (_keep, path) = directory();
    put(&path, "content", &vec![7; 700]);
    put(&path, "empty", b"");
    let long = [&b"d/".repeat(200)[..], b"\xff name"].concat();
    let exact = [b'n'; 100];
    let mut members = vec![
        member(b"d", Content::Directory),
        member(&exact, file(path.join("content"))),
        member(&long, file(path.join("empty"))),
        member(b"hard", Content::HardLink { target: RelPath::parse(&exact).unwrap() }),
        member(b"soft", Content::Symlink { target: b"../".repeat(90) }),
    ];
    (members[1].uid, members[1].gid) = (u32::MAX, 0o10_000_000);
    members[1].mtime = Timestamp { seconds: -2, nanoseconds: 250_000_000 };
    members[2].mtime = Timestamp { seconds: 1 << 40, nanoseconds: 1 };
    members[0].mode = 0o1755;
    let bytes = archive(&members).unwrap();
    assert!(bytes.len().is_multiple_of(512));
    let read = entries(&bytes);
    assert_eq!(read.len(), members.len());
    for (entry, member) in read.iter().zip(&members) {
        assert_eq!(entry.path, member.path);
        assert_eq!((entry.mode, entry.uid, entry.gid), (member.mode, member.uid, member.gid));
        assert_eq!(entry.mtime, member.mtime, "{}", entry.path);
    }
    let EntryKind::File { size: 700, extents: Extents::Contiguous { stream_offset } } = read[1].kind else {
        panic!("{:?}", read[1].kind)
    };
    let start = usize::try_from(stream_offset).unwrap();
    assert_eq!(bytes[start..start + 700], [7; 700]);
    assert_eq!(read[3].kind, EntryKind::HardLink { target: exact.as_slice().into() });
    assert_eq!(read[4].kind, EntryKind::Symlink { target: b"../".repeat(90).into() });
}

#[test]
fn a_file_of_more_than_eight_gibibytes_has_its_size_in_an_extended_header() {
    let found = (0, 0, 0o100_000_000_000);
    let headers = headers(&member(b"big", Content::File { source: PathBuf::new(), found })).unwrap();
    let mut reader = TarReader::new();
    let fed = reader.feed(&headers).unwrap();
    let Some(TarItem::Entry(entry)) = fed.item else { panic!() };
    assert!(matches!(entry.kind, EntryKind::File { size: 0o100_000_000_000, .. }), "{:?}", entry.kind);
}

#[test]
fn times_are_decimals_of_one_sign() {
    for (seconds, nanoseconds, text) in [
        (1, 500_000_000, "1.5"),
        (0, 1, "0.000000001"),
        (-1, 750_000_000, "-0.25"),
        (-2, 0, "-2"),
        (100, 0, "100"),
    ] {
        assert_eq!(decimal(Timestamp { seconds, nanoseconds }), text);
    }
}

#[test]
fn a_file_that_changed_since_it_was_found_is_an_error() {
    let (_keep, path) = directory();
    for (before, after) in [(&b"123"[..], &b"12345"[..]), (b"123", b"1"), (b"123", b"")] {
        put(&path, "a", before);
        let members = [member(b"a", file(path.join("a")))];
        put(&path, "a", after);
        let error = crate::base::Error::from(archive(&members).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("changed while it was packed"), "{error}");
    }
}

#[test]
fn a_file_that_is_cut_short_while_it_is_read_is_an_error() {
    let (_keep, path) = directory();
    put(&path, "a", &vec![1; 100_000]);
    let members = [member(b"a", file(path.join("a")))];
    let progress = Progress::bytes(0);
    let mut stream = TarStream::new(&members, &progress);
    stream.read_exact(&mut [0; 1024]).unwrap();
    put(&path, "a", &[1; 2000]);
    let error = io::copy(&mut stream, &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("changed while it was packed"), "{error}");
}
