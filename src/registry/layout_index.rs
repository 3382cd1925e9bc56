//! `index.json` of an OCI layout (image-spec, image-layout.md): which manifests it lists under which tags.
//!
//! A tag is the annotation `org.opencontainers.image.ref.name`. Some writers set it to a bare tag, others to
//! a full reference that ends in it.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::base::{Digest, Error, ErrorKind, Result, ResultExt as _};
use crate::oci::{Descriptor, LayoutContainer, LayoutRef};

use super::local_file::read_bounded;

/// The annotation that holds the tag.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The layout version that is read and written.
pub(super) const LAYOUT_VERSION: &str = "1.0.0";

/// Bytes of an `index.json`: some fifty thousand tags.
const INDEX_BYTES_MAX: u64 = 16 << 20;

/// Bytes of an `oci-layout` file, which holds one short field.
pub(super) const MARKER_BYTES_MAX: u64 = 64 << 10;

/// The manifests that a layout lists.
#[derive(Debug, Deserialize)]
pub(super) struct LayoutIndex {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl LayoutIndex {
    /// The entry that has the tag of `reference`; without one, the only entry there is.
    ///
    /// # Errors
    /// `NotFound` and `Usage`, listing the tags there are.
    pub(super) fn find(&self, reference: &LayoutRef) -> Result<&Descriptor> {
        let tag = reference.tag.as_deref();
        let candidates: Vec<&Descriptor> = match tag {
            None => self.manifests.iter().collect(),
            Some(tag) => {
                let named = |fits: fn(&str, &str) -> bool| -> Vec<&Descriptor> {
                    let name = |entry: &&Descriptor| ref_name(entry).is_some_and(|name| fits(name, tag));
                    self.manifests.iter().filter(name).collect()
                };
                let bare = named(|name, tag| name == tag);
                if bare.is_empty() { named(ends_in_tag) } else { bare }
            }
        };
        let container = match reference.container {
            LayoutContainer::Directory => "layout",
            LayoutContainer::Archive => "archive",
        };
        let (shown, form) = (reference.path.display(), reference.container.form());
        let wanted = tag.map_or_else(String::new, |tag| format!(" tagged {tag:?}"));
        match candidates[..] {
            [] => Err(Error::new(
                ErrorKind::NotFound,
                format!("{container} {shown} has no manifest{wanted}; {}", self.tags()),
            )),
            [first, ref rest @ ..] if rest.iter().all(|entry| entry.digest == first.digest) => Ok(first),
            _ => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{container} {shown} has {} manifests{wanted}; choose one with {form}:TAG or {form}@DIGEST; {}",
                    candidates.len(),
                    self.tags()
                ),
            )),
        }
    }

    /// All entries, in their order.
    pub(super) fn manifests(&self) -> &[Descriptor] {
        &self.manifests
    }

    /// The entry for `digest`, if the index lists it itself.
    pub(super) fn by_digest(&self, digest: &Digest) -> Option<&Descriptor> {
        self.manifests.iter().find(|entry| entry.digest == *digest)
    }

    fn tags(&self) -> String {
        /// As many as fit on a few lines of a terminal.
        const SHOWN_MAX: usize = 20;
        let tags: Vec<&str> = self.manifests.iter().filter_map(ref_name).collect();
        match tags.len() {
            0 => "it has no tags".to_owned(),
            count if count > SHOWN_MAX => {
                format!("its tags are {} and {} more", tags[..SHOWN_MAX].join(", "), count - SHOWN_MAX)
            }
            _ => format!("its tags are {}", tags.join(", ")),
        }
    }
}

fn ref_name(entry: &Descriptor) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

/// Whether the annotation `name`, a full reference, ends in `tag`.
pub(super) fn ends_in_tag(name: &str, tag: &str) -> bool {
    name.strip_suffix(tag).is_some_and(|rest| rest.ends_with(':'))
}

/// Reads `index.json` of the layout at `directory` as `T`.
///
/// # Errors
/// `NotFound`, `Invalid` and `Unsupported`, naming the directory or the file and what is wrong with it.
pub(super) fn read_index<T: DeserializeOwned>(directory: &Path) -> Result<T> {
    check_marker(directory)?;
    let path = directory.join("index.json");
    let bytes = read_bounded(&path, INDEX_BYTES_MAX)
        .map_err(|error| error.context(format!("{} is no OCI layout", directory.display())))?;
    parse(path.display(), &bytes)
}

/// Checks that `directory` says of itself that it is a layout, of a version that is known.
///
/// # Errors
/// As [`read_index`].
pub(super) fn check_marker(directory: &Path) -> Result<()> {
    let shown = directory.display();
    let there = std::fs::metadata(directory).context(|| format!("there is no OCI layout at {shown}"))?;
    if there.is_file() {
        let what = format!("{shown} is a file and no OCI layout; use oci-archive:FILE for an archive of one");
        return Err(Error::new(ErrorKind::Usage, what));
    }
    let path = directory.join("oci-layout");
    let bytes = read_bounded(&path, MARKER_BYTES_MAX)
        .map_err(|error| error.context(format!("{shown} is no OCI layout, it lacks the file oci-layout")))?;
    check_version(path.display(), &bytes)
}

/// Checks that `bytes`, an `oci-layout` file that errors call `name`, tell of a version that is known.
///
/// # Errors
/// `Invalid` and `Unsupported`, naming the file.
pub(super) fn check_version(name: impl Display, bytes: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = parse(&name, bytes)?;
    if marker.image_layout_version != LAYOUT_VERSION {
        let version = marker.image_layout_version;
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{name}: version {version:?} is not supported, only {LAYOUT_VERSION}"),
        ));
    }
    Ok(())
}

/// Reads `bytes`, a JSON document that errors call `name`.
///
/// # Errors
/// `Invalid`, naming the document.
pub(super) fn parse<T: DeserializeOwned>(name: impl Display, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::with_source(ErrorKind::Invalid, format!("malformed {name}"), error))
}

/// Where a layout keeps the blob `digest`.
pub(super) fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}
