//! [`Document`]: a configuration file in TOML, and the places in it that errors name.
//!
//! Values may be secrets (headers do carry them), so an error names the line and the key and never quotes a value.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeTable;

use crate::base::{Error, ErrorKind, Result};
use crate::registry::local_file::read_bounded;

/// Bytes of one file: one that lists a thousand registries has a fifth of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Document {
    path: PathBuf,
    text: String,
    described_in: &'static str,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) line: usize,
}

impl Document {
    /// Reads the file at `path`, whose format is described in the document of that name.
    ///
    /// # Errors
    /// `NotFound` and `Io` for what cannot be read; `Invalid` for a file that is no text or too long.
    pub(super) fn read(path: &Path, described_in: &'static str) -> Result<Self> {
        let read = read_bounded(path, FILE_BYTES_MAX);
        let bytes = read.map_err(|error| error.context("cannot use the registries' configuration"))?;
        let path = path.to_owned();
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text, described_in }),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
                Err(Place { path, line }.error("it is not UTF-8; save it in that encoding"))
            }
        }
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// All of it as a `T`.
    ///
    /// # Errors
    /// `Invalid`, with the line.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|error| self.syntax_error(&error))
    }

    /// All of it as a table, for what is no `T` as a whole.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(super) fn table(&self) -> Result<Spanned<DeTable<'_>>> {
        DeTable::parse(&self.text).map_err(|error| self.syntax_error(&error))
    }

    /// What the parser says, for this file.
    pub(super) fn syntax_error(&self, error: &toml::de::Error) -> Error {
        let why = without_values(error.message()).trim_end().replace('\n', ", ");
        let place = self.place(&error.span().unwrap_or_default());
        place.error(format!("{why}; the format is described in {}", self.described_in))
    }

    /// The place of what spans `bytes`.
    pub(super) fn place(&self, bytes: &Range<usize>) -> Place {
        let before = self.text.as_bytes().get(..bytes.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Place { path: self.path.clone(), line }
    }

    /// The error for what spans `bytes`: `why`, and what to do.
    pub(super) fn error(&self, bytes: &Range<usize>, why: impl fmt::Display) -> Error {
        self.place(bytes).error(why)
    }
}

impl Place {
    /// The error that is to be corrected here.
    pub(super) fn error(&self, why: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Invalid, format!("bad configuration of registries in {self}: {why}"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.path.display(), self.line)
    }
}

/// The parser's message without the text that it found where it expected something else.
fn without_values(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected ")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}text{}", &message[..start], &message[end + 1..])
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &[u8]) -> Result<Document> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file.as_file(), text).unwrap();
        Document::read(file.path(), "the manual")
    }

    #[test]
    fn values_stay_out_of_errors() {
        #[derive(Debug, serde::Deserialize)]
        struct Flags {
            #[expect(dead_code, reason = "it is only parsed")]
            flag: bool,
        }
        let error =
            document(b"\nflag = \"a \\\"secret\\\", expected b\"").unwrap().parse::<Flags>().unwrap_err();
        let shown = error.chain();
        assert!(shown.contains(", line 2: invalid type: text, expected a boolean"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_file_that_is_no_text_is_refused_with_its_line() {
        let shown = document(b"a = 1\nb = \"\xff\"").unwrap_err().chain();
        assert!(shown.contains(", line 2: it is not UTF-8"), "{shown}");
    }
}
