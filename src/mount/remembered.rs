//! What a source has said when a mount came about, said again to the next process, which may have no network.
//!
//! Only what decides what the mount shows: manifests, and which others refer to them. Bytes of blobs come from the source
//! itself, always.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::Descriptor;
use crate::registry::{Access, AccessKey, BlobBody, BlobSource, HostStatus, RawManifest};

/// The answers of a source.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Answers {
    /// The first is what the reference led to.
    manifests: Vec<Manifest>,
    referrers: Vec<Referrers>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Manifest {
    digest: Digest,
    media_type: Option<String>,
    /// It is JSON, and so it is text.
    text: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Referrers {
    subject: Digest,
    artifact_type: String,
    found: Vec<Descriptor>,
}

impl Answers {
    /// The digests of the manifests.
    pub(super) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.manifests.iter().map(|manifest| &manifest.digest)
    }
}

/// Where answers are remembered: those of the last source that was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<Answers>>);

impl Memory {
    /// What was said before.
    pub(super) fn of(answers: Answers) -> Self {
        Self(Arc::new(Mutex::new(answers)))
    }

    pub(super) fn answers(&self) -> Answers {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Remembered {
    inner: Arc<dyn BlobSource>,
    answers: Memory,
    /// Whether everything was asked once before.
    is_complete: bool,
}

impl Remembered {
    /// `inner`, whose answers are remembered in `memory`, and nothing else is.
    pub(super) fn of(inner: Arc<dyn BlobSource>, memory: &Memory) -> Arc<Self> {
        *memory.lock() = Answers::default();
        Arc::new(Self { inner, answers: memory.clone(), is_complete: false })
    }

    /// `inner`, which has given `answers` before and is not asked again.
    pub(super) fn again(inner: Arc<dyn BlobSource>, answers: Answers) -> Arc<Self> {
        Arc::new(Self { inner, answers: Memory::of(answers), is_complete: true })
    }

    fn remembered(&self, is_it: impl Fn(&Manifest) -> bool) -> Result<RawManifest> {
        let answers = self.answers.lock();
        let found = answers.manifests.iter().find(|manifest| is_it(manifest)).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "a manifest that this mount was made of was not handed over")
        })?;
        let Manifest { digest, media_type, text } = found.clone();
        Ok(RawManifest { digest, media_type, bytes: text.into() })
    }
}

impl Answers {
    fn add(&mut self, manifest: &RawManifest) {
        let RawManifest { digest, media_type, bytes } = manifest.clone();
        // What is no text is no manifest either.
        if let Ok(text) = String::from_utf8(bytes.into()) {
            self.manifests.push(Manifest { digest, media_type, text });
        }
    }
}

#[async_trait]
impl BlobSource for Remembered {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn resolve(&self) -> Result<RawManifest> {
        if self.is_complete {
            return self.remembered(|_| true);
        }
        let manifest = self.inner.resolve().await?;
        self.answers.lock().add(&manifest);
        Ok(manifest)
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        if self.is_complete {
            return self.remembered(|manifest| manifest.digest == descriptor.digest);
        }
        let manifest = self.inner.manifest(descriptor).await?;
        self.answers.lock().add(&manifest);
        Ok(manifest)
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        self.inner.blob(digest, size, range).await
    }

    async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
        if self.is_complete {
            let answers = self.answers.answers();
            let is_it =
                |known: &&Referrers| known.subject == *subject && known.artifact_type == artifact_type;
            // What was not heard in time then must not be heard now: the mount was made without.
            return Ok(answers
                .referrers
                .iter()
                .find(is_it)
                .map(|known| known.found.clone())
                .unwrap_or_default());
        }
        let found = self.inner.referrers(subject, artifact_type).await?;
        let (subject, artifact_type) = (subject.clone(), artifact_type.to_owned());
        self.answers.lock().referrers.push(Referrers { subject, artifact_type, found: found.clone() });
        Ok(found)
    }

    async fn access(&self, key: &AccessKey) -> Result<Option<Access>> {
        self.inner.access(key).await
    }

    fn doubt(&self, digest: &Digest) -> bool {
        self.inner.doubt(digest)
    }

    fn distrust(&self, digest: &Digest) -> bool {
        self.inner.distrust(digest)
    }

    fn hosts(&self) -> Vec<HostStatus> {
        self.inner.hosts()
    }
}

/// A source that cannot be opened any more: what is cached can be read, and nothing else.
#[derive(Debug)]
pub(super) struct Unopened(pub(super) Error);

#[async_trait]
impl BlobSource for Unopened {
    fn name(&self) -> &str {
        "(cannot be opened)"
    }

    async fn resolve(&self) -> Result<RawManifest> {
        Err(self.0.clone())
    }

    async fn manifest(&self, _: &Descriptor) -> Result<RawManifest> {
        Err(self.0.clone())
    }

    async fn blob(&self, _: &Digest, _: u64, _: Range<u64>) -> Result<BlobBody> {
        Err(self.0.clone())
    }
}
