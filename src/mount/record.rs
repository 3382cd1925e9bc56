//! [`MountRecord`]: what a mount was made of, from which the same one is made again without asking anybody what its
//! reference stands for.
//!
//! It holds no credentials, only the paths of files with some; and no bytes of blobs, which come from the cache or from
//! the source.

use serde::{Deserialize, Serialize};

use crate::base::Digest;

use super::MountRequest;
use super::remembered::Answers;

/// See the module's text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountRecord {
    /// As it was asked for.
    pub request: MountRequest,
    /// What its reference stood for, in full.
    pub reference: String,
    /// The digest that it was pinned to.
    pub digest: Digest,
    /// Every manifest, and which others refer to it.
    pub(super) answers: Answers,
}

#[cfg(test)]
impl MountRecord {
    /// That of a mount for which nobody was asked anything.
    pub(crate) fn of(request: &MountRequest, digest: &Digest) -> Self {
        let (reference, answers) = (request.reference.clone(), Answers::default());
        Self { request: request.clone(), reference, digest: digest.clone(), answers }
    }
}
