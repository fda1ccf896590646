//! The thread that advances the engine's epoch, by which running guests are interrupted. It sleeps for as long as no
//! guest runs: a tick a millisecond would cost an idle machine about 2 % of a core for nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use wasmtime::Engine;

/// How far apart two ticks are: the grain of deadlines, and how long a guest runs before other tasks get their turn.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// After how many ticks without a guest the thread parks. Not at once: under steady load a wake-up a call would cost more
/// than the call.
const IDLE_TICKS: u32 = 50;

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
            while !in_thread.stopped.load(Ordering::SeqCst) {
                in_thread.park_while_idle();
                for _ in 0..IDLE_TICKS {
                    thread::sleep(TICK);
                    let Some(engine) = engine.upgrade() else { return };
                    engine.increment_epoch();
                    if in_thread.running.load(Ordering::SeqCst) > 0 {
                        // Not idle: the count of idle ticks starts again.
                        break;
                    }
                }
            }
        })?;
        Ok(Self { shared, thread: handle.thread().clone(), handle: Some(handle) })
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

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
