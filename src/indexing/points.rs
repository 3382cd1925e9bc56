//! The restart points of a compressed layer, as far as they are known: all of them, or those that the first reading
//! has passed so far.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use crate::base::Result;
use crate::layer::encoding::Codec;
use crate::layer::restart::{RestartPoint, RestartTable, RestartTableBuilder};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Points {
    codec: Codec,
    state: RwLock<State>,
}

#[derive(Debug)]
enum State {
    Growing(RestartTableBuilder),
    Complete(RestartTable),
}

impl Points {
    /// None yet.
    pub(super) fn growing(codec: Codec) -> Self {
        Self { codec, state: RwLock::new(State::Growing(RestartTableBuilder::new(codec))) }
    }

    /// All of them.
    pub(super) fn complete(table: RestartTable) -> Self {
        Self { codec: table.codec(), state: RwLock::new(State::Complete(table)) }
    }

    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    /// Adds points, in their order. Those that come when all are known are known already.
    pub(super) fn add(&self, points: &[RestartPoint]) {
        if points.is_empty() {
            return;
        }
        if let State::Growing(builder) = &mut *self.state.write().unwrap_or_else(PoisonError::into_inner) {
            points.iter().for_each(|point| builder.push(point));
        }
    }

    /// There are no further ones: the layer has `blob_bytes` and its stream `stream_bytes`.
    ///
    /// # Errors
    /// As [`RestartTableBuilder::finish`].
    pub(super) fn finish(&self, blob_bytes: u64, stream_bytes: u64) -> Result<RestartTable> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let table = match &mut *state {
            State::Complete(table) => return Ok(table.clone()),
            State::Growing(builder) => std::mem::replace(builder, RestartTableBuilder::new(self.codec))
                .finish(blob_bytes, stream_bytes)?,
        };
        *state = State::Complete(table.clone());
        Ok(table)
    }

    /// Forgets all, for another reading from the start.
    pub(super) fn restart(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) =
            State::Growing(RestartTableBuilder::new(self.codec));
    }

    /// Bytes of the stream, once all is known.
    pub(super) fn stream_bytes(&self) -> Option<u64> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Complete(table) => Some(table.stream_bytes()),
            State::Growing(_) => None,
        }
    }

    /// The point from which `stream` can be decoded, and where in the blob what it takes ends, if that is known.
    pub(super) fn way_to(&self, stream: &Range<u64>) -> (RestartPoint, Option<u64>) {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Complete(table) => (table.nearest(stream.start), Some(table.compressed_range(stream).end)),
            State::Growing(builder) => (builder.nearest(stream.start).unwrap_or(RestartPoint::START), None),
        }
    }
}
