use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::base::{Algorithm, RelPath};
use crate::layer::encoding::Codec;
use crate::layer::restart::{RestartPoint, RestartTableBuilder};

const STREAM_BYTES: u64 = 1 << 30;

fn layer() -> Digest {
    Digest::of(Algorithm::Sha256, b"layer")
}

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry {
        path: RelPath::parse(path).unwrap(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Box::default(),
    }
}

fn parts(entries: Vec<Entry>) -> IndexParts {
    IndexParts {
        layer: layer(),
        blob_bytes: STREAM_BYTES,
        stream_bytes: STREAM_BYTES,
        diff_id: None,
        stream: LayerStream::Plain,
        root: None,
        entries,
        members: Vec::new(),
        warnings: Vec::new(),
        carried: None,
        trusted: false,
    }
}

fn file(size: u64, stream_offset: u64) -> EntryKind {
    EntryKind::File { size, extents: Extents::Contiguous { stream_offset } }
}

fn sparse(size: u64, extents: &[(u64, u64, u64)]) -> EntryKind {
    let extent = |&(file_offset, stream_offset, length): &_| Extent { file_offset, stream_offset, length };
    EntryKind::File { size, extents: Extents::Sparse(extents.iter().map(extent).collect()) }
}

fn xattr(name: &[u8], value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.into() }
}

/// An index that has something of everything.
fn sample() -> IndexParts {
    let target = |target: &[u8]| Box::<[u8]>::from(target);
    let mut entries = vec![
        entry(b"usr", EntryKind::Directory),
        entry(b"usr/bin/tool", file(4096, 512)),
        entry(b"usr/bin/link", EntryKind::Symlink { target: target(b"../\xff/away") }),
        entry(b"usr/bin/empty", EntryKind::Symlink { target: target(b"") }),
        entry(b"usr/bin/hard", EntryKind::HardLink { target: target(b"usr/bin/tool") }),
        entry(b"usr/holes", sparse(STREAM_BYTES * 8, &[(0, 8192, 512), (1 << 32, 8704, 9)])),
        entry(b"usr/hole", sparse(u64::MAX, &[])),
        entry(b"dev/c", EntryKind::CharDevice { major: 1, minor: u32::MAX }),
        entry(b"dev/b", EntryKind::BlockDevice { major: u32::MAX, minor: 2 }),
        entry(b"dev/p", EntryKind::Fifo),
        entry(b"end", file(0, STREAM_BYTES)),
        entry(b"whole", file(STREAM_BYTES, 0)),
    ];
    entries[1].mode = 0o6755;
    entries[1].mtime = Timestamp { seconds: -1, nanoseconds: 999_999_999 };
    entries[1].xattrs = Box::new([xattr(b"security.capability", b"\0\x01"), xattr(b"user.empty", b"")]);
    entries[2].mtime = Timestamp { seconds: *record::SECONDS.start(), nanoseconds: 0 };
    entries[3].mtime = Timestamp { seconds: *record::SECONDS.end(), nanoseconds: 1 };
    (entries[3].uid, entries[3].gid) = (u32::MAX, 65_534);
    IndexParts {
        diff_id: Some(Digest::of(Algorithm::Sha512, b"stream")),
        root: Some(RootAttributes {
            mode: 0o1777,
            uid: 3,
            gid: 4,
            mtime: Timestamp { seconds: 5, nanoseconds: 6 },
            xattrs: Box::new([xattr(b"user.root", b"yes")]),
        }),
        members: vec![
            Member { stream_offset: 0, bytes: MEMBER_BYTES_MIN },
            Member { stream_offset: MEMBER_BYTES_MIN, bytes: STREAM_BYTES - MEMBER_BYTES_MIN },
        ],
        warnings: vec!["one".to_owned(), String::new(), "drei – 3".to_owned()],
        carried: Some("estargz".to_owned()),
        trusted: true,
        ..parts(entries)
    }
}

fn restart_table(blob_bytes: u64) -> RestartTable {
    let mut builder = RestartTableBuilder::new(Codec::Zstd);
    builder.push(&RestartPoint::START);
    builder.push(&RestartPoint { compressed_offset: 1000, stream_offset: 1 << 20, ..RestartPoint::START });
    builder.finish(blob_bytes, STREAM_BYTES).unwrap()
}

fn owned(entry: &EntryRef<'_>) -> Entry {
    Entry {
        path: RelPath::parse(entry.path).unwrap(),
        kind: entry.kind.clone(),
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
    }
}

/// What `index` says is what `parts` said, its entries in order and each path once.
fn assert_says(index: &LayerIndex, parts: &IndexParts) {
    let by_path: BTreeMap<Vec<&[u8]>, &Entry> = parts
        .entries
        .iter()
        .map(|entry| (entry.path.as_bytes().split(|byte| *byte == b'/').collect(), entry))
        .collect();
    let entries: Vec<Entry> = (0..index.len()).map(|at| owned(&index.entry(at))).collect();
    assert!(entries.iter().eq(by_path.values().copied()));
    for (at, entry) in entries.iter().enumerate() {
        assert_eq!(index.find(entry.path.as_bytes()), Some(at));
    }
    let members: Vec<Member> = (0..index.member_count()).map(|at| index.member(at)).collect();
    assert_eq!(members, parts.members);
    assert_eq!((index.layer(), index.diff_id()), (&parts.layer, parts.diff_id.as_ref()));
    assert_eq!((index.blob_bytes(), index.stream_bytes()), (parts.blob_bytes, parts.stream_bytes));
    assert_eq!((index.stream(), index.root()), (&parts.stream, parts.root.clone()));
    assert_eq!(index.warnings(), parts.warnings);
    assert_eq!((index.carried(), index.is_trusted()), (parts.carried.as_deref(), parts.trusted));
}

/// Whatever `index` holds is safe to use.
fn assert_sound(index: &LayerIndex) {
    let in_stream = |offset: u64, length: u64| {
        assert!(offset.checked_add(length).is_some_and(|end| end <= index.stream_bytes()));
    };
    for at in 0..index.len() {
        let entry = index.entry(at);
        assert_eq!(RelPath::parse(entry.path).unwrap().as_bytes(), entry.path);
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
        let _ = index.find(entry.path);
        let EntryKind::File { size, extents } = &entry.kind else { continue };
        match extents {
            Extents::Contiguous { stream_offset } => in_stream(*stream_offset, *size),
            Extents::Sparse(extents) => {
                let mut end = 0;
                for extent in extents.iter() {
                    in_stream(extent.stream_offset, extent.length);
                    assert!(extent.file_offset >= end && extent.length > 0);
                    end = extent.file_offset.checked_add(extent.length).unwrap();
                }
                assert!(end <= *size);
            }
        }
    }
    for at in 0..index.member_count() {
        in_stream(index.member(at).stream_offset, index.member(at).bytes);
    }
}

#[test]
fn says_what_it_was_made_of() {
    let parts = sample();
    let index = LayerIndex::new(parts.clone()).unwrap();
    assert_says(&index, &parts);
    let opened = LayerIndex::decode(index.bytes(), &layer()).unwrap();
    assert_says(&opened, &parts);
    assert_eq!(LayerIndex::new(parts).unwrap().bytes(), index.bytes(), "the same parts make the same bytes");
}

#[test]
fn an_empty_layer_has_an_index_too() {
    let index = LayerIndex::new(parts(Vec::new())).unwrap();
    assert!(index.is_empty() && index.find(b"").is_none() && index.find(b"a").is_none());
    assert_says(&LayerIndex::decode(index.bytes(), &layer()).unwrap(), &parts(Vec::new()));
}

#[test]
fn names_of_a_directory_follow_it_and_nothing_else_comes_between() {
    let paths: [&[u8]; 9] = [b"a", b"a/b", b"a/b/c", b"a/\xff", b"a\x01", b"a!", b"a-b/c", b"a.d", b"ab"];
    let entries: Vec<Entry> = paths.iter().rev().map(|path| entry(path, EntryKind::Directory)).collect();
    let index = LayerIndex::new(parts(entries)).unwrap();
    let sorted: Vec<&[u8]> = (0..index.len()).map(|at| index.path(at)).collect();
    assert_eq!(sorted, paths);
    for path in [&b""[..], b"a\0b", b"a/", b"/a", b"a/b/", b"zz", b"\0"] {
        assert_eq!(index.find(path), None, "{path:?}");
    }
}

#[test]
fn of_several_entries_with_one_path_the_last_counts() {
    let entries = vec![
        entry(b"a", file(1, 1)),
        entry(b"b", EntryKind::Directory),
        entry(b"a", file(2, 2)),
        entry(b"b", EntryKind::Fifo),
        entry(b"a", file(3, 3)),
    ];
    let index = LayerIndex::new(parts(entries)).unwrap();
    assert_eq!(index.len(), 2);
    assert_eq!((index.entry(0).kind, index.entry(1).kind), (file(3, 3), EntryKind::Fifo));
}

#[test]
fn times_beyond_any_calendar_are_clamped_as_file_systems_do() {
    for (seconds, kept) in [(i64::MAX, (1 << 39) - 1), (i64::MIN, -(1 << 39)), (1 << 39, (1 << 39) - 1)] {
        let mut late = entry(b"a", EntryKind::Fifo);
        late.mtime = Timestamp { seconds, nanoseconds: 5 };
        let index = LayerIndex::new(parts(vec![late])).unwrap();
        assert_eq!(index.entry(0).mtime, Timestamp { seconds: kept, nanoseconds: 5 });
    }
}

#[test]
fn names_of_any_bytes_and_of_the_greatest_length_are_kept() {
    let any: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let long = vec![b'n'; 255];
    let deep = [&b"d/".repeat(2047)[..], b"ee"].concat();
    let names = [&any[..], &long, &deep, b"...", b"..a", b".a", b"a./b..", b"\n", b" "];
    let parts = parts(names.iter().map(|name| entry(name, EntryKind::Fifo)).collect());
    assert_eq!(deep.len(), 4096);
    assert_says(&LayerIndex::new(parts.clone()).unwrap(), &parts);
}

#[test]
fn the_way_into_the_stream_must_be_that_of_the_layer() {
    let table = |blob_bytes| IndexParts {
        blob_bytes: 5000,
        stream: LayerStream::Restart(restart_table(blob_bytes)),
        ..parts(vec![entry(b"a", file(9, 0))])
    };
    assert_says(&LayerIndex::new(table(5000)).unwrap(), &table(5000));
    assert_eq!(LayerIndex::new(table(5001)).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let with = |kind| parts(vec![entry(b"bad", kind)]);
    let attributes = |change: fn(&mut Entry)| {
        let mut entry = entry(b"bad", EntryKind::Fifo);
        change(&mut entry);
        parts(vec![entry])
    };
    let members = |members: &[(u64, u64)]| IndexParts {
        members: members.iter().map(|&(stream_offset, bytes)| Member { stream_offset, bytes }).collect(),
        ..parts(Vec::new())
    };
    let cases = [
        ("beyond the stream", with(file(2, STREAM_BYTES - 1))),
        ("without end", with(file(u64::MAX, 1))),
        ("overlapping extents", with(sparse(100, &[(0, 0, 10), (9, 10, 10)]))),
        ("an empty extent", with(sparse(100, &[(0, 0, 0)]))),
        ("an extent beyond the file", with(sparse(100, &[(91, 0, 10)]))),
        ("an extent beyond the stream", with(sparse(100, &[(0, STREAM_BYTES - 9, 10)]))),
        ("mode", attributes(|entry| entry.mode = 0o10_000)),
        ("large mode", attributes(|entry| entry.mode = u32::MAX)),
        ("time", attributes(|entry| entry.mtime.nanoseconds = 1_000_000_000)),
        (
            "xattrs out of order",
            attributes(|entry| {
                entry.xattrs = Box::new([xattr(b"user.b", b""), xattr(b"user.a", b"")]);
            }),
        ),
        (
            "an xattr twice",
            attributes(|entry| {
                entry.xattrs = Box::new([xattr(b"user.a", b"1"), xattr(b"user.a", b"2")]);
            }),
        ),
        ("an xattr without a name", attributes(|entry| entry.xattrs = Box::new([xattr(b"", b"")]))),
        ("an empty member", members(&[(0, 0)])),
        ("overlapping members", members(&[(0, 10), (9, 10)])),
        ("a member beyond the stream", members(&[(STREAM_BYTES, 1)])),
        ("a blob that is not the stream", IndexParts { blob_bytes: 1, ..parts(Vec::new()) }),
    ];
    for (name, parts) in cases {
        let error = LayerIndex::new(parts).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
        assert!(error.to_string().contains(layer().as_str()), "{error}");
    }
}

#[test]
fn a_raw_layer_is_one_file() {
    let raw = entry(b"model.gguf", EntryKind::whole_stream(7));
    let index = LayerIndex::of_raw_file(&layer(), 7, raw.clone()).unwrap();
    assert_eq!(owned(&index.entry(0)), raw);
    assert_eq!((index.len(), index.stream()), (1, &LayerStream::Plain));
    assert!(LayerIndex::of_raw_file(&layer(), 6, raw).is_err());
}

#[test]
fn an_index_of_another_layer_version_or_length_is_refused() {
    let bytes = LayerIndex::new(sample()).unwrap().bytes();
    let other = Digest::of(Algorithm::Sha256, b"other");
    assert_eq!(LayerIndex::decode(bytes.clone(), &other).unwrap_err().kind(), ErrorKind::Corrupt);
    for cut in 0..bytes.len() {
        assert!(LayerIndex::decode(bytes.slice(..cut), &layer()).is_err(), "{cut}");
    }
    let longer = [&bytes[..], b"/"].concat();
    assert!(LayerIndex::decode(longer.into(), &layer()).is_err());
    for at in 0..12 {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        assert!(LayerIndex::decode(changed.into(), &layer()).is_err(), "{at}");
    }
}

#[test]
fn every_flipped_bit_is_refused_or_harmless() {
    let mut parts = sample();
    parts.blob_bytes = 5000;
    parts.stream = LayerStream::Restart(restart_table(5000));
    let bytes = LayerIndex::new(parts).unwrap().bytes();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << bit;
            if let Ok(index) = LayerIndex::decode(changed.into(), &layer()) {
                assert_sound(&index);
            }
        }
    }
}

#[test]
fn paths_that_are_none_are_refused() {
    for bad in ["", ".", "..", "a/..", "../a", "a//b", "/a", "a/", "./a", "a/./b", "a\0b", "a/../../b"] {
        // As long as the bad one, so that only the names change.
        let good = "g".repeat(bad.len().max(1));
        for others in [vec![], vec!["before", "zzz"]] {
            let paths = others.iter().copied().chain([good.as_str()]);
            let entries = paths.map(|path| entry(path.as_bytes(), EntryKind::Fifo)).collect();
            let bytes = LayerIndex::new(parts(entries)).unwrap().bytes();
            let framed = format!("/{good}/");
            let at = bytes.windows(framed.len()).rposition(|window| window == framed.as_bytes()).unwrap();
            let mut changed = bytes.to_vec();
            let bad = if bad.is_empty() { "/" } else { bad };
            changed[at + 1..=at + bad.len()].copy_from_slice(bad.as_bytes());
            assert!(LayerIndex::decode(changed.into(), &layer()).is_err(), "{bad:?}");
        }
    }
    let long = vec![b'n'; 257];
    let halves = [&long[..128], b"/", &long[129..]].concat();
    let bytes = LayerIndex::new(parts(vec![entry(&halves, EntryKind::Fifo)])).unwrap().bytes();
    let at = bytes.windows(257).rposition(|window| window == halves).unwrap();
    let mut changed = bytes.to_vec();
    changed[at + 128] = b'n';
    assert!(LayerIndex::decode(changed.into(), &layer()).is_err());
}

#[test]
fn any_number_in_any_place_is_refused_or_harmless() {
    let bytes = LayerIndex::new(sample()).unwrap().bytes();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..20_000 {
        let mut changed = bytes.to_vec();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..changed.len() - 8);
            let number = match random.random_range(0..4) {
                0 => random.next_u64(),
                1 => u64::MAX - random.random_range(0..16),
                2 => random.random_range(0..64),
                _ => changed[at].into(),
            };
            changed[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        if let Ok(index) = LayerIndex::decode(changed.into(), &layer()) {
            assert_sound(&index);
        }
    }
}

fn any_kind() -> impl Strategy<Value = EntryKind> {
    let target = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Box::<[u8]>::from);
    prop_oneof![
        (0..STREAM_BYTES / 2, 0..STREAM_BYTES / 2).prop_map(|(size, offset)| file(size, offset)),
        prop::collection::vec((0..100_u64, 1..100_u64), 0..5).prop_map(|pieces| {
            let (mut end, mut stream_offset) = (0, 0);
            let mut extents = Vec::new();
            for (gap, length) in pieces {
                extents.push((end + gap + 1, stream_offset, length));
                end += gap + 1 + length;
                stream_offset += length;
            }
            sparse(end + 7, &extents)
        }),
        Just(EntryKind::Directory),
        Just(EntryKind::Fifo),
        target().prop_map(|target| EntryKind::Symlink { target }),
        target().prop_map(|target| EntryKind::HardLink { target }),
        any::<(u32, u32)>().prop_map(|(major, minor)| EntryKind::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| EntryKind::BlockDevice { major, minor }),
    ]
}

fn any_xattrs() -> impl Strategy<Value = Box<[Xattr]>> {
    let name = prop::collection::vec(1..=255_u8, 1..8);
    prop::collection::btree_map(name, prop::collection::vec(any::<u8>(), 0..8), 0..3)
        .prop_map(|all| all.iter().map(|(name, value)| xattr(name, value)).collect())
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let name = prop::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), b'a'..=b'c', 1..=255_u8], 1..12);
    let path = name.prop_filter_map("no path", |name| RelPath::parse(&name).ok());
    (
        path,
        any_kind(),
        0..0o10_000_u32,
        any::<(u32, u32)>(),
        record::SECONDS,
        0..1_000_000_000_u32,
        any_xattrs(),
    )
        .prop_map(|(path, kind, mode, (uid, gid), seconds, nanoseconds, xattrs)| Entry {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanoseconds },
            xattrs,
        })
}

#[test]
fn paths_out_of_order_or_twice_are_refused() {
    let index = LayerIndex::new(parts(vec![entry(b"b", file(0, 0)), entry(b"c", file(0, 0))])).unwrap();
    let bytes = index.bytes();
    let at = bytes.windows(5).position(|window| window == b"/b/c/").expect("the names stand there");
    for wrong in [b"/c/b/", b"/b/b/"] {
        let mut bytes = bytes.to_vec();
        bytes[at..at + 5].copy_from_slice(wrong);
        let error = LayerIndex::decode(bytes.into(), &layer()).unwrap_err().chain();
        assert!(error.contains("entry 1 is out of order"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_entries_come_back(entries in prop::collection::vec(any_entry(), 0..40)) {
        let parts = parts(entries);
        let index = LayerIndex::new(parts.clone()).unwrap();
        assert_says(&index, &parts);
        assert_sound(&index);
    }

    #[test]
    fn any_bytes_are_no_index(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for magic in [&b""[..], b"rfmindex\x01\0\0\0\0\0\0\0"] {
            let end = magic.len().min(bytes.len());
            bytes[..end].copy_from_slice(&magic[..end]);
            prop_assert!(LayerIndex::decode(bytes.clone().into(), &layer()).is_err());
        }
    }

    #[test]
    fn paths_are_ordered_by_their_components(
        a in prop::collection::vec(prop_oneof![Just(b'/'), b'-'..=b'0', 1..=255_u8], 0..40),
        b in prop::collection::vec(prop_oneof![Just(b'/'), b'-'..=b'0', 1..=255_u8], 0..40),
        common in 0..40_usize,
    ) {
        let b = [&a[..common.min(a.len())], &b].concat();
        let components = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
        prop_assert_eq!(paths::order(&a, &b), components(&a).cmp(&components(&b)));
    }

    #[test]
    fn runs_of_plain_names_are_what_path_parsing_takes(
        names in prop::collection::vec(prop_oneof![3 => Just(b'/'), 3 => Just(b'.'), 2 => Just(b'a'), 1 => Just(0)], 0..30),
    ) {
        let framed = [b"/", &names[..], b"/"].concat();
        let is_path = RelPath::parse(&names).is_ok_and(|path| path.as_bytes() == names);
        prop_assert_eq!(paths::are_plain(&framed), is_path);
    }
}

#[test]
fn an_entry_shares_nothing_with_the_bytes_but_its_path() {
    let index = Arc::new(LayerIndex::new(sample()).unwrap());
    let bytes = index.bytes();
    let entry = index.entry(0);
    assert!(bytes.as_ptr_range().contains(&entry.path.as_ptr()), "it is borrowed from the encoding");
    let debug = format!("{index:?}");
    assert!(debug.len() < 300, "{debug}");
}
