//! [`LayoutWriter`]: writes an OCI layout directory (image-spec, image-layout.md).
//!
//! Several writers may work in one layout at once: blobs are renamed into place whole, and `index.json` is
//! changed under a lock on the file `oci-layout`, which is never replaced. A file that can be seen under its
//! name is complete, whatever happened to its writer.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::base::durable::sync_directory;
use crate::base::{Algorithm, Digest, Error, ErrorKind, Hasher, Result, ResultExt as _};
use crate::oci::{Descriptor, media_type};

use super::layout_index::{LAYOUT_VERSION, REF_NAME, blob_path, check_marker, ends_in_tag, read_index};

/// How names of unfinished files begin.
const TEMPORARY_PREFIX: &str = ".tmp-";

/// Bytes taken from a reader at once; the progress callback runs after each.
const PIECE_BYTES: usize = 1 << 20;

/// An OCI layout directory that is being written.
#[derive(Debug)]
pub struct LayoutWriter {
    directory: PathBuf,
}

impl LayoutWriter {
    /// Opens the layout at `directory`, or makes one in a directory that is missing or empty.
    ///
    /// # Errors
    /// `Usage` for a directory that holds something else; failures of the file system.
    pub fn open(directory: &Path) -> Result<Self> {
        let shown = directory.display();
        std::fs::create_dir_all(directory).context(|| format!("cannot create {shown}"))?;
        let writer = Self { directory: directory.to_owned() };
        if !writer.marker().exists() {
            if writer.holds_something_else()? {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("{shown} is neither empty nor an OCI layout; name another directory"),
                ));
            }
            writer.create_marker()?;
        }
        check_marker(directory)?;
        std::fs::create_dir_all(directory.join("blobs/sha256"))
            .context(|| format!("cannot create {shown}/blobs/sha256"))?;
        writer.change_index(|_| ())?;
        Ok(writer)
    }

    /// Stores what `reader` yields and returns its digest and its bytes. `progress` is told after each piece
    /// how many bytes have been taken in all. A blob that is there already is kept.
    ///
    /// # Errors
    /// Failures of the reader or of the file system; nothing is left behind then.
    pub fn add_blob(&self, mut reader: impl Read, progress: &mut dyn FnMut(u64)) -> Result<(Digest, u64)> {
        let cannot_write = || format!("cannot write a blob to {}", self.directory.display());
        let mut file = self.temporary_file().context(cannot_write)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; PIECE_BYTES];
        let mut bytes = 0;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context(|| "cannot read the content of a blob"),
            };
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).context(cannot_write)?;
            bytes += count as u64;
            progress(bytes);
        }
        let digest = hasher.finish();
        let path = blob_path(&self.directory, &digest);
        if !std::fs::metadata(&path).is_ok_and(|there| there.is_file() && there.len() == bytes) {
            put_in_place(file, &path)?;
        }
        Ok((digest, bytes))
    }

    /// Stores the manifest `bytes` and lists it in `index.json`, under `tag` if there is one: the entry that
    /// had this tag before is gone afterwards, its blobs stay.
    ///
    /// # Errors
    /// Failures of the file system; `Invalid` for an `index.json` that cannot be read.
    pub fn add_manifest(
        &self,
        tag: Option<&str>,
        media_type: &str,
        artifact_type: Option<&str>,
        bytes: &[u8],
    ) -> Result<Descriptor> {
        let (digest, size) = self.add_blob(bytes, &mut |_| ())?;
        let annotations: BTreeMap<String, String> =
            tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned())).into_iter().collect();
        let mut descriptor = Descriptor::new(media_type, digest, size);
        descriptor.annotations = annotations;
        descriptor.artifact_type = artifact_type.map(str::to_owned);
        let entry = serde_json::to_value(&descriptor).map_err(|error| {
            Error::with_source(ErrorKind::Invalid, "cannot write the manifest's descriptor", error)
        })?;
        self.change_index(|entries| {
            entries.retain(|there| !replaces(&entry, tag, there));
            entries.push(entry);
        })?;
        Ok(descriptor)
    }

    fn marker(&self) -> PathBuf {
        self.directory.join("oci-layout")
    }

    fn holds_something_else(&self) -> Result<bool> {
        let cannot_read = || format!("cannot read {}", self.directory.display());
        for entry in std::fs::read_dir(&self.directory).context(cannot_read)? {
            // Another writer may be creating the layout at this moment.
            if !entry.context(cannot_read)?.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                return Ok(!self.marker().exists());
            }
        }
        Ok(false)
    }

    /// Creates `oci-layout` unless another writer was faster: the file on which writers wait for each other
    /// must stay the same one.
    fn create_marker(&self) -> Result<()> {
        let path = self.marker();
        let create = || -> std::io::Result<()> {
            let mut file = self.temporary_file()?;
            file.write_all(json!({ "imageLayoutVersion": LAYOUT_VERSION }).to_string().as_bytes())?;
            file.as_file().sync_data()?;
            match file.persist_noclobber(&path) {
                Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.error),
                _ => sync_directory(&self.directory),
            }
        };
        create().context(|| format!("cannot create {}", path.display()))
    }

    /// Applies `change` to the entries of `index.json`, alone among all writers. Fields and entries that are
    /// not known stay as they are. Without an `index.json`, one is made.
    fn change_index(&self, change: impl FnOnce(&mut Vec<Value>)) -> Result<()> {
        let marker = self.marker();
        let lock = File::open(&marker).context(|| format!("cannot open {}", marker.display()))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot lock {}", marker.display()))?;
        let path = self.directory.join("index.json");
        let before: Option<Map<String, Value>> =
            if path.exists() { Some(read_index(&self.directory)?) } else { None };
        let mut index = before.clone().unwrap_or_else(|| {
            let fields = [("schemaVersion", json!(2)), ("mediaType", json!(media_type::OCI_INDEX))];
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        });
        let manifests = index.entry("manifests").or_insert_with(|| json!([]));
        let Value::Array(entries) = manifests else {
            let what = format!("malformed {}: manifests is not a list", path.display());
            return Err(Error::new(ErrorKind::Invalid, what));
        };
        change(entries);
        if before.as_ref() == Some(&index) {
            return Ok(());
        }
        let cannot_write = || format!("cannot write {}", path.display());
        let mut file = self.temporary_file().context(cannot_write)?;
        file.write_all(Value::Object(index).to_string().as_bytes()).context(cannot_write)?;
        put_in_place(file, &path)
    }

    /// An unfinished file in the layout, with the permissions that the user's mask allows: a layout is
    /// read by others than its writer.
    fn temporary_file(&self) -> std::io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&self.directory)
    }
}

/// Whether the entry `there` gives way to `entry`, which is tagged `tag`: it has the same tag, or it is the
/// same manifest and neither has one.
fn replaces(entry: &Value, tag: Option<&str>, there: &Value) -> bool {
    let name = there.get("annotations").and_then(|map| map.get(REF_NAME)).and_then(Value::as_str);
    match (name, tag) {
        (Some(name), Some(tag)) => name == tag || ends_in_tag(name, tag),
        (None, None) => there.get("digest") == entry.get("digest"),
        _ => false,
    }
}

/// Makes `file` durable and renames it to `path`.
fn put_in_place(file: NamedTempFile, path: &Path) -> Result<()> {
    let place = || -> std::io::Result<()> {
        file.as_file().sync_data()?;
        file.persist(path).map_err(|error| error.error)?;
        path.parent().map_or(Ok(()), sync_directory)
    };
    place().context(|| format!("cannot write {}", path.display()))
}
