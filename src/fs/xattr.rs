//! The extended attributes: those that the layers give, and ours: on the root what is mounted, on files how much
//! of them is here and how far it can be trusted. No layer can take the place of ours.

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
        let is_named = |attribute: &Attribute| attribute.name().as_bytes() == name.as_bytes();
        if let Some(attribute) = self.attributes_of(ino)?.into_iter().find(is_named) {
            return self.value(ino, attribute);
        }
        let inode = self.inode(ino)?;
        let given = inode.xattrs.iter().find(|xattr| *xattr.name == *name.as_bytes());
        given.map(|xattr| xattr.value.to_vec()).ok_or(FsError::NoAttribute)
    }

    /// The names of the extended attributes of `ino`, each with a NUL after it (listxattr(2)).
    ///
    /// # Errors
    /// `NotFound`.
    pub fn xattr_names(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let ours = self.attributes_of(ino)?;
        let is_ours = |name: &[u8]| ours.iter().any(|attribute| attribute.name().as_bytes() == name);
        let inode = self.inode(ino)?;
        let given = inode.xattrs.iter().map(|xattr| xattr.name.as_ref());
        let mut names = Vec::new();
        let ours_last = ours.iter().map(|attribute| attribute.name().as_bytes());
        for name in given.filter(|name| !is_ours(name)).chain(ours_last) {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    fn attributes_of(&self, ino: Ino) -> FsResult<Vec<Attribute>> {
        let is_file = matches!(self.inode(ino)?.kind, InodeKind::File(_));
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
            Attribute::CachedBytes => self.content().cached_bytes(&self.file(ino)?).to_string(),
            Attribute::Standing => standing(self.content().standing(&self.file(ino)?)).to_owned(),
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
