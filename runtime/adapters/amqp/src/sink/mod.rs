//! The sink: messages are published, and confirmed by the broker; or asked, and replied to.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | checked configuration, and the properties of a message |
//! | [`job`] | a message on its way to the publisher |
//! | [`publisher`] | one task a sink: publishes in order, and waits for confirmations and replies |

mod job;
mod publisher;
mod spec;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use gristmill_core::{
    ErrorClass, Failure,
    adapter::{CheckedSink, Checker, SinkUse},
    config::Node,
    sink::{Answer, OPEN_WITHIN, Outgoing, Sink, SinkContext, SinkSpec},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use self::{
    job::{Job, Reply},
    publisher::Publisher,
    spec::Checked,
};
use crate::{
    connection::{Broker, Brokers},
    header_map::{Unfit, size_of},
};

/// Checked configuration of a sink, with the connections that it can use.
struct AmqpSinkSpec {
    checked: Arc<Checked>,
    is_call: bool,
    brokers: Arc<Brokers>,
}

/// An open sink. Its publisher ends with it.
struct AmqpSink {
    checked: Arc<Checked>,
    broker: Arc<Broker>,
    /// Without a limit by its type: what is in it is a send that is under way, of which the flows have a limit.
    jobs: mpsc::UnboundedSender<Box<Job>>,
    body_bytes: usize,
}

/// Checks the configuration of a sink. `None` when there are mistakes.
pub(crate) fn check(
    node: &Node,
    usage: SinkUse,
    checker: &mut Checker<'_>,
    brokers: &Arc<Brokers>,
) -> Option<CheckedSink> {
    let checked = Arc::new(spec::check(node, usage, checker)?);
    let is_call = usage == SinkUse::Call;
    let spec = Arc::new(AmqpSinkSpec { checked, is_call, brokers: Arc::clone(brokers) });
    Some(CheckedSink { spec, answers: true, templates: checker.take_templates() })
}

// === impl AmqpSinkSpec ===

#[async_trait]
impl SinkSpec for AmqpSinkSpec {
    async fn open(&self, context: SinkContext) -> Result<Arc<dyn Sink>, Failure> {
        let broker = self.brokers.get(&self.checked.connection, &self.checked.connection_spec);
        if let Err(trouble) = broker.publishing.attempt(Instant::now() + OPEN_WITHIN).await
            && trouble.needs_a_person()
        {
            return Err(Failure::new(ErrorClass::SinkRejected, trouble.text));
        }
        let (jobs, queue) = mpsc::unbounded_channel();
        let publisher = Publisher::new(Arc::clone(&self.checked), Arc::clone(&broker), self.is_call, queue);
        tokio::spawn(publisher.run());
        let body_bytes = context.body_bytes;
        Ok(Arc::new(AmqpSink { checked: Arc::clone(&self.checked), broker, jobs, body_bytes }))
    }

    fn configuration_files(&self) -> Vec<PathBuf> {
        // Those of the connection are part of its own fingerprint.
        Vec::new()
    }
}

impl std::fmt::Debug for AmqpSinkSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AmqpSinkSpec").field(&self.checked).finish()
    }
}

// === impl AmqpSink ===

#[async_trait]
impl Sink for AmqpSink {
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure> {
        self.publish(&outgoing).await.map(|_no_reply| ())
    }

    async fn call(&self, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        let reply = self.publish(&outgoing).await?;
        let reply =
            reply.ok_or_else(|| Failure::new(ErrorClass::Internal, "a call ended without its reply"))?;
        reply.into_answer(&self.checked.answer_headers, self.body_bytes)
    }
}

impl AmqpSink {
    /// Everything up to the queue of the publisher is done in the first poll: that is the place in the order.
    async fn publish(&self, outgoing: &Outgoing<'_>) -> Result<Option<Reply>, Failure> {
        let unfit = |Unfit { name, problem }| {
            let text = format!("{}: `{name}` {problem}", self.place());
            Failure::new(ErrorClass::SinkRejected, text)
        };
        let routing_key = self.checked.routing_key(outgoing).map_err(unfit)?;
        let properties = self.checked.properties(outgoing).map_err(unfit)?;
        if size_of(&properties) > publisher::MAX_PROPERTIES_BYTES {
            let text = format!(
                "{}: the headers take {} bytes in AMQP, which has room for {}; forward fewer",
                self.place(),
                size_of(&properties),
                publisher::MAX_PROPERTIES_BYTES
            );
            return Err(Failure::new(ErrorClass::SinkRejected, text));
        }
        let (done, ended) = oneshot::channel();
        let body = outgoing.message.body().clone();
        let job = Box::new(Job { routing_key, properties, body, done });
        let gone = || Failure::new(ErrorClass::Internal, "the publisher of the sink has ended");
        self.jobs.send(job).map_err(|_| gone())?;
        match timeout(self.checked.timeout, ended).await {
            Ok(result) => result.map_err(|_| gone())?,
            Err(_elapsed) => Err(self.late()),
        }
    }

    /// Why nothing came in time.
    fn late(&self) -> Failure {
        let limit = self.checked.timeout.as_millis();
        let text = match self.broker.publishing.blocked() {
            Some(reason) => format!(
                "{}: the broker takes nothing for now ({reason}), for longer than {limit} ms (`timeout_ms`)",
                self.place()
            ),
            None => format!(
                "{}: no answer within {limit} ms (`timeout_ms`); whether the broker has the message is not known",
                self.place()
            ),
        };
        Failure::new(ErrorClass::Timeout, text)
    }

    fn place(&self) -> String {
        publisher::place(&self.checked)
    }
}
