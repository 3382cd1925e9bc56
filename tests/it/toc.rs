//! Layers that carry an index of their own: those that other programs make, and those made to harm.
//!
//! What an index says is compared with what the tar reader says of the decompressed layer, and what is decoded by it
//! with the bytes that the tar holds.

use std::collections::BTreeMap;

use refmount::base::{Algorithm, Digest};
use refmount::layer::decoder::Decoder;
use refmount::layer::encoding::Codec;
use refmount::layer::spans::{Span, SpanTable};
use refmount::layer::tar::{TarItem, TarReader};
use refmount::layer::toc::Toc;
use refmount::layer::{Entry, EntryKind, Extents, Timestamp};

use crate::support::extents::content;

pub(crate) mod estargz;
mod flatbuffer;
mod hostile;
pub(crate) mod soci;
mod writers;
mod zstd_chunked;

/// Bytes of the large file of [`tree`].
const BIG_BYTES: usize = 9_000_000;

/// A tar of files of all kinds, with nanoseconds and attributes.
fn tree() -> Vec<u8> {
    const SCRIPT: &str = r#"
        cd "$1" && mkdir sub && printf hello > a.txt && ln -s a.txt link && ln a.txt sub/hard && : > empty
        mkfifo fifo && mknod null c 1 3 && mknod sda b 8 0 && chmod 4755 a.txt && chmod 1777 sub && chmod 751 .
        printf %1048576s x > sub/spaces && head -c 3000000 /dev/zero > zeros
        setfattr -n user.key -v 'a value' a.txt && setfattr -n user.empty sub/spaces
        touch -d 2001-02-03T04:05:06.25Z empty && touch -d 1969-12-31T23:59:58Z fifo && chown -h 7:70000 link
        # Without padding after the end: skopeo 1.9 fails now and then on what it does not read.
        tar --format=pax --xattrs --sort=name --blocking-factor=1 -cf - .
    "#;
    let directory = tempfile::tempdir().unwrap();
    let mut big = vec![0; BIG_BYTES];
    rand::RngCore::fill_bytes(
        &mut <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(4),
        &mut big,
    );
    std::io::Write::write_all(&mut std::fs::File::create(directory.path().join("big")).unwrap(), &big)
        .unwrap();
    let run = std::process::Command::new("bash")
        .args(["-ec", SCRIPT, "bash"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

/// All bytes that `blob` decompresses to.
fn decompressed(blob: &[u8], codec: Codec) -> Vec<u8> {
    let mut decoder = Decoder::new(codec).unwrap();
    let (mut stream, mut taken) = (Vec::new(), 0);
    loop {
        let start = stream.len();
        stream.resize(start + (1 << 20), 0);
        let progress = decoder.decode(&blob[taken..], &mut stream[start..]).unwrap();
        taken += progress.consumed;
        stream.truncate(start + progress.written);
        if progress.written < 1 << 20 {
            decoder.finish().unwrap();
            return stream;
        }
    }
}

/// The bytes of `span`, as they are decoded from the part of `blob` that it names.
fn decoded(blob: &[u8], span: &Span) -> Vec<u8> {
    let place = |offset| usize::try_from(offset).unwrap();
    let range = span.compressed_range();
    let input = &blob[place(range.start)..place(range.end)];
    let mut output = vec![0; place(span.skip + span.bytes)];
    let mut decoder = Decoder::resume(span.codec.unwrap(), &span.start()).unwrap();
    let progress = decoder.decode(input, &mut output).unwrap();
    assert_eq!(progress.written, output.len(), "{span:?}");
    output.split_off(place(span.skip))
}

/// The stream of `spans`, each of which must have its digest.
fn virtual_stream(blob: &[u8], spans: &SpanTable) -> Vec<u8> {
    let mut stream = Vec::new();
    for span in spans.spans() {
        let bytes = decoded(blob, &span);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        assert_eq!(hex::encode(span.digest.unwrap()), digest.hex(), "{span:?}");
        stream.extend_from_slice(&bytes);
    }
    assert_eq!(stream.len() as u64, spans.stream_bytes());
    stream
}

/// The entries of a tar, without its root.
fn tar_entries(stream: &[u8]) -> Vec<Entry> {
    let mut reader = TarReader::new();
    let (mut entries, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let fed = reader.feed(rest).unwrap();
        rest = &rest[fed.taken..];
        match fed.item {
            Some(TarItem::Entry(entry)) => entries.push(entry),
            Some(TarItem::Root(_)) | None => {}
        }
    }
    reader.finish().unwrap();
    entries
}

/// Entries with their contents by path, with no trace of where these lay.
fn shown(
    entries: &[Entry],
    stream: &[u8],
    time: fn(Timestamp) -> Timestamp,
) -> BTreeMap<String, (Entry, Digest)> {
    let show = |entry: &Entry| {
        let mut entry = entry.clone();
        entry.mtime = time(entry.mtime);
        let bytes = match &mut entry.kind {
            EntryKind::File { size, extents } => {
                let bytes = content(stream, *size, extents);
                *extents = Extents::Contiguous { stream_offset: 0 };
                bytes
            }
            _ => Vec::new(),
        };
        (entry.path.to_string(), (entry, Digest::of(Algorithm::Sha256, &bytes)))
    };
    entries.iter().map(show).collect()
}

fn unchanged(time: Timestamp) -> Timestamp {
    time
}

/// As eStargz keeps times.
fn rounded(time: Timestamp) -> Timestamp {
    Timestamp { seconds: time.seconds + i64::from(time.nanoseconds >= 500_000_000), nanoseconds: 0 }
}

/// The file at `path`.
fn extents_of<'a>(entries: &'a [Entry], path: &str) -> (u64, &'a Extents) {
    let entry = entries.iter().find(|entry| entry.path.as_bytes() == path.as_bytes());
    match &entry.unwrap_or_else(|| panic!("there is no {path}")).kind {
        EntryKind::File { size, extents } => (*size, extents),
        other => panic!("{path} is {other:?}"),
    }
}

/// Asserts that large files in one piece have members, and only they.
fn assert_members(toc: &Toc) {
    for (path, is_member) in [("big", true), ("sub/spaces", true), ("a.txt", false)] {
        let (size, extents) = extents_of(&toc.entries, path);
        let Extents::Contiguous { stream_offset } = extents else { panic!("{path} lies at {extents:?}") };
        let found = toc.members.iter().find(|member| member.stream_offset == *stream_offset);
        assert_eq!(found.is_some_and(|member| member.bytes == size), is_member, "{path}");
    }
}
