//! A plugin bound to a step: a warm pool of instances, one call at a time each, under the limits of the step.

use std::{
    marker::PhantomData,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use gristmill_core::{
    ErrorClass, Failure, Message, Moment, Stopwatch,
    limits::{FlowLimits, PluginLimits},
    plugin::{Health, Plugin, Transformed, WantsHeaders},
    step::Next,
};
use smallvec::SmallVec;
use tokio::sync::{Semaphore, watch};
use wasmtime::component::{InstancePre, Lift};

use crate::{
    answer::{MAX_REASON_BYTES, check_outcome, check_routes},
    contract::{WitFailure, WitOutcome},
    fault::GuestFault,
    guest_time::CallLimits,
    instance::{GuestState, Instance, Shared, StartFault},
    quarantine::{Quarantine, Verdict},
    secrets::Secrets,
    sync::lock,
    text::clean,
    ticker::Ticker,
};

/// What a world is about: its entry point, and what the entry point gives.
pub(crate) trait Entry: Send + Sync + 'static {
    /// As the guest gives it.
    type Raw: Lift + Send + Sync + 'static;
    /// As the engine gets it.
    type Answer: Send;
    /// The export.
    const NAME: &'static str;

    /// Holds what the guest gave against the limits.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn check(raw: Self::Raw, limits: &FlowLimits, secrets: &Secrets) -> Result<Self::Answer, String>;
}

/// So many headers are handed over without asking for memory. Few plugins want more, and every call has room for them.
const FEW_HEADERS: usize = 2;

/// How many instances there are at most, if nothing is said of it. Asked once: the answer is read from several files.
static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, NonZeroUsize::get));

/// The entry point of the world `transformer`.
pub(crate) enum Transform {}

/// The entry point of the world `router`.
pub(crate) enum Route {}

/// A plugin bound to a step.
pub(crate) struct Bound<E: Entry> {
    parts: BoundParts,
    free: Semaphore,
    idle: Mutex<Vec<Instance<E::Raw>>>,
    _entry: PhantomData<E>,
}

/// What a plugin is bound with.
pub(crate) struct BoundParts {
    pub(crate) pre: InstancePre<GuestState>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) flow_limits: FlowLimits,
    /// The configuration as JSON text.
    pub(crate) config: String,
    pub(crate) wants_headers: WantsHeaders,
    pub(crate) wants_body: bool,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) quarantine: Arc<Quarantine>,
}

/// A call that failed, and whether the guest is to blame.
struct Failed {
    failure: Failure,
    verdict: Verdict,
}

// === impl Entry ===

impl Entry for Transform {
    type Raw = WitOutcome;
    type Answer = Transformed;
    const NAME: &'static str = "transform";

    fn check(raw: WitOutcome, limits: &FlowLimits, secrets: &Secrets) -> Result<Transformed, String> {
        check_outcome(raw, limits, secrets)
    }
}

impl Entry for Route {
    type Raw = Vec<String>;
    type Answer = Vec<String>;
    const NAME: &'static str = "route";

    fn check(raw: Vec<String>, _: &FlowLimits, secrets: &Secrets) -> Result<Vec<String>, String> {
        check_routes(raw, secrets)
    }
}

// === impl Bound ===

impl<E: Entry> Bound<E> {
    /// Binds, with a first instance that has been configured.
    ///
    /// # Errors
    /// When that instance cannot be made.
    pub(crate) async fn new(parts: BoundParts) -> Result<Self, StartFault> {
        let limits = &parts.shared.limits;
        let instances = limits.instances.unwrap_or(*PROCESSORS);
        parts.ticker.pace().at_least_every(Duration::from_millis(limits.deadline_ms));
        let first = parts.start_instance::<E>().await?;
        Ok(Self {
            parts,
            free: Semaphore::new(instances.clamp(1, Semaphore::MAX_PERMITS)),
            idle: Mutex::new(vec![first]),
            _entry: PhantomData,
        })
    }

    /// One call, from the quarantine's leave to its verdict.
    ///
    /// Not an `async fn`, as little as what it calls: those have room for their arguments twice, and all of this together is to
    /// be small enough for the allocator to have it at hand.
    fn call<'a>(
        &'a self,
        message: &'a Message,
        watch: &'a Stopwatch,
    ) -> impl Future<Output = Result<E::Answer, Failure>> + Send + 'a {
        async move {
            let started = watch.recent();
            let quarantine = &self.parts.quarantine;
            quarantine.check()?;
            // Never closed, so this only waits; what waits here when the plugin is held back is refused by `admit`.
            let (_permit, waited) = match self.free.try_acquire() {
                Ok(permit) => (permit, false),
                Err(_all_are_busy) => {
                    (self.free.acquire().await.map_err(|e| internal(&e.to_string()))?, true)
                }
            };
            let ticket = quarantine.admit()?;
            let begun = if waited { watch.read() } else { started };
            let result = self.attempt(message, begun).await;
            let (verdict, failure) = match &result {
                Ok(_) => (Verdict::Fine, None),
                Err(Failed { failure, verdict }) => (*verdict, Some(failure)),
            };
            ticket.settle(verdict, message.id(), failure);
            self.parts.shared.observer.call(message, watch.read().since(started), failure);
            result.map_err(|failed| failed.failure)
        }
    }

    /// One call in an instance of its own. The instance comes back only after an answer that keeps the contract: after an
    /// error, and when this future is dropped half-way, it is thrown away.
    fn attempt<'a>(
        &'a self,
        message: &'a Message,
        mut begun: Moment,
    ) -> impl Future<Output = Result<E::Answer, Failed>> + Send + 'a {
        async move {
            let parts = &self.parts;
            let shared = &*parts.shared;
            let mut taken = lock(&self.idle).pop();
            if taken.is_none() {
                // Boxed: few calls begin with it, and all would have room for it.
                let start = Box::pin(parts.start_instance::<E>());
                taken = Some(start.await.map_err(|fault| Failed::start(fault, &shared.secrets))?);
                begun = Moment::now();
            }
            let Some(instance) = &mut taken else { return Err(Failed::internal("there is no instance")) };
            let answer = {
                let headers = wanted(&parts.wants_headers, message);
                let body: &[u8] = if parts.wants_body { message.body() } else { &[] };
                let limits = call_limits(&shared.limits, body.len());
                instance.call(message.id(), &headers, body, begun, limits, &parts.ticker).await
            };
            let result = match answer.map_err(Failed::guest)? {
                Ok(raw) => Ok(E::check(raw, &parts.flow_limits, &shared.secrets).map_err(|text| {
                    let text = shared.secrets.redact(&text).into_owned();
                    Failed::guest(GuestFault::malformed(text))
                })?),
                Err(WitFailure::Reject(text)) => {
                    Err(Failed::said(ErrorClass::PluginRejected, &shared.secrets.redact(&text)))
                }
                Err(WitFailure::Retry(text)) => {
                    Err(Failed::said(ErrorClass::PluginRetry, &shared.secrets.redact(&text)))
                }
            };
            if let Some(instance) = taken.filter(|it| it.calls() < shared.limits.calls_per_instance) {
                lock(&self.idle).push(instance);
            }
            result
        }
    }
}

impl BoundParts {
    async fn start_instance<E: Entry>(&self) -> Result<Instance<E::Raw>, StartFault> {
        Instance::start(&self.pre, E::NAME, &self.shared, &self.config, &self.ticker).await
    }
}

#[async_trait]
impl Plugin for Bound<Transform> {
    async fn transform(&self, message: &Message, watch: &Stopwatch) -> Result<Transformed, Failure> {
        self.call(message, watch).await
    }

    /// Not an `async fn`, which would have room for the message twice.
    fn transform_and_apply<'a>(
        &'a self,
        message: Message,
        limits: &'a FlowLimits,
        watch: &'a Stopwatch,
    ) -> Pin<Box<dyn Future<Output = Result<Next, Failure>> + Send + 'a>> {
        Box::pin(async move { self.call(&message, watch).await?.apply(message, limits) })
    }

    async fn route(&self, _: &Message, _: &Stopwatch) -> Result<Vec<String>, Failure> {
        Err(internal("a transformer was asked for routes"))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.parts.quarantine.health()
    }
}

#[async_trait]
impl Plugin for Bound<Route> {
    async fn transform(&self, _: &Message, _: &Stopwatch) -> Result<Transformed, Failure> {
        Err(internal("a router was asked to transform"))
    }

    async fn route(&self, message: &Message, watch: &Stopwatch) -> Result<Vec<String>, Failure> {
        self.call(message, watch).await
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.parts.quarantine.health()
    }
}

/// The deadline grows with the body: what a good plugin does takes longer for a large one, and who sends it must not be
/// able to make the plugin look like a bad one.
fn call_limits(limits: &PluginLimits, body_bytes: usize) -> CallLimits {
    const DEADLINE_BYTES: usize = 1024 * 1024;
    let times = u64::try_from(body_bytes.div_ceil(DEADLINE_BYTES).max(1)).unwrap_or(u64::MAX);
    let guest = limits.deadline_ms.saturating_mul(times);
    CallLimits {
        guest: Duration::from_millis(guest),
        wall: Duration::from_millis(limits.call_timeout_ms.max(guest)),
    }
}

fn internal(text: &str) -> Failure {
    Failure::new(ErrorClass::Internal, text)
}

/// The headers that the plugin asked for, in the message's order.
fn wanted<'m>(wants: &'m WantsHeaders, message: &'m Message) -> SmallVec<[(&'m str, &'m str); FEW_HEADERS]> {
    match wants {
        WantsHeaders::None => SmallVec::new(),
        WantsHeaders::All => message.headers().iter().collect(),
        WantsHeaders::Listed(names) => message.headers().named(names).collect(),
    }
}

// === impl Failed ===

impl Failed {
    /// No fault of the guest.
    fn internal(text: &str) -> Self {
        Self { failure: internal(text), verdict: Verdict::Unknown }
    }

    /// The guest answered with a failure of the message.
    fn said(class: ErrorClass, text: &str) -> Self {
        let text = clean(text, MAX_REASON_BYTES, false).into_owned();
        Self { failure: Failure::new(class, text), verdict: Verdict::Fine }
    }

    fn guest(fault: GuestFault) -> Self {
        let verdict = if fault.blames_guest() { Verdict::Fault } else { Verdict::Unknown };
        Self { failure: fault.into_failure(), verdict }
    }

    /// An instance could not be made, though one could when the plugin was bound.
    fn start(fault: StartFault, secrets: &Secrets) -> Self {
        Self::guest(match fault {
            StartFault::Guest(fault) => fault,
            StartFault::Refused(text) => GuestFault::malformed(format!(
                "the plugin refused the configuration that it had taken before: {}",
                clean(&secrets.redact(&text), MAX_REASON_BYTES, false)
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_grows_with_every_started_mebibyte() {
        const MIB: usize = 1024 * 1024;
        let limits = PluginLimits { deadline_ms: 100, call_timeout_ms: 250, ..PluginLimits::default() };
        for (body, guest, wall) in [(0, 100, 250), (MIB, 100, 250), (MIB + 1, 200, 250), (8 * MIB, 800, 800)]
        {
            let calls = call_limits(&limits, body);
            assert_eq!((calls.guest.as_millis(), calls.wall.as_millis()), (guest, wall), "{body}");
        }
    }
}
