//! A body made of an expression or of a text: what `set` and `reply` have in common.

use std::collections::BTreeSet;

use bytes::Bytes;
use gristmill_core::{
    Failure,
    config::{Mistake, Node, Secret, Span},
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    expression::{Expression, Scope, Template},
    flow::StepChecker,
};

/// Where a body comes from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ContentConfig {
    /// The value of a CEL expression: text as it is, anything else as JSON.
    Expression(String),
    /// A text, in which `${…}` holds expressions.
    Text(Secret),
}

/// The same, compiled.
pub(super) enum Content {
    Expression(Expression),
    Text(Template),
}

/// A header with its compiled value.
pub(super) struct HeaderTemplate {
    pub(super) name: String,
    pub(super) value: Template,
}

impl ContentConfig {
    /// Compiles it; `node` is where it stands.
    pub(super) fn check(&self, node: &Node, checker: &mut StepChecker<'_>) -> Option<Content> {
        match self {
            Self::Expression(text) => {
                checker.expression(node.at(["expression"]), text).map(Content::Expression)
            }
            Self::Text(text) => checker.template(node.at(["text"]), text.expose()).map(Content::Text),
        }
    }
}

impl Content {
    /// The body for this message.
    pub(super) fn render(&self, scope: &Scope<'_>) -> Result<Bytes, Failure> {
        match self {
            Self::Expression(expression) => expression.evaluate_body(scope),
            Self::Text(template) => template.render(scope).map(Bytes::from),
        }
    }
}

/// What is wrong with the name of a header that stands at `span`.
pub(super) fn wrong_name(name: &str, span: &Span) -> Option<Mistake> {
    if name.contains("${") {
        let text = "the name of a header is the same for every message: `${…}` is not read in it";
        return Some(
            Mistake::new("invalid_header", span, text).mend("write the name out; its value may hold `${…}`"),
        );
    }
    let invalid = gristmill_core::message::check_header(&name.to_ascii_lowercase(), "").err()?;
    Some(Mistake::new("invalid_header", span, invalid.to_string()).mend("a name such as `x-request-id`"))
}

/// Compiles a map of header names to texts that stands at `node`.
pub(super) fn check_headers<'c>(
    headers: impl IntoIterator<Item = (&'c String, &'c Secret)>,
    node: &Node,
    checker: &mut StepChecker<'_>,
) -> Option<Vec<HeaderTemplate>> {
    let mut all = Some(Vec::new());
    let mut seen = BTreeSet::new();
    for (written, value) in headers {
        let at = node.at([written.as_str()]);
        let key = node.entries().iter().find(|entry| entry.key == *written);
        let key = key.map_or(&node.span, |entry| &entry.key_span);
        let name = written.to_ascii_lowercase();
        if let Some(mistake) = wrong_name(written, key) {
            checker.mistakes.push(mistake);
            all = None;
        } else if !seen.insert(name.clone()) {
            let text = format!("the header `{name}` is written twice: upper and lower case are the same");
            checker.mistakes.push(Mistake::new("duplicate_header", key, text).mend("keep one of the two"));
            all = None;
        }
        match checker.template(at, value.expose()) {
            Some(value) => {
                if let Some(all) = &mut all {
                    all.push(HeaderTemplate { name, value });
                }
            }
            None => all = None,
        }
    }
    all
}
