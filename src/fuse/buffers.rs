//! The memory that replies are put together in, kept from one to the next.
//!
//! Every mount has several threads, and a node dozens of mounts. So a thread keeps only what a small reply takes, and the
//! large ones share what few threads need at the same moment.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// Up to which length a reply is put into the thread's own buffer.
const SMALL_BYTES_MAX: usize = 128 << 10;

/// Large buffers that are kept.
const KEPT_MAX: usize = 8;

thread_local! {
    static SMALL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The last one used comes first: most of it is still in the processor's caches.
static LARGE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Lends a buffer for a reply of up to `bytes` to `answer`, which must not ask for another one. What is in it is of no
/// meaning.
pub(super) fn with_buffer<T>(bytes: usize, answer: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    if bytes <= SMALL_BYTES_MAX {
        return SMALL.with_borrow_mut(answer);
    }
    let kept = || LARGE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = kept().pop().unwrap_or_default();
    let answered = answer(&mut buffer);
    let mut kept = kept();
    if kept.len() < KEPT_MAX {
        kept.push(buffer);
    }
    answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_kept_but_not_as_many_as_there_once_were() {
        fn nested(depth: usize) {
            if depth > 0 {
                with_buffer(SMALL_BYTES_MAX + 1, |buffer| {
                    buffer.resize(SMALL_BYTES_MAX + 1, 0);
                    nested(depth - 1);
                });
            }
        }
        nested(2 * KEPT_MAX);
        assert!(LARGE.lock().unwrap().len() <= KEPT_MAX);
        with_buffer(SMALL_BYTES_MAX + 1, |buffer| assert!(buffer.capacity() > SMALL_BYTES_MAX));
    }
}
