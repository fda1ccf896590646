//! The queues at the broker, as the load sees them: piles of messages put in, counted, and taken out.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Queue,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::runtime::Runtime;

use crate::{
    forwarding::{Broker, PATIENCE, Pile, Side},
    subject::Subject,
};

/// After how many messages the load waits for the broker, so that they do not pile up in the load instead.
const BATCH: usize = 5_000;

/// How often a queue is asked how long it is.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A connection to the broker.
pub(crate) struct Queues {
    runtime: Runtime,
    channel: Channel,
    _connection: Connection,
}

impl Queues {
    /// Connects.
    ///
    /// # Errors
    /// The broker is not there.
    pub(crate) fn connect(url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            lapin::Result::Ok((connection, channel))
        })?;
        Ok(Self { runtime, channel, _connection: connection })
    }

    /// Makes a durable queue.
    ///
    /// # Errors
    /// The broker refuses.
    pub(crate) fn declare(&self, queue: &str) -> Result<()> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.within(self.channel.queue_declare(queue.into(), options, FieldTable::default()))?;
        Ok(())
    }

    /// Whether someone consumes from a queue.
    ///
    /// # Errors
    /// There is no such queue.
    fn has_consumer(&self, queue: &str) -> Result<bool> {
        Ok(self.within(look_at(&self.channel, queue))?.consumer_count() > 0)
    }

    /// How many messages wait in a queue.
    ///
    /// # Errors
    /// There is no such queue.
    pub(crate) fn waiting(&self, queue: &str) -> Result<u32> {
        Ok(self.within(look_at(&self.channel, queue))?.message_count())
    }

    /// Publishes that many messages into a queue, and waits until the broker has confirmed the last: asked how long a queue is, it answers
    /// before it has put all into it that came before the question.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn fill(
        &self,
        queue: &str,
        messages: usize,
        properties: &BasicProperties,
        body: impl Fn(usize) -> String,
    ) -> Result<()> {
        self.runtime.block_on(async {
            self.channel.confirm_select(ConfirmSelectOptions::default()).await?;
            for number in 0..messages {
                let (options, body) = (BasicPublishOptions::default(), body(number));
                let published = self.channel.basic_publish(
                    "".into(),
                    queue.into(),
                    options,
                    body.as_bytes(),
                    properties.clone(),
                );
                drop(published.await?);
                if (number + 1) % BATCH == 0 {
                    look_at(&self.channel, queue).await?;
                }
            }
            self.channel.wait_for_confirms().await?;
            Ok(())
        })
    }

    /// Takes that many messages out of a queue, each with its number.
    ///
    /// # Errors
    /// They do not come, or `look` says no.
    fn take(&self, queue: &str, messages: usize, look: impl Fn(usize, &[u8]) -> Result<()>) -> Result<()> {
        self.within(async {
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let mut consumer =
                self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
            for number in 0..messages {
                let message = consumer.next().await.context("the consumer has ended")??;
                look(number, &message.data)?;
            }
            let options = BasicCancelOptions::default();
            self.channel.basic_cancel(consumer.tag(), options).await?;
            anyhow::Ok(())
        })
    }

    fn within<T, E: Into<anyhow::Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T> {
        self.runtime.block_on(async {
            let done = tokio::time::timeout(PATIENCE, work).await;
            done.context("the broker takes too long")?.map_err(Into::into)
        })
    }
}

async fn look_at(channel: &Channel, queue: &str) -> lapin::Result<Queue> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await
}

impl Broker for Queues {
    fn pile_up(&mut self, of: Side, pile: &Pile) -> Result<()> {
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
        self.fill(of.source(), pile.len(), &properties, |number| pile.message(number))
    }

    fn pour(&mut self, of: Side, pile: &Pile, release: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let wanted = u32::try_from(pile.len())?;
        let began = Instant::now();
        release()?;
        loop {
            let out = self.waiting(of.sink())?;
            if out >= wanted {
                ensure!(out == wanted, "{out} messages came out of {wanted}");
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < PATIENCE, "only {out} messages of {wanted} came out");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn check(&mut self, of: Side, pile: &Pile) -> Result<()> {
        self.take(of.sink(), pile.len(), |number, body| pile.check(number, body))?;
        ensure!(self.waiting(of.sink())? == 0, "more came out than went in");
        Ok(())
    }

    fn until_ready(&mut self, of: Side, subject: &mut Subject) -> Result<()> {
        subject.until("it does not consume", |_| self.has_consumer(of.source()))
    }
}
