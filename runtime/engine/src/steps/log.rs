//! `log`: writes a line to the runtime's log and lets the message on.

use gristmill_core::{
    Failure, Message,
    config::{self, Node},
    step::{Next, Running, Step, StepContext},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Checked, Verb, scope};
use crate::{expression::Template, flow::StepChecker};

/// The longest line, in characters; what is longer is cut.
const MAX_LINE_CHARS: usize = 4_096;

/// By which a filter of the log finds these lines.
const TARGET: &str = "gristmill::flow";

pub(super) const VERB: Verb = Verb {
    name: "log",
    summary: "Writes a line to the runtime's log; the message goes on unchanged.",
    schema: config::schema_of::<LogConfig>,
    check,
};

/// Writes a line to the runtime's log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LogConfig {
    /// The line, in which `${…}` holds expressions. Cut at 4,096 characters.
    text: String,
    /// The level.
    #[serde(default)]
    level: Level,
}

#[derive(Debug, Default, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Level {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

struct LogStep {
    text: Template,
    level: Level,
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    let config: LogConfig = config::parse(node, checker.mistakes)?;
    let at = node.at(["text"]);
    // What comes from outside may be a secret, and a log is read by many.
    let text = at.substitution.as_ref().map_or(config.text, |substitution| substitution.redacted());
    let text = checker.template(at, &text)?;
    Some(Checked::ready(LogStep { text, level: config.level }, Vec::new()))
}

impl Step for LogStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::Done(self.log(message, &context))
    }
}

impl LogStep {
    fn log(&self, message: Message, context: &StepContext<'_>) -> Result<Next, Failure> {
        let text = self.text.render(&scope(&message, context))?;
        // A message must not be able to forge a line of the log or to speak to the terminal.
        let text: String = text.chars().take(MAX_LINE_CHARS).flat_map(visible).collect();
        let (flow, version) = (&*context.flow.id, &*context.flow.version);
        let (step, message_id) = (context.step, message.id().as_str());
        match self.level {
            Level::Debug => tracing::debug!(target: TARGET, flow, version, step, message_id, "{text}"),
            Level::Info => tracing::info!(target: TARGET, flow, version, step, message_id, "{text}"),
            Level::Warn => tracing::warn!(target: TARGET, flow, version, step, message_id, "{text}"),
            Level::Error => tracing::error!(target: TARGET, flow, version, step, message_id, "{text}"),
        }
        Ok(Next::Continue(message))
    }
}

fn visible(c: char) -> impl Iterator<Item = char> {
    let (escaped, plain) =
        if c.is_control() && c != '\t' { (Some(c.escape_default()), None) } else { (None, Some(c)) };
    escaped.into_iter().flatten().chain(plain)
}
