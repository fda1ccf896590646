//! Walks over a flow file and finds every mistake in it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use gristmill_core::{
    adapter::Checker,
    config::{self, Mistake, Mistakes, Node, Span, nearest},
    connection::{Connection, Connections},
    limits::FlowLimits,
    source::{Order, SourceSpec},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    CheckedFlow, Ordering, Parallel, PluginTable, Registry, Rehearsal, fingerprint,
    policy::{self, ErrorRule},
    steps::{StepChecker, adapter_of, several_adapters},
};

/// The keys of a flow file, with what each is for.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("flow", "The flow's id: lower-case letters, digits, `-` and `_`, at most 64."),
    ("description", "What the flow is for."),
    ("source", "Where messages come in: one adapter with its configuration."),
    (
        "order",
        "`source` (default) keeps the source's order of first attempts; `strict` keeps one unsettled delivery a lane.",
    ),
    ("parallel", "Lanes by key: order holds per key, and lanes run side by side."),
    ("limits", "The limits of this flow."),
    ("steps", "What happens to a message, in order."),
    ("on_error", "Rules for failures; the first that matches decides."),
    ("on_reject", "`discard`: a rejected delivery is dropped and counted, for a source that cannot keep it."),
];

/// The most lanes.
const MAX_LANES: usize = 1_024;

/// What a check is given besides the file.
#[derive(Clone, Copy)]
pub struct CheckContext<'a> {
    /// The adapters.
    pub registry: &'a Registry,
    /// The plugins that the file names, loaded.
    pub plugins: &'a PluginTable,
    /// What relative paths are relative to.
    pub base_dir: &'a Path,
    /// The connections that can be named.
    pub connections: &'a Connections,
}

/// `order:`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OrderConfig {
    /// The source's order, of first attempts.
    #[default]
    Source,
    /// One unsettled delivery a lane; a retry blocks the lane.
    Strict,
}

/// `parallel:`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ParallelConfig {
    /// The key, a CEL expression: messages with equal keys share a lane.
    by: String,
    /// How many lanes; keys are spread over them by hash.
    #[schemars(range(min = 1, max = MAX_LANES))]
    lanes: usize,
}

/// `on_reject:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnRejectConfig {
    /// Dropped, and counted.
    Discard,
}

/// The plugins that a file names, whatever else is wrong with it: what has to be loaded before it can be checked.
pub fn plugins_named(node: &Node) -> BTreeSet<String> {
    fn collect(node: &Node, names: &mut BTreeSet<String>) {
        for entry in node.entries() {
            if matches!(entry.key.as_str(), "transform" | "route")
                && let Some(name) = entry.value.get("plugin").and_then(Node::as_str)
            {
                names.insert(name.to_owned());
            }
            collect(&entry.value, names);
        }
        for item in node.as_list().unwrap_or_default() {
            collect(item, names);
        }
    }
    let mut names = BTreeSet::new();
    if let Some(steps) = node.get("steps") {
        collect(steps, &mut names);
    }
    names
}

/// What of a flow must not be there twice, as far as it could be read.
#[derive(Debug, Default, Clone)]
pub struct Unique {
    /// Its id, and where that stands.
    pub id: Option<(Arc<str>, Span)>,
    /// Its source, and where that stands.
    pub source: Option<(Arc<dyn SourceSpec>, Span)>,
}

/// What a check found.
pub struct Check {
    /// The flow, or every mistake in it.
    pub result: Result<CheckedFlow, Mistakes>,
    /// What of it must not be there twice, mistakes or not.
    pub unique: Unique,
    /// What its plugins are still to be asked.
    pub(crate) rehearsals: Vec<Rehearsal>,
}

/// Checks a flow file.
pub fn check(file: PathBuf, node: &Node, context: CheckContext<'_>) -> Check {
    let (mut mistakes, mut unique, mut rehearsals) = (Mistakes::new(), Unique::default(), Vec::new());
    let result = match walk(file, node, context, &mut mistakes, &mut unique, &mut rehearsals) {
        Some(flow) if mistakes.is_empty() => Ok(flow),
        None if mistakes.is_empty() => {
            // A check that gives nothing has to say why; an adapter that does not is mended here, so that nothing is
            // refused without a word.
            let text = "this flow was refused without a reason, which is a fault of an adapter";
            Err(Mistake::new("internal", &node.span, text).into())
        }
        _ => Err(mistakes),
    };
    Check { result, unique, rehearsals }
}

fn walk(
    file: PathBuf,
    node: &Node,
    context: CheckContext<'_>,
    mistakes: &mut Mistakes,
    unique: &mut Unique,
    rehearsals: &mut Vec<Rehearsal>,
) -> Option<CheckedFlow> {
    if node.entries().is_empty() {
        let text = format!("a flow is a map, and this is {}", node.kind());
        mistakes.push(Mistake::new("wrong_type", &node.span, text).mend("begin with `flow: <id>`"));
        return None;
    }
    unknown_keys(node, mistakes);
    let id = flow_id(node, mistakes);
    unique.id = id.clone().map(|id| (id, node.at(["flow"]).span.clone()));
    let description = optional::<String>(node, "description", mistakes).flatten();
    let limits = optional::<FlowLimits>(node, "limits", mistakes).map(Option::unwrap_or_default);
    let order = optional::<OrderConfig>(node, "order", mistakes).map(Option::unwrap_or_default);
    let discard = optional::<OnRejectConfig>(node, "on_reject", mistakes).map(|o| o.is_some());
    // A mistake in the limits does not keep the rest from being checked.
    let limits_or_default = limits.clone().unwrap_or_default();
    let mut source_connections = Vec::new();
    let made_up = mistakes.stand_ins();
    let source = source(node, context, &limits_or_default, mistakes, &mut source_connections);
    // What was made up takes nothing from another flow.
    let as_written = source.as_ref().filter(|_| mistakes.stand_ins() == made_up);
    unique.source = as_written.map(|(_, source)| (Arc::clone(source), node.at(["source"]).span.clone()));
    let replies = source.as_ref().is_none_or(|(_, source)| source.replies());

    let mut checker = StepChecker::new(mistakes, &limits_or_default, replies, context);
    let steps = match node.get("steps") {
        Some(steps) => checker.list(steps, "steps"),
        None => {
            checker.mistake("missing_key", node, "`steps` is missing", "add `steps:` with a list of steps");
            None
        }
    };
    let rules = node.get("on_error").map_or(Some(Vec::new()), |rules| policy::check(rules, &mut checker));
    let parallel = match node.get("parallel") {
        Some(at) => parallel(at, &mut checker).map(Some),
        None => Some(None),
    };
    let infos = std::mem::take(&mut checker.infos);
    rehearsals.append(&mut checker.rehearsals);
    let sink_files = std::mem::take(&mut checker.files);
    let sink_connections = std::mem::take(&mut checker.named_connections);

    let (source_adapter, source) = source?;
    let (rules, order, discard_rejected) = (rules?, order?, discard?);
    let source_order = source.order();
    if order == OrderConfig::Strict && source_order == Order::None && node.get("parallel").is_none() {
        let text = format!("the source `{source_adapter}` has no order to keep");
        let mistake = Mistake::new("no_order", &node.at(["order"]).span, text);
        mistakes.push(mistake.mend("remove `order: strict`, or add `parallel:` to order messages by key"));
    }
    rejections_are_kept(node, source_adapter, &*source, &rules, discard_rejected, mistakes);
    let limits = limits?;
    let source_files: BTreeSet<PathBuf> = source.configuration_files().into_iter().collect();
    let source_fingerprint = fingerprint::source(node, &limits, &source_files, &source_connections);
    let files = source_files.into_iter().chain(sink_files).collect();
    let connections = [source_connections, sink_connections].concat();
    Some(CheckedFlow {
        id: id?,
        version: fingerprint::version(node, &files, &connections, context).into(),
        description,
        file,
        source_fingerprint,
        source,
        source_adapter,
        limits,
        connections: connections.into_iter().map(|connection| connection.name).collect(),
        ordering: Ordering { order: source_order, strict: order == OrderConfig::Strict, parallel: parallel? },
        steps: steps?,
        infos,
        rules,
        discard_rejected,
    })
}

fn unknown_keys(node: &Node, mistakes: &mut Mistakes) {
    for entry in node.entries() {
        if !KEYS.iter().any(|(key, _)| *key == entry.key) {
            let mistake =
                Mistake::new("unknown_key", &entry.key_span, format!("unknown key `{}`", entry.key));
            mistakes.push(match nearest(&entry.key, KEYS.iter().map(|(key, _)| *key)) {
                Some(near) => mistake.mend(format!("did you mean `{near}`?")),
                None => {
                    let known: Vec<_> = KEYS.iter().map(|(key, _)| format!("`{key}`")).collect();
                    mistake.mend(format!("known here: {}", known.join(", ")))
                }
            });
        }
    }
}

/// `None` when there is a mistake, `Some(None)` when the key is not there.
fn optional<T: serde::de::DeserializeOwned + JsonSchema + 'static>(
    node: &Node,
    key: &str,
    mistakes: &mut Mistakes,
) -> Option<Option<T>> {
    match node.get(key) {
        Some(value) => config::parse(value, mistakes).map(Some),
        None => Some(None),
    }
}

/// Whether this can be the id of a flow or the name of a connection.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

fn flow_id(node: &Node, mistakes: &mut Mistakes) -> Option<Arc<str>> {
    let Some(at) = node.get("flow") else {
        let mistake = Mistake::new("missing_key", &node.span, "`flow` is missing");
        mistakes.push(mistake.mend("add `flow: <id>` at the top"));
        return None;
    };
    match at.as_str().filter(|id| is_id(id)) {
        Some(id) => Some(id.into()),
        None => {
            let text = "a flow's id is 1 to 64 lower-case letters, digits, `-` and `_`";
            mistakes.push(Mistake::new("invalid_id", &at.span, text).mend("e.g. `flow: web-orders`"));
            None
        }
    }
}

fn source(
    node: &Node,
    context: CheckContext<'_>,
    limits: &FlowLimits,
    mistakes: &mut Mistakes,
    named: &mut Vec<Connection>,
) -> Option<(&'static str, Arc<dyn SourceSpec>)> {
    let Some(at) = node.get("source") else {
        let mistake = Mistake::new("missing_key", &node.span, "`source` is missing");
        mistakes.push(mistake.mend("add `source:` with an adapter, e.g. `http:`"));
        return None;
    };
    let registry = context.registry;
    let sources = registry.sources();
    let Some((name, adapter, config)) = adapter_of(at, "source", sources.to_vec(), registry, mistakes) else {
        for (_, adapter, config) in several_adapters(at, sources, registry) {
            let mut checker =
                Checker::new(mistakes, context.base_dir, limits).with_connections(context.connections);
            let _checked = adapter.check_source(config, &mut checker);
        }
        return None;
    };
    let mut checker = Checker::new(mistakes, context.base_dir, limits)
        .with_connections(context.connections)
        .for_flow(node.get("flow").and_then(Node::as_str));
    let source = adapter.check_source(config, &mut checker);
    named.extend(checker.take_connections());
    Some((name, source?))
}

fn parallel(at: &Node, checker: &mut StepChecker<'_>) -> Option<Parallel> {
    let config: ParallelConfig = config::parse(at, checker.mistakes)?;
    let by = checker.expression(at.at(["by"]), &config.by)?;
    Some(Parallel { by: Arc::new(by), by_text: config.by.into(), lanes: config.lanes })
}

/// A source that cannot keep a rejected message needs a flow in which every failure leads elsewhere.
fn rejections_are_kept(
    node: &Node,
    adapter: &str,
    source: &dyn SourceSpec,
    rules: &[ErrorRule],
    discards: bool,
    mistakes: &mut Mistakes,
) {
    if source.keeps_rejected() || discards {
        return;
    }
    let covers = rules.iter().any(ErrorRule::is_for_any);
    if !covers || !rules.iter().all(ErrorRule::keeps) {
        let text = format!("the source `{adapter}` cannot keep a rejected message, so one would be lost");
        let mend = if covers {
            "let the rules dead-letter, release or discard instead of `reject`, or say `on_reject: discard`"
        } else {
            "add `on_error: [{ match: [any], then: { dead_letter: … } }]`, or say `on_reject: discard`"
        };
        mistakes.push(Mistake::new("rejected_is_lost", &node.at(["source"]).span, text).mend(mend));
    }
}
