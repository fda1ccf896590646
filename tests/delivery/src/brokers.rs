//! The brokers of a run: each started when a scenario first needs it, one after the other used by all.

use std::sync::{Mutex, MutexGuard, OnceLock};

use gristmill_brokers::{mosquitto::Mosquitto, rabbitmq::RabbitMq};

use crate::ledger::lock;

/// RabbitMQ and Mosquitto, of this run alone, since they are killed.
#[derive(Debug, Default)]
pub struct Brokers {
    rabbitmq: OnceLock<Mutex<RabbitMq>>,
    mosquitto: OnceLock<Mutex<Mosquitto>>,
}

impl Brokers {
    /// RabbitMQ.
    pub fn rabbitmq(&self) -> MutexGuard<'_, RabbitMq> {
        lock(self.rabbitmq.get_or_init(|| Mutex::new(RabbitMq::start())))
    }

    /// Mosquitto.
    pub fn mosquitto(&self) -> MutexGuard<'_, Mosquitto> {
        lock(self.mosquitto.get_or_init(|| Mutex::new(Mosquitto::start())))
    }
}
