//! Every path of a cache directory, and the version that most of them carry.
//!
//! The lock and the socket stand outside of the versioned part, so that two versions of the program still
//! exclude each other. Nothing here touches the file system.

use std::path::{Path, PathBuf};

use crate::base::Digest;

use super::SegmentId;

/// The versioned part; a layout that older programs would misread gets another name.
const VERSION: &str = "v1";

/// The kinds of small documents that are kept by digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A manifest or an index, by its own digest.
    Manifest,
    /// The entries of a layer and the way into its stream, by the layer's digest.
    LayerIndex,
    /// The digests of a layer's chunks, by the layer's digest.
    Proof,
    /// What a reference was resolved to and for whom, by the digest of the reference.
    Resolution,
    /// Which manifests refer to one, by its digest and that of the question.
    Referrers,
    /// Which layers an artifact has that was used here, by the digest of its name.
    Artifact,
}

/// What a document is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentKey<'a> {
    /// What it speaks of.
    pub digest: &'a Digest,
    /// What else it was made from, when that is not settled by `digest`: such as the table of contents that one
    /// manifest vouches for, and another one with the same layer does not.
    pub variant: Option<&'a Digest>,
}

impl<'a> From<&'a Digest> for DocumentKey<'a> {
    fn from(digest: &'a Digest) -> Self {
        Self { digest, variant: None }
    }
}

impl<'a> DocumentKey<'a> {
    /// That of the document about `digest` that was made from `variant`.
    #[must_use]
    pub fn variant(digest: &'a Digest, variant: &'a Digest) -> Self {
        Self { digest, variant: Some(variant) }
    }

    fn file_name(&self) -> String {
        /// Of a variant's digits: a name of two whole SHA-512 digests would be longer than names may be, and half of
        /// a SHA-256 is still more than anybody can match.
        const VARIANT_DIGITS: usize = 32;
        match self.variant {
            None => self.digest.hex().to_owned(),
            Some(variant) => format!("{}+{}", self.digest.hex(), &variant.hex()[..VARIANT_DIGITS]),
        }
    }
}

/// The paths of one cache directory.
#[derive(Clone, Debug)]
pub struct CachePaths {
    root: PathBuf,
}

impl CachePaths {
    /// The paths below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file whose lock is the ownership of the directory; it holds the owner's process id.
    #[must_use]
    pub fn owner_lock(&self) -> PathBuf {
        self.root.join("owner.lock")
    }

    /// The owner's control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// The directory of what is kept secret.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.versioned().join("keys")
    }

    /// The key of the fingerprints of credentials.
    #[must_use]
    pub fn access_key(&self) -> PathBuf {
        self.keys().join("access")
    }

    /// The directory of the pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.versioned().join("pins")
    }

    /// Everything of this version.
    #[must_use]
    pub fn versioned(&self) -> PathBuf {
        self.root.join(VERSION)
    }

    /// All segments: `segments/<algorithm>/<two digits>/<file>`.
    #[must_use]
    pub fn segments(&self) -> PathBuf {
        self.versioned().join("segments")
    }

    /// What is mounted, for the next owner: a file for each mount point.
    #[must_use]
    pub fn mounts(&self) -> PathBuf {
        self.versioned().join("mounts")
    }

    /// The bytes of a segment.
    #[must_use]
    pub fn data(&self, id: &SegmentId) -> PathBuf {
        self.segment_file(id, "data")
    }

    /// The chunk map of a segment.
    #[must_use]
    pub fn map(&self, id: &SegmentId) -> PathBuf {
        self.segment_file(id, "map")
    }

    fn segment_file(&self, id: &SegmentId, suffix: &str) -> PathBuf {
        let name = format!("{}.{}.{suffix}", id.layer.hex(), id.number);
        sharded(self.segments(), &id.layer).join(name)
    }

    /// All documents of a kind: `<kind>/<algorithm>/<two digits>/<file>`.
    #[must_use]
    pub fn documents(&self, kind: DocumentKind) -> PathBuf {
        self.versioned().join(match kind {
            DocumentKind::Manifest => "manifests",
            DocumentKind::LayerIndex => "layers",
            DocumentKind::Proof => "proofs",
            DocumentKind::Resolution => "resolutions",
            DocumentKind::Referrers => "referrers",
            DocumentKind::Artifact => "artifacts",
        })
    }

    /// One document.
    #[must_use]
    pub fn document<'a>(&self, kind: DocumentKind, key: impl Into<DocumentKey<'a>>) -> PathBuf {
        let key = key.into();
        sharded(self.documents(kind), key.digest).join(key.file_name())
    }
}

/// Directories of a few hundred names at most, for file systems that search them one by one.
fn sharded(parent: PathBuf, digest: &Digest) -> PathBuf {
    parent.join(digest.algorithm().name()).join(&digest.hex()[..2])
}
