//! Debian's `docker-registry`, on a free port with a storage of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use refmount::oci::{SourceRef, media_type};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use tempfile::TempDir;

use super::artifact::{ModelArtifact, digest_of};

/// A running registry; ends with this value.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    process: Child,
    host: String,
    _storage: TempDir,
}

impl DockerRegistry {
    /// Starts one and waits until it listens.
    pub(crate) fn start() -> Self {
        let storage = tempfile::tempdir().unwrap();
        let configuration = storage.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            storage.path().join("data").display()
        );
        refmount::base::durable::write(&configuration, text.as_bytes()).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("docker-registry cannot be run ({error}); scripts/test installs it, or apt-get does")
            });
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let host = loop {
            let Some(Ok(line)) = lines.next() else { panic!("docker-registry ended: {seen}") };
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest
                    .split(|c: char| c != ':' && c != '.' && !c.is_ascii_digit())
                    .next()
                    .unwrap()
                    .to_owned();
            }
            seen += &line;
        };
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, host, _storage: storage }
    }

    /// Pushes `artifact` as `repository:tag`, and returns the reference to it.
    pub(crate) fn push(&self, artifact: &ModelArtifact, repository: &str, tag: &str) -> SourceRef {
        let base = format!("http://{}/v2/{repository}", self.host);
        let work = async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            for blob in artifact.blobs() {
                push_blob(&client, &base, blob).await;
            }
            let manifest = client.put(format!("{base}/manifests/{tag}"));
            let manifest =
                manifest.header(CONTENT_TYPE, media_type::OCI_MANIFEST).body(artifact.manifest.clone());
            manifest.send().await.unwrap().error_for_status().unwrap();
        };
        // A thread of its own, because the caller may be inside a runtime.
        std::thread::scope(|scope| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            scope.spawn(move || runtime.block_on(work)).join().unwrap();
        });
        format!("{}/{repository}:{tag}", self.host).parse().unwrap()
    }
}

async fn push_blob(client: &reqwest::Client, base: &str, blob: &Bytes) {
    let started =
        client.post(format!("{base}/blobs/uploads/")).send().await.unwrap().error_for_status().unwrap();
    let mut url: url::Url = started.headers()[LOCATION].to_str().unwrap().parse().unwrap();
    url.query_pairs_mut().append_pair("digest", digest_of(blob).as_str());
    client.put(url).body(blob.clone()).send().await.unwrap().error_for_status().unwrap();
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
