//! What outlives the process that serves: descriptors, kept by a process that does nothing else.
//!
//! The *holder* starts the *server* and keeps what that gives it under a name: the devices of mounts, the lock of the
//! cache directory, the socket, files without names that say what is mounted. When the server dies, or is replaced by a
//! newer one, the holder starts the next and hands everything over. The holder understands nothing of what it keeps,
//! and has neither threads nor an async runtime; nothing that comes from outside reaches it.
//!
//! They speak over a pair of sockets that keeps messages apart (`SOCK_SEQPACKET`), which is the server's standard input:
//! one message as JSON, with the descriptors beside it. A message that the server has sent is taken even if the
//! server dies right after. See docs/decisions/0009.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::base::{Error, ErrorKind, Result, ResultExt as _, process};

mod deaths;
mod devices;
mod holder;
mod manager;
pub mod note;
mod programs;
mod server;
mod signals;

pub use devices::resend;
pub use holder::{END_LIMIT, Servers, Surroundings, hold};
pub use manager::stores_descriptors;

/// Descriptors in one message; the kernel takes up to 253.
const DESCRIPTORS_MAX: usize = 64;

/// Bytes of a message; the longest has a path in it.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// The exit status of a server that leaves its mounts to the next one.
pub const HANDED_OVER: u8 = 75;

/// The first argument of a process that is started by a holder.
pub const SERVER: &str = "server";

/// What is kept, by name.
pub type Kept = BTreeMap<String, Vec<OwnedFd>>;

/// What the two say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// From either: what is kept under a name. It replaces what was.
    Keep { name: String },
    /// From the holder: that was everything.
    All {
        /// Why the last server ended, if there was one that did not mean to.
        died: Option<String>,
        /// How often that has happened.
        deaths: u64,
        /// Whether another program serves on if this one does not come to it.
        #[serde(default)]
        is_on_trial: bool,
        /// Why it is not the program that was to follow, if it is not.
        #[serde(default)]
        went_back: Option<String>,
    },
    /// From the server: nothing is to be kept under this name any more.
    Forget { name: String },
    /// From the server: it serves.
    Ready,
    /// From the server: the next one is this program.
    Next { program: PathBuf },
    /// From the server: it was told to end and goes on, for the mounts that there still are.
    Stays,
    /// From the server: whether SIGTERM is to leave the mounts as they are.
    KeepsMounts { keeps: bool },
    /// From the server: what the service manager is to be told, in its own words (sd_notify(3)).
    Tell { text: String },
    /// From the holder: leave everything to the next one and end. From the server: it wants to be told so.
    HandOver,
}

/// What a holder has kept for this server.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The holder's process.
    pub holder: u32,
    /// By name.
    pub kept: Kept,
    /// Why the server before this one ended, if it did not mean to.
    pub died: Option<String>,
    /// How often that has happened to this holder.
    pub deaths: u64,
    /// Whether another program serves on if this one does not come to it.
    pub is_on_trial: bool,
    /// Why this is not the program that was to follow the last one, if it is not.
    pub went_back: Option<String>,
}

impl Inherited {
    /// The numbers in the names that are `prefix` and a number.
    pub fn numbers(&self, prefix: &str) -> impl Iterator<Item = u64> {
        self.kept.keys().filter_map(move |name| name.strip_prefix(prefix)?.parse().ok())
    }

    /// Takes the notes that are kept under such a name, each with its number; none for one that is not there.
    #[must_use]
    pub fn take_notes(&mut self, prefix: &str) -> Vec<(u64, Option<OwnedFd>)> {
        let numbers: Vec<u64> = self.numbers(prefix).collect();
        let mut take = |number| self.kept.remove(&format!("{prefix}{number}"))?.pop();
        numbers.into_iter().map(|number| (number, take(number))).collect()
    }
}

/// The server's end.
#[derive(Debug)]
pub struct Keeper {
    socket: Mutex<OwnedFd>,
    /// While this program is on trial: what it would have let go of. Another one may know what to do with that.
    not_forgotten: Mutex<Option<Vec<String>>>,
    /// How many descriptors are kept under each name.
    kept: Mutex<BTreeMap<String, usize>>,
}

impl Keeper {
    /// Takes over what the holder that has started this process keeps; none where standard input is no holder.
    ///
    /// # Errors
    /// What the holder's socket says.
    pub fn inherit() -> Result<Option<(Self, Inherited)>> {
        let cannot = || "cannot take over from the process before this one";
        let stdin = rustix::stdio::stdin();
        if rustix::net::sockopt::socket_type(stdin).ok() != Some(rustix::net::SocketType::SEQPACKET) {
            return Ok(None);
        }
        let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(io::Error::from).context(cannot)?;
        let null = std::fs::File::open("/dev/null").context(cannot)?;
        rustix::stdio::dup2_stdin(&null).map_err(io::Error::from).context(cannot)?;
        let mut inherited = Inherited::default();
        loop {
            match receive(socket.as_fd()).context(cannot)? {
                Some((Message::Keep { name }, descriptors)) => {
                    inherited.kept.insert(name, descriptors);
                }
                Some((Message::All { died, deaths, is_on_trial, went_back }, _)) => {
                    let kept = inherited.kept;
                    let holder = std::os::unix::process::parent_id();
                    let counts = kept.iter().map(|(name, kept)| (name.clone(), kept.len())).collect();
                    inherited = Inherited { holder, kept, died, deaths, is_on_trial, went_back };
                    let not_forgotten = Mutex::new(is_on_trial.then(Vec::new));
                    let keeper = Self { socket: Mutex::new(socket), not_forgotten, kept: Mutex::new(counts) };
                    return Ok(Some((keeper, inherited)));
                }
                _ => return Err(Error::new(ErrorKind::Io, "the holder went away")),
            }
        }
    }

    /// Has `descriptors` kept under `name`, in the place of what was.
    ///
    /// # Errors
    /// `Io` when the holder is gone, or for more descriptors than the next process could go on with.
    pub fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let cannot = || format!("cannot have {name} kept for the next process");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let others: usize = kept.iter().filter(|(other, _)| *other != name).map(|(_, count)| count).sum();
        require_room(others + descriptors.len(), process::descriptor_limit()).context(cannot)?;
        self.say(&Message::Keep { name: name.to_owned() }, descriptors).context(cannot)?;
        kept.insert(name.to_owned(), descriptors.len());
        Ok(())
    }

    /// Lets go of what is kept under `name`, which this process cannot go on with; or not, where another program may.
    ///
    /// # Errors
    /// `Io` when the holder is gone.
    pub fn forget(&self, name: &str) -> Result<()> {
        if let Some(not_forgotten) = &mut *self.not_forgotten() {
            not_forgotten.push(name.to_owned());
            return Ok(());
        }
        self.forget_done(name)
    }

    /// Lets go of what is kept under `name`, which would be over for any program.
    ///
    /// # Errors
    /// `Io` when the holder is gone.
    pub fn forget_done(&self, name: &str) -> Result<()> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.say(&Message::Forget { name: name.to_owned() }, &[])
            .context(|| format!("cannot let go of {name}"))
    }

    /// Says that this process serves. A program on trial that had to let go of something does not: it is to end, and to
    /// leave that to the one before it.
    ///
    /// # Errors
    /// `Io` when the holder is gone; `Unsupported` on such a trial.
    pub fn ready(&self) -> Result<()> {
        let mut not_forgotten = self.not_forgotten();
        if let Some(name) = not_forgotten.as_ref().and_then(|names| names.first()) {
            return Err(Error::new(ErrorKind::Unsupported, format!("{name} cannot be served on")));
        }
        *not_forgotten = None;
        self.say(&Message::Ready, &[]).context(|| "cannot speak with the holder")
    }

    /// Whether another program serves on with what this one cannot go on with.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.not_forgotten().is_some()
    }

    fn not_forgotten(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.not_forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the program that the next server is to be.
    ///
    /// # Errors
    /// `Io` when the holder is gone.
    pub fn next(&self, program: PathBuf) -> Result<()> {
        self.say(&Message::Next { program }, &[]).context(|| "cannot speak with the holder")
    }

    /// Says that this process was told to end and goes on; the next one is to be started then, should it die.
    ///
    /// # Errors
    /// `Io` when the holder is gone.
    pub fn stays(&self) -> Result<()> {
        self.say(&Message::Stays, &[]).context(|| "cannot speak with the holder")
    }

    /// Says whether SIGTERM is to leave the mounts as they are, for an end that this process does not come to.
    ///
    /// # Errors
    /// `Io` when the holder is gone.
    pub fn keeps_mounts(&self, keeps: bool) -> Result<()> {
        self.say(&Message::KeepsMounts { keeps }, &[]).context(|| "cannot speak with the holder")
    }

    /// Has the service manager told `text`, in the words of sd_notify(3). Without one, nothing happens.
    ///
    /// # Errors
    /// `Io` when the holder is gone.
    pub fn tell(&self, text: &str) -> Result<()> {
        self.say(&Message::Tell { text: text.to_owned() }, &[]).context(|| "cannot speak with the holder")
    }

    /// Asks to be told to leave everything to the next server.
    ///
    /// # Errors
    /// `Io` when the holder is gone.
    pub fn ask_for_hand_over(&self) -> Result<()> {
        self.say(&Message::HandOver, &[]).context(|| "cannot speak with the holder")
    }

    /// Waits until the holder wants this process to leave everything to the next one; `false`: the holder is gone.
    /// Blocks its thread.
    #[must_use]
    pub fn wait_for_hand_over(&self) -> bool {
        // A second descriptor, so that the others are not kept from speaking.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let Ok(socket) = socket else { return false };
        loop {
            match receive(socket.as_fd()) {
                Ok(Some((Message::HandOver, _))) => return true,
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// The end of one whose holder is at the other side of `socket`, and keeps nothing yet.
    #[cfg(test)]
    pub(crate) fn of(socket: OwnedFd) -> Self {
        Self { socket: Mutex::new(socket), not_forgotten: Mutex::default(), kept: Mutex::default() }
    }

    fn say(&self, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        send(socket.as_fd(), message, descriptors)
    }
}

/// Checks that a process which may have `limit` descriptors can take over `count`. It needs as many again, beside its own:
/// each queue is served under another number, while those of other mounts wait.
fn require_room(count: usize, limit: Option<u64>) -> io::Result<()> {
    match limit.map(|limit| limit / 2) {
        Some(kept_max) if count as u64 > kept_max => Err(io::Error::other(format!(
            "mounts may have {kept_max} file descriptors, half of those that this process may; a higher limit \
             (LimitNOFILE=, ulimit -Hn) makes room for more mounts"
        ))),
        _ => Ok(()),
    }
}

/// Waits until there is room for it.
fn send(socket: BorrowedFd<'_>, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_by(socket, message, descriptors, SendFlags::empty())
}

/// Fails with `WouldBlock` where there is no room for it now.
fn send_now(socket: BorrowedFd<'_>, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_by(socket, message, descriptors, SendFlags::DONTWAIT)
}

fn send_by(
    socket: BorrowedFd<'_>,
    message: &Message,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut beside, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message; none when the other side has ended.
///
/// # Errors
/// `InvalidData` for one that is not understood, after which others may come; what the kernel says.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut text = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message came cut short"));
    }
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    Ok(Some((serde_json::from_slice(&text[..received.bytes]).map_err(invalid)?, descriptors)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn descriptors_come_with_their_message_and_in_its_order() {
        let (ours, theirs) = pair();
        let files: Vec<std::fs::File> = (0..DESCRIPTORS_MAX)
            .map(|number| {
                let mut file = tempfile::tempfile().unwrap();
                write!(file, "{number}").unwrap();
                file
            })
            .collect();
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let message = Message::Keep { name: "mount-1".into() };
        send(ours.as_fd(), &message, &descriptors).unwrap();
        send(ours.as_fd(), &Message::Ready, &[]).unwrap();
        drop(ours);
        let (received, descriptors) = receive(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(received, message);
        for (number, descriptor) in descriptors.into_iter().enumerate() {
            let mut text = String::new();
            let mut file = std::fs::File::from(descriptor);
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, number.to_string());
        }
        assert_eq!(receive(theirs.as_fd()).unwrap().unwrap().0, Message::Ready);
        assert!(receive(theirs.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_program_on_trial_lets_go_of_nothing_and_does_not_serve_without_it() {
        let (ours, theirs) = pair();
        let keeper = |names| Keeper {
            socket: Mutex::new(ours.try_clone().unwrap()),
            not_forgotten: Mutex::new(names),
            kept: Mutex::default(),
        };
        let on_trial = keeper(Some(Vec::new()));
        on_trial.forget("mount-1").unwrap();
        assert_eq!(on_trial.ready().unwrap_err().kind(), ErrorKind::Unsupported);
        let able = keeper(Some(Vec::new()));
        able.forget_done("warm-1").unwrap();
        able.ready().unwrap();
        able.forget("mount-2").unwrap();
        let forgotten = |name: &str| Message::Forget { name: name.into() };
        for expected in [forgotten("warm-1"), Message::Ready, forgotten("mount-2")] {
            assert_eq!(receive(theirs.as_fd()).unwrap().unwrap().0, expected);
        }
    }

    #[test]
    fn what_is_too_much_for_a_message_is_refused() {
        let (ours, _theirs) = pair();
        let file = tempfile::tempfile().unwrap();
        let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(ours.as_fd(), &Message::Ready, &many).is_err());
        let name = "x".repeat(MESSAGE_BYTES_MAX);
        assert!(send(ours.as_fd(), &Message::Keep { name }, &[]).is_err());
    }

    #[test]
    fn what_the_next_process_has_no_room_for_is_refused() {
        require_room(512, Some(1024)).unwrap();
        require_room(usize::MAX, None).unwrap();
        let error = require_room(513, Some(1024)).unwrap_err();
        assert!(error.to_string().contains("may have 512 file descriptors"), "{error}");
    }

    #[test]
    fn what_is_not_understood_is_followed_by_what_is() {
        let (ours, theirs) = pair();
        rustix::io::write(&ours, br#"{"later_than_this":{}}"#).unwrap();
        send(ours.as_fd(), &Message::Ready, &[]).unwrap();
        assert_eq!(receive(theirs.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive(theirs.as_fd()).unwrap().unwrap().0, Message::Ready);
    }
}
