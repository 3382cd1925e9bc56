//! Extended headers (POSIX.1-2001 pax, "pax Extended Header"): records of `length key=value`.
//!
//! tar-core splits the records; what it would pass over in silence is refused here, as is every record that says
//! something about the entry which readers take in different ways. Keys that nobody needs (`comment`, `atime`, names
//! of owners) are passed over.

use tar_core::PaxExtensions;

use super::number::{decimal, time};
use super::sparse::SparseMap;
use crate::base::limits::{XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::layer::{Timestamp, Xattr};

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

fn unsupported(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, why)
}

/// What one extended header says.
#[derive(Debug, Default)]
pub(super) struct PaxHeader {
    pub(super) path: Option<Box<[u8]>>,
    pub(super) linkpath: Option<Box<[u8]>>,
    pub(super) size: Option<u64>,
    pub(super) owner: Owner,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: PaxSparse,
}

/// The values that a global header may set for all entries after it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Owner {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
}

impl Owner {
    /// These values, and those of `defaults` where there are none.
    pub(super) fn or(self, defaults: Self) -> Self {
        Self {
            uid: self.uid.or(defaults.uid),
            gid: self.gid.or(defaults.gid),
            mtime: self.mtime.or(defaults.mtime),
        }
    }
}

impl PaxHeader {
    /// Reads the body of an extended header. Of records with the same key the last one counts.
    ///
    /// # Errors
    /// `Invalid` for records that are malformed, `Unsupported` for those that are beyond a limit or of a form that
    /// is not served.
    pub(super) fn parse(body: &[u8]) -> Result<Self> {
        let mut header = Self::default();
        let mut read = 0;
        for record in PaxExtensions::new(body) {
            let record = record.map_err(|error| invalid(format!("extended header, byte {read}: {error}")))?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            read += record_bytes(key.len() + value.len());
            header
                .take(key, value)
                .context(|| format!("the record {:?} of an extended header", String::from_utf8_lossy(key)))?;
        }
        // The iterator ends without a word where no length stands, and takes lengths in unusual writings.
        if read != body.len() {
            return Err(invalid(format!("extended header: a record before byte {read} is malformed")));
        }
        header.xattrs = in_order(std::mem::take(&mut header.xattrs))?.into();
        Ok(header)
    }

    /// The defaults that a global header sets.
    ///
    /// # Errors
    /// `Unsupported` when it holds what only an entry can have.
    pub(super) fn into_defaults(self) -> Result<Owner> {
        if self.path.is_some()
            || self.linkpath.is_some()
            || self.size.is_some()
            || !self.xattrs.is_empty()
            || self.sparse.is_mentioned
        {
            return Err(unsupported("a global extended header gives all entries one name, size or content"));
        }
        Ok(self.owner)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // GNU tar ends keys at NUL, with the records after them, and steps over white space before them.
        if matches!(key.first(), None | Some(b' ' | b'\t')) || key.contains(&0) {
            return Err(invalid("the key is empty, begins with white space or contains NUL"));
        }
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push(xattr(name, value)?);
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value);
        }
        let number = || decimal(value);
        let id = || u32::try_from(decimal(value)?).map_err(|_| invalid("a number of 32 bits is expected"));
        match key {
            // POSIX has an empty value take back what was said before; readers disagree on what is left then.
            b"path" | b"linkpath" if value.is_empty() => return Err(invalid("it is empty")),
            b"path" => self.path = Some(value.into()),
            b"linkpath" => self.linkpath = Some(value.into()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.owner.uid = Some(id()?),
            b"gid" => self.owner.gid = Some(id()?),
            b"mtime" => self.owner.mtime = Some(time(value)?),
            b"SCHILY.realsize" | b"SUN.holesdata" => return Err(unsupported("sparse files of this form")),
            _ if key.starts_with(b"GNU.volume.") => return Err(unsupported("archives of several volumes")),
            _ => {}
        }
        Ok(())
    }
}

/// Brings `xattrs` in order: each name once, with its last value, by name.
///
/// # Errors
/// `Unsupported` when the kernel could not list their names.
pub(in crate::layer) fn in_order(mut xattrs: Vec<Xattr>) -> Result<Box<[Xattr]>> {
    // Stable, so that the last of several comes last; then the order is turned round to keep that one.
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    xattrs.reverse();
    xattrs.dedup_by(|a, b| a.name == b.name);
    xattrs.reverse();
    let list: usize = xattrs.iter().map(|xattr| xattr.name.len() + 1).sum();
    if list > XATTR_LIST_BYTES_MAX {
        let text = format!(
            "the names of the extended attributes take {list} bytes, more than {XATTR_LIST_BYTES_MAX} \
             (XATTR_LIST_BYTES_MAX)"
        );
        return Err(unsupported(text));
    }
    Ok(xattrs.into())
}

/// Bytes of a record whose key and value have `payload` bytes, its own length included.
fn record_bytes(payload: usize) -> usize {
    // A space, an equals sign and a newline.
    let rest = payload + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    length
}

/// The attribute of the record `SCHILY.xattr.NAME` with this value.
///
/// # Errors
/// `Invalid` and `Unsupported` for what the kernel has no place for.
pub(in crate::layer) fn xattr(name: &[u8], value: &[u8]) -> Result<Xattr> {
    // An equals sign would end the key, so GNU tar writes it, and the percent sign, as in URLs.
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (rest.strip_prefix(b"%3D"), rest.strip_prefix(b"%25")) {
            (Some(after), _) => (b'=', after),
            (_, Some(after)) => (b'%', after),
            _ => (*first, after),
        };
        decoded.push(byte);
        rest = after;
    }
    if decoded.is_empty() || decoded.contains(&0) {
        return Err(invalid("the attribute's name is empty or contains NUL"));
    }
    if decoded.len() > XATTR_NAME_BYTES_MAX {
        let text = format!(
            "the attribute's name is longer than {XATTR_NAME_BYTES_MAX} bytes (XATTR_NAME_BYTES_MAX)"
        );
        return Err(unsupported(text));
    }
    if value.len() > XATTR_VALUE_BYTES_MAX {
        let text = format!(
            "the attribute's value is longer than {XATTR_VALUE_BYTES_MAX} bytes (XATTR_VALUE_BYTES_MAX)"
        );
        return Err(unsupported(text));
    }
    Ok(Xattr { name: decoded.into(), value: value.into() })
}

/// What the records `GNU.sparse.*` say (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// Whether there was any of them.
    pub(super) is_mentioned: bool,
    pub(super) name: Option<Box<[u8]>>,
    version: (Option<u64>, Option<u64>),
    /// `realsize`: bytes of the file in form 1.0.
    real_size: Option<u64>,
    /// `size`: bytes of the file in forms 0.0 and 0.1.
    size: Option<u64>,
    pairs: Option<u64>,
    /// Form 0.1: all pairs in one record.
    map: Option<SparseMap>,
    /// Form 0.0: each number in a record of its own.
    pieces: SparseMap,
    /// Form 0.0: an offset whose length has not come yet.
    offset: Option<u64>,
}

/// How the entry after an extended header holds its file.
#[derive(Debug)]
pub(super) enum SparseForm {
    /// Whole.
    Dense,
    /// In the pieces that the records gave.
    Mapped { map: SparseMap, file_bytes: u64 },
    /// In pieces that the first bytes of its body give.
    MapInBody { file_bytes: u64 },
}

impl PaxSparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.is_mentioned = true;
        let set = |slot: &mut Option<u64>| match slot.replace(decimal(value)?) {
            None => Ok(()),
            Some(_) => Err(invalid("it stands there twice")),
        };
        match key {
            b"major" => set(&mut self.version.0),
            b"minor" => set(&mut self.version.1),
            b"realsize" => set(&mut self.real_size),
            b"size" => set(&mut self.size),
            b"numblocks" => set(&mut self.pairs),
            b"offset" => set(&mut self.offset),
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(|| invalid("it follows no offset"))?;
                self.pieces.push(offset, decimal(value)?)
            }
            b"map" if self.map.is_none() => {
                self.map = Some(map_of(value)?);
                Ok(())
            }
            b"name" if self.name.is_none() && !value.is_empty() => {
                self.name = Some(value.into());
                Ok(())
            }
            _ => Err(invalid("it is unknown, empty or stands there twice")),
        }
    }

    /// # Errors
    /// `Invalid` when records are missing or of different forms, `Unsupported` for a form of another version.
    pub(super) fn form(self) -> Result<SparseForm> {
        if !self.is_mentioned {
            return Ok(SparseForm::Dense);
        }
        let has_pieces = self.pieces.taken() > 0;
        let has_map = has_pieces || self.map.is_some() || self.pairs.is_some() || self.offset.is_some();
        match (self.version, self.real_size, self.size) {
            ((Some(1), Some(0)), Some(file_bytes), None) if !has_map => {
                Ok(SparseForm::MapInBody { file_bytes })
            }
            ((None, None), None, Some(file_bytes))
                if self.offset.is_none() && !(has_pieces && self.map.is_some()) =>
            {
                let map = self.map.unwrap_or(self.pieces);
                match self.pairs {
                    Some(pairs) if pairs == map.taken() => Ok(SparseForm::Mapped { map, file_bytes }),
                    _ => Err(invalid(format!("a sparse map has {} pieces, not what it says", map.taken()))),
                }
            }
            ((Some(major), Some(minor)), ..) if (major, minor) != (1, 0) => {
                Err(unsupported(format!("sparse files of GNU's form {major}.{minor}")))
            }
            _ => Err(invalid("the records of a sparse file are incomplete or of different forms")),
        }
    }
}

/// Offsets and lengths in turn, separated by commas.
fn map_of(value: &[u8]) -> Result<SparseMap> {
    let mut map = SparseMap::default();
    if value.is_empty() {
        return Ok(map);
    }
    let mut numbers = value.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(|| invalid("an offset has no length"))?;
        map.push(decimal(offset)?, decimal(length)?)?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let bytes = record_bytes(key.len() + value.len());
        let record = format!("{bytes} {key}={value}\n").into_bytes();
        assert_eq!(record.len(), bytes);
        record
    }

    #[test]
    fn values_hold_newlines_and_equals_signs() {
        let body = [
            record("path", "a\n12 size=99\nb=c"),
            record("SCHILY.xattr.user.%3Da%25", "1\n2=3"),
            record("SCHILY.xattr.user.b", "old"),
            record("SCHILY.xattr.user.b", ""),
            record("comment", &"x".repeat(9990)),
            record("mtime", "-1.5"),
        ]
        .concat();
        let header = PaxHeader::parse(&body).unwrap();
        assert_eq!(header.path.as_deref(), Some(b"a\n12 size=99\nb=c".as_slice()));
        assert_eq!(header.size, None);
        let xattrs: Vec<_> = header.xattrs.iter().map(|xattr| (&*xattr.name, &*xattr.value)).collect();
        assert_eq!(xattrs, [(b"user.=a%".as_slice(), b"1\n2=3".as_slice()), (b"user.b", b"")]);
        assert_eq!(header.owner.mtime, Some(Timestamp { seconds: -2, nanoseconds: 500_000_000 }));
    }

    #[test]
    fn what_is_malformed_is_refused_and_not_passed_over() {
        for body in [
            "x path=a\n",
            "10 path=a\n",
            "8 path=a\n",
            "09 path=a\n",
            "9 path=a ",
            "10  path=a\n",
            "9 pa\0h=a\n",
            "5 =a\n",
            "9 pathxa\n",
            "9 path=a\njunk",
            "9 path=a\n\0\0\0",
            "9 path=a\n+9 path=b\n",
            "18446744073709551616 path=a\n",
            "0 path=a\n",
            "8 path=\n",
            "11 size=-1\n",
            "11 size=+1\n",
            "9 size=\n\n",
            "11 uid=0x1\n",
            "18 uid=4294967296\n",
            "26 GNU.sparse.numbytes=1\n",
        ] {
            assert!(PaxHeader::parse(body.as_bytes()).is_err(), "{body:?}");
        }
        assert_eq!(PaxHeader::parse(b"").unwrap().size, None);
    }

    #[test]
    fn sparse_records_of_different_forms_are_refused() {
        let form = |records: &[(&str, &str)]| {
            let body: Vec<u8> =
                records.iter().flat_map(|(key, value)| record(&format!("GNU.sparse.{key}"), value)).collect();
            PaxHeader::parse(&body)?.sparse.form()
        };
        let mapped = form(&[("size", "9"), ("numblocks", "2"), ("map", "0,512,800,1")]).unwrap();
        assert!(matches!(mapped, SparseForm::Mapped { file_bytes: 9, .. }));
        let one = [("major", "1"), ("minor", "0"), ("name", "x"), ("realsize", "9")];
        assert!(matches!(form(&one).unwrap(), SparseForm::MapInBody { file_bytes: 9 }));
        for records in [
            [("major", "1"), ("minor", "0"), ("size", "9")].as_slice(),
            &[("major", "1"), ("realsize", "9")],
            &[("major", "1"), ("minor", "1"), ("realsize", "9")],
            &[("major", "1"), ("minor", "0"), ("realsize", "9"), ("map", "0,1"), ("numblocks", "1")],
            &[("size", "9"), ("numblocks", "3"), ("map", "0,512,800,1")],
            &[("size", "9"), ("numblocks", "1"), ("map", "0,1,8")],
            &[("size", "9"), ("numblocks", "2"), ("map", "800,512,0,1")],
            &[("size", "9"), ("numblocks", "2"), ("map", "0,1,8,1")],
            &[("size", "9"), ("map", "0,1")],
            &[("size", "9"), ("numblocks", "1"), ("map", "0,1"), ("offset", "0"), ("numbytes", "1")],
            &[("size", "9"), ("numblocks", "1"), ("offset", "0")],
            &[("size", "9"), ("numblocks", "1"), ("offset", "0"), ("offset", "0"), ("numbytes", "1")],
            &[("size", "9"), ("size", "9"), ("numblocks", "0")],
            &[("name", "x")],
            &[("colour", "1")],
        ] {
            assert!(form(records).is_err(), "{records:?}");
        }
    }
}
