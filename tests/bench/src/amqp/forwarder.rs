//! The floor: a forwarder as the examples of the client library lead one to write it. It keeps what ours promises as well: a
//! message is acknowledged once the broker has confirmed its successor.

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
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
    let mut unconfirmed = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((confirmed, message)) = unconfirmed.next(), if !unconfirmed.is_empty() => {
                let confirmed: lapin::Result<lapin::Confirmation> = confirmed;
                let message: lapin::message::Delivery = message;
                ensure!(confirmed?.is_ack(), "the broker refused a message");
                message.ack(BasicAckOptions::default()).await?;
            }
            message = messages.next() => {
                let message = message.context("the consumer has ended")??;
                let body = work.rename(&message.data).await?;
                let confirm = publishing
                    .basic_publish(
                        "".into(),
                        arguments.sink.as_str().into(),
                        BasicPublishOptions::default(),
                        &body,
                        message.properties.clone(),
                    )
                    .await?;
                unconfirmed.push(async move { (confirm.await, message) });
            }
        }
    }
}
