//! One instance of a plugin: its store, its limits, its two entry points.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use gristmill_core::{
    Clock, MessageId, Moment,
    limits::{FlowLimits, PluginLimits},
    observe::PluginObserver,
    plugin::Grants,
};
use wasmtime::{
    Engine, ResourceLimiter, Store,
    component::{InstancePre, Lift, TypedFunc},
};

use crate::{
    contract::{CallParams, CallResults, ConfigureParams, ConfigureResults, WitFailure, WitMessage},
    fault::GuestFault,
    guest_time::{CallLimits, GuestTime},
    memory::Memory,
    output::GuestLog,
    secrets::Secrets,
    ticker::Ticker,
    wasi::Wasi,
};

/// The most component-model handles, and WASI resources, that an instance may hold at once.
pub(crate) const MAX_HANDLES: usize = 1_000;

/// The most elements that all tables of an instance may have together.
const MAX_TABLE_ELEMENTS: usize = 1_000_000;

/// The most core instances and tables of one component instance, each. A component out of a module has a handful, one
/// composed of several a few dozen.
const MAX_PARTS: usize = 256;

/// The most memories of one component instance. Each takes gigabytes of address space, however small it is.
const MAX_MEMORIES: usize = 4;

/// What all instances of a bound plugin share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) grants: Grants,
    pub(crate) limits: PluginLimits,
    /// See [`hostcall_fuel`].
    pub(crate) hostcall_fuel: usize,
    pub(crate) log: Arc<GuestLog>,
    /// What must not be in any text of the guest.
    pub(crate) secrets: Secrets,
    pub(crate) memory: Arc<Memory>,
    pub(crate) observer: Arc<dyn PluginObserver>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where the guest's monotonic clock starts.
    pub(crate) monotonic_base: Instant,
}

/// The host's side of one instance: what imports see.
pub(crate) struct GuestState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) limiter: MemoryLimiter,
    /// The message of the call that runs.
    pub(crate) message: Option<MessageId>,
    /// Made when the guest first asks for something of WASI.
    pub(crate) wasi: Option<Box<Wasi>>,
}

/// Counts what an instance takes.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    limit: usize,
    used: usize,
    tables: usize,
    /// Whether the guest was refused memory since the last call began. A guest that takes the refusal well goes on; one
    /// that dies of it died of this.
    pub(crate) refused: bool,
}

/// An instance, configured, with the entry point that its world names.
pub(crate) struct Instance<R: 'static> {
    store: Store<GuestState>,
    entry: TypedFunc<CallParams<'static>, CallResults<R>>,
    time: Arc<GuestTime>,
    calls: u64,
}

/// Why an instance could not be made.
#[derive(Debug)]
pub(crate) enum StartFault {
    /// The guest failed on the way.
    Guest(GuestFault),
    /// The guest refused its configuration, with its own words.
    Refused(String),
}

/// How many bytes a guest may hand to the host in one go: an answer at its limits twice over, as the host counts its own
/// overhead too. What is under it and still too large is told with numbers by the checks on answers; this is the wall
/// that keeps the host from allocating for a hostile one.
pub(crate) fn hostcall_fuel(limits: &FlowLimits) -> usize {
    const PER_CHANGE: usize = 512;
    const SLACK: usize = 1024 * 1024;
    limits
        .body_bytes
        .saturating_mul(2)
        .saturating_add(limits.header_bytes.saturating_mul(2))
        .saturating_add(limits.fan_out.saturating_mul(PER_CHANGE))
        .saturating_add(SLACK)
}

/// A store for one instance, governed by both limits.
pub(crate) fn new_store(
    engine: &Engine,
    shared: Arc<Shared>,
    ticker: &Ticker,
) -> (Store<GuestState>, Arc<GuestTime>) {
    let fuel = shared.hostcall_fuel;
    let mut store = Store::new(engine, GuestState::new(shared));
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(fuel);
    store.set_max_component_handles(MAX_HANDLES);
    let time = GuestTime::new(Arc::clone(ticker.pace()));
    time.govern(&mut store);
    (store, time)
}

// === impl GuestState ===

impl GuestState {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let limit = usize::try_from(u64::from(shared.limits.memory_mib) << 20).unwrap_or(usize::MAX);
        Self {
            shared,
            limiter: MemoryLimiter { limit, used: 0, tables: 0, refused: false },
            message: None,
            wasi: None,
        }
    }

    fn begin_call(&mut self, message: Option<&MessageId>) {
        self.message = message.cloned();
        self.limiter.refused = false;
        if let Some(wasi) = &self.wasi {
            wasi.begin_call(message);
        }
    }

    fn end_call(&mut self) {
        self.message = None;
        if let Some(wasi) = &self.wasi {
            wasi.end_call();
        }
    }

    /// What the guest last wrote to its stderr in this call.
    pub(crate) fn stderr_tail(&self) -> Option<String> {
        self.wasi.as_ref().and_then(|w| w.stderr_tail())
    }
}

// === impl MemoryLimiter ===

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let tables = self.tables.saturating_add(desired.saturating_sub(current));
        if tables > MAX_TABLE_ELEMENTS {
            self.refused = true;
            return Ok(false);
        }
        self.tables = tables;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_PARTS
    }

    fn tables(&self) -> usize {
        MAX_PARTS
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

// === impl Instance ===

impl<R: Lift + Send + Sync + 'static> Instance<R> {
    /// Instantiates and configures. Both may run guest code, so both are under the clocks: a language runtime may need
    /// long to start, so here the guest's limit is that of the whole call.
    ///
    /// # Errors
    /// See [`StartFault`].
    pub(crate) async fn start(
        pre: &InstancePre<GuestState>,
        entry: &str,
        shared: &Arc<Shared>,
        config: &str,
        ticker: &Ticker,
    ) -> Result<Self, StartFault> {
        let wall = Duration::from_millis(shared.limits.call_timeout_ms.max(shared.limits.deadline_ms));
        let limits = CallLimits { guest: wall, wall };
        let (mut store, time) = new_store(pre.engine(), shared.clone(), ticker);
        let _running = ticker.running();
        let starting = async {
            let instance = pre.instantiate_async(&mut store).await?;
            let configure =
                instance.get_typed_func::<ConfigureParams<'_>, ConfigureResults>(&mut store, "configure")?;
            let entry = instance.get_typed_func::<CallParams<'static>, CallResults<R>>(&mut store, entry)?;
            store.set_epoch_deadline(1);
            let (answer,) = configure.call_async(&mut store, (config,)).await?;
            wasmtime::Result::Ok((entry, answer))
        };
        let result = time.run(Moment::now(), limits, pin!(starting)).await;
        match result {
            Ok(Ok((entry, Ok(())))) => {
                store.data_mut().end_call();
                Ok(Self { store, entry, time, calls: 0 })
            }
            Ok(Ok((_, Err(text)))) => Err(StartFault::Refused(text)),
            Ok(Err(error)) => Err(StartFault::Guest(GuestFault::from_error(&error, store.data()))),
            Err(timeout) => Err(StartFault::Guest(GuestFault::from_timeout(timeout, store.data()))),
        }
    }

    /// Makes one call, whose time is counted from `started` on, which is a moment ago. After an error the instance is dead: drop
    /// it. The same holds when the future is dropped.
    ///
    /// # Errors
    /// The guest's fault; its own `reject` and `retry` are inside of the `Ok`.
    pub(crate) fn call<'a>(
        &'a mut self,
        id: &'a MessageId,
        headers: &'a [(&'a str, &'a str)],
        body: &'a [u8],
        started: Moment,
        limits: CallLimits,
        ticker: &'a Ticker,
    ) -> impl Future<Output = Result<Result<R, WitFailure>, GuestFault>> + Send + 'a {
        async move {
            self.calls += 1;
            self.store.data_mut().begin_call(Some(id));
            self.store.set_epoch_deadline(1);
            let _running = ticker.running();
            let message = WitMessage { id: id.as_str(), headers, body };
            // Covariance: a function that takes messages of any lifetime takes this one's.
            let entry: TypedFunc<CallParams<'_>, CallResults<R>> = self.entry;
            let result =
                self.time.run(started, limits, pin!(entry.call_async(&mut self.store, (message,)))).await;
            match result {
                Ok(Ok((answer,))) => {
                    self.store.data_mut().end_call();
                    Ok(answer)
                }
                Ok(Err(error)) => Err(GuestFault::from_error(&error, self.store.data())),
                Err(timeout) => Err(GuestFault::from_timeout(timeout, self.store.data())),
            }
        }
    }

    /// How many calls were made.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }
}
