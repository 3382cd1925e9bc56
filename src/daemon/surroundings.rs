//! What a holder has done for it: it keeps what belongs to an owner without knowing what that is.

use std::path::PathBuf;

use crate::base::{Result, ResultExt as _};
use crate::cache::CachePaths;
use crate::keeper::{Kept, Surroundings};
use crate::mount;

use super::locate;
use super::owner::{MOUNT_NAME, SOCKET};

/// The surroundings of a holder for the owner of a cache directory. What fails is said on standard error.
#[derive(Debug)]
pub struct OfOwner {
    /// Where that is, if it is known.
    pub cache_dir: Option<PathBuf>,
    /// Whether somebody reads standard error all the time.
    pub is_service: bool,
}

impl Surroundings for OfOwner {
    fn given_up(&self, why: Option<&str>) {
        if let Some(why) = why.filter(|_| self.is_service) {
            eprintln!("refmount: given up: {why}");
        }
        if let Some(cache_dir) = &self.cache_dir {
            // The directory may never have come about.
            say_failed(locate::note_given_up(cache_dir, why));
        }
    }

    fn unmount(&self, kept: &Kept) {
        let mounts = kept.iter().filter(|(name, _)| name.starts_with(MOUNT_NAME));
        for error in mount::unmount_left(mounts.map(|(_, descriptors)| descriptors.as_slice())) {
            say_failed(Err(error));
        }
    }

    fn close(&self, kept: &Kept) {
        if let Some(cache_dir) = self.cache_dir.as_ref().filter(|_| kept.contains_key(SOCKET)) {
            let path = CachePaths::new(cache_dir).control_socket();
            // The server may have come so far.
            if path.exists() {
                let removed = std::fs::remove_file(&path);
                say_failed(removed.context(|| format!("cannot remove {}", path.display())));
            }
        }
    }
}

fn say_failed(result: Result<()>) {
    if let Err(error) = result {
        eprintln!("refmount: {}", error.chain());
    }
}
