//! Read-ahead: which chunks to fetch before anybody asks, learned from those that were asked for.
//!
//! Pure bookkeeping: accesses in, ranges out. One [`ReadAhead`] for each blob follows several sequential
//! readers at once, because eight processes that map a shard, or eight threads that `pread` it at
//! interleaved offsets, are eight streams of accesses to the same file.

use std::ops::Range;

/// Chunks ahead of a stream that has just shown itself to be one. Two scattered reads that happen to be neighbours
/// look the same, and should not cost more than a chunk that nobody wants.
const WINDOW_MIN: u64 = 1;

/// The same for a stream from the start of the blob, which is no coincidence.
const WINDOW_FROM_START: u64 = 4;

/// Chunks ahead of a stream from which on a request is open-ended. Each request costs a link with delay a round trip, in
/// which such a stream has used up what is ahead of it; and one that turns out to be too long costs no more than what
/// the sockets hold.
const WINDOW_OPEN_ENDED: u64 = 8;

/// Chunks ahead of a stream at most. 64 MiB cover a link of 1 Gbit/s with half a second of delay, and are
/// little enough to waste when the reader stops.
pub(super) const WINDOW_MAX: u64 = 64;

/// Streams that are told apart. More readers than that share the oldest one's place; what they lose is
/// read-ahead, not bytes.
const STREAMS_MAX: usize = 32;

/// How far before its expected place an access still belongs to a stream: the kernel sends the requests of one
/// read-ahead window in parallel, so they arrive a little out of order.
const SLACK: u64 = 2;

/// A reader that has come this far in one go is reading the file through: 128 MiB, or an eighth of a
/// smaller file but never less than 16 MiB.
const THROUGH_MAX: u64 = 128;
const THROUGH_MIN: u64 = 16;

/// What to fetch ahead after an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The chunks, in addition to what earlier plans of this stream named.
    pub(super) ahead: Range<u64>,
    /// Whether more will plausibly be wanted right after them, so that one request may ask for the rest of
    /// the blob and be stopped when the reader stops.
    pub(super) open_ended: bool,
}

/// The streams of accesses to one blob.
#[derive(Debug)]
pub(super) struct ReadAhead {
    streams: Vec<Stream>,
    chunks: u64,
    whole_files: bool,
    window_max: u64,
    accesses: u64,
}

#[derive(Debug)]
struct Stream {
    first: u64,
    next: u64,
    ahead: u64,
    window: u64,
    used: u64,
}

impl ReadAhead {
    /// For a blob of `chunks` chunks. `whole_files`: once a reader is plainly reading through, everything that
    /// follows is planned. At most `window_max` chunks are planned ahead otherwise.
    pub(super) fn new(chunks: u64, whole_files: bool, window_max: u64) -> Self {
        Self { streams: Vec::new(), chunks, whole_files, window_max, accesses: 0 }
    }

    /// Notes an access to `accessed` and says what to fetch ahead, if anything.
    pub(super) fn access(&mut self, accessed: &Range<u64>) -> Option<Plan> {
        self.accesses += 1;
        let used = self.accesses;
        let position = self.streams.iter().position(|stream| stream.takes(accessed.start));
        let Some(position) = position else {
            self.admit(Stream {
                first: accessed.start,
                next: accessed.end,
                ahead: accessed.end,
                window: 0,
                used,
            });
            return None;
        };
        let (chunks, whole_files, window_max) = (self.chunks, self.whole_files, self.window_max);
        let stream = &mut self.streams[position];
        stream.used = used;
        if accessed.end <= stream.next {
            return None;
        }
        stream.next = accessed.end;
        stream.plan(chunks, whole_files, window_max)
    }

    fn admit(&mut self, stream: Stream) {
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
    }
}

impl Stream {
    fn takes(&self, chunk: u64) -> bool {
        // What may be a coincidence has to follow exactly.
        let beyond = if self.window == 0 { 0 } else { SLACK };
        chunk + SLACK >= self.next && chunk <= self.next.max(self.ahead) + beyond && chunk >= self.first
    }

    fn plan(&mut self, chunks: u64, whole_files: bool, window_max: u64) -> Option<Plan> {
        let through = (chunks / 8).clamp(THROUGH_MIN, THROUGH_MAX);
        let to_the_end = whole_files && self.next - self.first >= through;
        if !to_the_end && self.next + self.window / 2 < self.ahead {
            return None;
        }
        let window_min = if self.first == 0 { WINDOW_FROM_START } else { WINDOW_MIN };
        self.window = (self.window * 2).clamp(window_min.min(window_max), window_max);
        let start = self.ahead.max(self.next);
        let end = if to_the_end { chunks } else { (self.next + self.window).min(chunks) };
        if start >= end {
            return None;
        }
        self.ahead = end;
        Some(Plan { ahead: start..end, open_ended: to_the_end || self.window >= WINDOW_OPEN_ENDED })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `chunks` one by one and returns all that was planned.
    fn planned(readahead: &mut ReadAhead, chunks: impl IntoIterator<Item = u64>) -> Vec<Plan> {
        chunks.into_iter().filter_map(|chunk| readahead.access(&(chunk..chunk + 1))).collect()
    }

    #[test]
    fn scattered_reads_plan_nothing() {
        let mut readahead = ReadAhead::new(1000, true, WINDOW_MAX);
        assert_eq!(planned(&mut readahead, [500, 10, 900, 300, 100, 700]), []);
        assert_eq!(planned(&mut readahead, [500, 500, 500]), [], "the same chunk again is no stream");
    }

    #[test]
    fn two_scattered_reads_that_are_neighbours_cost_one_chunk_too_many() {
        let mut readahead = ReadAhead::new(1000, true, WINDOW_MAX);
        assert_eq!(readahead.access(&(249..250)), None);
        let plan = readahead.access(&(250..252)).unwrap();
        assert_eq!(plan.ahead, 252..253);
        let mut readahead = ReadAhead::new(1000, true, WINDOW_MAX);
        assert_eq!(planned(&mut readahead, [249, 251]), [], "near is not next");
    }

    #[test]
    fn a_stream_doubles_its_window_and_never_plans_a_chunk_twice() {
        let mut readahead = ReadAhead::new(1000, false, WINDOW_MAX);
        let plans = planned(&mut readahead, 100..400);
        let mut expected = 102;
        for plan in &plans {
            assert_eq!(plan.ahead.start, expected, "{plans:?}");
            expected = plan.ahead.end;
        }
        assert_eq!(plans[0].ahead, 102..103);
        assert!(!plans[0].open_ended && plans.last().unwrap().open_ended);
        assert!(expected <= 400 + WINDOW_MAX);
    }

    #[test]
    fn a_reader_from_the_start_soon_has_one_request_for_all_that_follows() {
        let mut readahead = ReadAhead::new(1000, true, WINDOW_MAX);
        assert_eq!(readahead.access(&(0..1)), None, "it may be after a header");
        let plans = planned(&mut readahead, 1..10);
        assert_eq!(plans[0], Plan { ahead: 2..6, open_ended: false });
        assert!(plans[1..].iter().all(|plan| plan.open_ended), "{plans:?}");
    }

    #[test]
    fn interleaved_readers_are_streams_of_their_own() {
        let mut readahead = ReadAhead::new(8000, false, WINDOW_MAX);
        let mut planned = 0;
        for step in 0..40 {
            for reader in 0..8 {
                let chunk = reader * 1000 + step;
                planned +=
                    readahead.access(&(chunk..chunk + 1)).map_or(0, |plan| plan.ahead.end - plan.ahead.start);
            }
        }
        assert!(planned >= 8 * 39, "{planned}");
    }

    #[test]
    fn reading_through_plans_the_rest_once() {
        let mut readahead = ReadAhead::new(400, true, WINDOW_MAX);
        let plans = planned(&mut readahead, 0..400);
        let last = plans.last().unwrap();
        assert_eq!(last.ahead.end, 400);
        assert!(last.ahead.start < 130, "{last:?}");
    }

    #[test]
    fn many_readers_cost_bounded_memory() {
        let mut readahead = ReadAhead::new(u64::MAX, false, WINDOW_MAX);
        for reader in 0..10_000 {
            readahead.access(&(reader * 1000..reader * 1000 + 1));
        }
        assert_eq!(readahead.streams.len(), STREAMS_MAX);
    }
}
