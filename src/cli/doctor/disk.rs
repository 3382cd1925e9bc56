//! The cache directory: whose it is, what it lies on, and whether that does what a cache needs.

use std::path::Path;

use crate::cache::probe::{self, Lack, Medium, Room};
use crate::cache::{CachePaths, CacheSettings};
use crate::cli::output::human;
use crate::daemon::Client;
use crate::daemon::api::OwnerInfo;
use crate::daemon::client::Unanswered;

use super::finding::Finding;
use super::within;

/// Asks the owner, then the disk.
pub(super) async fn check(mut settings: CacheSettings) -> Vec<Finding> {
    let subject = settings.directory.display().to_string();
    let (owner, found) = owner(&settings.directory, &subject).await;
    // Its bounds are those that count.
    let used_bytes = owner.as_ref().map_or(0, |(_, used_bytes)| *used_bytes);
    if let Some((owner, _)) = owner {
        settings.bytes_max = owner.cache_bytes_max;
        settings.free_space_min = owner.cache_free_space_min.unwrap_or(settings.free_space_min);
    }
    let mut all = within(&subject, move || directory(&settings, used_bytes)).await;
    all.push(found);
    all
}

/// The owner that answers and the bytes that its cache holds, and what is to be said about it.
async fn owner(directory: &Path, subject: &str) -> (Option<(OwnerInfo, u64)>, Finding) {
    let failed = |error: &crate::base::Error| {
        let remedy = "see owner.log in the directory; a process that hangs can be ended, its mounts are then unmounted \
                      with refmount umount";
        let text = format!("its owner does not answer: {}", error.chain());
        (None, Finding::error("owner", subject, text).remedy(remedy))
    };
    let client = match Client::new(&CachePaths::new(directory).control_socket()) {
        Ok(client) => client,
        Err(error) => return failed(&error),
    };
    let owner = match client.version().await {
        Ok(owner) => owner,
        Err(Unanswered::NoOwner(_)) => {
            return (None, Finding::ok("owner", subject, "no owner is running; the next mount starts one"));
        }
        Err(Unanswered::Failed(error)) => return failed(&error),
    };
    let ours = env!("CARGO_PKG_VERSION");
    let finding = match owner.version == ours {
        true => Finding::ok("owner", subject, format!("process {} owns it", owner.pid)),
        false => {
            let text = format!("process {} owns it, of version {}; this is {ours}", owner.pid, owner.version);
            Finding::warning("owner", subject, text)
                .remedy("unmount all, and the next mount starts this version")
        }
    };
    let info = client.cache_info().await.ok();
    let finding = match info.as_ref().and_then(|info| info.degraded.as_ref()) {
        Some(why) => Finding::warning(
            "owner",
            subject,
            format!("process {} stores nothing at present: {why}", owner.pid),
        )
        .remedy("make room or repair the disk; it goes on by itself then"),
        None => finding,
    };
    let used_bytes = info.map_or(0, |info| info.used_bytes);
    (Some((owner, used_bytes)), finding)
}

fn directory(settings: &CacheSettings, used_bytes: u64) -> Vec<Finding> {
    let path = settings.directory.as_path();
    let subject = path.display().to_string();
    let place = probe::nearest_existing(path);
    let mut found = vec![standing(path, place, &subject)];
    found.push(match Medium::of(place) {
        Ok(medium) => medium_of(medium, &subject),
        Err(error) => Finding::warning("file-system", &subject, format!("cannot be told: {error}")),
    });
    let lacks = probe::try_out(place);
    if lacks.is_empty() {
        found.push(Finding::ok("disk", &subject, "writing, fsync, sparse files and punching holes work"));
    }
    found.extend(lacks.iter().map(|lack| lack_of(lack, place, &subject)));
    found.push(match Room::of(place, settings.free_space_min) {
        Ok(there) => room_of(there, settings.bytes_max, used_bytes, &subject),
        Err(error) => Finding::warning("room", &subject, format!("cannot be told: {error}")),
    });
    found
}

fn standing(path: &Path, place: &Path, subject: &str) -> Finding {
    let other = "or choose another --cache-dir";
    if !place.is_dir() {
        let text = format!("{} is in the way: it is no directory", place.display());
        return Finding::error("directory", subject, text).remedy(format!("remove it, {other}"));
    }
    if place != path {
        return Finding::ok("directory", subject, "does not exist yet; the first mount makes it");
    }
    match probe::check_private(path) {
        Ok(()) => Finding::ok("directory", subject, "exists, and only its owner can write to it"),
        Err(error) => {
            let text = error.chain();
            let (what, remedy) = text.split_once("; ").unwrap_or((&text, other));
            Finding::error("directory", subject, what).remedy(remedy)
        }
    }
}

fn medium_of(medium: Medium, subject: &str) -> Finding {
    let check = "file-system";
    let on_a_disk = "choose a --cache-dir on a file system of a local disk (ext4, xfs, btrfs)";
    match medium {
        Medium::Disk(name) => Finding::ok(check, subject, name),
        Medium::Memory => {
            Finding::note(check, subject, "tmpfs: what is cached takes memory, and is gone after a restart")
                .remedy(on_a_disk)
        }
        Medium::Stacked(name) => {
            let text = format!("{name}: the kernel reads no file of it by itself, so that reading is slower");
            let remedy = format!("{on_a_disk}; in a container, on a volume");
            Finding::warning(check, subject, text).remedy(remedy)
        }
        Medium::Remote(name) => {
            let text = format!("{name}: the cache is as slow as what is behind it, and gone when that is");
            Finding::warning(check, subject, text).remedy(on_a_disk)
        }
        Medium::Unknown(number) => {
            Finding::note(check, subject, format!("of a kind that is not known here ({number:#x})"))
        }
    }
}

fn lack_of(lack: &Lack, place: &Path, subject: &str) -> Finding {
    let text = match lack {
        Lack::Writing(_) => format!("{lack} (in {})", place.display()),
        _ => lack.to_string(),
    };
    match lack {
        Lack::Writing(_) => Finding::error("disk", subject, text)
            .remedy("let this user write there, make room, or choose another --cache-dir"),
        Lack::Syncing(_) => {
            Finding::error("disk", subject, text).remedy("choose a --cache-dir on another file system")
        }
        Lack::SparseFiles | Lack::PunchingHoles(_) => {
            let text =
                format!("{text}; so what a part of a file takes is not given back before all of it is");
            Finding::warning("disk", subject, text).remedy("choose a --cache-dir on ext4, xfs or btrfs")
        }
    }
}

/// Of a cache that holds `used_bytes` and may hold `bytes_max`.
fn room_of(room: Room, bytes_max: u64, used_bytes: u64, subject: &str) -> Finding {
    let (free, floor) = (human(room.free_bytes), human(room.floor_bytes));
    let usable = room.usable_bytes();
    let can_hold = used_bytes.saturating_add(usable);
    if usable == 0 && can_hold < bytes_max {
        let text = format!(
            "{free} free, of which {floor} stay free (--cache-min-free), so that nothing more is cached"
        );
        return Finding::warning("room", subject, text)
            .remedy("make room, lower --cache-min-free, or choose a --cache-dir on a larger disk");
    }
    if can_hold < bytes_max {
        let text = format!(
            "{free} free, of which {floor} stay free, so that the cache ends at {} and not at its {}",
            human(can_hold),
            human(bytes_max)
        );
        return Finding::note("room", subject, text)
            .remedy("nothing, if what is read together fits; else make room or choose a larger disk");
    }
    let text = format!("{free} free, enough for a cache of {} and {floor} that stay free", human(bytes_max));
    Finding::ok("room", subject, text)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn room_for_all_for_some_and_for_nothing() {
        let room = |free_bytes, used| {
            room_of(Room { free_bytes, floor_bytes: 10 << 30 }, 50 << 30, used, "/c").level
        };
        assert_eq!(room(60 << 30, 0), Level::Ok);
        assert_eq!(room(59 << 30, 0), Level::Note);
        assert_eq!(room(59 << 30, 1 << 30), Level::Ok, "what it holds need not be free");
        assert_eq!(room(10 << 30, 0), Level::Warning);
        assert_eq!(room(0, 50 << 30), Level::Ok, "a cache that is full needs no more");
    }

    #[test]
    fn a_directory_is_judged_before_it_exists() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let here = |path: &Path| standing(path, probe::nearest_existing(path), "x");
        assert_eq!(here(&path).level, Level::Ok);
        std::fs::File::create(directory.path().join("a")).unwrap();
        let finding = here(&path);
        assert_eq!(finding.level, Level::Error);
        assert!(finding.finding.contains("in the way"), "{finding:?}");
    }
}
