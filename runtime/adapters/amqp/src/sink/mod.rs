//! The sink: messages are published, and confirmed by the broker; or asked, and replied to.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | checked configuration, and the properties of a message |
//! | [`job`] | a message on its way to the publisher |
//! | [`line`] | an AMQP channel to publish on |
//! | [`answer`] | what the broker says to a message, and what a send fails with |
//! | [`window`] | how many messages may be unconfirmed; a send that finds room there publishes by itself |
//! | [`publisher`] | one task a sink: publishes everything else, in order, and waits for confirmations and replies |

mod answer;
mod job;
mod line;
mod publisher;
mod spec;
mod window;

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
    line::Outbound,
    publisher::Publisher,
    spec::Checked,
    window::{Place, Unheard, Waiting, Window},
};
use crate::{
    connection::{Broker, Brokers},
    header_map::{Unfit, size_of},
};

/// The most bytes of properties. They have to fit in one frame, of which RabbitMQ's are 128 KiB unless it is told otherwise.
const MAX_PROPERTIES_BYTES: usize = 128 * 1024 - 1024;

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
    /// Of a sink whose sends may publish by themselves.
    window: Option<Arc<Window>>,
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
        let checked = &self.checked;
        let (window, abandoned) = Window::new(checked.most_unconfirmed(self.is_call), checked.timeout);
        let publisher = Publisher::new(
            Arc::clone(checked),
            Arc::clone(&broker),
            self.is_call,
            queue,
            (Arc::clone(&window), abandoned),
        );
        let clock = Arc::clone(&window);
        tokio::spawn(async move {
            tokio::select! {
                () = publisher.run() => {}
                () = clock.keep_time() => {}
            }
        });
        let window = (!checked.mandatory && !self.is_call).then_some(window);
        let body_bytes = context.body_bytes;
        Ok(Arc::new(AmqpSink { checked: Arc::clone(checked), broker, jobs, window, body_bytes }))
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
        let message = self.outbound(&outgoing)?;
        match self.window.as_ref().map(|window| window.enter(self.broker.publishing.is_blocked())) {
            Some(Ok(place)) => self.publish(place, message).await,
            // Boxed: it is seldom.
            Some(Err(waiting)) => Box::pin(self.hand_over(message, Some(waiting))).await.map(drop),
            None => Box::pin(self.hand_over(message, None)).await.map(drop),
        }
    }

    async fn call(&self, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        let reply = self.hand_over(self.outbound(&outgoing)?, None).await?;
        let reply =
            reply.ok_or_else(|| Failure::new(ErrorClass::Internal, "a call ended without its reply"))?;
        reply.into_answer(&self.checked.answer_headers, self.body_bytes)
    }
}

/// Everything up to the library, or to the queue of the publisher, is done in the first poll: that is the place in the order.
impl AmqpSink {
    fn outbound(&self, outgoing: &Outgoing<'_>) -> Result<Outbound, Failure> {
        let unfit = |Unfit { name, problem }| {
            let text = format!("{}: `{name}` {problem}", self.place());
            Failure::new(ErrorClass::SinkRejected, text)
        };
        let routing_key = self.checked.routing_key(outgoing).map_err(unfit)?;
        let properties = self.checked.properties(outgoing).map_err(unfit)?;
        let properties_bytes = size_of(&properties);
        if properties_bytes > MAX_PROPERTIES_BYTES {
            let text = format!(
                "{}: the headers take {properties_bytes} bytes in AMQP, which has room for {MAX_PROPERTIES_BYTES}; forward \
                 fewer",
                self.place(),
            );
            return Err(Failure::new(ErrorClass::SinkRejected, text));
        }
        let (exchange, body) = (self.checked.exchange.clone(), outgoing.message.body().clone());
        // What is returned by the broker is not for sends that publish by themselves: see the publisher.
        let mandatory = self.window.is_none();
        Ok(Outbound { exchange, routing_key, properties, properties_bytes, body, mandatory })
    }

    /// Publishes, and waits for the confirmation.
    async fn publish(&self, mut place: Place<'_>, message: Outbound) -> Result<(), Failure> {
        if message.properties_bytes > place.line().properties_max {
            return Err(answer::too_large(&self.checked));
        }
        match place.publish(message).await {
            Ok(result) => match answer::read(result) {
                Ok(said) => answer::judge(&self.checked, said),
                Err(trouble) => {
                    if trouble.closes_over_a_message() {
                        place.window().go_one_by_one();
                    }
                    Err(answer::failure(&self.checked, &trouble))
                }
            },
            Err(Unheard::Late) => Err(self.late()),
            Err(Unheard::Lost) => Err(answer::failure(&self.checked, &answer::broke_off())),
        }
    }

    /// Gives the message to the publisher, and waits until it has ended.
    async fn hand_over(&self, message: Outbound, waiting: Option<Waiting>) -> Result<Option<Reply>, Failure> {
        let (done, ended) = oneshot::channel();
        let job = Box::new(Job { message, waiting, done });
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
        answer::place(&self.checked)
    }
}
