//! [`Pulled`]: a registry whose answers are kept, and given again without it.
//!
//! What manifests say and what references stand for goes through the documents of the cache, by the mount's
//! [`PullPolicy`]; blobs do not, since the layers above cache them. What comes out of the cache is checked against its
//! digest and size; what does not match is as if it were not there. Only who has found out what a reference stands for
//! is told without the registry (see [`super::resolution`]); and a manifest, whoever has left it in the cache, is given
//! only to who was given it by this repository, which is noted as if it had been asked for by its digest.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use crate::artifact::{self, Artifact};
use crate::base::{Algorithm, Digest, Error, ErrorKind, Result};
use crate::cache::{Cache, DocumentKey, DocumentKind};
use crate::oci::{Descriptor, SourceRef, WantedPlatform};
use crate::registry::{Access, AccessKey, BlobBody, BlobSource, HostStatus, RawManifest, SourceOptions};

use super::PullPolicy;
use super::remembered::{Memory, Remembered};
use super::resolution::Resolution;

/// Resolves `reference` by `policy`; what was said is in `memory` then. A layout is at hand: it is always asked itself.
///
/// # Errors
/// Those of [`artifact::load`]; with [`PullPolicy::Never`], `NotFound` for what the cache does not hold, `Unauthorized`
/// for what it holds for other credentials.
pub(super) async fn load(
    reference: &SourceRef,
    wanted: &WantedPlatform,
    options: &SourceOptions,
    policy: PullPolicy,
    cache: &Arc<Cache>,
    memory: &Memory,
) -> Result<(Artifact, Arc<dyn BlobSource>)> {
    if matches!(reference, SourceRef::Layout(_)) {
        let wrap = |_: &SourceRef, source| -> Arc<dyn BlobSource> { Remembered::of(source, memory) };
        return artifact::load_through(reference, wanted, options, &wrap).await;
    }
    let by = |answers| {
        let cache = Arc::clone(cache);
        move |reference: &SourceRef, source: Arc<dyn BlobSource>| -> Arc<dyn BlobSource> {
            let (reference, cache) = (reference.clone(), Arc::clone(&cache));
            Remembered::of(Arc::new(Pulled { source, reference, cache, answers }), memory)
        }
    };
    if policy != PullPolicy::Always {
        match artifact::load_through(reference, wanted, options, &by(Answers::Held)).await {
            Err(error) if policy == PullPolicy::Missing => {
                tracing::info!(%reference, why = error.chain(), "the registry is asked");
            }
            held => return held,
        }
    }
    artifact::load_through(reference, wanted, options, &by(Answers::Asked)).await
}

/// Where the answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// From the registry, and they are kept.
    Asked,
    /// From the cache alone.
    Held,
}

/// See the module's text.
#[derive(Debug)]
struct Pulled {
    source: Arc<dyn BlobSource>,
    reference: SourceRef,
    cache: Arc<Cache>,
    answers: Answers,
}

impl Pulled {
    async fn own_access(&self) -> Result<Option<Access>> {
        self.source.access(&AccessKey(self.cache.access_key()?)).await
    }

    /// The reference to `digest` in the same repository, whatever tag led to it.
    fn by_digest(&self, digest: &Digest) -> SourceRef {
        let mut pinned = self.reference.pinned(digest);
        if let SourceRef::Registry(registry) = &mut pinned {
            registry.tag = None;
        }
        pinned
    }

    /// The reference as it is noted: a tag beside a digest says nothing.
    fn noted_reference(&self) -> SourceRef {
        self.reference.digest().map_or_else(|| self.reference.clone(), |digest| self.by_digest(digest))
    }

    fn resolution(&self, reference: &SourceRef, access: &Access) -> Option<Resolution> {
        let key = Resolution::key(reference, access);
        let bytes = self.cache.read_document(DocumentKind::Resolution, &key)?;
        serde_json::from_slice(&bytes).ok()
    }

    /// What is noted of `reference`, for who may know it.
    async fn held_resolution(&self, reference: &SourceRef) -> Result<Resolution> {
        let access = self.own_access().await?;
        let found = access.and_then(|access| Some((self.resolution(reference, &access)?, access)));
        match found {
            None => Err(self.not_held(&format!("what {reference} stands for"))),
            Some((resolution, access)) if resolution.admits(&access) => Ok(resolution),
            Some(_) => {
                let name = self.source.name();
                let text = format!(
                    "{reference} is in the cache for other credentials than those that there are now, which {name} has \
                     not been shown for it; mount it with --pull missing or --pull always, so that they are"
                );
                Err(Error::new(ErrorKind::Unauthorized, text))
            }
        }
    }

    /// The document `digest`, of `bytes` bytes where that is known.
    fn held_manifest(&self, digest: &Digest, bytes: Option<u64>) -> Result<bytes::Bytes> {
        let held = self.cache.read_document(DocumentKind::Manifest, digest);
        let is_right = |held: &Vec<u8>| {
            bytes.is_none_or(|bytes| bytes == held.len() as u64)
                && Digest::of(digest.algorithm(), held) == *digest
        };
        let missing = || self.not_held(&format!("the manifest {digest} of {}", self.reference));
        held.filter(is_right).map(bytes::Bytes::from).ok_or_else(missing)
    }

    fn not_held(&self, what: &str) -> Error {
        let cache = self.cache.paths().root().display();
        let text = format!(
            "{what} is not known in the cache {cache}, and no registry is asked; mount it with --pull missing or --pull \
             always"
        );
        Error::new(ErrorKind::NotFound, text)
    }

    /// Runs `keep` where the disk may be waited for. What cannot be kept is asked for again some day.
    async fn kept(&self, keep: impl FnOnce(&Cache) -> Result<()> + Send + 'static) {
        let cache = Arc::clone(&self.cache);
        let kept = tokio::task::spawn_blocking(move || keep(&cache)).await;
        let kept = kept.unwrap_or_else(|error| Err(Error::new(ErrorKind::Io, error.to_string())));
        if let Err(error) = kept {
            let (reference, error) = (&self.reference, error.chain());
            tracing::warn!(%reference, error, "what the registry said is not kept");
        }
    }

    /// Keeps that `reference` was found to be `manifest`, for whoever asks as before and after.
    async fn keep_resolution(
        &self,
        reference: SourceRef,
        before: &Result<Option<Access>>,
        manifest: &RawManifest,
    ) {
        let access = match (before, self.own_access().await) {
            (Ok(Some(before)), Ok(Some(after))) => {
                Some(after).filter(|after| after.credentials == before.credentials)
            }
            (Err(error), _) => {
                let error = error.clone();
                return self.kept(|_| Err(error)).await;
            }
            (_, Err(error)) => return self.kept(|_| Err(error)).await,
            _ => None,
        };
        // Otherwise it is not certain what was sent.
        let Some(access) = access else { return };
        let known = self.resolution(&reference, &access);
        let resolution = Resolution::noted(known.clone(), &reference, manifest, &access);
        if known.as_ref() == Some(&resolution) {
            return;
        }
        let key = Resolution::key(&reference, &access);
        self.kept(move |cache| write(cache, DocumentKind::Resolution, (&key).into(), &resolution)).await;
    }

    async fn keep_manifest(&self, manifest: &RawManifest) {
        let RawManifest { digest, bytes, .. } = manifest.clone();
        self.kept(move |cache| match cache.read_document(DocumentKind::Manifest, &digest) {
            Some(held) if held == bytes => Ok(()),
            _ => cache.write_document(DocumentKind::Manifest, &digest, &bytes),
        })
        .await;
    }

    /// The name of the document that says what refers to `subject`: by whom that was said counts as much as for a
    /// reference.
    async fn referrers_key(&self, artifact_type: &str) -> Result<Option<Digest>> {
        let name = |access: Access| {
            // The way has the repository's name in it.
            Digest::of(Algorithm::Sha256, format!("{artifact_type} by {}", access.way).as_bytes())
        };
        Ok(self.own_access().await?.map(name))
    }
}

fn write(cache: &Cache, kind: DocumentKind, key: DocumentKey<'_>, of: &impl serde::Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(of)
        .map_err(|error| Error::with_source(ErrorKind::Io, "it cannot be written as JSON", error))?;
    cache.write_document(kind, key, &bytes)
}

#[async_trait]
impl BlobSource for Pulled {
    fn name(&self) -> &str {
        self.source.name()
    }

    async fn resolve(&self) -> Result<RawManifest> {
        if self.answers == Answers::Held {
            let Resolution { digest, media_type, .. } = self.held_resolution(&self.noted_reference()).await?;
            let bytes = self.held_manifest(&digest, None)?;
            return Ok(RawManifest { digest, media_type, bytes });
        }
        let access = self.own_access().await;
        let manifest = self.source.resolve().await?;
        self.keep_manifest(&manifest).await;
        self.keep_resolution(self.by_digest(&manifest.digest), &access, &manifest).await;
        if self.reference.digest().is_none() {
            self.keep_resolution(self.reference.clone(), &access, &manifest).await;
        }
        Ok(manifest)
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        if self.answers == Answers::Held {
            self.held_resolution(&self.by_digest(&descriptor.digest)).await?;
            let bytes = self.held_manifest(&descriptor.digest, Some(descriptor.size))?;
            let media_type = Some(descriptor.media_type.clone());
            return Ok(RawManifest { digest: descriptor.digest.clone(), media_type, bytes });
        }
        let access = self.own_access().await;
        let manifest = self.source.manifest(descriptor).await?;
        self.keep_manifest(&manifest).await;
        self.keep_resolution(self.by_digest(&descriptor.digest), &access, &manifest).await;
        Ok(manifest)
    }

    /// Without the registry, those that there were when it was asked: layers are called by the indexes that are found
    /// so, and would not be known by other names.
    async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
        let key = self.referrers_key(artifact_type).await;
        if self.answers == Answers::Held {
            let Some(key) = key? else { return Ok(Vec::new()) };
            let key = DocumentKey::variant(subject, &key);
            let held = self.cache.read_document(DocumentKind::Referrers, key);
            return Ok(held.and_then(|held| serde_json::from_slice(&held).ok()).unwrap_or_default());
        }
        let referrers = self.source.referrers(subject, artifact_type).await?;
        match key {
            Ok(Some(key)) => {
                let (subject, referrers) = (subject.clone(), referrers.clone());
                self.kept(move |cache| {
                    write(cache, DocumentKind::Referrers, DocumentKey::variant(&subject, &key), &referrers)
                })
                .await;
            }
            Ok(None) => {}
            Err(error) => self.kept(|_| Err(error)).await,
        }
        Ok(referrers)
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        self.source.blob(digest, size, range).await
    }

    async fn access(&self, key: &AccessKey) -> Result<Option<Access>> {
        self.source.access(key).await
    }

    fn doubt(&self, digest: &Digest) -> bool {
        self.source.doubt(digest)
    }

    fn distrust(&self, digest: &Digest) -> bool {
        self.source.distrust(digest)
    }

    fn hosts(&self) -> Vec<HostStatus> {
        self.source.hosts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheSettings, FreeSpaceFloor};
    use crate::registry::RegistrySource;

    /// A registry without a network: what it is asked for is there as long as it is not away.
    #[derive(Debug)]
    struct Double {
        guard: RegistrySource,
        is_away: bool,
    }

    fn subject() -> Digest {
        Digest::of(Algorithm::Sha256, b"subject")
    }

    #[async_trait]
    impl BlobSource for Double {
        fn name(&self) -> &str {
            "r.example"
        }

        async fn resolve(&self) -> Result<RawManifest> {
            self.manifest(&Descriptor::new("application/x", subject(), 7)).await
        }

        async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
            assert!(!self.is_away, "the registry was asked");
            let (digest, media_type) = (descriptor.digest.clone(), Some(descriptor.media_type.clone()));
            Ok(RawManifest { digest, media_type, bytes: b"subject"[..].into() })
        }

        async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
            assert!(!self.is_away, "the registry was asked");
            Ok(vec![Descriptor::new(artifact_type, subject.clone(), 7)])
        }

        async fn blob(&self, _: &Digest, _: u64, _: Range<u64>) -> Result<BlobBody> {
            panic!("no blob is needed")
        }

        async fn access(&self, key: &AccessKey) -> Result<Option<Access>> {
            self.guard.access(key).await
        }
    }

    fn cache() -> (tempfile::TempDir, Arc<Cache>) {
        let directory = tempfile::tempdir().unwrap();
        let settings = CacheSettings {
            directory: directory.path().to_owned(),
            bytes_max: 1 << 30,
            free_space_min: FreeSpaceFloor::Bytes(0),
        };
        (directory, Cache::open(settings).unwrap())
    }

    fn pulled(cache: &Arc<Cache>, reference: &str, answers: Answers) -> Pulled {
        let reference: SourceRef = reference.parse().unwrap();
        let SourceRef::Registry(registry) = &reference else { panic!("{reference}") };
        let guard = RegistrySource::open(registry, &SourceOptions::default()).unwrap();
        let source = Arc::new(Double { guard, is_away: answers == Answers::Held });
        Pulled { source, reference, cache: Arc::clone(cache), answers }
    }

    #[tokio::test]
    async fn what_was_said_is_said_again_without_the_registry() {
        let (_directory, cache) = cache();
        let held = pulled(&cache, "r.example/m:v1", Answers::Held);
        assert_eq!(held.resolve().await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(held.referrers(&subject(), "x").await.unwrap(), []);
        let asked = pulled(&cache, "r.example/m:v1", Answers::Asked);
        let first = asked.resolve().await.unwrap();
        let referrers = asked.referrers(&subject(), "x").await.unwrap();
        let again = held.resolve().await.unwrap();
        assert_eq!(
            (again.digest, again.media_type, again.bytes),
            (first.digest, first.media_type, first.bytes)
        );
        assert_eq!(held.referrers(&subject(), "x").await.unwrap(), referrers);
        // Of another type, in another repository, or by another name, nothing was said.
        assert_eq!(held.referrers(&subject(), "y").await.unwrap(), []);
        for other in ["r.example/n:v1", "r.example/m:v2", "q.example/m:v1"] {
            let other = pulled(&cache, other, Answers::Held);
            assert_eq!(other.resolve().await.unwrap_err().kind(), ErrorKind::NotFound);
            let is_there = !other.referrers(&subject(), "x").await.unwrap().is_empty();
            assert_eq!(is_there, other.reference.to_string() == "r.example/m:v2");
        }
    }

    #[tokio::test]
    async fn what_another_repository_gave_is_not_given() {
        let (_directory, cache) = cache();
        let descriptor = Descriptor::new("application/x", subject(), 7);
        pulled(&cache, "r.example/private:v1", Answers::Asked).manifest(&descriptor).await.unwrap();
        pulled(&cache, "r.example/private:v2", Answers::Held).manifest(&descriptor).await.unwrap();
        let other = pulled(&cache, "r.example/own:v1", Answers::Held);
        assert_eq!(other.manifest(&descriptor).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn what_a_tag_led_to_is_known_by_its_digest() {
        let (_directory, cache) = cache();
        pulled(&cache, "r.example/m:v1", Answers::Asked).resolve().await.unwrap();
        for reference in ["r.example/m", "r.example/m:v2"] {
            let pinned = format!("{reference}@{}", subject());
            pulled(&cache, &pinned, Answers::Held).resolve().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_manifest_of_another_digest_or_size_is_as_if_it_were_not_there() {
        let (_directory, cache) = cache();
        pulled(&cache, "r.example/m:v1", Answers::Asked).resolve().await.unwrap();
        let held = pulled(&cache, "r.example/m:v1", Answers::Held);
        held.manifest(&Descriptor::new("application/x", subject(), 7)).await.unwrap();
        let error = held.manifest(&Descriptor::new("application/x", subject(), 8)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        cache.write_document(DocumentKind::Manifest, &subject(), b"another").unwrap();
        assert_eq!(held.resolve().await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
