//! How fast a body has to come: not at all for long is too slow for everybody, a trickle only for a host with others
//! behind it.

use std::time::Duration;

/// Bytes a second that a host must bring which is not the last one to ask. Slower than any line that models are
/// brought over: a gigabyte would take it most of a day.
const RATE_MIN: u64 = 16 << 10;

/// Pieces in which a trickle comes at least. Fewer may be those of a process that was stopped itself for a while.
const PIECES_MIN: u32 = 4;

/// What one body is measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long nothing may come.
    inactivity_timeout: Duration,
    is_last: bool,
    /// Since what was counted was enough; only the time in which somebody waited.
    waited: Duration,
    pieces: u32,
    bytes: u64,
}

/// A body that comes too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trickle {
    pub(super) bytes: u64,
    pub(super) waited: Duration,
}

impl Pace {
    /// That of a host's bodies; `is_last`: there is nobody else to ask.
    pub(super) fn new(inactivity_timeout: Duration, is_last: bool) -> Self {
        Self { inactivity_timeout, is_last, waited: Duration::ZERO, pieces: 0, bytes: 0 }
    }

    pub(super) fn inactivity_timeout(&self) -> Duration {
        self.inactivity_timeout
    }

    /// Takes note of a piece of so many `bytes` that was waited for.
    ///
    /// # Errors
    /// For one that makes the body a trickle.
    pub(super) fn came(&mut self, bytes: usize, waited: Duration) -> Result<(), Trickle> {
        self.waited += waited;
        self.pieces += 1;
        self.bytes += bytes as u64;
        if self.is_last || self.waited < self.inactivity_timeout || self.pieces < PIECES_MIN {
            return Ok(());
        }
        let Self { waited, bytes, .. } = *self;
        (self.waited, self.pieces, self.bytes) = (Duration::ZERO, 0, 0);
        match (bytes as f64) < RATE_MIN as f64 * waited.as_secs_f64() {
            true => Err(Trickle { bytes, waited }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);
    const KIB: usize = 1 << 10;

    fn first_trickle(mut pace: Pace, pieces: impl IntoIterator<Item = (usize, u64)>) -> Option<Trickle> {
        let came = |(bytes, seconds)| pace.came(bytes, Duration::from_secs(seconds)).err();
        pieces.into_iter().find_map(came)
    }

    #[test]
    fn a_trickle_is_told_after_as_long_as_nothing_may_come() {
        let trickle = first_trickle(Pace::new(WINDOW, false), [(KIB, 1); 30]);
        assert_eq!(trickle, Some(Trickle { bytes: 10 * KIB as u64, waited: WINDOW }));
        // Also after a good beginning.
        let pieces = [(500 * KIB, 1); 10].into_iter().chain([(KIB, 1); 30]);
        assert_eq!(first_trickle(Pace::new(WINDOW, false), pieces), trickle);
    }

    #[test]
    fn what_comes_at_the_rate_that_is_asked_for_goes_on() {
        assert_eq!(first_trickle(Pace::new(WINDOW, false), [(16 * KIB, 1); 100]), None);
        // However unevenly.
        let uneven = [(KIB, 1), (KIB, 1), (KIB, 1), (157 * KIB, 7)];
        assert_eq!(first_trickle(Pace::new(WINDOW, false), uneven.into_iter().cycle().take(100)), None);
    }

    #[test]
    fn a_process_that_was_stopped_is_no_trickle() {
        assert_eq!(first_trickle(Pace::new(WINDOW, false), [(KIB, 60), (KIB, 60), (KIB, 0)]), None);
    }

    #[test]
    fn the_last_host_is_waited_for() {
        assert_eq!(first_trickle(Pace::new(WINDOW, true), [(1, 1); 1000]), None);
    }
}
