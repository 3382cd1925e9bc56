//! Dropping the kernel's copy of bytes that turned out to be wrong after they were served.
//!
//! On a thread of its own: the kernel waits for reads of the same pages that are under way, and those may
//! wait for any thread that serves requests.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::base::Result;
use crate::fs::Filesystem;

use super::threads;

/// The way to the kernel while the mount is served. It is taken away at the end of the session: a notifier
/// keeps the device open, and an open device keeps readers of a dead mount waiting.
#[derive(Clone, Debug)]
pub(super) struct NotifierSlot(Arc<Mutex<Option<Notifier>>>);

impl NotifierSlot {
    pub(super) fn new(notifier: Notifier) -> Self {
        Self(Arc::new(Mutex::new(Some(notifier))))
    }

    /// Ends it; whoever still invalidates finds nothing to do.
    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn get(&self) -> Option<Notifier> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// From now on drops the pages of a layer's files whenever `filesystem`'s content rejects it.
pub(super) fn watch(filesystem: &Arc<Filesystem>, slot: NotifierSlot, patience: Duration) -> Result<()> {
    let (sender, receiver): (Sender<usize>, Receiver<usize>) = channel();
    // Weak, as the content keeps the sender and the filesystem the content.
    let weak = Arc::downgrade(filesystem);
    threads::spawn("fuse-invalidate", patience, move || {
        for layer in receiver {
            invalidate(&weak, &slot, layer);
        }
    })?;
    filesystem.content().on_rejected(Box::new(move |layer| {
        // The thread only ends with its sender.
        let _ = sender.send(layer);
    }));
    Ok(())
}

fn invalidate(filesystem: &Weak<Filesystem>, slot: &NotifierSlot, layer: usize) {
    let (Some(filesystem), Some(notifier)) = (filesystem.upgrade(), slot.get()) else { return };
    for ino in filesystem.inodes_of(layer) {
        // From the start to the end of the file, whatever its size.
        if let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0) {
            tracing::warn!(layer, %ino, "the kernel may keep rejected bytes: {error}");
        }
    }
}
