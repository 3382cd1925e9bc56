//! Paths inside an artifact: relative, normalised, and never leading out of it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use super::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use super::{Error, ErrorKind, Result};

/// A non-empty relative path of plain names: no `.`, no `..`, no NUL, no leading or doubled slash, every
/// name and the whole within the kernel's limits. Bytes, because archives hold any.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// Normalises `name` as producers write it: `.` components and repeated or trailing slashes go.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an absolute name, `..`, NUL, a name that is empty or too long.
    pub fn parse(name: &[u8]) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("bad path {:?}: {why}", String::from_utf8_lossy(name)))
        };
        if name.starts_with(b"/") {
            return Err(invalid("it is absolute"));
        }
        if name.contains(&0) {
            return Err(invalid("it contains NUL"));
        }
        let mut path = Vec::with_capacity(name.len());
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(invalid("it contains \"..\"")),
                _ if component.len() > NAME_BYTES_MAX => {
                    return Err(invalid(&format!("a name is longer than {NAME_BYTES_MAX} bytes")));
                }
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        if path.is_empty() {
            return Err(invalid("it is empty"));
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(invalid(&format!("it is longer than {PATH_BYTES_MAX} bytes")));
        }
        Ok(Self(path.into()))
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the operating system.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The names, outermost first; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &OsStr> {
        self.0.split(|byte| *byte == b'/').map(OsStr::from_bytes)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl std::str::FromStr for RelPath {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::parse(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_what_producers_write() {
        for (name, path) in [("./a", "a"), ("a//b/", "a/b"), ("a/./b", "a/b"), ("..a/b..", "..a/b..")] {
            assert_eq!(name.parse::<RelPath>().unwrap().to_string(), path);
        }
    }

    #[test]
    fn refuses_what_leads_out_or_nowhere() {
        let long_name = "a".repeat(256);
        let long_path = "abc/".repeat(1100);
        for name in ["", ".", "./", "/", "/a", "..", "a/../b", "a/../../b", "a\0b", &long_name, &long_path] {
            assert_eq!(name.parse::<RelPath>().unwrap_err().kind(), ErrorKind::Invalid, "{name:?}");
        }
    }
}
