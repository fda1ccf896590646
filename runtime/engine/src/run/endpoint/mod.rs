//! An endpoint: what belongs to the runtime and not to a version. It holds the source, the deliveries that have not settled,
//! the lanes that keep their order, and the in-flight limit; versions are attached to it.
//!
//! One task owns the source. It asks for the next delivery only when there is room, hands it to the attached version, and
//! between two deliveries obeys commands: attach another version, let another source take over, close.

mod held;
mod lanes;
mod task;
mod turn;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering as Atomic},
    },
    time::Duration,
};

use gristmill_core::source::{PreparedSource, Source, SourceError};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use self::{held::Held, task::Task};
use super::version::Version;

/// The handle of a running endpoint. Dropping it ends the endpoint at once; unsettled deliveries can still settle.
pub(crate) struct Endpoint {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    state: watch::Receiver<EndpointState>,
    /// The drains of the versions that were attached before.
    older: TaskTracker,
}

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndpointState {
    /// It takes messages.
    Running,
    /// The source cannot go on for now.
    Degraded(String),
    /// A plugin is held back, so nothing is taken.
    Paused(String),
    /// The source has no more messages, or was closed.
    Finished,
    /// Its task is gone, which only a fault of the runtime or an adapter can do.
    Ended,
}

enum Command {
    Attach {
        version: Arc<Version>,
        old: oneshot::Sender<Arc<Version>>,
    },
    TakeOver {
        prepared: Box<dyn PreparedSource>,
        version: Arc<Version>,
        old: oneshot::Sender<Result<Arc<Version>, SourceError>>,
    },
    /// What a stopped version could not finish.
    Offer(Held),
    /// The source is told that it is not only for a while.
    Retire,
    Close {
        heir: Option<mpsc::WeakUnboundedSender<Command>>,
        taken: oneshot::Sender<()>,
    },
}

struct Shared {
    in_flight: AtomicUsize,
    /// Whether the endpoint waits until there is room.
    wants_room: AtomicBool,
    settled: Notify,
    /// Where deliveries are offered that a stopped version could not finish. Weak: they must not keep the endpoint alive.
    offers: mpsc::WeakUnboundedSender<Command>,
}

// === impl Shared ===

impl Shared {
    fn takes_room(&self) {
        self.in_flight.fetch_add(1, Atomic::AcqRel);
    }

    /// Wakes the endpoint, if it waits for that.
    fn gives_room(&self) {
        // In one order with `wanting_room`, over both: either this sees that the endpoint waits, or the endpoint sees the room.
        self.in_flight.fetch_sub(1, Atomic::SeqCst);
        if self.wants_room.load(Atomic::SeqCst) {
            self.settled.notify_one();
        }
    }

    /// From now on every delivery that settles wakes the endpoint, until it says that it has no need.
    fn wanting_room(&self, wants: bool) {
        self.wants_room.store(wants, Atomic::SeqCst);
    }

    fn in_flight(&self) -> usize {
        self.in_flight.load(Atomic::SeqCst)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Begins to take messages from the source.
    pub(crate) fn start(source: Box<dyn Source>, version: Arc<Version>) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            in_flight: AtomicUsize::new(0),
            wants_room: AtomicBool::new(false),
            settled: Notify::new(),
            offers: commands.downgrade(),
        });
        let (state, watched) = watch::channel(EndpointState::Running);
        tokio::spawn(Task::new(source, version, receiver, Arc::clone(&shared), state).run());
        Self { commands, shared, state: watched, older: TaskTracker::new() }
    }

    /// Attaches another version; what comes from now on is its. Gives the one before.
    ///
    /// # Errors
    /// The endpoint has ended.
    pub(crate) async fn attach(&self, version: Arc<Version>) -> Result<Arc<Version>, SourceError> {
        let (old, attached) = oneshot::channel();
        self.commands.send(Command::Attach { version, old }).map_err(|_| ended())?;
        attached.await.map_err(|_| ended())
    }

    /// Lets another source take over, and attaches the version that belongs to it.
    ///
    /// # Errors
    /// The source that was goes on with the version that was.
    pub(crate) async fn take_over(
        &self,
        prepared: Box<dyn PreparedSource>,
        version: Arc<Version>,
    ) -> Result<Arc<Version>, SourceError> {
        let (old, taken) = oneshot::channel();
        self.commands.send(Command::TakeOver { prepared, version, old }).map_err(|_| ended())?;
        taken.await.map_err(|_| ended())?
    }

    /// Tells the source that it ends for good, before it is closed.
    pub(crate) fn retire(&self) {
        // An endpoint that is gone has no source.
        let _gone = self.commands.send(Command::Retire);
    }

    /// Notes a task that waits for a version of before, which has still deliveries of this endpoint.
    pub(crate) fn drain_older(&self, drain: impl Future<Output = ()> + Send + 'static) {
        drop(self.older.spawn(drain));
    }

    /// Waits until the versions of before have finished, each within its own drain limit: their last acknowledgements are the
    /// source's to give.
    pub(crate) async fn older_drained(&self) {
        self.older.close();
        self.older.wait().await;
    }

    /// Accepts no more. Returns when everything that was accepted is with the version. What a version cannot finish
    /// from now on is offered to `heir`, or released when there is none.
    pub(crate) async fn close(&self, heir: Option<&Endpoint>) {
        let (taken, all_taken) = oneshot::channel();
        let heir = heir.map(|heir| heir.commands.downgrade());
        if self.commands.send(Command::Close { heir, taken }).is_ok() {
            // An endpoint that is gone has nothing left to give.
            let _gone = all_taken.await;
        }
    }

    /// How many deliveries have not settled.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.in_flight()
    }

    /// How it is.
    pub(crate) fn state(&self) -> EndpointState {
        if self.has_ended() { EndpointState::Ended } else { self.state.borrow().clone() }
    }

    /// Whether its task is gone, though no one has let it go.
    pub(crate) fn has_ended(&self) -> bool {
        self.commands.is_closed()
    }

    /// To wait for a change of how it is, from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<EndpointState> {
        let mut watched = self.state.clone();
        watched.mark_unchanged();
        watched
    }
}

fn ended() -> SourceError {
    SourceError::new(
        "the endpoint was ended by a fault of the runtime or of its adapter; it is started again",
    )
}

/// Gives up an endpoint and waits until its source is gone, with all that it brings to disk at its end.
pub(crate) async fn end(endpoint: Arc<Endpoint>) {
    let mut state = endpoint.watch();
    drop(endpoint);
    // The sender goes with the task, after the source.
    while state.changed().await.is_ok() {}
}

/// Closes an endpoint and waits until its version has finished what was accepted, both together at the longest for `limit`.
/// What is left then is offered to `heir`, or released; gives how many.
pub(crate) async fn close_and_drain(
    endpoint: &Endpoint,
    version: &Version,
    heir: Option<&Endpoint>,
    limit: Duration,
) -> usize {
    let began = Instant::now();
    let taken = tokio::time::timeout(limit, endpoint.close(heir)).await.is_ok();
    let rest = limit.saturating_sub(began.elapsed());
    version.drain(if taken { rest } else { Duration::ZERO }).await
}
