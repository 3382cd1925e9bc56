//! The deaths of servers: how often, how, and what follows from that.

use std::time::{Duration, Instant};

use crate::base::clock;

/// Deaths in a row after which the holder gives up. With the pauses between them, some 20 seconds.
const DEATHS_MAX: u32 = 12;

/// The same for deaths by SIGKILL, which no server brings upon itself: somebody kills it, or the kernel, for memory.
const KILLS_MAX: u32 = 200;

/// The longest pause after one of those.
const PAUSE_AFTER_KILL: Duration = Duration::from_millis(100);

/// A server that has served for as long has not died in a row with those before it: what kills every server is a request
/// or a file that it meets at its start, and is given again at once.
const STEADY: Duration = Duration::from_millis(500);

/// The first pause is after the second death in a row: whatever killed one server need not kill the next.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    in_a_row: u32,
    all: u64,
    /// Whether the last one was by SIGKILL.
    was_killed: bool,
    last: Option<String>,
}

impl Deaths {
    /// A server has died, and `how`. It served since `serving_since`, if at all.
    pub(super) fn note(&mut self, serving_since: Option<Instant>, was_killed: bool, how: String) {
        let was_steady =
            serving_since.is_some_and(|since| clock::now().saturating_duration_since(since) > STEADY);
        self.in_a_row = if was_steady { 0 } else { self.in_a_row + 1 };
        self.all += 1;
        self.was_killed = was_killed;
        self.last = Some(how);
    }

    /// The last server has ended as it was meant to.
    pub(super) fn note_none(&mut self) {
        self.last = None;
    }

    /// What is tried again is tried as if for the first time.
    pub(super) fn begin_again(&mut self) {
        self.in_a_row = 0;
    }

    pub(super) fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// How the last server died, if it has not ended as it was meant to.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Whether another server would die too.
    pub(super) fn are_too_many(&self) -> bool {
        self.in_a_row >= if self.was_killed { KILLS_MAX } else { DEATHS_MAX }
    }

    /// The pause before the next server.
    pub(super) fn pause(&self) -> Duration {
        let doublings = self.in_a_row.saturating_sub(2).min(16);
        let max = if self.was_killed { PAUSE_AFTER_KILL } else { PAUSE_MAX };
        match self.in_a_row {
            0 | 1 => Duration::ZERO,
            _ => (PAUSE_FIRST * (1 << doublings)).min(max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_in_giving_up() {
        let mut deaths = Deaths::default();
        let mut pauses = Vec::new();
        while !deaths.are_too_many() {
            deaths.note(None, false, "it died".into());
            pauses.push(deaths.pause());
        }
        assert_eq!(pauses.len(), 12);
        assert_eq!((pauses[0], pauses[1], pauses[2]), (Duration::ZERO, PAUSE_FIRST, PAUSE_FIRST * 2));
        assert_eq!(pauses[11], PAUSE_MAX);
        deaths.begin_again();
        assert!(!deaths.are_too_many() && deaths.pause().is_zero());
        assert_eq!((deaths.all(), deaths.last()), (12, Some("it died")));
    }

    #[test]
    fn whoever_is_killed_may_be_killed_more_often() {
        let mut deaths = Deaths::default();
        (0..100).for_each(|_| deaths.note(None, true, "it was killed".into()));
        assert_eq!((deaths.are_too_many(), deaths.pause()), (false, PAUSE_AFTER_KILL));
        let served = clock::now().checked_sub(STEADY * 2);
        deaths.note(served.or_else(|| panic!("the clock has just begun")), true, "it was killed".into());
        assert_eq!((deaths.in_a_row(), deaths.pause()), (0, Duration::ZERO));
    }
}
