//! What a reference needs: the files that are read for it, and the registries that it may stand for, each asked by
//! itself.

use std::time::Duration;

use futures_util::future::join_all;

use crate::artifact::{self, Artifact};
use crate::cli::args::SourceArgs;
use crate::cli::output::human;
use crate::oci::{RegistryRef, SourceRef, WantedPlatform};
use crate::registry::{self, SourceOptions, probe};

use super::finding::{Finding, Level};
use super::host::{self, Host};

/// How long one step with a registry may take: more than a registry that works ever needs.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(15);

/// How long a connection may take to come about.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// All candidates of `reference`, one after the other as a mount tries them.
pub(super) async fn check(
    reference: &SourceRef,
    arguments: &SourceArgs,
    mut options: SourceOptions,
) -> Vec<Finding> {
    options.retry_budget = options.retry_budget.min(STEP_LIMIT);
    options.inactivity_timeout = options.inactivity_timeout.min(STEP_LIMIT);
    options.connect_timeout = options.connect_timeout.min(CONNECT_LIMIT);
    let platform = arguments.platform.clone().unwrap_or_else(WantedPlatform::host);
    let mut found = files(&options);
    let candidates = match registry::candidates(reference, &options) {
        Ok(candidates) => candidates,
        Err(error) => {
            found.push(
                Finding::error("configuration", reference.to_string(), error.chain())
                    .remedy("correct the file, or write the registry out in the reference"),
            );
            return found;
        }
    };
    let mut of_candidates = Vec::new();
    for candidate in &candidates {
        of_candidates.push(match candidate {
            SourceRef::Registry(registry) => at_registry(candidate, registry, &platform, &options).await,
            SourceRef::Layout(_) | SourceRef::Short(_) => elsewhere(candidate, &platform, &options).await,
        });
    }
    found.extend(one_is_enough(of_candidates));
    found
}

/// The files of configuration and credentials.
fn files(options: &SourceOptions) -> Vec<Finding> {
    let mut found = Vec::new();
    for path in options.registry_config.iter().chain(&options.registry_drop_ins) {
        let subject = path.display().to_string();
        found.push(match path.exists() {
            true => Finding::ok("configuration", subject, "is read"),
            false => Finding::note("configuration", subject, "does not exist"),
        });
    }
    // Few machines have any of these, and none has all. A directory of containerd's has its own.
    let is_containerds = options.registry_config.as_ref().is_some_and(|path| path.is_dir());
    let of_certificates = options.certificate_dirs.iter().filter(|path| !is_containerds && path.exists());
    found.extend(
        of_certificates.map(|path| Finding::ok("certificates", path.display().to_string(), "is read")),
    );
    let (there, missing): (Vec<_>, Vec<_>) = options.auth_files.iter().partition(|file| file.exists());
    found.extend(there.iter().map(|file| Finding::ok("credentials", file.display().to_string(), "is read")));
    if there.is_empty() {
        let looked_for: Vec<String> = missing.iter().map(|file| file.display().to_string()).collect();
        let text = "none of these files exists, so that registries are asked without credentials";
        let finding = Finding::note("credentials", looked_for.join(", "), text);
        found.push(finding.remedy("for registries that want them: podman login HOST, or --authfile FILE"));
    }
    found
}

/// What was found of each of several, of which one that works is enough.
fn one_is_enough(all: Vec<Vec<Finding>>) -> Vec<Finding> {
    let works = |found: &Vec<Finding>| found.iter().all(|finding| finding.level < Level::Error);
    let one_works = all.iter().any(works);
    all.into_iter().flatten().map(|finding| if one_works { finding.dispensable() } else { finding }).collect()
}

async fn at_registry(
    candidate: &SourceRef,
    registry: &RegistryRef,
    platform: &WantedPlatform,
    options: &SourceOptions,
) -> Vec<Finding> {
    let probes = match probe::hosts(registry, options) {
        Ok(probes) => probes,
        Err(error) => {
            let finding = Finding::error("configuration", candidate.to_string(), error.chain());
            return vec![finding.remedy("correct what the message names")];
        }
    };
    // Those that are asked by digest alone have to wait for one.
    let (asked, mut others): (Vec<_>, Vec<_>) = probes.into_iter().partition(probe::HostProbe::is_asked);
    let check = |probe| host::check(probe, candidate, platform);
    let mut hosts: Vec<Host> = join_all(asked.into_iter().map(check)).await;
    let resolved = hosts.iter().find_map(|host| host.resolved.clone());
    if let Some(digest) = &resolved {
        others.iter_mut().for_each(|probe| probe.pin(digest.clone()));
        hosts.extend(join_all(others.into_iter().map(check)).await);
    }
    let mut found = another_manifest(&hosts);
    let artifact = hosts.iter_mut().find_map(|host| host.artifact.take());
    found.splice(0..0, one_is_enough(hosts.into_iter().map(|host| host.found).collect()));
    found.extend(artifact.iter().flat_map(of_artifact));
    found
}

/// Mirrors that lag behind the registry, or lead to something else.
fn another_manifest(hosts: &[Host]) -> Vec<Finding> {
    let registry = hosts.iter().find(|host| !host.is_mirror).and_then(|host| host.resolved.as_ref());
    let Some(right) = registry else { return Vec::new() };
    let differs = |host: &&Host| host.resolved.as_ref().is_some_and(|digest| digest != right);
    let finding = |host: &Host| {
        Finding::warning(
            "mirror",
            &host.name,
            format!("has another manifest by this name; the registry's is {right}"),
        )
        .remedy("bring the mirror up to date, or let it be asked by digest alone")
    };
    hosts.iter().filter(differs).map(finding).collect()
}

/// A layout or an archive of one.
async fn elsewhere(
    candidate: &SourceRef,
    platform: &WantedPlatform,
    options: &SourceOptions,
) -> Vec<Finding> {
    let load = async {
        let source = registry::open(candidate, options)?;
        artifact::load_from(source.as_ref(), candidate, platform).await
    };
    match tokio::time::timeout(STEP_LIMIT, load).await {
        Ok(Ok(artifact)) => of_artifact(&artifact),
        Ok(Err(error)) => {
            let finding = Finding::error("artifact", candidate.to_string(), error.chain());
            vec![finding.remedy("check path, tag and --platform")]
        }
        Err(_) => {
            let text = format!("cannot be read within {} s", STEP_LIMIT.as_secs());
            vec![Finding::error("artifact", candidate.to_string(), text).remedy("see whether its disk hangs")]
        }
    }
}

fn of_artifact(artifact: &Artifact) -> Vec<Finding> {
    let subject = artifact.reference.to_string();
    let bytes = artifact.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.descriptor.size));
    let kind = match artifact.kind {
        artifact::Kind::Artifact => "an artifact",
        artifact::Kind::Image => "an image",
    };
    let count = artifact.layers.len();
    let layers = if count == 1 { "layer" } else { "layers" };
    let text = format!("{kind} of {count} {layers}, {}, {}", human(bytes), artifact.digest);
    let warnings = artifact.warnings.iter().chain(artifact.layers.iter().flat_map(|layer| &layer.warnings));
    let mut found = vec![Finding::ok("artifact", &subject, text)];
    found.extend(warnings.map(|warning| Finding::note("artifact", &subject, warning)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Algorithm, Digest};

    #[test]
    fn a_mirror_that_lags_behind_is_named() {
        let host = |name: &str, is_mirror, text: Option<&[u8]>| Host {
            name: name.to_owned(),
            is_mirror,
            found: Vec::new(),
            resolved: text.map(|text| Digest::of(Algorithm::Sha256, text)),
            artifact: None,
        };
        let mirrors =
            [host("old", true, Some(b"1")), host("new", true, Some(b"2")), host("dead", true, None)];
        let named =
            |hosts: &[Host]| another_manifest(hosts).into_iter().map(|finding| finding.subject).collect();
        let with_registry: Vec<Host> =
            mirrors.into_iter().chain([host("registry", false, Some(b"2"))]).collect();
        let lagging: Vec<String> = named(&with_registry);
        assert_eq!(lagging, ["old"]);
        let without: Vec<String> = named(&with_registry[..3]);
        assert!(without.is_empty(), "there is nothing to compare them with");
    }

    #[test]
    fn one_that_works_makes_the_errors_of_others_warnings() {
        let broken = || vec![Finding::ok("name", "a", "x"), Finding::error("manifest", "a", "x")];
        let whole = || vec![Finding::ok("manifest", "b", "x")];
        let worst = |all| one_is_enough(all).iter().map(|finding| finding.level).max();
        assert_eq!(worst(vec![broken(), whole()]), Some(Level::Warning));
        assert_eq!(worst(vec![broken(), broken()]), Some(Level::Error));
        assert_eq!(worst(vec![whole()]), Some(Level::Ok));
    }
}
