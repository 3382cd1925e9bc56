//! The grammar of references to repositories, and how Docker's tools complete them
//! (<https://github.com/distribution/reference>, regexp.go and normalize.go).
//!
//! Read by hand: the expression that libraries have for it takes 10 ms to be compiled, in every process, and knows neither
//! IPv6 addresses nor that a tag has no letters but ASCII's.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Docker Hub, where what has no host is, and its older name.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_LEGACY: &str = "index.docker.io";

/// What Docker Hub has names of one part below.
const DOCKER_HUB_OFFICIAL: &str = "library";

const DEFAULT_TAG: &str = "latest";

/// Hexadecimal digits of an image's ID, which tools of containers take in the place of a name.
const ID_DIGITS: usize = 64;

/// Bytes of a repository's name.
const REPOSITORY_BYTES_MAX: usize = 255;

/// Bytes of a tag.
const TAG_BYTES_MAX: usize = 128;

/// A reference in full.
pub(super) struct Name<'a> {
    pub(super) host: &'a str,
    pub(super) repository: Cow<'a, str>,
    pub(super) tag: Option<&'a str>,
    /// As it stands there.
    pub(super) digest: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// Takes `[HOST[:PORT]/]REPO[:TAG][@DIGEST]` apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        if is_id(text) {
            return Err("64 hexadecimal digits are an image's ID and no name; add a tag if they are one, \
                        or write a digest as NAME@sha256:DIGITS"
                .to_owned());
        }
        let (name, tag, digest) = split(text);
        let (host, path) =
            name.split_once('/').filter(|(first, _)| is_host(first)).unwrap_or((DOCKER_HUB, name));
        let host = if host == DOCKER_HUB_LEGACY { DOCKER_HUB } else { host };
        if !is_well_formed_host(host) {
            return Err(format!("{host:?} is no host"));
        }
        if let Some(part) = path.split('/').find(|part| !is_path_component(part)) {
            return Err(match part {
                "" if path.is_empty() => "the repository's name is missing".to_owned(),
                part if part.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                    "a repository's name is lower case".to_owned()
                }
                part => format!("{part:?} is no part of a repository's name"),
            });
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(format!("{tag:?} is no tag"));
        }
        let repository = match host == DOCKER_HUB && !path.contains('/') {
            true => Cow::Owned(format!("{DOCKER_HUB_OFFICIAL}/{path}")),
            false => Cow::Borrowed(path),
        };
        if repository.len() > REPOSITORY_BYTES_MAX {
            return Err(format!("the repository's name is longer than {REPOSITORY_BYTES_MAX} characters"));
        }
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
        Ok(Self { host, repository, tag, digest })
    }
}

/// The name in a reference, its tag and its digest.
pub(super) fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (named, digest) = text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
    // Before the last slash a colon is that of a port.
    let last_part = named.rfind('/').map_or(0, |slash| slash + 1);
    match named[last_part..].find(':') {
        Some(colon) => (&named[..last_part + colon], Some(&named[last_part + colon + 1..]), digest),
        None => (named, None, digest),
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the first part of a name is a registry's host.
#[must_use]
pub fn is_host(first_part: &str) -> bool {
    first_part.eq_ignore_ascii_case("localhost") || first_part.contains(['.', ':'])
}

/// Whether `host` is a domain or an address, perhaps with a port.
pub(super) fn is_well_formed_host(host: &str) -> bool {
    let (is_address, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let port = rest.strip_prefix(':');
            (address.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || port.is_some()), port)
        }
        None => {
            let (domain, port) =
                host.split_once(':').map_or((host, None), |(domain, port)| (domain, Some(port)));
            (domain.split('.').all(is_domain_component), port)
        }
    };
    is_address && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_domain_component(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('-')
        && !part.ends_with('-')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Small letters and digits, with single separators between them: a dot, one or two underscores, or hyphens.
fn is_path_component(part: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(is_plain)
        && part.ends_with(is_plain)
        && part.split(is_plain).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= TAG_BYTES_MAX
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use oci_spec::distribution::Reference;
    use proptest::prelude::*;

    use super::*;

    /// Pieces of references, right and wrong.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            8 => "[a-z0-9]{1,3}",
            1 => "[A-Z]",
            6 => "[./:_-]",
            1 => "[./:_@-]{1,2}",
            1 => Just("localhost".to_owned()),
            1 => Just("docker.io/".to_owned()),
            1 => Just("index.docker.io/".to_owned()),
            1 => Just(":5000/".to_owned()),
            1 => Just(format!("@sha256:{}", "0f".repeat(32))),
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn what_is_taken_is_what_another_library_takes_for_the_same(text in text()) {
            match (Name::parse(&text), Reference::from_str(&text)) {
                (Ok(name), Ok(other)) => {
                    prop_assert_eq!(name.host, other.registry());
                    prop_assert_eq!(&name.repository, other.repository());
                    prop_assert_eq!((name.tag, name.digest), (other.tag(), other.digest()));
                }
                // A digest is looked at by whoever wants it, and the other one knows no IPv6 addresses.
                (Ok(name), Err(_)) => prop_assert!(name.digest.is_some() || name.host.starts_with('['), "{text:?}"),
                (Err(_), Ok(other)) => {
                    let is_bad = !is_well_formed_host(other.registry())
                        || other.repository().bytes().any(|byte| byte.is_ascii_uppercase())
                        || other.tag().is_some_and(|tag| !tag.is_ascii());
                    prop_assert!(is_bad, "{text:?}");
                }
                (Err(_), Err(_)) => {}
            }
        }
    }

    #[test]
    fn limits_and_hosts() {
        let parse = |text: &str| Name::parse(text).map(|name| format!("{} {}", name.host, name.repository));
        assert_eq!(parse("[::1]:5000/a").unwrap(), "[::1]:5000 a");
        for (text, why) in [
            ("", "missing"),
            ("r.example/", "missing"),
            ("[::1]x/a", "no host"),
            ("[::g]/a", "no host"),
            ("r.example:/a", "no host"),
            ("-r.example/a", "no host"),
            ("a/B", "lower case"),
            ("a/b___c", "no part"),
            ("a//b", "no part"),
            ("a:", "no tag"),
            (&"0f".repeat(32), "ID and no name"),
            (&format!("a:{}", "t".repeat(TAG_BYTES_MAX + 1)), "no tag"),
            (&"a".repeat(REPOSITORY_BYTES_MAX), "longer than 255"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
        assert!(Name::parse(&format!("r.example/{}", "a".repeat(REPOSITORY_BYTES_MAX))).is_ok());
        assert!(Name::parse(&format!("{}:v1", "0f".repeat(32))).is_ok());
        assert!(Name::parse(&format!("a/{}", "0f".repeat(32))).is_ok());
    }
}
