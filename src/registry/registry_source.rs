//! [`RegistrySource`]: a repository that several hosts may serve, mirrors before the registry itself.
//!
//! A mirror gets one attempt; when it fails, stalls, trickles, lacks what was asked for or has served wrong bytes, it is set aside
//! and the next host takes over, for manifests and for every single range of a blob. The registry comes last and is
//! asked as often as the retry budget allows. Which bytes are wrong is found out elsewhere; here it only counts who
//! served them.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Document, RegistryRef};

use super::access::{Access, AccessKey, Fingerprinter};
use super::config::RegistryConfig;
use super::record::{HostStatus, Record, Turn};
use super::remote::{Remote, Wanted};
use super::route::{HostRoute, Serves};
use super::traffic::{self, HostTraffic};
use super::{BlobBody, BlobSource, RawManifest, SourceOptions, check_range};

/// Bytes of a body after which its host has served well: one chunk.
const SERVED_WELL_BYTES: u64 = 1 << 20;

/// See the module's text.
#[derive(Debug)]
pub struct RegistrySource {
    reference: RegistryRef,
    hosts: Vec<Arc<Host>>,
}

#[derive(Debug)]
struct Host {
    remote: Remote,
    record: Record,
    traffic: Arc<HostTraffic>,
}

impl RegistrySource {
    /// A source for `reference`, by the route that the configuration gives it. Reads the files of configuration and
    /// credentials; sends nothing yet.
    ///
    /// # Errors
    /// `Invalid` for a malformed file, `NotFound` for a missing one that is required, `Unauthorized` for a registry
    /// that the configuration blocks, `Usage` for a host that no URL can hold.
    pub fn open(reference: &RegistryRef, options: &SourceOptions) -> Result<Self> {
        let config = RegistryConfig::read(options)?;
        let route = config.route(reference, options)?;
        let mirrors = route.hosts.iter().filter(|host| host.is_mirror).count();
        let host = |route: HostRoute| {
            let traffic = traffic::of(&route.host);
            let remote = Remote::open(route, mirrors, options, config.credential_helpers())?;
            Ok(Arc::new(Host { remote, record: Record::default(), traffic }))
        };
        let hosts = route.hosts.into_iter().map(host).collect::<Result<_>>()?;
        Ok(Self { reference: reference.clone(), hosts })
    }

    /// The hosts to ask for `digest`, or for what a tag means, in their order.
    fn in_turn(&self, digest: Option<&Digest>, is_asked: impl Fn(Serves) -> bool) -> Vec<Arc<Host>> {
        let mut hosts: Vec<(Turn, &Arc<Host>)> = self
            .hosts
            .iter()
            .filter(|host| is_asked(host.remote.route().serves))
            .map(|host| (host.record.turn(digest), host))
            .collect();
        // Of hosts that have all served wrong bytes, the registry itself is the likeliest to serve others.
        hosts.sort_by_key(|(turn, host)| (*turn, *turn >= Turn::Suspected && host.is_mirror()));
        if hosts.first().is_some_and(|(turn, _)| *turn != Turn::Distrusted) {
            hosts.retain(|(turn, _)| *turn != Turn::Distrusted);
        }
        hosts.into_iter().map(|(_, host)| Arc::clone(host)).collect()
    }

    async fn manifest_in_turn(&self, wanted: &Wanted<'_>) -> Result<RawManifest> {
        let digest = wanted.digest();
        let mut failures = Failures::default();
        for host in self.in_turn(digest, |serves| if digest.is_some() { serves.digests } else { serves.tags })
        {
            host.record.asked();
            let answer = match host.is_mirror() {
                true => host.remote.manifest_once(wanted).await.and_then(|found| sensible(wanted, found)),
                false => host.remote.manifest_retried(wanted).await,
            };
            match answer {
                Ok(manifest) => {
                    host.record.succeeded(digest);
                    return Ok(manifest);
                }
                Err(error) => failures.add(&host, digest, error),
            }
        }
        Err(failures.into_error(&self.reference))
    }
}

impl Host {
    fn is_mirror(&self) -> bool {
        self.remote.route().is_mirror
    }

    /// `body`, which this host serves, counted and watched.
    fn watched(self: &Arc<Self>, digest: &Digest, body: BlobBody) -> BlobBody {
        let enough = (body.range.end - body.range.start).min(SERVED_WELL_BYTES);
        let (host, digest) = (Arc::clone(self), digest.clone());
        let mut watch = Watch { host, digest, enough, taken: 0, noted_at: None, has_failed: false };
        let pieces = body.pieces.inspect(move |piece| watch.take(piece));
        BlobBody { range: body.range, pieces: pieces.boxed() }
    }

    fn failed(&self, digest: Option<&Digest>, error: &Error) {
        let aside = self.record.failed(digest, error);
        if self.is_mirror() && aside.was_in_use {
            self.traffic.set_aside();
            let (host, pause_s) = (&self.remote.route().host, aside.pause.as_secs());
            tracing::warn!(%host, pause_s, error = error.chain(), "a mirror is set aside");
        }
    }
}

/// What came for a tag, if it is a manifest at all: whatever stands in a mirror's place may answer everything with its own
/// pages. What is asked for by digest is checked by that.
fn sensible(wanted: &Wanted<'_>, found: RawManifest) -> Result<RawManifest> {
    if wanted.digest().is_none() {
        Document::parse(&found.bytes, found.media_type.as_deref())?;
    }
    Ok(found)
}

/// Watches a body that a host serves.
struct Watch {
    host: Arc<Host>,
    digest: Digest,
    /// After so many bytes it has served well.
    enough: u64,
    taken: u64,
    /// How often the host had been accused when its part in the blob was last noted.
    noted_at: Option<u64>,
    has_failed: bool,
}

impl Watch {
    fn take(&mut self, piece: &Result<Bytes>) {
        match piece {
            Ok(piece) => {
                let accusations = self.host.record.accusations();
                if self.noted_at != Some(accusations) {
                    self.host.record.serves(&self.digest);
                    self.noted_at = Some(accusations);
                }
                self.taken += piece.len() as u64;
                self.host.record.came(piece.len() as u64);
                self.host.traffic.came(piece.len() as u64);
            }
            Err(error) => {
                self.has_failed = true;
                self.host.failed(Some(&self.digest), error);
            }
        }
    }
}

/// Only at its end: a body that stalls after its first bytes, and the next one too, is served by nobody well.
impl Drop for Watch {
    fn drop(&mut self) {
        if !self.has_failed && self.taken >= self.enough {
            self.host.record.succeeded(Some(&self.digest));
        }
    }
}

/// What the hosts failed with that were asked for one thing.
#[derive(Default)]
struct Failures(Vec<(Arc<Host>, Error)>);

impl Failures {
    fn add(&mut self, host: &Arc<Host>, digest: Option<&Digest>, error: Error) {
        host.failed(digest, &error);
        self.0.push((Arc::clone(host), error));
    }

    /// One error for all. What is to be done about it is the registry's word, where it was asked; but where a mirror that
    /// has served before fails in passing, that is what passes, whatever a registry says that may not even know us.
    fn into_error(mut self, reference: &RegistryRef) -> Error {
        if self.0.len() == 1
            && let Some((_, error)) = self.0.pop()
        {
            return error;
        }
        let found =
            |is_it: &dyn Fn(&Host, &Error) -> bool| self.0.iter().find(|(host, error)| is_it(host, error));
        let decisive = found(&|host, error| !host.is_mirror() && error.kind().is_transient())
            .or_else(|| found(&|host, error| host.record.has_served_well() && error.kind().is_transient()))
            .or_else(|| found(&|host, _| !host.is_mirror()))
            .or_else(|| found(&|_, error| error.kind().is_transient()));
        let Some((_, decisive)) = decisive.or(self.0.first()) else {
            let text = format!("{reference}: no host is configured that may be asked for this");
            return Error::new(ErrorKind::Usage, text);
        };
        let each: Vec<String> = self.0.iter().map(|(_, error)| error.chain()).collect();
        let error = Error::new(decisive.kind(), format!("all hosts failed: {}", each.join("; ")));
        match decisive.retry_after() {
            Some(pause) => error.after(pause),
            None => error,
        }
    }
}

#[async_trait]
impl BlobSource for RegistrySource {
    fn name(&self) -> &str {
        &self.reference.host
    }

    async fn resolve(&self) -> Result<RawManifest> {
        let wanted = match (&self.reference.digest, &self.reference.tag) {
            (Some(digest), _) => Wanted::Digest(digest),
            (None, Some(tag)) => Wanted::Tag(tag),
            (None, None) => Wanted::Tag("latest"),
        };
        self.manifest_in_turn(&wanted).await
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        self.manifest_in_turn(&Wanted::Descriptor(descriptor)).await
    }

    /// The registry's own list comes first: a mirror that keeps none is not to be told from one where there is
    /// nothing in it.
    async fn referrers(&self, subject: &Digest, artifact_type: &str) -> Result<Vec<Descriptor>> {
        let mut hosts = self.in_turn(None, |serves| serves.digests);
        hosts.sort_by_key(|host| host.is_mirror());
        let mut failures = Failures::default();
        for host in hosts {
            host.record.asked();
            match host.remote.referrers(subject, artifact_type).await {
                Ok(found) => return Ok(found),
                Err(error) => failures.add(&host, None, error),
            }
        }
        Err(failures.into_error(&self.reference))
    }

    async fn blob(&self, digest: &Digest, size: u64, range: Range<u64>) -> Result<BlobBody> {
        check_range(size, &range)?;
        let mut failures = Failures::default();
        for host in self.in_turn(Some(digest), |serves| serves.digests) {
            host.record.asked();
            match host.remote.blob(digest, size, &range).await {
                Ok(body) => return Ok(host.watched(digest, body)),
                Err(error) => failures.add(&host, Some(digest), error),
            }
        }
        Err(failures.into_error(&self.reference))
    }

    /// That of all hosts: which of them will answer is not known before.
    async fn access(&self, key: &AccessKey) -> Result<Option<Access>> {
        let mut way = Fingerprinter::new(key, "way");
        let mut credentials = Fingerprinter::new(key, "credentials");
        let mut was_proven = false;
        for host in &self.hosts {
            host.remote.fingerprint(&mut way, &mut credentials).await?;
            was_proven |= host.remote.was_proven();
        }
        Ok(Some(Access { way: way.finish(), credentials: credentials.finish(), was_proven }))
    }

    fn doubt(&self, digest: &Digest) -> bool {
        let served: Vec<bool> = self.hosts.iter().map(|host| host.record.doubt(digest)).collect();
        let others = self.hosts.iter().zip(served).filter(|(host, served)| {
            !served
                && host.remote.route().serves.digests
                && host.record.turn(Some(digest)) != Turn::Distrusted
        });
        others.count() > 0
    }

    fn distrust(&self, digest: &Digest) -> bool {
        // Of all of them, so no short cut.
        let parts: Vec<_> = self.hosts.iter().map(|host| (host, host.record.take_part(digest))).collect();
        let accused: Vec<_> =
            parts.into_iter().filter(|(_, has_part)| *has_part).map(|(host, _)| host).collect();
        for host in &accused {
            host.record.accuse(digest, accused.len() == 1);
            host.remote.forget_store(digest);
            if host.is_mirror() {
                host.failed(None, &Error::new(ErrorKind::Corrupt, format!("wrong bytes of blob {digest}")));
            }
        }
        let next = self.in_turn(Some(digest), |serves| serves.digests);
        next.first().is_some_and(|host| host.record.turn(Some(digest)) != Turn::Distrusted)
    }

    fn hosts(&self) -> Vec<HostStatus> {
        let of_host = |host: &Arc<Host>| HostStatus {
            host: host.remote.route().host.clone(),
            is_mirror: host.is_mirror(),
            ..host.record.status()
        };
        self.hosts.iter().map(of_host).collect()
    }
}
