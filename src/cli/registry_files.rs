//! Where the registries' configuration and their certificates are looked for: in the places of podman, containerd and
//! Docker.
//!
//! What was named counts, whether it exists or not, so that a misspelt name is an error of whoever reads it. Nothing is
//! read here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::base::{Result, ResultExt as _};

/// The variable by which podman, skopeo and CRI-O are told of another file.
const VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";

/// What was found, in absolute paths: the owner's process runs elsewhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RegistryFiles {
    /// A file as containers-registries.conf(5) describes it, or a directory of containerd's.
    pub(super) config: Option<PathBuf>,
    /// In the order in which they count.
    pub(super) certificate_dirs: Vec<PathBuf>,
}

impl RegistryFiles {
    /// Looks below `root`, which is `/` but for tests. `named` comes from the command line; `variable` reads the
    /// environment.
    ///
    /// # Errors
    /// For a name that is no path.
    pub(super) fn find(
        named: Option<&Path>,
        root: &Path,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let below_home = set("HOME").map(|home| home.join(".config"));
        let users = [set("XDG_CONFIG_HOME").filter(|path| path.is_absolute()), below_home];
        let users: Vec<PathBuf> = users.into_iter().flatten().map(|path| path.join("containers")).collect();
        let system = root.join("etc/containers");
        let config = match named.map(Path::to_owned).or_else(|| set(VARIABLE)) {
            Some(named) => Some(absolute(&named)?),
            None => default_config(&users, &system, root),
        };
        let beside = config.as_ref().filter(|path| !path.is_dir()).and_then(|path| path.parent());
        let containers = beside.map(Path::to_owned).into_iter().chain(users).chain([system]);
        let mut certificate_dirs: Vec<PathBuf> = Vec::new();
        let all = containers.map(|path| path.join("certs.d")).chain([root.join("etc/docker/certs.d")]);
        for directory in all {
            let directory = absolute(&directory)?;
            if !certificate_dirs.contains(&directory) {
                certificate_dirs.push(directory);
            }
        }
        Ok(Self { config, certificate_dirs })
    }
}

fn default_config(users: &[PathBuf], system: &Path, root: &Path) -> Option<PathBuf> {
    let of_user = users.iter().map(|path| path.join("registries.conf")).find(|path| path.is_file());
    let of_system = system.join("registries.conf");
    let is_there = of_system.is_file() || system.join("registries.conf.d").is_dir();
    let of_containerd = root.join("etc/containerd/certs.d");
    of_user
        .or_else(|| is_there.then_some(of_system))
        .or_else(|| of_containerd.is_dir().then_some(of_containerd))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("bad path {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found among `files` (a directory where a name ends in a slash), as names below the root.
    fn found(
        files: &[&str],
        named: Option<&str>,
        variables: &[(&str, &str)],
    ) -> (Option<String>, Vec<String>) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            match file.strip_suffix('/') {
                Some(_) => std::fs::create_dir_all(path).unwrap(),
                None => {
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::File::create(path).unwrap();
                }
            }
        }
        let below = |name: &str| root.path().join(name);
        let variable = |name: &str| {
            let (_, value) = variables.iter().find(|(other, _)| *other == name)?;
            Some(if value.is_empty() { OsString::new() } else { below(value).into() })
        };
        let found = RegistryFiles::find(named.map(below).as_deref(), root.path(), variable).unwrap();
        let shown = |path: PathBuf| path.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned();
        (found.config.map(shown), found.certificate_dirs.into_iter().map(shown).collect())
    }

    #[test]
    fn the_first_configuration_that_is_there_counts() {
        let users = "h/.config/containers/registries.conf";
        let xdg = "x/containers/registries.conf";
        let system = "etc/containers/registries.conf";
        let containerd = "etc/containerd/certs.d";
        let all = [users, xdg, system, "etc/containerd/certs.d/"];
        let home = [("HOME", "h")];
        for (files, named, variables, expected) in [
            (&all[..], Some("some.conf"), &home[..], Some("some.conf")),
            (&all, None, &[("HOME", "h"), (VARIABLE, "other.conf")], Some("other.conf")),
            (&all, None, &[("HOME", "h"), (VARIABLE, "")], Some(users)),
            (&all, None, &[("HOME", "h"), ("XDG_CONFIG_HOME", "x")], Some(xdg)),
            (&all, None, &home, Some(users)),
            (&all, None, &[], Some(system)),
            (&["etc/containers/registries.conf.d/", "etc/containerd/certs.d/"], None, &home, Some(system)),
            (&["etc/containerd/certs.d/"], None, &home, Some(containerd)),
            (&[], None, &home, None),
        ] {
            assert_eq!(
                found(files, named, variables).0.as_deref(),
                expected,
                "{files:?} {named:?} {variables:?}"
            );
        }
    }

    #[test]
    fn certificates_beside_the_configuration_come_first() {
        let system = ["etc/containers/certs.d", "etc/docker/certs.d"];
        let users = ["h/.config/containers/certs.d", "etc/containers/certs.d", "etc/docker/certs.d"];
        let home = [("HOME", "h")];
        assert_eq!(found(&[], None, &[]).1, system);
        assert_eq!(found(&[], None, &home).1, users);
        assert_eq!(found(&["h/.config/containers/registries.conf"], None, &home).1, users);
        assert_eq!(found(&["a/r.conf"], Some("a/r.conf"), &home).1[..2], ["a/certs.d", users[0]]);
        assert_eq!(found(&["a/certs.d/"], Some("a/certs.d"), &home).1, users);
        assert_eq!(found(&["etc/containers/registries.conf"], None, &home).1[0], system[0]);
    }

    #[test]
    fn relative_names_are_made_absolute() {
        let found = RegistryFiles::find(Some(Path::new("some.conf")), Path::new("/"), |_| None).unwrap();
        assert_eq!(found.config, Some(std::env::current_dir().unwrap().join("some.conf")));
    }
}
