//! What an earlier process left in the directory: read, believed as far as its records go, and rid of what
//! belongs to nothing.
//!
//! Nothing here reads the bytes of a chunk: each is checked against its digest at its first use. Chunks that
//! were not durable are believed only within the boot that wrote them (see `map`).

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use crate::base::{CHUNK_BYTES, Digest, chunk_count, chunk_range};

use super::SegmentId;
use super::chunks::{Chunks, SEGMENT_BYTES_MAX};
use super::disk::{Disk, count};
use super::map::{self, HEADER_BYTES, Header, RECORD_BYTES, Record, Recorded, Salt};
use super::stored::StoredSegment;

/// The two files of a segment, as far as they were found.
#[derive(Debug, Default)]
struct Found {
    data: Option<PathBuf>,
    map: Option<PathBuf>,
}

/// All segments with at least one chunk. What is damaged, unowned or empty is removed.
pub(super) fn recover_segments(disk: &Disk) -> io::Result<Vec<StoredSegment>> {
    let root = disk.paths.segments();
    let mut found = BTreeMap::new();
    if root.try_exists()? {
        collect(disk, &root, &mut found)?;
    }
    let mut segments = Vec::new();
    for (id, files) in found {
        match files {
            Found { data: Some(data), map: Some(map) } => match recover_segment(disk, &id, &data, &map) {
                Ok(segment) => segments.push(segment),
                Err(why) => {
                    discard(&map, &why);
                    discard(&data, &why);
                }
            },
            Found { data, map } => {
                for path in data.iter().chain(&map) {
                    discard(path, "the other file of the segment is missing");
                }
            }
        }
    }
    Ok(segments)
}

/// Sorts the files below `directory` by segment; removes those that are none of ours. Follows no links.
fn collect(disk: &Disk, directory: &Path, found: &mut BTreeMap<SegmentId, Found>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(disk, &path, found)?;
            continue;
        }
        let id = if kind.is_file() { segment_of(&path) } else { None };
        match id {
            Some(id) if path == disk.paths.data(&id) => found.entry(id).or_default().data = Some(path),
            Some(id) if path == disk.paths.map(&id) => found.entry(id).or_default().map = Some(path),
            _ => discard(&path, "it belongs to no segment"),
        }
    }
    Ok(())
}

/// `<algorithm>/<two digits>/<hex>.<number>.<suffix>`; whether the place is right is for the caller to see.
fn segment_of(path: &Path) -> Option<SegmentId> {
    let algorithm = path.parent()?.parent()?.file_name()?.to_str()?;
    let mut parts = path.file_name()?.to_str()?.split('.');
    let layer = Digest::from_str(&format!("{algorithm}:{}", parts.next()?)).ok()?;
    let number = parts.next()?.parse().ok()?;
    Some(SegmentId { layer, number })
}

fn discard(path: &Path, why: &str) {
    tracing::warn!(path = %path.display(), why, "a cache file is removed");
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a cache file cannot be removed");
    }
}

/// The segment that the two files hold, or why they hold none.
fn recover_segment(
    disk: &Disk,
    id: &SegmentId,
    data_path: &Path,
    map_path: &Path,
) -> Result<StoredSegment, String> {
    let cannot = |error: io::Error| format!("it cannot be read: {error}");
    let bytes = std::fs::read(map_path).map_err(cannot)?;
    if bytes.is_empty() {
        return Err("it was only just being made".to_owned());
    }
    let header =
        Header::decode(&bytes).filter(|header| header.id == *id && header.bytes <= SEGMENT_BYTES_MAX);
    let Some(header) = header else {
        count(&disk.counters.damaged_chunks);
        return Err("the header of its map is damaged or of another version".to_owned());
    };
    let same_boot = header.boot.is_some() && header.boot == disk.boot;
    let data = std::fs::metadata(data_path).map_err(cannot)?;
    let mut chunks = Chunks::new(header.bytes);
    let mut stale = Vec::new();
    let salt = Salt::new(id, header.bytes);
    let records = bytes[HEADER_BYTES..].as_chunks::<RECORD_BYTES>().0;
    for (chunk, bytes) in (0..chunk_count(header.bytes)).zip(records) {
        match Record::decode(bytes, salt, chunk) {
            Recorded::Absent => {}
            Recorded::Present(record)
                if (record.durable || same_boot) && chunk_range(chunk, header.bytes).end <= data.len() =>
            {
                chunks.recover(chunk, record);
            }
            Recorded::Present(_) => stale.push(chunk),
            Recorded::Damaged => {
                count(&disk.counters.damaged_chunks);
                tracing::warn!(path = %map_path.display(), chunk, "a damaged record is dropped");
                stale.push(chunk);
            }
        }
    }
    if chunks.present() == 0 {
        return Err("nothing in it is to be believed".to_owned());
    }
    // Readers of a file that was handed over outlive a process, but not the kernel.
    let rebooted = header.boot.is_some() && disk.boot.is_some() && !same_boot;
    chunks.handed_over = header.handed_over && !rebooted;
    chunks.on_disk = true;
    let settled = Header { handed_over: chunks.handed_over, boot: disk.boot, ..header.clone() };
    let segment = StoredSegment::with_chunks(disk, id.clone(), header.bytes, chunks);
    let settle = || -> io::Result<()> {
        settle_map(&segment, (settled != header).then_some(&settled), &stale)?;
        settle_data(&segment, &data)
    };
    settle().map_err(|error| format!("it cannot be brought up: {error}"))?;
    Ok(segment)
}

/// Brings the map in line with what is believed. The stale records go before the header vouches, with this
/// boot, for those that are not durable.
fn settle_map(segment: &StoredSegment, header: Option<&Header>, stale: &[u64]) -> io::Result<()> {
    if header.is_none() && stale.is_empty() {
        return Ok(());
    }
    let map = open(&segment.map_path)?;
    for chunk in stale {
        map.write_all_at(&map::ABSENT, map::record_offset(*chunk))?;
    }
    match header {
        Some(header) => map.write_all_at(&header.encode(), 0),
        None => Ok(()),
    }
}

/// Gives the data file its length, and back to the file system what it holds beyond the chunks that are here:
/// an eviction or a store was cut short between the record and the bytes.
fn settle_data(segment: &StoredSegment, found: &Metadata) -> io::Result<()> {
    let (present_bytes, absent, handed_over) = {
        let chunks = segment.chunks();
        (chunks.present_bytes(), chunks.absent_runs(), chunks.handed_over)
    };
    // `st_blocks` counts 512 bytes each. Half a chunk more is what file systems take for their own purposes.
    let crowded = found.blocks() * 512 > present_bytes + CHUNK_BYTES / 2 && !handed_over;
    if found.len() == segment.bytes && !crowded {
        return Ok(());
    }
    let data = open(&segment.data_path)?;
    if found.len() != segment.bytes {
        data.set_len(segment.bytes)?;
    }
    if crowded {
        for chunks in absent {
            if let Err(error) = segment.punch(&data, chunks) {
                tracing::warn!(path = %segment.data_path.display(), %error, "cannot give back unused bytes");
                break;
            }
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
