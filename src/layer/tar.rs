//! The tar reader: a stream's bytes go in, piece by piece or skipped, and its entries come out in their order.
//!
//! It reads all dialects (the oldest, POSIX ustar, old GNU and GNU, PAX) in the one way in which GNU tar reads them.
//! Where readers are known to disagree on what an archive holds, it refuses the archive. It keeps no content: an
//! entry says where in the stream its bytes lie. Names become [`RelPath`]s or are refused; targets of links are data;
//! names of whiteouts are names like others; what several entries of one name mean is the merge's to say.
//!
//! Nothing here does I/O, and nothing is allocated because a header claims a size: memory grows with bytes that came,
//! up to the limits in [`crate::base::limits`]. The end of an archive is two blocks of zeros, after which only zeros
//! may follow; like other readers, this one takes a stream that ends between two entries as complete, and says so
//! ([`TarEnd`]).

use tar_core::{EntryType, HEADER_SIZE};

use self::budget::Budget;
use self::header::{Block, HeaderBlock};
use self::member::{Member, Step};
use self::pax::{Owner, PaxHeader};
use super::{Entry, RootAttributes};
use crate::base::limits::{ARCHIVE_EXTENSION_BYTES_MAX, BLOB_BYTES_MAX, PATH_BYTES_MAX};
use crate::base::{Error, ErrorKind, RelPath, Result};

pub(super) mod budget;
mod header;
mod member;
mod number;
pub(super) mod pax;
mod sparse;

/// Bytes of a block; everything in an archive begins at a multiple of it.
pub const BLOCK_BYTES: u64 = HEADER_SIZE as u64;

/// Bytes of a name that an error shows: enough to find the entry, and a line at most.
const SHOWN_BYTES_MAX: usize = 200;

/// What one archive entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TarItem {
    /// The attributes of the tree's root, which has no path: the entry `./`.
    Root(RootAttributes),
    /// A file, directory, link or device.
    Entry(Entry),
}

/// What [`TarReader::feed`] did.
#[derive(Debug)]
pub struct Fed {
    /// Bytes taken from the front of the input: all of them if there is no item.
    pub taken: usize,
    /// The entry whose headers ended with the last byte taken. Its body is next, [`TarReader::body_left`] bytes.
    pub item: Option<TarItem>,
}

/// How an archive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TarEnd {
    /// With two blocks of zeros.
    Marked,
    /// Between two entries, without the mark or with half of it. Such archives are in use, and read the same
    /// everywhere; but one that lost its last entries looks like this as well.
    Unmarked,
}

/// Reads one archive. See the module's text.
#[derive(Debug)]
pub struct TarReader {
    state: State,
    /// Stream offset of the next byte.
    stream_offset: u64,
    /// What has come of the current block.
    block: Block,
    filled: usize,
    /// Bytes of the current body with its padding that have not come yet.
    body_left: u64,
    pending: Pending,
    /// What the last global header set.
    defaults: Owner,
    /// The name and the stream offset of the header read last, for errors.
    current: (Vec<u8>, u64),
    budget: Budget,
    /// Once refused, an archive stays refused.
    failed: Option<Error>,
}

/// What the next block is.
#[derive(Debug)]
enum State {
    /// A header, or zeros.
    Header,
    /// A header, or the second half of the end.
    HalfEnded,
    /// A part of an extended header, of which `left` bytes have not come yet.
    Extension { kind: ExtensionKind, left: u64 },
    /// A part of a sparse file's map.
    SparseMap(Box<Member>),
    /// Zeros after the end.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExtensionKind {
    LongName,
    LongLink,
    Pax,
    GlobalPax,
}

/// What extended headers said about the entry that follows them.
#[derive(Debug, Default)]
struct Pending {
    long_name: Option<Box<[u8]>>,
    long_link: Option<Box<[u8]>>,
    pax: Option<PaxHeader>,
    /// Bytes of all of them.
    bytes: u64,
    /// What has come of the one that is being read.
    body: Vec<u8>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none()
    }
}

impl Default for TarReader {
    fn default() -> Self {
        Self::new()
    }
}

impl TarReader {
    /// A reader that stands at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Header,
            stream_offset: 0,
            block: [0; HEADER_SIZE],
            filled: 0,
            body_left: 0,
            pending: Pending::default(),
            defaults: Owner::default(),
            current: (Vec::new(), 0),
            budget: Budget::default(),
            failed: None,
        }
    }

    /// Takes the next bytes of the stream, up to the end of the next entry's headers.
    ///
    /// # Errors
    /// `Invalid` for what is no archive or is one that readers take in different ways; `Unsupported` for one beyond
    /// a limit or with entries that are not served. The error names entry and stream offset, and stays.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.take(input).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Bytes of the last entry's body, with its padding, that lie between here and the next header. A driver may
    /// feed them, or fetch none of them and [`skip`](Self::skip) them.
    #[must_use]
    pub fn body_left(&self) -> u64 {
        self.body_left
    }

    /// Offset in the stream of the byte that comes next.
    #[must_use]
    pub fn stream_offset(&self) -> u64 {
        self.stream_offset
    }

    /// Whether the end has been seen; what follows is nothing but padding.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Steps over `bytes` of the body as if they had been fed.
    ///
    /// # Errors
    /// `Usage` when the body has fewer left.
    pub fn skip(&mut self, bytes: u64) -> Result<()> {
        let left = self.body_left.checked_sub(bytes).ok_or_else(|| {
            let text = format!("cannot skip {bytes} bytes of a body that has {} left", self.body_left);
            Error::new(ErrorKind::Usage, text)
        })?;
        self.body_left = left;
        self.stream_offset += bytes;
        Ok(())
    }

    /// The stream has ended here.
    ///
    /// # Errors
    /// `Invalid` when it ends inside an entry; what refused the archive earlier.
    pub fn finish(&self) -> Result<TarEnd> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let truncated = |inside: &str| {
            let text = format!("the archive is truncated: it ends at {} in {inside}", self.stream_offset);
            Err(self.explain(Error::new(ErrorKind::Invalid, text)))
        };
        if self.body_left > 0 {
            return truncated(&format!("its body, of which {} bytes are missing", self.body_left));
        }
        match &self.state {
            State::Ended => Ok(TarEnd::Marked),
            _ if self.filled > 0 => truncated("the header after it"),
            State::Extension { .. } => truncated("an extended header"),
            State::SparseMap(_) => truncated("its sparse map"),
            State::Header | State::HalfEnded if !self.pending.is_empty() => {
                truncated("the entry that an extended header announces")
            }
            State::Header | State::HalfEnded => Ok(TarEnd::Unmarked),
        }
    }

    fn take(&mut self, input: &[u8]) -> Result<Fed> {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            if self.body_left > 0 {
                let bytes = self.body_left.min(rest.len() as u64);
                self.body_left -= bytes;
                self.stream_offset += bytes;
                // Not more than the input's length.
                taken += bytes as usize;
                continue;
            }
            if let State::Ended = self.state {
                self.check_after_end(rest)?;
                return Ok(Fed { taken: input.len(), item: None });
            }
            let bytes = rest.len().min(HEADER_SIZE - self.filled);
            self.block[self.filled..self.filled + bytes].copy_from_slice(&rest[..bytes]);
            self.filled += bytes;
            self.stream_offset += bytes as u64;
            taken += bytes;
            if self.filled == HEADER_SIZE {
                self.filled = 0;
                let block = self.block;
                let item = self.take_block(&block).map_err(|error| self.explain(error))?;
                if item.is_some() {
                    return Ok(Fed { taken, item });
                }
            }
        }
        Ok(Fed { taken, item: None })
    }

    fn check_after_end(&mut self, input: &[u8]) -> Result<()> {
        if let Some(at) = input.iter().position(|byte| *byte != 0) {
            let offset = self.stream_offset + at as u64;
            let text = format!(
                "data after the end of the archive, at stream offset {offset}: concatenated archives have to be \
                 packed as one"
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.stream_offset += input.len() as u64;
        Ok(())
    }

    fn take_block(&mut self, block: &Block) -> Result<Option<TarItem>> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header if *block == [0; HEADER_SIZE] => {
                self.state = State::HalfEnded;
                self.current = (Vec::new(), self.stream_offset - BLOCK_BYTES);
                if self.pending.is_empty() {
                    return Ok(None);
                }
                Err(invalid("the archive ends after an extended header that announces an entry"))
            }
            State::HalfEnded if *block == [0; HEADER_SIZE] => {
                self.state = State::Ended;
                Ok(None)
            }
            State::HalfEnded => Err(invalid("a single block of zeros, where the end has two")),
            State::Header => self.take_header(block),
            State::Extension { kind, left } => {
                let bytes = left.min(BLOCK_BYTES);
                // Not more than a block.
                let (body, padding) = block.split_at(bytes as usize);
                self.pending.body.extend_from_slice(body);
                let is_name = matches!(kind, ExtensionKind::LongName | ExtensionKind::LongLink);
                // GNU tar reads on to the first NUL, others to the size.
                if is_name && body.last() != Some(&0) && padding.first().is_some_and(|byte| *byte != 0) {
                    return Err(invalid("a long name goes on after its end"));
                }
                self.continue_extension(kind, left - bytes)?;
                Ok(None)
            }
            State::SparseMap(mut member) => {
                let step = member.take_map_block(block)?;
                self.advance(member, step)
            }
            State::Ended => Ok(None),
        }
    }

    fn take_header(&mut self, block: &Block) -> Result<Option<TarItem>> {
        self.current.0.clear();
        self.current.1 = self.stream_offset - BLOCK_BYTES;
        let header = HeaderBlock::parse(block)?;
        self.current.0 = header.name();
        let kind = match header.entry_type() {
            EntryType::GnuLongName => ExtensionKind::LongName,
            EntryType::GnuLongLink => ExtensionKind::LongLink,
            EntryType::XHeader => ExtensionKind::Pax,
            EntryType::XGlobalHeader => ExtensionKind::GlobalPax,
            _ => {
                let pending = std::mem::take(&mut self.pending);
                let (member, step) = Member::new(header, pending, self.defaults, &mut self.current.0)?;
                return self.advance(Box::new(member), step);
            }
        };
        self.begin_extension(kind, header.size()?)?;
        Ok(None)
    }

    fn begin_extension(&mut self, kind: ExtensionKind, size: u64) -> Result<()> {
        let is_second = match kind {
            ExtensionKind::LongName => self.pending.long_name.is_some(),
            ExtensionKind::LongLink => self.pending.long_link.is_some(),
            ExtensionKind::Pax => self.pending.pax.is_some(),
            ExtensionKind::GlobalPax => !self.pending.is_empty(),
        };
        if is_second {
            return Err(invalid("an extended header between another one of its kind and the entry of that"));
        }
        self.pending.bytes = self.pending.bytes.saturating_add(size);
        if self.pending.bytes > ARCHIVE_EXTENSION_BYTES_MAX {
            let text = format!(
                "extended headers of {} bytes, more than {ARCHIVE_EXTENSION_BYTES_MAX} (ARCHIVE_EXTENSION_BYTES_MAX)",
                self.pending.bytes
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        self.continue_extension(kind, size)
    }

    fn continue_extension(&mut self, kind: ExtensionKind, left: u64) -> Result<()> {
        if left > 0 {
            self.state = State::Extension { kind, left };
            return Ok(());
        }
        let body = std::mem::take(&mut self.pending.body);
        match kind {
            ExtensionKind::LongName => self.pending.long_name = Some(without_nuls(body)),
            ExtensionKind::LongLink => self.pending.long_link = Some(without_nuls(body)),
            ExtensionKind::Pax => self.pending.pax = Some(PaxHeader::parse(&body)?),
            ExtensionKind::GlobalPax => {
                self.pending.bytes = 0;
                self.defaults = PaxHeader::parse(&body)?.into_defaults()?.or(self.defaults);
            }
        }
        Ok(())
    }

    fn advance(&mut self, member: Box<Member>, step: Step) -> Result<Option<TarItem>> {
        match step {
            Step::MapFollows => {
                self.state = State::SparseMap(member);
                Ok(None)
            }
            Step::Complete => {
                let stored = member.stored();
                let body = stored.checked_next_multiple_of(BLOCK_BYTES);
                let end = body.and_then(|body| self.stream_offset.checked_add(body));
                let Some((body, _)) = body.zip(end.filter(|end| *end <= BLOB_BYTES_MAX)) else {
                    let text =
                        format!("a body of {stored} bytes ends beyond {BLOB_BYTES_MAX} (BLOB_BYTES_MAX)");
                    return Err(Error::new(ErrorKind::Unsupported, text));
                };
                let item = member.into_item(self.stream_offset)?;
                self.budget.charge(&item)?;
                self.body_left = body;
                Ok(Some(item))
            }
        }
    }

    /// The same error with the entry that it is about.
    fn explain(&self, error: Error) -> Error {
        let (name, offset) = &self.current;
        let entry = match name.as_slice() {
            [] => String::new(),
            name => {
                format!("tar entry {:?} ", String::from_utf8_lossy(&name[..name.len().min(SHOWN_BYTES_MAX)]))
            }
        };
        error.context(format!("{entry}at stream offset {offset}"))
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

/// A long name ends in a NUL that is not part of it.
fn without_nuls(mut name: Vec<u8>) -> Box<[u8]> {
    while name.last() == Some(&0) {
        name.pop();
    }
    name.into()
}

/// The name of an entry: none is the root's.
///
/// # Errors
/// `Invalid` for a name that leads out of the tree or has no place in it.
pub(super) fn path_of(name: &[u8]) -> Result<Option<RelPath>> {
    let is_root = !name.is_empty()
        && !name.starts_with(b"/")
        && name.split(|byte| *byte == b'/').all(|component| matches!(component, b"" | b"."));
    if name.len() > PATH_BYTES_MAX {
        return Err(invalid(format!("its name is longer than {PATH_BYTES_MAX} bytes (PATH_BYTES_MAX)")));
    }
    if is_root { Ok(None) } else { RelPath::parse(name).map(Some) }
}
