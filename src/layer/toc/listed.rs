//! One entry as a table of contents lists it, and the entry that it becomes: held to the same rules as one of a tar.

use crate::base::limits::{ARCHIVE_EXTENSION_BYTES_MAX, BLOB_BYTES_MAX, PATH_BYTES_MAX};
use crate::base::{Error, ErrorKind, Result};
use crate::layer::tar::pax::{in_order, xattr};
use crate::layer::tar::{TarItem, path_of};
use crate::layer::{Entry, EntryKind, Extents, RootAttributes, Timestamp, Xattr};

/// Bytes of a name that an error shows.
const SHOWN_BYTES_MAX: usize = 200;

/// Seconds of the first of January of the year 1, which is what Go's `time.Time` is when nobody has set it.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

/// What kind of thing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Dir,
    Reg,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
    /// More of the file before.
    Chunk,
}

/// An entry, numbers still unchecked.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: Kind,
    pub(super) size: i64,
    pub(super) target: &'a [u8],
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) mtime: &'a str,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) xattrs: Xattrs,
}

/// The extended attributes of one entry, which together are no more than the headers of a tar could hold: a table may
/// name the same large one again and again.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    all: Vec<Xattr>,
    bytes: u64,
}

impl Xattrs {
    /// Appends one; of several of one name the last one counts.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported` for what the kernel has no place for, and beyond the limit.
    pub(super) fn push(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let xattr = xattr(name, value)?;
        self.bytes = self.bytes.saturating_add(size_of::<Xattr>() as u64 + (name.len() + value.len()) as u64);
        if self.bytes > ARCHIVE_EXTENSION_BYTES_MAX {
            let text = format!(
                "its extended attributes take more than {ARCHIVE_EXTENSION_BYTES_MAX} bytes \
                 (ARCHIVE_EXTENSION_BYTES_MAX)"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        self.all.push(xattr);
        Ok(())
    }
}

impl Listed<'_> {
    /// The entry. A file's bytes lie at the start of the stream, until somebody knows better.
    ///
    /// # Errors
    /// `Invalid` and `Unsupported` for what a tar with this entry is refused for.
    pub(super) fn into_item(self) -> Result<TarItem> {
        let path = path_of(self.name)?;
        let is_directory = self.kind == Kind::Dir;
        if !is_directory && (path.is_none() || self.name.ends_with(b"/") || self.name.ends_with(b"/.")) {
            return Err(invalid("it has the name of a directory and is none"));
        }
        let kind = self.entry_kind()?;
        // Some writers put the file's type above the permissions.
        let mode = (number("mode", self.mode)? & 0o7777) as u32;
        let (uid, gid) = (small_number("uid", self.uid)?, small_number("gid", self.gid)?);
        let mtime = time(self.mtime)?;
        let xattrs = in_order(self.xattrs.all)?;
        Ok(match path {
            Some(path) => TarItem::Entry(Entry { path, kind, mode, uid, gid, mtime, xattrs }),
            None => TarItem::Root(RootAttributes { mode, uid, gid, mtime, xattrs }),
        })
    }

    fn entry_kind(&self) -> Result<EntryKind> {
        let device = || -> Result<(u32, u32)> {
            Ok((small_number("major", self.major)?, small_number("minor", self.minor)?))
        };
        Ok(match self.kind {
            Kind::Dir => EntryKind::Directory,
            Kind::Reg => {
                let size = number("size", self.size)?;
                if size > BLOB_BYTES_MAX {
                    let text = format!("a file of {size} bytes, more than {BLOB_BYTES_MAX} (BLOB_BYTES_MAX)");
                    return Err(Error::new(ErrorKind::Unsupported, text));
                }
                EntryKind::File { size, extents: Extents::Contiguous { stream_offset: 0 } }
            }
            Kind::Symlink => EntryKind::Symlink { target: self.target()? },
            Kind::Hardlink => EntryKind::HardLink { target: self.target()? },
            Kind::Char => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            Kind::Block => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            Kind::Fifo => EntryKind::Fifo,
            Kind::Chunk => return Err(invalid("it is a chunk without a file")),
        })
    }

    fn target(&self) -> Result<Box<[u8]>> {
        let target = self.target;
        if target.is_empty() || target.contains(&0) || target.len() > PATH_BYTES_MAX {
            return Err(invalid(format!(
                "its target {} is empty, contains NUL or is longer than {PATH_BYTES_MAX} bytes",
                shown(target)
            )));
        }
        Ok(target.into())
    }
}

/// `name` for an error.
pub(super) fn shown(name: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&name[..name.len().min(SHOWN_BYTES_MAX)]))
}

pub(super) fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

/// # Errors
/// `Invalid` for a negative one.
pub(super) fn number(name: &str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| invalid(format!("its {name} is negative, {value}")))
}

fn small_number(name: &str, value: i64) -> Result<u32> {
    u32::try_from(value).map_err(|_| invalid(format!("its {name}, {value}, is none of 32 bits")))
}

/// A time as RFC 3339 has it; an empty text is an unknown one.
fn time(text: &str) -> Result<Timestamp> {
    const NANOSECONDS: i128 = 1_000_000_000;
    if text.is_empty() {
        return Ok(Timestamp::default());
    }
    let parsed: jiff::Timestamp =
        text.parse().map_err(|_| invalid(format!("its time, {}, is none", shown(text.as_bytes()))))?;
    let all = parsed.as_nanosecond();
    // A second fits by far, and what is left is below a thousand million.
    let (seconds, nanoseconds) = (all.div_euclid(NANOSECONDS) as i64, all.rem_euclid(NANOSECONDS) as u32);
    if seconds == GO_ZERO_SECONDS && nanoseconds == 0 {
        return Ok(Timestamp::default());
    }
    Ok(Timestamp { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_attribute_named_without_end_fills_the_memory() {
        for value in [&[0; 64 << 10][..], b""] {
            let mut xattrs = Xattrs::default();
            let pushed = (0..).take_while(|_| xattrs.push(b"user.a", value).is_ok()).count();
            assert!((1..50_000).contains(&pushed), "{pushed}");
            let error = xattrs.push(b"user.a", value).unwrap_err().to_string();
            assert!(error.contains("ARCHIVE_EXTENSION_BYTES_MAX"), "{error}");
        }
    }

    #[test]
    fn times_before_1970_and_of_other_zones_are_read_and_unset_ones_are_zero() {
        let at = |text| time(text).map(|time| (time.seconds, time.nanoseconds)).unwrap();
        assert_eq!(at("1970-01-01T00:00:01Z"), (1, 0));
        assert_eq!(at("1970-01-01T02:00:00.5+02:00"), (0, 500_000_000));
        assert_eq!(at("1969-12-31T23:59:59.25Z"), (-1, 250_000_000));
        assert_eq!(at(""), (0, 0));
        assert_eq!(at("0001-01-01T00:00:00Z"), (0, 0));
        for wrong in ["yesterday", "2020-13-01T00:00:00Z", "2020-01-01"] {
            assert_eq!(time(wrong).unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
        }
    }
}
