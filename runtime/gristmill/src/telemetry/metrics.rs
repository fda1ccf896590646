//! Metrics in the OpenMetrics text format, made from the engine's hooks.
//!
//! What is counted for each message is looked up once for a version and then only added to. A version's series are kept for
//! the newest versions of a flow only, so that a flow that is saved all day does not grow the answer without end.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gristmill_core::{
    ErrorClass, Failure, Message,
    connection::ConnectionState,
    observe::{EndpointObserver, FlowObserver, Observer, PluginObserver, ReloadResult, StepInfo},
    settlement::Outcome,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// How many versions of a flow keep their series.
const VERSIONS_KEPT: usize = 5;

/// How many names a plugin may count under; what is above is counted in `gristmill_plugin_metrics_dropped_total`.
const MAX_GUEST_SERIES: usize = 32;

/// From 10 microseconds to 40 seconds.
const BUCKETS: [f64; 12] = [1e-5, 4e-5, 1.6e-4, 6.4e-4, 2.56e-3, 0.01, 0.04, 0.16, 0.64, 2.56, 10.0, 40.0];

/// The versions of each flow that have series, oldest first.
type Versions = BTreeMap<Arc<str>, VecDeque<Arc<str>>>;

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Every metric, and the hooks that fill it.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    series: Series,
    versions: Arc<Mutex<Versions>>,
}

#[derive(Debug, Clone)]
struct Series {
    accepted: Family<VersionLabels, Counter>,
    deliveries: Family<OutcomeLabels, Counter>,
    duration: Histograms<FlowLabels>,
    step_duration: Histograms<StepLabels>,
    step_failures: Family<FailureLabels, Counter>,
    dropped: Family<StepLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    plugin_duration: Histograms<PluginLabels>,
    plugin_failures: Family<PluginFailureLabels, Counter>,
    quarantined: Family<PluginLabels, Gauge>,
    reloads: Family<ReloadLabels, Counter>,
    config_reloads: Family<ConfigReloadLabels, Counter>,
    guest_counters: Family<GuestLabels, Counter>,
    guest_gauges: Family<GuestLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    guest_dropped: Family<PluginLabels, Counter>,
    up: Family<FlowLabels, Gauge>,
    in_flight: Family<FlowLabels, Gauge>,
    connection_up: Family<ConnectionLabels, Gauge>,
    connection_blocked: Family<ConnectionLabels, Gauge>,
    connects: Family<ConnectionLabels, Counter>,
    blocks: Family<ConnectionLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    flow: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    flow: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    flow: String,
    version: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    flow: String,
    step: String,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    flow: String,
    step: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    flow: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    flow: String,
    step: String,
    plugin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginFailureLabels {
    flow: String,
    step: String,
    plugin: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GuestLabels {
    flow: String,
    step: String,
    plugin: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    flow: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConfigReloadLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    adapter: &'static str,
    connection: String,
    role: String,
}

#[derive(Debug)]
struct FlowSeries {
    accepted: Counter,
    delivered: Counter,
    dead_lettered: Counter,
    rejected: Counter,
    released: Counter,
    duration: Histogram,
    steps: Vec<StepSeries>,
    flow: Arc<str>,
    failures: Family<FailureLabels, Counter>,
}

#[derive(Debug)]
struct StepSeries {
    path: Arc<str>,
    duration: Histogram,
    dropped: Counter,
}

#[derive(Debug)]
struct EndpointSeries {
    flow: Arc<str>,
    refused: Family<RefusedLabels, Counter>,
}

#[derive(Debug)]
struct PluginSeries {
    labels: PluginLabels,
    duration: Histogram,
    quarantined: Gauge,
    /// Whether this one counts in `quarantined`, which the versions of a flow share.
    is_quarantined: AtomicBool,
    series: Series,
    guest_names: Mutex<std::collections::BTreeSet<String>>,
}

// === impl Metrics ===

impl Metrics {
    /// Without a value yet.
    pub(crate) fn new() -> Self {
        let histograms: fn() -> Histogram = || Histogram::new(BUCKETS);
        let series = Series {
            accepted: Family::default(),
            deliveries: Family::default(),
            duration: Family::new_with_constructor(histograms),
            step_duration: Family::new_with_constructor(histograms),
            step_failures: Family::default(),
            dropped: Family::default(),
            refused: Family::default(),
            plugin_duration: Family::new_with_constructor(histograms),
            plugin_failures: Family::default(),
            quarantined: Family::default(),
            reloads: Family::default(),
            config_reloads: Family::default(),
            guest_counters: Family::default(),
            guest_gauges: Family::default(),
            guest_dropped: Family::default(),
            up: Family::default(),
            in_flight: Family::default(),
            connection_up: Family::default(),
            connection_blocked: Family::default(),
            connects: Family::default(),
            blocks: Family::default(),
        };
        let mut all = Registry::with_prefix("gristmill");
        let s = series.clone();
        all.register("accepted", "Deliveries accepted from the source", s.accepted);
        all.register("deliveries", "Deliveries settled, by outcome", s.deliveries);
        all.register("delivery_duration_seconds", "From acceptance to settlement", s.duration);
        all.register("step_duration_seconds", "One attempt of a step", s.step_duration);
        all.register("step_failures", "Failed attempts of a step, by error class", s.step_failures);
        all.register("step_dropped", "Messages dropped on purpose by a step", s.dropped);
        all.register("refused", "Senders refused before there was a delivery", s.refused);
        all.register("plugin_call_duration_seconds", "One call of a plugin", s.plugin_duration);
        all.register(
            "plugin_failures",
            "Failed calls of a plugin (traps, timeouts, ...), by error class",
            s.plugin_failures,
        );
        all.register("plugin_quarantined", "1 while a plugin is held back", s.quarantined);
        all.register("reloads", "Loads and reloads of flows, by result", s.reloads);
        all.register("config_reloads", "Reloads of the configuration, by result", s.config_reloads);
        all.register("plugin_counter", "Counted by a plugin itself", s.guest_counters);
        all.register("plugin_gauge", "Set by a plugin itself", s.guest_gauges);
        all.register(
            "plugin_metrics_dropped",
            "Counts of a plugin above its limit of names",
            s.guest_dropped,
        );
        all.register("flow_up", "1 while the flow takes messages", s.up);
        all.register("in_flight", "Deliveries that have not settled", s.in_flight);
        all.register("connection_up", "1 while a connection to a broker is up", s.connection_up);
        all.register(
            "connection_blocked",
            "1 while the broker takes nothing over a connection",
            s.connection_blocked,
        );
        all.register("connection_connects", "How often a connection was made", s.connects);
        all.register("connection_blocks", "How often the broker has blocked a connection", s.blocks);
        Self { registry: Arc::new(all), series, versions: Arc::default() }
    }

    /// The configuration was reloaded, or that was refused.
    pub(crate) fn config_reload(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.series.config_reloads.get_or_create(&ConfigReloadLabels { result }).inc();
    }

    /// Notes how a flow is now: what is asked for when the metrics are, rather than kept all the time.
    pub(crate) fn note_flow(&self, flow: &str, up: bool, in_flight: usize) {
        let labels = FlowLabels { flow: flow.into() };
        self.series.up.get_or_create(&labels).set(i64::from(up));
        self.series.in_flight.get_or_create(&labels).set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    /// Notes how a connection is now. What the adapter has counted is taken as it is.
    pub(crate) fn note_connection(&self, adapter: &'static str, state: &ConnectionState) {
        let (connection, role) = (state.name.to_string(), state.role.to_string());
        let labels = ConnectionLabels { adapter, connection, role };
        self.series.connection_up.get_or_create(&labels).set(i64::from(state.is_up));
        self.series.connection_blocked.get_or_create(&labels).set(i64::from(state.blocked.is_some()));
        self.series.connects.get_or_create(&labels).inner().store(state.connects, Ordering::Relaxed);
        self.series.blocks.get_or_create(&labels).inner().store(state.blocks, Ordering::Relaxed);
    }

    /// Forgets the state of flows and connections that are no more.
    pub(crate) fn forget_states(&self) {
        self.series.up.clear();
        self.series.in_flight.clear();
        self.series.connection_up.clear();
        self.series.connection_blocked.clear();
        self.series.connects.clear();
        self.series.blocks.clear();
    }

    /// The metrics as text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }

    /// Remembers a version, and drops the series of the oldest one when there are too many.
    fn keep(&self, flow: &Arc<str>, version: &Arc<str>) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = versions.entry(Arc::clone(flow)).or_default();
        kept.retain(|v| v != version);
        kept.push_back(Arc::clone(version));
        while kept.len() > VERSIONS_KEPT {
            let Some(oldest) = kept.pop_front() else { break };
            self.series
                .accepted
                .remove(&VersionLabels { flow: flow.to_string(), version: oldest.to_string() });
            for outcome in ["delivered", "dead_lettered", "rejected", "released"] {
                let (flow, version) = (flow.to_string(), oldest.to_string());
                self.series.deliveries.remove(&OutcomeLabels { flow, version, outcome });
            }
        }
    }
}

impl Observer for Metrics {
    fn version(&self, flow: &Arc<str>, version: &Arc<str>, steps: &[StepInfo]) -> Arc<dyn FlowObserver> {
        self.keep(flow, version);
        let outcome = |outcome| {
            let (flow, version) = (flow.to_string(), version.to_string());
            self.series.deliveries.get_or_create_owned(&OutcomeLabels { flow, version, outcome })
        };
        let steps = steps.iter().map(|step| {
            let labels = StepLabels { flow: flow.to_string(), step: step.path.to_string(), verb: step.verb };
            StepSeries {
                path: Arc::clone(&step.path),
                duration: self.series.step_duration.get_or_create_owned(&labels),
                dropped: self.series.dropped.get_or_create_owned(&labels),
            }
        });
        let labels = VersionLabels { flow: flow.to_string(), version: version.to_string() };
        Arc::new(FlowSeries {
            accepted: self.series.accepted.get_or_create_owned(&labels),
            delivered: outcome("delivered"),
            dead_lettered: outcome("dead_lettered"),
            rejected: outcome("rejected"),
            released: outcome("released"),
            duration: self.series.duration.get_or_create_owned(&FlowLabels { flow: flow.to_string() }),
            steps: steps.collect(),
            flow: Arc::clone(flow),
            failures: self.series.step_failures.clone(),
        })
    }

    fn endpoint(&self, flow: &Arc<str>) -> Arc<dyn EndpointObserver> {
        Arc::new(EndpointSeries { flow: Arc::clone(flow), refused: self.series.refused.clone() })
    }

    fn plugin(&self, flow: &Arc<str>, step: &str, plugin: &str) -> Arc<dyn PluginObserver> {
        let labels = PluginLabels { flow: flow.to_string(), step: step.into(), plugin: plugin.into() };
        Arc::new(PluginSeries {
            duration: self.series.plugin_duration.get_or_create_owned(&labels),
            quarantined: self.series.quarantined.get_or_create_owned(&labels),
            is_quarantined: AtomicBool::new(false),
            labels,
            series: self.series.clone(),
            guest_names: Mutex::default(),
        })
    }

    fn reload(&self, flow: &str, result: ReloadResult) {
        let result = match result {
            ReloadResult::Applied => "applied",
            ReloadResult::Refused => "refused",
            ReloadResult::Removed => "removed",
            ReloadResult::Unchanged => return,
        };
        self.series.reloads.get_or_create(&ReloadLabels { flow: flow.into(), result }).inc();
    }
}

impl FlowObserver for FlowSeries {
    fn accepted(&self, _: &mut Message) {
        self.accepted.inc();
    }

    fn step_begins(&self, _: usize, _: &Message) {}

    fn step_ended(&self, step: usize, _: &Message, elapsed: Duration, failure: Option<&Failure>) {
        let Some(series) = self.steps.get(step) else { return };
        series.duration.observe(elapsed.as_secs_f64());
        if let Some(failure) = failure {
            let labels = FailureLabels {
                flow: self.flow.to_string(),
                step: series.path.to_string(),
                class: failure.class().name(),
            };
            self.failures.get_or_create(&labels).inc();
        }
    }

    fn dropped(&self, step: usize, _: &Message, _: &str) {
        if let Some(series) = self.steps.get(step) {
            series.dropped.inc();
        }
    }

    fn settled(&self, _: &Message, outcome: &Outcome, elapsed: Duration) {
        match outcome.name() {
            "dead_lettered" => &self.dead_lettered,
            "rejected" => &self.rejected,
            "released" => &self.released,
            _ => &self.delivered,
        }
        .inc();
        self.duration.observe(elapsed.as_secs_f64());
    }
}

impl EndpointObserver for EndpointSeries {
    fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabels { flow: self.flow.to_string(), reason }).inc();
    }
}

impl PluginSeries {
    /// Whether this name is within the limit of names.
    fn admits(&self, name: &str) -> bool {
        let mut names = self.guest_names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(name) {
            return true;
        }
        if names.len() >= MAX_GUEST_SERIES {
            drop(names);
            self.series.guest_dropped.get_or_create(&self.labels).inc();
            return false;
        }
        names.insert(name.to_owned())
    }

    fn guest_labels(&self, name: &str) -> GuestLabels {
        let PluginLabels { flow, step, plugin } = self.labels.clone();
        GuestLabels { flow, step, plugin, name: name.into() }
    }
}

impl PluginObserver for PluginSeries {
    fn call(&self, _: &Message, elapsed: Duration, failure: Option<&Failure>) {
        self.duration.observe(elapsed.as_secs_f64());
        if let Some(class) = failure.map(Failure::class).filter(|c| *c != ErrorClass::PluginQuarantined) {
            let PluginLabels { flow, step, plugin } = self.labels.clone();
            let labels = PluginFailureLabels { flow, step, plugin, class: class.name() };
            self.series.plugin_failures.get_or_create(&labels).inc();
        }
    }

    fn quarantined(&self, is: bool) {
        match (self.is_quarantined.swap(is, Ordering::Relaxed), is) {
            (false, true) => self.quarantined.inc(),
            (true, false) => self.quarantined.dec(),
            _ => 0,
        };
    }

    fn guest_counter(&self, name: &str, amount: u64) {
        if self.admits(name) {
            self.series.guest_counters.get_or_create(&self.guest_labels(name)).inc_by(amount);
        }
    }

    fn guest_gauge(&self, name: &str, value: f64) {
        if self.admits(name) {
            self.series.guest_gauges.get_or_create(&self.guest_labels(name)).set(value);
        }
    }
}

impl Drop for PluginSeries {
    /// A version that was replaced takes its quarantine with it.
    fn drop(&mut self) {
        self.quarantined(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_versions_keep_their_series() {
        let metrics = Metrics::new();
        let flow: Arc<str> = "f".into();
        for n in 0..20 {
            let observer = metrics.version(&flow, &format!("v{n}").into(), &[]);
            observer.accepted(&mut Message::new("m", gristmill_core::Timestamp::from_millis(0), ""));
        }
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"gristmill_accepted_total{flow="f",version="v19"} 1"#), "{text}");
        assert!(!text.contains(r#"version="v14""#) && text.contains(r#"version="v15""#));
    }

    #[test]
    fn a_version_that_is_replaced_takes_its_quarantine_with_it() {
        let metrics = Metrics::new();
        let is = || {
            let text = metrics.encode().unwrap();
            text.lines().find(|l| l.starts_with("gristmill_plugin_quarantined{")).unwrap().ends_with(" 1")
        };
        let old = metrics.plugin(&"f".into(), "steps[0]", "p");
        old.quarantined(true);
        old.quarantined(true);
        let new = metrics.plugin(&"f".into(), "steps[0]", "p");
        assert!(is());
        drop(old);
        assert!(!is());
        new.quarantined(true);
        assert!(is());
        new.quarantined(false);
        assert!(!is());
    }

    #[test]
    fn the_page_has_every_metric() {
        let (metrics, flow, message) = (
            Metrics::new(),
            Arc::<str>::from("f"),
            Message::new("m", gristmill_core::Timestamp::from_millis(0), ""),
        );
        let failure = Failure::new(ErrorClass::Timeout, "no answer");
        let step = StepInfo { path: "steps[0]".into(), verb: "send", plugin: None };
        let version = metrics.version(&flow, &"v".into(), &[step]);
        version.step_ended(0, &message, Duration::ZERO, Some(&failure));
        metrics.endpoint(&flow).refused("in_flight");
        let plugin = metrics.plugin(&flow, "steps[0]", "p");
        plugin.call(&message, Duration::ZERO, Some(&failure));
        plugin.guest_gauge("g", 1.0);
        (0..=MAX_GUEST_SERIES).for_each(|n| plugin.guest_counter(&format!("n{n}"), 1));
        metrics.reload("f", ReloadResult::Applied);
        metrics.config_reload(true);
        metrics.note_flow("f", true, 0);
        let (name, role) = ("rabbit".into(), "publishing".into());
        let blocked = Some("low on memory".into());
        let state =
            ConnectionState { name, role, is_up: true, problem: None, blocked, connects: 2, blocks: 1 };
        metrics.note_connection("amqp", &state);

        let text = metrics.encode().unwrap();
        let labels = r#"{adapter="amqp",connection="rabbit",role="publishing"}"#;
        for line in
            ["up", "blocked", "blocks_total"].map(|name| format!("gristmill_connection_{name}{labels} 1\n"))
        {
            assert!(text.contains(&line), "{line}{text}");
        }
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut seen = 0;
        for (name, kind) in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let row = format!("\n| `{name}{suffix}` | {kind} | ");
            assert!(page.contains(&row), "docs/operating.md has no line for {name}{suffix}, a {kind}");
            seen += 1;
        }
        assert_eq!(
            seen,
            page.matches("\n| `gristmill_").count(),
            "docs/operating.md names what is not there"
        );
    }

    #[test]
    fn a_plugin_that_counts_under_many_names_is_cut_off() {
        let metrics = Metrics::new();
        let plugin = metrics.plugin(&"f".into(), "steps[0]", "p");
        for n in 0..100 {
            plugin.guest_counter(&format!("n{n}"), 1);
        }
        let text = metrics.encode().unwrap();
        assert_eq!(text.matches("gristmill_plugin_counter_total{").count(), MAX_GUEST_SERIES);
        assert!(text.contains(
            "gristmill_plugin_metrics_dropped_total{flow=\"f\",step=\"steps[0]\",plugin=\"p\"} 68"
        ));
    }
}
