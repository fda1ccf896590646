//! How many lines a second something may write to the log, so that what goes wrong for every message does not fill a disk.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// So many lines a second; what is above is counted.
#[derive(Debug)]
pub struct LineRate {
    per_second: u32,
    now: Mutex<Second>,
}

/// What is left of the second.
#[derive(Debug)]
struct Second {
    since: Instant,
    left: u32,
    dropped: u64,
}

impl LineRate {
    /// Begins with a full second.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, now: Mutex::new(Second { since: Instant::now(), left: per_second, dropped: 0 }) }
    }

    /// Whether one more line may be written, and how many were dropped since the last one.
    pub fn admit(&self) -> Option<u64> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since.elapsed() >= Duration::from_secs(1) {
            now.since = Instant::now();
            now.left = self.per_second;
        }
        if now.left == 0 {
            now.dropped = now.dropped.saturating_add(1);
            return None;
        }
        now.left -= 1;
        Some(std::mem::take(&mut now.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_above_the_rate_are_counted_until_the_next_second() {
        let rate = LineRate::new(3);
        let admitted: Vec<_> = (0..5).map(|_| rate.admit()).collect();
        assert_eq!(admitted, [Some(0), Some(0), Some(0), None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(rate.admit(), Some(2));
        assert_eq!(rate.admit(), Some(0));
    }
}
