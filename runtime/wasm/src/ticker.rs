//! The thread that advances the engine's epoch, by which running guests are interrupted. It sleeps for as long as no
//! guest runs, for a tick a millisecond costs about 2 % of a core. Most guests are done in microseconds, so even while they run
//! it ticks seldom, and only as often as it can once a tick has met a guest that had run for longer: see [`Pace`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use wasmtime::Engine;

/// How far apart two ticks are once a guest runs long: the grain of deadlines, and how long a guest then runs before other tasks
/// get their turn.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// How far apart they are otherwise, unless a deadline is shorter. A guest that runs long is met by the first tick after its first
/// [`TICK`], and the thread sees so after the tick behind that one: ticks come often from about twice this time on.
const SELDOM: Duration = Duration::from_millis(4);

/// For how many ticks after one that met a guest that runs long they come often.
const OFTEN_TICKS: u32 = 8;

/// How long there is no guest until the thread parks. Not at once: under steady load a wake-up a call would cost more than the
/// call.
const IDLE: Duration = Duration::from_millis(50);

/// The thread. Stops when dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
    pace: Arc<Pace>,
}

/// How often the thread ticks. Nothing here orders memory: what is seen late is seen at the next tick.
#[derive(Debug)]
pub(crate) struct Pace {
    seldom_ns: AtomicU64,
    runs_long: AtomicBool,
}

/// While this lives, the epoch advances.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Shared);

// === impl Ticker ===

impl Ticker {
    /// Starts the thread, parked.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (in_thread, engine) = (shared.clone(), engine.weak());
        let handle = thread::Builder::new().name("gristmill-epoch".into()).spawn(move || {
            let mut often = 0;
            while !in_thread.stopped.load(Ordering::SeqCst) {
                in_thread.park_while_idle();
                let mut idle = Duration::ZERO;
                while idle < IDLE {
                    let pause = if often > 0 { TICK } else { in_thread.pace.seldom() };
                    thread::sleep(pause);
                    let Some(engine) = engine.upgrade() else { return };
                    engine.increment_epoch();
                    often = in_thread.pace.ticks_often(often);
                    if in_thread.running.load(Ordering::SeqCst) > 0 {
                        // Not idle: the time without a guest starts again.
                        break;
                    }
                    idle += pause;
                }
            }
        })?;
        Ok(Self { shared, thread: handle.thread().clone(), handle: Some(handle) })
    }

    /// How often it ticks.
    pub(crate) fn pace(&self) -> &Arc<Pace> {
        &self.shared.pace
    }

    /// Keeps the epoch advancing until the guard is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        // The thread first says that it is parked and then looks for guests; here a guest is first counted and then the
        // thread looked at. In one total order one of the two sees the other.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // A panic of the thread has been reported by the panic hook.
            let _ = handle.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn park_while_idle(&self) {
        self.parked.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

// === impl Pace ===

impl Pace {
    /// A guest may be given no longer than this: from now on no two ticks are further apart.
    pub(crate) fn at_least_every(&self, deadline: Duration) {
        let deadline = deadline.max(TICK);
        self.seldom_ns.fetch_min(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How far apart two ticks are at most.
    pub(crate) fn seldom(&self) -> Duration {
        Duration::from_nanos(self.seldom_ns.load(Ordering::Relaxed))
    }

    /// A tick met a guest that had run for at least a [`TICK`]: the next ones come often.
    pub(crate) fn note_long(&self) {
        self.runs_long.store(true, Ordering::Relaxed);
    }

    /// For how many more ticks they come often, when it was this many before the last one.
    fn ticks_often(&self, before: u32) -> u32 {
        // The guest notes it after the tick that it met, so it is seen here a tick later, or two.
        if self.runs_long.swap(false, Ordering::Relaxed) { OFTEN_TICKS } else { before.saturating_sub(1) }
    }
}

impl Default for Pace {
    fn default() -> Self {
        let seldom = u64::try_from(SELDOM.as_nanos()).unwrap_or(u64::MAX);
        Self { seldom_ns: AtomicU64::new(seldom), runs_long: AtomicBool::new(false) }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_come_often_for_a_while_after_a_guest_that_runs_long() {
        let pace = Pace::default();
        assert_eq!(pace.ticks_often(0), 0);
        pace.note_long();
        let mut often = pace.ticks_often(0);
        assert_eq!(often, OFTEN_TICKS);
        let mut ticks = 0;
        while often > 0 {
            often = pace.ticks_often(often);
            ticks += 1;
        }
        assert_eq!(ticks, OFTEN_TICKS);
    }

    #[test]
    fn no_deadline_is_shorter_than_the_pause_between_two_ticks() {
        let pace = Pace::default();
        pace.at_least_every(Duration::from_secs(1));
        assert_eq!(pace.seldom(), SELDOM);
        pace.at_least_every(Duration::from_millis(2));
        pace.at_least_every(Duration::from_millis(3));
        assert_eq!(pace.seldom(), Duration::from_millis(2));
        pace.at_least_every(Duration::from_micros(1));
        assert_eq!(pace.seldom(), TICK);
    }
}
