//! The floor: a forwarder as the examples of the client library lead one to write it, with a client that takes and one that
//! publishes. It keeps what ours promises as well: a message is acknowledged once the broker has acknowledged its successor, and
//! acknowledgements are in order.

use anyhow::{Context, Result, ensure};
use rumqttc_v5::{
    AckMode, AsyncClient, Event, EventLoop, ManualAck, MqttOptions, PublishOptions,
    mqttbytes::{
        QoS,
        v5::{Packet, PubAckReason},
    },
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    forwarding::{Arguments, IN_FLIGHT},
    mqtt::load::host_and_port,
    work::Work,
};

/// How many requests are written at once.
const BATCH: usize = 64;

/// Forwards until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(forward(arguments))
}

async fn forward(arguments: &Arguments) -> Result<()> {
    let work = Work::new(&arguments.work).await?;
    let (source, source_events) = client(arguments, "floor-source", AckMode::Manual)?;
    let (sink, sink_events) = client(arguments, "floor-sink", AckMode::Automatic)?;
    source.subscribe(arguments.source.as_str(), QoS::AtLeastOnce).await?;
    // Of no more than what may be on its way.
    let (unconfirmed, confirming) = unbounded_channel();
    let taking =
        tokio::spawn(take(work, source.clone(), source_events, sink, arguments.sink.clone(), unconfirmed));
    let confirming = tokio::spawn(confirm(sink_events, source, confirming));
    tokio::select! {
        ended = taking => ended?,
        ended = confirming => ended?,
    }
}

fn client(arguments: &Arguments, id: &str, acks: AckMode) -> Result<(AsyncClient, EventLoop)> {
    let mut options = MqttOptions::new(id, host_and_port(&arguments.url)?);
    options
        .set_ack_mode(acks)
        .set_receive_maximum(Some(IN_FLIGHT))
        .set_max_request_batch(BATCH)
        .set_clean_start(true);
    Ok(AsyncClient::builder(options).capacity(2 * usize::from(IN_FLIGHT)).try_build()?)
}

/// Takes messages and publishes what is made of them.
async fn take(
    mut work: Work,
    source: AsyncClient,
    mut events: EventLoop,
    sink: AsyncClient,
    topic: String,
    unconfirmed: UnboundedSender<ManualAck>,
) -> Result<()> {
    loop {
        let Event::Incoming(Packet::Publish(message)) = events.poll().await? else { continue };
        let body = work.rename(&message.payload).await?;
        let ack = source.prepare_ack(&message).context("a message without an acknowledgement")?;
        unconfirmed.send(ack)?;
        sink.publish(topic.as_str(), body, PublishOptions::at_least_once()).await?;
    }
}

/// Acknowledges what was taken when what was published is acknowledged, which is in the same order.
async fn confirm(
    mut events: EventLoop,
    source: AsyncClient,
    mut unconfirmed: UnboundedReceiver<ManualAck>,
) -> Result<()> {
    loop {
        let Event::Incoming(Packet::PubAck(confirmed)) = events.poll().await? else { continue };
        ensure!(confirmed.reason == PubAckReason::Success, "the broker refused a message: {confirmed:?}");
        let ack = unconfirmed.recv().await.context("the other half has ended")?;
        source.manual_ack(ack).await?;
    }
}
