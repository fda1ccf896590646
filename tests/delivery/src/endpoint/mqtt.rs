//! MQTT: a feeder with a window of publishes, and a receiver with a session that the broker keeps.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use super::Work;
use crate::{
    feed::{Feed, Turn},
    ledger::Ledger,
    mqtt::{Client, Packet},
};

/// How long is waited before connecting again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The most messages with QoS 2 that Mosquitto takes from a client of 3.1.1 at once, unless it is told otherwise.
const WINDOW_OF_QOS_2: usize = 20;

/// Starts a feeder that publishes with this QoS, with so many messages unconfirmed at once. What the broker has acknowledged
/// for good is accepted; what it had not when the connection was lost is published again, in the same order, with a new
/// session: with QoS 2, too, a message can then come twice, and only then.
pub fn feed(feed: &Arc<Feed>, address: SocketAddr, topic: String, qos: u8, window: usize) -> Vec<Work> {
    let feed = Arc::clone(feed);
    let window = if qos == 2 { window.min(WINDOW_OF_QOS_2) } else { window };
    vec![thread::spawn(move || {
        let mut feeder = Feeder { feed: &feed, topic, qos, window, open: BTreeSet::new(), ended: false };
        while !feeder.is_done() {
            let _lost = feeder.connected(address);
            thread::sleep(AGAIN_AFTER);
        }
        Ok(())
    })]
}

struct Feeder<'a> {
    feed: &'a Feed,
    topic: String,
    qos: u8,
    window: usize,
    /// What is not acknowledged, by number. The packet id is the number, modulo.
    open: BTreeSet<u64>,
    ended: bool,
}

impl Feeder<'_> {
    fn is_done(&self) -> bool {
        self.feed.is_given_up() || (self.ended && self.open.is_empty())
    }

    fn connected(&mut self, address: SocketAddr) -> std::io::Result<()> {
        let mut client = Client::connect(address, &format!("feeder-{}", self.topic.replace('/', "-")), true)?;
        for number in &self.open {
            let body = self.feed.attempt(*number);
            client.publish(packet_id(*number), &self.topic, body.as_bytes(), self.qos)?;
        }
        while !self.is_done() {
            while self.open.len() < self.window && !self.ended {
                match self.feed.turn() {
                    Turn::Send(number) => {
                        self.open.insert(number);
                        let body = self.feed.attempt(number);
                        client.publish(packet_id(number), &self.topic, body.as_bytes(), self.qos)?;
                    }
                    Turn::Wait => break,
                    Turn::End => self.ended = true,
                }
            }
            match client.receive()? {
                Some(Packet::PubRec(id)) => client.release(id)?,
                Some(Packet::PubAck(id) | Packet::PubComp(id)) => self.confirmed(id),
                _ => {}
            }
        }
        Ok(())
    }

    fn confirmed(&mut self, id: u16) {
        let number = self.open.iter().find(|number| packet_id(**number) == id).copied();
        if let Some(number) = number {
            self.open.remove(&number);
            self.feed.ledger().accepted(number);
        }
    }
}

/// Not 0, and different for all that are in a window.
fn packet_id(number: u64) -> u16 {
    u16::try_from(number % 60_000).unwrap_or_default() + 1
}

/// A receiver, subscribed before it is given. Ends when told.
#[derive(Debug)]
pub struct Receiver {
    stop: Arc<AtomicBool>,
    work: Work,
}

impl Receiver {
    /// Starts one that writes down what comes as arrivals at this sink.
    ///
    /// # Errors
    /// There is no broker.
    pub fn start(ledger: &Arc<Ledger>, sink: usize, address: SocketAddr, topic: &str) -> Result<Self> {
        let id = format!("receiver-{}", topic.replace('/', "-"));
        let mut client =
            Client::connect(address, &id, false).context("the receiver cannot connect to Mosquitto")?;
        client.subscribe(topic).context("the receiver cannot subscribe")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ledger, stopped) = (Arc::clone(ledger), Arc::clone(&stop));
        let work = thread::spawn(move || {
            let mut client = Some(client);
            while !stopped.load(Ordering::Relaxed) {
                let Some(connected) = &mut client else {
                    client = Client::connect(address, &id, false).ok();
                    if client.is_none() {
                        thread::sleep(AGAIN_AFTER);
                    }
                    continue;
                };
                if receive(connected, &ledger, sink).is_err() {
                    client = None;
                }
            }
            Ok(())
        });
        Ok(Self { stop, work })
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

fn receive(client: &mut Client, ledger: &Ledger, sink: usize) -> std::io::Result<()> {
    if let Some(Packet::Publish(id, body)) = client.receive()? {
        ledger.arrived(sink, &body);
        client.acknowledge(id)?;
    }
    Ok(())
}
