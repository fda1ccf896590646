//! The clock of one delivery, which is looked at no more often than time can have passed.

use std::{
    ops::Add,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// From when moments are counted: from the first.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment on the monotonic clock, in nanoseconds. What is measured for every message is measured with these: to subtract two
/// [`Instant`]s, whose seconds stand by themselves, takes as many instructions as to look at a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// A clock that remembers its last reading, for all that measures one delivery after another: where one step ends the next begins,
/// and to read the time costs as much as to ask for memory. Only what waits makes the reading worth nothing; whoever takes the
/// delivery up after a wait says so ([`Stopwatch::forget`]).
///
/// Used by one task at a time. Atomic, because what it is used in goes from thread to thread.
#[derive(Debug)]
pub struct Stopwatch(AtomicU64);

/// There is no reading: nothing runs for 584 years.
const UNKNOWN: u64 = u64::MAX;

/// What comes later is as late as this.
const LAST: u64 = UNKNOWN - 1;

// === impl Moment ===

impl Moment {
    /// Reads the clock.
    pub fn now() -> Self {
        let origin = *ORIGIN;
        let since = Instant::now().saturating_duration_since(origin);
        Self(u64::try_from(since.as_nanos()).unwrap_or(LAST))
    }

    /// How long after `earlier` it is; nothing, if it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// In nanoseconds since a moment that is the same for all.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let duration = u64::try_from(duration.as_nanos()).unwrap_or(LAST);
        Self(self.0.saturating_add(duration).min(LAST))
    }
}

// === impl Stopwatch ===

impl Stopwatch {
    /// One that has just been read, with this result.
    pub const fn at(now: Moment) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// One that will be read when the time is first asked for.
    pub const fn unread() -> Self {
        Self(AtomicU64::new(UNKNOWN))
    }

    /// The time, as last read; read now, if it is not known.
    pub fn recent(&self) -> Moment {
        match self.0.load(Relaxed) {
            UNKNOWN => self.read(),
            last => Moment(last),
        }
    }

    /// The time at the end of what began at `began`: as last read, or read now, if nobody has since then.
    pub fn after(&self, began: Moment) -> Moment {
        let last = self.recent();
        if last > began { last } else { self.read() }
    }

    /// Reads the time: something has happened that takes time.
    pub fn read(&self) -> Moment {
        let now = Moment::now();
        self.0.store(now.0, Relaxed);
        now
    }

    /// Something was waited for.
    pub fn forget(&self) {
        self.0.store(UNKNOWN, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_last_reading_is_good_until_something_was_waited_for() {
        let ahead = Moment::now() + MINUTE;
        let watch = Stopwatch::at(ahead);
        assert_eq!((watch.recent(), watch.after(Moment::now())), (ahead, ahead));
        let read = watch.after(ahead);
        assert!(read < ahead, "read anew");
        assert_eq!(watch.recent(), read);
        let watch = Stopwatch::at(ahead);
        watch.forget();
        assert!(watch.recent() < ahead, "read anew");
    }

    #[test]
    fn one_that_was_not_read_is_read_when_it_is_asked() {
        let before = Moment::now();
        let watch = Stopwatch::unread();
        let read = watch.recent();
        assert!(read >= before && read < before + MINUTE);
        assert_eq!(watch.recent(), read);
    }

    #[test]
    fn a_moment_is_some_time_after_another() {
        let now = Moment::now();
        let later = now + MINUTE;
        assert_eq!((later.since(now), now.since(later)), (MINUTE, Duration::ZERO));
        assert!(now + Duration::MAX > later);
    }
}
