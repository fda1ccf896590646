//! What messages are published on, and a message as it is published.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use lapin::{BasicProperties, Channel, Confirmation, options::BasicPublishOptions, types::ShortString};

use crate::connection::Session;

/// What messages are published on.
pub(super) trait Publishing: Send + Sync + 'static {
    /// Whether it can be published on, as far as is known.
    fn is_good(&self) -> bool;

    /// The number of the connection that it is on. Connections are counted from 1.
    fn on(&self) -> u64;

    /// Publishes when it is first polled, and gives what the broker says to it.
    fn publish(
        self: Arc<Self>,
        message: Outbound,
    ) -> impl Future<Output = lapin::Result<Confirmation>> + Send + 'static;
}

/// A message as it is published.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    /// How many bytes they take in AMQP.
    pub(super) properties_bytes: usize,
    pub(super) body: bytes::Bytes,
    pub(super) mandatory: bool,
}

/// An AMQP channel that confirms, and the connection that it is on.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) session: Arc<Session>,
    pub(super) channel: Channel,
    /// The number of its connection.
    pub(super) on: u64,
    /// The most that the properties of a message may take, in bytes.
    pub(super) properties_max: usize,
    /// Held while the library is given a message: see [`Publishing::publish`].
    pub(super) turn: Mutex<()>,
}

// === impl Line ===

impl Publishing for Line {
    fn is_good(&self) -> bool {
        self.session.is_alive() && self.channel.status().connected()
    }

    fn on(&self) -> u64 {
        self.on
    }

    fn publish(
        self: Arc<Self>,
        message: Outbound,
    ) -> impl Future<Output = lapin::Result<Confirmation>> + Send + 'static {
        async move {
            // Its parts are used where they are: taken out of it they would have room here once more.
            let options =
                BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
            let (exchange, routing_key) = (message.exchange, message.routing_key);
            let publish =
                self.channel.basic_publish(exchange, routing_key, options, &message.body, message.properties);
            let mut publish = pin!(publish);
            // The library gives a message its number under one lock and puts it in its queue under another. Two threads between the
            // two would swap their confirmations: the broker counts messages as they come.
            let given = poll_fn(|context| {
                let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                Poll::Ready(publish.as_mut().poll(context))
            });
            let confirm = match given.await {
                Poll::Ready(confirm) => confirm?,
                Poll::Pending => publish.await?,
            };
            confirm.await
        }
    }
}
