//! The sink: a message goes out as a PUBLISH; the broker's acknowledgement confirms it, and a `call` has its answer on a topic
//! of the client's own.

mod client;
mod forwarded;
mod spec;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_core::{
    ErrorClass, Failure,
    adapter::{CheckedSink, Checker, SinkUse},
    config::Node,
    message::CONTENT_TYPE,
    sink::{Answer, OPEN_WITHIN, Outgoing, Sink, SinkContext, SinkSpec},
};
use rumqttc_v5::mqttbytes::v5::Publish;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use self::{
    client::{Client, Order},
    spec::Checked,
};
use crate::{
    link::{self, LinkError},
    properties,
};

pub(crate) use self::client::Clients;

/// What a body is that does not say.
const UNKNOWN_CONTENT: &str = "application/octet-stream";

/// Checked configuration of a sink, with the clients that it can use.
struct MqttSinkSpec {
    checked: Arc<Checked>,
    clients: Arc<Clients>,
}

/// An open sink.
struct MqttSink {
    checked: Arc<Checked>,
    client: Arc<Client>,
    body_bytes: usize,
}

/// Checks the configuration of a sink. `None` when there are mistakes.
pub(crate) fn check(
    node: &Node,
    usage: SinkUse,
    checker: &mut Checker<'_>,
    clients: &Arc<Clients>,
) -> Option<CheckedSink> {
    let checked = Arc::new(spec::check(node, usage, checker)?);
    let spec = Arc::new(MqttSinkSpec { checked, clients: Arc::clone(clients) });
    Some(CheckedSink { spec, answers: true, templates: checker.take_templates() })
}

// === impl MqttSinkSpec ===

#[async_trait]
impl SinkSpec for MqttSinkSpec {
    async fn open(&self, context: SinkContext) -> Result<Arc<dyn Sink>, Failure> {
        let Checked { named, connection, .. } = &*self.checked;
        let tls = link::load_tls(connection)
            .await
            .map_err(|text| Failure::new(ErrorClass::SinkUnavailable, text))?;
        let client = self.clients.get(named, connection, tls);
        if let Ok(Err(LinkError { text, is_refusal: true, .. })) =
            timeout(OPEN_WITHIN, client.attempted()).await
        {
            return Err(Failure::new(ErrorClass::SinkRejected, text));
        }
        Ok(Arc::new(MqttSink { checked: Arc::clone(&self.checked), client, body_bytes: context.body_bytes }))
    }

    fn configuration_files(&self) -> Vec<PathBuf> {
        // Those of the connection are part of its fingerprint.
        Vec::new()
    }
}

impl std::fmt::Debug for MqttSinkSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MqttSinkSpec").field(&self.checked).finish()
    }
}

// === impl MqttSink ===

#[async_trait]
impl Sink for MqttSink {
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.checked.timeout;
        let publish = self.checked.publish(&outgoing)?;
        // Up to here nothing was awaited, so the first poll takes the place.
        let (done, confirmed) = oneshot::channel();
        let needs_receiver = self.checked.needs_receiver;
        self.client.order(Order { publish, done, answer: None, needs_receiver });
        self.confirmed(confirmed, deadline).await
    }

    async fn call(&self, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.checked.timeout;
        let mut publish = self.checked.publish(&outgoing)?;
        // Text, because some who answer can only hand back text.
        let correlation = Bytes::from(format!("{:032x}", rand::random::<u128>()));
        let properties = publish.properties.get_or_insert_with(properties::none);
        properties.response_topic = Some(self.client.answer_topic.clone());
        properties.correlation_data = Some(correlation.clone());
        let (done, confirmed) = oneshot::channel();
        let (answer, mut answered) = oneshot::channel();
        let answer = Some((correlation, answer));
        self.client.order(Order { publish, done, answer, needs_receiver: false });
        // An answer can overtake the confirmation, and is as good as one.
        let confirmation = self.confirmed(confirmed, deadline);
        tokio::pin!(confirmation);
        tokio::select! {
            biased;
            Ok(answer) = &mut answered => return self.answer(&answer?),
            confirmed = &mut confirmation => confirmed?,
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => self.answer(&answer?),
            Ok(Err(_gone)) => Err(self.ended()),
            Err(_elapsed) => Err(self.checked.timeout_failure("no answer")),
        }
    }
}

impl MqttSink {
    async fn confirmed(
        &self,
        confirmed: oneshot::Receiver<Result<(), Failure>>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        match timeout_at(deadline, confirmed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_gone)) => Err(self.ended()),
            Err(_elapsed) => Err(self.checked.timeout_failure("no acknowledgement")),
        }
    }

    fn ended(&self) -> Failure {
        client::unavailable(&format!("{}: its client has ended", self.checked.place()))
    }

    fn answer(&self, publish: &Publish) -> Result<Answer, Failure> {
        if publish.payload.len() > self.body_bytes {
            let text = format!(
                "{}: the answer has {} bytes, and no more than {} are taken (`limits.body_bytes`)",
                self.checked.place(),
                publish.payload.len(),
                self.body_bytes
            );
            return Err(Failure::new(ErrorClass::Limit, text));
        }
        let (mut headers, _left_out) = properties::to_headers(publish);
        // Else the new body would go by the content type of the old one.
        if !publish.payload.is_empty() && headers.get(CONTENT_TYPE).is_none() {
            headers
                .append(CONTENT_TYPE, UNKNOWN_CONTENT)
                .map_err(|error| Failure::new(ErrorClass::Internal, error.to_string()))?;
        }
        Ok(Answer { headers, body: publish.payload.clone() })
    }
}
