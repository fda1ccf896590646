//! What a version of the source wants, with what it was given to run on: what a reload replaces.

use std::sync::Arc;

use gristmill_core::source::EndpointContext;

use super::spec::Queue;
use crate::connection::{Broker, Brokers};

/// What a version of the source wants.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) queue: Queue,
    pub(crate) broker: Arc<Broker>,
    pub(crate) brokers: Arc<Brokers>,
    pub(crate) context: EndpointContext,
}

// === impl Settings ===

impl Settings {
    pub(crate) fn new(
        queue: Queue,
        broker: Arc<Broker>,
        brokers: Arc<Brokers>,
        context: EndpointContext,
    ) -> Self {
        Self { queue, broker, brokers, context }
    }

    /// How many messages the broker sends ahead of their acknowledgement: as many as the flow takes.
    pub(crate) fn prefetch(&self) -> u16 {
        u16::try_from(self.context.limits.in_flight).unwrap_or(u16::MAX)
    }

    /// Whether a consumer that was made for `other` does for these as well.
    pub(crate) fn has_same_consumer(&self, other: &Self) -> bool {
        self.broker.name == other.broker.name
            && self.broker.fingerprint == other.broker.fingerprint
            && self.queue == other.queue
            && self.prefetch() == other.prefetch()
    }

    /// Whether the broker keeps what is rejected.
    pub(crate) fn keeps_rejected(&self) -> bool {
        self.queue.declare.as_ref().is_some_and(|declare| declare.dead_letter_exchange.is_some())
    }
}
