//! One entry while it is read: its header together with what extended headers said before it.

use tar_core::EntryType;

use super::header::{Block, HeaderBlock, continued_sparse};
use super::pax::{Owner, SparseForm};
use super::sparse::{MapText, SparseMap};
use super::{BLOCK_BYTES, Pending, TarItem, invalid, path_of};
use crate::base::limits::{BLOB_BYTES_MAX, PATH_BYTES_MAX};
use crate::base::{Error, ErrorKind, RelPath, Result};
use crate::layer::{Entry, EntryKind, Extents, RootAttributes, Timestamp, Xattr};

/// What comes after the blocks of an entry that have been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More of a sparse file's map.
    MapFollows,
    /// The body.
    Complete,
}

/// An entry whose headers are being read.
#[derive(Debug)]
pub(super) struct Member {
    /// None for the root.
    path: Option<RelPath>,
    kind: MemberKind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: Box<[Xattr]>,
    /// Bytes of the body that have not been taken as part of a map.
    stored: u64,
}

#[derive(Debug)]
enum MemberKind {
    File(FileForm),
    /// Anything else, which has no body.
    Bodiless(EntryKind),
}

#[derive(Debug)]
enum FileForm {
    Dense,
    Mapped {
        map: SparseMap,
        file_bytes: u64,
    },
    /// The form of old GNU: blocks of descriptors follow the header and do not count as its body.
    Descriptors {
        map: SparseMap,
        file_bytes: u64,
    },
    /// GNU's PAX form 1.0: the body begins with the map.
    MapInBody {
        text: MapText,
        file_bytes: u64,
    },
}

impl Member {
    /// The entry of `header`, and what comes next. Its full name is put into `name` as soon as it is known.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported`, as [`super::TarReader::feed`] says.
    pub(super) fn new(
        header: HeaderBlock<'_>,
        pending: Pending,
        defaults: Owner,
        name: &mut Vec<u8>,
    ) -> Result<(Self, Step)> {
        let pax = pending.pax.unwrap_or_default();
        let mut sparse = pax.sparse;
        // What is stored under GNU.sparse.name has a made-up path, for readers that know no sparse files.
        if let Some(path) = sparse.name.take().or(pax.path) {
            if pending.long_name.is_some() {
                return Err(invalid("its name stands in a GNU and in a PAX header"));
            }
            *name = path.into();
        } else if let Some(path) = pending.long_name {
            *name = path.into();
        }
        let path = path_of(name)?;
        let links = Links { long: pending.long_link, pax: pax.linkpath, header: header.link_name() };
        let mut is_directory = header.entry_type() == EntryType::Directory;
        let form = sparse.form()?;
        let (kind, stored) = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
                // A malformed field is refused also where another value counts: other readers go by it first.
                let in_header = header.size()?;
                let stored = pax.size.unwrap_or(in_header);
                // The oldest dialect has no directories, only files whose name ends in a slash.
                if name.ends_with(b"/") && matches!((stored, &form), (0, SparseForm::Dense)) {
                    is_directory = true;
                    (MemberKind::Bodiless(EntryKind::Directory), 0)
                } else {
                    (MemberKind::File(file_form(header, form, pax.size.is_some())?), stored)
                }
            }
            other => {
                check_bodiless(header, pax.size, &form)?;
                (MemberKind::Bodiless(bodiless(header, other, links)?), 0)
            }
        };
        if !is_directory && (path.is_none() || name.ends_with(b"/") || name.ends_with(b"/.")) {
            return Err(invalid("it has the name of a directory and is none"));
        }
        let owner = pax.owner.or(defaults);
        let member = Self {
            path,
            kind,
            mode: header.mode()?,
            uid: owner.uid.unwrap_or(header.uid()?),
            gid: owner.gid.unwrap_or(header.gid()?),
            mtime: owner.mtime.unwrap_or(header.mtime()?),
            xattrs: pax.xattrs.into(),
            stored,
        };
        let step = member.first_step(header)?;
        Ok((member, step))
    }

    fn first_step(&self, header: HeaderBlock<'_>) -> Result<Step> {
        match &self.kind {
            MemberKind::File(FileForm::Descriptors { .. }) if header.sparse()?.has_more => {
                Ok(Step::MapFollows)
            }
            MemberKind::File(FileForm::MapInBody { .. }) => Ok(Step::MapFollows),
            _ => Ok(Step::Complete),
        }
    }

    /// Takes the next block of the map that [`Step::MapFollows`] announced.
    ///
    /// # Errors
    /// `Invalid` for a malformed map; `Unsupported` for one above the limit.
    pub(super) fn take_map_block(&mut self, block: &Block) -> Result<Step> {
        let is_complete = match &mut self.kind {
            MemberKind::File(FileForm::Descriptors { map, .. }) => {
                let (descriptors, has_more) = continued_sparse(block)?;
                end_of_descriptors(map.push_descriptors(descriptors)?, has_more)?;
                !has_more
            }
            MemberKind::File(FileForm::MapInBody { text, .. }) => {
                self.stored = self
                    .stored
                    .checked_sub(BLOCK_BYTES)
                    .ok_or_else(|| invalid("its sparse map is longer than its body"))?;
                text.push_block(block)?
            }
            _ => true,
        };
        Ok(if is_complete { Step::Complete } else { Step::MapFollows })
    }

    /// Bytes of the body after the map, without padding.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// The entry, whose body begins at `stream_offset`.
    ///
    /// # Errors
    /// `Invalid` when a sparse map does not fit the body; `Unsupported` for a file beyond the limit.
    pub(super) fn into_item(self, stream_offset: u64) -> Result<TarItem> {
        let stored = self.stored;
        let kind = match self.kind {
            MemberKind::Bodiless(kind) => kind,
            MemberKind::File(form) => {
                let (map, size) = match form {
                    FileForm::Dense => (None, stored),
                    FileForm::Mapped { map, file_bytes } | FileForm::Descriptors { map, file_bytes } => {
                        (Some(map), file_bytes)
                    }
                    FileForm::MapInBody { text, file_bytes } => (Some(text.into_map()), file_bytes),
                };
                if size > BLOB_BYTES_MAX {
                    let text = format!("a file of {size} bytes, more than {BLOB_BYTES_MAX} (BLOB_BYTES_MAX)");
                    return Err(Error::new(ErrorKind::Unsupported, text));
                }
                let extents = match map {
                    None => Extents::Contiguous { stream_offset },
                    Some(map) => map.into_extents(size, stored, stream_offset)?,
                };
                EntryKind::File { size, extents }
            }
        };
        let Self { path, mode, uid, gid, mtime, xattrs, .. } = self;
        Ok(match path {
            Some(path) => TarItem::Entry(Entry { path, kind, mode, uid, gid, mtime, xattrs }),
            None => TarItem::Root(RootAttributes { mode, uid, gid, mtime, xattrs }),
        })
    }
}

fn file_form(header: HeaderBlock<'_>, form: SparseForm, has_pax_size: bool) -> Result<FileForm> {
    if header.entry_type() == EntryType::GnuSparse {
        if has_pax_size || !matches!(form, SparseForm::Dense) {
            return Err(invalid("an old GNU sparse file with a PAX header for its size or its map"));
        }
        let sparse = header.sparse()?;
        let mut map = SparseMap::default();
        end_of_descriptors(map.push_descriptors(sparse.descriptors)?, sparse.has_more)?;
        return Ok(FileForm::Descriptors { map, file_bytes: sparse.file_bytes });
    }
    Ok(match form {
        SparseForm::Dense => FileForm::Dense,
        SparseForm::Mapped { map, file_bytes } => FileForm::Mapped { map, file_bytes },
        SparseForm::MapInBody { file_bytes } => FileForm::MapInBody { text: MapText::default(), file_bytes },
    })
}

fn end_of_descriptors(has_ended: bool, has_more: bool) -> Result<()> {
    if has_ended && has_more {
        return Err(invalid("a sparse map is continued after its end"));
    }
    Ok(())
}

/// Whether readers look for the next header right after this one differs for entries that are no files, except
/// where there is nothing in between. All agree that the size in the header of a hard link is that of the file.
fn check_bodiless(header: HeaderBlock<'_>, pax_size: Option<u64>, form: &SparseForm) -> Result<()> {
    let in_header = if header.entry_type() == EntryType::Link { 0 } else { header.size()? };
    let size = pax_size.unwrap_or(in_header);
    if size != 0 {
        return Err(invalid(format!("it is no file and has a size, {size}")));
    }
    if !matches!(form, SparseForm::Dense) {
        return Err(invalid("it is no file and has a sparse map"));
    }
    Ok(())
}

/// Where a link's target can stand.
struct Links<'a> {
    long: Option<Box<[u8]>>,
    pax: Option<Box<[u8]>>,
    header: &'a [u8],
}

impl Links<'_> {
    fn target(self) -> Result<Box<[u8]>> {
        let target = match (self.long, self.pax) {
            (Some(_), Some(_)) => return Err(invalid("its target stands in a GNU and in a PAX header")),
            (Some(target), None) | (None, Some(target)) => target,
            (None, None) => self.header.into(),
        };
        if target.is_empty() || target.contains(&0) || target.len() > PATH_BYTES_MAX {
            let shown = String::from_utf8_lossy(&target[..target.len().min(80)]).into_owned();
            return Err(invalid(format!(
                "its target {shown:?} is empty, contains NUL or is longer than {PATH_BYTES_MAX} bytes"
            )));
        }
        Ok(target)
    }
}

fn bodiless(header: HeaderBlock<'_>, entry_type: EntryType, links: Links<'_>) -> Result<EntryKind> {
    Ok(match entry_type {
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => EntryKind::Symlink { target: links.target()? },
        EntryType::Link => EntryKind::HardLink { target: links.target()? },
        EntryType::Char => {
            let (major, minor) = header.device()?;
            EntryKind::CharDevice { major, minor }
        }
        EntryType::Block => {
            let (major, minor) = header.device()?;
            EntryKind::BlockDevice { major, minor }
        }
        EntryType::Fifo => EntryKind::Fifo,
        other => {
            let letter = other.to_byte().escape_ascii().to_string();
            let text = format!("entries of type '{letter}' are not served; pack it with --format=pax");
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
    })
}
