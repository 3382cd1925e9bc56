//! Archives made to harm: what is refused says which entry, and where.

use refmount::base::ErrorKind;
use refmount::base::limits::{
    ARCHIVE_EXTENSION_BYTES_MAX, SPARSE_EXTENTS_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use refmount::layer::tar::{TarEnd, TarItem, TarReader};
use refmount::layer::{EntryKind, Extent, Extents};

use super::archive::{
    Block, LINK, MAGIC, MAJOR, MODE, MTIME, NAME, PREFIX, SIZE, SPARSE, TYPE, UID, archive, entry, file, pax,
};
use super::{content, read};
use crate::support::seeds::keep;

/// Fails unless every archive is refused, naming entry and offset; gives the messages.
fn refused(archives: &[(&str, Vec<u8>)]) -> Vec<String> {
    let refusal = |(label, bytes): &(&str, Vec<u8>)| {
        keep("tar", &format!("refused-{label}"), bytes);
        let error = read(bytes, 4096).expect_err(label);
        let chain = error.chain();
        assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{label}: {chain}");
        assert!(chain.contains("stream offset"), "{label}: {chain}");
        // In any pieces.
        assert_eq!(read(bytes, 7).expect_err(label).chain(), chain, "{label}");
        chain
    };
    archives.iter().map(refusal).collect()
}

fn only(bytes: &[u8]) -> TarItem {
    keep("tar", "one", bytes);
    let (mut items, _) = read(bytes, 512).unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(items.len(), 1, "{items:?}");
    items.remove(0)
}

fn only_kind(bytes: &[u8]) -> EntryKind {
    match only(bytes) {
        TarItem::Entry(entry) => entry.kind,
        TarItem::Root(root) => panic!("{root:?}"),
    }
}

#[test]
fn names_that_lead_out_are_served() {
    let long = "n".repeat(256);
    let names = ["/etc/passwd", "..", "a/../../b", "a/..", "../x", "/", "", &long];
    for name in names {
        let by_pax = [pax(b'x', &[("path", name)]), file("x", b"")];
        let by_gnu = [entry(Block::new("L", b'L', name.len() as u64).gnu(), name.as_bytes()), file("x", b"")];
        refused(&[("pax", archive(&by_pax)), ("gnu", archive(&by_gnu))]);
        if name.len() <= 100 {
            refused(&[("header", archive(&[file(name, b"")]))]);
        }
    }
    let endless = entry(Block::new("L", b'L', 3).gnu(), b"abcd");
    let nul = entry(Block::new("L", b'L', 3).gnu(), b"a\0b");
    let prefix = Block::new("passwd", b'0', 0).put(PREFIX, b"/etc");
    let deep = "d/".repeat(2049);
    let messages = refused(&[
        ("NUL", archive(&[nul, file("x", b"")])),
        ("name beyond its end", archive(&[endless, file("x", b"")])),
        ("prefix", archive(&[entry(prefix, b"")])),
        ("deep", archive(&[file("first", b"1"), pax(b'x', &[("path", &deep)]), file("x", b"")])),
        ("root that is a file", archive(&[file(".", b"1")])),
        ("file that ends like a directory", archive(&[file("a/", b"1")])),
        (
            "link that ends like a directory",
            archive(&[entry(Block::new("a/", b'2', 0).put(LINK, b"x"), b"")]),
        ),
    ]);
    assert!(messages[2].starts_with("tar entry \"/etc/passwd\" at stream offset 0: "), "{messages:?}");
    assert!(messages[3].contains("at stream offset 6144: "), "{messages:?}");
}

#[test]
fn sizes_and_offsets_that_overflow_wrap_around() {
    let with = |at: usize, field: &[u8]| archive(&[entry(Block::new("a", b'0', 0).put(at, field), b"")]);
    let wide = |first: u8, rest: [u8; 11]| [[first].as_slice(), &rest].concat();
    let huge = |size: u64| {
        let field = [[0x80, 0, 0, 0].as_slice(), &size.to_be_bytes()].concat();
        with(SIZE, &field)
    };
    refused(&[
        (
            "size beyond 64 bits, 0 in the low ones",
            with(SIZE, &wide(0x80, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        ),
        ("negative size", with(SIZE, &wide(0xff, [0xff; 11]))),
        ("size 2^63", huge(1 << 63)),
        ("size 2^63 - 1", huge((1 << 63) - 1)),
        ("size 2^64 - 1", huge(u64::MAX)),
        ("size 2^62", huge(1 << 62)),
        ("another high byte", with(SIZE, &wide(0xc0, [0; 11]))),
        ("signed octal", with(SIZE, b"+0000000001\0")),
        ("no octal", with(SIZE, b"0000000009\0\0")),
        ("hexadecimal", with(SIZE, b"0x00000001\0\0")),
        ("no size", with(SIZE, &[0; 12])),
        ("negative owner", with(UID, &[0xff; 8])),
        ("owner beyond 32 bits", with(UID, &[0x80, 0, 0, 1, 0, 0, 0, 0])),
        ("negative mode", with(MODE, &[0xff; 8])),
        ("time beyond 64 bits", with(MTIME, &wide(0x80, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]))),
        ("size in PAX", archive(&[pax(b'x', &[("size", "9223372036854775807")]), file("a", b"")])),
        ("negative size in PAX", archive(&[pax(b'x', &[("size", "-1")]), file("a", b"")])),
        (
            "malformed size beside one in PAX",
            archive(&[pax(b'x', &[("size", "0")]), entry(Block::new("a", b'0', 0).put(SIZE, b"8"), b"")]),
        ),
        ("owner in PAX", archive(&[pax(b'x', &[("uid", "4294967296")]), file("a", b"")])),
        ("huge extension", archive(&[entry(Block::new("p", b'x', 1 << 33), b"")])),
        ("huge long name", archive(&[entry(Block::new("p", b'L', ARCHIVE_EXTENSION_BYTES_MAX + 1), b"")])),
    ]);
}

#[test]
fn a_size_in_pax_is_passed_over_so_that_content_is_read_as_headers() {
    // The body holds an archive; who believes the header's size of 0 reads its entries.
    let inner = archive(&[file("smuggled", b"x")]);
    let size = inner.len().to_string();
    let outer = [pax(b'x', &[("size", &size)]), entry(Block::new("a", b'0', 0), &inner), file("b", b"2")];
    let bytes = archive(&outer);
    keep("tar", "size-in-pax", &bytes);
    let (items, end) = read(&bytes, 1000).unwrap();
    assert_eq!((items.len(), end), (2, TarEnd::Marked));
    let TarItem::Entry(first) = &items[0] else { panic!("{items:?}") };
    let EntryKind::File { size, extents } = &first.kind else { panic!("{first:?}") };
    assert_eq!(content(&bytes, *size, extents), inner);
}

#[test]
fn extended_headers_in_each_others_place_are_applied_to_the_wrong_entry() {
    let x = || pax(b'x', &[("path", "renamed")]);
    let l = || entry(Block::new("L", b'L', 3).gnu(), b"abc");
    let k = || entry(Block::new("K", b'K', 3).gnu(), b"abc");
    let link = || entry(Block::new("a", b'2', 0), b"");
    refused(&[
        ("two PAX headers", archive(&[x(), x(), file("a", b"")])),
        ("global between", archive(&[x(), pax(b'g', &[("comment", "c")]), file("a", b"")])),
        ("two long names", archive(&[l(), l(), file("a", b"")])),
        ("two long links", archive(&[k(), k(), link()])),
        ("two names", archive(&[l(), x(), file("a", b"")])),
        ("two targets", archive(&[k(), pax(b'x', &[("linkpath", "t")]), link()])),
        ("no entry after it", archive(&[x()])),
        ("no entry after it, no end", x()),
        ("global path", archive(&[pax(b'g', &[("path", "p")]), file("a", b"")])),
        ("global size", archive(&[pax(b'g', &[("size", "1")]), file("a", b"")])),
        ("global sparse", archive(&[pax(b'g', &[("GNU.sparse.major", "1")]), file("a", b"")])),
        ("global attribute", archive(&[pax(b'g', &[("SCHILY.xattr.user.a", "1")]), file("a", b"")])),
        ("empty path", archive(&[pax(b'x', &[("path", "")]), file("a", b"")])),
        ("several volumes", archive(&[pax(b'g', &[("GNU.volume.filename", "a")]), file("a", b"")])),
    ]);
    // A long name and a PAX header for other things go together.
    let both = archive(&[pax(b'x', &[("mtime", "-0.5")]), l(), file("a", b"")]);
    let TarItem::Entry(entry) = only(&both) else { panic!() };
    assert_eq!(
        (entry.path.to_string().as_str(), entry.mtime.seconds, entry.mtime.nanoseconds),
        ("abc", -1, 500_000_000)
    );
}

#[test]
fn entries_without_content_hide_some() {
    let sized = |kind: u8| archive(&[entry(Block::new("a", kind, 512).put(LINK, b"t"), &[1; 512])]);
    refused(&[
        ("directory", sized(b'5')),
        ("symlink", sized(b'2')),
        ("device", sized(b'3')),
        ("pipe", sized(b'6')),
        (
            "hard link by PAX",
            archive(&[
                pax(b'x', &[("size", "512")]),
                entry(Block::new("a", b'1', 0).put(LINK, b"t"), &[1; 512]),
            ]),
        ),
        (
            "directory with a map",
            archive(&[
                pax(b'x', &[("GNU.sparse.size", "9"), ("GNU.sparse.numblocks", "0"), ("GNU.sparse.map", "")]),
                entry(Block::new("a", b'5', 0), b""),
            ]),
        ),
        ("symlink to nothing", archive(&[entry(Block::new("a", b'2', 0), b"")])),
        ("hard link to nothing", archive(&[entry(Block::new("a", b'1', 0), b"")])),
        ("device of the oldest kind", archive(&[entry(Block::new("a", b'3', 0).put(MAGIC, &[0; 8]), b"")])),
    ]);
    // The size of a hard link is that of the file.
    let link = archive(&[entry(Block::new("a", b'1', 512).put(LINK, b"../t"), b"")]);
    assert_eq!(only_kind(&link), EntryKind::HardLink { target: b"../t".as_slice().into() });
    let device =
        archive(&[entry(Block::new("a", b'3', 0).put(MAJOR, b"0000010").put(MAJOR + 8, b"0000377"), b"")]);
    assert_eq!(only_kind(&device), EntryKind::CharDevice { major: 8, minor: 255 });
}

#[test]
fn entries_of_unknown_types_are_taken_for_files() {
    for kind in [b'V', b'M', b'D', b'N', b'A', b'X', b'8', b'Z', 0xff] {
        let messages = refused(&[("type", archive(&[entry(Block::new("a", kind, 0), b"")]))]);
        assert!(messages[0].contains("entries of type"), "{messages:?}");
    }
    refused(&[("sparse, POSIX", archive(&[entry(Block::new("a", b'S', 0), b"")]))]);
}

/// An old GNU sparse file of `size` bytes with these pieces in its header.
fn old_sparse(pieces: &[(u64, u64)], size: u64, stored: u64) -> Block {
    let mut block = Block::new("s", b'S', stored).gnu().put(483, format!("{size:011o}").as_bytes());
    for (index, (offset, length)) in pieces.iter().enumerate() {
        let text = format!("{offset:011o}\0{length:011o}\0");
        block = block.put(SPARSE + 24 * index, text.as_bytes());
    }
    block
}

#[test]
fn a_sparse_map_that_does_not_fit_gives_wrong_bytes() {
    let old = |pieces: &[(u64, u64)], size, stored: usize| {
        archive(&[entry(old_sparse(pieces, size, stored as u64), &vec![7; stored])])
    };
    let one = |map: &str, size: &str, stored: usize| {
        let records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", size)];
        let mut body = map.as_bytes().to_vec();
        body.resize(body.len().next_multiple_of(512) + stored, 0);
        archive(&[pax(b'x', &records), file("s", &body)])
    };
    let many = format!("{}\n{}", SPARSE_EXTENTS_MAX + 1, "0\n0\n".repeat(SPARSE_EXTENTS_MAX + 1));
    refused(&[
        ("overlap", old(&[(0, 512), (5, 10)], 1000, 522)),
        ("half a block in the middle", old(&[(0, 10), (20, 10)], 100, 20)),
        ("backwards", old(&[(600, 512), (0, 10)], 2000, 522)),
        ("beyond the file", old(&[(95, 10)], 100, 10)),
        ("less than is stored", old(&[(0, 10)], 100, 20)),
        ("more than is stored", old(&[(0, 10)], 100, 5)),
        ("no end", old(&[(u64::MAX >> 31, u64::MAX >> 31)], 100, 5)),
        (
            "gap in the map",
            archive(&[entry(
                old_sparse(&[(0, 1)], 9, 1).put(SPARSE + 48, b"00000000001\x0000000000001"),
                b"1",
            )]),
        ),
        ("half a piece", archive(&[entry(old_sparse(&[], 9, 0).put(SPARSE, b"00000000001"), b"")])),
        ("continued after its end", archive(&[entry(old_sparse(&[(0, 1)], 9, 1).put(482, &[1]), &[0; 600])])),
        ("continued by what", archive(&[entry(old_sparse(&[(0, 1)], 9, 1).put(482, &[9]), b"1")])),
        (
            "PAX size beside it",
            archive(&[pax(b'x', &[("size", "1")]), entry(old_sparse(&[(0, 1)], 9, 1), b"1")]),
        ),
        ("1.0: no number", one("x\n", "9", 0)),
        ("1.0: no line", one(&"1".repeat(600), "9", 0)),
        ("1.0: sign", one("+1\n0\n1\n", "9", 1)),
        ("1.0: map longer than the body", one("9\n", "9", 0)),
        ("1.0: more pieces than anyone has", one(&many, "9", 0)),
        ("1.0: less than is stored", one("1\n0\n1\n", "9", 2)),
        ("1.0: endless file", one("1\n0\n1\n", "18446744073709551615", 1)),
        (
            "1.1",
            archive(&[
                pax(
                    b'x',
                    &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "1"), ("GNU.sparse.realsize", "1")],
                ),
                file("s", b""),
            ]),
        ),
        ("another's sparse file", archive(&[pax(b'x', &[("SCHILY.realsize", "9")]), file("s", b"")])),
    ]);
    let good = old(&[(512, 512), (1024, 3), (2048, 0)], 2048, 515);
    let extent = Extent { file_offset: 512, stream_offset: 512, length: 515 };
    assert_eq!(only_kind(&good), EntryKind::File { size: 2048, extents: Extents::Sparse([extent].into()) });
    // The PAX size covers map and content; the header may not be able to say it.
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "1000"),
        ("GNU.sparse.name", "s"),
        ("size", "517"),
        ("path", "GNUSparseFile.1/s"),
    ];
    let mut body = b"1\n995\n5\n".to_vec();
    body.resize(512, 0);
    body.extend_from_slice(b"12345");
    let bytes = archive(&[pax(b'x', &records), entry(Block::new("x", b'0', 0), &body), file("after", b"1")]);
    keep("tar", "sparse-in-pax", &bytes);
    let (items, _) = read(&bytes, 512).unwrap();
    let TarItem::Entry(first) = &items[0] else { panic!("{items:?}") };
    let EntryKind::File { size, extents } = &first.kind else { panic!("{first:?}") };
    assert_eq!((first.path.to_string().as_str(), *size), ("s", 1000));
    assert_eq!(content(&bytes, *size, extents)[995..], *b"12345");
    assert_eq!(items.len(), 2);
}

#[test]
fn attributes_beyond_the_kernels_limits_are_kept() {
    let with = |name: &str, value: &str| {
        archive(&[pax(b'x', &[(&format!("SCHILY.xattr.{name}"), value)]), file("a", b"")])
    };
    let names: Vec<String> = (0..400).map(|index| format!("SCHILY.xattr.user.{index:0>200}")).collect();
    let list: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let messages = refused(&[
        ("name", with(&"n".repeat(XATTR_NAME_BYTES_MAX + 1), "")),
        ("value", with("user.a", &"v".repeat(XATTR_VALUE_BYTES_MAX + 1))),
        ("list", archive(&[pax(b'x', &list), file("a", b"")])),
        ("no name", with("", "v")),
        ("NUL", with("user.\0", "v")),
    ]);
    for (message, limit) in
        messages.iter().zip(["XATTR_NAME_BYTES_MAX", "XATTR_VALUE_BYTES_MAX", "XATTR_LIST_BYTES_MAX"])
    {
        assert!(message.contains(limit), "{message}");
    }
}

#[test]
fn an_archive_that_ends_wrongly_is_complete() {
    let whole = archive(&[file("a", b"1"), pax(b'x', &[("path", "b")]), file("x", &[2; 600])]);
    let ends = |bytes: &[u8]| read(bytes, 100).map(|(items, end)| (items.len(), end));
    assert_eq!(ends(&whole).unwrap(), (2, TarEnd::Marked));
    assert_eq!(ends(&[0; 1024]).unwrap(), (0, TarEnd::Marked));
    assert_eq!(ends(&[0; 10240]).unwrap(), (0, TarEnd::Marked));
    assert_eq!(ends(&[]).unwrap(), (0, TarEnd::Unmarked));
    for length in [0, 100, 512, 1024, 1030, 3000, 3584, 4096, whole.len()] {
        keep("tar", "ends", &whole[..length]);
    }
    for length in 0..whole.len() {
        let expected = match length {
            0 => Some(0),
            1024 => Some(1),
            // One block of the end, or none.
            3584 | 4096 => Some(2),
            _ => None,
        };
        match (ends(&whole[..length]), expected) {
            (Ok((entries, end)), Some(expected)) => assert_eq!((entries, end), (expected, TarEnd::Unmarked)),
            (Err(error), None) => assert!(error.chain().contains("truncated"), "{length}: {}", error.chain()),
            (other, _) => panic!("{length} bytes: {other:?}"),
        }
    }
    let mut garbage = whole.clone();
    garbage.extend_from_slice(b"\0\0x");
    let messages = refused(&[
        ("garbage", garbage),
        ("concatenated", [whole.clone(), whole.clone()].concat()),
        ("lone zero block", [&whole[..1024], &[0; 512], &whole[1024..]].concat()),
        ("no header", [&whole[..1024], [1; 512].as_slice(), &whole[1024..]].concat()),
    ]);
    assert!(messages[0].contains(&format!("stream offset {}", whole.len() + 2)), "{messages:?}");
}

#[test]
fn a_refused_archive_goes_on_after_its_error() {
    let mut reader = TarReader::new();
    let bad = file("..", b"");
    let error = reader.feed(&bad).unwrap_err();
    assert_eq!(reader.feed(&archive(&[])).unwrap_err().chain(), error.chain());
    assert_eq!(reader.finish().unwrap_err().chain(), error.chain());
}

#[test]
fn a_driver_skips_more_than_a_body() {
    let bytes = archive(&[file("a", &[1; 600]), file("b", b"")]);
    let mut reader = TarReader::new();
    let fed = reader.feed(&bytes).unwrap();
    assert_eq!((fed.taken, reader.body_left(), reader.stream_offset()), (512, 1024, 512));
    assert!(fed.item.is_some());
    assert_eq!(reader.skip(1025).unwrap_err().kind(), ErrorKind::Usage);
    reader.feed(&bytes[512..522]).unwrap();
    reader.skip(1014).unwrap();
    let at = usize::try_from(reader.stream_offset()).unwrap();
    assert!(reader.feed(&bytes[at..]).unwrap().item.is_some());
}

#[test]
fn dialects_are_mixed_up() {
    // Only POSIX headers have a prefix; GNU's have times there, and the oldest have anything.
    let name = |block: Block| match only(&archive(&[entry(block, b"")])) {
        TarItem::Entry(entry) => entry.path.to_string(),
        TarItem::Root(_) => String::new(),
    };
    let posix = Block::new("n", b'0', 0).put(PREFIX, b"p");
    assert_eq!(name(posix.clone()), "p/n");
    assert_eq!(name(posix.clone().gnu()), "n");
    assert_eq!(name(posix.clone().put(MAGIC, &[0; 8])), "n");
    // Star keeps times behind a shorter prefix.
    let full = posix.put(PREFIX, &[b'p'; 131]);
    assert_eq!(
        name(full.put(476, b"00000000007 00000000007 ").put(508, b"tar\0")),
        format!("{}/n", "p".repeat(131))
    );
    // Names without an end fill their field.
    assert_eq!(name(Block::new("", b'0', 0).put(NAME, &[b'n'; 100])), "n".repeat(100));
    let directory = archive(&[entry(Block::new("d/", 0, 0).put(MAGIC, &[0; 8]).put(TYPE, &[0]), b"")]);
    assert_eq!(only_kind(&directory), EntryKind::Directory);
}
