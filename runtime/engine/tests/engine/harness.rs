//! A runtime with its doubles.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use gristmill_core::{
    Failure, Message, Outcome, Settlement,
    observe::{EndpointObserver, FlowObserver, Observer, PluginObserver, ReloadResult, StepInfo, Unobserved},
    plugin::{Change, Transformed},
    testkit::{ManualClock, ScriptedAdapter, ScriptedPlugin, ScriptedPlugins, ScriptedSink, ScriptedSource},
};
use gristmill_engine::{
    dead_letter::Envelope,
    flow::{FlowFile, Registry, SetContext},
    runtime::{Applied, FlowState, FlowStatus, Runtime, RuntimeParts},
    substitute::Environment,
};

/// A runtime whose outside world is played by the test.
pub(crate) struct Mill {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) adapter: Arc<ScriptedAdapter>,
    pub(crate) plugins: Arc<ScriptedPlugins>,
    pub(crate) seen: Arc<Seen>,
}

/// What the hooks were told.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    counts: Mutex<BTreeMap<String, usize>>,
}

/// The hooks of one version of a flow.
#[derive(Debug)]
struct SeenVersion {
    seen: Arc<Seen>,
    steps: Vec<StepInfo>,
}

#[derive(Debug)]
struct SeenBy(Arc<Seen>);

struct Variables;

// === impl Mill ===

impl Mill {
    pub(crate) fn new() -> Self {
        let (adapter, plugins, seen) =
            (ScriptedAdapter::new(), ScriptedPlugins::new(), Arc::<Seen>::default());
        let runtime = Runtime::new(RuntimeParts {
            context: context(&adapter, &plugins),
            observer: Arc::new(SeenBy(Arc::clone(&seen))),
            clock: Arc::new(ManualClock::default()),
            state_dir: "state".into(),
        });
        Self { runtime: Arc::new(runtime), adapter, plugins, seen }
    }

    /// A runtime with one flow, `f` in `f.yaml`, which reads the source `in`; `rest` is all but its id and its source.
    pub(crate) async fn running(rest: &str) -> Self {
        let mill = Self::new();
        mill.run(rest).await;
        mill
    }

    /// Loads the flow `f`, and wants it to run.
    pub(crate) async fn run(&self, rest: &str) {
        let applied = self.load(&[("f.yaml", &flow(rest))]).await;
        assert_eq!(applied[0].result, ReloadResult::Applied, "{applied:?}");
    }

    /// Makes these files, name and text, all that there are.
    pub(crate) async fn load(&self, files: &[(&str, &str)]) -> Vec<Applied> {
        self.runtime.apply(flow_files(files)).await
    }

    pub(crate) fn source(&self) -> Arc<ScriptedSource> {
        self.adapter.source("in")
    }

    pub(crate) fn sink(&self, name: &str) -> Arc<ScriptedSink> {
        self.adapter.sink(name)
    }

    /// Offers a message once and waits for how it ended.
    pub(crate) async fn outcome(&self, body: &'static str) -> Outcome {
        self.source().offer_once(body).outcome().await
    }

    pub(crate) fn status(&self, flow: &str) -> FlowStatus {
        let all = self.runtime.status();
        all.into_iter().find(|status| status.flow.as_deref() == Some(flow)).expect("the flow is there")
    }

    pub(crate) fn state(&self, flow: &str) -> FlowState {
        self.status(flow).state
    }

    /// The version that runs.
    pub(crate) fn version(&self) -> String {
        self.status("f").version.expect("it runs").to_string()
    }

    /// The only dead letter in the sink `dead`.
    pub(crate) fn dead_letter(&self) -> Envelope {
        let letters = self.sink("dead").sent();
        assert_eq!(letters.len(), 1, "{letters:?}");
        serde_json::from_slice(letters[0].body()).expect("an envelope")
    }
}

/// A flow `f` that reads the source `in`.
pub(crate) fn flow(rest: &str) -> String {
    format!("flow: f\nsource: {{ scripted: {{ name: in }} }}\n{rest}")
}

pub(crate) fn flow_files(files: &[(&str, &str)]) -> Vec<FlowFile> {
    files.iter().map(|(path, text)| FlowFile { path: path.into(), text: Ok((*text).into()) }).collect()
}

pub(crate) fn context(adapter: &Arc<ScriptedAdapter>, plugins: &Arc<ScriptedPlugins>) -> SetContext {
    SetContext {
        registry: Registry::new().with(Arc::clone(adapter) as _),
        plugins: Arc::clone(plugins) as _,
        environment: Arc::new(Variables),
        base_dir: ".".into(),
        connections: Arc::default(),
    }
}

/// Lets everything go on until all wait for time or for the test. Time is paused, so that it passes only then.
pub(crate) async fn settle_down() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A transformer that emits a child for each comma-separated part of the body, `count` over again if that is not none.
pub(crate) fn splitter() -> ScriptedPlugin {
    ScriptedPlugin::transformer(|message| Ok(Transformed::Emit(text(message).split(',').map(body).collect())))
}

/// A transformer that fails.
pub(crate) fn failing(failure: Failure) -> ScriptedPlugin {
    ScriptedPlugin::transformer(move |_| Err(failure.clone()))
}

/// The change to this body.
pub(crate) fn body(text: &str) -> Change {
    Change { body: Some(text.to_owned().into()), ..Change::default() }
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}

pub(crate) fn ids(sink: &ScriptedSink) -> Vec<String> {
    sink.sent().iter().map(|message| message.id().to_string()).collect()
}

pub(crate) fn delivered(outcome: &Outcome) {
    assert_eq!(outcome.settlement, Settlement::Delivered, "{outcome:?}");
}

/// The class of the failure behind an outcome.
pub(crate) fn class(outcome: &Outcome) -> &'static str {
    outcome.failure.as_ref().map_or("none", |failure| failure.class().name())
}

// === impl Variables ===

impl Environment for Variables {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "SECRET").then(|| "hunter2".into())
    }

    fn file(&self, path: &str) -> Result<String, String> {
        Err(format!("cannot read {path}"))
    }
}

// === impl Seen ===

impl Seen {
    fn note(&self, what: String) {
        *self.counts.lock().expect("no test panics here").entry(what).or_default() += 1;
    }

    /// How often this was seen: `accepted`, `settled delivered`, `dropped steps[0]`, `step steps[0]`, `reload applied`,
    /// `version gone`.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.counts.lock().expect("no test panics here").get(what).copied().unwrap_or_default()
    }

    /// How many deliveries have settled, however that was.
    pub(crate) fn settled(&self) -> usize {
        let counts = self.counts.lock().expect("no test panics here");
        counts.iter().filter(|(what, _)| what.starts_with("settled ")).map(|(_, n)| n).sum()
    }
}

impl Observer for SeenBy {
    fn version(&self, _: &Arc<str>, _: &Arc<str>, steps: &[StepInfo]) -> Arc<dyn FlowObserver> {
        Arc::new(SeenVersion { seen: Arc::clone(&self.0), steps: steps.to_vec() })
    }

    fn endpoint(&self, _: &Arc<str>) -> Arc<dyn EndpointObserver> {
        Arc::new(Unobserved)
    }

    fn plugin(&self, _: &Arc<str>, _: &str, _: &str) -> Arc<dyn PluginObserver> {
        Arc::new(Unobserved)
    }

    fn reload(&self, _: &str, result: ReloadResult) {
        self.0.note(format!("reload {result:?}").to_lowercase());
    }
}

impl Drop for SeenVersion {
    fn drop(&mut self) {
        self.seen.note("version gone".into());
    }
}

impl FlowObserver for SeenVersion {
    fn accepted(&self, _: &mut Message) {
        self.seen.note("accepted".into());
    }

    fn step_begins(&self, step: usize, _: &Message) {
        self.seen.note(format!("begin {}", self.steps[step].path));
    }

    fn step_ended(&self, step: usize, _: &Message, _: Duration, _: Option<&Failure>) {
        self.seen.note(format!("step {}", self.steps[step].path));
    }

    fn dropped(&self, step: usize, _: &Message, _: &str) {
        self.seen.note(format!("dropped {}", self.steps[step].path));
    }

    fn settled(&self, _: &Message, outcome: &Outcome, _: Duration) {
        self.seen.note(format!("settled {}", outcome.name()));
    }
}
