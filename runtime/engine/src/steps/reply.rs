//! `reply`: says what a request/reply source answers. It is sent once, when the delivery has settled; of several the last
//! one counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use gristmill_core::{
    ErrorClass, Failure, Headers, Message, Reply,
    config::{self, Mistake, Node, Secret},
    step::{Next, Running, Step, StepContext},
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

/// Headers of one connection (RFC 9110 section 7.6.1) and of the framing of a body (RFC 9112 section 6).
const COMPUTED: [&str; 10] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Statuses whose answers have no content (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
const BODILESS: [u16; 3] = [204, 205, 304];

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
    for entry in node.at(["headers"]).entries() {
        let name = entry.key.to_ascii_lowercase();
        if COMPUTED.contains(&name.as_str()) {
            let text = format!(
                "`{name}` is about the connection or the length of the answer, which the source sets"
            );
            checker.mistakes.push(Mistake::new("invalid_header", &entry.key_span, text).mend("remove it"));
        }
    }
    if let (Some(status), Some(body)) = (config.status.filter(|it| BODILESS.contains(it)), node.get("body")) {
        let text = format!("an answer with the status {status} has no body");
        checker.mistake("reply_without_body", body, text, "remove it, or take another status, e.g. 200");
    }
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

impl Step for ReplyStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::Done(self.reply(message, &context))
    }
}

impl ReplyStep {
    fn reply(&self, message: Message, context: &StepContext<'_>) -> Result<Next, Failure> {
        let scope = scope(&message, context);
        let mut headers = Headers::new();
        for header in &self.headers {
            let value = header.value.render(&scope)?;
            let append = headers.append(&header.name, &value);
            append.map_err(|e| Failure::new(ErrorClass::Expression, e.to_string()))?;
        }
        let body = self.body.as_ref().map_or(Ok(Bytes::new()), |body| body.render(&scope))?;
        context.lineage.set_reply(Reply { status: self.status, headers, body });
        Ok(Next::Continue(message))
    }
}
