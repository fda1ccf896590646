//! Checks lists of steps, and gives the checks of single steps what they need: expressions, sinks, plugins, branches.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use gristmill_core::{
    Failure,
    adapter::{Adapter, CheckedSink, Checker, SinkUse, TemplateText},
    config::{Entry, Mistake, Mistakes, Node, Span, nearest},
    connection::Connection,
    limits::{FlowLimits, MAX_STEP_NESTING, MAX_STEPS},
    observe::StepInfo,
    plugin::LoadedPlugin,
    sink::{Sink, SinkContext},
};

use super::{CheckContext, Registry, Rehearsal, StepNode};
use crate::{
    expression::{CompileError, Expression, Scope, Template},
    steps::{BuildContext, Checked, VERBS},
};

/// What stands for a text into which values from outside were put, where only the text is known.
const NOT_SHOWN: &str = "(not shown: a part of it was substituted)";

/// What the check of a step is given, and where it puts the mistakes it finds.
pub(crate) struct StepChecker<'a> {
    pub(crate) mistakes: &'a mut Mistakes,
    pub(crate) limits: &'a FlowLimits,
    /// Whether the source of the flow takes answers.
    pub(crate) source_replies: bool,
    context: CheckContext<'a>,
    /// By step index.
    pub(crate) infos: Vec<StepInfo>,
    /// What plugins are still to be asked.
    pub(crate) rehearsals: Vec<Rehearsal>,
    /// The configuration files of all sinks.
    pub(crate) files: BTreeSet<PathBuf>,
    /// The connections of all sinks.
    pub(crate) named_connections: Vec<Connection>,
    /// The place of the step that is being checked.
    pub(crate) path: String,
    depth: usize,
    /// Whether it has been said that there are too many steps.
    too_many: bool,
    /// Set by a step after which nothing comes.
    ended: Option<String>,
}

/// A sink with its texts compiled.
#[derive(Clone)]
pub(crate) struct CheckedSinkUse {
    sink: CheckedSink,
    texts: Arc<[Template]>,
}

impl<'a> StepChecker<'a> {
    pub(crate) fn new(
        mistakes: &'a mut Mistakes,
        limits: &'a FlowLimits,
        source_replies: bool,
        context: CheckContext<'a>,
    ) -> Self {
        Self {
            mistakes,
            limits,
            source_replies,
            context,
            infos: Vec::new(),
            rehearsals: Vec::new(),
            files: BTreeSet::new(),
            named_connections: Vec::new(),
            path: String::new(),
            depth: 0,
            too_many: false,
            ended: None,
        }
    }

    /// Checks the list of steps of a branch; `place` is its place below the step.
    pub(crate) fn branch(&mut self, node: &Node, place: &str) -> Option<Vec<StepNode<Checked>>> {
        self.list(node, place)
    }

    /// Checks the steps of a branch that is wrong in itself, so that their mistakes are found in the same go. What is no
    /// list has been said to be none already.
    pub(crate) fn broken_branch(&mut self, node: Option<&Node>, place: &str) {
        if let Some(node) = node.filter(|node| node.as_list().is_some()) {
            // Only for its mistakes.
            let _steps = self.branch(node, place);
        }
    }

    /// Checks a list of steps; `place` is what leads to the list from where the checker stands.
    pub(crate) fn list(&mut self, node: &Node, place: &str) -> Option<Vec<StepNode<Checked>>> {
        let Some(items) = node.as_list() else {
            self.mistake(
                "wrong_type",
                node,
                format!("this is {}, not a list of steps", node.kind()),
                "write each step as `- <verb>:`",
            );
            return None;
        };
        if self.depth >= MAX_STEP_NESTING {
            self.mistake(
                "nested_too_deep",
                node,
                format!("steps are nested deeper than {MAX_STEP_NESTING}"),
                "split the flow in two",
            );
            return None;
        }
        let outer = self.path.clone();
        let outer_end = self.ended.take();
        let list_path = if outer.is_empty() { place.to_owned() } else { format!("{outer}.{place}") };
        self.depth += 1;
        let mut steps = Some(Vec::with_capacity(items.len()));
        for (position, item) in items.iter().enumerate() {
            if let Some(why) = &self.ended {
                let text = format!("no message comes here: {why}");
                self.mistakes
                    .push(Mistake::new("unreachable_step", &item.span, text).mend("remove this step"));
                self.ended = None;
            }
            self.path = format!("{list_path}[{position}]");
            match (self.step(item), &mut steps) {
                (Some(step), Some(steps)) => steps.push(step),
                _ => steps = None,
            }
        }
        self.depth -= 1;
        self.path = outer;
        self.ended = outer_end;
        steps
    }

    fn step(&mut self, item: &Node) -> Option<StepNode<Checked>> {
        let known = || VERBS.iter().map(|v| v.name);
        let entry = match item.entries() {
            [entry] => entry,
            [] => {
                let text = format!("a step is a map with one key, its verb, and this is {}", item.kind());
                let verbs = known().collect::<Vec<_>>().join("`, `");
                self.mistake("wrong_shape", item, text, format!("write one of `{verbs}`"));
                return None;
            }
            [_, second, ..] => {
                let text = format!("a step has one key, its verb, and `{}` is a second one", second.key);
                let mistake = Mistake::new("wrong_shape", &second.key_span, text);
                self.mistakes.push(mistake.mend("indent it below the verb, or begin a new step with `- `"));
                self.several_verbs(item);
                return None;
            }
        };
        let Some(verb) = VERBS.iter().find(|v| v.name == entry.key) else {
            let mistake =
                Mistake::new("unknown_step", &entry.key_span, format!("unknown step `{}`", entry.key));
            self.mistakes.push(match nearest(&entry.key, known()) {
                Some(near) => mistake.mend(format!("did you mean `{near}`?")),
                None => mistake.mend(format!("known: `{}`", known().collect::<Vec<_>>().join("`, `"))),
            });
            return None;
        };
        let index = self.infos.len();
        if index >= MAX_STEPS {
            if std::mem::replace(&mut self.too_many, true) {
                return None;
            }
            self.mistake(
                "too_many_steps",
                item,
                format!("a flow has at most {MAX_STEPS} steps"),
                "split the flow in two",
            );
            return None;
        }
        let path: Arc<str> = self.path.as_str().into();
        self.infos.push(StepInfo { path: Arc::clone(&path), verb: verb.name, plugin: None });
        let checked = (verb.check)(&entry.value, self)?;
        if let Some(info) = self.infos.get_mut(index) {
            info.plugin.clone_from(&checked.plugin);
        }
        Some(StepNode { index, path, step: checked })
    }

    /// Checks what stands under each of several verbs, for its mistakes.
    fn several_verbs(&mut self, item: &Node) {
        let verb = |entry: &'_ Entry| VERBS.iter().find(|verb| verb.name == entry.key);
        let all: Vec<_> = item.entries().iter().filter_map(|entry| Some((verb(entry)?, entry))).collect();
        // A single verb has lost its keys to what is beside it.
        if let [_, _, ..] = all.as_slice() {
            let ended = self.ended.clone();
            for (verb, entry) in all {
                let _checked = (verb.check)(&entry.value, self);
            }
            self.ended = ended;
        }
    }

    /// Says that no message gets past the step that is being checked.
    pub(crate) fn ends_here(&mut self, _node: &Node, why: &str) {
        self.ended = Some(why.to_owned());
    }

    /// Compiles an expression that stands at `node`.
    pub(crate) fn expression(&mut self, node: &Node, text: &str) -> Option<Expression> {
        self.compiled(node, text, Expression::compile)
    }

    /// Compiles an expression that stands at `node` and has to be true or false.
    pub(crate) fn condition(&mut self, node: &Node, text: &str) -> Option<Expression> {
        self.compiled(node, text, Expression::compile_condition)
    }

    fn compiled(
        &mut self,
        node: &Node,
        text: &str,
        compile: fn(&str) -> Result<Expression, CompileError>,
    ) -> Option<Expression> {
        let compiled = match &node.substitution {
            None => compile(text),
            Some(substitution) => Expression::compile_with_values(substitution, compile),
        };
        compiled.map_err(|error| self.mistakes.push(error.to_mistake("expression", &node.span))).ok()
    }

    /// Compiles a text with `${…}` that stands at `node`.
    pub(crate) fn template(&mut self, node: &Node, text: &str) -> Option<Template> {
        let shown = node.substitution.as_ref().map(|substitution| substitution.written());
        self.template_shown_as(shown, &node.span, text)
    }

    /// Compiles a text with `${…}` that stands at `span`, of which only `shown` may be seen when there is such. The errors
    /// quote expressions only, and no value stands in one.
    fn template_shown_as(&mut self, shown: Option<String>, span: &Span, text: &str) -> Option<Template> {
        match (Template::compile(text), shown) {
            (Ok(template), None) => Some(template),
            (Ok(template), Some(shown)) => Some(template.shown_as(shown)),
            (Err(errors), shown) => {
                for error in errors {
                    let error = if shown.is_some() { error.nowhere() } else { error };
                    self.mistakes.push(error.to_mistake("expression", span));
                }
                None
            }
        }
    }

    /// Checks a sink: a map of one adapter's name to its configuration.
    pub(crate) fn sink(&mut self, node: &Node, usage: SinkUse) -> Option<CheckedSinkUse> {
        let registry = self.context.registry;
        let known = registry.sinks();
        let Some((name, adapter, config)) = adapter_of(node, "sink", known.to_vec(), registry, self.mistakes)
        else {
            for (name, adapter, config) in several_adapters(node, known, registry) {
                let _checked = self.sink_of(node, name, adapter, config, usage);
            }
            return None;
        };
        self.sink_of(node, name, adapter, config, usage)
    }

    /// Checks what stands at `config` as a sink of this adapter.
    fn sink_of(
        &mut self,
        node: &Node,
        name: &str,
        adapter: &Arc<dyn Adapter>,
        config: &Node,
        usage: SinkUse,
    ) -> Option<CheckedSinkUse> {
        let mut checker = Checker::new(self.mistakes, self.context.base_dir, self.limits)
            .with_connections(self.context.connections);
        let checked = adapter.check_sink(config, usage, &mut checker);
        self.named_connections.extend(checker.take_connections());
        let Some(sink) = checked else {
            // The texts that were found until then are looked at all the same.
            for text in checker.take_templates() {
                self.sink_text(&text);
            }
            return None;
        };
        if usage == SinkUse::Call && !sink.answers {
            let text = format!("`{name}` gives no answers");
            self.mistake("no_answer", node, text, "use `send:`, which waits for the confirmation only");
            return None;
        }
        self.files.extend(sink.spec.configuration_files());
        let mut texts = Some(Vec::with_capacity(sink.templates.len()));
        for template in &sink.templates {
            match (self.sink_text(template), &mut texts) {
                (Some(text), Some(texts)) => texts.push(text),
                _ => texts = None,
            }
        }
        Some(CheckedSinkUse { sink, texts: texts?.into() })
    }

    fn sink_text(&mut self, text: &TemplateText) -> Option<Template> {
        let shown = text.secret.then(|| NOT_SHOWN.to_owned());
        self.template_shown_as(shown, &text.span, &text.text)
    }

    /// The plugin that a step names at `node`.
    pub(crate) fn plugin(&mut self, node: &Node, name: &str) -> Option<Arc<dyn LoadedPlugin>> {
        if node.is_substituted() {
            self.mistake(
                "substituted_name",
                node,
                "the name of a plugin cannot come from outside",
                "write it out: it is known when the flow is written",
            );
            return None;
        }
        match self.context.plugins.get(name) {
            Some(Ok(loaded)) => Some(Arc::clone(loaded)),
            Some(Err(error)) => {
                let mistake = Mistake::new(error.code, &node.span, error.text.clone());
                self.mistakes.push(match &error.mend {
                    Some(mend) => mistake.mend(mend.clone()),
                    None => mistake,
                });
                None
            }
            None => {
                self.mistake(
                    "plugin_not_found",
                    node,
                    format!("the plugin `{name}` was not loaded"),
                    "reload the flow",
                );
                None
            }
        }
    }

    /// Notes a mistake at `node`.
    pub(crate) fn mistake(
        &mut self,
        code: &'static str,
        node: &Node,
        text: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.mistakes.push(Mistake::new(code, &node.span, text).mend(mend));
    }
}

/// The adapter that a map of one key names, with what stands under the key.
pub(crate) fn adapter_of<'n, 'r>(
    node: &'n Node,
    what: &str,
    known: Vec<&'static str>,
    registry: &'r Registry,
    mistakes: &mut Mistakes,
) -> Option<(&'static str, &'r Arc<dyn Adapter>, &'n Node)> {
    let entry = match node.entries() {
        [entry] => entry,
        [] => {
            let text = format!("a {what} is a map with one key, the adapter, and this is {}", node.kind());
            let mend = format!("write one of `{}`", known.join("`, `"));
            mistakes.push(Mistake::new("wrong_shape", &node.span, text).mend(mend));
            return None;
        }
        [_, second, ..] => {
            let text = format!("a {what} has one key, the adapter, and `{}` is a second one", second.key);
            mistakes.push(
                Mistake::new("wrong_shape", &second.key_span, text)
                    .mend("indent it below the adapter, or keep one of the two"),
            );
            return None;
        }
    };
    match registry.get(&entry.key).filter(|(name, _)| known.contains(name)) {
        Some((name, adapter)) => Some((name, adapter, &entry.value)),
        None => {
            let mistake =
                Mistake::new("unknown_adapter", &entry.key_span, format!("unknown {what} `{}`", entry.key));
            mistakes.push(match nearest(&entry.key, known.iter().copied()) {
                Some(near) => mistake.mend(format!("did you mean `{near}`?")),
                None => mistake.mend(format!("known: `{}`", known.join("`, `"))),
            });
            None
        }
    }
}

/// The adapters that a map names that should name one, with what stands under each: whichever is kept, what is wrong in it
/// is wrong. None when there is but one: it has lost its keys to what is beside it.
pub(crate) fn several_adapters<'n, 'r>(
    node: &'n Node,
    known: &[&'static str],
    registry: &'r Registry,
) -> Vec<(&'static str, &'r Arc<dyn Adapter>, &'n Node)> {
    let adapter = |entry: &'n Entry| {
        let (name, adapter) = registry.get(&entry.key).filter(|(name, _)| known.contains(name))?;
        Some((name, adapter, &entry.value))
    };
    let all: Vec<_> = node.entries().iter().filter_map(adapter).collect();
    if all.len() > 1 { all } else { Vec::new() }
}

impl CheckedSinkUse {
    /// Opens the sink.
    pub(crate) async fn open(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Sink>, String> {
        let sink = self
            .sink
            .spec
            .open(SinkContext { flow: Arc::clone(context.flow), body_bytes: context.limits.body_bytes });
        sink.await.map_err(|failure| format!("{}: {}", context.path, failure.text()))
    }

    /// The sink's texts for a message.
    pub(crate) fn render(&self, scope: &Scope<'_>) -> Result<Vec<String>, Failure> {
        self.texts.iter().map(|text| text.render(scope)).collect()
    }
}
