//! SOCI zTOCs, made here for layers that gzip made.

use refmount::base::ErrorKind;
use refmount::layer::decoder::Decoder;
use refmount::layer::encoding::Codec;
use refmount::layer::gzip::GzipDecoder;
use refmount::layer::restart::{RestartPoint, RestartState};
use refmount::layer::toc::ztoc::{CompressedSpan, Ztoc, parse};
use refmount::layer::{Entry, EntryKind, Extents};

use super::flatbuffer::{Field, checkpoints, document, text};
use super::hostile::{gzip, sha256};
use super::{shown, tar_entries, tree, unchanged};

/// Bytes of the header that gzip writes for its standard input.
const HEADER_BYTES: u64 = 10;

/// A layer and the parts of a zTOC for it.
struct Sample {
    blob: Vec<u8>,
    stream: Vec<u8>,
    entries: Vec<Entry>,
    points: Vec<RestartPoint>,
}

impl Sample {
    fn new(stream: Vec<u8>) -> Self {
        let blob = gzip(&stream);
        let mut decoder = GzipDecoder::with_spacing(1 << 18).unwrap();
        let mut output = vec![0; stream.len() + 1];
        let progress = decoder.decode(&blob, &mut output).unwrap();
        assert_eq!(progress.written, stream.len());
        let entries = tar_entries(&stream);
        Self { points: decoder.take_points(), blob, stream, entries }
    }

    fn files(&self) -> Vec<Field> {
        self.entries.iter().map(|entry| Field::Table(file(entry))).collect()
    }

    /// A zTOC with these files, checkpoints and sizes.
    fn ztoc(&self, files: Vec<Field>, is_first_version: bool) -> Vec<Field> {
        let (checkpoints, digests) = checkpoints(&self.points, HEADER_BYTES, &self.blob, is_first_version);
        let spans = digests.len() as i32;
        vec![
            text("0.9"),
            text("a test"),
            Field::I64(self.blob.len() as i64),
            Field::I64(self.stream.len() as i64),
            Field::Table(vec![Field::List(files)]),
            Field::Table(vec![
                Field::None,
                Field::I32(spans - 1),
                Field::List(digests),
                Field::Bytes(checkpoints),
            ]),
        ]
    }

    fn parse(&self, ztoc: &[Field]) -> refmount::base::Result<Ztoc> {
        parse(&document(ztoc), self.blob.len() as u64)
    }
}

/// The layer that gzip makes of `stream`, and a zTOC for it.
pub(crate) fn layer_and_ztoc(stream: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let sample = Sample::new(stream);
    let ztoc = document(&sample.ztoc(sample.files(), false));
    (sample.blob, ztoc)
}

/// Good zTOCs of a layer without points but its start, which are small, and some with one flaw.
pub(crate) fn seeds() -> Vec<(String, Vec<u8>)> {
    let sample = Sample::new(super::hostile::tar_of("a", &[1; 700]));
    let first = sample.ztoc(sample.files(), true);
    let mut seeds = vec![
        ("first-version".to_owned(), document(&first)),
        ("no-files".to_owned(), document(&sample.ztoc(Vec::new(), true))),
    ];
    seeds.push(("second-version".to_owned(), document(&sample.ztoc(sample.files(), false))));
    for (label, path, field) in [
        ("name-that-leads-out", vec![4, 0, 0, 0], text("../a")),
        ("size", vec![4, 0, 0, 3], Field::I64(i64::MAX)),
        ("offset", vec![4, 0, 0, 2], Field::I64(511)),
        ("no-checkpoints", vec![5], Field::None),
    ] {
        let mut wrong = first.clone();
        *at(&mut wrong, &path) = field;
        seeds.push((label.to_owned(), document(&wrong)));
    }
    seeds
}

fn file(entry: &Entry) -> Vec<Field> {
    let (kind, size, offset, target, device) = match &entry.kind {
        EntryKind::File { size, extents: Extents::Contiguous { stream_offset } } => {
            ("reg", *size, *stream_offset, &b""[..], (0, 0))
        }
        EntryKind::File { .. } => panic!("no sparse file is in it"),
        EntryKind::Directory => ("dir", 0, 512, &b""[..], (0, 0)),
        EntryKind::Symlink { target } => ("symlink", 0, 512, &target[..], (0, 0)),
        EntryKind::HardLink { target } => ("hardlink", 0, 512, &target[..], (0, 0)),
        EntryKind::CharDevice { major, minor } => ("char", 0, 512, &b""[..], (*major, *minor)),
        EntryKind::BlockDevice { major, minor } => ("block", 0, 512, &b""[..], (*major, *minor)),
        EntryKind::Fifo => ("fifo", 0, 512, &b""[..], (0, 0)),
    };
    let mut records = vec![Field::Table(vec![text("mtime"), text("1.5")])];
    for xattr in &entry.xattrs {
        let key = [b"SCHILY.xattr.", &xattr.name[..]].concat();
        records.push(Field::Table(vec![Field::Bytes(key), Field::Bytes(xattr.value.to_vec())]));
    }
    let nanoseconds = i128::from(entry.mtime.seconds) * 1_000_000_000 + i128::from(entry.mtime.nanoseconds);
    let time = jiff::Timestamp::from_nanosecond(nanoseconds).unwrap().to_string();
    vec![
        Field::Bytes(entry.path.as_bytes().to_vec()),
        text(kind),
        Field::I64(offset as i64),
        Field::I64(size as i64),
        Field::Bytes(target.to_vec()),
        Field::I64(i64::from(entry.mode)),
        Field::U32(entry.uid),
        Field::U32(entry.gid),
        text("nobody"),
        Field::None,
        text(&time),
        Field::I64(i64::from(device.0)),
        Field::I64(i64::from(device.1)),
        Field::List(records),
    ]
}

#[test]
fn a_ztoc_leads_to_the_entries_and_to_every_byte() {
    let sample = Sample::new(tree());
    for is_first_version in [false, true] {
        let ztoc = sample.parse(&sample.ztoc(sample.files(), is_first_version)).unwrap();
        assert_eq!(ztoc.stream_bytes, sample.stream.len() as u64);
        let expected = shown(&sample.entries, &sample.stream, unchanged);
        assert_eq!(shown(&ztoc.entries, &sample.stream, unchanged), expected);
        let bytes = |path: &str| super::extents_of(&ztoc.entries, path).0;
        let members: Vec<u64> = ztoc.members.iter().map(|member| member.bytes).collect();
        assert_eq!(members.len(), 3);
        assert!(members.contains(&bytes("big")) && members.contains(&bytes("zeros")));
        let place = |offset| usize::try_from(offset).unwrap();
        for span in &ztoc.spans {
            let range = place(span.range.start)..place(span.range.end);
            assert_eq!(sha256(&sample.blob[range]), format!("sha256:{}", hex::encode(span.digest)));
        }
        assert_eq!(ztoc.points.count(), sample.points.len());
        assert!(ztoc.points.count() > 20 && ztoc.spans.len() == ztoc.points.count());
        assert_points(&sample, &ztoc);
    }
}

/// Asserts that the rest of the stream is decoded from each point.
fn assert_points(sample: &Sample, ztoc: &Ztoc) {
    let place = |offset| usize::try_from(offset).unwrap();
    for point in ztoc.points.points() {
        assert!(!matches!(&point.state, RestartState::Block(state) if state.member.is_some()));
        let mut decoder = Decoder::resume(Codec::Gzip, &point).unwrap();
        let rest = &sample.stream[place(point.stream_offset)..];
        let mut output = vec![0; rest.len() + 1];
        let input = &sample.blob[place(point.compressed_offset)..];
        assert_eq!(decoder.decode(input, &mut output).unwrap().written, rest.len());
        assert!(output.starts_with(rest), "{}", point.stream_offset);
        decoder.finish().unwrap();
    }
}

/// What zlib itself, driven as its example zran drives it, takes for places to begin at.
fn checkpoints_of_zlib(blob: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file.as_file(), blob).unwrap();
    let run = std::process::Command::new("python3")
        .args(["-c", include_str!("zran.py"), "262144"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}

#[test]
fn the_checkpoints_of_zlib_lead_to_every_byte() {
    // Noise of six bits a byte: it is worth compressing, so that no block is a stored one, which ends with its byte.
    let mut letters = noise(9_000_000);
    letters.iter_mut().for_each(|byte| *byte &= 0x3f);
    let sample = Sample::new(super::hostile::tar_of("letters", &letters));
    let stored = checkpoints_of_zlib(&sample.blob);
    let count = u32::from_le_bytes(stored[..4].try_into().unwrap());
    let mut ztoc = sample.ztoc(Vec::new(), false);
    let digests = (0..count).map(|_| text(&sha256(b""))).collect();
    ztoc[5] = Field::Table(vec![
        Field::None,
        Field::I32(count as i32 - 1),
        Field::List(digests),
        Field::Bytes(stored),
    ]);
    let ztoc = sample.parse(&ztoc).unwrap();
    assert!(count > 20 && ztoc.points.count() == count as usize);
    assert_points(&sample, &ztoc);
    let shares_a_byte = |pair: &[CompressedSpan]| pair[0].range.end > pair[1].range.start;
    assert!(ztoc.spans.windows(2).any(shares_a_byte), "no block ends within a byte");
}

/// A tar of two files with a zTOC of two spans or more.
fn small() -> Sample {
    let mut stream = super::hostile::tar_of("a", &[1; 700]);
    stream.truncate(1536);
    stream.extend_from_slice(&super::hostile::tar_of("b", &noise(900_000)));
    Sample::new(stream)
}

/// Bytes that cannot be compressed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rand::RngCore::fill_bytes(
        &mut <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(5),
        &mut noise,
    );
    noise
}

/// The field of a table, and of a table in it.
fn at<'a>(fields: &'a mut [Field], path: &[usize]) -> &'a mut Field {
    let (first, rest) = path.split_first().unwrap();
    match (&mut fields[*first], rest) {
        (field, []) => field,
        (Field::Table(fields) | Field::List(fields), rest) => at(fields, rest),
        _ => panic!("{path:?} is nowhere"),
    }
}

#[test]
fn a_ztoc_that_does_not_fit_its_layer_is_refused() {
    let sample = small();
    let right = sample.ztoc(sample.files(), false);
    assert!(sample.points.len() >= 2 && sample.parse(&right).is_ok());
    let file = |number: usize, field: usize| vec![4, 0, number, field];
    let stream_bytes = sample.stream.len() as i64;
    let invalid: Vec<(Vec<usize>, Field)> = vec![
        (vec![2], Field::I64(1)),
        (vec![2], Field::I64(-1)),
        (vec![3], Field::I64(-1)),
        (vec![3], Field::I64(1024)),
        (vec![5], Field::None),
        (vec![5, 1], Field::I32(0)),
        (vec![5, 1], Field::I32(-1)),
        (vec![5, 2, 0], text("sha256:00")),
        (vec![5, 3], Field::Bytes(vec![0; 12])),
        (vec![5, 3], Field::Bytes(vec![0xff; 32797])),
        (file(0, 0), text("../a")),
        (file(0, 0), text("/a")),
        (file(0, 0), text("")),
        (file(0, 0), text("a\0b")),
        (file(0, 0), text("a/")),
        (file(0, 1), text("chunk")),
        (file(0, 1), text("")),
        (file(0, 1), text("symlink")),
        (file(0, 2), Field::I64(0)),
        (file(0, 2), Field::I64(-512)),
        (file(0, 2), Field::I64(511)),
        (file(0, 2), Field::I64(1536)),
        (file(0, 2), Field::I64(i64::MAX - 511)),
        (file(0, 3), Field::I64(-1)),
        (file(0, 3), Field::I64(stream_bytes)),
        (file(0, 3), Field::I64(i64::MAX)),
        (file(0, 3), Field::I64(1536)),
        (file(0, 5), Field::I64(-1)),
        (file(0, 10), text("yesterday")),
    ];
    for (number, (path, field)) in invalid.into_iter().enumerate() {
        let mut wrong = right.clone();
        *at(&mut wrong, &path) = field;
        let error = sample.parse(&wrong).unwrap_err();
        let is_large = path == file(0, 3) && number == 25;
        assert!(error.kind() == ErrorKind::Invalid || is_large, "{path:?} {number}: {error:?}");
    }
    let sparse = Field::List(vec![Field::Table(vec![text("GNU.sparse.major"), text("1")])]);
    for (path, field) in [
        (vec![0], text("7.0")),
        (vec![5, 0], Field::U8(2)),
        (vec![3], Field::I64(i64::MAX)),
        (file(0, 13), sparse),
        (vec![5, 2, 0], text(&format!("sha512:{}", "0".repeat(128)))),
    ] {
        let mut wrong = right.clone();
        *at(&mut wrong, &path) = field;
        assert_eq!(sample.parse(&wrong).unwrap_err().kind(), ErrorKind::Unsupported, "{path:?}");
    }
}

#[test]
fn no_byte_of_a_ztoc_can_do_more_than_make_it_another_one() {
    let sample = small();
    let right = document(&sample.ztoc(sample.files(), false));
    let blob_bytes = sample.blob.len() as u64;
    // All but the windows, which are only bytes.
    let window = right.windows(64).position(|bytes| bytes == [0xee; 64]).unwrap_or(right.len());
    let end = window.min(right.len()).min(3000);
    for cut in (0..end).chain([right.len() - 1]) {
        let _ = parse(&right[..cut], blob_bytes);
    }
    for at in 0..end {
        for value in [0, 1, 0x7f, 0xff, right[at] ^ 4] {
            let mut wrong = right.clone();
            wrong[at] = value;
            let Ok(ztoc) = parse(&wrong, blob_bytes) else { continue };
            for entry in &ztoc.entries {
                if let EntryKind::File { size, extents: Extents::Contiguous { stream_offset } } = &entry.kind
                {
                    assert!(stream_offset + size <= ztoc.stream_bytes, "byte {at}");
                }
            }
            assert!(ztoc.spans.iter().all(|span| span.range.end <= blob_bytes), "byte {at}");
        }
    }
}
