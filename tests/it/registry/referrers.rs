//! What refers to a manifest: lists, pages, the tag that stands for them, and layouts.

use bytes::Bytes;
use refmount::base::{Digest, ErrorKind};
use refmount::oci::{Descriptor, media_type};
use refmount::registry::LayoutWriter;
use serde_json::json;

use super::{assert_says, options, small, source};
use crate::support::artifact::digest_of;
use crate::support::fault_registry::{Auth, Fault, FaultRegistry, Target};

const KIND: &str = "application/vnd.amazon.soci.index.v1+json";
const OTHER: &str = "application/vnd.other+json";

fn referrer(number: u64, kind: &str) -> Descriptor {
    let digest = digest_of(&number.to_le_bytes());
    Descriptor {
        artifact_type: Some(kind.to_owned()),
        ..Descriptor::new(media_type::OCI_MANIFEST, digest, number)
    }
}

fn page(referrers: &[Descriptor]) -> Bytes {
    json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": referrers })
        .to_string()
        .into()
}

#[tokio::test]
async fn all_pages_are_read_and_only_the_wanted_type_is_kept() {
    let (registry, artifact) = (FaultRegistry::with(&small()), small());
    registry.set_auth(Auth::anonymous_bearer());
    let subject = artifact.descriptor().digest;
    let untyped = Descriptor { artifact_type: None, ..referrer(3, KIND) };
    registry.put_referrers(
        &subject,
        &[page(&[referrer(1, KIND), referrer(2, OTHER)]), page(&[]), page(&[untyped, referrer(4, KIND)])],
    );
    // What passes by itself is asked for again.
    registry.fault(Target::Referrers, Fault::Status(503, Vec::new()));
    let found = source(&registry).referrers(&subject, KIND).await.unwrap();
    assert_eq!(found, [referrer(1, KIND), referrer(4, KIND)]);
}

#[tokio::test]
async fn a_registry_without_a_list_is_asked_for_the_tag() {
    let (registry, artifact) = (FaultRegistry::with(&small()), small());
    let subject = artifact.descriptor().digest;
    assert_eq!(source(&registry).referrers(&subject, KIND).await.unwrap(), []);
    let tag = format!("sha256-{}", subject.hex());
    registry.put_manifest(&tag, media_type::OCI_INDEX, &page(&[referrer(1, OTHER), referrer(2, KIND)]));
    assert_eq!(source(&registry).referrers(&subject, KIND).await.unwrap(), [referrer(2, KIND)]);
    assert_eq!(registry.requests(Target::Referrers).len(), 2);
    let long: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
    let tag = format!("sha512-{}", "ab".repeat(32));
    registry.put_manifest(&tag, media_type::OCI_INDEX, &page(&[referrer(3, KIND)]));
    assert_eq!(source(&registry).referrers(&long, KIND).await.unwrap(), [referrer(3, KIND)]);
}

#[tokio::test]
async fn a_list_that_leads_elsewhere_or_nowhere_is_refused() {
    let (registry, artifact) = (FaultRegistry::with(&small()), small());
    let subject = artifact.descriptor().digest;
    registry.put_referrers(&subject, &[page(&[referrer(1, KIND)]), page(&[])]);
    for link in [
        "<http://localhost:1/v2/models/test/referrers/x>; rel=next".to_owned(),
        "</v2/models/other/referrers/x>; rel=next".to_owned(),
        "</v2/models/test/manifests/v1>; rel=next".to_owned(),
        "<http://[>; rel=next".to_owned(),
    ] {
        registry.fault(Target::Referrers, Fault::Header("Link", link.clone()));
        let error = source(&registry).referrers(&subject, KIND).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{link}");
        assert_says(&error, &[registry.host(), subject.as_str(), "next page"]);
    }
    // Without end.
    let itself = format!("</v2/models/test/referrers/{subject}?artifactType=x>; rel=\"next\"");
    registry.faults(Target::Referrers, 0, 100, Fault::Header("Link", itself));
    assert_eq!(source(&registry).referrers(&subject, KIND).await.unwrap().len(), 16);
    registry.clear_faults();
    for wrong in [&b"{}"[..], b"[", &artifact.manifest] {
        registry.put_referrers(&subject, &[Bytes::copy_from_slice(wrong)]);
        let error = source(&registry).referrers(&subject, KIND).await.unwrap_err();
        assert_says(&error, &[subject.as_str()]);
    }
}

#[tokio::test]
async fn in_a_layout_every_manifest_that_names_the_subject_refers_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let artifact = small();
    let reference = artifact.write_layout(directory.path(), "v1");
    let subject = artifact.descriptor();
    let writer = LayoutWriter::open(directory.path()).unwrap();
    let write = |tag: &str, listed: Option<&str>, kind: Option<&str>, config: &str, subject: &Digest| {
        let empty = json!({ "mediaType": config, "digest": digest_of(b"{}"), "size": 2 });
        let subject = json!({ "mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 1 });
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
            "config": empty, "layers": [], "subject": subject, "annotations": { "tag": tag } });
        if let Some(kind) = kind {
            manifest["artifactType"] = kind.into();
        }
        let bytes = Bytes::from(manifest.to_string());
        writer.add_manifest(Some(tag), media_type::OCI_MANIFEST, listed, &bytes).unwrap();
        digest_of(&bytes)
    };
    let other = digest_of(b"another subject");
    let first = write("a", Some(KIND), Some(KIND), media_type::OCI_EMPTY, &subject.digest);
    write("b", Some(OTHER), Some(OTHER), media_type::OCI_EMPTY, &subject.digest);
    write("c", Some(KIND), Some(KIND), media_type::OCI_EMPTY, &other);
    // Not said in the index, and in the manifest only by its config.
    let second = write("d", None, None, KIND, &subject.digest);
    write("e", None, None, OTHER, &subject.digest);
    // Listed as what it is not.
    write("f", Some(KIND), Some(OTHER), media_type::OCI_EMPTY, &subject.digest);
    let gone = write("g", Some(KIND), Some(KIND), media_type::OCI_EMPTY, &subject.digest);
    std::fs::remove_file(directory.path().join("blobs/sha256").join(gone.hex())).unwrap();
    let archive = directory.path().join("layout.tar");
    let tar = std::process::Command::new("tar")
        .args(["--exclude=layout.tar", "-C"])
        .arg(directory.path())
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    let archived = format!("oci-archive:{}:v1", archive.display()).parse().unwrap();
    for reference in [reference, archived] {
        let source = refmount::registry::open(&reference, &options()).unwrap();
        let found = source.referrers(&subject.digest, KIND).await.unwrap();
        let digests: Vec<_> = found.iter().map(|entry| entry.digest.clone()).collect();
        assert_eq!(digests, [first.clone(), second.clone()]);
        assert!(found.iter().all(|entry| entry.artifact_type.as_deref() == Some(KIND)));
    }
}
