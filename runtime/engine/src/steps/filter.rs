//! `filter`: lets a message on only if a condition holds (EIP: message filter). What does not pass is dropped on purpose, and
//! counted.

use gristmill_core::{
    Failure, Message,
    config::{self, Node},
    step::{Next, Running, Step, StepContext},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Checked, Verb, scope};
use crate::{expression::Expression, flow::StepChecker};

pub(super) const VERB: Verb = Verb {
    name: "filter",
    summary: "Lets a message on only if a condition holds; any other is dropped on purpose and counted.",
    schema: config::schema_of::<FilterConfig>,
    check,
};

/// Lets a message on only if a condition holds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FilterConfig {
    /// The condition, a CEL expression: a message for which it is true goes on.
    keep: String,
}

struct FilterStep {
    keep: Expression,
    reason: String,
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    let config: FilterConfig = config::parse(node, checker.mistakes)?;
    let keep = checker.condition(node.at(["keep"]), &config.keep)?;
    if config.keep.trim() == "false" {
        checker.ends_here(node.at(["keep"]), "this filter keeps nothing");
    }
    let reason = format!("`{}` is false", config.keep);
    Some(Checked::ready(FilterStep { keep, reason }, Vec::new()))
}

impl Step for FilterStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::Done(self.filter(message, &context))
    }
}

impl FilterStep {
    fn filter(&self, message: Message, context: &StepContext<'_>) -> Result<Next, Failure> {
        let keep = self.keep.evaluate_bool(&scope(&message, context))?;
        Ok(if keep { Next::Continue(message) } else { Next::Drop(self.reason.clone()) })
    }
}
