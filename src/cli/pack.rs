//! `pack`: a directory becomes a ModelPack artifact in an OCI layout.
//!
//! Two forms: every file a layer of its own ([`raw`]), or one archive for each kind of files ([`archive`]). Whatever
//! has no place in the chosen form is refused, since an artifact that lacks it would not be what was packed. With
//! `SOURCE_DATE_EPOCH` set, no time in the artifact is later than that, so that the same content gives the same
//! digest.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::artifact::pack::{self, Packed};
use crate::base::{Error, ErrorKind, RelPath, Result, ResultExt as _, clock};
use crate::layer::Timestamp;
use crate::oci::{LayoutContainer, LayoutRef, SourceRef, media_type};
use crate::registry::LayoutWriter;

use self::compression::Compression;
use super::args::{GlobalArgs, PackArgs, PackFormat};
use super::exit::Failure;
use super::output::{human, print};
use super::{log, settings};

mod archive;
mod compression;
mod raw;
mod tar_stream;

/// How deep directories are followed: as deep as a path of the longest length goes.
const DEPTH_MAX: usize = 2048;

/// What both forms need.
struct Job<'a> {
    /// The layout that is written to, made when it is known that there is something to write.
    layout: &'a Path,
    /// The time that no other is later than.
    epoch: Option<Timestamp>,
    /// When the artifact is made.
    created: Timestamp,
}

/// What was packed.
struct Outcome {
    writer: LayoutWriter,
    packed: Packed,
    files: usize,
    bytes: u64,
}

/// Packs.
///
/// # Errors
/// `Usage` for what can't be packed, naming it; `Io`.
pub(super) fn run(global: &GlobalArgs, arguments: &PackArgs) -> Result<(), Failure> {
    log::to_stderr(global)?;
    let compression = Compression::new(arguments.format, arguments.level)?;
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
    let created = epoch.unwrap_or_else(|| Timestamp {
        seconds: i64::try_from(clock::unix_time().as_secs()).unwrap_or(i64::MAX),
        nanoseconds: 0,
    });
    let job = Job { layout: &destination.path, epoch, created };
    let Outcome { writer, packed, files, bytes } = match arguments.format {
        PackFormat::Raw => raw::pack(&directory, &job)?,
        PackFormat::Tar | PackFormat::TarGzip | PackFormat::TarZstd => {
            archive::pack(&directory, &job, compression)?
        }
    };
    writer.add_blob(&packed.config[..], &mut |_| ())?;
    let tag = destination.tag.as_deref();
    let descriptor =
        writer.add_manifest(tag, media_type::OCI_MANIFEST, Some(pack::ARTIFACT_TYPE), &packed.manifest)?;
    let name = SourceRef::Layout(LayoutRef { digest: Some(descriptor.digest), ..destination });
    let plural = if files == 1 { "" } else { "s" };
    print(&format!("{name}, {files} file{plural}, {}\n", human(bytes)))
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

/// What lies below the directory that is packed.
#[derive(Debug)]
struct Walked {
    /// Where it will stand.
    path: RelPath,
    /// Where it is.
    source: PathBuf,
    /// Of itself, not of what it leads to.
    metadata: Metadata,
}

/// All that lies below `directory`, in the order of the paths: directories before what they hold.
fn walk(directory: &Path) -> Result<Vec<Walked>> {
    let mut walked = Vec::new();
    let mut pending = vec![(directory.to_owned(), 0)];
    while let Some((current, depth)) = pending.pop() {
        let cannot_read = || format!("cannot read {}", current.display());
        if depth > DEPTH_MAX {
            return Err(usage(format!("{} lies deeper than {DEPTH_MAX} directories", current.display())));
        }
        for entry in std::fs::read_dir(&current).context(cannot_read)? {
            let source = entry.context(cannot_read)?.path();
            let metadata =
                std::fs::symlink_metadata(&source).context(|| format!("cannot read {}", source.display()))?;
            if metadata.is_dir() {
                pending.push((source.clone(), depth + 1));
            }
            let relative = source.strip_prefix(directory).unwrap_or(&source);
            let path = RelPath::parse(relative.as_os_str().as_bytes())?;
            walked.push(Walked { path, source, metadata });
        }
    }
    walked.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walked)
}

/// The time of the last change, or `epoch` if that is earlier.
fn mtime(metadata: &Metadata, epoch: Option<Timestamp>) -> Timestamp {
    let mtime = Timestamp {
        seconds: metadata.mtime(),
        nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
    };
    epoch.filter(|limit| mtime.seconds >= limit.seconds).unwrap_or(mtime)
}

/// What is another one after a file has changed.
fn version(metadata: &Metadata) -> (i64, i64, u64) {
    (metadata.mtime(), metadata.mtime_nsec(), metadata.len())
}

fn nothing(directory: &Path) -> Error {
    usage(format!("{} holds no files to pack", directory.display()))
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
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;

    pub(super) fn put(directory: &Path, name: &str, content: &[u8]) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut File::create(path).unwrap(), content).unwrap();
    }

    pub(super) fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path)
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
