//! The runtime: the set of flows that run, and how it is replaced. Start and reload are one code path: [`Runtime::apply`]
//! takes the files as they are now, and makes what runs agree with them.
//!
//! Each changed flow goes through: check, build (bind plugins, open sinks), prepare (the source), and only then the swap. What
//! fails on the way is dropped, and what ran goes on.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream};
use gristmill_core::{
    Clock,
    config::Mistake,
    connection::{ConnectionState, Connections},
    observe::{Observer, ReloadResult},
    source::{Claim, EndpointContext, PreparedSource, SourceSpec},
};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    flow::{CheckedFile, CheckedFlow, FlowFile, SetContext, check_set},
    run::{
        build::build,
        endpoint::{Endpoint, EndpointState, close_and_drain, end},
        version::Version,
    },
};

/// How many flows are made ready at once.
const FLOWS_PREPARED_AT_ONCE: usize = 8;

/// How often a flow that could not be started, or brought to its new version, is tried again.
pub const DOWN_RETRY: Duration = Duration::from_secs(5);

/// How long what is left to do after the last settlement may take at a shutdown: progress that is brought to disk, answers
/// that are sent.
const FINISH_LIMIT: Duration = Duration::from_secs(5);

/// What a runtime is made of.
#[derive(Clone)]
pub struct RuntimeParts {
    /// What flows are checked with.
    pub context: SetContext,
    /// Hooks.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where sources keep what has to survive a restart: a folder a flow is made in it.
    pub state_dir: PathBuf,
}

/// The flows that run.
pub struct Runtime {
    parts: RuntimeParts,
    slots: Mutex<BTreeMap<Arc<str>, Slot>>,
    /// Files without a flow that runs or is down, with their mistakes.
    broken: Mutex<BTreeMap<PathBuf, Broken>>,
    /// What flows are checked with, its connections being those of now.
    context: Mutex<SetContext>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    /// The drains of endpoints that were replaced or removed.
    drains: tokio_util::task::TaskTracker,
    /// Wakes who waits for a flow after every change.
    changed: watch::Sender<()>,
}

/// A flow and what runs of it.
struct Slot {
    file: PathBuf,
    running: Option<Running>,
    /// Why it does not run, if that may pass by itself.
    down: Option<String>,
    /// Why the file as it is now was refused.
    refused: Vec<Mistake>,
    refused_because: Option<String>,
}

/// A file without a flow that runs or is down.
struct Broken {
    /// The id that stands in it.
    id: Option<Arc<str>>,
    mistakes: Vec<Mistake>,
}

#[derive(Clone)]
struct Running {
    endpoint: Arc<Endpoint>,
    version: Arc<Version>,
    identity: Arc<str>,
    fingerprint: Arc<str>,
    holdings: Arc<Holdings>,
}

/// What became of one file.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The file; for a flow that was removed, the one it had.
    pub file: PathBuf,
    /// The flow, as far as it is known.
    pub flow: Option<Arc<str>>,
    /// The version that runs now.
    pub version: Option<Arc<str>>,
    /// How it ended.
    pub result: ReloadResult,
    /// The mistakes for which it was refused.
    pub mistakes: Vec<Mistake>,
    /// What was in the way, if it was not a mistake in the file.
    pub problem: Option<String>,
    /// Whether it is not as it was the time before: refused for exactly this, or unchanged. What has been said need not be said
    /// again.
    pub is_news: bool,
}

/// How a flow is.
#[derive(Debug, Clone, Serialize)]
pub struct FlowStatus {
    /// Its id; `None` for a file from which none could be read.
    pub flow: Option<Arc<str>>,
    /// Its file.
    pub file: PathBuf,
    /// The version that runs.
    pub version: Option<Arc<str>>,
    /// How it is.
    pub state: FlowState,
    /// Deliveries that have not settled.
    pub in_flight: usize,
    /// Why the file as it is now does not run, while an older version does.
    pub refused: Option<String>,
}

/// How a flow is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "because")]
pub enum FlowState {
    /// It takes messages.
    Running,
    /// Its source has no more messages.
    Finished,
    /// Its source cannot go on for now, or a connection that it names is not up.
    Degraded(String),
    /// A plugin is held back.
    Paused(String),
    /// It does not run.
    Down(String),
}

/// A flow that is ready to be swapped in.
struct Ready {
    version: Arc<Version>,
    source: ReadySource,
    file: PathBuf,
    identity: Arc<str>,
    fingerprint: Arc<str>,
    holdings: Arc<Holdings>,
}

/// What a source has while it runs.
struct Holdings {
    claims: Vec<Claim>,
    source: Arc<dyn SourceSpec>,
}

enum ReadySource {
    /// The endpoint is the same, with the same settings.
    Keep(Arc<Endpoint>),
    /// The endpoint is the same, with other settings.
    TakeOver(Arc<Endpoint>, Box<dyn PreparedSource>),
    /// A new endpoint.
    Start(Box<dyn PreparedSource>),
}

// === impl Runtime ===

impl Runtime {
    /// A runtime without flows. Wants a tokio runtime around it.
    pub fn new(parts: RuntimeParts) -> Self {
        Self {
            context: Mutex::new(parts.context.clone()),
            parts,
            slots: Mutex::default(),
            broken: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            drains: tokio_util::task::TaskTracker::new(),
            changed: watch::Sender::new(()),
        }
    }

    /// The connections that flows can name, from the next [`Runtime::apply`] on.
    pub fn set_connections(&self, connections: Arc<Connections>) {
        self.context.lock().unwrap_or_else(PoisonError::into_inner).connections = connections;
    }

    /// Makes what runs agree with these files: starts what is new, replaces what is different, drains and stops what is gone.
    /// A file with mistakes changes nothing. Draining goes on after this has returned.
    pub async fn apply(&self, files: Vec<FlowFile>) -> Vec<Applied> {
        let _one_at_a_time = self.changing.lock().await;
        let owners: HashMap<Arc<str>, PathBuf> =
            self.slots().iter().map(|(id, slot)| (Arc::clone(id), slot.file.clone())).collect();
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let checked = check_set(files, &context, &owners).await;

        let mut applied = Vec::new();
        let mut changed = Vec::new();
        let mut broken = BTreeMap::new();
        // The flows that are in no file any more, with the file that each was in.
        let mut gone: BTreeMap<Arc<str>, PathBuf> = owners.into_iter().collect();
        for CheckedFile { path, unique, result } in checked {
            match result {
                Err(mistakes) => {
                    let owned = self.owned_by(&path, &mut gone);
                    let is_unowned = owned.is_none();
                    let mut refused = self.refused(path.clone(), owned, mistakes.clone(), None);
                    if is_unowned {
                        let id = unique.id.map(|(id, _)| id);
                        // An id that another file has is no name for this one.
                        refused.flow = id.clone().filter(|id| !self.slots().contains_key(id));
                        let before = self.broken();
                        refused.is_news = before.get(&path).is_none_or(|before| before.mistakes != mistakes);
                        broken.insert(path, Broken { id, mistakes });
                    }
                    applied.push(refused);
                }
                Ok(flow) => {
                    gone.remove(&flow.id);
                    changed.push(flow);
                }
            }
        }
        *self.broken() = broken;

        // A flow that got another id in its file goes on until the flow of that id runs.
        let mut renamed: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
        for flow in &changed {
            if let Some(old) = self.owned_by(&flow.file, &mut gone) {
                renamed.insert(old, Arc::clone(&flow.id));
            }
        }

        let mut ready =
            stream::iter(changed).map(|flow| self.make_ready(flow)).buffer_unordered(FLOWS_PREPARED_AT_ONCE);
        let mut contested = Vec::new();
        while let Some(result) = ready.next().await {
            match result {
                Ok(ready) if !self.holders(&ready).is_empty() => contested.push(ready),
                Ok(ready) => applied.push(self.swap_in(ready).await),
                Err(done) => applied.push(done),
            }
        }
        drop(ready);
        let leaves = |id: &Arc<str>| gone.contains_key(id) || renamed.contains_key(id);
        while let Some((at, holder)) = self.hopeless(&contested, leaves) {
            let Ready { version, file, .. } = contested.swap_remove(at);
            let problem = format!(
                "its source is held by the flow `{holder}`, or in conflict with it, and that one runs on as it was"
            );
            applied.push(self.refused(file, Some(Arc::clone(&version.facts.id)), Vec::new(), Some(problem)));
        }
        for ready in contested {
            applied.push(self.swap_in(ready).await);
        }

        for (old, new) in renamed {
            let runs = |id| self.slots().get(id).is_some_and(|slot| slot.running.is_some());
            let file = self.slots().get(&old).map(|slot| slot.file.clone()).unwrap_or_default();
            if runs(&new) || !runs(&old) {
                applied.push(self.remove(file, old));
            } else {
                let problem = format!("the flow `{new}`, which its file holds now, could not be started");
                applied.push(self.refused(file, Some(old), Vec::new(), Some(problem)));
            }
        }
        for (id, file) in gone {
            applied.push(self.remove(file, id));
        }
        applied.sort_by(|a, b| (&a.file, &a.flow).cmp(&(&b.file, &b.flow)));
        for one in applied.iter().filter(|one| one.is_news) {
            let name = one.flow.as_deref().unwrap_or_default();
            self.parts.observer.reload(name, one.result);
        }
        self.changed.send_replace(());
        applied
    }

    /// Takes the flow that came from this file out of `gone`. One that never ran is forgotten when there is another: its
    /// id was in the file for a while only.
    fn owned_by(&self, file: &Path, gone: &mut BTreeMap<Arc<str>, PathBuf>) -> Option<Arc<str>> {
        let mut slots = self.slots();
        let mut owned: Vec<Arc<str>> =
            gone.iter().filter(|(_, f)| *f == file).map(|(id, _)| Arc::clone(id)).collect();
        owned.sort_by_key(|id| slots.get(id).is_none_or(|slot| slot.running.is_none()));
        for id in &owned {
            gone.remove(id);
        }
        for never_ran in owned.drain(1.min(owned.len())..) {
            slots.remove(&never_ran);
        }
        owned.pop()
    }

    /// The flows that run and have what only one can have and this one wants, or are in conflict with it.
    fn holders(&self, ready: &Ready) -> Vec<Arc<str>> {
        let holds =
            |slot: &Slot| slot.running.as_ref().is_some_and(|it| it.holdings.exclude(&ready.holdings));
        let slots = self.slots();
        let others = slots.iter().filter(|(id, slot)| **id != ready.version.facts.id && holds(slot));
        others.map(|(id, _)| Arc::clone(id)).collect()
    }

    /// The first of these that wants what a flow has that will not give it up: one that neither leaves nor is itself about
    /// to be swapped.
    fn hopeless(&self, contested: &[Ready], leaves: impl Fn(&Arc<str>) -> bool) -> Option<(usize, Arc<str>)> {
        contested.iter().enumerate().find_map(|(at, ready)| {
            let moves = |holder: &Arc<str>| {
                leaves(holder) || contested.iter().any(|other| other.version.facts.id == *holder)
            };
            self.holders(ready).into_iter().find(|holder| !moves(holder)).map(|holder| (at, holder))
        })
    }

    /// Whether a flow is down, or its new version was refused, for a reason that may pass by itself, so that applying the same
    /// files again can help: a broker that is away, a port in use.
    pub fn wants_retry(&self) -> bool {
        self.slots().values().any(|slot| match &slot.running {
            Some(running) => running.endpoint.has_ended() || slot.refused_because.is_some(),
            None => slot.down.is_some(),
        })
    }

    /// Drains and stops every flow. Returns how many deliveries had to be released because the drain limit was reached.
    pub async fn shutdown(&self) -> usize {
        let _one_at_a_time = self.changing.lock().await;
        let slots = std::mem::take(&mut *self.slots());
        let running: Vec<Running> = slots.into_values().filter_map(|slot| slot.running).collect();
        let drains = running.into_iter().map(|Running { endpoint, version, .. }| async move {
            let left = close_and_drain(&endpoint, &version, None, version.limits.drain()).await;
            endpoint.older_drained().await;
            finish(end(endpoint)).await;
            left
        });
        let left = futures_util::future::join_all(drains).await.into_iter().sum();
        self.drains.close();
        self.drains.wait().await;
        let adapters: Vec<_> = self.parts.context.registry.iter().map(|(_, adapter)| adapter).collect();
        finish(futures_util::future::join_all(adapters.iter().map(|adapter| adapter.finish()))).await;
        self.changed.send_replace(());
        left
    }

    /// How the network connections of each adapter are, by the adapter's name.
    pub fn connection_states(&self) -> Vec<(&'static str, ConnectionState)> {
        let adapters = self.parts.context.registry.iter();
        adapters.flat_map(|(name, it)| it.connection_states().into_iter().map(move |s| (name, s))).collect()
    }

    /// Why connections are not up, by their name.
    fn connection_problems(&self) -> HashMap<Arc<str>, String> {
        let states = self.connection_states().into_iter().filter(|(_, state)| !state.is_up);
        let problems = states.filter_map(|(_, state)| {
            let text = format!("{} ({})", state.problem?, state.role);
            Some((state.name, text))
        });
        problems.collect()
    }

    /// How every flow is, by id, then the files from which none could be read.
    pub fn status(&self) -> Vec<FlowStatus> {
        let problems = self.connection_problems();
        let slots = self.slots();
        let mut all: Vec<FlowStatus> = slots.iter().map(|(id, slot)| slot.status(id, &problems)).collect();
        all.extend(self.broken().iter().map(|(file, broken)| FlowStatus {
            // An id that another file has is no name for this one.
            flow: broken.id.clone().filter(|id| !slots.contains_key(id)),
            file: file.clone(),
            version: None,
            state: FlowState::Down(summary(&broken.mistakes)),
            in_flight: 0,
            refused: None,
        }));
        all
    }

    /// Waits until a flow is in a state. For tests and for commands that wait; ends never if it is never so.
    pub async fn wait_for(&self, flow: &str, mut is: impl FnMut(&FlowState) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            // Watched before it is looked at, so that no change falls between the two.
            changed.mark_unchanged();
            let watched = {
                let slots = self.slots();
                let slot = slots.get(flow);
                let watched =
                    slot.and_then(|slot| slot.running.as_ref()).map(|running| running.endpoint.watch());
                if slot.is_some_and(|slot| is(&slot.state())) {
                    return;
                }
                watched
            };
            let endpoint = async {
                let changed = match watched {
                    Some(mut watched) => watched.changed().await.is_ok(),
                    None => false,
                };
                if !changed {
                    // What does not run, or has ended, changes no more until it is started again.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = endpoint => {}
                // The sender lives as long as this runtime.
                _ = changed.changed() => {}
            }
        }
    }

    async fn make_ready(&self, flow: CheckedFlow) -> Result<Ready, Applied> {
        let running = self.slots().get(&flow.id).and_then(|slot| slot.running.clone());
        let running = running.filter(|running| !running.endpoint.has_ended());
        if let Some(running) =
            running.as_ref().filter(|running| running.version.facts.version == flow.version)
        {
            let mut was_refused = false;
            if let Some(slot) = self.slots().get_mut(&flow.id) {
                was_refused = !slot.refused.is_empty() || slot.refused_because.is_some();
                let before = std::mem::replace(&mut slot.file, flow.file.clone());
                if before != flow.file {
                    let (file, before) = (flow.file.display(), before.display());
                    tracing::info!(
                        target: "gristmill::reload", flow = &*flow.id,
                        "{file}: the flow is now read from here, and before from {before}"
                    );
                }
                slot.refused.clear();
                slot.refused_because = None;
            }
            return Err(Applied {
                file: flow.file,
                flow: Some(flow.id),
                version: Some(Arc::clone(&running.version.facts.version)),
                result: ReloadResult::Unchanged,
                mistakes: Vec::new(),
                problem: None,
                is_news: was_refused,
            });
        }
        let (id, file, limit) = (Arc::clone(&flow.id), flow.file.clone(), flow.limits.prepare());
        // An adapter that panics must not take the reload of the other flows with it.
        let prepare = AssertUnwindSafe(self.prepare(flow, running)).catch_unwind();
        let prepared = match tokio::time::timeout(limit, prepare).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(_panic)) => {
                Err("making it ready ended by a fault of the runtime or of its adapter".into())
            }
            Err(_elapsed) => Err(not_ready_within(limit)),
        };
        prepared.map_err(|problem| self.refused(file, Some(id), Vec::new(), Some(problem)))
    }

    async fn prepare(&self, flow: CheckedFlow, running: Option<Running>) -> Result<Ready, String> {
        let identity: Arc<str> = flow.source.identity().into();
        let fingerprint: Arc<str> = flow.source_fingerprint.as_str().into();
        let holdings = Arc::new(Holdings::of(Arc::clone(&flow.source)));
        let (file, source) = (flow.file.clone(), Arc::clone(&flow.source));
        let context = EndpointContext {
            flow: Arc::clone(&flow.id),
            limits: flow.limits.clone(),
            state_dir: self.parts.state_dir.join(&*flow.id),
            clock: Arc::clone(&self.parts.clock),
            observer: self.parts.observer.endpoint(&flow.id),
        };
        let version = Arc::new(build(flow, &self.parts.observer, &self.parts.clock).await?);
        let source = match running {
            Some(running) if running.identity == identity && running.fingerprint == fingerprint => {
                ReadySource::Keep(running.endpoint)
            }
            running => {
                let prepared = source.prepare(context).await.map_err(|e| e.to_string())?;
                match running.filter(|running| running.identity == identity) {
                    Some(running) => ReadySource::TakeOver(running.endpoint, prepared),
                    None => ReadySource::Start(prepared),
                }
            }
        };
        Ok(Ready { version, source, file, identity, fingerprint, holdings })
    }

    /// The swap. What can still fail here leaves what ran as it was.
    async fn swap_in(&self, ready: Ready) -> Applied {
        let Ready { version, source, file, identity, fingerprint, holdings } = ready;
        let id = Arc::clone(&version.facts.id);
        let before = self.slots().get(&id).and_then(|slot| slot.running.clone());
        let swapped = match source {
            ReadySource::Keep(endpoint) => match endpoint.attach(Arc::clone(&version)).await {
                Ok(old) => {
                    drain_in_background(&endpoint, old);
                    Ok(endpoint)
                }
                Err(error) => Err(error.text),
            },
            ReadySource::TakeOver(endpoint, prepared) => {
                match endpoint.take_over(prepared, Arc::clone(&version)).await {
                    Ok(old) => {
                        drain_in_background(&endpoint, old);
                        Ok(endpoint)
                    }
                    Err(error) => Err(error.text),
                }
            }
            ReadySource::Start(prepared) => match start(prepared, &version).await {
                Ok(endpoint) => {
                    if let Some(before) = before {
                        self.close_in_background(before, Some(Arc::clone(&endpoint)));
                    }
                    Ok(endpoint)
                }
                Err(problem) => Err(problem),
            },
        };
        let endpoint = match swapped {
            Ok(endpoint) => endpoint,
            Err(problem) => return self.refused(file, Some(id), Vec::new(), Some(problem)),
        };
        let number = Arc::clone(&version.facts.version);
        let slot = Slot {
            file: file.clone(),
            running: Some(Running { endpoint, version, identity, fingerprint, holdings }),
            down: None,
            refused: Vec::new(),
            refused_because: None,
        };
        self.slots().insert(Arc::clone(&id), slot);
        Applied {
            file,
            flow: Some(id),
            version: Some(number),
            result: ReloadResult::Applied,
            mistakes: Vec::new(),
            problem: None,
            is_news: true,
        }
    }

    /// Notes that a file was refused; what ran of it goes on.
    fn refused(
        &self,
        file: PathBuf,
        flow: Option<Arc<str>>,
        mistakes: Vec<Mistake>,
        problem: Option<String>,
    ) -> Applied {
        let mut version = None;
        let mut is_news = true;
        if let Some(id) = &flow {
            let mut slots = self.slots();
            let slot = slots.entry(Arc::clone(id)).or_insert_with(|| Slot {
                file: file.clone(),
                running: None,
                down: None,
                refused: Vec::new(),
                refused_because: None,
            });
            version = slot.running.as_ref().map(|running| Arc::clone(&running.version.facts.version));
            is_news = (&slot.refused, &slot.refused_because) != (&mistakes, &problem);
            slot.file.clone_from(&file);
            slot.refused.clone_from(&mistakes);
            slot.refused_because.clone_from(&problem);
            slot.down = problem.clone().filter(|_| slot.running.is_none());
        }
        Applied { file, flow, version, result: ReloadResult::Refused, mistakes, problem, is_news }
    }

    fn remove(&self, file: PathBuf, id: Arc<str>) -> Applied {
        let slot = self.slots().remove(&id);
        if let Some(running) = slot.and_then(|slot| slot.running) {
            self.close_in_background(running, None);
        }
        Applied {
            file,
            flow: Some(id),
            version: None,
            result: ReloadResult::Removed,
            mistakes: Vec::new(),
            problem: None,
            is_news: true,
        }
    }

    fn close_in_background(&self, old: Running, heir: Option<Arc<Endpoint>>) {
        self.drains.spawn(async move {
            let Running { endpoint, version, .. } = old;
            let limit = version.limits.drain();
            endpoint.retire();
            let left = close_and_drain(&endpoint, &version, heir.as_deref(), limit).await;
            endpoint.older_drained().await;
            drop(heir);
            finish(end(endpoint)).await;
            if left > 0 {
                tracing::warn!(
                    target: "gristmill::reload", flow = &*version.facts.id, version = &*version.facts.version, left,
                    "the endpoint reached its drain limit; what was left is offered to the flow's new one, or released"
                );
            }
        });
    }

    fn broken(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Broken>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that can panic runs under this lock.
    fn slots(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a source with its first version.
async fn start(prepared: Box<dyn PreparedSource>, version: &Arc<Version>) -> Result<Arc<Endpoint>, String> {
    let limit = version.limits.prepare();
    match tokio::time::timeout(limit, AssertUnwindSafe(prepared.start()).catch_unwind()).await {
        Ok(Ok(Ok(source))) => Ok(Arc::new(Endpoint::start(source, Arc::clone(version)))),
        Ok(Ok(Err(error))) => Err(error.text),
        Ok(Err(_panic)) => Err("starting its source ended by a fault of the adapter".into()),
        Err(_elapsed) => Err(not_ready_within(limit)),
    }
}

fn not_ready_within(limit: Duration) -> String {
    format!("it was not ready within {} ms (limits.prepare_ms)", limit.as_millis())
}

/// Waits for a version that was replaced, on an endpoint that goes on.
fn drain_in_background(endpoint: &Endpoint, old: Arc<Version>) {
    endpoint.drain_older(async move {
        let left = old.drain(old.limits.drain()).await;
        if left > 0 {
            tracing::warn!(
                target: "gristmill::reload", flow = &*old.facts.id, version = &*old.facts.version, left,
                "the old version reached its drain limit; what was left is offered to the new one"
            );
        }
    });
}

/// Waits for what is left to do after the last settlement, but not for ever.
async fn finish(rest: impl Future) {
    if tokio::time::timeout(FINISH_LIMIT, rest).await.is_err() {
        tracing::warn!(
            target: "gristmill::reload",
            "what was left to do after the last settlement took longer than {} ms, and is given up",
            FINISH_LIMIT.as_millis()
        );
    }
}

// === impl Holdings ===

impl Holdings {
    fn of(source: Arc<dyn SourceSpec>) -> Self {
        Self { claims: source.claims(), source }
    }

    /// Whether the two cannot be held by two flows at once.
    fn exclude(&self, other: &Self) -> bool {
        self.claims.iter().any(|claim| other.claims.contains(claim))
            || self.source.conflict(&*other.source).is_some()
    }
}

// === impl Slot ===

impl Slot {
    fn state(&self) -> FlowState {
        match &self.running {
            Some(running) => match running.endpoint.state() {
                EndpointState::Running => FlowState::Running,
                EndpointState::Degraded(why) => FlowState::Degraded(why),
                EndpointState::Paused(why) => FlowState::Paused(why),
                EndpointState::Finished => FlowState::Finished,
                EndpointState::Ended => FlowState::Down(
                    "its source was ended by a fault of the runtime or of its adapter; it is started again"
                        .into(),
                ),
            },
            None => FlowState::Down(self.down.clone().unwrap_or_else(|| summary(&self.refused))),
        }
    }

    /// `problems` are those of connections: one of a sink is told by no one else before a message comes.
    fn status(&self, id: &Arc<str>, problems: &HashMap<Arc<str>, String>) -> FlowStatus {
        let state = match (self.state(), &self.running) {
            (FlowState::Running, Some(running)) => {
                let names = running.version.connections.iter();
                let problem = names.into_iter().find_map(|name| problems.get(name));
                problem.map_or(FlowState::Running, |problem| FlowState::Degraded(problem.clone()))
            }
            (state, _) => state,
        };
        let refused = match (&self.refused_because, self.refused.as_slice()) {
            _ if self.running.is_none() => None,
            (Some(problem), _) => Some(problem.clone()),
            (None, []) => None,
            (None, mistakes) => Some(summary(mistakes)),
        };
        FlowStatus {
            flow: Some(Arc::clone(id)),
            file: self.file.clone(),
            version: self.running.as_ref().map(|running| Arc::clone(&running.version.facts.version)),
            state,
            in_flight: self.running.as_ref().map_or(0, |running| running.endpoint.in_flight()),
            refused,
        }
    }
}

/// The first mistake, and how many more there are.
fn summary(mistakes: &[Mistake]) -> String {
    match mistakes {
        [] => "not started".into(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first}, and {} more", rest.len()),
    }
}
