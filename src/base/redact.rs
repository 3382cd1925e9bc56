//! URLs as they may be shown: without user, password, query and fragment, since signed URLs carry
//! their secret in the query.

use url::Url;

/// Scheme, host, port and path of `url`; a removed query is marked by `?…`.
#[must_use]
pub fn url(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that can hold neither.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    let had_query = shown.query().is_some();
    shown.set_query(None);
    let mut text = shown.to_string();
    if had_query {
        text.push_str("?…");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_url_loses_its_secrets() {
        let signed = Url::parse("https://user:pass@store.example/b/x?X-Amz-Signature=abc#f").unwrap();
        assert_eq!(url(&signed), "https://store.example/b/x?…");
    }
}
