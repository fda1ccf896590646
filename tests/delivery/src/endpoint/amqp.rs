//! AMQP: a feeder with a window of confirms, and a consumer of a durable queue.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Connection,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};

use super::Work;
use crate::{
    feed::{Feed, LOOK_AGAIN, Turn},
    ledger::Ledger,
};

/// How long is waited before connecting again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How many messages the broker sends ahead to the consumer.
const PREFETCH: u16 = 200;

/// Runs a future of this client library on a thread of its own.
fn run<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

async fn open(url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Declares durable queues.
///
/// # Errors
/// The broker is not there, or refuses.
pub fn declare(url: &str, queues: &[&str]) -> Result<()> {
    run(async {
        let (_connection, channel) = open(url).await.context("RabbitMQ cannot be reached")?;
        for queue in queues {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            channel.queue_declare((*queue).into(), options, FieldTable::default()).await?;
        }
        Ok(())
    })
}

/// How many messages wait in a queue.
///
/// # Errors
/// The broker is not there, or the queue is not.
pub fn waiting(url: &str, queue: &str) -> Result<u32> {
    run(async {
        let (_connection, channel) = open(url).await.context("RabbitMQ cannot be reached")?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        Ok(queue.message_count())
    })
}

/// Starts a feeder with so many messages unconfirmed at once. What the broker confirms is accepted; what it had not when the
/// connection was lost is published again, in the same order.
pub fn feed(feed: &Arc<Feed>, url: String, queue: String, window: usize) -> Vec<Work> {
    let feed = Arc::clone(feed);
    vec![thread::spawn(move || {
        run(async {
            let mut feeder = Feeder { feed: &feed, queue, window, open: BTreeSet::new(), ended: false };
            while !feeder.is_done() {
                let _lost = feeder.connected(&url).await;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Ok(())
        })
    })]
}

struct Feeder<'a> {
    feed: &'a Feed,
    queue: String,
    window: usize,
    /// What is not confirmed, by number.
    open: BTreeSet<u64>,
    ended: bool,
}

impl Feeder<'_> {
    fn is_done(&self) -> bool {
        self.feed.is_given_up() || (self.ended && self.open.is_empty())
    }

    async fn connected(&mut self, url: &str) -> Result<()> {
        let (_connection, channel) = open(url).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut confirms = FuturesUnordered::new();
        let mut again: BTreeMap<u64, ()> = self.open.iter().map(|number| (*number, ())).collect();
        while !self.is_done() {
            let next = match again.pop_first() {
                Some((number, ())) => Turn::Send(number),
                None if self.open.len() < self.window && !self.ended => self.feed.turn(),
                None => Turn::Wait,
            };
            match next {
                Turn::Send(number) => {
                    self.open.insert(number);
                    let body = self.feed.attempt(number);
                    let properties = BasicProperties::default().with_delivery_mode(2);
                    let options = BasicPublishOptions::default();
                    let confirm = channel
                        .basic_publish(
                            "".into(),
                            self.queue.as_str().into(),
                            options,
                            body.as_bytes(),
                            properties,
                        )
                        .await?;
                    confirms.push(confirm.map(move |confirm| (number, confirm)));
                    if confirms.len() < self.window {
                        continue;
                    }
                }
                Turn::End => self.ended = true,
                Turn::Wait => {}
            }
            tokio::select! {
                Some((number, confirm)) = confirms.next() => {
                    ensure!(confirm?.is_ack(), "the broker did not take it");
                    self.open.remove(&number);
                    self.feed.ledger().accepted(number);
                }
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(())
    }
}

/// A consumer. Ends when told.
#[derive(Debug)]
pub struct Consumer {
    stop: Arc<AtomicBool>,
    work: Work,
}

impl Consumer {
    /// Starts one that writes down what comes as arrivals at this sink.
    pub fn start(ledger: &Arc<Ledger>, sink: usize, url: String, queue: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ledger, stopped) = (Arc::clone(ledger), Arc::clone(&stop));
        let work = thread::spawn(move || {
            run(async {
                while !stopped.load(Ordering::Relaxed) {
                    let _lost = consume(&ledger, sink, &url, &queue, &stopped).await;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Ok(())
            })
        });
        Self { stop, work }
    }

    /// Ends it.
    ///
    /// # Errors
    /// It has panicked.
    pub fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        super::join(self.work)
    }
}

async fn consume(ledger: &Ledger, sink: usize, url: &str, queue: &str, stopped: &AtomicBool) -> Result<()> {
    let (_connection, channel) = open(url).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = consumer.await?;
    while !stopped.load(Ordering::Relaxed) {
        tokio::select! {
            delivery = consumer.next() => {
                let delivery = delivery.context("the consumer has ended")??;
                ledger.arrived(sink, &delivery.data);
                delivery.ack(BasicAckOptions::default()).await?;
            }
            () = tokio::time::sleep(LOOK_AGAIN * 10) => {}
        }
    }
    Ok(())
}
