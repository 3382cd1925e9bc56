//! References as people type them: a registry's repository with tag or digest, or a layout on disk, in a directory
//! or in a tar archive of it.
//!
//! Docker's normalisation applies to registries: `alpine` is `docker.io/library/alpine:latest`. Hosts are the same in all
//! cases, so that they have one name, in small letters, wherever something is looked up for them.

mod name;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::base::{Digest, Error, ErrorKind, Result};

pub use self::name::is_host;

use self::name::{Name, is_well_formed_host};

/// What stands before the colon in references of other tools, to what only those read.
const OTHER_TRANSPORTS: [&str; 4] = ["docker-archive", "docker-daemon", "containers-storage", "dir"];

/// Where an artifact is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceRef {
    /// `HOST[:PORT]/REPO[:TAG][@DIGEST]`, optionally behind `oci://` or `docker://`.
    Registry(RegistryRef),
    /// `REPO[:TAG][@DIGEST]`: a name without a registry, which the registries' configuration completes.
    Short(ShortRef),
    /// `oci:DIR[:TAG]` or `oci-archive:FILE[:TAG]`, or with `@DIGEST`.
    Layout(LayoutRef),
}

/// A repository of a registry, and what is wanted of it. A digest counts before a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    /// Host and optional port (`docker.io`, `127.0.0.1:5000`), in small letters.
    pub host: String,
    /// The repository's name (distribution-spec, "Pulling manifests": `<name>`).
    pub repository: String,
    /// The tag, `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// The digest, when the reference is pinned.
    pub digest: Option<Digest>,
}

/// What holds the files of an OCI layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayoutContainer {
    /// A directory: `oci:DIR`.
    Directory,
    /// A tar archive of such a directory: `oci-archive:FILE`.
    Archive,
}

impl LayoutContainer {
    /// What stands before the path, without the colon.
    #[must_use]
    pub fn transport(self) -> &'static str {
        match self {
            Self::Directory => "oci",
            Self::Archive => "oci-archive",
        }
    }

    /// The form of a reference to it, without tag and digest.
    #[must_use]
    pub fn form(self) -> &'static str {
        match self {
            Self::Directory => "oci:DIR",
            Self::Archive => "oci-archive:FILE",
        }
    }
}

/// An OCI layout on disk, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayoutRef {
    /// What `path` is.
    pub container: LayoutContainer,
    /// The directory that holds `oci-layout`, or the archive that does.
    pub path: PathBuf,
    /// The tag; none: the only manifest there is.
    pub tag: Option<String>,
    /// The digest, when the reference is pinned.
    pub digest: Option<Digest>,
}

/// A repository's name without a registry: its first part is neither `localhost` nor holds a dot or a colon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShortRef {
    /// The name as typed (`smollm2`, `ai/smollm2`).
    pub name: String,
    /// The tag, `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// The digest, when the reference is pinned.
    pub digest: Option<Digest>,
}

impl ShortRef {
    /// The same repository of `registry` (`HOST[:PORT]`, perhaps with the first parts of the name); at Docker Hub with
    /// its `library/`.
    ///
    /// # Errors
    /// `Usage` for what makes no reference.
    pub fn at(&self, registry: &str) -> Result<RegistryRef> {
        let short = Self { name: format!("{registry}/{}", self.name), ..self.clone() };
        short.to_string().parse()
    }
}

impl fmt::Display for ShortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        write_tag_and_digest(f, self.tag.as_deref(), self.digest.as_ref())
    }
}

impl SourceRef {
    /// The same reference, pinned to `digest`.
    #[must_use]
    pub fn pinned(&self, digest: &Digest) -> Self {
        let mut pinned = self.clone();
        match &mut pinned {
            Self::Registry(registry) => registry.digest = Some(digest.clone()),
            Self::Short(short) => short.digest = Some(digest.clone()),
            Self::Layout(layout) => layout.digest = Some(digest.clone()),
        }
        pinned
    }

    /// The digest that the reference is pinned to, if it is.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Registry(registry) => registry.digest.as_ref(),
            Self::Short(short) => short.digest.as_ref(),
            Self::Layout(layout) => layout.digest.as_ref(),
        }
    }
}

impl FromStr for SourceRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        for scheme in ["oci://", "docker://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return rest.parse().map(Self::Registry);
            }
        }
        for container in [LayoutContainer::Directory, LayoutContainer::Archive] {
            if let Some(rest) =
                text.strip_prefix(container.transport()).and_then(|rest| rest.strip_prefix(':'))
            {
                return LayoutRef::parse(container, rest).map(Self::Layout);
            }
        }
        let transport = text.split_once(':').map(|(transport, _)| transport);
        if let Some(transport) = transport.filter(|transport| OTHER_TRANSPORTS.contains(transport)) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{text:?}: the transport {transport}: is not supported; use HOST/REPO[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]"
                ),
            ));
        }
        let registry: RegistryRef = text.parse().map_err(|error: Error| match transport {
            Some(typed) if is_transport(&typed.to_ascii_lowercase()) => {
                let transport = typed.to_ascii_lowercase();
                let text =
                    format!("bad reference: {typed}: is no transport; write {transport}: in small letters");
                Error::new(ErrorKind::Usage, text)
            }
            _ => error,
        })?;
        Ok(match short_name(text) {
            None => Self::Registry(registry),
            // With its tag it would be read as something else.
            Some(name) if is_transport(name) => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!(
                        "bad reference {text:?}: {name}: is a transport, which wants a path; expected oci:DIR[:TAG], oci-archive:FILE[:TAG] or, for a repository of this name, HOST/{name}[:TAG]"
                    ),
                ));
            }
            Some(name) => {
                let (tag, digest) = (registry.tag, registry.digest);
                Self::Short(ShortRef { name: name.to_owned(), tag, digest })
            }
        })
    }
}

/// What follows the last `@` of `text` that is not the one before a digest: what stands before it may be a user and a
/// password, and is not to be shown.
#[must_use]
pub fn behind_user(text: &str) -> Option<&str> {
    let is_digest = |text: &str| {
        ["sha256:", "sha512:"].iter().any(|algorithm| {
            text.get(..algorithm.len()).is_some_and(|start| start.eq_ignore_ascii_case(algorithm))
        })
    };
    match text.rsplit_once('@')? {
        (rest, digest) if is_digest(digest) => rest.rfind('@').map(|at| &text[at + 1..]),
        (_, behind) => Some(behind),
    }
}

/// The name in `text`, which is a well-formed reference, if it has no registry before it.
fn short_name(text: &str) -> Option<&str> {
    let (name, _, _) = name::split(text);
    match name.split_once('/') {
        Some((first, _)) if is_host(first) => None,
        _ => Some(name),
    }
}

/// Whether `name` before a colon says how to read what follows.
fn is_transport(name: &str) -> bool {
    let own = [LayoutContainer::Directory, LayoutContainer::Archive].map(LayoutContainer::transport);
    own.contains(&name) || OTHER_TRANSPORTS.contains(&name)
}

/// `text`, a reference, with its host in small letters, if it has one.
fn with_lower_case_host(text: &str) -> String {
    match text.split_once('/') {
        Some((host, rest)) if is_host(host) => format!("{}/{rest}", host.to_ascii_lowercase()),
        _ => text.to_owned(),
    }
}

impl FromStr for RegistryRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(behind) = behind_user(text) {
            let host = behind.split('/').next().filter(|host| is_well_formed_host(host)).unwrap_or("HOST");
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "bad reference to {behind:?}: what stands before the '@' is not shown, since it may be a password; log in with `podman login {host}` or name a credentials file with --authfile; expected HOST[:PORT]/REPO[:TAG][@DIGEST] with a digest of sha256 or sha512"
                ),
            ));
        }
        let invalid = |why: String| {
            Error::new(
                ErrorKind::Usage,
                format!(
                    "bad reference {text:?}: {why}; expected HOST[:PORT]/REPO[:TAG][@DIGEST], oci:DIR[:TAG] or oci-archive:FILE[:TAG]"
                ),
            )
        };
        let text = with_lower_case_host(text);
        let name = Name::parse(&text).map_err(invalid)?;
        let digest =
            name.digest.map(str::parse).transpose().map_err(|error: Error| invalid(error.to_string()))?;
        Ok(Self {
            host: name.host.to_owned(),
            repository: name.repository.into_owned(),
            tag: name.tag.map(str::to_owned),
            digest,
        })
    }
}

impl LayoutRef {
    /// Parses what stands behind the transport's colon.
    fn parse(container: LayoutContainer, text: &str) -> Result<Self> {
        let (text, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if digest.starts_with("sha256:") || digest.starts_with("sha512:") => {
                let parsed = digest.parse::<Digest>().map_err(|error| {
                    let transport = container.transport();
                    Error::new(ErrorKind::Usage, format!("bad reference \"{transport}:{text}\": {error}"))
                })?;
                (rest, Some(parsed))
            }
            _ => (text, None),
        };
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (text, None),
        };
        if path.is_empty() || tag.as_deref() == Some("") {
            let (transport, form) = (container.transport(), container.form());
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "bad reference \"{transport}:{text}\": expected {form}[:TAG] with a path and, after a colon, a tag"
                ),
            ));
        }
        Ok(Self { container, path: path.into(), tag, digest })
    }
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(registry) if registry.looks_like_a_transport() => write!(f, "docker://{registry}"),
            Self::Registry(registry) => registry.fmt(f),
            Self::Short(short) => short.fmt(f),
            Self::Layout(layout) => layout.fmt(f),
        }
    }
}

impl RegistryRef {
    /// Whether the host with its port would be taken for a transport: a host may be named `oci` or `dir`.
    fn looks_like_a_transport(&self) -> bool {
        self.host.split_once(':').is_some_and(|(name, _)| is_transport(name))
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        write_tag_and_digest(f, self.tag.as_deref(), self.digest.as_ref())
    }
}

impl fmt::Display for LayoutRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container.transport(), self.path.display())?;
        write_tag_and_digest(f, self.tag.as_deref(), self.digest.as_ref())
    }
}

fn write_tag_and_digest(
    f: &mut fmt::Formatter<'_>,
    tag: Option<&str>,
    digest: Option<&Digest>,
) -> fmt::Result {
    if let Some(tag) = tag {
        write!(f, ":{tag}")?;
    }
    if let Some(digest) = digest {
        write!(f, "@{digest}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_password_in_a_reference_is_refused_and_not_repeated() {
        let digest = format!("@sha256:{HEX}");
        for text in [
            "user:hunter2@r.example/a:v1",
            "oci://user:hunter2@r.example:5000/a",
            "user:hunter2@r.example",
            "user:hunter2@r.example:5000",
            "hunter2@r.example/a",
            "user:hunter@2@r.example/a",
            "user:h/hunter2@r.example/a",
            "oci://https://user:hunter2@r.example/a",
            "//user:hunter2@r.example/a",
            &format!("user:hunter2@r.example/a{digest}"),
        ] {
            let error = text.parse::<SourceRef>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            let said = error.chain();
            assert!(!said.contains("hunter") && said.contains("podman login r.example"), "{said}");
        }
        let error = "user:hunter2@`r`/a".parse::<SourceRef>().unwrap_err();
        assert!(error.chain().contains("podman login HOST"), "{error}");
    }

    #[test]
    fn a_tag_before_a_digest_is_no_password() {
        assert!(format!("alpine:3@sha256:{HEX}").parse::<SourceRef>().is_ok());
    }

    #[test]
    fn docker_normalisation() {
        for (typed, meant) in [
            ("docker://alpine", "docker.io/library/alpine:latest"),
            ("oci://ai/smollm2", "docker.io/ai/smollm2:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("quay.io/a/b:v1", "quay.io/a/b:v1"),
            ("localhost/m", "localhost/m:latest"),
            ("127.0.0.1:5000/models/m:v1", "127.0.0.1:5000/models/m:v1"),
            ("docker://ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("oci://ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("[::1]:5000/m:v1", "[::1]:5000/m:v1"),
            ("docker://oci:5000/m", "docker://oci:5000/m:latest"),
            ("docker://dir:5000/m", "docker://dir:5000/m:latest"),
            ("Docker.IO/alpine:V1", "docker.io/library/alpine:V1"),
            ("LOCALHOST/m", "localhost/m:latest"),
            ("[::AB]:5000/m", "[::ab]:5000/m:latest"),
        ] {
            assert_eq!(typed.parse::<SourceRef>().unwrap().to_string(), meant);
            assert_eq!(typed.parse::<SourceRef>().unwrap(), meant.parse().unwrap(), "{typed}");
        }
        let pinned = format!("ghcr.io/a/b:1@sha256:{HEX}");
        let parsed: SourceRef = pinned.parse().unwrap();
        assert_eq!(parsed.to_string(), pinned);
        assert_eq!(parsed.digest().unwrap().hex(), HEX);
    }

    #[test]
    fn names_without_a_registry_keep_what_was_typed() {
        let pinned = format!("a/b:1@sha256:{HEX}");
        for (typed, shown, name, at_hub) in [
            ("alpine", "alpine:latest", "alpine", "docker.io/library/alpine:latest"),
            ("alpine:3", "alpine:3", "alpine", "docker.io/library/alpine:3"),
            ("ai/smollm2", "ai/smollm2:latest", "ai/smollm2", "docker.io/ai/smollm2:latest"),
            (&pinned, &pinned, "a/b", &format!("docker.io/{pinned}")),
        ] {
            let reference: SourceRef = typed.parse().unwrap();
            assert_eq!(reference.to_string(), shown);
            assert_eq!(shown.parse::<SourceRef>().unwrap(), reference);
            let SourceRef::Short(short) = reference else { panic!("{typed}") };
            assert_eq!(short.name, name);
            assert_eq!(short.at("docker.io").unwrap().to_string(), at_hub);
            assert_eq!(short.at("r.example:5000/x").unwrap().repository, format!("x/{name}"));
        }
        for typed in ["localhost/m", "r.example/m", "r:5000/m", "docker://m"] {
            assert!(matches!(typed.parse().unwrap(), SourceRef::Registry(_)), "{typed}");
        }
    }

    #[test]
    fn layouts() {
        let digest = format!("sha256:{HEX}");
        use LayoutContainer::{Archive, Directory};
        for (typed, container, path, tag) in [
            ("oci:/a/b:v1", Directory, "/a/b", Some("v1")),
            ("oci:b", Directory, "b", None),
            ("oci:./x:y/z", Directory, "./x:y/z", None),
            ("oci-archive:/a/b.tar:v1", Archive, "/a/b.tar", Some("v1")),
            ("oci-archive:b.tar", Archive, "b.tar", None),
        ] {
            let reference: SourceRef = typed.parse().unwrap();
            assert_eq!(reference.to_string(), typed);
            let SourceRef::Layout(layout) = reference else { panic!("{typed}") };
            assert_eq!((layout.container, layout.path.to_str()), (container, Some(path)));
            assert_eq!(layout.tag.as_deref(), tag);
        }
        let SourceRef::Layout(layout) = format!("oci:/a:v1@{digest}").parse().unwrap() else { panic!() };
        assert_eq!(layout.digest.unwrap().as_str(), digest);
    }

    #[test]
    fn errors_name_the_reference_and_the_form() {
        for typed in [
            "",
            "UPPER/case",
            "a/b:",
            "a/b@sha256:12",
            "a/b@md5:00",
            "a/b:v\u{e9}",
            "[::1]:+5/a",
            "oci:",
            "oci::tag",
            "oci:/a:",
            "oci-archive:",
            "oci-archive:/a.tar:",
            "oci",
            "dir",
        ] {
            let error = typed.parse::<SourceRef>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{typed}: {error}");
            assert!(error.to_string().contains("expected"), "{error}");
        }
        let error = "docker-archive:/a.tar".parse::<SourceRef>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for typed in ["OCI:/x", "Oci-Archive:/x.tar:v1", "DIR:/x"] {
            let error = typed.parse::<SourceRef>().unwrap_err();
            assert!(error.to_string().contains("in small letters"), "{error}");
        }
    }
}
