//! The inode numbers that were given out while a tree grew, noted for the next process: one record after the other,
//! each written before its number is told to anybody.
//!
//! ```text
//!  0  8  the number
//!  8  8  the mark of what it stands for
//! 16  4  bytes of the path
//! 20     the path
//! ```

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use crate::base::{Result, ResultExt as _};
use crate::tree::{GivenNumber, Growth, Ino};

/// Notes in `file` what `growth` gives out from now on.
///
/// # Errors
/// `Io` when the file cannot be used.
pub(super) fn note(growth: &Growth, file: &File) -> Result<()> {
    let file = file.try_clone().context(|| "cannot note the numbers of inodes")?;
    growth.tell_given(Box::new(move |given| {
        // Under the growth's lock, so that records do not mix.
        if let Err(error) = (&file).write_all(&encoded(given)) {
            tracing::error!(%error, "cannot note the number of an inode; the next process will not know it");
        }
    }));
    Ok(())
}

fn encoded(given: &GivenNumber) -> Vec<u8> {
    let length = u32::try_from(given.path.len()).unwrap_or_default();
    let mut record = Vec::with_capacity(20 + given.path.len());
    record.extend(given.ino.0.to_ne_bytes());
    record.extend(given.kind.to_ne_bytes());
    record.extend(length.to_ne_bytes());
    record.extend(&given.path);
    record
}

/// What `file` holds. A last record that was cut short was never told to anybody.
///
/// # Errors
/// `Io` when it cannot be read.
pub(super) fn read(mut file: &File) -> Result<Vec<GivenNumber>> {
    let mut bytes = Vec::new();
    let mut read = || {
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        file.seek(SeekFrom::End(0))
    };
    read().context(|| "cannot read the numbers of inodes")?;
    let mut rest = &bytes[..];
    Ok(std::iter::from_fn(|| decoded(&mut rest)).collect())
}

fn decoded(rest: &mut &[u8]) -> Option<GivenNumber> {
    let ino = u64::from_ne_bytes(*rest.first_chunk()?);
    let kind = u64::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
    let length = u32::from_ne_bytes(*rest.get(16..)?.first_chunk()?) as usize;
    let path = rest.get(20..20 + length)?.to_vec();
    *rest = rest.get(20 + length..)?;
    Some(GivenNumber { ino: Ino(ino), path, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_up_to_the_last_whole_record() {
        let given = |ino, path: &[u8]| GivenNumber { ino: Ino(ino), path: path.into(), kind: ino * 3 };
        let all = [given(1 << 62, b"a"), given((1 << 62) + 1, b""), given(7, b"a/b\xff/c")];
        let mut file = tempfile::tempfile().unwrap();
        for given in &all {
            file.write_all(&encoded(given)).unwrap();
        }
        let cut = encoded(&given(9, b"cut"));
        file.write_all(&cut[..cut.len() - 1]).unwrap();
        assert_eq!(read(&file).unwrap(), all);
    }
}
