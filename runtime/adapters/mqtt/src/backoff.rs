//! How long to wait before the next attempt to connect.

use std::time::Duration;

use crate::config::ReconnectConfig;

/// Waits that double, up to a limit, each shortened by up to a half by chance, so that clients that a broker lost together do
/// not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
}

impl Backoff {
    pub(crate) fn new(config: ReconnectConfig) -> Self {
        Self { next_ms: config.initial_delay_ms }
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
}
