//! The 512 bytes of one header: where each field lies is tar-core's knowledge, what it means is read here.
//!
//! A header is believed only after its checksum. The three dialects of the block differ in what lies at its end:
//! POSIX has a prefix of the name there, GNU has times and a sparse map, the oldest has nothing.

use tar_core::{EntryType, GNU_MAGIC, HEADER_SIZE, Header, USTAR_MAGIC};

use super::number::header_number;
use crate::base::{Error, ErrorKind, Result};
use crate::layer::Timestamp;

/// One block of an archive.
pub(super) type Block = [u8; HEADER_SIZE];

/// A header whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderBlock<'a> {
    header: &'a Header,
}

impl<'a> HeaderBlock<'a> {
    /// # Errors
    /// `Invalid` when the checksum is wrong, so that this is no header.
    pub(super) fn parse(block: &'a Block) -> Result<Self> {
        let header = Header::from_bytes(block);
        let stated = header_number(&header.as_ustar().cksum).ok().flatten();
        // The oldest writers took the bytes as signed.
        let signed = || -> i128 {
            let field = 148..156;
            let sum = |bytes: &[u8]| bytes.iter().map(|byte| i128::from(byte.cast_signed())).sum::<i128>();
            sum(block) - sum(&block[field]) + 8 * i128::from(b' ')
        };
        if stated == Some(i128::from(header.compute_checksum())) || stated == Some(signed()) {
            return Ok(Self { header });
        }
        Err(Error::new(ErrorKind::Invalid, "there is no tar header here: its checksum is wrong"))
    }

    pub(super) fn entry_type(self) -> EntryType {
        self.header.entry_type()
    }

    /// Bytes that follow the header and count as the entry's.
    pub(super) fn size(self) -> Result<u64> {
        let size = in_field("size", &self.header.as_ustar().size)?;
        let size = size.ok_or_else(|| Error::new(ErrorKind::Invalid, "the header gives no size"))?;
        fits("size", size)
    }

    /// Permission bits. Some writers put the file's type above them.
    pub(super) fn mode(self) -> Result<u32> {
        let mode: u64 = fits("mode", in_field("mode", &self.header.as_ustar().mode)?.unwrap_or_default())?;
        Ok((mode & 0o7777) as u32)
    }

    pub(super) fn uid(self) -> Result<u32> {
        fits("uid", in_field("uid", &self.header.as_ustar().uid)?.unwrap_or_default())
    }

    pub(super) fn gid(self) -> Result<u32> {
        fits("gid", in_field("gid", &self.header.as_ustar().gid)?.unwrap_or_default())
    }

    pub(super) fn mtime(self) -> Result<Timestamp> {
        let seconds = in_field("mtime", &self.header.as_ustar().mtime)?.unwrap_or_default();
        Ok(Timestamp { seconds: fits("mtime", seconds)?, nanoseconds: 0 })
    }

    /// Major and minor number of a device.
    pub(super) fn device(self) -> Result<(u32, u32)> {
        if !self.is_posix() && !self.is_gnu() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a header of the oldest kind holds no device numbers",
            ));
        }
        let fields = self.header.as_ustar();
        let number = |name, field: &[u8]| fits(name, in_field(name, field)?.unwrap_or_default());
        Ok((number("devmajor", &fields.dev_major)?, number("devminor", &fields.dev_minor)?))
    }

    /// The name in the header, with its prefix.
    pub(super) fn name(self) -> Vec<u8> {
        let prefix = if self.is_posix() { up_to_nul(self.prefix()) } else { b"" };
        let mut name = Vec::with_capacity(prefix.len() + 1 + 100);
        if !prefix.is_empty() {
            name.extend_from_slice(prefix);
            name.push(b'/');
        }
        name.extend_from_slice(self.header.path_bytes());
        name
    }

    pub(super) fn link_name(self) -> &'a [u8] {
        self.header.link_name_bytes()
    }

    /// GNU tar wrote it; then its end may hold a sparse map.
    pub(super) fn is_gnu(self) -> bool {
        self.header.as_gnu().magic == *GNU_MAGIC
    }

    /// The fields of the old GNU sparse map.
    ///
    /// # Errors
    /// `Invalid` when this is no GNU header.
    pub(super) fn sparse(self) -> Result<OldSparse<'a>> {
        if !self.is_gnu() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a sparse file in a header that is not GNU tar's",
            ));
        }
        let block = self.header.as_bytes();
        let gnu = self.header.as_gnu();
        let size = in_field("realsize", &gnu.realsize)?.unwrap_or_default();
        Ok(OldSparse {
            file_bytes: fits("realsize", size)?,
            descriptors: &block[386..482],
            has_more: has_more(gnu.isextended[0])?,
        })
    }

    /// Whatever follows the magic: writers disagree on the version that stands there.
    fn is_posix(self) -> bool {
        self.header.as_ustar().magic == *USTAR_MAGIC
    }

    fn prefix(self) -> &'a [u8] {
        let prefix = &self.header.as_ustar().prefix;
        // Star keeps times in the last 24 bytes.
        if self.header.as_bytes()[508..] == *b"tar\0" { &prefix[..131] } else { prefix }
    }
}

/// The sparse map of an old GNU header.
#[derive(Clone, Copy, Debug)]
pub(super) struct OldSparse<'a> {
    /// Bytes of the file, with its holes.
    pub(super) file_bytes: u64,
    /// Pairs of offset and length, of twelve bytes each number.
    pub(super) descriptors: &'a [u8],
    /// Whether a block of further descriptors follows.
    pub(super) has_more: bool,
}

/// Descriptors of a block that continues a sparse map, and whether yet another follows.
pub(super) fn continued_sparse(block: &Block) -> Result<(&[u8], bool)> {
    Ok((&block[..504], has_more(block[504])?))
}

fn has_more(flag: u8) -> Result<bool> {
    match flag {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::new(ErrorKind::Invalid, format!("a sparse map is continued by {flag:#x}"))),
    }
}

/// The number in the field `name`.
pub(super) fn in_field(name: &str, field: &[u8]) -> Result<Option<i128>> {
    header_number(field).map_err(|error| error.context(format!("the field {name}")))
}

/// `value` as the number that the field `name` must hold.
pub(super) fn fits<T: TryFrom<i128>>(name: &str, value: i128) -> Result<T> {
    let refused =
        |_| Error::new(ErrorKind::Invalid, format!("the field {name} holds {value}, out of its range"));
    T::try_from(value).map_err(refused)
}

fn up_to_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
