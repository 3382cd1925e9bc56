//! The URL of a host in containerd's hosts.toml, and the addresses of its API that follow from it.

use url::Url;

use crate::registry::endpoint::{server_of, shown_host};

/// What is wrong with a text, and what to do. It quotes nothing: a URL may hold a password.
pub(super) type Flaw = &'static str;

/// The addresses of the API at the host that `text` names, in the order in which they are tried. `override_path`: the
/// path is the API's own. `has_tls`: settings for TLS stand beside it, which count for a URL of plain HTTP only as long
/// as nothing says that its port speaks that.
///
/// # Errors
/// For what is no `[http[s]://]HOST[:PORT][/PATH]`.
pub(super) fn bases(text: &str, override_path: bool, has_tls: bool) -> Result<Vec<Url>, Flaw> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&text).map_err(|_| "it is no URL; write https://HOST[:PORT][/PATH]")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("its scheme is neither https nor http");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds user or password; leave them out, and use `docker login` or `podman login`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or a fragment; leave that out");
    }
    let server = url.host_str().map(|host| server_of(host).to_owned());
    url.set_host(server.as_deref()).map_err(|_| "it has no host; write https://HOST[:PORT][/PATH]")?;
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !override_path && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    path.push('/');
    url.set_path(&path);
    let mut bases = vec![url];
    if let [plain] = &bases[..]
        && plain.scheme() == "http"
        && plain.port().is_some()
        && has_tls
    {
        let mut secure = plain.clone();
        if secure.set_scheme("https").is_ok() {
            bases.insert(0, secure);
        }
    }
    Ok(bases)
}

/// Whether both are addresses of the same server.
pub(super) fn is_same_server(one: &Url, other: &Url) -> bool {
    shown_host(one) == shown_host(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, override_path: bool, has_tls: bool) -> Result<Vec<String>, Flaw> {
        let bases = bases(text, override_path, has_tls)?;
        Ok(bases.iter().map(Url::to_string).collect())
    }

    #[test]
    fn paths_end_in_the_version_of_the_api() {
        for (text, override_path, expected) in [
            ("https://m.example", false, "https://m.example/v2/"),
            ("https://m.example/", false, "https://m.example/v2/"),
            ("m.example", false, "https://m.example/v2/"),
            ("http.example:5000", false, "https://http.example:5000/v2/"),
            ("localhost:5000", false, "https://localhost:5000/v2/"),
            ("https://m.example/us", false, "https://m.example/us/v2/"),
            ("https://m.example/us/v2", false, "https://m.example/us/v2/"),
            ("https://m.example/v2/us", false, "https://m.example/v2/us/v2/"),
            ("https://m.example/v2/us", true, "https://m.example/v2/us/"),
            ("https://m.example/v2/us/", true, "https://m.example/v2/us/"),
            ("https://m.example", true, "https://m.example/"),
            ("https://m.example/a/../b", false, "https://m.example/b/v2/"),
            ("https://docker.io", false, "https://registry-1.docker.io/v2/"),
            ("http://[::1]:30020", false, "http://[::1]:30020/v2/"),
        ] {
            assert_eq!(shown(text, override_path, false).unwrap(), [expected], "{text}");
        }
    }

    #[test]
    fn plain_http_with_settings_for_tls_begins_with_tls() {
        let both = ["https://m.example:5000/v2/", "http://m.example:5000/v2/"];
        assert_eq!(shown("http://m.example:5000", false, true).unwrap(), both);
        assert_eq!(shown("http://m.example", false, true).unwrap(), ["http://m.example/v2/"]);
        assert_eq!(shown("http://m.example:80", false, true).unwrap(), ["http://m.example/v2/"]);
        assert_eq!(shown("https://m.example:5000", false, true).unwrap(), [both[0]]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "https://",
            "ftp://m.example",
            "unix:///run/m.sock",
            "https://user@m.example",
            "https://user:secret@m.example",
            "user:secret@m.example",
            "https://m.example?a",
            "https://m.example/#a",
            "https://m.example:port",
            "https://m example",
        ] {
            assert!(shown(text, false, false).is_err(), "{text}");
        }
    }
}
