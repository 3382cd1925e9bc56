//! The way into a layer's stream as a section of its index: a number for its kind, and the bytes of that kind.

use bytes::Bytes;

use super::LayerStream;
use crate::layer::restart::RestartTable;
use crate::layer::spans::SpanTable;

const PLAIN: u32 = 0;
const RESTART: u32 = 1;
const SPANS: u32 = 2;

impl LayerStream {
    /// The number that stands for its kind.
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::Plain => PLAIN,
            Self::Restart(_) => RESTART,
            Self::Spans(_) => SPANS,
        }
    }

    /// What [`Self::decode`] reads.
    pub(super) fn encoding(&self) -> &[u8] {
        match self {
            Self::Plain => &[],
            Self::Restart(table) => table.bytes(),
            Self::Spans(table) => table.bytes(),
        }
    }

    /// Opens the section of a layer with `blob_bytes` and `stream_bytes`; or says what is wrong with it.
    pub(super) fn decode(
        number: u32,
        bytes: Bytes,
        blob_bytes: u64,
        stream_bytes: u64,
    ) -> Result<Self, String> {
        let (stream, own) = match number {
            PLAIN if !bytes.is_empty() => return Err("bytes where a plain stream has none".to_owned()),
            PLAIN => (Self::Plain, (stream_bytes, stream_bytes)),
            RESTART => {
                let table = RestartTable::decode(bytes).map_err(|error| error.to_string())?;
                let own = (table.compressed_bytes(), table.stream_bytes());
                (Self::Restart(table), own)
            }
            SPANS => {
                let table = SpanTable::decode(bytes).map_err(|error| error.to_string())?;
                let own = (table.blob_bytes(), table.stream_bytes());
                (Self::Spans(table), own)
            }
            _ => return Err(format!("an unknown kind of stream, {number}")),
        };
        if own != (blob_bytes, stream_bytes) {
            return Err(format!(
                "a way from {} to {} bytes for a blob of {blob_bytes} and a stream of {stream_bytes}",
                own.0, own.1
            ));
        }
        Ok(stream)
    }
}
