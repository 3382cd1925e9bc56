//! Where the registries' configuration and their certificates are looked for: in the places of podman, containerd and
//! Docker.
//!
//! What was named counts, whether it exists or not, so that a misspelt name is an error of whoever reads it; and so does
//! what is there and cannot be read. Nothing is read here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorKind, Result, ResultExt as _};

/// The variable by which podman, skopeo and CRI-O are told of another file.
const VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";

/// What was found, in absolute paths: the owner's process runs elsewhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RegistryFiles {
    /// A file as containers-registries.conf(5) describes it, or a directory of containerd's.
    pub(super) config: Option<PathBuf>,
    /// Directories with drop-ins for it, beside its own: of the user, for the file of the system.
    pub(super) drop_ins: Vec<PathBuf>,
    /// In the order in which they count.
    pub(super) certificate_dirs: Vec<PathBuf>,
}

impl RegistryFiles {
    /// Looks below `root`, which is `/` but for tests. `named` comes from the command line; `variable` reads the
    /// environment.
    ///
    /// # Errors
    /// For a name that is no path, and for a directory where a `registries.conf` is looked for.
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
        let (config, drop_ins) = match named.map(Path::to_owned).or_else(|| set(VARIABLE)) {
            Some(named) => (Some(absolute(&named)?), Vec::new()),
            None => default_config(&users, &system, root)?,
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
        Ok(Self { config, drop_ins, certificate_dirs })
    }
}

/// The file or directory that counts where none was named, and the user's drop-ins for it. As podman has it: a file of
/// the user's takes the place of the system's, with its drop-ins; without one, the user's drop-ins follow the system's.
fn default_config(users: &[PathBuf], system: &Path, root: &Path) -> Result<(Option<PathBuf>, Vec<PathBuf>)> {
    for directory in users {
        let of_user = directory.join("registries.conf");
        if is_file(&of_user)? {
            return Ok((Some(of_user), Vec::new()));
        }
    }
    let drop_ins = |directory: &Path| directory.join("registries.conf.d");
    let of_users: Vec<PathBuf> =
        users.iter().map(|directory| drop_ins(directory)).filter(|path| is_there(path)).collect();
    let of_system = system.join("registries.conf");
    if is_file(&of_system)? || is_there(&drop_ins(system)) || !of_users.is_empty() {
        return Ok((Some(of_system), of_users));
    }
    let of_containerd = root.join("etc/containerd/certs.d");
    Ok((is_there(&of_containerd).then_some(of_containerd), Vec::new()))
}

/// Whether there is something at `path` that whoever reads it has to deal with, if only by saying that it cannot be read.
fn is_there(path: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    !matches!(std::fs::metadata(path), Err(error) if matches!(error.kind(), NotFound | NotADirectory))
}

/// As [`is_there`], where a directory would be taken for one of containerd's.
fn is_file(path: &Path) -> Result<bool> {
    match path.is_dir() {
        true => {
            let text =
                format!("{} is a directory, where a file should be; remove or rename it", path.display());
            Err(Error::new(ErrorKind::Invalid, text))
        }
        false => Ok(is_there(path)),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("bad path {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with `files`, of which those whose names end in a slash are directories.
    fn tree(files: &[&str]) -> tempfile::TempDir {
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
        root
    }

    /// What is found below `root`, to which all names are relative.
    fn find(
        root: &tempfile::TempDir,
        named: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<RegistryFiles> {
        let below = |name: &str| root.path().join(name);
        let variable = |name: &str| {
            let (_, value) = variables.iter().find(|(other, _)| *other == name)?;
            Some(if value.is_empty() { OsString::new() } else { below(value).into() })
        };
        RegistryFiles::find(named.map(below).as_deref(), root.path(), variable)
    }

    /// What is found among `files`, as names below the root.
    fn found(
        files: &[&str],
        named: Option<&str>,
        variables: &[(&str, &str)],
    ) -> (Option<String>, Vec<String>) {
        let root = tree(files);
        let found = find(&root, named, variables).unwrap();
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
    fn drop_ins_of_the_user_are_for_the_systems_file() {
        let (drop_in, own) =
            ("h/.config/containers/registries.conf.d/", "h/.config/containers/registries.conf");
        let system = "etc/containers/registries.conf";
        for (files, named, expected, further) in [
            (&[drop_in, system][..], None, system, &[drop_in][..]),
            (&[drop_in, "etc/containerd/certs.d/"], None, system, &[drop_in]),
            // Those beside the file in use are its own.
            (&[drop_in, own, system], None, own, &[]),
            (&[drop_in, system], Some("some.conf"), "some.conf", &[]),
        ] {
            let root = tree(files);
            let found = find(&root, named, &[("HOME", "h")]).unwrap();
            let below = |name: &&str| root.path().join(name.trim_end_matches('/'));
            assert_eq!(found.config, Some(below(&expected)), "{files:?}");
            assert_eq!(found.drop_ins, further.iter().map(below).collect::<Vec<_>>(), "{files:?}");
        }
    }

    #[test]
    fn what_is_there_and_is_no_file_is_not_passed_over() {
        for name in ["h/.config/containers/registries.conf/", "etc/containers/registries.conf/"] {
            let root = tree(&[name, "etc/containerd/certs.d/"]);
            let error = find(&root, None, &[("HOME", "h")]).unwrap_err().chain();
            assert!(error.contains(name.trim_end_matches('/')), "{error}");
        }
        // Nor is what may be there and cannot be looked at: a loop of links stands for a directory of others.
        let root = tree(&["etc/containers/registries.conf"]);
        let of_user = root.path().join("h/.config/containers/registries.conf");
        std::fs::create_dir_all(of_user.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&of_user, &of_user).unwrap();
        assert_eq!(find(&root, None, &[("HOME", "h")]).unwrap().config, Some(of_user));
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
