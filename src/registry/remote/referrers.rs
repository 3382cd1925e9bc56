//! Referrers of a manifest (distribution-spec v1.1, "Listing Referrers"): asked for within the retry budget, page by
//! page, and by the tag that stands for them where a registry has no list.

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, LINK};

use crate::base::limits::MANIFEST_BYTES_MAX;
use crate::base::{Digest, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Document, media_type};
use crate::registry::body::collect;
use crate::registry::transport::Landed;

use super::Remote;
use super::manifest::Wanted;

/// Pages that are asked for. Registries put a hundred or a thousand referrers on one.
const PAGES_MAX: u32 = 16;

/// Digits of a digest in the tag schema (distribution-spec, "Referrers Tag Schema").
const TAG_HEX_MAX: usize = 64;

impl Remote {
    /// The referrers of `subject` of one artifact type.
    pub(super) async fn referrers_retried(
        &self,
        subject: &Digest,
        artifact_type: &str,
    ) -> Result<Vec<Descriptor>> {
        let what = format!("GET referrers of {subject} from {}", self.place());
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("artifactType", artifact_type)
            .finish();
        let mut next = Some(format!("referrers/{subject}?{query}"));
        let mut found = Vec::new();
        for page in 0..PAGES_MAX {
            let Some(path) = next.take() else { return Ok(found) };
            match self.retried(&what, || self.referrers_page(&path, &what)).await? {
                Some((listed, more)) => {
                    found.extend(of_type(listed, artifact_type));
                    next = more;
                }
                None if page == 0 => return self.referrers_by_tag(subject, artifact_type, &what).await,
                None => return Ok(found),
            }
        }
        if next.is_some() {
            tracing::warn!("{what}: more than {PAGES_MAX} pages; the rest is not looked at");
        }
        Ok(found)
    }

    /// What the page at `path` lists, and the path of the next one; none where there is no such list.
    async fn referrers_page(
        &self,
        path: &str,
        what: &str,
    ) -> Result<Option<(Vec<Descriptor>, Option<String>)>> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX));
        let landed = self.ask(path, &headers, what).await?;
        match landed.response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refusal(what, landed).await),
        }
        let next = self.next_page(&landed, what)?;
        let bytes = collect(landed, MANIFEST_BYTES_MAX, what).await?;
        Ok(Some((listed(&bytes, what)?, next)))
    }

    async fn referrers_by_tag(
        &self,
        subject: &Digest,
        artifact_type: &str,
        what: &str,
    ) -> Result<Vec<Descriptor>> {
        let hex = subject.hex();
        let tag = format!("{}-{}", subject.algorithm().name(), &hex[..hex.len().min(TAG_HEX_MAX)]);
        match self.manifest_retried(&Wanted::Tag(&tag)).await {
            Ok(document) => Ok(of_type(listed(&document.bytes, what)?, artifact_type).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The path that the answer's `Link` leads to, which must be one of the same list (RFC 8288, section 3).
    fn next_page(&self, landed: &Landed, what: &str) -> Result<Option<String>> {
        let values = landed.response.headers().get_all(LINK).iter().filter_map(|value| value.to_str().ok());
        let Some(target) = values.flat_map(|value| value.split(',')).find_map(next_target) else {
            return Ok(None);
        };
        let repository = &self.route.repository;
        let wrong = || {
            let text = format!("{what}: its next page is said to be somewhere else than in {repository}");
            Error::new(ErrorKind::Invalid, text)
        };
        let url = landed.url.join(target).map_err(|_| wrong())?;
        let prefix = format!("/{repository}/");
        let rest = url.path().split_once(&prefix).map(|(_, rest)| rest);
        let rest = rest.filter(|rest| url.origin() == landed.url.origin() && rest.starts_with("referrers/"));
        let rest = rest.ok_or_else(wrong)?;
        Ok(Some(match url.query() {
            Some(query) => format!("{rest}?{query}"),
            None => rest.to_owned(),
        }))
    }
}

/// The target of `link`, if it is that of the next page.
fn next_target(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    });
    is_next.then_some(target)
}

fn listed(bytes: &[u8], what: &str) -> Result<Vec<Descriptor>> {
    match Document::parse(bytes, Some(media_type::OCI_INDEX)).map_err(|error| error.context(what))? {
        Document::Index(index) => Ok(index.manifests),
        Document::Manifest(_) => {
            Err(Error::new(ErrorKind::Invalid, format!("{what}: a manifest where an index was expected")))
        }
    }
}

/// Registries may leave the choice to us.
fn of_type(listed: Vec<Descriptor>, artifact_type: &str) -> impl Iterator<Item = Descriptor> + use<'_> {
    listed.into_iter().filter(move |entry| entry.artifact_type.as_deref() == Some(artifact_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_link_to_the_next_page_counts() {
        assert_eq!(next_target("</v2/a/referrers/x?n=1>; rel=\"next\""), Some("/v2/a/referrers/x?n=1"));
        assert_eq!(next_target(" <b>;title=x; REL=next"), Some("b"));
        for other in ["<b>; rel=\"prev\"", "b; rel=next", "<b", "<b>", ""] {
            assert_eq!(next_target(other), None, "{other}");
        }
    }
}
