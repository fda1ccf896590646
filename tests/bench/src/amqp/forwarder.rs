//! The floor: a forwarder as the examples of the client library lead one to write it, but for acknowledgements, which it puts
//! together. It keeps what ours promises as well: a message is acknowledged once the broker has confirmed its successor.

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesOrdered};
use lapin::{
    Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    },
    types::FieldTable,
};

use crate::{
    forwarding::{Arguments, IN_FLIGHT},
    work::Work,
};

/// Forwards until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // As a task, beside those of the connections: outside of the runtime's threads each message would go from one to another.
    runtime.block_on(async { tokio::spawn(forward(arguments.clone())).await? })
}

async fn forward(arguments: Arguments) -> Result<()> {
    let mut work = Work::new(&arguments.work).await?;
    // Two, as RabbitMQ's users are told to: a broker that is short of memory stops reading where messages are published.
    let connect = || Connection::connect(&arguments.url, ConnectionProperties::default());
    let (consuming, publishing) = (connect().await?, connect().await?);
    let publishing = publishing.create_channel().await?;
    publishing.confirm_select(ConfirmSelectOptions::default()).await?;
    let consuming = consuming.create_channel().await?;
    consuming.basic_qos(IN_FLIGHT, BasicQosOptions::default()).await?;
    let mut messages = consuming
        .basic_consume(
            arguments.source.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    // Each is begun in the order in which it was put here, and what is begun is published in that order.
    let mut under_way = FuturesOrdered::new();
    loop {
        tokio::select! {
            Some(forwarded) = under_way.next(), if !under_way.is_empty() => {
                let forwarded: Result<u64> = forwarded;
                let mut last = forwarded?;
                // All before it have been confirmed, so one acknowledgement is for all that are confirmed by now.
                while let Some(Some(next)) = under_way.next().now_or_never() {
                    last = next?;
                }
                consuming.basic_ack(last, BasicAckOptions { multiple: true }).await?;
            }
            message = messages.next() => {
                let message = message.context("the consumer has ended")??;
                let body = work.rename(&message.data).await?;
                let (channel, sink) = (publishing.clone(), arguments.sink.as_str().into());
                // Awaited here, each publish would be a write of its own.
                under_way.push_back(async move {
                    let properties = message.properties.clone();
                    let options = BasicPublishOptions::default();
                    let confirm = channel.basic_publish("".into(), sink, options, &body, properties).await?;
                    ensure!(confirm.await?.is_ack(), "the broker refused a message");
                    Ok(message.delivery_tag)
                });
            }
        }
    }
}
