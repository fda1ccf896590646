//! What a protocol registers with the runtime: how to check the configuration of its source and its sink.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;

use crate::{
    config::{Mistake, Mistakes, Node, Schema, Span},
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

    /// Checks the configuration of a source without touching the outside world. `None` when there are mistakes.
    fn check_source(&self, config: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>>;

    /// Checks the configuration of a sink without touching the outside world. `None` when there are mistakes.
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
    templates: Vec<TemplateText>,
}

// === impl Checker ===

impl<'a> Checker<'a> {
    /// A checker for one source or one sink.
    pub fn new(mistakes: &'a mut Mistakes, base_dir: &'a Path, limits: &'a FlowLimits) -> Self {
        Self { mistakes, base_dir, limits, templates: Vec::new() }
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
