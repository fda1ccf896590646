//! `call`: sends the message and takes the answer as the new body (EIP: request/reply). Headers of the answer are set on
//! the message.

use std::sync::Arc;

use async_trait::async_trait;
use gristmill_core::{
    Failure, Message,
    adapter::SinkUse,
    config::Node,
    limits::FlowLimits,
    sink::{Outgoing, Sink},
    step::{Next, Running, Step, StepContext},
};

use super::{BuildContext, Built, Checked, CheckedStep, Verb, scope, send::sink_schema, within_limits};
use crate::flow::{CheckedSinkUse, StepChecker};

pub(super) const VERB: Verb = Verb {
    name: "call",
    summary: "Sends the message and takes the answer: its headers are set on the message, its body is the new body.",
    schema: sink_schema,
    check,
};

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    checker.sink(node, SinkUse::Call).map(|sink| Checked::leaf(CheckedCall(sink)))
}

struct CheckedCall(CheckedSinkUse);

struct CallStep {
    checked: CheckedSinkUse,
    sink: Arc<dyn Sink>,
    limits: FlowLimits,
}

#[async_trait]
impl CheckedStep for CheckedCall {
    async fn build(&self, context: &BuildContext<'_>) -> Result<Built, String> {
        let sink = self.0.open(context).await?;
        Ok(Built::ready(CallStep { checked: self.0.clone(), sink, limits: context.limits.clone() }))
    }
}

impl Step for CallStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::waiting(self.call(message, context))
    }
}

impl CallStep {
    async fn call(&self, mut message: Message, context: StepContext<'_>) -> Result<Next, Failure> {
        let texts = self.checked.render(&scope(&message, &context))?;
        message.forget_reading();
        let answer = self.sink.call(Outgoing::new(&message, &texts)).await?;
        message.headers_mut().replace_by(&answer.headers);
        message.set_body(answer.body);
        within_limits(message, &self.limits).map(Next::Continue)
    }
}
