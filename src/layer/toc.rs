//! Layers that carry an index of their own, or have one beside them: their entries are known before their contents.
//!
//! A [`Toc`] comes from eStargz ([`estargz`]) or zstd:chunked ([`zstd_chunked`]), whose tables of contents lie at the
//! end of the blob and are vouched for by the manifest; a [`ztoc::Ztoc`] comes from SOCI, in a blob of its own for which
//! nobody vouches but its author. Sans-IO: the bytes go in, whoever calls fetches them.
//!
//! **What these formats cannot hold.** Strings of JSON are Unicode, so that the writers replace other bytes of a name
//! by U+FFFD; names and targets with it are warned of. eStargz rounds times to seconds. Go's archive/tar, by which all
//! of them are written, takes an extended attribute without a value as none, and knows no sparse files of GNU tar.
//! Names of owners are not read.
//!
//! **The stream of a TOC** is virtual, see [`super::spans`]: all chunks with content, in the order of their compressed
//! offsets. A file whose chunks are neighbours there is in one piece; others, and those with holes, are in several.

use super::spans::SpanTable;
use super::{Entry, EntryKind, Extents, MEMBER_BYTES_MIN, Member, RootAttributes};

mod chunks;
mod document;
pub mod estargz;
mod listed;
pub mod zstd_chunked;
pub mod ztoc;

/// What a layer's own table of contents says.
#[derive(Clone, Debug)]
pub struct Toc {
    /// The entries in the order in which it lists them; of several with one path the last one counts.
    pub entries: Vec<Entry>,
    /// What it says of the root.
    pub root: Option<RootAttributes>,
    /// The way into the stream.
    pub spans: SpanTable,
    /// Bytes of the stream.
    pub stream_bytes: u64,
    /// The large files in the order of the stream.
    pub members: Vec<Member>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// The files of `entries` that have a segment of their own, in the order of the stream. A file that overlaps one before
/// it has none.
fn members_of(entries: &[Entry]) -> Vec<Member> {
    let mut members: Vec<Member> = entries
        .iter()
        .filter_map(|entry| match entry.kind {
            EntryKind::File { size, extents: Extents::Contiguous { stream_offset } }
                if size >= MEMBER_BYTES_MIN =>
            {
                Some(Member { stream_offset, bytes: size })
            }
            _ => None,
        })
        .collect();
    members.sort_unstable_by_key(|member| member.stream_offset);
    let mut end = 0;
    members.retain(|member| {
        let is_free = member.stream_offset >= end;
        if is_free {
            end = member.stream_offset.saturating_add(member.bytes);
        }
        is_free
    });
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Timestamp;

    #[test]
    fn only_large_files_in_one_piece_that_share_no_byte_have_members() {
        let file = |path: &str, size, stream_offset| Entry {
            path: path.parse().unwrap(),
            kind: EntryKind::File { size, extents: Extents::Contiguous { stream_offset } },
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Box::default(),
        };
        let mib = MEMBER_BYTES_MIN;
        let entries = [
            file("last", mib, 10 * mib),
            file("small", mib - 1, 4 * mib),
            file("first", 2 * mib, 0),
            file("overlaps", mib, mib),
            file("next", mib, 2 * mib),
        ];
        let offsets: Vec<_> = members_of(&entries).iter().map(|member| member.stream_offset / mib).collect();
        assert_eq!(offsets, [0, 2, 10]);
    }
}
