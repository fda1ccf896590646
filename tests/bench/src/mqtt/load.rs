//! The topics at the broker, as the load sees them: a pile of messages is published, and what comes out is received.

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rumqttc_v5::{
    AsyncClient, Event, EventLoop, MqttOptions, PublishOptions,
    mqttbytes::{
        QoS,
        v5::{Packet, PubAckReason},
    },
};
use tokio::runtime::Runtime;

use crate::{
    forwarding::{Broker, PATIENCE, Pile, Side},
    subject::Subject,
};

/// How many messages the load publishes before the broker has acknowledged the first, and may be sent before it has acknowledged.
const WINDOW: u16 = 200;

/// A client of the broker that receives what comes out.
pub(crate) struct Topics {
    runtime: Runtime,
    client: AsyncClient,
    events: EventLoop,
    /// How many messages of `has_subscriber` are on their way.
    probes: usize,
}

impl Topics {
    /// Connects, and subscribes to what comes out.
    ///
    /// # Errors
    /// The broker is not there.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut options = MqttOptions::new("load", (address.ip().to_string(), address.port()));
        options
            .set_receive_maximum(Some(WINDOW))
            .set_max_request_batch(usize::from(WINDOW))
            .set_clean_start(true);
        let builder = AsyncClient::builder(options).capacity(4 * usize::from(WINDOW));
        let (client, events) = runtime.block_on(async { builder.try_build() })?;
        let mut topics = Self { runtime, client, events, probes: 0 };
        for side in [Side::Floor, Side::Ours] {
            topics.client.try_subscribe(side.sink(), QoS::AtLeastOnce)?;
            topics.wait_for(|packet| Ok(matches!(packet, Packet::SubAck(_)).then_some(())))?;
        }
        Ok(topics)
    }

    /// Whether someone has subscribed to a topic: only then does the broker take a message of it with success. That message
    /// goes through, see [`Self::take_probes`].
    ///
    /// # Errors
    /// The broker is gone.
    fn has_subscriber(&mut self, topic: &str) -> Result<bool> {
        let options = PublishOptions::at_least_once();
        self.client.try_publish(topic, r#"{"order_id":0}"#.to_owned(), options)?;
        let mut came = 0;
        let has = self.wait_for(|packet| match packet {
            Packet::PubAck(answer) => Ok(Some(answer.reason == PubAckReason::Success)),
            packet => {
                came += usize::from(matches!(packet, Packet::Publish(_)));
                Ok(None)
            }
        })?;
        self.probes = (self.probes + usize::from(has)).saturating_sub(came);
        Ok(has)
    }

    /// Takes what `has_subscriber` made come out and has not come out yet.
    ///
    /// # Errors
    /// It does not come.
    fn take_probes(&mut self) -> Result<()> {
        for _ in 0..std::mem::take(&mut self.probes) {
            self.wait_for(|packet| Ok(matches!(packet, Packet::Publish(_)).then_some(())))?;
        }
        Ok(())
    }

    /// Waits for the packet of which `look` makes something.
    fn wait_for<T>(&mut self, mut look: impl FnMut(Packet) -> Result<Option<T>>) -> Result<T> {
        let Self { runtime, events, .. } = self;
        let found = async {
            loop {
                if let Event::Incoming(packet) = events.poll().await?
                    && let Some(found) = look(packet)?
                {
                    return anyhow::Ok(found);
                }
            }
        };
        runtime.block_on(within(found))
    }
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.context("the broker takes too long")?
}

/// Of a URL `mqtt://host:port`.
///
/// # Errors
/// It is none.
pub(crate) fn host_and_port(url: &str) -> Result<(String, u16)> {
    let parts = url.strip_prefix("mqtt://").and_then(|rest| rest.rsplit_once(':'));
    let (host, port) = parts.with_context(|| format!("{url} is not mqtt://host:port"))?;
    Ok((host.to_owned(), port.parse()?))
}

impl Broker for Topics {
    fn pile_up(&mut self, of: Side, pile: &Pile) -> Result<()> {
        let Self { runtime, client, events, .. } = self;
        let (mut published, mut acknowledged) = (0, 0);
        runtime.block_on(within(async {
            while acknowledged < pile.len() {
                while published < pile.len() && published - acknowledged < usize::from(WINDOW) {
                    let options = PublishOptions::at_least_once();
                    client.try_publish(of.source(), pile.message(published), options)?;
                    published += 1;
                }
                if let Event::Incoming(Packet::PubAck(answer)) = events.poll().await? {
                    ensure!(
                        answer.reason == PubAckReason::Success,
                        "the broker refused a message: {answer:?}"
                    );
                    acknowledged += 1;
                }
            }
            Ok(())
        }))
    }

    fn pour(&mut self, of: Side, pile: &Pile, release: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let began = Instant::now();
        release()?;
        let mut received = 0;
        self.wait_for(|packet| {
            if let Packet::Publish(message) = packet {
                ensure!(message.topic == of.sink().as_bytes(), "a message of the other side came out");
                pile.check(received, &message.payload)?;
                received += 1;
            }
            Ok((received == pile.len()).then(|| began.elapsed()))
        })
    }

    fn check(&mut self, _of: Side, _pile: &Pile) -> Result<()> {
        // As they came.
        Ok(())
    }

    fn until_ready(&mut self, of: Side, subject: &mut Subject) -> Result<()> {
        subject.until("it has not subscribed", |_| self.has_subscriber(of.source()))?;
        self.take_probes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_those_of_the_url() {
        assert_eq!(host_and_port("mqtt://127.0.0.1:1883").unwrap(), ("127.0.0.1".to_owned(), 1883));
        assert!(host_and_port("127.0.0.1:1883").is_err());
        assert!(host_and_port("mqtt://127.0.0.1").is_err());
    }
}
