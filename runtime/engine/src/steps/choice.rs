//! `choice`: the first branch whose condition holds takes the message (EIP: content-based router). What comes out of the
//! branch goes on after the step. A message that no branch takes is an error, not a silent drop.

use gristmill_core::{
    Failure, Message,
    config::{self, Node},
    step::{Next, Running, Step, StepContext},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use super::{Checked, Verb, branching::no_branch, scope};
use crate::{expression::Expression, flow::StepChecker};

pub(super) const VERB: Verb = Verb {
    name: "choice",
    summary: "The first branch whose condition holds takes the message; what comes out of it goes on.",
    schema: config::schema_of::<Vec<BranchConfig>>,
    check,
};

/// One branch: `when` with `steps`, or, as the last one, `otherwise`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(
    dead_code,
    reason = "only its schema is used: each branch is read by itself, so that its mistakes are its own"
)]
enum BranchConfig {
    When(WhenConfig),
    Otherwise(OtherwiseConfig),
}

/// A branch with a condition.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WhenConfig {
    /// The condition, a CEL expression.
    when: String,
    /// What happens then. May be empty.
    #[schemars(extend("x-steps" = true))]
    #[allow(dead_code, reason = "the steps are read from the node, which knows their place")]
    steps: Vec<Json>,
}

/// The branch for every message that no other takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OtherwiseConfig {
    /// What happens then. May be empty.
    #[schemars(extend("x-steps" = true))]
    #[allow(dead_code, reason = "the steps are read from the node, which knows their place")]
    otherwise: Vec<Json>,
}

struct ChoiceStep {
    /// A branch without a condition takes everything.
    conditions: Vec<Option<Expression>>,
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    let Some(list) = node.as_list().filter(|list| !list.is_empty()) else {
        checker.mistake(
            "wrong_type",
            node,
            format!("a choice is a list of branches, and this is {}", node.kind()),
            "write `- when: <expression>` with `steps:`, and last `- otherwise:` with its steps",
        );
        return None;
    };
    let (mut conditions, mut branches, mut good) = (Vec::new(), Vec::new(), true);
    let mut all_taken_at: Option<usize> = None;
    for (index, item) in list.iter().enumerate() {
        let is_otherwise = item.get("otherwise").is_some();
        if let Some(taken) = all_taken_at {
            checker.mistake(
                "unreachable_step",
                item,
                format!("no message comes here: branch {} takes them all", taken + 1),
                "move this branch up, or remove it",
            );
        }
        let (condition, steps) = if is_otherwise {
            all_taken_at = all_taken_at.or(Some(index));
            let place = format!("choice[{index}].otherwise");
            match config::parse::<OtherwiseConfig>(item, checker.mistakes) {
                Some(_) => (Some(None), checker.branch(item.at(["otherwise"]), &place)),
                None => {
                    checker.broken_branch(item.get("otherwise"), &place);
                    (None, None)
                }
            }
        } else {
            let place = format!("choice[{index}].steps");
            match config::parse::<WhenConfig>(item, checker.mistakes) {
                Some(branch) => {
                    if branch.when.trim() == "true" {
                        all_taken_at = all_taken_at.or(Some(index));
                    }
                    let condition = checker.condition(item.at(["when"]), &branch.when).map(Some);
                    (condition, checker.branch(item.at(["steps"]), &place))
                }
                None => {
                    checker.broken_branch(item.get("steps"), &place);
                    (None, None)
                }
            }
        };
        match (condition, steps) {
            (Some(condition), Some(steps)) => {
                conditions.push(condition);
                branches.push(steps);
            }
            _ => good = false,
        }
    }
    good.then(|| Checked::ready(ChoiceStep { conditions }, branches))
}

impl Step for ChoiceStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::Done(self.choose(message, &context))
    }
}

impl ChoiceStep {
    fn choose(&self, message: Message, context: &StepContext<'_>) -> Result<Next, Failure> {
        let mut chosen = None;
        {
            let scope = scope(&message, context);
            for (index, condition) in self.conditions.iter().enumerate() {
                if condition.as_ref().map_or(Ok(true), |c| c.evaluate_bool(&scope))? {
                    chosen = Some(index);
                    break;
                }
            }
        }
        match chosen {
            Some(index) => Ok(Next::Enter(message, index)),
            None => Err(no_branch("no `when` of the choice holds, and it has no `otherwise`")),
        }
    }
}
