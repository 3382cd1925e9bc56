//! Manifests, indexes, and the rules that make artifacts of them.

use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use refmount::artifact::{self, Artifact, LayerFormat};
use refmount::base::limits::{BLOB_BYTES_MAX, LAYERS_MAX};
use refmount::base::{Algorithm, Digest, Error, ErrorKind, RelPath, Result};
use refmount::layer::EntryKind;
use refmount::oci::{Descriptor, Document, Platform, SourceRef, WantedPlatform, media_type};
use refmount::registry::{BlobBody, BlobSource, RawManifest};

use super::splits::Splits;

/// Media types that a registry may declare.
const DECLARED: [Option<&str>; 6] = [
    None,
    Some(""),
    Some("text/plain"),
    Some(media_type::OCI_MANIFEST),
    Some(media_type::OCI_INDEX),
    Some(media_type::DOCKER_MANIFEST),
];

/// Takes `data` for the document of a manifest URL, and for what every entry of an index leads to.
pub fn check(data: &[u8]) {
    let declared = DECLARED[Splits::of(data).below(DECLARED.len() as u64) as usize];
    match Document::parse(data, declared) {
        Ok(document) => check_document(&document),
        Err(error) => assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{error}"),
    }
    let source = Source { data: Bytes::copy_from_slice(data), declared };
    let reference: SourceRef = "localhost/a:v1".parse().unwrap();
    let linux = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    for wanted in [WantedPlatform::One(linux), WantedPlatform::All] {
        match now(artifact::load_from(&source, &reference, &wanted)) {
            Ok(artifact) => check_artifact(&artifact),
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::Usage
                ),
                "{:?}: {}",
                error.kind(),
                error.chain()
            ),
        }
    }
}

fn check_document(document: &Document) {
    let (media_type, descriptors): (_, Vec<&Descriptor>) = match document {
        Document::Manifest(manifest) => {
            assert!(media_type::is_manifest(&manifest.media_type));
            (&manifest.media_type, manifest.layers.iter().chain([&manifest.config]).collect())
        }
        Document::Index(index) => {
            assert!(media_type::is_index(&index.media_type));
            (&index.media_type, index.manifests.iter().collect())
        }
    };
    assert!(media_type::is_manifest(media_type) != media_type::is_index(media_type), "{media_type}");
    assert!(descriptors.len() <= LAYERS_MAX);
    for descriptor in descriptors {
        assert!(descriptor.size <= BLOB_BYTES_MAX);
        let digest = &descriptor.digest;
        assert!(digest.hex().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{digest}");
        assert_eq!(digest.as_str().parse::<Digest>().unwrap(), *digest);
        let written = serde_json::to_vec(descriptor).unwrap();
        let again: Descriptor = serde_json::from_slice(&written).unwrap();
        assert_eq!(again, *descriptor, "written and read again");
    }
}

fn check_artifact(artifact: &Artifact) {
    assert!(!artifact.layers.is_empty());
    for layer in &artifact.layers {
        let entry = &layer.file;
        assert_eq!(RelPath::parse(entry.path.as_bytes()).unwrap(), entry.path);
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000, "{entry:?}");
        if let Some(directory) = &layer.directory {
            let path = RelPath::parse(&[directory.as_bytes(), b"/", entry.path.as_bytes()].concat());
            assert!(path.is_ok(), "{directory} {entry:?}");
        }
        if layer.format == LayerFormat::Raw {
            assert_eq!(entry.kind, EntryKind::whole_stream(layer.descriptor.size), "a raw layer is its file");
        }
    }
    for platform in &artifact.platforms {
        assert_eq!(platform.directory.components().count(), 1, "{platform:?}");
    }
}

/// A source that has one document, and answers everything with it.
#[derive(Debug)]
struct Source {
    data: Bytes,
    declared: Option<&'static str>,
}

impl Source {
    fn raw(&self) -> RawManifest {
        RawManifest {
            digest: Digest::of(Algorithm::Sha256, &self.data),
            media_type: self.declared.map(str::to_owned),
            bytes: self.data.clone(),
        }
    }
}

#[async_trait]
impl BlobSource for Source {
    fn name(&self) -> &str {
        "memory"
    }

    async fn resolve(&self) -> Result<RawManifest> {
        Ok(self.raw())
    }

    async fn manifest(&self, _: &Descriptor) -> Result<RawManifest> {
        Ok(self.raw())
    }

    async fn blob(&self, digest: &Digest, _: u64, _: Range<u64>) -> Result<BlobBody> {
        Err(Error::new(ErrorKind::NotFound, format!("there is no blob {digest}")))
    }
}

/// What `future` comes to, which waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("there is nothing to wait for"),
    }
}
