//! The restart points of a compressed layer, as far as they are known: all of them, or those that the first reading
//! has passed so far.

use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::base::Result;
use crate::layer::encoding::Codec;
use crate::layer::restart::{RestartPoint, RestartTable, RestartTableBuilder};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Points(RwLock<State>);

#[derive(Debug)]
enum State {
    Growing(Codec, RestartTableBuilder),
    Complete(RestartTable),
}

/// How a range of the stream is come by.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) codec: Codec,
    /// Where decoding begins.
    pub(super) point: RestartPoint,
    /// Where in the blob what it takes ends, if that is known.
    pub(super) compressed_end: Option<u64>,
}

impl Points {
    /// None yet.
    pub(super) fn growing(codec: Codec) -> Self {
        Self(RwLock::new(State::Growing(codec, RestartTableBuilder::new(codec))))
    }

    /// All of them.
    pub(super) fn complete(table: RestartTable) -> Self {
        Self(RwLock::new(State::Complete(table)))
    }

    pub(super) fn codec(&self) -> Codec {
        self.read().codec()
    }

    /// Adds points, in their order. Those that come when all are known are known already.
    pub(super) fn add(&self, points: &[RestartPoint]) {
        if points.is_empty() {
            return;
        }
        if let State::Growing(_, builder) = &mut *self.write() {
            points.iter().for_each(|point| builder.push(point));
        }
    }

    /// There are no further ones: the layer has `blob_bytes` and its stream `stream_bytes`.
    ///
    /// # Errors
    /// As [`RestartTableBuilder::finish`].
    pub(super) fn finish(&self, blob_bytes: u64, stream_bytes: u64) -> Result<RestartTable> {
        let mut state = self.write();
        let table = match &mut *state {
            State::Complete(table) => return Ok(table.clone()),
            State::Growing(codec, builder) => std::mem::replace(builder, RestartTableBuilder::new(*codec))
                .finish(blob_bytes, stream_bytes)?,
        };
        *state = State::Complete(table.clone());
        Ok(table)
    }

    /// Forgets all, for another reading from the start. What the layer is compressed with may be something else then: who
    /// brought the bytes that told it may have brought wrong ones.
    pub(super) fn restart(&self, codec: Codec) {
        *self.write() = State::Growing(codec, RestartTableBuilder::new(codec));
    }

    /// Forgets all in favour of `table`.
    pub(super) fn replace(&self, table: RestartTable) {
        *self.write() = State::Complete(table);
    }

    /// Bytes of the stream, once all is known.
    pub(super) fn stream_bytes(&self) -> Option<u64> {
        match &*self.read() {
            State::Complete(table) => Some(table.stream_bytes()),
            State::Growing(..) => None,
        }
    }

    /// The way to `stream`.
    pub(super) fn way_to(&self, stream: &Range<u64>) -> Way {
        let state = self.read();
        let (point, compressed_end) = match &*state {
            State::Complete(table) => (table.nearest(stream.start), Some(table.compressed_range(stream).end)),
            State::Growing(_, builder) => {
                (builder.nearest(stream.start).unwrap_or(RestartPoint::START), None)
            }
        };
        Way { codec: state.codec(), point, compressed_end }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn codec(&self) -> Codec {
        match self {
            Self::Growing(codec, _) => *codec,
            Self::Complete(table) => table.codec(),
        }
    }
}
