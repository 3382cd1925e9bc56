//! Results on standard output.

use std::io::{self, Write};

use bytesize::ByteSize;
use serde::Serialize;

use crate::base::{Error, ErrorKind};

use super::exit::Failure;

/// Writes `text` to standard output.
///
/// # Errors
/// [`Failure::BrokenPipe`] when nobody reads it; otherwise what the write failed with.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| write_failure(&error))
}

/// What a failed write to standard output means.
#[must_use]
pub(super) fn write_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::BrokenPipe;
    }
    let kind = Error::from(io::Error::from(error.kind())).kind();
    Error::new(kind, format!("cannot write to standard output: {error}")).into()
}

/// Writes `value` as one JSON document to standard output.
///
/// # Errors
/// As [`print()`].
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::with_source(ErrorKind::Io, "cannot write the result as JSON", error))?;
    text.push('\n');
    print(&text)
}

/// `bytes` for people.
#[must_use]
pub(super) fn human(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Lines with columns of equal width; the last column is as long as it is.
#[must_use]
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let padding = widths[column] - cell.chars().count() + 2;
                text.extend(std::iter::repeat_n(' ', padding));
            }
        }
        text.push('\n');
    }
    text
}

/// `text` without control characters, which could move the cursor of a terminal: names come from outside.
#[must_use]
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "long".into(), "x".into()], vec!["bbb".into(), "c".into(), "yy".into()]];
        assert_eq!(table(&rows), "a    long  x\nbbb  c     yy\n");
        assert_eq!(human(1 << 30), "1.0 GiB");
        assert_eq!(human(5), "5 B");
    }

    #[test]
    fn a_name_cannot_write_escape_sequences() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
