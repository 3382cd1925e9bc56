//! Debian's `docker-registry`, on a free port with a storage of its own.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use refmount::base::Digest;
use refmount::oci::{SourceRef, media_type};
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, LOCATION, RANGE};

use super::artifact::{ModelArtifact, digest_of};
use super::producers::Product;
use super::supervised::{Supervised, put};

/// A running registry; ends with this value, or with the process of the tests.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    _server: Supervised,
    host: String,
    data: PathBuf,
    log: Arc<AccessLog>,
    markers: AtomicU64,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    /// Of the body, as far as it was sent.
    pub(crate) bytes: u64,
}

impl Access {
    /// Whether it asked for bytes of a blob.
    pub(crate) fn is_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/")
    }
}

#[derive(Debug, Default)]
struct AccessLog {
    accesses: Mutex<Vec<Access>>,
    grown: Condvar,
}

impl AccessLog {
    /// Takes in lines of Apache's combined format until their end.
    fn follow(&self, lines: impl Read) {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            let mut parts = line.split('"').skip(1);
            let (request, answer) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let mut words = request.split(' ').map(str::to_owned);
            let (Some(method), Some(path)) = (words.next(), words.next()) else { continue };
            let mut words = answer.split_whitespace();
            let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(0);
            let bytes = words.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
            let access = Access { method, path, status, bytes };
            self.accesses.lock().unwrap_or_else(PoisonError::into_inner).push(access);
            self.grown.notify_all();
        }
    }
}

impl DockerRegistry {
    /// Starts one and waits until it listens.
    pub(crate) fn start() -> Self {
        Self::with(None, "")
    }

    /// One that holds what `upstream` does, an address and a port, and fetches it when it is asked for it.
    pub(crate) fn mirror_of(upstream: &str) -> Self {
        Self::with(None, &format!("proxy: {{remoteurl: 'http://{upstream}'}}\n"))
    }

    /// Another one over the storage of this one, with `settings` as well. Nothing is to be pushed to it, and it has to
    /// end first.
    pub(crate) fn another(&self, settings: &str) -> Self {
        Self::with(Some(&self.data), settings)
    }

    fn with(data: Option<&Path>, settings: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("refmount-registry-").tempdir().unwrap();
        let data = data.map_or_else(|| directory.path().join("data"), Path::to_owned);
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n{settings}",
            data.display()
        );
        put(directory.path(), "config.yml", &text);
        let configuration = directory.path().join("config.yml");
        let command = ["docker-registry", "serve", configuration.to_str().unwrap()];
        let (mut server, line) =
            Supervised::start(directory, &command, "listening on ").unwrap_or_else(|said| {
                panic!(
                    "docker-registry ended; is it there? scripts/test installs it, or apt-get does: {said}"
                )
            });
        let (_, rest) = line.split_once("listening on ").unwrap();
        let host =
            rest.split(|c: char| c != ':' && c != '.' && !c.is_ascii_digit()).next().unwrap().to_owned();
        let log = Arc::<AccessLog>::default();
        let (stdout, followed) = (server.take_stdout(), log.clone());
        std::thread::spawn(move || followed.follow(stdout));
        Self { _server: server, host, data, log, markers: AtomicU64::new(0) }
    }

    /// Address and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Where it keeps what was pushed.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Pushes `artifact` as `repository:tag`, and returns the reference to it.
    pub(crate) fn push(&self, artifact: &ModelArtifact, repository: &str, tag: &str) -> SourceRef {
        for blob in artifact.blobs() {
            self.push_blob(repository, blob);
        }
        self.push_manifest(repository, tag, &artifact.manifest)
    }

    /// Pushes what a producer made as `repository:tag`, and returns the reference to it.
    pub(crate) fn push_product(&self, product: &Product, repository: &str, tag: &str) -> SourceRef {
        for blob in product.blobs() {
            self.push_blob(repository, blob);
        }
        self.push_manifest(repository, tag, &product.manifest())
    }

    /// Pushes a blob, and returns its digest.
    pub(crate) fn push_blob(&self, repository: &str, blob: &Bytes) -> Digest {
        let (base, digest) = (self.base(repository), digest_of(blob));
        blocking(async |client| {
            let started = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
            let started = started.error_for_status().unwrap();
            let mut url: url::Url = started.headers()[LOCATION].to_str().unwrap().parse().unwrap();
            url.query_pairs_mut().append_pair("digest", digest.as_str());
            client.put(url).body(blob.clone()).send().await.unwrap().error_for_status().unwrap();
        });
        digest
    }

    /// Shows a blob of the repository `from` in `repository` too.
    pub(crate) fn share_blob(&self, repository: &str, from: &str, digest: &Digest) {
        let url = format!("{}/blobs/uploads/?mount={digest}&from={from}", self.base(repository));
        blocking(async |client| {
            assert_eq!(client.post(url).send().await.unwrap().status(), 201);
        });
    }

    /// Pushes a manifest whose blobs are there, and returns the reference to it.
    pub(crate) fn push_manifest(&self, repository: &str, tag: &str, manifest: &Bytes) -> SourceRef {
        let url = format!("{}/manifests/{tag}", self.base(repository));
        blocking(async |client| {
            let put = client.put(url).header(CONTENT_TYPE, media_type::OCI_MANIFEST).body(manifest.clone());
            put.send().await.unwrap().error_for_status().unwrap();
        });
        format!("{}/{repository}:{tag}", self.host).parse().unwrap()
    }

    /// Whether it answers a range of a blob with that range, which a mirror does once it holds the blob itself; asking
    /// makes it fetch the blob.
    pub(crate) fn gives_ranges(&self, repository: &str, digest: &Digest) -> bool {
        let url = format!("{}/blobs/{digest}", self.base(repository));
        blocking(async |client| {
            let answer = client.get(url).header(RANGE, "bytes=0-0").send().await.unwrap();
            let status = answer.status();
            answer.bytes().await.unwrap();
            status == 206
        })
    }

    /// What `repository` was asked for and has answered so far.
    pub(crate) fn accesses(&self, repository: &str) -> Vec<Access> {
        // The log has everything that was answered before a request of our own that it has.
        let marker = format!("marker-{}", self.markers.fetch_add(1, Ordering::Relaxed));
        let url = format!("{}/manifests/v0", self.base(&marker));
        blocking(async |client| {
            client.get(url).send().await.unwrap();
        });
        let is_of = |access: &&Access, name: &str| access.path.starts_with(&format!("/v2/{name}/"));
        let accesses = self.log.accesses.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |all: &mut Vec<Access>| !all.iter().any(|access| is_of(&access, &marker));
        let (accesses, waited) =
            self.log.grown.wait_timeout_while(accesses, Duration::from_secs(60), missing).unwrap();
        assert!(!waited.timed_out(), "the registry does not log what it answers");
        accesses.iter().filter(|access| is_of(access, repository)).cloned().collect()
    }

    fn base(&self, repository: &str) -> String {
        format!("http://{}/v2/{repository}", self.host)
    }
}

/// Runs `work` in a thread of its own, because the caller may be inside a runtime.
fn blocking<T: Send>(work: impl AsyncFnOnce(Client) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { work(Client::builder().no_proxy().build().unwrap()).await })
        };
        scope.spawn(run).join().unwrap()
    })
}
