//! A consumer: an AMQP channel of its own on the shared connection, with the queue looked after and consumed.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel, Consumer as LapinConsumer, ExchangeKind,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    settings::Settings,
    settling::{self, End, Ended},
    spec::Binding,
};
use crate::{connection::Session, trouble::Trouble};

/// How long the broker may take to cancel a consumer.
const CANCEL_WITHIN: Duration = Duration::from_secs(10);

/// A channel on which the queue was found or made as it is wanted, and on which nothing is consumed yet.
#[derive(Debug)]
pub(crate) struct Opened {
    session: Arc<Session>,
    lease: Arc<Lease>,
}

/// A channel that is consumed on.
#[derive(Debug)]
pub(crate) struct Consumer {
    session: Arc<Session>,
    lease: Arc<Lease>,
    inner: LapinConsumer,
    /// What [`Self::ready`] met that is no message.
    end: Option<Next>,
    pub(crate) since: Instant,
}

/// A channel, kept as long as there is something to acknowledge on it: this is the generation by which an acknowledgement
/// that comes too late is known. The connection is kept as well, by the task that tells the broker.
#[derive(Debug)]
pub(crate) struct Lease {
    channel: Channel,
    /// Without a limit by its type: the prefetch is one.
    ended: mpsc::UnboundedSender<Ended>,
}

/// A message as the broker gave it, with the channel on which it is acknowledged.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) delivery: lapin::message::Delivery,
    pub(crate) lease: Arc<Lease>,
}

/// What a consumer gives next.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Box<Received>),
    /// The broker cancelled the consumer: the queue was deleted, or moved to another node.
    Cancelled,
    /// The channel or the connection is gone.
    Lost(Trouble),
}

// === impl Opened ===

impl Opened {
    /// Connects, opens a channel, and looks after the queue.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) async fn new(settings: &Settings, deadline: Instant) -> Result<Self, Trouble> {
        let session = settings.broker.consuming.attempt(deadline).await?;
        let open = async {
            let channel = session.channel().await?;
            look_after(&channel, settings).await?;
            Ok(channel)
        };
        let channel = timeout_at(deadline, open).await.map_err(|_elapsed| {
            Trouble::new(format!("queue `{}`: the broker does not answer", settings.queue.name))
        })??;
        let (ended, ends) = mpsc::unbounded_channel();
        let broker = Arc::clone(&settings.broker);
        let prefetch = settings.prefetch();
        tokio::spawn(settling::tell(channel.clone(), Arc::clone(&session), broker, prefetch, ends));
        let lease = Arc::new(Lease { channel, ended });
        Ok(Self { session, lease })
    }

    /// Begins to consume.
    ///
    /// # Errors
    /// The broker refuses, or does not answer until `deadline`.
    pub(crate) async fn consume(self, settings: &Settings, deadline: Instant) -> Result<Consumer, Trouble> {
        let queue = &settings.queue;
        let options = BasicConsumeOptions { exclusive: queue.exclusive, ..BasicConsumeOptions::default() };
        let consume = self.lease.channel.basic_consume(
            queue.name.clone(),
            "".into(),
            options,
            queue.consumer_arguments.clone(),
        );
        let doing = format!("consuming from queue `{}`", queue.name);
        let inner = timeout_at(deadline, consume)
            .await
            .map_err(|_elapsed| Trouble::new(format!("{doing}: the broker does not answer")))?
            .map_err(|error| Trouble::from_error(&doing, &error))?;
        Ok(Consumer { session: self.session, lease: self.lease, inner, end: None, since: Instant::now() })
    }
}

/// Finds the queue, or declares it; binds it; and says how much may be sent ahead.
async fn look_after(channel: &Channel, settings: &Settings) -> Result<(), Trouble> {
    let queue = &settings.queue;
    let (options, arguments) = match &queue.declare {
        Some(declare) => (
            QueueDeclareOptions {
                passive: false,
                durable: declare.durable,
                exclusive: declare.exclusive,
                auto_delete: declare.auto_delete,
                nowait: false,
            },
            declare.arguments.clone(),
        ),
        None => {
            (QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() }, FieldTable::default())
        }
    };
    let doing = || format!("queue `{}`", queue.name);
    // The broker takes the name of one that is not there without a word, and then drops what is rejected.
    let dead_letters = queue.declare.as_ref().and_then(|declare| declare.dead_letter_exchange.as_ref());
    if let Some(exchange) = dead_letters.filter(|exchange| !exchange.as_str().is_empty()) {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::default();
        channel.exchange_declare(exchange.clone(), kind, options, FieldTable::default()).await.map_err(
            |error| {
                let doing = format!("queue `{}`, its `dead_letter_exchange` `{exchange}`", queue.name);
                Trouble::from_error(&doing, &error)
            },
        )?;
    }
    let declared = channel.queue_declare(queue.name.clone(), options, arguments).await;
    declared.map_err(|error| Trouble::from_error(&doing(), &error))?;
    for Binding { exchange, routing_key, arguments } in &queue.bindings {
        let (exchange, options) = (exchange.clone(), QueueBindOptions::default());
        let doing = || format!("binding queue `{}` to exchange `{exchange}`", queue.name);
        channel
            .queue_bind(queue.name.clone(), exchange.clone(), routing_key.clone(), options, arguments.clone())
            .await
            .map_err(|error| Trouble::from_error(&doing(), &error))?;
    }
    let qos = channel.basic_qos(settings.prefetch(), BasicQosOptions::default()).await;
    qos.map_err(|error| Trouble::from_error(&doing(), &error))
}

// === impl Consumer ===

impl Consumer {
    /// What comes next. Cancel-safe: the library's stream is.
    pub(crate) async fn next(&mut self) -> Next {
        if let Some(end) = self.end.take() {
            return end;
        }
        let item = tokio::select! {
            biased;
            item = self.inner.next() => item,
            () = self.session.ended() => return Next::Lost(Trouble::new("the connection broke off")),
        };
        self.what(item)
    }

    /// The next message, if the library has it already.
    pub(crate) fn ready(&mut self) -> Option<Box<Received>> {
        if self.end.is_some() {
            return None;
        }
        let item = self.inner.next().now_or_never()?;
        match self.what(item) {
            Next::Message(received) => Some(received),
            end => {
                self.end = Some(end);
                None
            }
        }
    }

    fn what(&self, item: Option<lapin::Result<lapin::message::Delivery>>) -> Next {
        match item {
            Some(Ok(delivery)) => {
                Next::Message(Box::new(Received { delivery, lease: Arc::clone(&self.lease) }))
            }
            Some(Err(error)) => Next::Lost(Trouble::from_error("consuming", &error)),
            None if self.session.is_alive() && self.lease.is_good() => Next::Cancelled,
            None => Next::Lost(Trouble::new("the connection broke off")),
        }
    }

    /// Tells the broker to send no more, and gives what it had sent ahead. The channel stays for acknowledgements.
    pub(crate) async fn cancel(mut self) -> Vec<Received> {
        let cancel = self.lease.channel.basic_cancel(self.inner.tag(), BasicCancelOptions::default());
        let mut rest = Vec::new();
        if self.end.is_some() {
            // It has given all that it had.
            return rest;
        }
        // When it fails the channel is gone, and the broker has everything again.
        if let Ok(Ok(())) = timeout(CANCEL_WITHIN, cancel).await {
            while let Ok(Some(Ok(delivery))) = timeout(CANCEL_WITHIN, self.inner.next()).await {
                rest.push(Received { delivery, lease: Arc::clone(&self.lease) });
            }
        }
        rest
    }

    /// Whether this is the channel that it consumes on.
    pub(crate) fn is_on(&self, lease: &Arc<Lease>) -> bool {
        Arc::ptr_eq(&self.lease, lease)
    }

    /// Ends with its channel: what the broker had sent ahead goes back to where it was in the queue.
    pub(crate) async fn give_back(self) {
        // When it fails the channel is gone, and the broker has everything again.
        let _gone = timeout(CANCEL_WITHIN, self.lease.channel.close(200, "goodbye".into())).await;
    }

    /// Undoes bindings that are not wanted any more. What fails is logged: messages that come by them are taken all the same.
    pub(crate) async fn unbind(&self, settings: &Settings, old: &[Binding]) {
        // A failure ends a channel, so it is not done on the one that is consumed on.
        let dropped: Vec<&Binding> =
            old.iter().filter(|binding| !settings.queue.bindings.contains(binding)).collect();
        for Binding { exchange, routing_key, arguments } in dropped {
            let unbind = async {
                let channel = self.session.channel().await?;
                let queue = settings.queue.name.clone();
                let unbound = channel
                    .queue_unbind(queue, exchange.clone(), routing_key.clone(), arguments.clone())
                    .await;
                unbound.map_err(|error| Trouble::from_error("unbinding", &error))
            };
            let problem = match timeout(CANCEL_WITHIN, unbind).await {
                Ok(Ok(())) => continue,
                Ok(Err(trouble)) => trouble.text,
                Err(_elapsed) => "the broker does not answer".to_owned(),
            };
            tracing::warn!(
                target: "gristmill::amqp", flow = &*settings.context.flow,
                "queue `{}` is still bound to exchange `{exchange}` by `{routing_key}`: {problem}", settings.queue.name
            );
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Whether an acknowledgement can still reach the broker. If not, it has the message again, and offers it on another
    /// channel.
    pub(crate) fn is_good(&self) -> bool {
        self.channel.status().connected()
    }

    /// A message of this channel has ended: the broker is told, if it can be. From whichever thread; `telling` is kept until
    /// then.
    pub(super) fn end(&self, tag: u64, end: End, telling: TaskTrackerToken) {
        // When the task is gone so is the connection, and the broker offers the message again.
        let _gone = self.ended.send(Ended { tag, end, telling });
    }
}

// === impl Received ===

impl Received {
    /// Not done: the broker puts the message back where it was, if it can.
    pub(crate) async fn requeue(&self) {
        if self.lease.is_good() {
            let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            let _gone = self.delivery.acker.nack(options).await;
        }
    }
}
