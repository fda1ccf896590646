//! `set`: sets headers and the body from expressions (EIP: content enricher, without a call).

use std::collections::BTreeMap;

use gristmill_core::{
    ErrorClass, Failure, Message,
    config::{self, Node, Secret},
    limits::FlowLimits,
    step::{Next, Running, Step, StepContext},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Checked, Verb,
    content::{Content, ContentConfig, HeaderTemplate, check_headers, wrong_name},
    scope, within_limits,
};
use crate::flow::StepChecker;

pub(super) const VERB: Verb = Verb {
    name: "set",
    summary: "Sets headers and the body from expressions, evaluated on the message as it came in.",
    schema: config::schema_of::<SetConfig>,
    check,
};

/// Sets headers and the body.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetConfig {
    /// Headers to remove, before the sets.
    #[serde(default)]
    remove_headers: Vec<String>,
    /// Headers to set: name to text with `${…}`. Each replaces every header of its name.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// The new body.
    #[serde(default)]
    body: Option<ContentConfig>,
}

struct SetStep {
    remove_headers: Vec<String>,
    headers: Vec<HeaderTemplate>,
    body: Option<Content>,
    limits: FlowLimits,
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    let before = checker.mistakes.len();
    let config: SetConfig = config::parse(node, checker.mistakes)?;
    let headers = check_headers(&config.headers, node.at(["headers"]), checker);
    let body = match &config.body {
        Some(body) => body.check(node.at(["body"]), checker).map(Some),
        None => Some(None),
    };
    let removed = node.at(["remove_headers"]).as_list().unwrap_or_default();
    for (name, at) in config.remove_headers.iter().zip(removed) {
        checker.mistakes.extend(wrong_name(name, &at.span).map(Into::into).unwrap_or_default());
    }
    let is_nothing = config.remove_headers.is_empty() && config.headers.is_empty() && config.body.is_none();
    // What is wrong is not in the configuration, and is something all the same.
    if is_nothing && checker.mistakes.len() == before {
        checker.mistake(
            "nothing_to_do",
            node,
            "this step sets nothing",
            "add `headers:`, `remove_headers:` or `body:`",
        );
        return None;
    }
    let step = SetStep {
        remove_headers: config.remove_headers,
        headers: headers?,
        body: body?,
        limits: checker.limits.clone(),
    };
    Some(Checked::ready(step, Vec::new()))
}

impl Step for SetStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::Done(self.set(message, &context))
    }
}

impl SetStep {
    fn set(&self, mut message: Message, context: &StepContext<'_>) -> Result<Next, Failure> {
        let (values, body) = {
            let scope = scope(&message, context);
            let values =
                self.headers.iter().map(|h| h.value.render(&scope)).collect::<Result<Vec<_>, _>>()?;
            (values, self.body.as_ref().map(|body| body.render(&scope)).transpose()?)
        };
        for name in &self.remove_headers {
            message.headers_mut().remove(name);
        }
        for (header, value) in self.headers.iter().zip(values) {
            let set = message.headers_mut().set(&header.name, &value);
            set.map_err(|e| Failure::new(ErrorClass::Expression, e.to_string()))?;
        }
        if let Some(body) = body {
            message.set_body(body);
        }
        within_limits(message, &self.limits).map(Next::Continue)
    }
}
