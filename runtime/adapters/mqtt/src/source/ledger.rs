//! What a source owes to the broker: which messages it took, in which order, and which of them have settled.
//!
//! Acknowledgements are sent in the order in which the messages came (MQTT 5.0, section 4.6), each only after its settlement,
//! and only on the connection on which its message came. When a connection is lost, its messages become *orphans*. On a session
//! that goes on, the broker sends them again under the same packet identifiers: then each takes up its old entry, so that it is
//! not offered twice and a settlement of before still counts. On a new session, nobody waits for their acknowledgement any more.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gristmill_core::{Message, Settlement};
use rumqttc_v5::mqttbytes::{
    QoS,
    v5::{PubAck, PubRec, Publish},
};
use tokio::time::Instant;

use crate::wire::Packet;

/// The place of a message in the order of arrival, over all connections.
pub(crate) type Sequence = u64;

/// What is to be done with a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Make a message of it, and give it to [`Ledger::accept`].
    New,
    /// It is there already; its acknowledgement will come.
    Known,
    /// It was acknowledged before, and the broker did not hear it: say it again.
    AcknowledgeAgain,
}

/// A message that has not been acknowledged.
#[derive(Debug)]
struct Entry {
    topic: Bytes,
    body: Bytes,
    /// `None` once it is settled for good.
    message: Option<Message>,
    owed: Owed,
}

/// To whom a message owes an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    /// To no one: QoS 0, or its session is gone.
    Nothing,
    /// On this connection.
    Here { packet: u16, qos: QoS },
    /// On a connection that is lost.
    Orphan { packet: u16 },
}

/// All messages of a source that have not been acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    next: Sequence,
    entries: HashMap<Sequence, Entry>,
    /// Those of this connection, in the order of arrival.
    order: VecDeque<Sequence>,
    /// Those of lost connections, by packet identifier.
    orphans: HashMap<u16, Sequence>,
    /// Released ones, and when each is to be offered again.
    waiting: VecDeque<(Instant, Sequence)>,
    /// QoS 2: acknowledged by PUBREC, and not yet let go by the broker's PUBREL. Part of the session (MQTT 5.0, section 4.1).
    received: HashSet<u16>,
}

impl Ledger {
    /// How many messages of this connection have no acknowledgement.
    pub(crate) fn owed(&self) -> usize {
        self.order.len()
    }

    /// The place that the next message has.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Whether every message is settled and acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A PUBLISH has come.
    pub(crate) fn arrived(&mut self, publish: &Publish) -> Arrival {
        if publish.qos == QoS::AtMostOnce {
            return Arrival::New;
        }
        if self.received.contains(&publish.pkid) {
            return Arrival::AcknowledgeAgain;
        }
        let Some(sequence) = self.orphans.remove(&publish.pkid) else { return Arrival::New };
        let Some(entry) = self.entries.get_mut(&sequence) else { return Arrival::New };
        if publish.dup && entry.topic == publish.topic && entry.body == publish.payload {
            entry.owed = Owed::Here { packet: publish.pkid, qos: publish.qos };
            self.order.push_back(sequence);
            return Arrival::Known;
        }
        // The broker has taken the identifier for something else, so it waits for nothing here.
        self.owe_nothing(sequence);
        Arrival::New
    }

    /// A message is to be offered. Gives the place at which it will be settled.
    pub(crate) fn accept(&mut self, publish: &Publish, message: Message) -> Sequence {
        let sequence = self.next;
        self.next += 1;
        let owed = match publish.qos {
            QoS::AtMostOnce => Owed::Nothing,
            qos => {
                self.order.push_back(sequence);
                Owed::Here { packet: publish.pkid, qos }
            }
        };
        let (topic, body) = (publish.topic.clone(), publish.payload.clone());
        self.entries.insert(sequence, Entry { topic, body, message: Some(message), owed });
        sequence
    }

    /// A message that is refused before it becomes a delivery: it is settled on arrival.
    pub(crate) fn refuse(&mut self, publish: &Publish) {
        if publish.qos == QoS::AtMostOnce {
            return;
        }
        let sequence = self.next;
        self.next += 1;
        let owed = Owed::Here { packet: publish.pkid, qos: publish.qos };
        self.order.push_back(sequence);
        self.entries.insert(sequence, Entry { topic: Bytes::new(), body: Bytes::new(), message: None, owed });
    }

    /// A delivery has settled. A released one waits for `retry_after`; with `None` it is left to the broker.
    pub(crate) fn settled(
        &mut self,
        sequence: Sequence,
        settlement: Settlement,
        retry_after: Option<Duration>,
    ) {
        match settlement {
            Settlement::Delivered | Settlement::Rejected => {
                let Some(entry) = self.entries.get_mut(&sequence) else { return };
                entry.message = None;
                if entry.owed == Owed::Nothing {
                    self.entries.remove(&sequence);
                }
            }
            Settlement::Released => match retry_after {
                Some(delay) => self.waiting.push_back((Instant::now() + delay, sequence)),
                None => self.leave(sequence),
            },
        }
    }

    /// Released ones are not offered any more.
    pub(crate) fn leave_waiting(&mut self) {
        for (_, sequence) in std::mem::take(&mut self.waiting) {
            self.leave(sequence);
        }
    }

    /// It is never acknowledged, nor is what came after it: the broker sends them to the next client of this session.
    fn leave(&mut self, sequence: Sequence) {
        if let Some(at) = self.order.iter().position(|it| *it == sequence) {
            for left in self.order.split_off(at) {
                if let Some(entry) = self.entries.get_mut(&left) {
                    entry.owed = Owed::Nothing;
                    if entry.message.is_none() {
                        self.entries.remove(&left);
                    }
                }
            }
        }
        self.entries.remove(&sequence);
    }

    /// When the next released message is to be offered again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// A released message whose time has come.
    pub(crate) fn retry(&mut self, now: Instant) -> Option<(Sequence, Message)> {
        while let Some((due, _)) = self.waiting.front()
            && *due <= now
        {
            let (_, sequence) = self.waiting.pop_front()?;
            if let Some(message) = self.entries.get(&sequence).and_then(|entry| entry.message.clone()) {
                return Some((sequence, message));
            }
        }
        None
    }

    /// The next acknowledgement that may be sent, if the message whose turn it is has settled.
    pub(crate) fn acknowledge(&mut self) -> Option<Packet> {
        let sequence = *self.order.front()?;
        if self.entries.get(&sequence).is_some_and(|entry| entry.message.is_some()) {
            return None;
        }
        self.order.pop_front();
        match self.entries.remove(&sequence)?.owed {
            Owed::Here { packet, qos: QoS::ExactlyOnce } => {
                self.received.insert(packet);
                Some(Packet::PubRec(PubRec::new(packet, None)))
            }
            Owed::Here { packet, .. } => Some(Packet::PubAck(PubAck::new(packet, None))),
            Owed::Nothing | Owed::Orphan { .. } => None,
        }
    }

    /// Whether the broker has let every QoS 2 message go that was acknowledged.
    pub(crate) fn is_let_go(&self) -> bool {
        self.received.is_empty()
    }

    /// The broker has let a QoS 2 message go. Whether it was known.
    pub(crate) fn let_go(&mut self, packet: u16) -> bool {
        self.received.remove(&packet)
    }

    /// The connection is gone: no acknowledgement of its messages goes out on a later one, unless they come again there.
    pub(crate) fn connection_lost(&mut self) {
        for sequence in std::mem::take(&mut self.order) {
            let Some(entry) = self.entries.get_mut(&sequence) else { continue };
            if let Owed::Here { packet, .. } = entry.owed {
                entry.owed = Owed::Orphan { packet };
                self.orphans.insert(packet, sequence);
            }
        }
    }

    /// The broker knows nothing of the session: it sends nothing again and waits for nothing.
    pub(crate) fn session_lost(&mut self) {
        self.received.clear();
        for sequence in std::mem::take(&mut self.orphans).into_values() {
            self.owe_nothing(sequence);
        }
    }

    fn owe_nothing(&mut self, sequence: Sequence) {
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.owed = Owed::Nothing;
            if entry.message.is_none() {
                self.entries.remove(&sequence);
            }
        }
    }
}

/// An id that no other message of this process or of another start of it has.
pub(crate) fn id_prefix(flow: &str) -> Arc<str> {
    format!("{flow}:{:016x}", rand::random::<u64>()).into()
}

#[cfg(test)]
mod tests {
    use gristmill_core::Timestamp;

    use super::*;

    fn publish(packet: u16, qos: QoS, dup: bool) -> Publish {
        let mut publish = Publish::new("t", qos, format!("body {packet}"), None);
        (publish.pkid, publish.dup) = (packet, dup);
        publish
    }

    fn take(ledger: &mut Ledger, publish: &Publish) -> Sequence {
        assert_eq!(ledger.arrived(publish), Arrival::New);
        ledger.accept(publish, Message::new("m", Timestamp::from_millis(0), publish.payload.clone()))
    }

    fn acknowledged(ledger: &mut Ledger) -> Vec<u16> {
        std::iter::from_fn(|| ledger.acknowledge())
            .map(|packet| match packet {
                Packet::PubAck(it) => it.pkid,
                Packet::PubRec(it) => it.pkid,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn delivered(ledger: &mut Ledger, sequence: Sequence) {
        ledger.settled(sequence, Settlement::Delivered, None);
    }

    #[test]
    fn acknowledgements_are_in_the_order_of_arrival_whatever_settles_first() {
        let mut ledger = Ledger::default();
        let [one, two, three] =
            [3, 1, 2].map(|packet| take(&mut ledger, &publish(packet, QoS::AtLeastOnce, false)));
        delivered(&mut ledger, three);
        delivered(&mut ledger, two);
        assert_eq!(acknowledged(&mut ledger), [0; 0]);
        delivered(&mut ledger, one);
        assert_eq!(acknowledged(&mut ledger), [3, 1, 2]);
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_message_that_comes_again_takes_up_its_entry() {
        let mut ledger = Ledger::default();
        let settled = take(&mut ledger, &publish(1, QoS::AtLeastOnce, false));
        let open = take(&mut ledger, &publish(2, QoS::ExactlyOnce, false));
        ledger.connection_lost();
        delivered(&mut ledger, settled);
        assert_eq!(acknowledged(&mut ledger), [0; 0], "no acknowledgement goes out on another connection");
        assert_eq!(ledger.arrived(&publish(1, QoS::AtLeastOnce, true)), Arrival::Known);
        assert_eq!(ledger.arrived(&publish(2, QoS::ExactlyOnce, true)), Arrival::Known);
        assert_eq!(acknowledged(&mut ledger), [1]);
        delivered(&mut ledger, open);
        assert_eq!(acknowledged(&mut ledger), [2]);
        assert!(ledger.is_empty());
    }

    #[test]
    fn another_message_under_an_old_identifier_is_another_message() {
        let mut ledger = Ledger::default();
        let old = take(&mut ledger, &publish(1, QoS::AtLeastOnce, false));
        ledger.connection_lost();
        let mut other = publish(1, QoS::AtLeastOnce, true);
        other.payload = "other".into();
        let new = take(&mut ledger, &other);
        delivered(&mut ledger, old);
        assert_eq!(acknowledged(&mut ledger), [0; 0]);
        delivered(&mut ledger, new);
        assert_eq!(acknowledged(&mut ledger), [1]);
        assert!(ledger.is_empty());
    }

    #[test]
    fn nothing_is_owed_to_a_session_that_is_gone() {
        let mut ledger = Ledger::default();
        let [settled, open] =
            [1, 2].map(|packet| take(&mut ledger, &publish(packet, QoS::AtLeastOnce, false)));
        delivered(&mut ledger, settled);
        ledger.connection_lost();
        ledger.session_lost();
        assert!(!ledger.is_empty(), "it can still be released and offered again");
        ledger.settled(open, Settlement::Released, Some(Duration::ZERO));
        assert_eq!(ledger.retry(Instant::now()).unwrap().0, open);
        delivered(&mut ledger, open);
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_message_of_qos_2_is_not_taken_twice_before_the_broker_lets_it_go() {
        let mut ledger = Ledger::default();
        let one = take(&mut ledger, &publish(1, QoS::ExactlyOnce, false));
        delivered(&mut ledger, one);
        assert_eq!(acknowledged(&mut ledger), [1]);
        ledger.connection_lost();
        assert_eq!(ledger.arrived(&publish(1, QoS::ExactlyOnce, true)), Arrival::AcknowledgeAgain);
        assert!(ledger.let_go(1));
        assert!(!ledger.let_go(1));
        take(&mut ledger, &publish(1, QoS::ExactlyOnce, false));
    }

    #[test]
    fn what_is_left_to_the_broker_holds_back_the_acknowledgements_after_it() {
        let mut ledger = Ledger::default();
        let [one, two, three] =
            [1, 2, 3].map(|packet| take(&mut ledger, &publish(packet, QoS::AtLeastOnce, false)));
        delivered(&mut ledger, three);
        ledger.settled(two, Settlement::Released, None);
        delivered(&mut ledger, one);
        assert_eq!(acknowledged(&mut ledger), [1]);
        assert!(ledger.is_empty());
    }
}
