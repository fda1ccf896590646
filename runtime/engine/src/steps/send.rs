//! `send`: hands the message to a sink and waits for the confirmation; the message goes on unchanged (EIP: message
//! endpoint). Dead letters are sent the same way.

use std::sync::Arc;

use async_trait::async_trait;
use gristmill_core::{
    Failure, Message,
    adapter::SinkUse,
    config::{Node, Schema},
    sink::{Outgoing, Sink},
    step::{Next, Running, Step, StepContext},
};

use super::{BuildContext, Built, Checked, CheckedStep, Verb, scope};
use crate::flow::{CheckedSinkUse, StepChecker};

pub(super) const VERB: Verb = Verb {
    name: "send",
    summary: "Hands the message to a sink and waits for its confirmation; the message goes on unchanged.",
    schema: sink_schema,
    check,
};

/// One key, the adapter's name; what stands under it is the adapter's.
pub(super) fn sink_schema() -> Schema {
    serde_json::json!({ "type": "object", "x-sink": true, "minProperties": 1, "maxProperties": 1 })
}

fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Checked> {
    checker.sink(node, SinkUse::Send).map(|sink| Checked::leaf(CheckedSend(sink)))
}

struct CheckedSend(CheckedSinkUse);

struct SendStep {
    checked: CheckedSinkUse,
    sink: Arc<dyn Sink>,
}

#[async_trait]
impl CheckedStep for CheckedSend {
    async fn build(&self, context: &BuildContext<'_>) -> Result<Built, String> {
        let sink = self.0.open(context).await?;
        Ok(Built::ready(SendStep { checked: self.0.clone(), sink }))
    }
}

impl Step for SendStep {
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a> {
        Running::waiting(self.send(message, context))
    }
}

impl SendStep {
    /// Not an `async fn`, which would have room for the message twice.
    fn send<'a>(
        &'a self,
        mut message: Message,
        context: StepContext<'a>,
    ) -> impl Future<Output = Result<Next, Failure>> + Send + 'a {
        async move {
            let texts = self.checked.render(&scope(&message, &context))?;
            message.forget_reading();
            self.sink.send(Outgoing::new(&message, &texts)).await?;
            Ok(Next::Continue(message))
        }
    }
}
