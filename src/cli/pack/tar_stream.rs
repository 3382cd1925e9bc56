//! A tar archive that is made while it is read: PAX (POSIX.1-2001), entry after entry, nothing kept but one header.
//!
//! It depends on its members alone: no owner's names, no time of making, no number of a device or an inode. A header
//! has an extended one before it only when it cannot say something itself.

use std::fs::File;
use std::io::{self, Read, Take};
use std::path::PathBuf;

use tar::{Builder, EntryType, Header};

use super::{changed, version};
use crate::base::RelPath;
use crate::cli::progress::Progress;
use crate::layer::Timestamp;

/// Bytes of a block; everything in an archive fills whole ones.
const BLOCK_BYTES: u64 = 512;
/// Bytes of zeros that end an archive.
const END_BYTES: u64 = 2 * BLOCK_BYTES;
/// The largest numbers of the octal fields of seven and of eleven digits.
const SMALL_NUMBER_MAX: u64 = 0o7_777_777;
const LARGE_NUMBER_MAX: u64 = 0o77_777_777_777;

/// An entry to be written.
#[derive(Clone, Debug)]
pub(super) struct TarMember {
    pub(super) path: RelPath,
    pub(super) content: Content,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
}

/// What a [`TarMember`] is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Directory,
    /// The file at `source`, which had this version when it was found.
    File {
        source: PathBuf,
        found: (i64, i64, u64),
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A further name of a member before it.
    HardLink {
        target: RelPath,
    },
}

/// The archive of `members`, in their order.
pub(super) struct TarStream<'a> {
    members: std::slice::Iter<'a, TarMember>,
    progress: &'a Progress,
    /// What goes out next: a header, or what fills a block.
    pending: io::Cursor<Vec<u8>>,
    /// The file whose bytes go out then.
    file: Option<OpenFile<'a>>,
    has_ended: bool,
}

struct OpenFile<'a> {
    source: &'a PathBuf,
    found: (i64, i64, u64),
    reader: Take<File>,
}

impl<'a> TarStream<'a> {
    pub(super) fn new(members: &'a [TarMember], progress: &'a Progress) -> Self {
        let pending = io::Cursor::default();
        Self { members: members.iter(), progress, pending, file: None, has_ended: false }
    }

    /// Goes on to the next member, or to the end; false behind it.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(member) = self.members.next() else {
            // Whoever asks again after the end gets nothing again.
            if !self.has_ended {
                self.pending = io::Cursor::new(vec![0; END_BYTES as usize]);
            }
            return Ok(!std::mem::replace(&mut self.has_ended, true));
        };
        self.progress.name(&member.path.to_string());
        if let Content::File { source, found } = &member.content {
            let explain =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", source.display()));
            let file = File::open(source).map_err(explain)?;
            let metadata = file.metadata().map_err(explain)?;
            if !metadata.is_file() || version(&metadata) != *found {
                return Err(io::Error::other(changed(source)));
            }
            self.file = Some(OpenFile { source, found: *found, reader: file.take(found.2) });
        }
        self.pending = io::Cursor::new(headers(member)?);
        Ok(true)
    }

    /// Reads from the open file; at its end, checks that it is the one that was found, and fills the last block.
    fn read_file(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(open) = &mut self.file else { return Ok(0) };
        let count = open.reader.read(buffer)?;
        self.progress.advance(count as u64);
        if count == 0 {
            let now = open.reader.get_ref().metadata()?;
            if open.reader.limit() > 0 || version(&now) != open.found {
                return Err(io::Error::other(changed(open.source)));
            }
            let bytes = open.found.2;
            let fill = bytes.next_multiple_of(BLOCK_BYTES) - bytes;
            self.pending = io::Cursor::new(vec![0; fill as usize]);
            self.file = None;
        }
        Ok(count)
    }
}

impl Read for TarStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let mut count = self.pending.read(buffer)?;
            if count == 0 {
                count = self.read_file(buffer)?;
            }
            if count > 0 {
                return Ok(count);
            }
            let is_between =
                self.file.is_none() && self.pending.position() >= self.pending.get_ref().len() as u64;
            if is_between && !self.advance()? {
                return Ok(0);
            }
        }
    }
}

/// The headers of `member`.
fn headers(member: &TarMember) -> io::Result<Vec<u8>> {
    let mut header = Header::new_ustar();
    let mut records: Vec<(&str, Vec<u8>)> = Vec::new();
    let (kind, size, link) = match &member.content {
        Content::Directory => (EntryType::Directory, 0, None),
        Content::File { found, .. } => (EntryType::Regular, found.2, None),
        Content::Symlink { target } => (EntryType::Symlink, 0, Some(target.as_slice())),
        Content::HardLink { target } => (EntryType::Link, 0, Some(target.as_bytes())),
    };
    header.set_entry_type(kind);
    header.set_mode(member.mode);
    let mut path = member.path.as_bytes().to_vec();
    if kind == EntryType::Directory {
        path.push(b'/');
    }
    if let Some(ustar) = header.as_ustar_mut() {
        put_text(&mut ustar.name, &path, "path", &mut records);
        put_text(&mut ustar.linkname, link.unwrap_or_default(), "linkpath", &mut records);
    }
    let mut number = |name: &'static str, value: u64, max: u64| {
        if value > max {
            records.push((name, value.to_string().into()));
        }
        if value > max { 0 } else { value }
    };
    header.set_size(number("size", size, LARGE_NUMBER_MAX));
    header.set_uid(number("uid", member.uid.into(), SMALL_NUMBER_MAX));
    header.set_gid(number("gid", member.gid.into(), SMALL_NUMBER_MAX));
    let seconds = u64::try_from(member.mtime.seconds).ok().filter(|seconds| *seconds <= LARGE_NUMBER_MAX);
    if seconds.is_none() || member.mtime.nanoseconds != 0 {
        records.push(("mtime", decimal(member.mtime).into()));
    }
    header.set_mtime(seconds.unwrap_or_default());
    header.set_cksum();

    let mut builder = Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().map(|(name, value)| (*name, value.as_slice())))?;
    builder.append(&header, io::empty())?;
    Ok(std::mem::take(builder.get_mut()))
}

/// Puts `text` into the field, and as a record beside it if it is too long.
fn put_text(field: &mut [u8], text: &[u8], name: &'static str, records: &mut Vec<(&str, Vec<u8>)>) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
    if text.len() > field.len() {
        records.push((name, text.to_vec()));
    }
}

/// A time in PAX: seconds with a fraction, both of one sign.
fn decimal(time: Timestamp) -> String {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (seconds, fraction) =
        (nanoseconds.unsigned_abs() / 1_000_000_000, nanoseconds.unsigned_abs() % 1_000_000_000);
    let text = format!("{sign}{seconds}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A reader that digests what goes through it.
pub(super) struct Digesting<'a, R> {
    pub(super) reader: R,
    pub(super) hasher: &'a mut crate::base::Hasher,
}

impl<R: Read> Read for Digesting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
