//! One version of a flow with everything open: its steps in a tree, its policy, its hooks. Shared by all its deliveries;
//! when the last of them is gone, what it holds is closed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use gristmill_core::{
    Clock,
    limits::FlowLimits,
    observe::FlowObserver,
    plugin::Health,
    rate::LineRate,
    sink::Sink,
    step::{FlowFacts, Step},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::flow::{CheckedSinkUse, ErrorRule, Ordering, StepNode, Then};

/// One version of a flow, ready to take deliveries.
pub(crate) struct Version {
    pub(crate) facts: FlowFacts,
    /// The identity of the endpoint it is attached to.
    pub(crate) origin: Arc<str>,
    /// Counts versions of this process: lanes tell versions apart by it.
    pub(crate) generation: u64,
    pub(crate) limits: FlowLimits,
    /// The names of the connections of its source and its sinks.
    pub(crate) connections: BTreeSet<Arc<str>>,
    pub(crate) ordering: Ordering,
    pub(crate) steps: Vec<StepNode<RunningStep>>,
    pub(crate) rules: Vec<RunningRule>,
    pub(crate) discard_rejected: bool,
    pub(crate) plugins: Vec<watch::Receiver<Health>>,
    pub(crate) observer: Arc<dyn FlowObserver>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How much the log says of messages that end without success.
    pub(crate) endings: LineRate,
    /// The deliveries under way.
    pub(crate) tasks: TaskTracker,
    /// Cancelled at the drain limit.
    pub(crate) stop: CancellationToken,
    /// That it was, for what only has a look: the token itself is behind a lock.
    pub(crate) stopped: AtomicBool,
}

/// A step that runs.
pub(crate) struct RunningStep {
    pub(crate) step: Arc<dyn Step>,
    /// The plugin it calls, for the log.
    pub(crate) plugin: Option<Arc<str>>,
    pub(crate) branches: Vec<Vec<StepNode<RunningStep>>>,
}

/// A rule of `on_error` with its dead letter open.
pub(crate) struct RunningRule {
    pub(crate) rule: ErrorRule,
    pub(crate) then: RunningThen,
}

/// What becomes of a message in the end.
pub(crate) enum RunningThen {
    DeadLetter { checked: CheckedSinkUse, sink: Arc<dyn Sink> },
    Reject,
    Release,
    Discard,
}

impl RunningThen {
    /// What needs nothing opened.
    pub(crate) fn without_sink(then: &Then) -> Option<Self> {
        match then {
            Then::DeadLetter(_) => None,
            Then::Reject => Some(Self::Reject),
            Then::Release => Some(Self::Release),
            Then::Discard => Some(Self::Discard),
        }
    }
}

impl Version {
    /// Waits until every delivery is done, at the longest for the drain limit; what is left then is stopped, and counts as
    /// released. Returns how many were left.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tasks.len();
        self.stopped.store(true, Release);
        self.stop.cancel();
        self.tasks.wait().await;
        left
    }

    /// Whether it was stopped at its drain limit.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// The worst health among its plugins.
    pub(crate) fn health(&self) -> Health {
        let mut worst = Health::Fit;
        for plugin in &self.plugins {
            match &*plugin.borrow() {
                Health::Quarantined(why) => return Health::Quarantined(Arc::clone(why)),
                Health::Probing => worst = Health::Probing,
                Health::Fit => {}
            }
        }
        worst
    }
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Version").field("facts", &self.facts).finish_non_exhaustive()
    }
}
