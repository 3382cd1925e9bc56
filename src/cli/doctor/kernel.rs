//! Whether this user can mount on this kernel, and what a mount is able to do there.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::base::Error;
use crate::fuse::probe::{self, KernelFeatures};
use crate::fuse::{answer_limit, request_timeout};

use super::finding::Finding;

const DEVICE: &str = "/dev/fuse";

/// Open files that leave room for a thousand that are being read, at two for each, beside those that the cache keeps
/// open and the threads of a few mounts.
const DESCRIPTORS_ENOUGH: u64 = 4096;

/// All of it.
pub(super) fn check(allow_other: bool, read_timeout: Duration) -> Vec<Finding> {
    let is_root = rustix::process::geteuid().is_root();
    let mut found = vec![device()];
    if !is_root {
        found.push(program());
    }
    let offered = probe::greet();
    found.push(mounting(offered.as_ref().err(), is_root));
    found.extend(features(offered.ok(), is_root));
    found.push(read_ahead());
    found.push(timeouts(request_timeout(), read_timeout));
    if !is_root {
        found.push(other_users(probe::users_may_allow_other(), allow_other));
    }
    found.push(open_files(getrlimit(Resource::Nofile).maximum));
    found
}

fn device() -> Finding {
    match probe::open_device() {
        Ok(()) => Finding::ok("device", DEVICE, "can be opened"),
        Err(error) => {
            let text = error.to_string();
            let (what, remedy) = text.split_once("; ").unwrap_or((&text, "see whether the kernel has FUSE"));
            Finding::error("device", DEVICE, what).remedy(remedy)
        }
    }
}

fn program() -> Finding {
    match probe::mount_program() {
        Some((program, true)) => {
            Finding::ok("fusermount", program.display().to_string(), "mounts for users other than root")
        }
        Some((program, false)) => {
            let shown = program.display().to_string();
            let remedy = format!("as root: chown root {shown} && chmod u+s {shown}");
            Finding::error(
                "fusermount",
                shown,
                "lacks root's rights (set-user-id), without which it cannot mount",
            )
            .remedy(remedy)
        }
        None => {
            let remedy = "install it (Debian, Ubuntu: apt-get install fuse3), or mount as root";
            Finding::error("fusermount", "fusermount3", "is missing, and users other than root mount by it")
                .remedy(remedy)
        }
    }
}

fn mounting(error: Option<&Error>, is_root: bool) -> Finding {
    let subject = if is_root { "root" } else { "this user" };
    match error {
        None => Finding::ok("mounting", subject, "can mount"),
        Some(error) => Finding::error("mounting", subject, error.chain()).remedy(
            "see the message, and what is found about the device; in a container: --device /dev/fuse --cap-add \
             SYS_ADMIN, and under AppArmor --security-opt apparmor=unconfined",
        ),
    }
}

/// By what the kernel said, or else by its version.
fn features(offered: Option<KernelFeatures>, is_root: bool) -> Vec<Finding> {
    let (version, release) = match probe::kernel_version() {
        Ok(known) => known,
        Err(error) => return vec![Finding::warning("kernel", "Linux", error.chain())],
    };
    let subject = format!("Linux {release}");
    let is_asked = offered.is_some();
    let features = offered.unwrap_or(KernelFeatures::of_version(version));
    let mut found = Vec::new();
    if !is_asked {
        let text = "could not be asked, so the following goes by its version";
        found.push(Finding::note("kernel", &subject, text));
    }
    found.push(passthrough(&subject, features.passthrough, is_asked, is_root));
    found.push(match features.resend {
        true => Finding::ok("resend", &subject, "can send requests again that were not answered"),
        false => Finding::note("resend", &subject, "cannot send requests again that were not answered")
            .remedy("nothing that is needed; Linux 6.9 and later can"),
    });
    found.push(match features.idmapped {
        true => Finding::ok("idmapped", &subject, "can show a mount with other owners (idmapped mounts)"),
        false => {
            Finding::note("idmapped", &subject, "cannot show a mount with other owners (idmapped mounts)")
                .remedy("for containers with user namespaces of their own: Linux 6.12 or later")
        }
    });
    found
}

fn passthrough(subject: &str, is_there: bool, is_asked: bool, is_root: bool) -> Finding {
    match (is_there, is_root) {
        (true, true) if is_asked => Finding::ok("passthrough", subject, "reads complete cache files by itself"),
        (true, true) => Finding::ok(
            "passthrough",
            subject,
            "can read complete cache files by itself, if it was built with CONFIG_FUSE_PASSTHROUGH",
        ),
        (true, false) => Finding::note(
            "passthrough",
            subject,
            "reads complete cache files by itself only for root, so that they are read through refmount",
        )
        .remedy("mount as root where reading from the cache has to be as fast as the disk"),
        (false, _) => Finding::note(
            "passthrough",
            subject,
            "does not read complete cache files by itself, so that they are read through refmount, at a few GiB/s",
        )
        .remedy("Linux 6.9 or later, built with CONFIG_FUSE_PASSTHROUGH"),
    }
}

fn read_ahead() -> Finding {
    let subject = "/sys/class/bdi/*/read_ahead_kb";
    match probe::may_raise_read_ahead() {
        Ok(()) => Finding::ok("read-ahead", subject, "can be raised, so that requests are of 1 MiB"),
        Err(error) => {
            let text =
                format!("cannot be raised, so that requests are of 128 KiB and reading is slower: {error}");
            Finding::note("read-ahead", subject, text)
                .remedy("mount as root, in a place where /sys can be written to")
        }
    }
}

fn timeouts(kernel: Option<Duration>, read_timeout: Duration) -> Finding {
    let subject = "fs.fuse.max_request_timeout";
    let Some(timeout) = kernel else {
        return Finding::ok("request-limit", subject, "the kernel sets requests no time limit");
    };
    let (seconds, limit) = (timeout.as_secs(), answer_limit(timeout));
    if limit >= read_timeout {
        let text = format!(
            "the kernel aborts a mount after {seconds} s without an answer, which is longer than a read may take ({} s)",
            read_timeout.as_secs()
        );
        return Finding::ok("request-limit", subject, text);
    }
    let text = format!(
        "the kernel aborts a mount that leaves a request unanswered for {seconds} s, so a read fails after {} s and not \
         after --read-timeout ({} s)",
        limit.as_secs(),
        read_timeout.as_secs()
    );
    // One of the two is 0 where it does not apply, and then stays so.
    let enough = read_timeout.as_secs() * 4 / 3 + 1;
    Finding::warning("request-limit", subject, text).remedy(format!(
        "raise fs.fuse.default_request_timeout and fs.fuse.max_request_timeout to {enough} or more, or to 0 for none: \
         sysctl fs.fuse.max_request_timeout={enough}"
    ))
}

fn other_users(is_permitted: bool, is_wanted: bool) -> Finding {
    let subject = "/etc/fuse.conf";
    let text = "does not let this user's mounts be seen by others (--allow-other)";
    let remedy = "add a line user_allow_other to /etc/fuse.conf, or mount as root";
    match (is_permitted, is_wanted) {
        (true, _) => {
            Finding::ok("allow-other", subject, "lets this user's mounts be seen by others (--allow-other)")
        }
        (false, true) => Finding::error("allow-other", subject, text).remedy(remedy),
        (false, false) => Finding::note("allow-other", subject, text).remedy(remedy),
    }
}

fn open_files(allowed: Option<u64>) -> Finding {
    let subject = "RLIMIT_NOFILE";
    match allowed {
        None => Finding::ok("open-files", subject, "no limit"),
        Some(files) if files >= DESCRIPTORS_ENOUGH => {
            Finding::ok("open-files", subject, format!("up to {files} open files"))
        }
        Some(files) => {
            let text = format!("only {files} open files; a file that is being read takes two");
            let remedy =
                format!("raise the hard limit to {DESCRIPTORS_ENOUGH} or more: ulimit -Hn, or LimitNOFILE=");
            Finding::warning("open-files", subject, text).remedy(remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_kernel_that_is_less_patient_than_a_reader_is_a_warning() {
        let seconds = Duration::from_secs;
        let level = |kernel, reader| timeouts(kernel, seconds(reader)).level;
        assert_eq!(level(None, 100), Level::Ok);
        assert_eq!(level(Some(seconds(134)), 100), Level::Ok);
        assert_eq!(level(Some(seconds(133)), 100), Level::Warning);
        let remedy = timeouts(Some(seconds(60)), seconds(100)).remedy.unwrap();
        assert!(remedy.contains("fs.fuse.max_request_timeout=134"), "{remedy}");
        assert!(answer_limit(seconds(134)) >= seconds(100), "the remedy is none");
    }

    #[test]
    fn other_users_matter_where_they_are_wanted() {
        assert_eq!(other_users(true, true).level, Level::Ok);
        assert_eq!(other_users(false, true).level, Level::Error);
        assert_eq!(other_users(false, false).level, Level::Note);
    }

    #[test]
    fn few_open_files_are_a_warning() {
        for (allowed, level) in [(None, Level::Ok), (Some(4096), Level::Ok), (Some(1024), Level::Warning)] {
            assert_eq!(open_files(allowed).level, level);
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_no_error() {
        let nothing = KernelFeatures { passthrough: false, resend: false, idmapped: false };
        for finding in features(Some(nothing), true).into_iter().chain(features(None, false)) {
            assert!(finding.level <= Level::Note, "{finding:?}");
        }
    }
}
