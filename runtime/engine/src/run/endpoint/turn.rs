//! How much an endpoint does before other tasks of its thread have their turn.

use std::time::Duration;

use gristmill_core::Moment;

/// How many deliveries it begins at most. What is sent in one turn goes out together, so a turn is better long than short.
const DELIVERIES: u32 = 128;

/// For how long at most: a plugin may take most of a millisecond for each message.
const TIME: Duration = Duration::from_millis(1);

/// The turn of an endpoint: from when other tasks had theirs, or could have had it because there was nothing to do.
#[derive(Debug, Default)]
pub(super) struct Turn {
    deliveries: u32,
    /// When the first of them was accepted.
    began: Option<Moment>,
}

impl Turn {
    /// A delivery is begun, which was accepted now.
    pub(super) fn begins(&mut self, now: Moment) {
        self.deliveries += 1;
        if now.since(*self.began.get_or_insert(now)) >= TIME {
            // This one is the last.
            self.deliveries = DELIVERIES;
        }
    }

    /// Whether others are to have their turn.
    pub(super) fn is_over(&self) -> bool {
        self.deliveries >= DELIVERIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_after_so_many_deliveries() {
        let (mut turn, now) = (Turn::default(), Moment::now());
        for _ in 1..DELIVERIES {
            turn.begins(now);
        }
        assert!(!turn.is_over());
        turn.begins(now);
        assert!(turn.is_over());
    }

    #[test]
    fn a_turn_ends_after_so_long() {
        let (mut turn, now) = (Turn::default(), Moment::now());
        turn.begins(now);
        turn.begins(now + TIME / 2);
        assert!(!turn.is_over());
        turn.begins(now + TIME);
        assert!(turn.is_over());
    }
}
