//! `pack`: a directory becomes a ModelPack artifact in an OCI layout.
//!
//! Every regular file becomes a layer of its own, byte for byte. A symbolic link to a regular file inside the
//! directory is packed as that file; any other link, and whatever is neither file nor directory, is refused,
//! since an artifact that lacks it would not be what was packed. With `SOURCE_DATE_EPOCH` set, no time in the
//! artifact is later than that, so that the same content gives the same digest.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::artifact::pack::{self, PackedFile};
use crate::base::{Error, ErrorKind, RelPath, Result, ResultExt as _, clock};
use crate::layer::Timestamp;
use crate::oci::{LayoutContainer, LayoutRef, SourceRef, media_type};
use crate::registry::LayoutWriter;

use super::args::{GlobalArgs, PackArgs, PackFormat};
use super::exit::Failure;
use super::output::{human, print};
use super::progress::Progress;
use super::{log, settings};

/// How deep directories are followed: as deep as a path of the longest length goes.
const DEPTH_MAX: usize = 2048;

/// Packs.
///
/// # Errors
/// `Usage` for what can't be packed, naming it; `Io`.
pub(super) fn run(global: &GlobalArgs, arguments: &PackArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    // There is one format; another will have to be told apart here.
    let PackFormat::Raw = arguments.format;
    let directory = std::fs::canonicalize(&arguments.directory)
        .context(|| format!("cannot pack {}", arguments.directory.display()))?;
    let destination = destination(&arguments.destination)?;
    if canonical(&destination.path).starts_with(&directory) {
        return Err(usage(format!(
            "the layout {} lies inside of what is packed; choose another place",
            destination.path.display()
        ))
        .into());
    }
    let epoch = source_date_epoch(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?;
    let found = find(&directory)?;
    if found.is_empty() {
        return Err(usage(format!("{} holds no files to pack", directory.display())).into());
    }
    let writer = LayoutWriter::open(&destination.path)?;
    let total = found.iter().map(|file| file.size).sum();
    let progress = Progress::bytes(total);
    let mut files = Vec::with_capacity(found.len());
    for file in &found {
        files.push(store(&writer, file, epoch, &progress)?);
    }
    drop(progress);
    let created = epoch.unwrap_or_else(|| Timestamp {
        seconds: i64::try_from(clock::unix_time().as_secs()).unwrap_or(i64::MAX),
        nanoseconds: 0,
    });
    let packed = pack::documents(files, created)?;
    writer.add_blob(&packed.config[..], &mut |_| ())?;
    let tag = destination.tag.as_deref();
    let descriptor =
        writer.add_manifest(tag, media_type::OCI_MANIFEST, Some(pack::ARTIFACT_TYPE), &packed.manifest)?;
    let name = SourceRef::Layout(LayoutRef { digest: Some(descriptor.digest), ..destination });
    let plural = if found.len() == 1 { "" } else { "s" };
    print(&format!("{name}, {} file{plural}, {}\n", found.len(), human(total)))
}

/// Where the artifact goes.
fn destination(text: &str) -> Result<LayoutRef> {
    match settings::reference(text) {
        Ok(SourceRef::Layout(layout))
            if layout.digest.is_none() && layout.container == LayoutContainer::Directory =>
        {
            Ok(layout)
        }
        _ => Err(usage(format!("bad destination {text:?}: expected oci:LAYOUT[:TAG]"))),
    }
}

/// Where `path`, which is absolute and may not exist yet, leads: without symbolic links and `..`.
fn canonical(path: &Path) -> PathBuf {
    let mut known = PathBuf::new();
    for component in path.components() {
        match component {
            // Nothing before it is a link any more.
            Component::ParentDir => drop(known.pop()),
            other => known.push(other),
        }
        if let Ok(resolved) = std::fs::canonicalize(&known) {
            known = resolved;
        }
    }
    known
}

/// The time that no time in the artifact is later than (reproducible-builds.org, SOURCE_DATE_EPOCH).
fn source_date_epoch(value: Option<&str>) -> Result<Option<Timestamp>> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    match value.parse::<u32>() {
        Ok(seconds) => Ok(Some(Timestamp { seconds: seconds.into(), nanoseconds: 0 })),
        Err(_) => Err(usage(format!("SOURCE_DATE_EPOCH={value:?} is no number of seconds since 1970"))),
    }
}

/// A file to be packed.
#[derive(Debug)]
struct Found {
    /// Where it will stand.
    path: RelPath,
    /// Where its bytes are.
    source: PathBuf,
    size: u64,
}

/// All files below `directory`, which is canonical, in the order of their paths.
fn find(directory: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut pending = vec![(directory.to_owned(), 0)];
    while let Some((current, depth)) = pending.pop() {
        let cannot_read = || format!("cannot read {}", current.display());
        if depth > DEPTH_MAX {
            return Err(usage(format!("{} lies deeper than {DEPTH_MAX} directories", current.display())));
        }
        for entry in std::fs::read_dir(&current).context(cannot_read)? {
            let path = entry.context(cannot_read)?.path();
            let metadata =
                std::fs::symlink_metadata(&path).context(|| format!("cannot read {}", path.display()))?;
            if metadata.is_dir() {
                pending.push((path, depth + 1));
                continue;
            }
            let (source, metadata) =
                if metadata.is_symlink() { linked(directory, &path)? } else { (path.clone(), metadata) };
            if !metadata.is_file() {
                return Err(refused(&path, "it is neither a regular file nor a directory"));
            }
            let relative = path.strip_prefix(directory).unwrap_or(&path);
            let relative = RelPath::parse(relative.as_os_str().as_bytes())?;
            pack::text_path(&relative)?;
            found.push(Found { path: relative, source, size: metadata.len() });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// What the link at `path` leads to.
fn linked(directory: &Path, path: &Path) -> Result<(PathBuf, Metadata)> {
    let target = std::fs::canonicalize(path)
        .map_err(|error| refused(path, &format!("it is a symbolic link that leads nowhere ({error})")))?;
    if !target.starts_with(directory) {
        let why =
            format!("it is a symbolic link out of the directory, to {}; copy the file", target.display());
        return Err(refused(path, &why));
    }
    let metadata = std::fs::metadata(&target).context(|| format!("cannot read {}", target.display()))?;
    if !metadata.is_file() {
        return Err(refused(path, "it is a symbolic link to what is no regular file"));
    }
    Ok((target, metadata))
}

fn store(
    writer: &LayoutWriter,
    found: &Found,
    epoch: Option<Timestamp>,
    progress: &Progress,
) -> Result<PackedFile> {
    let shown = found.source.display();
    progress.name(&found.path.to_string());
    let file = File::open(&found.source).context(|| format!("cannot open {shown}"))?;
    let before = file.metadata().context(|| format!("cannot read {shown}"))?;
    if !before.is_file() {
        return Err(changed(&found.source));
    }
    // One byte more, so that growth shows; without end for a file that grows as fast as it is read.
    let mut reader = (&file).take(found.size.saturating_add(1));
    let mut done = 0;
    let (digest, size) = writer
        .add_blob(&mut reader, &mut |bytes| {
            progress.advance(bytes - done);
            done = bytes;
        })
        .context(|| format!("cannot pack {shown}"))?;
    let after = file.metadata().context(|| format!("cannot read {shown}"))?;
    let modified = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    if size != found.size || modified(&before) != modified(&after) {
        return Err(changed(&found.source));
    }
    let mtime = Timestamp {
        seconds: after.mtime(),
        nanoseconds: u32::try_from(after.mtime_nsec()).unwrap_or_default(),
    };
    let is_later = |limit: &Timestamp| mtime.seconds >= limit.seconds;
    Ok(PackedFile {
        path: found.path.clone(),
        digest,
        size,
        mode: after.mode() & 0o7777,
        uid: after.uid(),
        gid: after.gid(),
        mtime: epoch.filter(is_later).unwrap_or(mtime),
    })
}

fn changed(path: &Path) -> Error {
    Error::new(ErrorKind::Io, format!("{} changed while it was packed; try again", path.display()))
}

fn refused(path: &Path, why: &str) -> Error {
    usage(format!("cannot pack {}: {why}", path.display()))
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn put(directory: &Path, name: &str, content: &[u8]) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut File::create(path).unwrap(), content).unwrap();
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path)
    }

    #[test]
    fn files_in_order_and_links_as_what_they_name() {
        let (_keep, path) = directory();
        put(&path, "b/shard.safetensors", b"12345");
        put(&path, "a.json", b"{}");
        symlink("b/shard.safetensors", path.join("latest.safetensors")).unwrap();
        let found: Vec<(String, u64)> =
            find(&path).unwrap().iter().map(|file| (file.path.to_string(), file.size)).collect();
        let expected = [("a.json", 2), ("b/shard.safetensors", 5), ("latest.safetensors", 5)];
        assert_eq!(found, expected.map(|(path, size)| (path.to_owned(), size)));
    }

    #[test]
    fn what_would_be_missing_from_the_artifact_is_refused_by_name() {
        type Make = fn(&Path);
        let cases: [(&str, Make); 4] = [
            ("outside", |path| symlink("/etc/passwd", path.join("outside")).unwrap()),
            ("dangling", |path| symlink("nowhere", path.join("dangling")).unwrap()),
            ("loop", |path| symlink(".", path.join("loop")).unwrap()),
            ("socket", |path| drop(UnixListener::bind(path.join("socket")).unwrap())),
        ];
        for (name, make) in cases {
            let (_keep, path) = directory();
            make(&path);
            let error = find(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
            assert!(error.to_string().contains(&format!("/{name}: ")), "{error}");
        }
    }

    #[test]
    fn a_file_that_grew_since_it_was_found_is_an_error() {
        let (_keep, path) = directory();
        put(&path, "in/a", b"123");
        let writer = LayoutWriter::open(&path.join("layout")).unwrap();
        let found = find(&path.join("in")).unwrap();
        put(&path, "in/a", b"12345");
        let error = store(&writer, &found[0], None, &Progress::bytes(3)).unwrap_err();
        assert!(error.to_string().contains("changed while it was packed"), "{error}");
    }

    #[test]
    fn a_layout_that_is_yet_to_be_made_is_where_its_path_leads() {
        let (_keep, path) = directory();
        put(&path, "in/a", b"1");
        symlink("in", path.join("link")).unwrap();
        assert_eq!(canonical(&path.join("in/../new/layout")), path.join("new/layout"));
        assert_eq!(canonical(&path.join("link/new/layout")), path.join("in/new/layout"));
    }

    #[test]
    fn source_date_epoch_is_a_number_or_an_error() {
        assert_eq!(source_date_epoch(None).unwrap(), None);
        assert_eq!(source_date_epoch(Some("7")).unwrap(), Some(Timestamp { seconds: 7, nanoseconds: 0 }));
        assert_eq!(source_date_epoch(Some("yesterday")).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn only_a_layout_without_digest_can_be_packed_to() {
        assert!(destination("oci:/x:v1").is_ok());
        let digest = crate::base::Digest::of(crate::base::Algorithm::Sha256, b"");
        for text in ["registry.example/x:v1", "/x", "oci-archive:/x.tar:v1", &format!("oci:/x@{digest}")] {
            assert_eq!(destination(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
