//! What the bytes of a layer are, whatever its media type says of them.
//!
//! An [`Encoding`] is decided by magic numbers in the first bytes alone, because the two often disagree and only the
//! bytes can be decoded. Nothing here decodes, and nothing here fails: what is not recognised is raw.

/// Bytes from the start of a blob after which [`Encoding::of`] says nothing else any more: a tar header.
pub const ENCODING_BYTES: usize = 512;

/// A compression that layers come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

/// What a blob is by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Compressed. What is inside shows in the first bytes of the stream.
    Compressed(Codec),
    /// An uncompressed tar.
    Tar,
    /// Anything else.
    Raw,
}

impl Encoding {
    /// What a blob or a stream is that begins with `first`: [`ENCODING_BYTES`] of it, or all of a shorter one.
    #[must_use]
    pub fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Compressed(Codec::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Compressed(Codec::Zstd),
            // A skippable frame. Layers with an index of their own may begin with one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Compressed(Codec::Zstd),
            _ if is_tar_header(first) => Self::Tar,
            _ => Self::Raw,
        }
    }
}

/// Whether `first` begins with a header that POSIX ustar or GNU tar wrote.
fn is_tar_header(first: &[u8]) -> bool {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let Some(header) = first.first_chunk::<512>() else { return false };
    if &header[257..262] != b"ustar" {
        return false;
    }
    let Some(stated) = octal(&header[CHECKSUM]) else { return false };
    // The field itself counts as spaces. Some old writers summed signed bytes, and all readers accept those.
    let bytes =
        || header.iter().enumerate().map(|(at, byte)| if CHECKSUM.contains(&at) { b' ' } else { *byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    stated == unsigned || stated == signed
}

/// The number in an octal field: blanks, digits, then NUL or a blank. None for anything else.
fn octal(field: &[u8]) -> Option<i64> {
    let text = field.trim_ascii_start();
    let digits = text.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    if digits == 0 || text[digits..].iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    Some(text[..digits].iter().fold(0, |sum, digit| sum * 8 + i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    fn tar(format: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::File::create(directory.path().join("na\u{ef}ve")).unwrap().write_all(b"x").unwrap();
        let run = Command::new("tar")
            .args([format, "-c", "-C"])
            .arg(directory.path())
            .arg("na\u{ef}ve")
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        assert!(run.status.success());
        run.stdout
    }

    #[test]
    fn every_dialect_of_tar_with_a_magic_is_tar_until_a_bit_of_its_header_is_wrong() {
        for format in ["--format=ustar", "--format=gnu", "--format=pax"] {
            let archive = tar(format);
            assert_eq!(Encoding::of(&archive[..ENCODING_BYTES]), Encoding::Tar, "{format}");
            assert_eq!(Encoding::of(&archive[..ENCODING_BYTES - 1]), Encoding::Raw, "{format}, short");
            for at in [0, 100, 151, 257, 300, 511] {
                let mut damaged = archive[..ENCODING_BYTES].to_vec();
                damaged[at] ^= 1;
                assert_eq!(Encoding::of(&damaged), Encoding::Raw, "{format}, byte {at}");
            }
        }
    }

    #[test]
    fn compressed_bytes_are_known_by_their_magic_and_short_ones_are_raw() {
        assert_eq!(Encoding::of(&[0x1f, 0x8b, 8, 0]), Encoding::Compressed(Codec::Gzip));
        assert_eq!(Encoding::of(&[0x28, 0xb5, 0x2f, 0xfd]), Encoding::Compressed(Codec::Zstd));
        for low in 0..16 {
            assert_eq!(Encoding::of(&[0x50 | low, 0x2a, 0x4d, 0x18]), Encoding::Compressed(Codec::Zstd));
        }
        for raw in [&b""[..], &[0x1f], &[0x28, 0xb5, 0x2f], &[0x60, 0x2a, 0x4d, 0x18], &[0; 512], b"GGUF"] {
            assert_eq!(Encoding::of(raw), Encoding::Raw, "{raw:?}");
        }
    }
}
