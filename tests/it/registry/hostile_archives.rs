//! Archives that no honest tool makes, or that two readers would understand differently.

use refmount::base::{Error, ErrorKind};
use refmount::registry::open;
use serde_json::json;

use super::archives::reference;
use super::{assert_reads, assert_says, options, small};
use crate::support::artifact::{ModelArtifact, digest_of};

/// One header, by its fields.
struct Header<'a> {
    name: &'a [u8],
    kind: u8,
    size: &'a [u8],
}

impl Header<'_> {
    fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        block[..self.name.len()].copy_from_slice(self.name);
        block[100..107].copy_from_slice(b"0000644");
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..124 + self.size.len()].copy_from_slice(self.size);
        block[136..147].copy_from_slice(b"14524770400");
        block[148..156].copy_from_slice(b"        ");
        block[156] = self.kind;
        block[257..265].copy_from_slice(if self.kind == b'S' { b"ustar  \0" } else { b"ustar\x0000" });
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// A header whose size is that of `body`, and `body` filled up.
fn entry(name: &str, kind: u8, body: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}", body.len());
    let mut bytes = Header { name: name.as_bytes(), kind, size: size.as_bytes() }.block().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A header alone, with the size field `size`.
fn header(name: &str, kind: u8, size: &[u8]) -> Vec<u8> {
    Header { name: name.as_bytes(), kind, size }.block().to_vec()
}

fn pax(records: &[u8], then: Vec<u8>) -> Vec<u8> {
    [entry("records", b'x', records), then].concat()
}

/// An archive of the artifact, without its end.
fn archive_of(artifact: &ModelArtifact) -> Vec<u8> {
    let index = json!({ "schemaVersion": 2, "manifests": [artifact.descriptor()] }).to_string();
    let mut bytes = entry("oci-layout", b'0', b"{\"imageLayoutVersion\": \"1.0.0\"}");
    bytes.extend(entry("index.json", b'0', index.as_bytes()));
    for blob in artifact.blobs().chain([&artifact.manifest]) {
        bytes.extend(entry(&format!("blobs/sha256/{}", digest_of(blob).hex()), b'0', blob));
    }
    bytes
}

fn ended(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0; 1024]].concat()
}

async fn error_of(bytes: &[u8]) -> Error {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.tar");
    refmount::base::durable::write(&path, bytes).unwrap();
    let error = open(&reference(&path, ""), &options()).unwrap().resolve().await.unwrap_err();
    assert_says(&error, &[&path.display().to_string()]);
    error
}

#[tokio::test]
async fn the_archives_below_are_refused_for_their_fault_alone() {
    let directory = tempfile::tempdir().unwrap();
    let artifact = small();
    let fine = [
        Vec::new(),
        entry("blobs/", b'5', b""),
        entry("./blobs/sha256", b'5', b""),
        entry("./", b'5', b""),
        entry("notes", b'0', b"not known"),
        entry("link", b'2', b""),
        entry("global", b'g', b"17 comment=hallo\n"),
    ];
    for (number, more) in fine.into_iter().enumerate() {
        let path = directory.path().join(number.to_string());
        let bytes = [ended(&[archive_of(&artifact), more].concat()), b"anything".to_vec()].concat();
        refmount::base::durable::write(&path, &bytes).unwrap();
        let source = open(&reference(&path, ""), &options()).unwrap();
        let manifest = source.resolve().await.unwrap_or_else(|error| panic!("{number}: {}", error.chain()));
        assert_eq!(manifest.bytes, artifact.manifest);
        assert_reads(&*source, &artifact, 0..200_000).await;
    }
}

#[tokio::test]
async fn names_that_lead_out_or_pretend_are_refused() {
    let hex = digest_of(b"x").hex().to_owned();
    let blob = format!("blobs/sha256/{hex}");
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (entry("../outside", b'0', b"x"), &["../outside", "\"..\""]),
        (entry("blobs/sha256/../../../x", b'0', b"x"), &["blobs/sha256/../../../x", "\"..\""]),
        (entry("..", b'5', b""), &["\"..\""]),
        (entry("/etc/passwd", b'0', b"x"), &["/etc/passwd", "absolute"]),
        (entry("/", b'5', b""), &["absolute"]),
        (pax(b"17 path=../other\n", entry("fine", b'0', b"x")), &["../other"]),
        (
            [entry("././@LongLink", b'L', b"/long\0"), entry("fine", b'0', b"x")].concat(),
            &["/long", "absolute"],
        ),
        ([entry("././@LongLink", b'L', &[b'a'; 5000]), entry("fine", b'0', b"")].concat(), &["5000", "4096"]),
        (entry("blobs/x", b'0', b"x"), &["blobs/x", "blobs/ALGORITHM/HEX"]),
        (entry(&format!("blobs/{hex}"), b'0', b"x"), &["blobs/ALGORITHM/HEX"]),
        (entry(&format!("{blob}/x"), b'0', b"x"), &["blobs/ALGORITHM/HEX"]),
        (entry("blobs/sha256/12", b'0', b"x"), &["blobs/sha256/12", "wrong length"]),
        (entry(&format!("blobs/sha256/{}", hex.to_uppercase()), b'0', b"x"), &["lower-case"]),
        (entry(&format!("blobs/md5/{}", &hex[..32]), b'0', b"x"), &["unknown algorithm"]),
        (entry(&blob, b'2', b""), &["place of a blob", "no regular file"]),
        (entry(&blob, b'1', b""), &["place of a blob", "no regular file"]),
        (entry(&blob, b'6', b""), &["place of a blob", "no regular file"]),
        (entry("blobs", b'2', b""), &["blobs/ALGORITHM/HEX"]),
        (entry("index.json", b'2', b""), &["index.json", "no regular file"]),
        (entry("oci-layout", b'1', b""), &["oci-layout", "no regular file"]),
    ];
    for (more, words) in cases {
        let error = error_of(&ended(&[archive_of(&small()), more].concat())).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.chain());
        assert_says(&error, words);
        assert_says(&error, &["make it anew"]);
    }
}

#[tokio::test]
async fn headers_that_readers_understand_differently_are_refused() {
    let base_256 = |first: u8, fill: u8, last: u8| {
        let mut size = [fill; 12];
        (size[0], size[11]) = (first, last);
        size
    };
    let mut wrapping = base_256(0x80, 0, 1);
    wrapping[3] = 1;
    let mut minus_512 = base_256(0xff, 0xff, 0);
    minus_512[10] = 0xfe;
    let mut damaged = entry("fine", b'0', b"x");
    damaged[0] = b'g';
    let zeros = vec![0; 512];
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (header("a", b'0', &base_256(0xff, 0xff, 0xff)), &["entry size"]),
        (header("a", b'0', &minus_512), &["negative"]),
        (header("a", b'0', &wrapping), &["larger than any file"]),
        (
            [header("a", b'L', &wrapping), vec![b'b'; 512], entry("a", b'0', b"x")].concat(),
            &["larger than any file"],
        ),
        (header("a", b'0', b"77777777777"), &["\"a\"", "goes beyond that"]),
        (header("a", b'0', &[&[0x80, 0, 0, 0, 0x7f], &[0xff; 7][..]].concat()), &["goes beyond that"]),
        (header("a", b'0', &[&[0x80, 0, 0, 0], &[0xff; 8][..]].concat()), &["at byte"]),
        (header("a", b'0', b"-0000000001"), &["at byte"]),
        (pax(b"29 size=18446744073709551615\n", entry("a", b'0', b"x")), &["goes beyond that"]),
        (pax(b"11 size=-1\n", entry("a", b'0', b"x")), &["size"]),
        (pax(b"9 size=1\n9 size?1\n", entry("a", b'0', b"x")), &["PAX"]),
        (pax(b"12 comment=a\nsize=0", entry("a", b'0', b"x")), &["PAX"]),
        (pax(b"0 a=b\n", entry("a", b'0', b"x")), &["PAX"]),
        (pax(b"999 a=b\n", entry("a", b'0', b"x")), &["PAX"]),
        (pax(b"6 a=b\n", pax(b"6 a=b\n", entry("a", b'0', b"x"))), &["PAX"]),
        (pax(b"6 a=b\n", [entry("g", b'g', b"6 a=b\n"), entry("a", b'0', b"x")].concat()), &["global"]),
        (pax(b"6 a=b\n", [zeros.clone(), entry("a", b'0', b"x")].concat()), &["zeros"]),
        ([zeros.clone(), entry("a", b'0', b"x")].concat(), &["zeros"]),
        (entry("g", b'g', b"9 size=1\n"), &["global", "size"]),
        (entry("g", b'g', b"10 path=a\n"), &["global", "path"]),
        (entry("a", b'5', b"a body"), &["\"a\"", "a body"]),
        (entry("a/", b'0', b"a body"), &["\"a/\"", "a body"]),
        (entry("a", b'2', b"a body"), &["\"a\"", "a body"]),
        (header("x", b'x', b"77777777777"), &["metadata exceeds limit"]),
        (pax(b"6 a=b\n", zeros.clone()), &["metadata"]),
        (damaged, &["at byte"]),
    ];
    for (more, words) in cases {
        let error = error_of(&ended(&[archive_of(&small()), more].concat())).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.chain());
        assert_says(&error, words);
    }
}

#[tokio::test]
async fn sparse_and_unknown_entries_are_named() {
    let v1 = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.realsize=9\n";
    let mut map = b"1\n0\n1\n".to_vec();
    map.resize(513, 0);
    for (more, words) in [
        (entry("a", b'S', b"x"), ["\"a\"", "sparse"]),
        (pax(v1, entry("b", b'0', &map)), ["\"b\"", "sparse"]),
        (pax(b"21 GNU.sparse.name=c\n", entry("b", b'0', b"x")), ["\"c\"", "sparse"]),
        (entry("a", b'M', b"x"), ["\"a\"", "type 'M'"]),
    ] {
        let error = error_of(&ended(&[archive_of(&small()), more].concat())).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.chain());
        assert_says(&error, &words);
    }
}

#[tokio::test]
async fn an_archive_that_is_cut_off_anywhere_is_refused() {
    let whole = ended(&archive_of(&ModelArtifact::new(1, &[("model", 700)])));
    for length in (0..whole.len()).step_by(256).chain([1, 511, 513, whole.len() - 1]) {
        let error = error_of(&whole[..length]).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{length}: {}", error.chain());
        let wanted = if length < 512 { "no tar archive" } else { "cut off" };
        assert_says(&error, &[wanted]);
    }
    let error = error_of(&[b'x'; 4096]).await;
    assert_says(&error, &["not a header of a tar archive"]);
}

#[tokio::test]
async fn documents_without_end_are_refused() {
    let small = small();
    for (name, bytes) in [("index.json", (4 << 20) + 1), ("oci-layout", (64 << 10) + 1)] {
        let more = entry(name, b'0', &vec![b' '; bytes]);
        let error = error_of(&ended(&[archive_of(&small), more].concat())).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_says(&error, &[name, "larger than"]);
    }
    let more = entry("oci-layout", b'0', b"{\"imageLayoutVersion\": \"2.0.0\"}");
    let error = error_of(&ended(&[archive_of(&small), more].concat())).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_says(&error, &["2.0.0"]);
    let error = error_of(&ended(&[archive_of(&small), entry("index.json", b'0', b"{")].concat())).await;
    assert_says(&error, &["malformed index.json in archive"]);
}
