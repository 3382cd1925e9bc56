//! The bounds on all entries of an archive together: how many there are, and the memory that they take.

use super::TarItem;
use crate::base::limits::{ARCHIVE_ENTRIES_MAX, ARCHIVE_METADATA_BYTES_MAX};
use crate::base::{Error, ErrorKind, Result};
use crate::layer::{Entry, EntryKind, Extent, Extents, Xattr};

/// What an allocation takes beyond its bytes: the allocator's header and, on average, its rounding.
const ALLOCATION_BYTES: u64 = 16;

/// What has been handed out.
#[derive(Debug, Default)]
pub(in crate::layer) struct Budget {
    entries: u64,
    bytes: u64,
}

impl Budget {
    /// Counts `item`.
    ///
    /// # Errors
    /// `Unsupported` above a limit, which the error names.
    pub(in crate::layer) fn charge(&mut self, item: &TarItem) -> Result<()> {
        let refused = |text| Err(Error::new(ErrorKind::Unsupported, text));
        self.entries += 1;
        // An item is at most what its headers were, so that the sum cannot overflow before the stream ends.
        self.bytes += memory_of(item);
        if self.entries > ARCHIVE_ENTRIES_MAX {
            return refused(format!(
                "the archive has more than {ARCHIVE_ENTRIES_MAX} entries (ARCHIVE_ENTRIES_MAX)"
            ));
        }
        if self.bytes > ARCHIVE_METADATA_BYTES_MAX {
            return refused(format!(
                "the entries up to here take more than {ARCHIVE_METADATA_BYTES_MAX} bytes of memory \
                 (ARCHIVE_METADATA_BYTES_MAX)"
            ));
        }
        Ok(())
    }
}

fn memory_of(item: &TarItem) -> u64 {
    let (xattrs, rest) = match item {
        TarItem::Root(root) => (&root.xattrs, 0),
        TarItem::Entry(entry) => {
            (&entry.xattrs, allocated(entry.path.as_bytes().len()) + of_kind(&entry.kind))
        }
    };
    let xattrs: u64 = xattrs
        .iter()
        .map(|xattr| size_of::<Xattr>() as u64 + allocated(xattr.name.len()) + allocated(xattr.value.len()))
        .sum();
    size_of::<Entry>() as u64 + rest + xattrs
}

fn of_kind(kind: &EntryKind) -> u64 {
    match kind {
        EntryKind::File { extents: Extents::Sparse(extents), .. } => {
            allocated(extents.len() * size_of::<Extent>())
        }
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => allocated(target.len()),
        EntryKind::File { .. }
        | EntryKind::Directory
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
        | EntryKind::Fifo => 0,
    }
}

fn allocated(bytes: usize) -> u64 {
    if bytes == 0 { 0 } else { bytes as u64 + ALLOCATION_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::RootAttributes;
    use crate::layer::Timestamp;

    #[test]
    fn an_archive_without_end_fills_the_memory() {
        let xattr = Xattr { name: b"user.a".as_slice().into(), value: vec![0; 64 << 10].into() };
        let root = |xattrs: Box<[Xattr]>| {
            TarItem::Root(RootAttributes { mode: 0, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs })
        };
        let count_until_refused = |item: &TarItem| {
            let mut budget = Budget::default();
            let accepted = (0_u64..).take_while(|_| budget.charge(item).is_ok()).count() as u64;
            (accepted, budget.charge(item).unwrap_err().to_string())
        };
        let (entries, message) = count_until_refused(&root(Box::default()));
        assert!(entries <= ARCHIVE_ENTRIES_MAX && message.contains("ARCHIVE_"), "{entries}: {message}");
        assert!(entries > 1_000_000, "{entries}");
        let (large, message) = count_until_refused(&root([xattr].into()));
        assert!(large <= ARCHIVE_METADATA_BYTES_MAX / (64 << 10), "{large}");
        assert!(message.contains("ARCHIVE_METADATA_BYTES_MAX"), "{message}");
    }
}
