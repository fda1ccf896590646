//! A body made of an expression or of a text: what `set` and `reply` have in common.

use bytes::Bytes;
use gristmill_core::{
    Failure,
    config::{Node, Secret},
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

/// Compiles a map of header names to texts that stands at `node`.
pub(super) fn check_headers<'c>(
    headers: impl IntoIterator<Item = (&'c String, &'c Secret)>,
    node: &Node,
    checker: &mut StepChecker<'_>,
) -> Option<Vec<HeaderTemplate>> {
    let mut all = Some(Vec::new());
    for (name, value) in headers {
        let at = node.at([name.as_str()]);
        let name = name.to_ascii_lowercase();
        if let Err(invalid) = gristmill_core::message::check_header(&name, "") {
            checker.mistake("invalid_header", at, invalid.to_string(), "a name such as `x-request-id`");
            all = None;
            continue;
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
