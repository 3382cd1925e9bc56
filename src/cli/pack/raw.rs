//! The raw format: every regular file becomes a layer of its own, byte for byte.
//!
//! A symbolic link to a regular file inside the directory is packed as that file; any other link is refused.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::artifact::pack::{self, PackedFile};
use crate::base::{RelPath, Result, ResultExt as _};
use crate::cli::progress::Progress;
use crate::layer::Timestamp;
use crate::registry::LayoutWriter;

use super::{Job, Outcome, Walked, changed, mtime, nothing, refused, version, walk};

/// A file to be packed.
#[derive(Debug)]
struct Found {
    /// Where it will stand.
    path: RelPath,
    /// Where its bytes are.
    source: PathBuf,
    size: u64,
}

/// Stores the files below `directory`, which is canonical.
///
/// # Errors
/// `Usage` for what cannot be packed, naming it; `Io`.
pub(super) fn pack(directory: &Path, job: &Job<'_>) -> Result<Outcome> {
    let found = find(directory)?;
    if found.is_empty() {
        return Err(nothing(directory));
    }
    let writer = LayoutWriter::open(job.layout)?;
    let bytes = found.iter().map(|file| file.size).sum();
    let progress = Progress::bytes(bytes);
    let mut files = Vec::with_capacity(found.len());
    for file in &found {
        files.push(store(&writer, file, job.epoch, &progress)?);
    }
    Ok(Outcome { writer, packed: pack::documents(files, job.created)?, files: found.len(), bytes })
}

/// All files below `directory`, in the order of their paths.
fn find(directory: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for Walked { path, source, metadata } in walk(directory)? {
        if metadata.is_dir() {
            continue;
        }
        let (source, metadata) =
            if metadata.is_symlink() { linked(directory, &source)? } else { (source, metadata) };
        if !metadata.is_file() {
            return Err(refused(&source, "it is neither a regular file nor a directory"));
        }
        pack::text_path(&path)?;
        found.push(Found { path, source, size: metadata.len() });
    }
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
    if size != found.size || version(&before) != version(&after) {
        return Err(changed(&found.source));
    }
    Ok(PackedFile {
        path: found.path.clone(),
        digest,
        size,
        mode: after.mode() & 0o7777,
        uid: after.uid(),
        gid: after.gid(),
        mtime: mtime(&after, epoch),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::base::ErrorKind;
    use crate::cli::pack::tests::{directory, put};

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
}
