//! Two clocks for one call. The guest's own: the time for which it had the thread, so that a busy machine or a slow host
//! call does not make a good plugin late. And the wall's: the time in all, because an epoch never interrupts a guest that
//! waits in a host call.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::Sleep;
use wasmtime::{Store, UpdateDeadline};

use crate::ticker::TICK;

/// How long one call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    /// In the guest.
    pub(crate) guest: Duration,
    /// In all.
    pub(crate) wall: Duration,
}

/// The time for which a guest had the thread. Written only by whoever polls the call, and read by the guest's interrupt
/// inside of that poll; atomic because the store wants its parts to be `Sync`.
#[derive(Debug)]
pub(crate) struct GuestTime {
    base: Instant,
    limit_ns: AtomicU64,
    spent_ns: AtomicU64,
    slice_started_ns: AtomicU64,
    yielded: AtomicBool,
}

/// The guest had the thread for longer than it may. What interrupts it, so that the error carries the guest's backtrace.
#[derive(Debug)]
pub(crate) struct DeadlinePassed(pub(crate) Duration);

/// The call took longer than it may, waits included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WallTimeout {
    /// Whether the guest was waiting in a host call, and not for its turn on a busy machine.
    pub(crate) guest_waited: bool,
    /// The limit.
    pub(crate) limit: Duration,
}

// === impl GuestTime ===

impl GuestTime {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Instant::now(),
            limit_ns: AtomicU64::new(0),
            spent_ns: AtomicU64::new(0),
            slice_started_ns: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
        })
    }

    /// Makes the store's guests answer to this clock.
    pub(crate) fn govern<T: 'static>(self: &Arc<Self>, store: &mut Store<T>) {
        let time = self.clone();
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| time.interrupt());
    }

    /// Runs `call` under both clocks. The store's epoch deadline must have been set.
    ///
    /// # Errors
    /// When the call took too long in all. Too long in the guest is an error of the call itself: [`DeadlinePassed`].
    pub(crate) async fn run<F: Future>(&self, limits: CallLimits, call: F) -> Result<F::Output, WallTimeout> {
        self.limit_ns.store(nanos(limits.guest), Relaxed);
        self.spent_ns.store(0, Relaxed);
        let mut call = pin!(call);
        // Made when the call waits for the first time: most calls never do.
        let mut timeout: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            self.slice_starts();
            if let Poll::Ready(output) = call.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.slice_ends();
            let sleep = timeout.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits.wall)));
            sleep
                .as_mut()
                .poll(cx)
                .map(|()| Err(WallTimeout { guest_waited: !self.yielded.load(Relaxed), limit: limits.wall }))
        })
        .await
    }

    fn interrupt(&self) -> wasmtime::Result<UpdateDeadline> {
        let slice = nanos(self.base.elapsed()).saturating_sub(self.slice_started_ns.load(Relaxed));
        let limit = self.limit_ns.load(Relaxed);
        if self.spent_ns.load(Relaxed).saturating_add(slice) > limit {
            return Err(DeadlinePassed(Duration::from_nanos(limit)).into());
        }
        if slice < nanos(TICK) {
            // The tick came early in this guest's slice; giving the thread away now would only cost.
            return Ok(UpdateDeadline::Continue(1));
        }
        self.yielded.store(true, Relaxed);
        Ok(UpdateDeadline::Yield(1))
    }

    fn slice_starts(&self) {
        self.slice_started_ns.store(nanos(self.base.elapsed()), Relaxed);
        self.yielded.store(false, Relaxed);
    }

    fn slice_ends(&self) {
        let slice = nanos(self.base.elapsed()).saturating_sub(self.slice_started_ns.load(Relaxed));
        self.spent_ns.fetch_add(slice, Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

// === impl DeadlinePassed ===

impl std::fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the deadline of {} ms of guest time has passed", self.0.as_millis())
    }
}

impl std::error::Error for DeadlinePassed {}
