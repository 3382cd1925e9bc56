//! An image from a Debian root file system, and the tree that `umoci` makes of it: what `scripts/debian-image` makes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use refmount::oci::SourceRef;

use crate::workplace::{assert_done, stdout};

/// The directory of the image in all its forms; the script says what is in it. Made once for each machine, which
/// takes a minute or two.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/debian-image");
        let output = Command::new(script).env("CARGO_TARGET_DIR", target).output().unwrap();
        assert_done(&output);
        stdout(&output).trim_end().into()
    })
}

/// The layout with all forms.
pub(crate) fn layout() -> PathBuf {
    directory().join("layout")
}

/// The form `tag`, in the layout.
pub(crate) fn reference(tag: &str) -> SourceRef {
    format!("oci:{}:{tag}", layout().display()).parse().unwrap()
}

/// What is to be seen of it.
pub(crate) fn unpacked(name: &str) -> PathBuf {
    directory().join(name)
}
