//! The keys of credential files: which repositories one of them speaks of.
//!
//! `HOST[:PORT][/PATH]`, as podman has it; with the scheme and the API version around it that Docker's tools write; and
//! with `*` and `?` in the host, as Kubernetes' pull secrets have it ("Images", "Interpretation of config.json").

use std::cmp::Reverse;

/// See the module's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// In its canonical form.
    host: String,
    /// Without slashes at its ends; may be empty.
    path: String,
}

/// How well a key fits, the best first: a host in full before a pattern, then the longer path, then the pattern that
/// says more.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    is_pattern: bool,
    path: Reverse<usize>,
    said: Reverse<usize>,
}

impl Key {
    pub(super) fn parse(text: &str) -> Self {
        let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let path = match path.trim_end_matches('/') {
            "v1" | "v2" => "",
            path => path,
        };
        Self { host: canonical_host(host), path: path.to_owned() }
    }

    /// Whether it is the key of all of `host`.
    pub(super) fn is_host(&self, host: &str) -> bool {
        self.path.is_empty() && self.host == canonical_host(host)
    }

    /// How it fits `repository` of `host`, if it does.
    pub(super) fn fit(&self, host: &str, repository: &str) -> Option<Fit> {
        let host = canonical_host(host);
        let is_pattern = self.host != host;
        let is_below = || match repository.strip_prefix(&self.path) {
            Some(rest) => self.path.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        };
        let fits = (!is_pattern || matches_by_label(&self.host, &host)) && is_below();
        let said = self.host.bytes().filter(|byte| !matches!(byte, b'*' | b'?')).count();
        fits.then_some(Fit { is_pattern, path: Reverse(self.path.len()), said: Reverse(said) })
    }
}

/// Whether `pattern` means `host`: the same port, and label by label the same but for its wildcards, none of which
/// reaches over a dot.
fn matches_by_label(pattern: &str, host: &str) -> bool {
    let (pattern, pattern_port) = split_port(pattern);
    let (host, port) = split_port(host);
    let (labels, wanted) = (pattern.split('.'), host.split('.'));
    pattern.contains(['*', '?'])
        && pattern_port == port
        && labels.clone().count() == wanted.clone().count()
        && labels.zip(wanted).all(|(pattern, label)| matches(pattern.as_bytes(), label.as_bytes()))
}

fn split_port(host: &str) -> (&str, &str) {
    // Of an IPv6 literal, the colons within the brackets belong to the address; no pattern has any.
    host.rsplit_once(':').unwrap_or((host, ""))
}

/// `*` stands for any bytes, `?` for one.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pattern_at) = (0, 0);
    // Where to go on if what was tried fails: behind the last `*`, which takes one byte more each time.
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(pattern_at) {
            Some(b'*') => {
                retry = Some((pattern_at + 1, at));
                pattern_at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[at] => {
                pattern_at += 1;
                at += 1;
            }
            _ => {
                let Some((behind, from)) = retry else { return false };
                retry = Some((behind, from + 1));
                (pattern_at, at) = (behind, from + 1);
            }
        }
    }
    pattern[pattern_at..].iter().all(|byte| *byte == b'*')
}

/// What helpers call `host`: Docker Hub as Docker's tools do.
pub(super) fn server_name(host: &str) -> &str {
    if canonical_host(host) == "docker.io" { "https://index.docker.io/v1/" } else { host }
}

/// One name for Docker Hub, which has several.
fn canonical_host(host: &str) -> String {
    match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(key: &str, host: &str, repository: &str) -> bool {
        Key::parse(key).fit(host, repository).is_some()
    }

    #[test]
    fn a_wildcard_stays_within_its_label() {
        for (key, host) in [
            ("*.r.example", "a.r.example"),
            ("pre*.r.example", "prefix.r.example"),
            ("*-good.r.example", "very-good.r.example"),
            ("*.*.example", "a.r.example"),
            ("https://*.r.example/v2/", "a.r.example"),
            ("*.r.example:5000", "a.r.example:5000"),
            ("r?.example", "r1.example"),
            ("*a*b*.example", "xaabxb.example"),
            ("*.docker.io", "eu.docker.io"),
        ] {
            assert!(fits(key, host, "m"), "{key} {host}");
        }
        for (key, host) in [
            ("*.r.example", "r.example"),
            ("*.r.example", "a.b.r.example"),
            ("*.r.example", "a.r.example.other"),
            ("*.r.example", "a.r.example:5000"),
            ("*.r.example:5000", "a.r.example"),
            ("*", "r.example"),
            ("r?.example", "r.example"),
            ("*a*b.example", "xaabxc.example"),
            ("r.example", "a.example"),
        ] {
            assert!(!fits(key, host, "m"), "{key} {host}");
        }
    }

    #[test]
    fn a_path_ends_between_two_parts_of_a_name() {
        for (key, repository, is_fit) in [
            ("*.example/a", "a", true),
            ("*.example/a", "a/b", true),
            ("*.example/a/", "a/b", true),
            ("*.example/a", "ab", false),
            ("r.example/a/b", "a", false),
        ] {
            assert_eq!(fits(key, "r.example", repository), is_fit, "{key} {repository}");
        }
    }

    #[test]
    fn hosts_in_full_come_first_and_then_what_says_more() {
        let mut keys =
            ["*.example", "r.example", "*.example/a", "r*.example", "r.example/a/b", "*.example/a/b"];
        keys.sort_by_key(|key| Key::parse(key).fit("r.example", "a/b").unwrap());
        assert_eq!(
            keys,
            ["r.example/a/b", "r.example", "*.example/a/b", "*.example/a", "r*.example", "*.example"]
        );
    }
}
