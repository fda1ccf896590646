//! A client of RabbitMQ beside the runtime, which blocks.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Connection,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::runtime::Runtime;

use super::{PATIENCE, eventually};

/// A connection with one AMQP channel.
pub(crate) struct AmqpClient {
    channel: Channel,
    connection: Connection,
    runtime: Runtime,
}

impl AmqpClient {
    #[track_caller]
    pub(crate) fn connect(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, Default::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        });
        Self { channel, connection, runtime }
    }

    /// Declares a durable queue.
    pub(crate) fn declare(&self, queue: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.runtime
            .block_on(self.channel.queue_declare(queue.into(), options, FieldTable::default()))
            .unwrap();
    }

    /// Puts a message into a queue, and waits until the broker has it.
    #[track_caller]
    pub(crate) fn publish(&self, queue: &str, body: &str) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirmation = self.runtime.block_on(async {
            let properties = BasicProperties::default().with_content_type("text/plain".into());
            let published =
                self.channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
            published.await.unwrap().await.unwrap()
        });
        assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "no queue `{queue}`");
    }

    /// The next message of a queue, waiting for it.
    #[track_caller]
    pub(crate) fn take(&self, queue: &str) -> String {
        eventually(&format!("a message in the queue {queue}"), || self.try_take(queue))
    }

    /// The next message of a queue, if there is one.
    pub(crate) fn try_take(&self, queue: &str) -> Option<String> {
        let got = self.runtime.block_on(async {
            let got = self.channel.basic_get(queue.into(), BasicGetOptions::default());
            let got = tokio::time::timeout(PATIENCE, got).await.unwrap().unwrap()?;
            got.delivery.ack(BasicAckOptions::default()).await.unwrap();
            Some(got.delivery.data)
        });
        got.map(|body| String::from_utf8(body.to_vec()).unwrap())
    }

    /// How many consumers a queue has.
    pub(crate) fn consumers(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        self.runtime.block_on(declared).unwrap().consumer_count()
    }
}

impl Drop for AmqpClient {
    fn drop(&mut self) {
        let closed = self.connection.close(200, "done".into());
        // The broker may be gone before its client.
        let _closed =
            self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), closed).await });
    }
}
