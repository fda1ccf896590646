//! `reply`: says what a request/reply source answers. It is sent once, when the delivery has settled; of several the last
//! one counts.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_core::{
    ErrorClass, Failure, Headers, Message, Reply,
    config::{self, Node, Secret},
    step::{Next, Step, StepContext},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Checked, Verb,
    content::{Content, ContentConfig, HeaderTemplate, check_headers},
    scope,
};
use crate::flow::StepChecker;

pub(super) const VERB: Verb = Verb {
    name: "reply",
    summary: "Says what the source answers, once the delivery has settled; the message goes on unchanged.",
    schema: config::schema_of::<ReplyConfig>,
    check,
};

/// Says what the source answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplyConfig {
    /// The status (RFC 9110 section 15), 200 to 599.
    #[serde(default)]
    #[schemars(range(min = 200, max = 599))]
    status: Option<u16>,
    /// Headers of the answer: name to text with `${…}`.
    #[serde(default)]
    headers: BTreeMap<String, Secret>,
    /// The body of the answer; none unless asked for.
    #[serde(default)]
    body: Option<ContentConfig>,
}

struct ReplyStep {
    status: Option<u16>,
    headers: Vec<HeaderTemplate>,
    body: Option<Content>,
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    let config: ReplyConfig = config::parse(node, checker.mistakes)?;
    let headers = check_headers(&config.headers, node.at(["headers"]), checker);
    let body = match &config.body {
        Some(body) => body.check(node.at(["body"]), checker).map(Some),
        None => Some(None),
    };
    if !checker.source_replies {
        checker.mistake(
            "no_one_to_answer",
            node,
            "the source of this flow takes no answers",
            "remove this step",
        );
        return None;
    }
    let step = ReplyStep { status: config.status, headers: headers?, body: body? };
    Some(Checked::ready(step, Vec::new()))
}

#[async_trait]
impl Step for ReplyStep {
    async fn run(&self, message: Message, context: StepContext<'_>) -> Result<Next, Failure> {
        let scope = scope(&message, &context);
        let mut headers = Headers::new();
        for header in &self.headers {
            let value = header.value.render(&scope)?;
            let append = headers.append(&header.name, &value);
            append.map_err(|e| Failure::new(ErrorClass::Expression, e.to_string()))?;
        }
        let body = self.body.as_ref().map_or(Ok(Bytes::new()), |body| body.render(&scope))?;
        context.acknowledgement.set_reply(Reply { status: self.status, headers, body });
        Ok(Next::Continue(message))
    }
}
