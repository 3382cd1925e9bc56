//! The tar formats: the files of each kind become one archive.
//!
//! Files keep modes, owners, times and the names that they share; extended attributes are not packed. A symbolic link
//! stays one if it leads to something inside the directory without leaving it on the way: links mean the same
//! wherever the artifact is mounted. An archive holds the directories on the way to its entries; those that hold
//! nothing stand in the first one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::compression::Compression;
use super::tar_stream::{Content, Digesting, TarMember, TarStream};
use super::{Job, Outcome, Walked, mtime, nothing, refused, version, walk};
use crate::artifact::pack::{self, FileKind, PackedArchive};
use crate::base::{Algorithm, Hasher, RelPath, Result, ResultExt as _};
use crate::cli::progress::Progress;
use crate::registry::LayoutWriter;

/// Links that are followed on the way to one file, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Stores the archives of what lies below `directory`, which is canonical.
///
/// # Errors
/// `Usage` for what cannot be packed, naming it; `Io`.
pub(super) fn pack(directory: &Path, job: &Job<'_>, compression: Compression) -> Result<Outcome> {
    let archives = Archives::find(directory, job)?;
    if archives.files == 0 {
        return Err(nothing(directory));
    }
    let writer = LayoutWriter::open(job.layout)?;
    let progress = Progress::bytes(archives.bytes);
    let mut packed = Vec::new();
    for (kind, members) in &archives.members {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let archive = Digesting { reader: TarStream::new(members, &progress), hasher: &mut hasher };
        let (digest, size) = writer
            .add_blob(compression.of(archive)?, &mut |_| ())
            .context(|| format!("cannot pack {}", directory.display()))?;
        let diff_id = hasher.finish();
        packed.push(PackedArchive { kind: *kind, digest, size, diff_id, compression: compression.codec() });
    }
    let packed = pack::archive_documents(packed, job.created)?;
    Ok(Outcome { writer, packed, files: archives.files, bytes: archives.bytes })
}

/// What goes into each archive, in the order of the paths.
#[derive(Debug, Default)]
struct Archives {
    members: BTreeMap<FileKind, Vec<TarMember>>,
    /// Files and links.
    files: usize,
    /// Bytes of all files, those of several names once.
    bytes: u64,
}

impl Archives {
    fn find(directory: &Path, job: &Job<'_>) -> Result<Self> {
        let mut archives = Self::default();
        let mut directories: Vec<TarMember> = Vec::new();
        // The first name of each file that has several, and where that went.
        let mut first_names: HashMap<(u64, u64), (RelPath, FileKind)> = HashMap::new();
        for Walked { path, source, metadata } in walk(directory)? {
            let member = |content| TarMember {
                path: path.clone(),
                content,
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                mtime: mtime(&metadata, job.epoch),
            };
            let mut kind = kind_of(&path);
            if metadata.is_dir() {
                directories.push(member(Content::Directory));
                continue;
            }
            let content = if metadata.is_symlink() {
                Content::Symlink { target: target(directory, &source)? }
            } else if !metadata.is_file() {
                return Err(refused(&source, "it is neither a regular file, a directory nor a link"));
            } else if let Some((first, its_kind)) = first_names.get(&inode(&metadata)) {
                // In the archive that has the file.
                kind = *its_kind;
                Content::HardLink { target: first.clone() }
            } else {
                if metadata.nlink() > 1 {
                    first_names.insert(inode(&metadata), (path.clone(), kind));
                }
                archives.bytes += metadata.len();
                Content::File { found: version(&metadata), source: source.clone() }
            };
            archives.files += 1;
            archives.members.entry(kind).or_default().push(member(content));
        }
        archives.add_directories(directories);
        Ok(archives)
    }

    fn add_directories(&mut self, directories: Vec<TarMember>) {
        let mut empty: HashSet<RelPath> =
            directories.iter().map(|directory| directory.path.clone()).collect();
        let mut needed: BTreeMap<FileKind, HashSet<RelPath>> = BTreeMap::new();
        for (kind, members) in &self.members {
            let paths = needed.entry(*kind).or_default();
            for parent in members.iter().flat_map(|member| parents(&member.path)) {
                empty.remove(&parent);
                paths.insert(parent);
            }
        }
        // Those on the way to an empty one are empty as well, or in some archive already.
        if let Some(first) = needed.values_mut().next() {
            first.extend(empty.iter().flat_map(parents).collect::<Vec<_>>());
            first.extend(empty);
        }
        for (kind, members) in &mut self.members {
            let Some(paths) = needed.get(kind) else { continue };
            members.extend(directories.iter().filter(|directory| paths.contains(&directory.path)).cloned());
            members.sort_by(|a, b| a.path.cmp(&b.path));
        }
    }
}

/// The kind of the file at `path`, by its name.
fn kind_of(path: &RelPath) -> FileKind {
    let name = path.components().next_back().unwrap_or_default();
    FileKind::of(&name.to_string_lossy())
}

fn inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// The directories on the way to `path`.
fn parents(path: &RelPath) -> Vec<RelPath> {
    let bytes = path.as_bytes();
    let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.filter_map(|(at, _)| RelPath::parse(&bytes[..at]).ok()).collect()
}

/// The target of the link `source` below `directory`.
///
/// # Errors
/// `Usage` when it does not lead to something inside, or leaves the directory on the way.
fn target(directory: &Path, source: &Path) -> Result<Vec<u8>> {
    let cannot_read = || format!("cannot read {}", source.display());
    let target = std::fs::read_link(source).context(cannot_read)?;
    let refused = |why: &str| refused(source, &format!("it is a symbolic link {why}; copy what it leads to"));
    let mut reached = source.parent().unwrap_or(directory).to_owned();
    let mut rest: Vec<OsString> = Vec::new();
    let push = |rest: &mut Vec<OsString>, path: &Path| {
        rest.extend(path.components().rev().map(|component| component.as_os_str().to_owned()));
    };
    push(&mut rest, &target);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        match Path::new(&name).components().next() {
            Some(Component::ParentDir) if reached == directory => {
                return Err(refused("that leaves the directory"));
            }
            Some(Component::ParentDir) => drop(reached.pop()),
            Some(Component::Normal(name)) => {
                let next: PathBuf = reached.join(name);
                let metadata = std::fs::symlink_metadata(&next)
                    .map_err(|error| refused(&format!("that leads nowhere ({error})")))?;
                if metadata.is_symlink() {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(refused("that leads in circles"));
                    }
                    push(&mut rest, &std::fs::read_link(&next).context(cannot_read)?);
                } else {
                    reached = next;
                }
            }
            Some(Component::RootDir | Component::Prefix(_)) => {
                return Err(refused("with an absolute target"));
            }
            Some(Component::CurDir) | None => {}
        }
    }
    Ok(target.as_os_str().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::base::ErrorKind;
    use crate::cli::pack::tests::{directory, put};

    #[test]
    fn links_that_stay_inside_are_kept_and_others_refused() {
        let (_keep, path) = directory();
        put(&path, "in/model/a/b/file", b"1");
        put(&path, "in/outside", b"1");
        let root = path.join("in/model");
        symlink("a/b", root.join("shallow")).unwrap();
        for (name, to, why) in [
            ("ok", "a/b/file", None),
            ("a/ok", "../a/./b/../b", None),
            ("through", "shallow/../b/file", None),
            ("dangling", "nowhere", Some("leads nowhere")),
            ("loop", "loop", Some("circles")),
            ("out", "../outside", Some("leaves")),
            ("a/out-and-in", "../../model/a", Some("leaves")),
            // The name before it is shorter than what it leads to is deep.
            ("a/b/back", "../../shallow/../../../model/a", Some("leaves")),
            ("absolute", root.join("a").to_str().unwrap(), Some("absolute")),
        ] {
            let link = root.join(name);
            symlink(to, &link).unwrap();
            match (target(&root, &link), why) {
                (Ok(target), None) => assert_eq!(target, to.as_bytes()),
                (Err(error), Some(why)) => {
                    assert_eq!(error.kind(), ErrorKind::Usage);
                    assert!(error.to_string().contains(why), "{error}");
                }
                (result, _) => panic!("{name}: {result:?}"),
            }
        }
    }
}
