//! How a delivery ended.

use std::sync::Arc;

use crate::{delivery::Reply, failure::Failure};

/// How a delivery, or one branch of it, ended. The order is the order of badness: of several branches the worst wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Settlement {
    /// Done: sent, answered, dropped on purpose, or written as a dead letter.
    Delivered,
    /// Never to be tried again.
    Rejected,
    /// Not done: the source offers it again, after its release delay.
    Released,
}

/// What a source is told when the last branch of a delivery has settled.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The worst settlement of all branches.
    pub settlement: Settlement,
    /// Whether any branch ended as a dead letter. Such a branch counts as delivered.
    pub dead_lettered: bool,
    /// What a `reply` step said; the last one wins.
    pub reply: Option<Reply>,
    /// The failure behind the worst settlement, when there was one. For the operator: a source must not show its text to
    /// a sender.
    pub failure: Option<Arc<Failure>>,
}

impl Settlement {
    /// The name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Rejected => "rejected",
            Self::Released => "released",
        }
    }
}

impl Outcome {
    /// This, and nothing more to say of it.
    pub const fn of(settlement: Settlement) -> Self {
        Self { settlement, dead_lettered: false, reply: None, failure: None }
    }

    /// The name used in logs and metrics: the settlement, or `dead_lettered`.
    pub const fn name(&self) -> &'static str {
        match self.settlement {
            Settlement::Delivered if self.dead_lettered => "dead_lettered",
            other => other.name(),
        }
    }
}
