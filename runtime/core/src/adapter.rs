//! What a protocol registers with the runtime: how to check the configuration of its source and its sink.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;

use crate::{
    config::{Mistake, Mistakes, Node, Schema, Span, nearest},
    connection::{self, Connection, ConnectionSpec, ConnectionState, Connections},
    limits::FlowLimits,
    sink::{SinkSpec, Slot},
    source::SourceSpec,
};

/// A protocol: its source, its sink, or both.
///
/// One value of it lives as long as the process: what versions of flows share (listeners, connection pools, open files)
/// hangs from it.
#[async_trait]
pub trait Adapter: Send + Sync {
    /// The key in a flow file: `http`, `file`.
    fn name(&self) -> &'static str;

    /// The schema of what stands under `source: <name>:`, if there is a source.
    fn source_schema(&self) -> Option<Schema>;

    /// The schema of what stands under `send: <name>:`, if there is a sink.
    fn sink_schema(&self) -> Option<Schema>;

    /// The schema of what stands under `connections: <connection>: <name>:` in the runtime's configuration, if its sources
    /// and sinks name connections.
    fn connection_schema(&self) -> Option<Schema> {
        None
    }

    /// Checks the configuration of a connection without touching the outside world. `None` when nothing can be made of it.
    fn check_connection(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn ConnectionSpec>> {
        let _ = (config, checker);
        None
    }

    /// How the network connections are that are wanted now, by name and role.
    fn connection_states(&self) -> Vec<ConnectionState> {
        Vec::new()
    }

    /// Checks the configuration of a source without touching the outside world. `None` when nothing can be made of
    /// it; what is given along with mistakes is looked at further and never opened.
    fn check_source(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>>;

    /// Checks the configuration of a sink without touching the outside world. `None` when nothing can be made of it;
    /// what is given along with mistakes is looked at further and never opened.
    fn check_sink(&self, config: &Node, usage: SinkUse, checker: &mut Checker<'_>) -> Option<CheckedSink>;

    /// Waits until what outlives the endpoints (answers on their way to a sender) is done. Called once, when all sources
    /// have ended and before the process does; who calls sets a limit.
    async fn finish(&self) {}
}

/// What a sink is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkUse {
    /// `send`: hand over and wait for the confirmation.
    Send,
    /// `call`: hand over and wait for the answer.
    Call,
    /// `dead_letter`: the message is an envelope in JSON.
    DeadLetter,
}

/// A sink whose configuration is good.
#[derive(Debug, Clone)]
pub struct CheckedSink {
    /// Opens it.
    pub spec: Arc<dyn SinkSpec>,
    /// Whether it can be used by `call`.
    pub answers: bool,
    /// The texts to render for each message, in the order of their slots.
    pub templates: Vec<TemplateText>,
}

/// A text that may hold expressions.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateText {
    /// The text as written.
    pub text: String,
    /// Where it stands.
    pub span: Span,
    /// Whether any of it was substituted (`${env:…}`): such a text is never shown. What was substituted is no part of an
    /// expression.
    pub secret: bool,
}

/// What a check is given, and where it puts the mistakes it finds.
#[derive(Debug)]
pub struct Checker<'a> {
    /// Every mistake goes here; the check goes on.
    pub mistakes: &'a mut Mistakes,
    /// What relative paths are relative to.
    pub base_dir: &'a Path,
    /// The limits of the flow.
    pub limits: &'a FlowLimits,
    /// The id of the flow, as far as it is known.
    pub flow: Option<&'a str>,
    connections: &'a Connections,
    /// Those that were named.
    named: Vec<Connection>,
    templates: Vec<TemplateText>,
}

// === impl Checker ===

impl<'a> Checker<'a> {
    /// A checker for one source or one sink, when there are no connections.
    pub fn new(mistakes: &'a mut Mistakes, base_dir: &'a Path, limits: &'a FlowLimits) -> Self {
        let connections = &connection::NONE;
        Self { mistakes, base_dir, limits, flow: None, connections, named: Vec::new(), templates: Vec::new() }
    }

    /// The same with connections that can be named.
    #[must_use]
    pub fn with_connections(self, connections: &'a Connections) -> Self {
        Self { connections, ..self }
    }

    /// The same for a flow.
    #[must_use]
    pub fn for_flow(self, flow: Option<&'a str>) -> Self {
        Self { flow, ..self }
    }

    /// The connection called `name`, which stands at `node`, if it is one of this adapter; a mistake otherwise. That it was
    /// named becomes part of the flow's version, so that a change of it reaches the flow.
    pub fn connection(&mut self, adapter: &'static str, node: &Node, name: &str) -> Option<Connection> {
        let of_adapter = || self.connections.iter().filter(|it| it.adapter == adapter).map(|it| &*it.name);
        let mend = match nearest(name, of_adapter()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "define it in the runtime's configuration (gristmill.yaml): `connections: {{ {name}: {{ {adapter}: … }} }}`"
            ),
        };
        match self.connections.get(name) {
            Some(connection) if connection.adapter == adapter => {
                let connection = connection.clone();
                self.named.push(connection.clone());
                Some(connection)
            }
            Some(other) => {
                let text =
                    format!("the connection `{name}` is one of `{}`, not of `{adapter}`", other.adapter);
                self.mistake("wrong_connection", node, text, mend);
                None
            }
            None if self.connections.is_broken(name) => {
                let text = format!("the connection `{name}` cannot be used");
                let mend = "mend it in the runtime's configuration (gristmill.yaml), where its mistakes are";
                self.mistake("broken_connection", node, text, mend);
                None
            }
            None => {
                self.mistake("unknown_connection", node, format!("there is no connection `{name}`"), mend);
                None
            }
        }
    }

    /// The connections that were named so far.
    pub fn take_connections(&mut self) -> Vec<Connection> {
        std::mem::take(&mut self.named)
    }

    /// Notes a text that may hold expressions, found at `node`, and gives the slot by which it is read when a message is
    /// sent.
    pub fn template(&mut self, node: &Node, text: &str) -> Slot {
        self.templates.push(TemplateText {
            text: text.to_owned(),
            span: node.span.clone(),
            secret: node.is_substituted(),
        });
        Slot(self.templates.len() - 1)
    }

    /// Notes a mistake at `node`.
    pub fn mistake(
        &mut self,
        code: &'static str,
        node: &Node,
        text: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.mistakes.push(Mistake::new(code, &node.span, text).mend(mend));
    }

    /// The texts noted so far: what [`CheckedSink::templates`] wants.
    pub fn take_templates(&mut self) -> Vec<TemplateText> {
        std::mem::take(&mut self.templates)
    }
}
