//! [`Headers`]: the entries of a tar archive on disk, from its headers alone.
//!
//! One strict reading: what GNU tar and other readers would understand differently is refused, for it could show one
//! thing to who checked the archive and another to who uses it. The dialects are those of `tar-core`; what it lets
//! pass is checked here in addition: sizes in base 256 that overflow, PAX records that end in something else,
//! zero blocks between headers. An archive must end with its two zero blocks, since one that was cut off between two
//! entries would lack the later of two files of one name. What follows the end is not looked at, as GNU tar has it.

use std::ops::Range;

use tar_core::parse::{Limits, ParseEvent, Parser};
use tar_core::{EntryType, HEADER_SIZE, Header, PaxExtensions};

use crate::base::limits::PATH_BYTES_MAX;
use crate::base::{Error, ErrorKind, Result};
use crate::registry::local_file::LocalFile;

/// Bytes read at once: an entry's headers in one go, and the small files between two entries.
const WINDOW_BYTES: u64 = 16 << 10;

/// Bytes of long names and PAX records before one entry: what writers add to a file of a layout is below 1 KiB.
const METADATA_BYTES_MAX: u32 = 64 << 10;

/// Headers before one entry that say something about it: a long name, a long link, PAX records.
const METADATA_HEADERS_MAX: usize = 8;

/// Bytes of a header and of what bodies are filled up to.
const BLOCK_BYTES: u64 = HEADER_SIZE as u64;

/// One entry of the archive.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name, with the extensions applied; not checked otherwise.
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryType,
    /// Where in the archive its body is; within the archive's length.
    pub(super) body: Range<u64>,
}

/// Goes through the headers of one archive.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    file: &'a LocalFile,
    parser: Parser,
    /// Where the next header is.
    offset: u64,
    /// How many more entries there may be.
    left: usize,
    /// What was read last, and where it begins in the archive.
    window: Vec<u8>,
    window_offset: u64,
}

/// What stands at some offset.
enum Step {
    /// Something that needs this many bytes to be understood.
    Needs(usize),
    /// Something that says nothing by itself, of this many bytes.
    Passed(usize),
    /// The headers of an entry, of this many bytes, whose body has that many.
    Entry {
        consumed: usize,
        path: Vec<u8>,
        kind: EntryType,
        body_bytes: u64,
    },
    End,
}

impl<'a> Headers<'a> {
    /// From the beginning of `file`, through at most `entries_max` entries.
    pub(super) fn new(file: &'a LocalFile, entries_max: usize) -> Self {
        let limits = Limits {
            max_metadata_size: METADATA_BYTES_MAX,
            max_path_len: u32::try_from(PATH_BYTES_MAX).ok(),
            max_pending_entries: METADATA_HEADERS_MAX,
            ..Limits::default()
        };
        let parser = Parser::new(limits);
        Self { file, parser, offset: 0, left: entries_max, window: Vec::new(), window_offset: 0 }
    }

    /// The next entry; none at the end of the archive.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported`, naming the offset and what is wrong there; those of [`LocalFile::read`].
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut needed = HEADER_SIZE;
        loop {
            let offset = self.offset;
            self.fill(needed)?;
            let from = usize::try_from(offset - self.window_offset).unwrap_or(usize::MAX);
            let bytes = self.window.get(from..).unwrap_or_default();
            let step = step(&mut self.parser, bytes)
                .map_err(|error| error.context(format!("at byte {offset} of the archive")))?;
            match step {
                // It is never less than what was there, except for a parser that goes in circles.
                Step::Needs(more) if more > needed => needed = more,
                Step::Needs(_) => return Err(self.cut_off("what marks its end is missing")),
                Step::End => return Ok(None),
                Step::Passed(consumed) => {
                    self.count()?;
                    self.offset += consumed as u64;
                    needed = HEADER_SIZE;
                }
                Step::Entry { consumed, path, kind, body_bytes } => {
                    self.count()?;
                    let start = offset + consumed as u64;
                    let end = start.checked_add(body_bytes).filter(|end| *end <= self.file.bytes());
                    let Some(end) = end else {
                        let name = String::from_utf8_lossy(&path);
                        return Err(self.cut_off(&format!("the entry {name:?} goes beyond that")));
                    };
                    // Below the file's length, which fits an i64, nothing overflows.
                    self.offset = end.next_multiple_of(BLOCK_BYTES);
                    return Ok(Some(Entry { path, kind, body: start..end }));
                }
            }
        }
    }

    fn count(&mut self) -> Result<()> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(invalid("it has more entries than are read; choose the artifacts that it holds")),
        }
    }

    /// Has at least `needed` bytes from the current offset in the window.
    fn fill(&mut self, needed: usize) -> Result<()> {
        let window_end = self.window_offset + self.window.len() as u64;
        let end = self.offset.saturating_add(needed as u64);
        if self.window_offset <= self.offset && end <= window_end {
            return Ok(());
        }
        if end > self.file.bytes() {
            return Err(self.cut_off("what marks its end is missing"));
        }
        let end = end.max(self.offset + WINDOW_BYTES).min(self.file.bytes());
        self.window = self.file.read(self.offset..end)?;
        self.window_offset = self.offset;
        Ok(())
    }

    fn cut_off(&self, how: &str) -> Error {
        if self.file.bytes() < BLOCK_BYTES {
            return invalid("it is no tar archive");
        }
        invalid(&format!("it is cut off after {} bytes: {how}", self.file.bytes()))
    }
}

/// What stands at the beginning of `bytes`.
fn step(parser: &mut Parser, bytes: &[u8]) -> Result<Step> {
    let event = parser
        .parse(bytes)
        .map_err(|error| Error::with_source(ErrorKind::Invalid, "not a header of a tar archive", error))?;
    match event {
        ParseEvent::NeedData { min_bytes } => Ok(Step::Needs(min_bytes)),
        ParseEvent::End { .. } => Ok(Step::End),
        ParseEvent::SparseEntry { entry, .. } => Err(sparse(&entry.path)),
        ParseEvent::GlobalExtensions { consumed, pax_data } => {
            if check_headers(&bytes[..consumed])? != 1 {
                return Err(invalid("global PAX records stand between an entry's own headers"));
            }
            // Each reader has its own idea of how far these reach.
            match check_pax(pax_data)?.iter().find(|key| is_about_content(key)) {
                Some(key) => Err(invalid(&format!("a global PAX record sets {key:?}"))),
                None => Ok(Step::Passed(consumed)),
            }
        }
        ParseEvent::Entry { consumed, entry } => {
            check_headers(&bytes[..consumed])?;
            if check_pax(entry.pax.unwrap_or_default())?.iter().any(|key| key.starts_with("GNU.sparse.")) {
                return Err(sparse(&entry.path));
            }
            let (path, kind) = (entry.path.to_vec(), entry.entry_type);
            if !is_known(kind) {
                let (name, kind) = (entry.path_lossy(), char::from(kind.to_byte()));
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("the entry {name:?} has the type {kind:?}, which is not read"),
                ));
            }
            Ok(Step::Entry { consumed, path, kind, body_bytes: entry.size })
        }
    }
}

/// Checks the headers that one entry has, `bytes` in all, and counts them.
fn check_headers(mut bytes: &[u8]) -> Result<usize> {
    let mut count = 0;
    while let Some((block, rest)) = bytes.split_first_chunk::<HEADER_SIZE>() {
        if block.iter().all(|byte| *byte == 0) {
            // For some readers it ends the archive, for others not.
            return Err(invalid("a single block of zeros stands before it"));
        }
        let header = Header::from_bytes(block);
        // Base 256 in twelve bytes: a mark, three bytes that a length of a file never needs, and eight more.
        let size = header.as_ustar().size;
        if size[0] & 0x80 != 0 && size[..4] != [0x80, 0, 0, 0] {
            return Err(invalid("its size is negative or larger than any file"));
        }
        count += 1;
        let size = header
            .entry_size()
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "its size is not a number", error))?;
        let padded = size.checked_next_multiple_of(BLOCK_BYTES).and_then(|size| usize::try_from(size).ok());
        // The body of the last header, the entry's own, is not in `bytes`.
        bytes = padded.and_then(|padded| rest.get(padded..)).unwrap_or_default();
    }
    Ok(count)
}

/// Checks that `data` is made of PAX records from beginning to end, and returns their keys.
fn check_pax(data: &[u8]) -> Result<Vec<&str>> {
    let malformed = || invalid("its PAX records are malformed");
    let mut keys = Vec::new();
    let mut left = data;
    while !left.is_empty() {
        let digits = left.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&left[..digits])
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .ok_or_else(malformed)?;
        let record = left.get(..length).ok_or_else(malformed)?;
        let extension = PaxExtensions::new(record).next().and_then(Result::ok).ok_or_else(malformed)?;
        keys.push(std::str::from_utf8(extension.key_bytes()).map_err(|_| malformed())?);
        left = &left[length..];
    }
    Ok(keys)
}

/// Whether a PAX record changes which bytes an entry has, or its name.
fn is_about_content(key: &str) -> bool {
    matches!(key, "path" | "linkpath" | "size" | "hdrcharset") || key.starts_with("GNU.sparse.")
}

/// Whether readers agree about what follows a header of this kind.
fn is_known(kind: EntryType) -> bool {
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::Directory => true,
        EntryType::Link | EntryType::Symlink => true,
        EntryType::Char | EntryType::Block | EntryType::Fifo => true,
        EntryType::GnuLongName | EntryType::GnuLongLink | EntryType::GnuSparse => false,
        EntryType::XHeader | EntryType::XGlobalHeader | EntryType::Other(_) => false,
    }
}

fn sparse(path: &[u8]) -> Error {
    let name = String::from_utf8_lossy(path);
    let what = format!("the entry {name:?} is sparse, so that its bytes are not one range; archive it whole");
    Error::new(ErrorKind::Unsupported, what)
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, why)
}
