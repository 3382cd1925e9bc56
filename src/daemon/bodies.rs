//! The bodies of requests. A field that is not known is an error that names those that are: passed over, a mistyped name
//! would be as good as absent.
//!
//! They are types of their own, since what is asked for is also noted on disk and left to the next process, and there a
//! program passes over what a later one has added. A client sends what is not as it is by default, so that an owner that
//! does not know a field yet refuses those alone who use it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::cache::FreeSpaceFloor;
use crate::mount::{
    ArtifactRequest, MountRequest, PrefetchPolicy, PullPolicy, VerifyPolicy, usual_read_timeout,
};
use crate::oci::{Platform, WantedPlatform};
use crate::registry::SourceOptions;

use super::api::WantedLimits;

/// What is to be mounted, and in what cache.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "MountFields", into = "MountFields")]
pub struct MountBody {
    /// The mount.
    pub request: MountRequest,
    /// The bounds of the cache.
    pub limits: WantedLimits,
}

/// Which artifact is to be fetched or pinned, and in what cache.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(from = "ArtifactFields", into = "ArtifactFields")]
pub struct ArtifactBody {
    /// The artifact.
    pub request: ArtifactRequest,
    /// The bounds of the cache.
    pub limits: WantedLimits,
}

/// What is dropped from the cache.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PruneRequest {
    /// Also what mounts have cached, except what is being read.
    pub all: bool,
}

/// Which program is to serve from now on.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Its path, absolute.
    pub program: PathBuf,
}

/// [`MountBody`] as it is sent.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct MountFields {
    reference: String,
    target: PathBuf,
    #[serde(default, skip_serializing_if = "is_usual")]
    subpath: Option<String>,
    #[serde(default, deserialize_with = "platform", skip_serializing_if = "is_usual")]
    platform: Option<WantedPlatform>,
    #[serde(default, skip_serializing_if = "is_usual")]
    pull: PullPolicy,
    #[serde(default, skip_serializing_if = "is_usual")]
    verify: VerifyPolicy,
    #[serde(default, skip_serializing_if = "is_usual")]
    prefetch: PrefetchPolicy,
    #[serde(default, skip_serializing_if = "is_usual")]
    allow_other: bool,
    #[serde(default = "usual_read_timeout", deserialize_with = "patience")]
    read_timeout: Duration,
    #[serde(default, with = "SourceFields")]
    source: SourceOptions,
    #[serde(default, skip_serializing_if = "is_usual")]
    cache_bytes_max: Option<u64>,
    #[serde(default, skip_serializing_if = "is_usual")]
    cache_free_space_min: Option<FreeSpaceFloor>,
}

impl From<MountBody> for MountFields {
    fn from(MountBody { request, limits }: MountBody) -> Self {
        let MountRequest {
            reference,
            target,
            subpath,
            platform,
            pull,
            verify,
            prefetch,
            allow_other,
            read_timeout,
            source,
        } = request;
        let WantedLimits { cache_bytes_max, cache_free_space_min } = limits;
        Self {
            reference,
            target,
            subpath,
            platform,
            pull,
            verify,
            prefetch,
            allow_other,
            read_timeout,
            source,
            cache_bytes_max,
            cache_free_space_min,
        }
    }
}

impl From<MountFields> for MountBody {
    fn from(sent: MountFields) -> Self {
        let request = MountRequest {
            reference: sent.reference,
            target: sent.target,
            subpath: sent.subpath,
            platform: sent.platform,
            pull: sent.pull,
            verify: sent.verify,
            prefetch: sent.prefetch,
            allow_other: sent.allow_other,
            read_timeout: sent.read_timeout,
            source: sent.source,
        };
        let (cache_bytes_max, cache_free_space_min) = (sent.cache_bytes_max, sent.cache_free_space_min);
        Self { request, limits: WantedLimits { cache_bytes_max, cache_free_space_min } }
    }
}

/// [`ArtifactBody`] as it is sent.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ArtifactFields {
    reference: String,
    #[serde(default, skip_serializing_if = "is_usual")]
    subpaths: Vec<String>,
    #[serde(default, deserialize_with = "platform", skip_serializing_if = "is_usual")]
    platform: Option<WantedPlatform>,
    #[serde(default, skip_serializing_if = "is_usual")]
    pull: PullPolicy,
    #[serde(default, with = "SourceFields")]
    source: SourceOptions,
    #[serde(default, skip_serializing_if = "is_usual")]
    cache_bytes_max: Option<u64>,
    #[serde(default, skip_serializing_if = "is_usual")]
    cache_free_space_min: Option<FreeSpaceFloor>,
}

impl From<ArtifactBody> for ArtifactFields {
    fn from(ArtifactBody { request, limits }: ArtifactBody) -> Self {
        let ArtifactRequest { reference, subpaths, platform, pull, source } = request;
        let WantedLimits { cache_bytes_max, cache_free_space_min } = limits;
        Self { reference, subpaths, platform, pull, source, cache_bytes_max, cache_free_space_min }
    }
}

impl From<ArtifactFields> for ArtifactBody {
    fn from(sent: ArtifactFields) -> Self {
        let request = ArtifactRequest {
            reference: sent.reference,
            subpaths: sent.subpaths,
            platform: sent.platform,
            pull: sent.pull,
            source: sent.source,
        };
        let (cache_bytes_max, cache_free_space_min) = (sent.cache_bytes_max, sent.cache_free_space_min);
        Self { request, limits: WantedLimits { cache_bytes_max, cache_free_space_min } }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "SourceOptions", default = "SourceOptions::default", deny_unknown_fields)]
struct SourceFields {
    #[serde(skip_serializing_if = "is_usual")]
    plain_http: bool,
    #[serde(skip_serializing_if = "is_usual")]
    registry_config: Option<PathBuf>,
    #[serde(skip_serializing_if = "is_usual")]
    registry_drop_ins: Vec<PathBuf>,
    #[serde(skip_serializing_if = "is_usual")]
    certificate_dirs: Vec<PathBuf>,
    #[serde(skip_serializing_if = "is_usual")]
    auth_files: Vec<PathBuf>,
    #[serde(skip_serializing_if = "is_usual")]
    auth_files_required: bool,
    #[serde(deserialize_with = "patience")]
    connect_timeout: Duration,
    #[serde(deserialize_with = "patience")]
    inactivity_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    retry_budget: Duration,
}

/// The longest time that anything may be waited for. Sums of such are far from what a clock can count.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads a time.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = Duration::deserialize(deserializer)?;
    match duration > DURATION_MAX {
        true => {
            let (seconds, max) = (duration.as_secs(), DURATION_MAX.as_secs());
            Err(de::Error::custom(format!("{seconds} s is longer than the {max} s that may be waited for")))
        }
        false => Ok(duration),
    }
}

/// Reads a time that something is given to happen in.
fn patience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match duration(deserializer)? {
        Duration::ZERO => Err(de::Error::custom("nothing happens in no time; it must be more than 0 s")),
        duration => Ok(duration),
    }
}

#[derive(Deserialize)]
#[serde(remote = "Platform", default = "Platform::default", deny_unknown_fields)]
struct PlatformFields {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Reads what is wanted of an index: `"all"`, a platform or null. What is wrong in it is named, with its place.
fn platform<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WantedPlatform>, D::Error> {
    struct Wanted;

    impl<'de> Visitor<'de> for Wanted {
        type Value = Option<WantedPlatform>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("\"all\" or an object with os and architecture")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                "all" => Ok(Some(WantedPlatform::All)),
                _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
            }
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            let platform = PlatformFields::deserialize(MapAccessDeserializer::new(map))?;
            Ok(Some(WantedPlatform::One(platform)))
        }
    }

    deserializer.deserialize_any(Wanted)
}

fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::mounts::tests::request;

    #[test]
    fn what_is_sent_is_what_arrives_and_defaults_are_not_sent() {
        let usual = MountBody { request: request("/m"), limits: WantedLimits::default() };
        let sent = serde_json::to_value(&usual).unwrap();
        for name in ["subpath", "platform", "pull", "verify", "prefetch", "allow_other", "cache_bytes_max"] {
            assert!(sent.get(name).is_none(), "{name} is in {sent}");
        }
        let mut full = usual;
        full.request.platform =
            Some(WantedPlatform::One(Platform { os: "linux".into(), ..Platform::default() }));
        full.request.subpath = Some("a".into());
        full.request.pull = PullPolicy::Never;
        full.request.source.plain_http = true;
        full.request.source.auth_files = vec!["/auth.json".into()];
        full.limits.cache_free_space_min = Some(FreeSpaceFloor::Percent(5.0));
        let sent = serde_json::to_value(&full).unwrap();
        let arrived: MountBody = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(serde_json::to_value(&arrived).unwrap(), sent);
        assert_eq!(format!("{arrived:?}"), format!("{full:?}"));
    }

    #[test]
    fn an_artifact_arrives_as_it_was_sent() {
        let text = r#"{"reference":"h/r:v1","subpaths":["a"],"platform":"all","cache_bytes_max":7}"#;
        let body: ArtifactBody = serde_json::from_str(text).unwrap();
        assert_eq!(
            (&body.request.platform, body.limits.cache_bytes_max),
            (&Some(WantedPlatform::All), Some(7))
        );
        let again: ArtifactBody = serde_json::from_value(serde_json::to_value(&body).unwrap()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{body:?}"));
        let body: ArtifactBody = serde_json::from_str(r#"{"reference":"r","platform":null}"#).unwrap();
        assert_eq!(body.request.platform, None);
        let error =
            serde_json::from_str::<ArtifactBody>(r#"{"reference":"r","platform":"some"}"#).unwrap_err();
        assert!(error.to_string().contains(r#"expected "all" or an object"#), "{error}");
        for (secs, field, said) in [
            (u64::MAX, "retry_budget", "that may be waited for"),
            (31_622_401, "connect_timeout", "that may be waited for"),
            (0, "inactivity_timeout", "more than 0 s"),
        ] {
            let text = format!(r#"{{"reference":"r","source":{{"{field}":{{"secs":{secs},"nanos":0}}}}}}"#);
            let error = serde_json::from_str::<ArtifactBody>(&text).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
