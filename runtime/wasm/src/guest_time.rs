//! Two clocks for one call. The guest's own: the processor time that it used, so that a busy machine or a slow host call does
//! not make a good plugin late. And the wall's: the time in all, because an epoch never interrupts a guest that waits in a
//! host call.
//!
//! Asking for a thread's processor time is a call into the kernel, too much for each call of a plugin, so it is asked for only
//! when the guest is interrupted, which few calls live to see. Up to the first interrupt of a slice the wall tells the time,
//! but no more than the pause between two ticks is believed ([`Pace::seldom`]): a guest that runs is interrupted that often, and
//! whatever goes beyond was time in which the thread did not have the processor (other processes had it, or a container its quota
//! of processor time used up).

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use gristmill_core::Moment;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;
use wasmtime::{Store, UpdateDeadline};

use crate::ticker::{Pace, TICK};

/// How long one call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    /// In the guest.
    pub(crate) guest: Duration,
    /// In all.
    pub(crate) wall: Duration,
}

/// The time that a guest used. Written only by whoever polls the call and by the guest's interrupt inside of that poll;
/// atomic because the store wants its parts to be `Sync`.
#[derive(Debug)]
pub(crate) struct GuestTime {
    limit_ns: AtomicU64,
    spent_ns: AtomicU64,
    slice_started_ns: AtomicU64,
    /// Up to when, by the wall, the slice is in `spent_ns`.
    counted_ns: AtomicU64,
    /// The thread's processor time at that moment; 0 before the first interrupt of the slice.
    counted_cpu_ns: AtomicU64,
    yielded: AtomicBool,
    pace: Arc<Pace>,
}

/// The guest ran for longer than it may. What interrupts it, so that the error carries the guest's backtrace.
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
    pub(crate) fn new(pace: Arc<Pace>) -> Arc<Self> {
        Arc::new(Self {
            limit_ns: AtomicU64::new(0),
            spent_ns: AtomicU64::new(0),
            slice_started_ns: AtomicU64::new(0),
            counted_ns: AtomicU64::new(0),
            counted_cpu_ns: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
            pace,
        })
    }

    /// Makes the store's guests answer to this clock.
    pub(crate) fn govern<T: 'static>(self: &Arc<Self>, store: &mut Store<T>) {
        let time = self.clone();
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| time.interrupt());
    }

    /// Runs `call` under both clocks, from `started` on, which is a moment ago: a clock that is read once for a message costs
    /// less than one that is read twice. The store's epoch deadline must have been set. The call comes pinned because it is
    /// large: to take it by value would be to copy it twice, for every message.
    ///
    /// # Errors
    /// When the call took too long in all. Too long in the guest is an error of the call itself: [`DeadlinePassed`].
    pub(crate) fn run<'a, F: Future>(
        &'a self,
        started: Moment,
        limits: CallLimits,
        mut call: Pin<&'a mut F>,
    ) -> impl Future<Output = Result<F::Output, WallTimeout>> + use<'a, F> {
        self.limit_ns.store(nanos(limits.guest), Relaxed);
        self.spent_ns.store(0, Relaxed);
        // Made when the call waits for the first time: most calls never do.
        let mut timeout: Option<Pin<Box<Sleep>>> = None;
        let mut started = Some(started);
        poll_fn(move |cx| {
            self.slice_starts(started.take().unwrap_or_else(Moment::now));
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
    }

    fn interrupt(&self) -> wasmtime::Result<UpdateDeadline> {
        let now = Moment::now().as_nanos();
        self.count(now, Some(thread_cpu_ns()));
        let limit = self.limit_ns.load(Relaxed);
        if self.spent_ns.load(Relaxed) > limit {
            return Err(DeadlinePassed(Duration::from_nanos(limit)).into());
        }
        if now.saturating_sub(self.slice_started_ns.load(Relaxed)) < nanos(TICK) {
            // The tick came early in this guest's slice; giving the thread away now would only cost.
            return Ok(UpdateDeadline::Continue(1));
        }
        self.pace.note_long();
        self.yielded.store(true, Relaxed);
        Ok(UpdateDeadline::Yield(1))
    }

    fn slice_starts(&self, now: Moment) {
        let now = now.as_nanos();
        self.slice_started_ns.store(now, Relaxed);
        self.counted_ns.store(now, Relaxed);
        // The next slice may be on another thread, whose processor time is another one.
        self.counted_cpu_ns.store(0, Relaxed);
        self.yielded.store(false, Relaxed);
    }

    fn slice_ends(&self) {
        self.count(Moment::now().as_nanos(), None);
    }

    /// Adds what the guest used since the last time.
    fn count(&self, now: u64, cpu: Option<u64>) {
        let wall = now.saturating_sub(self.counted_ns.load(Relaxed));
        let used = match (self.counted_cpu_ns.load(Relaxed), cpu) {
            (0, _) | (_, None) => wall.min(nanos(self.pace.seldom())),
            (before, Some(cpu)) => wall.min(cpu.saturating_sub(before)),
        };
        self.spent_ns.fetch_add(used, Relaxed);
        self.counted_ns.store(now, Relaxed);
        self.counted_cpu_ns.store(cpu.unwrap_or(0), Relaxed);
    }
}

/// The processor time of this thread; never 0.
fn thread_cpu_ns() -> u64 {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).map_or(1, |time| nanos(time).max(1))
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A slice that began at 0, and the time of the thread when it did. A tick comes every millisecond.
    fn slice() -> Arc<GuestTime> {
        let pace = Arc::new(Pace::default());
        pace.at_least_every(Duration::from_millis(1));
        GuestTime::new(pace)
    }

    fn spent(time: &GuestTime) -> u64 {
        time.spent_ns.load(Relaxed)
    }

    #[test]
    fn a_guest_that_runs_is_charged_for_all_of_it() {
        let time = slice();
        let cpu = 70 * MS;
        time.count(MS / 2, Some(cpu));
        time.count(MS * 3 / 2, Some(cpu + MS));
        time.count(MS * 5 / 2, Some(cpu + 2 * MS));
        assert_eq!(spent(&time), MS * 5 / 2);
    }

    #[test]
    fn a_guest_whose_thread_has_to_wait_is_not_charged_for_that() {
        let time = slice();
        // Before the first interrupt nothing is known but that it cannot have run for longer than a tick.
        time.count(500 * MS, Some(70 * MS));
        assert_eq!(spent(&time), MS);
        time.count(900 * MS, Some(70 * MS + 5));
        assert_eq!(spent(&time), MS + 5);
    }

    #[test]
    fn short_slices_between_host_calls_add_up() {
        let time = slice();
        time.count(MS / 4, None);
        time.count(MS / 2, None);
        assert_eq!(spent(&time), MS / 2);
    }

    #[test]
    fn the_processor_time_of_a_thread_advances() {
        let before = thread_cpu_ns();
        let mut sum = 0_u64;
        while thread_cpu_ns() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(thread_cpu_ns() > before);
    }
}
