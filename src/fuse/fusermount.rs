//! Mounting without privileges, through the set-user-id program of libfuse.
//!
//! It mounts on our behalf and hands the device over a socket, which it gets as its standard input, so
//! that no descriptor of ours is ever left open for other children.

use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, PidfdFlags};

use crate::base::{CHUNK_BYTES, Error, ErrorKind, Result, ResultExt as _};

use super::MountSpec;

/// The program of libfuse 3, and that of libfuse 2, which understands the same.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Where they are when `PATH` does not say.
const PLACES: [&str; 2] = ["/usr/bin", "/bin"];

/// The variable that names the descriptor of the socket.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// It makes a few system calls; more time than this means that one of them hangs, as on a dead NFS server.
const TIMEOUT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// As much of its messages as an error can use.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// Mounts on `target` and returns the device.
pub(super) fn mount(target: &Path, spec: &MountSpec) -> Result<OwnedFd> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(std::io::Error::from)
            .context(|| "cannot make a socket pair")?;
    let target_text = target.as_os_str();
    let options = options(spec);
    run(Stdio::from(theirs), |command| {
        command.env(SOCKET_VARIABLE, "0").arg("-o").arg(&options).arg("--").arg(target_text);
    })
    .map_err(|message| explain(&message, target, spec))?;
    receive_device(&ours).context(|| format!("cannot mount on {}", target.display()))
}

/// Unmounts `target` lazily.
pub(super) fn unmount(target: &Path) -> Result<()> {
    run(Stdio::null(), |command| {
        command.args(["-u", "-z", "--"]).arg(target);
    })
    .map_err(|failure| {
        Error::new(failure.kind, format!("cannot unmount {}: {}", target.display(), failure.message))
    })
}

/// What the program said.
struct Failure {
    kind: ErrorKind,
    message: String,
}

fn options(spec: &MountSpec) -> String {
    let source = spec.source_name.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!(
        "fsname={source},subtype=refmount,ro,nosuid,nodev,default_permissions,max_read={CHUNK_BYTES}"
    );
    if spec.allow_other {
        options.push_str(",allow_other");
    }
    options
}

/// Runs what [`find_program`] finds, with `input` as its standard input.
fn run(input: Stdio, arguments: impl FnOnce(&mut Command)) -> Result<(), Failure> {
    let program = find_program().ok_or_else(|| Failure {
        kind: ErrorKind::Unsupported,
        message:
            "mounting without root needs fusermount3; install it (Debian, Ubuntu: apt-get install fuse3)"
                .to_owned(),
    })?;
    let mut command = Command::new(&program);
    arguments(&mut command);
    command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped());
    let name = program.display().to_string();
    let child = command
        .spawn()
        .map_err(|error| Failure { kind: ErrorKind::Io, message: format!("cannot run {name}: {error}") })?;
    // Its copy of our descriptors, so that the socket ends when the program does.
    drop(command);
    wait(&name, child)
}

/// The first of [`PROGRAMS`] that is there.
pub(super) fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path).chain(PLACES.map(PathBuf::from)).collect();
    let candidates = PROGRAMS.iter().flat_map(|program| places.iter().map(move |place| place.join(program)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

fn wait(program: &str, mut child: Child) -> Result<(), Failure> {
    let failure = |message: String| Failure { kind: ErrorKind::Io, message };
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(|errno| failure(format!("cannot watch {program}: {errno}")))?;
    let ready = rustix::io::retry_on_intr(|| {
        rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&TIMEOUT))
    });
    if !matches!(ready, Ok(1..)) {
        // It may be beyond our signals, being root's.
        let _ = child.kill();
        return Err(failure(format!("{program} did not finish within {} s", TIMEOUT.tv_sec)));
    }
    let status = child.wait().map_err(|error| failure(format!("cannot wait for {program}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What can't be read is missing from the message only.
        let _ = stderr.take(MESSAGE_BYTES_MAX).read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said);
    Err(failure(match said.trim() {
        "" => format!("{program} failed ({status})"),
        said => said.lines().collect::<Vec<_>>().join("; "),
    }))
}

fn explain(failure: &Failure, target: &Path, spec: &MountSpec) -> Error {
    let said = &failure.message;
    let denied = said.to_ascii_lowercase().contains("permission");
    let remedy = if spec.allow_other && said.contains("allow_other") {
        "add a line user_allow_other to /etc/fuse.conf, or mount as root, or leave out --allow-other"
    } else if said.contains("/dev/fuse") && denied {
        "this user may not open it: as root, chmod 0666 /dev/fuse, or add the user to the group that may"
    } else if said.contains("/dev/fuse") || said.contains("device not found") {
        "load the kernel's module (modprobe fuse); for a container, pass the device in (--device /dev/fuse)"
    } else if denied || said.contains("no write access") {
        "the mount point has to belong to you and be writable"
    } else {
        ""
    };
    let separator = if remedy.is_empty() { "" } else { "; " };
    let message = format!("cannot mount on {}: {said}{separator}{remedy}", target.display());
    Error::new(failure.kind, message)
}

fn receive_device(socket: &OwnedFd) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // The program is gone, so what it sent is here; DONTWAIT in case a child of its own lives on.
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)
        .map_err(std::io::Error::from)
        .context(|| "fusermount3 mounted but sent no device")?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| Error::new(ErrorKind::Io, "fusermount3 mounted but sent no device"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_backslashes_of_a_name_do_not_become_options() {
        let spec = MountSpec { target: "/x".into(), source_name: "a,suid\\,b".into(), allow_other: true };
        assert_eq!(
            options(&spec),
            "fsname=a\\,suid\\\\\\,b,subtype=refmount,ro,nosuid,nodev,default_permissions,max_read=1048576,allow_other"
        );
    }

    #[test]
    fn what_was_refused_comes_with_its_own_remedy() {
        let spec = MountSpec { target: "/x".into(), source_name: "a".into(), allow_other: true };
        for (said, remedy) in [
            ("option allow_other only allowed if 'user_allow_other' is set", "/etc/fuse.conf"),
            ("failed to open /dev/fuse: Permission denied", "chmod 0666"),
            ("fuse: device not found, try 'modprobe fuse' first", "--device /dev/fuse"),
            ("mount failed: Permission denied", "belong to you"),
            ("user has no write access to mountpoint /x", "belong to you"),
        ] {
            let failure = Failure { kind: ErrorKind::Io, message: said.into() };
            let error = explain(&failure, Path::new("/x"), &spec).to_string();
            assert!(error.contains(said) && error.contains(remedy), "{error}");
        }
    }
}
