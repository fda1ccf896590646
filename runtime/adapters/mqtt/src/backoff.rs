//! How long to wait before the next attempt to connect.

use std::time::Duration;

use crate::config::ReconnectConfig;

/// Waits that double, up to a limit, each shortened by up to a half by chance, so that clients that a broker lost together do
/// not come back together.
///
/// A connection that does not last counts as an attempt that failed: two clients of one id throw each other out by connecting,
/// and would do so without end at the pace of the first wait.
#[derive(Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
    /// Connections in a row that did not last.
    short_lives: u32,
}

impl Backoff {
    pub(crate) fn new(config: ReconnectConfig) -> Self {
        Self { next_ms: config.initial_delay_ms, short_lives: 0 }
    }

    /// A connection was lost that had lasted so long. One that lasted longer than the longest wait makes a new beginning.
    /// Gives how many in a row have not.
    pub(crate) fn lost_after(&mut self, life: Duration, config: ReconnectConfig) -> u32 {
        if life >= Duration::from_millis(config.max_delay_ms) {
            *self = Self::new(config);
        } else {
            self.short_lives = self.short_lives.saturating_add(1);
        }
        self.short_lives
    }

    /// The next wait.
    pub(crate) fn next(&mut self, config: ReconnectConfig) -> Duration {
        let limit_ms = self.next_ms.clamp(1, config.max_delay_ms.max(1));
        self.next_ms = limit_ms.saturating_mul(2);
        Duration::from_millis(rand::random_range(limit_ms.div_ceil(2)..=limit_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let config = ReconnectConfig { initial_delay_ms: 100, max_delay_ms: 350 };
        let mut backoff = Backoff::new(config);
        for (from, to) in [(50, 100), (100, 200), (175, 350), (175, 350)] {
            let wait = backoff.next(config).as_millis();
            assert!((from..=to).contains(&wait), "{wait}");
        }
    }

    #[test]
    fn only_a_connection_that_lasted_is_a_new_beginning() {
        let config = ReconnectConfig { initial_delay_ms: 100, max_delay_ms: 1_000 };
        let mut backoff = Backoff::new(config);
        for (times, to) in [(1, 100), (2, 200), (3, 400)] {
            assert_eq!(backoff.lost_after(Duration::from_millis(999), config), times);
            assert!(backoff.next(config).as_millis() > to / 2 - 1);
        }
        assert_eq!(backoff.lost_after(Duration::from_secs(1), config), 0);
        assert!(backoff.next(config).as_millis() <= 100);
    }
}
