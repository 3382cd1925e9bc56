//! Routes as the tests write them down: for each host, in order, what it is and which requests it would get.

use crate::base::Result;
use crate::registry::SourceOptions;
use crate::registry::config::RegistryConfig;
use crate::registry::route::{HostRoute, Serves};

/// The hosts of the route of `reference`: `mirror|origin BASE[|BASE] REPOSITORY`, followed by whatever differs from the
/// ordinary: `as HOST` (credentials are another host's than the URL's), `ns=`, `tags|digests|nothing`, `skip_verify`.
pub(super) fn route(reference: &str, options: &SourceOptions) -> Result<Vec<String>> {
    let route = RegistryConfig::read(options)?.route(&reference.parse()?, options)?;
    Ok(route.hosts.iter().map(host).collect())
}

fn host(route: &HostRoute) -> String {
    let kind = if route.is_mirror { "mirror" } else { "origin" };
    let bases: Vec<&str> = route.bases.iter().map(url::Url::as_str).collect();
    let mut shown = format!("{kind} {} {}", bases.join("|"), route.repository);
    if crate::registry::endpoint::shown_host(&route.bases[0]) != route.host {
        shown += &format!(" as {}", route.host);
    }
    if let Some(namespace) = &route.namespace {
        shown += &format!(" ns={namespace}");
    }
    match route.serves {
        Serves { tags: true, digests: true } => {}
        Serves { tags: true, digests: false } => shown += " tags",
        Serves { tags: false, digests: true } => shown += " digests",
        Serves { tags: false, digests: false } => shown += " nothing",
    }
    if route.tls.skip_verify {
        shown += " skip_verify";
    }
    shown
}
