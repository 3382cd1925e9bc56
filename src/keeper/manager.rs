//! The service manager above the holder, where there is one: it is told how the service is, and keeps a second copy of
//! every descriptor that is kept here, for the holder after this one.
//!
//! Its protocol is that of sd_notify(3): datagrams of `NAME=VALUE` lines, with descriptors beside them, to the socket
//! that `$NOTIFY_SOCKET` names; and that of sd_listen_fds(3) on the way back. Nothing is answered, and nothing fails:
//! what cannot be told is not worth ending for. The manager returns descriptors in no order, so each has a name of its
//! own: what it is kept under, and its place there.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};

/// Where the manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// How many descriptors it stores: set by systemd since version 254, and by our unit for older ones.
const STORED_MAX: &str = "FDSTORE";

/// How long a datagram may wait for its place in the manager's queue.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Manager {
    socket: UnixDatagram,
    stored_max: usize,
    /// How many descriptors are stored under each name.
    stored: BTreeMap<String, usize>,
}

/// Whether a service manager stores descriptors for this process, as the environment says.
#[must_use]
pub fn stores_descriptors() -> bool {
    std::env::var_os(SOCKET).is_some() && stored_max() > 0
}

fn stored_max() -> usize {
    std::env::var(STORED_MAX).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Manager {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Option<Self> {
        let path = std::env::var_os(SOCKET)?;
        let path = path.to_str()?;
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(path),
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect_addr(&address.ok()?).ok()?;
        socket.set_write_timeout(Some(SEND_LIMIT)).ok()?;
        Some(Self { socket, stored_max: stored_max(), stored: BTreeMap::new() })
    }

    /// Tells how the service is.
    pub(super) fn tell(&self, text: &str) {
        let _ = self.socket.send(text.as_bytes());
    }

    /// Tells that everything is being handed over; `READY=1` says when that is done.
    pub(super) fn tell_reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// What a holder before this one has had stored, by name. Called once, before anything is opened.
    pub(super) fn take_stored(&mut self) -> BTreeMap<String, Vec<OwnedFd>> {
        let passed = sd_listen_fds::get().unwrap_or_default();
        let mut named: BTreeMap<(String, usize), OwnedFd> = BTreeMap::new();
        for (name, descriptor) in passed {
            let descriptor = descriptor.into_std();
            // Otherwise every server would have it twice, and what is unmounted would not go away.
            let is_ours_alone = rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC).is_ok();
            if let Some(name) = name.as_deref().and_then(split_name).filter(|_| is_ours_alone) {
                named.insert(name, descriptor);
            }
        }
        let mut kept: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for ((name, place), descriptor) in named {
            self.stored.insert(name.clone(), place + 1);
            kept.entry(name).or_default().push(descriptor);
        }
        kept
    }

    /// Has `descriptors` stored under `name`, in the place of what was.
    pub(super) fn store(&mut self, name: &str, descriptors: &[OwnedFd]) {
        self.remove(name);
        let stored: usize = self.stored.values().sum();
        if stored + descriptors.len() > self.stored_max {
            if self.stored_max > 0 {
                eprintln!(
                    "refmount: the service manager stores {} descriptors and no more (FileDescriptorStoreMax=); \
                     {name} will not outlive this process",
                    self.stored_max
                );
            }
            return;
        }
        for (place, descriptor) in descriptors.iter().enumerate() {
            // Not looked at: a device of a mount that is gone is let go of by name, like all others.
            let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={}", joined_name(name, place));
            if let Err(error) = self.send(&text, descriptor) {
                eprintln!("refmount: the service manager does not store {name}: {error}");
            }
        }
        self.stored.insert(name.to_owned(), descriptors.len());
    }

    /// Has nothing stored under `name` any more.
    pub(super) fn remove(&mut self, name: &str) {
        for place in 0..self.stored.remove(name).unwrap_or(0) {
            self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={}", joined_name(name, place)));
        }
    }

    /// Whether descriptors are stored at all.
    pub(super) fn stores(&self) -> bool {
        self.stored_max > 0
    }

    /// Whether what is kept under `name` is stored.
    pub(super) fn has_stored(&self, name: &str) -> bool {
        self.stored.contains_key(name)
    }

    /// Has nothing stored any more.
    pub(super) fn remove_all(&mut self) {
        for name in self.stored.keys().cloned().collect::<Vec<_>>() {
            self.remove(&name);
        }
    }

    fn send(&self, text: &str, descriptor: &OwnedFd) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor.as_fd()];
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.socket, &[IoSlice::new(text.as_bytes())], &mut beside, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// The name of one of several descriptors. Names are short: those of all of them have to fit into one variable.
fn joined_name(name: &str, place: usize) -> String {
    format!("{name}.{place}")
}

fn split_name(joined: &str) -> Option<(String, usize)> {
    let (name, place) = joined.rsplit_once('.')?;
    Some((name.to_owned(), place.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_place_in_them() {
        assert_eq!(split_name(&joined_name("mount-7", 12)), Some(("mount-7".to_owned(), 12)));
        for foreign in ["stored", "unknown.socket", ""] {
            assert_eq!(split_name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn more_descriptors_than_the_manager_takes_are_not_stored_in_part() {
        let (socket, manager) = UnixDatagram::pair().unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut told = Manager { socket, stored_max: 3, stored: BTreeMap::new() };
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        let received = || {
            let mut buffer = [0; 256];
            let bytes = manager.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..bytes].to_vec()).unwrap())
        };
        told.store("a", &[file(), file()]);
        assert!(received().unwrap().ends_with("FDNAME=a.0") && received().unwrap().ends_with("FDNAME=a.1"));
        told.store("b", &[file(), file()]);
        assert_eq!(received(), None);
        told.store("a", &[file()]);
        for expected in ["FDSTOREREMOVE=1\nFDNAME=a.0", "FDSTOREREMOVE=1\nFDNAME=a.1"] {
            assert_eq!(received().as_deref(), Some(expected));
        }
        assert!(received().unwrap().ends_with("FDNAME=a.0"));
        told.remove("a");
        assert_eq!(received().as_deref(), Some("FDSTOREREMOVE=1\nFDNAME=a.0"));
    }
}
