//! [`Resolution`]: what a reference was found to stand for, and who has found it.
//!
//! A document of the cache, JSON, kept by the reference and the way to its registry; docs/decisions/0008 has the rule.
//! Whoever is not among those who found it is told nothing of it. What cannot be read is as if it were not there.

use serde::{Deserialize, Serialize};

use crate::base::{Algorithm, Digest};
use crate::oci::SourceRef;
use crate::registry::{Access, RawManifest};

/// Credentials that a reference is remembered with, the last to be used. A node has a few for each registry; a password
/// that changes each hour has no use for the one before.
const CREDENTIALS_MAX: usize = 32;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resolution {
    /// For people; what counts is the name of the document.
    reference: String,
    /// The manifest or index.
    pub(super) digest: Digest,
    /// The media type that the registry declared.
    pub(super) media_type: Option<String>,
    /// Whether the registry told it to somebody who showed nothing.
    anyone: bool,
    /// The fingerprints of the credentials with which it was found, the last one last.
    credentials: Vec<String>,
}

impl Resolution {
    /// The name of the document.
    pub(super) fn key(reference: &SourceRef, access: &Access) -> Digest {
        Digest::of(Algorithm::Sha256, format!("{reference} by {}", access.way).as_bytes())
    }

    /// That `reference` was found to be `manifest`, by whoever has `access`; `before` says what was known of it.
    pub(super) fn noted(
        before: Option<Self>,
        reference: &SourceRef,
        manifest: &RawManifest,
        access: &Access,
    ) -> Self {
        // Who has found something else has not found this.
        let before = before.filter(|before| before.digest == manifest.digest);
        let (mut anyone, mut credentials) =
            before.map_or((false, Vec::new()), |before| (before.anyone, before.credentials));
        if access.was_proven {
            let own = access.credentials.to_string();
            credentials.retain(|there| *there != own);
            credentials.push(own);
            credentials.drain(..credentials.len().saturating_sub(CREDENTIALS_MAX));
        } else {
            anyone = true;
        }
        Self {
            reference: reference.to_string(),
            digest: manifest.digest.clone(),
            media_type: manifest.media_type.clone(),
            anyone,
            credentials,
        }
    }

    /// Whether whoever has `access` may know it.
    pub(super) fn admits(&self, access: &Access) -> bool {
        self.anyone || self.credentials.contains(&access.credentials.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{AccessKey, BlobSource as _, RegistrySource, SourceOptions};

    /// The access of whoever has this password for all registries; of nobody in particular, without one.
    async fn access(password: Option<&str>, plain_http: bool) -> Access {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auth.json");
        let entry = password.map(|password| format!(r#""username":"u","password":"{password}""#));
        let text = format!(r#"{{"auths":{{"r.example":{{{}}}}}}}"#, entry.unwrap_or_default());
        crate::base::durable::write(&file, text.as_bytes()).unwrap();
        let options = SourceOptions { auth_files: vec![file], plain_http, ..Default::default() };
        let source = RegistrySource::open(&"r.example/m".parse().unwrap(), &options).unwrap();
        source.access(&AccessKey([7; 32])).await.unwrap().unwrap()
    }

    fn proven(access: Access) -> Access {
        Access { was_proven: true, ..access }
    }

    fn manifest(text: &'static str) -> RawManifest {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        RawManifest { digest, media_type: None, bytes: text.as_bytes().into() }
    }

    #[tokio::test]
    async fn those_who_found_it_are_admitted_and_nobody_else() {
        let reference: SourceRef = "r.example/m:v1".parse().unwrap();
        let (one, other, none) =
            (access(Some("1"), false).await, access(Some("2"), false).await, access(None, false).await);
        assert_eq!(one, access(Some("1"), false).await);
        let found = Resolution::noted(None, &reference, &manifest("a"), &proven(one));
        assert!(found.admits(&one) && !found.admits(&other) && !found.admits(&none));
        let both = Resolution::noted(Some(found.clone()), &reference, &manifest("a"), &proven(other));
        assert!(both.admits(&one) && both.admits(&other) && !both.admits(&none));
        // It is another thing now, and one of them has not seen it.
        let moved = Resolution::noted(Some(both.clone()), &reference, &manifest("b"), &proven(other));
        assert!(!moved.admits(&one) && moved.admits(&other));
        let open = Resolution::noted(Some(both), &reference, &manifest("a"), &none);
        assert!(open.admits(&one) && open.admits(&none));
        let text = serde_json::to_vec(&open).unwrap();
        assert_eq!(serde_json::from_slice::<Resolution>(&text).unwrap(), open);
    }

    #[tokio::test]
    async fn another_way_to_the_registry_has_other_answers() {
        let reference: SourceRef = "r.example/m:v1".parse().unwrap();
        let (secure, plain) = (access(None, false).await, access(None, true).await);
        assert_ne!(Resolution::key(&reference, &secure), Resolution::key(&reference, &plain));
        assert_eq!(
            Resolution::key(&reference, &secure),
            Resolution::key(&reference, &access(None, false).await)
        );
    }

    #[tokio::test]
    async fn the_oldest_credentials_are_forgotten() {
        let reference: SourceRef = "r.example/m:v1".parse().unwrap();
        let first = access(Some("first"), false).await;
        let mut found = Resolution::noted(None, &reference, &manifest("a"), &proven(first));
        for number in 0..CREDENTIALS_MAX {
            assert!(found.admits(&first), "{number}");
            let next = access(Some(&number.to_string()), false).await;
            found = Resolution::noted(Some(found), &reference, &manifest("a"), &proven(next));
            assert!(found.admits(&next));
        }
        assert!(!found.admits(&first));
    }
}
