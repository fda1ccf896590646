//! A clock that stands still until it is told.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Clock, Timestamp};

/// A clock that a test sets, also backwards.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Standing at this moment.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.as_millis()))
    }

    /// Jumps.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// 2026-01-31T12:00:00Z.
    fn default() -> Self {
        Self::at(Timestamp::from_millis(1_769_860_800_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}
