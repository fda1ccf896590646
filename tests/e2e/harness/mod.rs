//! What the tests stand on.

mod amqp;
mod golden;
pub(crate) mod guests;
pub(crate) mod http;
mod mqtt;
mod running;
mod scratch;

use std::time::{Duration, Instant};

pub(crate) use self::{
    amqp::AmqpClient,
    golden::{assert_golden, golden},
    mqtt::MqttClient,
    running::{Running, running_says_so, says},
    scratch::Scratch,
};

/// How long anything that is waited for may take. Long, because the machine may be busy; a test that passes never waits
/// for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition that gives no event is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until a condition that gives no event holds. The only place where a test lets time pass.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A small generator of numbers that are the same in every run (Knuth's MMIX constants).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
