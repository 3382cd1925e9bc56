//! Whatever pieces the stream comes in, the entries are the same; whatever the stream is, nothing panics.

use proptest::prelude::*;
use refmount::layer::tar::{TarItem, TarReader};

use super::archive::{Block, LINK, archive, entry, file, pax};
use super::read;

/// An archive with something of everything.
pub(crate) fn sample() -> Vec<u8> {
    let long = "long/".repeat(40) + "name";
    let sparse_records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "5000"),
        ("GNU.sparse.name", "s"),
    ];
    let mut sparse = b"2\n0\n512\n4000\n20\n".to_vec();
    sparse.resize(512, 0);
    sparse.resize(512 + 532, 1);
    let old = Block::new("o", b'S', 2048).gnu().put(483, b"00000010000").put(482, &[1]);
    let piece = |index: u64| format!("{:011o}\0{:011o}\0", index * 1000, 512).into_bytes();
    let old = (0..4).fold(old, |block, index| block.put(386 + 24 * index, &piece(index as u64)));
    let mut old_body = vec![0; 512];
    old_body.extend_from_slice(&[3; 2048]);
    archive(&[
        entry(Block::new("./", b'5', 0), b""),
        file("a", &[1; 700]),
        pax(b'g', &[("uid", "7")]),
        pax(b'x', &[("path", &long), ("SCHILY.xattr.user.a", "b\nc=d"), ("mtime", "1.5"), ("size", "3")]),
        file("x", b"123"),
        entry(Block::new("L", b'L', 150).gnu(), &[b'n'; 150]),
        entry(Block::new("b", b'2', 0).put(LINK, b"../a"), b""),
        entry(Block::new("c", b'1', 0).put(LINK, b"a"), b""),
        pax(b'x', &sparse_records),
        file("s0", &sparse),
        entry(old, &old_body),
        entry(Block::new("p", b'6', 0), b""),
    ])
}

/// The entries when each piece has the length that comes next, and bodies are skipped when it is even.
fn read_in(bytes: &[u8], lengths: &[usize]) -> Result<Vec<TarItem>, String> {
    let mut reader = TarReader::new();
    let mut items = Vec::new();
    let mut lengths = lengths.iter().cycle();
    let mut at = 0;
    while at < bytes.len() {
        let length = *lengths.next().unwrap();
        let left = usize::try_from(reader.body_left()).unwrap_or(usize::MAX);
        if length.is_multiple_of(2) && left > 0 && left <= bytes.len() - at {
            reader.skip(left as u64).unwrap();
            at += left;
            continue;
        }
        let piece = &bytes[at..bytes.len().min(at + length)];
        let fed = reader.feed(piece).map_err(|error| error.chain())?;
        assert!(fed.item.is_some() || fed.taken == piece.len());
        items.extend(fed.item);
        at += fed.taken;
    }
    assert_eq!(reader.stream_offset(), bytes.len() as u64);
    reader.finish().map_err(|error| error.chain())?;
    Ok(items)
}

/// Corrects the checksum of the header at `block`, so that what is wrong in it is reached.
fn seal(bytes: &mut [u8], block: usize) {
    let Some(header) = bytes.get_mut(block * 512..block * 512 + 512) else { return };
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Corrects the checksum of block `block` if it is a header in `original`.
pub(super) fn seal_if_header(bytes: &mut [u8], original: &[u8], block: usize) {
    let is_header = original[block * 512 + 257..].starts_with(b"ustar");
    if is_header {
        seal(bytes, block);
    }
}

#[test]
fn the_sample_is_refused() {
    let (items, _) = read(&sample(), usize::MAX).unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(items.len(), 8);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_split_changes_the_entries(lengths in prop::collection::vec(1_usize..3000, 1..20)) {
        let bytes = sample();
        let whole = read(&bytes, usize::MAX).unwrap().0;
        prop_assert_eq!(read_in(&bytes, &lengths).unwrap(), whole);
    }

    #[test]
    fn changed_archives_panic_or_depend_on_the_split(
        changes in prop::collection::vec((0_usize..12_000, any::<u8>()), 1..6),
        cut in 0_usize..20_000,
        lengths in prop::collection::vec(1_usize..1500, 1..8),
    ) {
        let mut bytes = sample();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
            // Half of them are believed.
            if value.is_multiple_of(2) {
                seal(&mut bytes, at / 512);
            }
        }
        bytes.truncate(cut.max(512));
        let whole = read(&bytes, usize::MAX).map(|(items, _)| items).map_err(|error| error.chain());
        prop_assert_eq!(read_in(&bytes, &lengths), whole);
    }

    #[test]
    fn random_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), kind in 0_usize..16) {
        if bytes.len() > 512 {
            bytes[156] = b"01234567LKxgSVX\0"[kind];
            bytes[100..148].fill(b'1');
            bytes[124..136].copy_from_slice(b"00000000777\0");
            bytes[257..265].copy_from_slice(b"ustar  \0");
            seal(&mut bytes, 0);
        }
        let whole = read(&bytes, usize::MAX).map(|(items, _)| items).map_err(|error| error.chain());
        prop_assert_eq!(read_in(&bytes, &[1, 511, 2]), whole);
    }

    #[test]
    fn random_records_panic(body in "([0-9]{1,3} (path|size|mtime|uid|GNU\\.sparse\\.[a-z]{3,8}|SCHILY\\.xattr\\.[a-z%=]{0,4})=[0-9.,\n=-]{0,9}\n){0,4}") {
        let bytes = archive(&[entry(Block::new("x", b'x', body.len() as u64), body.as_bytes()), file("a", b"12")]);
        let whole = read(&bytes, usize::MAX).map(|(items, _)| items).map_err(|error| error.chain());
        prop_assert_eq!(read_in(&bytes, &[13, 700]), whole);
    }
}
