//! Prefixes and locations of containers-registries.conf(5): `HOST[:PORT][/NAMESPACE...][:TAG|@DIGEST]`, and the
//! rewriting of a reference from the one to the other.
//!
//! Names are compared as texts, part by part, with the reference's digest where it has one and else its tag, as
//! containers/image compares them; but hosts in any case. Nothing here knows files; what is wrong comes back as the end of a sentence.

use crate::oci::RegistryRef;
use crate::oci::reference::is_host;

/// What begins a prefix that stands for all subdomains.
const WILDCARD: &str = "*.";

/// What is wrong with a text, and what to do.
pub(super) type Flaw = &'static str;

/// `text` as a prefix, in its canonical form.
///
/// # Errors
/// For what can be the beginning of no reference.
pub(super) fn prefix(text: &str) -> Result<String, Flaw> {
    let Some(domain) = text.strip_prefix(WILDCARD) else {
        return location(text).map(|name| with_lower_case_host(&name));
    };
    if domain.contains(['/', '@', ':', '*']) || location(&format!("x.{domain}")).is_err() {
        return Err("a prefix with a wildcard has the form *.DOMAIN, without port or path");
    }
    Ok(text.to_ascii_lowercase())
}

/// Hosts are the same in all cases, and what is blocked in one is so in all.
fn with_lower_case_host(name: &str) -> String {
    let (host, rest) = name.split_at(name.find('/').unwrap_or(name.len()));
    host.to_ascii_lowercase() + rest
}

/// `text` as a location, in its canonical form.
///
/// # Errors
/// For what can be the beginning of no reference.
pub(super) fn location(text: &str) -> Result<String, Flaw> {
    if text.contains("://") {
        return Err("it is a name and no URL; leave out the scheme, and for plain HTTP set insecure = true");
    }
    let text = text.trim_end_matches('/');
    let end = suffix(text);
    let name = &text[..text.len() - end.len()];
    // A name that ends in a tag or a digest is a repository's; another one may be the beginning of several.
    let example = if end.is_empty() { format!("{name}/x") } else { text.to_owned() };
    let is_name = is_host(name.split('/').next().unwrap_or(name)) && example.parse::<RegistryRef>().is_ok();
    match is_name {
        true => Ok(text.to_owned()),
        false => Err("it must be HOST[:PORT], with a dot, a port or localhost for its host, \
                      perhaps followed by a namespace or a repository"),
    }
}

/// `:TAG` or `@DIGEST` at the end of `text`, or nothing. A port is no tag.
pub(super) fn suffix(text: &str) -> &str {
    if let Some(at) = text.find('@') {
        return &text[at..];
    }
    let last_part = text.rfind('/').unwrap_or(text.len());
    text[last_part..].find(':').map_or("", |colon| &text[last_part + colon..])
}

/// What prefixes are compared with.
pub(super) fn full_name(reference: &RegistryRef) -> String {
    let RegistryRef { host, repository, tag, digest } = reference;
    let name = format!("{host}/{repository}");
    match digest {
        Some(digest) => format!("{name}@{digest}"),
        None => format!("{name}:{}", tag.as_deref().unwrap_or("latest")),
    }
}

/// How many bytes of `name`, a [`full_name`], `prefix` stands for; none where it is no prefix of it. A host without a
/// port stands for all its ports.
pub(super) fn match_length(name: &str, prefix: &str) -> Option<usize> {
    let length = match prefix.strip_prefix(WILDCARD) {
        Some(_) => {
            let host = name.split('/').next().unwrap_or(name);
            let host = host.split(':').next().unwrap_or(host);
            host.ends_with(&prefix[1..]).then_some(host.len())
        }
        None => name.starts_with(prefix).then_some(prefix.len()),
    }?;
    name[length..].chars().next().is_none_or(|next| [':', '/', '@'].contains(&next)).then_some(length)
}

/// Where `reference` is found: its name, without the first `length` bytes, behind `location`.
///
/// # Errors
/// For a location that makes no reference with what is left of the name.
pub(super) fn rewrite(reference: &RegistryRef, length: usize, location: &str) -> Result<RegistryRef, Flaw> {
    let text = format!("{location}{}", &full_name(reference)[length..]);
    let flaw = "it makes no reference with what follows the prefix; a prefix that is a whole repository needs a \
                location that is one";
    // Without a repository, the host would be taken for one of Docker's.
    let has_repository = text[..text.len() - suffix(&text).len()].contains('/');
    text.parse().ok().filter(|_| has_repository).ok_or(flaw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_that_can_begin_a_reference() {
        for text in
            ["r.example", "r.example:5000", "localhost", "localhost/a", "[::1]:5000/a/b", "r.example/a:v1"]
        {
            assert_eq!(location(text).unwrap(), text);
        }
        assert_eq!(location("r.example/a/").unwrap(), "r.example/a");
        assert!(location(&format!("r.example/a{DIGEST}")).is_ok());
        for text in [
            "",
            "/",
            "alpine",
            "library/alpine",
            "https://r.example",
            "r.example//a",
            "r.example/A",
            "r.example:",
            "*.r.example",
            "r.example/a:v1/b",
            "r.example/a@sha256:12",
            "user:secret@r.example/a",
            "r.example/../a",
        ] {
            assert!(location(text).is_err(), "{text:?}");
        }
        assert_eq!(prefix("LOCALHOST/a").unwrap(), "localhost/a");
        assert!(prefix("*.r.example").is_ok());
        for text in
            ["*", "*.", "*.r.example/a", "*.r.example:5000", "r.*.example", "*.*.example", "*r.example"]
        {
            assert!(prefix(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn prefixes_match_whole_parts_of_names() {
        for (prefix, name, expected) in [
            ("r.example", "r.example/a:v1", Some("r.example")),
            ("r.example/a", "r.example/a:v1", Some("r.example/a")),
            ("r.example/a", "r.example/a/b:v1", Some("r.example/a")),
            ("r.example/a", "r.example/ab:v1", None),
            ("r.example/a:v1", "r.example/a:v1", Some("r.example/a:v1")),
            ("r.example/a:v1", "r.example/a:v11", None),
            ("r.example/a:v1", "r.example/a/b:v1", None),
            ("r.example", "r.example:5000/a:v1", Some("r.example")),
            ("r.example:5000", "r.example/a:v1", None),
            ("r.example", "r.example.org/a:v1", None),
            ("*.example", "r.example/a:v1", Some("r.example")),
            ("*.example", "a.r.example:5000/a:v1", Some("a.r.example")),
            ("*.example", "example/a:v1", None),
            ("*.example", "rexample/a:v1", None),
            ("*.example", "r.org/a.example/b:v1", None),
            ("*.example", "a.example.example/a:v1", Some("a.example.example")),
        ] {
            let matched = match_length(name, prefix).map(|length| &name[..length]);
            assert_eq!(matched, expected, "{prefix} and {name}");
        }
    }

    #[test]
    fn rewriting_keeps_what_follows_the_prefix() {
        for (typed, prefix, location, expected) in [
            ("r.example/a/b:v1", "r.example", "m.example", Some("m.example/a/b:v1")),
            ("r.example/a/b:v1", "r.example/a", "m.example:5000/x/y", Some("m.example:5000/x/y/b:v1")),
            ("r.example/a:v1", "r.example/a:v1", "m.example/x:v1", Some("m.example/x:v1")),
            ("R.Example/a:V1", "r.example", "m.example", Some("m.example/a:V1")),
            ("r.example:5000/a", "r.example", "m.example", Some("m.example:5000/a:latest")),
            ("r.example/a", "r.example", "docker.io", Some("docker.io/library/a:latest")),
            ("r.example/a:v1", "r.example/a", "m.example", None),
            ("r.example/a:v1", "r.example/a", "docker.io", None),
        ] {
            let reference: RegistryRef = typed.parse().unwrap();
            let length = match_length(&full_name(&reference), prefix).unwrap();
            let rewritten = rewrite(&reference, length, location).ok().map(|reference| reference.to_string());
            assert_eq!(rewritten.as_deref(), expected, "{typed} at {location}");
        }
    }
}
