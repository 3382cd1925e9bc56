//! From what was typed to what it means: defaults filled in, paths absolute, files of credentials found.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};
use crate::cache::{CacheSettings, FreeSpaceFloor};
use crate::daemon::api::WantedLimits;
use crate::daemon::bodies::ArtifactBody;
use crate::daemon::start::OwnerCommand;
use crate::mount::{ArtifactRequest, MountRequest, PrefetchPolicy, PullPolicy, VerifyPolicy};
use crate::oci::{SourceRef, behind_user};
use crate::registry::{SourceOptions, default_auth_files};

use super::args::{
    ArtifactArgs, CacheLimitArgs, GlobalArgs, LogFormat, MountArgs, PrefetchArg, PullArg, SourceArgs,
    VerifyArg, WatchArgs,
};
use super::registry_files::RegistryFiles;
use super::size::Floor;

/// What the cache may hold unless told otherwise: the largest of today's single-node models in 8 bits, and small
/// beside the disks of machines that run them.
const CACHE_BYTES_MAX: u64 = 50 << 30;

/// The part of the file system that stays free unless told otherwise, in percent: where file systems begin to
/// slow down and kubelets begin to evict.
const CACHE_FREE_PERCENT: f64 = 5.0;

/// The first argument of a process that is to be an owner.
pub(super) const OWNER: &str = "owner";

/// The cache directory: the one given, else the user's own.
///
/// # Errors
/// `Usage` when neither is known.
pub(super) fn cache_dir(global: &GlobalArgs) -> Result<PathBuf> {
    let is_root = rustix::process::geteuid().is_root();
    let environment = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = match &global.cache_dir {
        Some(directory) => directory.clone(),
        None => default_cache_dir(is_root, environment).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "no cache directory is known: give --cache-dir, or set HOME")
        })?,
    };
    std::path::absolute(&directory).context(|| format!("bad --cache-dir {}", directory.display()))
}

fn default_cache_dir(is_root: bool, environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if is_root {
        return Some("/var/cache/refmount".into());
    }
    let base = environment("XDG_CACHE_HOME")
        .map(PathBuf::from)
        // The base directory specification has relative ones ignored.
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(environment("HOME")?).join(".cache")))?;
    Some(base.join("refmount"))
}

/// The cache as its owner opens it.
///
/// # Errors
/// As [`cache_dir`].
pub(super) fn cache(global: &GlobalArgs, limits: &CacheLimitArgs) -> Result<CacheSettings> {
    Ok(CacheSettings {
        directory: cache_dir(global)?,
        bytes_max: limits.cache_size.map_or(CACHE_BYTES_MAX, |size| size.0),
        free_space_min: limits
            .cache_min_free
            .map_or(FreeSpaceFloor::Percent(CACHE_FREE_PERCENT), free_space_floor),
    })
}

/// The bounds that were given, as an owner is asked for them.
#[must_use]
pub(super) fn wanted_limits(limits: &CacheLimitArgs) -> WantedLimits {
    WantedLimits {
        cache_bytes_max: limits.cache_size.map(|size| size.0),
        cache_free_space_min: limits.cache_min_free.map(free_space_floor),
    }
}

fn free_space_floor(floor: Floor) -> FreeSpaceFloor {
    match floor {
        Floor::Bytes(bytes) => FreeSpaceFloor::Bytes(bytes),
        Floor::Percent(percent) => FreeSpaceFloor::Percent(percent),
    }
}

/// How a source is reached. Credentials are those of whoever typed the command, not of the owner's process.
///
/// # Errors
/// `Usage` for a path without a meaning.
pub(super) fn source(arguments: &SourceArgs) -> Result<SourceOptions> {
    let (files, auth_files_required) = match &arguments.authfile {
        Some(file) => (vec![file.clone()], true),
        None => (default_auth_files(|name| std::env::var_os(name)), false),
    };
    let auth_files = files
        .iter()
        .map(|file| std::path::absolute(file).context(|| format!("bad --authfile {}", file.display())))
        .collect::<Result<_>>()?;
    let registry_files = RegistryFiles::find(arguments.registry_config.as_deref(), Path::new("/"), |name| {
        std::env::var_os(name)
    })?;
    Ok(SourceOptions {
        plain_http: arguments.plain_http,
        registry_config: registry_files.config,
        registry_drop_ins: registry_files.drop_ins,
        certificate_dirs: registry_files.certificate_dirs,
        auth_files,
        auth_files_required,
        ..SourceOptions::default()
    })
}

/// How a source is reached when nothing was typed about it.
///
/// # Errors
/// As [`source`].
pub(super) fn usual_source() -> Result<SourceOptions> {
    source(&SourceArgs { plain_http: false, authfile: None, registry_config: None, platform: None })
}

/// The reference, with a layout's path made absolute: the owner runs elsewhere.
///
/// # Errors
/// `Usage` for what is none.
pub(super) fn reference(text: &str) -> Result<SourceRef> {
    for scheme in ["https://", "http://"] {
        if let Some((start, rest)) = text.split_at_checked(scheme.len())
            && start.eq_ignore_ascii_case(scheme)
        {
            return Err(scheme_error(scheme, rest));
        }
    }
    let mut reference: SourceRef = text.parse()?;
    if let SourceRef::Layout(layout) = &mut reference {
        layout.path = std::path::absolute(&layout.path).context(|| format!("bad path in {text:?}"))?;
    }
    Ok(reference)
}

/// What was pasted from a browser. Shown without what stands before an `@` and in a query: it may be a password.
fn scheme_error(scheme: &str, rest: &str) -> Error {
    let shown = behind_user(rest).unwrap_or(rest);
    let shown = shown.split(['?', '#']).next().unwrap_or(shown);
    let plain = if scheme == "http://" { ", and give --plain-http unless it is this machine" } else { "" };
    Error::new(
        ErrorKind::Usage,
        format!("a reference has no {scheme} before it; leave it out: {shown}{plain}"),
    )
}

/// The request to fetch or pin `reference_text`.
///
/// # Errors
/// `Usage` for a bad reference or path.
pub(super) fn artifact_body(reference_text: &str, arguments: &ArtifactArgs) -> Result<ArtifactBody> {
    let request = ArtifactRequest {
        reference: reference(reference_text)?.to_string(),
        subpaths: arguments.subpaths.clone(),
        platform: arguments.source.platform.clone(),
        pull: pull(arguments.pull),
        source: source(&arguments.source)?,
    };
    Ok(ArtifactBody { request, limits: wanted_limits(&arguments.limits) })
}

fn pull(typed: PullArg) -> PullPolicy {
    match typed {
        PullArg::Always => PullPolicy::Always,
        PullArg::Missing => PullPolicy::Missing,
        PullArg::Never => PullPolicy::Never,
    }
}

/// The request for a mount on `target`, which is resolved.
///
/// # Errors
/// `Usage` for a bad reference or path.
pub(super) fn mount_request(arguments: &MountArgs, target: PathBuf) -> Result<MountRequest> {
    Ok(MountRequest {
        reference: reference(&arguments.reference)?.to_string(),
        target,
        subpath: arguments.subpath.clone(),
        platform: arguments.source.platform.clone(),
        pull: pull(arguments.pull),
        verify: match arguments.verify {
            VerifyArg::OnComplete => VerifyPolicy::OnComplete,
            VerifyArg::BeforeRead => VerifyPolicy::BeforeRead,
        },
        prefetch: match arguments.prefetch {
            PrefetchArg::Off => PrefetchPolicy::Off,
            PrefetchArg::Auto => PrefetchPolicy::Auto,
            PrefetchArg::All => PrefetchPolicy::All,
        },
        allow_other: arguments.allow_other,
        read_timeout: arguments.read_timeout,
        source: source(&arguments.source)?,
    })
}

/// How an owner with these settings is started.
///
/// # Errors
/// `Io` when this program's own path is not known.
pub(super) fn owner_command(
    global: &GlobalArgs,
    cache_dir: &Path,
    limits: &CacheLimitArgs,
    watch: &WatchArgs,
) -> Result<OwnerCommand> {
    let program = std::env::current_exe().context(|| "cannot find the path of this program")?;
    let format = match global.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let mut arguments: Vec<OsString> = vec![OWNER.into(), "--cache-dir".into(), cache_dir.into()];
    arguments.extend(["--log-level".into(), (&global.log_level).into()]);
    arguments.extend(["--log-format".into(), format.into()]);
    if let Some(size) = limits.cache_size {
        arguments.extend(["--cache-size".into(), size.0.to_string().into()]);
    }
    if let Some(floor) = limits.cache_min_free {
        arguments.extend(["--cache-min-free".into(), floor.to_string().into()]);
    }
    if let Some(address) = watch.metrics_addr {
        arguments.extend(["--metrics-addr".into(), address.to_string().into()]);
    }
    Ok(OwnerCommand { program, arguments })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Arguments, Command, OwnerArguments};

    #[test]
    fn the_default_cache_directory_is_the_users_own() {
        let environment = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        let dir = |is_root, pairs| default_cache_dir(is_root, environment(pairs));
        assert_eq!(dir(true, &[("HOME", "/root")]), Some("/var/cache/refmount".into()));
        assert_eq!(dir(false, &[("HOME", "/h")]), Some("/h/.cache/refmount".into()));
        assert_eq!(dir(false, &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/refmount".into()));
        assert_eq!(dir(false, &[("HOME", "/h"), ("XDG_CACHE_HOME", "x")]), Some("/h/.cache/refmount".into()));
        assert_eq!(dir(false, &[]), None);
    }

    #[test]
    fn a_layout_is_found_from_wherever_the_owner_runs() {
        let here = std::env::current_dir().unwrap();
        for transport in ["oci", "oci-archive"] {
            let absolute = reference(&format!("{transport}:some/where:v1")).unwrap().to_string();
            assert_eq!(absolute, format!("{transport}:{}/some/where:v1", here.display()));
        }
    }

    #[test]
    fn the_owner_gets_the_limits_that_were_typed() {
        let typed = ["refmount", "mount", "--cache-size", "1GiB", "--cache-min-free", "2%"];
        let typed = typed.into_iter().chain(["--metrics-addr", "[::1]:9500", "oci:/a", "/m"]);
        let parsed = Arguments::parse_from(typed);
        let Command::Mount(mount) = &parsed.command else { panic!() };
        let command = owner_command(&parsed.global, Path::new("/c"), &mount.limits, &mount.watch).unwrap();
        assert_eq!(command.arguments[0], OWNER);
        // The first argument leads to that grammar, in which it stands for the program's name.
        let again = OwnerArguments::parse_from(command.arguments);
        let settings = cache(&again.global, &again.limits).unwrap();
        assert_eq!((settings.directory, settings.bytes_max), ("/c".into(), 1 << 30));
        assert_eq!(settings.free_space_min, FreeSpaceFloor::Percent(2.0));
        assert_eq!(again.watch.metrics_addr, Some("[::1]:9500".parse().unwrap()));
    }
}
