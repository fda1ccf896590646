//! When requests are sent.

use std::time::{Duration, Instant};

/// What decides when the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// The answer to the one before (a closed loop): finds the peak. A server that is slow is sent less.
    Answers,
    /// The clock (an open loop), so many times a second, whatever the server does, as senders do who do not know of each
    /// other.
    PerSecond(f64),
}

/// The times of an open loop.
#[derive(Debug)]
pub(super) struct Schedule {
    first: Instant,
    ends: Instant,
    per_second: f64,
    /// How many were given so far.
    given: u64,
}

impl Schedule {
    pub(super) fn new(per_second: f64, first: Instant, ends: Instant) -> Self {
        Self { first, ends, per_second, given: 0 }
    }

    /// The next time that has come by `now`, each once. It may be long ago: whoever is late has to say by how much.
    pub(super) fn due(&mut self, now: Instant) -> Option<Instant> {
        let next = self.first + Duration::from_secs_f64(self.given as f64 / self.per_second);
        let is_due = next <= now && next < self.ends;
        self.given += u64::from(is_due);
        is_due.then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_given_once_however_late_it_is_asked_for() {
        let first = Instant::now();
        let after = |ms| first + Duration::from_millis(ms);
        let mut schedule = Schedule::new(1000.0, first, after(6));
        assert_eq!(schedule.due(after(0)), Some(first));
        assert_eq!(schedule.due(after(0)), None);
        assert_eq!(schedule.due(after(2)), Some(after(1)));
        assert_eq!(schedule.due(after(2)), Some(after(2)));
        assert_eq!(schedule.due(after(2)), None);
        // Late, and the end is reached: what was to be sent before is still given, as of when it was to be sent.
        let rest: Vec<_> = std::iter::from_fn(|| schedule.due(after(100))).collect();
        assert_eq!(rest, [after(3), after(4), after(5)]);
    }
}
