//! The extended attributes: on the root what is mounted, on files how much of them is here and how far it
//! can be trusted.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use crate::content::Standing;
use crate::tree::{Ino, InodeKind};

use super::{Filesystem, FsError, FsResult};

/// The names and where they apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute {
    /// Root: the reference.
    Reference,
    /// Root: the digest of the manifest. File: the digest of its layer.
    Digest,
    /// Root: the control socket of the process that serves the mount.
    Owner,
    /// A root that is a file: the digest of its layer, since `Digest` is the manifest's there.
    LayerDigest,
    /// File: bytes in the cache.
    CachedBytes,
    /// File: `absent`, `rejected`, `pending` or `proven`.
    Standing,
}

impl Attribute {
    fn name(self) -> &'static str {
        match self {
            Self::Reference => "user.refmount.reference",
            Self::Digest => "user.refmount.digest",
            Self::Owner => "user.refmount.owner",
            Self::LayerDigest => "user.refmount.layer_digest",
            Self::CachedBytes => "user.refmount.cached_bytes",
            Self::Standing => "user.refmount.standing",
        }
    }
}

impl Filesystem {
    /// The value of the extended attribute `name` of `ino`.
    ///
    /// # Errors
    /// `NotFound`; `NoAttribute` when the inode does not have it.
    pub fn xattr(&self, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>> {
        let attribute = self
            .attributes_of(ino)?
            .into_iter()
            .find(|attribute| attribute.name().as_bytes() == name.as_bytes())
            .ok_or(FsError::NoAttribute)?;
        self.value(ino, attribute)
    }

    /// The names of the extended attributes of `ino`, each with a NUL after it (listxattr(2)).
    ///
    /// # Errors
    /// `NotFound`.
    pub fn xattr_names(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let mut names = Vec::new();
        for attribute in self.attributes_of(ino)? {
            names.extend_from_slice(attribute.name().as_bytes());
            names.push(0);
        }
        Ok(names)
    }

    fn attributes_of(&self, ino: Ino) -> FsResult<Vec<Attribute>> {
        let is_file = match self.inode(ino)?.kind {
            InodeKind::File(_) => true,
            InodeKind::Directory | InodeKind::Symlink { .. } => false,
        };
        let mut attributes = Vec::new();
        if ino == Ino::ROOT {
            attributes.extend([Attribute::Reference, Attribute::Digest]);
            attributes.extend(self.identity().owner.is_some().then_some(Attribute::Owner));
        }
        if is_file {
            let digest = if ino == Ino::ROOT { Attribute::LayerDigest } else { Attribute::Digest };
            attributes.extend([digest, Attribute::CachedBytes, Attribute::Standing]);
        }
        Ok(attributes)
    }

    fn value(&self, ino: Ino, attribute: Attribute) -> FsResult<Vec<u8>> {
        let identity = self.identity();
        let text = match attribute {
            Attribute::Reference => identity.reference.clone(),
            Attribute::Digest if ino == Ino::ROOT => identity.digest.to_string(),
            Attribute::Owner => {
                let owner = identity.owner.clone().ok_or(FsError::NoAttribute)?;
                return Ok(owner.into_os_string().into_vec());
            }
            Attribute::Digest | Attribute::LayerDigest => {
                self.content().digest(self.file(ino)?.layer).to_string()
            }
            Attribute::CachedBytes => self.content().cached_bytes(self.file(ino)?).to_string(),
            Attribute::Standing => standing(self.content().standing(self.file(ino)?)).to_owned(),
        };
        Ok(text.into_bytes())
    }
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Absent => "absent",
        Standing::Rejected => "rejected",
        Standing::Pending => "pending",
        Standing::Proven => "proven",
    }
}
