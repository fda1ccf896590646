//! The client that all sinks of a connection share: one task, many messages under way.
//!
//! A message takes its place when it is handed over, and is written in that order. What is under way when the connection is
//! lost fails, for no one knows whether the broker has it; whoever sent it tries again. While the broker is away, what is handed
//! over fails as soon as an attempt to connect has.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use gristmill_core::{ErrorClass, Failure, connection::Connection};
use rumqttc_v5::mqttbytes::v5::{
    PubAck, PubAckReason, PubCompReason, PubRecReason, PubRel, Publish, Subscribe, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_rustls::rustls;
use tokio_util::task::TaskTracker;

use crate::{
    backoff::Backoff,
    config::Version,
    connection::MqttConnection,
    link::{Dial, Link, LinkError, Turn, Welcome},
    monitor::Monitors,
    reason::Reason,
    wire::{Packet, QoS},
};

/// How many messages are under way at most; the broker may want fewer.
const WINDOW: usize = 1_000;

/// How many messages with QoS 2 are under way at most where the broker cannot say how many it takes: what Mosquitto takes by
/// default. It throws out whoever sends more.
const WINDOW_OF_3_1_1: usize = 20;

/// What to do about a message that is too large for the broker.
const TOO_LARGE_MEND: &str =
    "make it smaller, or raise the limit of the broker (Mosquitto: `message_size_limit`, `max_packet_size`)";

/// The clients of all connections, by name.
#[derive(Debug)]
pub(crate) struct Clients {
    open: Mutex<HashMap<Arc<str>, Known>>,
    tasks: TaskTracker,
    monitors: Arc<Monitors>,
}

/// A client, as long as a sink has it.
#[derive(Debug)]
struct Known {
    /// Of the connection that it was opened for.
    fingerprint: Arc<str>,
    client: Weak<Client>,
    said: Arc<Said>,
}

/// What the log has last of the clients of a connection. A flow that is down opens another client each time it is tried.
#[derive(Debug, Default)]
struct Said(Mutex<String>);

/// A handle to the task. It says good-bye when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Client {
    orders: mpsc::UnboundedSender<Order>,
    /// What came of the latest attempt to connect; `None` before the first.
    attempt: watch::Receiver<Option<Result<(), LinkError>>>,
    /// Where answers to its calls come.
    pub(crate) answer_topic: String,
}

/// A message to publish.
pub(crate) struct Order {
    pub(crate) publish: Publish,
    /// Told when the broker has it. When no one listens any more, it is not written.
    pub(crate) done: oneshot::Sender<Result<(), Failure>>,
    /// It would be lost if no one has subscribed to its topic.
    pub(crate) needs_receiver: bool,
    /// For a call: told when there is an answer with this correlation data.
    pub(crate) answer: Option<(Bytes, oneshot::Sender<Result<Publish, Failure>>)>,
}

/// A message that the broker has not confirmed.
struct UnderWay {
    done: oneshot::Sender<Result<(), Failure>>,
    qos: QoS,
    /// The size of its packet.
    bytes: usize,
    needs_receiver: bool,
    /// The broker has said so (version 5).
    has_no_receiver: bool,
}

struct Task {
    dial: Dial,
    /// The client id, as a field of the log. Texts have it without its end, by which each would be another one.
    logged: Arc<str>,
    said: Arc<Said>,
    tls: Option<Arc<rustls::ClientConfig>>,
    orders: mpsc::UnboundedReceiver<Order>,
    attempt: watch::Sender<Option<Result<(), LinkError>>>,
    queue: VecDeque<Order>,
    /// By packet identifier.
    under_way: HashMap<u16, UnderWay>,
    /// How many of them have QoS 2.
    exactly_once: usize,
    /// QoS 0: written, and not yet with the system; each with the size of its packet.
    unflushed: Vec<(usize, oneshot::Sender<Result<(), Failure>>)>,
    /// The size of the largest packet that went out over this connection with QoS 0, of which no one hears any more.
    largest_gone: usize,
    answers: HashMap<Bytes, oneshot::Sender<Result<Publish, Failure>>>,
    /// When answers that no one waits for any more are looked for.
    sweep_at: usize,
    answer_topic: String,
    /// Whether this connection has been asked for the answers.
    is_subscribed: bool,
    next_packet: u16,
}

// === impl Clients ===

impl Clients {
    pub(crate) fn new(tasks: TaskTracker, monitors: Arc<Monitors>) -> Self {
        Self { open: Mutex::default(), tasks, monitors }
    }

    /// The client of a connection. It connects by itself.
    pub(crate) fn get(
        &self,
        named: &Connection,
        connection: &Arc<MqttConnection>,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Arc<Client> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Known { fingerprint, client, .. }) = open.get(&named.name)
            && *fingerprint == named.fingerprint
            && let Some(client) = client.upgrade()
        {
            return client;
        }
        // Another id each time: the client of before finishes what it has, and would be thrown out by one of its own id.
        let client_id: Arc<str> =
            format!("{}-sinks-{:08x}", connection.client_id, rand::random::<u32>()).into();
        let answer_topic = format!("gristmill/answers/{}", client_id.replace(['+', '#', '/'], "_"));
        let (orders, taken) = mpsc::unbounded_channel();
        let (attempt, attempted) = watch::channel(None);
        let dial = Dial {
            name: Arc::clone(&named.name),
            connection: Arc::clone(connection),
            shown: if connection.shows_client_id {
                format!("`{}-sinks-…`", connection.client_id).into()
            } else {
                "this client".into()
            },
            client_id: Arc::clone(&client_id),
            clean_start: true,
            session_expiry_s: 0,
            receive_maximum: u16::MAX,
            monitor: self.monitors.get(&named.name, "sinks"),
        };
        let said = open.get(&named.name).map_or_else(Arc::default, |known| Arc::clone(&known.said));
        let task = Task::new(dial, Arc::clone(&said), tls, taken, attempt, answer_topic.clone());
        self.tasks.spawn(task.run());
        let client = Arc::new(Client { orders, attempt: attempted, answer_topic });
        let known =
            Known { fingerprint: Arc::clone(&named.fingerprint), client: Arc::downgrade(&client), said };
        open.insert(Arc::clone(&named.name), known);
        client
    }
}

// === impl Said ===

impl Said {
    /// Whether this is not what was said last.
    fn is_news(&self, text: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *said != text;
        if is_news {
            text.clone_into(&mut said);
        }
        is_news
    }

    /// What was said is over.
    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

// === impl Client ===

impl Client {
    /// Hands a message over. Its place among the others is the order of these calls.
    pub(crate) fn order(&self, order: Order) {
        // The task lives as long as this; if it does not, the order's end tells.
        let _gone = self.orders.send(order);
    }

    /// What came of the latest attempt to connect. Waits for the first.
    pub(crate) async fn attempted(&self) -> Result<(), LinkError> {
        let mut attempt = self.attempt.clone();
        match attempt.wait_for(Option::is_some).await {
            Ok(attempt) => attempt.clone().unwrap_or(Ok(())),
            // The client is gone: whoever sends hears of it.
            Err(_gone) => Ok(()),
        }
    }
}

// === impl Task ===

impl Task {
    fn new(
        dial: Dial,
        said: Arc<Said>,
        tls: Option<Arc<rustls::ClientConfig>>,
        orders: mpsc::UnboundedReceiver<Order>,
        attempt: watch::Sender<Option<Result<(), LinkError>>>,
        answer_topic: String,
    ) -> Self {
        let logged = if dial.connection.shows_client_id { &dial.client_id } else { &dial.shown };
        Self {
            logged: Arc::clone(logged),
            said,
            dial,
            tls,
            orders,
            attempt,
            queue: VecDeque::new(),
            under_way: HashMap::new(),
            exactly_once: 0,
            unflushed: Vec::new(),
            largest_gone: 0,
            answers: HashMap::new(),
            sweep_at: WINDOW,
            answer_topic,
            is_subscribed: false,
            next_packet: 1,
        }
    }

    async fn run(mut self) {
        let mut backoff = Backoff::new(self.dial.connection.reconnect);
        while let Some(opened) = self.connect().await {
            self.attempt.send_replace(Some(opened.as_ref().map(|_| ()).map_err(LinkError::clone)));
            let error = match opened {
                Ok((link, welcome)) => {
                    tracing::info!(
                        target: "gristmill::mqtt", client = &*self.logged, "{} is connected", self.dial.place()
                    );
                    self.said.clear();
                    let since = Instant::now();
                    match self.serve(link, welcome).await {
                        Ok(()) => return,
                        Err(error) => {
                            let config = self.dial.connection.reconnect;
                            error.after_short_lives(backoff.lost_after(since.elapsed(), config))
                        }
                    }
                }
                Err(error) => error,
            };
            // Once, and not with each attempt.
            if self.said.is_news(&error.text) {
                tracing::warn!(
                    target: "gristmill::mqtt", client = &*self.logged, "{}; it is tried again", error.text
                );
            }
            let wait = backoff.next(self.dial.connection.reconnect);
            if !self.refuse_until(Instant::now() + wait, &error).await {
                return;
            }
        }
    }

    /// Makes a connection. `None` when no one wants it any more.
    async fn connect(&mut self) -> Option<Result<(Link, Welcome), LinkError>> {
        let (dial, tls) = (self.dial.clone(), self.tls.clone());
        let opening = dial.open(tls.as_ref());
        tokio::pin!(opening);
        loop {
            tokio::select! {
                opened = &mut opening => return Some(opened),
                order = self.orders.recv() => self.queue.push_back(order?),
            }
        }
    }

    /// Everything fails, for there is no broker. False when no one is there any more.
    async fn refuse_until(&mut self, end: Instant, error: &LinkError) -> bool {
        for order in std::mem::take(&mut self.queue) {
            order.fail(unavailable(&error.text));
        }
        loop {
            tokio::select! {
                () = sleep_until(end) => return true,
                order = self.orders.recv() => match order {
                    Some(order) => order.fail(unavailable(&error.text)),
                    None => return false,
                },
            }
        }
    }

    /// Publishes over a connection until it is lost (an error), or no one wants it any more.
    async fn serve(&mut self, mut link: Link, welcome: Welcome) -> Result<(), LinkError> {
        (self.is_subscribed, self.exactly_once, self.largest_gone) = (false, 0, 0);
        let served = self.serve_until_done(&mut link, &welcome).await;
        let Err(error) = served else {
            link.disconnect(None).await;
            return Ok(());
        };
        if error.reason == Some(Reason::PACKET_TOO_LARGE) {
            self.reject_the_largest();
        }
        let text = format!("{}; whether the broker has the message is not known", error.text);
        let unflushed = self.unflushed.drain(..).map(|(_, done)| done);
        for done in self.under_way.drain().map(|(_, it)| it.done).chain(unflushed) {
            let _gave_up = done.send(Err(unavailable(&text)));
        }
        for (_, answer) in self.answers.drain() {
            let _gave_up = answer.send(Err(unavailable(&error.text)));
        }
        Err(error)
    }

    /// The broker has ended the connection because a packet was too large, and did not say which.
    ///
    /// It was one that has no confirmation. Whichever it was, it was larger than the broker takes, and so is every larger one: the
    /// largest without a confirmation is too large for certain, and to send it again would cut the connection again. That does
    /// not hold when a larger one was gone by then (QoS 0): then none is rejected, and all can be tried again.
    fn reject_the_largest(&mut self) {
        let waiting = self.under_way.values().map(|it| it.bytes);
        let Some(bytes) = waiting.chain(self.unflushed.iter().map(|(bytes, _)| *bytes)).max() else { return };
        if bytes < self.largest_gone {
            return;
        }
        let too_large = self.too_large(bytes);
        let packets: Vec<u16> =
            self.under_way.iter().filter(|(_, it)| it.bytes == bytes).map(|(packet, _)| *packet).collect();
        for packet in packets {
            self.finish(packet, Err(too_large.clone()));
        }
        for (_, done) in self.unflushed.extract_if(.., |(size, _)| *size == bytes) {
            let _gave_up = done.send(Err(too_large.clone()));
        }
    }

    async fn serve_until_done(&mut self, link: &mut Link, welcome: &Welcome) -> Result<(), LinkError> {
        let window = WINDOW.min(welcome.receive_maximum.into());
        let of_qos_2 = match self.dial.connection.version {
            Version::V5 => window,
            Version::V311 => WINDOW_OF_3_1_1,
        };
        loop {
            // All that wait, so that they go out together.
            while let Ok(order) = self.orders.try_recv() {
                self.queue.push_back(order);
            }
            while link.has_room()
                && self.has_room(window, of_qos_2)
                && let Some(order) = self.queue.pop_front()
            {
                self.write(order, link, welcome)?;
            }
            tokio::select! {
                turn = link.turn() => match turn? {
                    Turn::Packet(packet) => self.received(packet, link)?,
                    Turn::Refused { packet, reason } => self.refused(packet, reason),
                    Turn::Flushed => {
                        for (bytes, done) in self.unflushed.drain(..) {
                            self.largest_gone = self.largest_gone.max(bytes);
                            let _gave_up = done.send(Ok(()));
                        }
                    }
                    Turn::Pong(_) => {}
                },
                order = self.orders.recv() => match order {
                    Some(order) => self.queue.push_back(order),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Whether the next message may be written.
    fn has_room(&self, window: usize, of_qos_2: usize) -> bool {
        let is_next = self.queue.front().is_some_and(|order| order.publish.qos == QoS::ExactlyOnce);
        self.under_way.len() < window && (!is_next || self.exactly_once < of_qos_2)
    }

    /// Writes a message, unless no one waits for it or this broker does not take it.
    fn write(&mut self, order: Order, link: &mut Link, welcome: &Welcome) -> Result<(), LinkError> {
        if order.done.is_closed() {
            return Ok(());
        }
        let place = || self.dial.place();
        let qos = order.publish.qos;
        // Two bytes for the packet identifier, which it does not have yet.
        let bytes = order.publish.size().saturating_add(2);
        let problem = if qos as u8 > welcome.qos {
            Some(format!("{} takes QoS {} at best", place(), welcome.qos))
        } else if order.publish.retain && !welcome.retains {
            Some(format!("{} keeps no retained messages", place()))
        } else if bytes > welcome.packet_bytes {
            Some(format!(
                "{} takes packets of at most {} bytes, and that of the message has {bytes}; {TOO_LARGE_MEND}",
                place(),
                welcome.packet_bytes
            ))
        } else {
            None
        };
        if let Some(problem) = problem {
            order.fail(rejected(&problem));
            return Ok(());
        }
        if order.answer.is_some() && !self.is_subscribed {
            // Before the first call, so that no answer comes before it.
            let filter = SubscribeFilter::new(self.answer_topic.clone(), QoS::AtLeastOnce);
            let pkid = self.packet();
            link.send(Packet::Subscribe(Subscribe { pkid, filters: vec![filter], properties: None }))?;
            self.is_subscribed = true;
        }
        let Order { mut publish, done, answer, needs_receiver } = order;
        if qos != QoS::AtMostOnce {
            publish.pkid = self.packet();
        }
        let packet = publish.pkid;
        if let Err(error) = link.send(Packet::Publish(publish)) {
            let _gave_up = done.send(Err(rejected(&error.text)));
            return Ok(());
        }
        if let Some((correlation, answer)) = answer {
            self.expect_answer(correlation, answer);
        }
        if qos == QoS::AtMostOnce {
            self.unflushed.push((bytes, done));
        } else {
            self.exactly_once += usize::from(qos == QoS::ExactlyOnce);
            self.under_way
                .insert(packet, UnderWay { done, qos, bytes, needs_receiver, has_no_receiver: false });
        }
        Ok(())
    }

    fn expect_answer(&mut self, correlation: Bytes, answer: oneshot::Sender<Result<Publish, Failure>>) {
        if self.answers.len() >= self.sweep_at {
            self.answers.retain(|_, answer| !answer.is_closed());
            self.sweep_at = WINDOW.max(self.answers.len() * 2);
        }
        self.answers.insert(correlation, answer);
    }

    /// A packet identifier that is not in use; fewer than there are can be.
    fn packet(&mut self) -> u16 {
        loop {
            let packet = self.next_packet;
            self.next_packet = packet.checked_add(1).unwrap_or(1);
            if !self.under_way.contains_key(&packet) {
                return packet;
            }
        }
    }

    fn received(&mut self, packet: Packet, link: &mut Link) -> Result<(), LinkError> {
        match packet {
            // One that says no is a `Turn::Refused`.
            Packet::PubAck(it) => {
                if it.reason == PubAckReason::NoMatchingSubscribers {
                    self.note_no_receiver(it.pkid);
                }
                self.finish(it.pkid, Ok(()));
            }
            Packet::PubRec(it) => {
                if it.reason == PubRecReason::NoMatchingSubscribers {
                    self.note_no_receiver(it.pkid);
                }
                return link.send(Packet::PubRel(PubRel::new(it.pkid, None)));
            }
            Packet::PubComp(it) => {
                let result = match it.reason {
                    PubCompReason::Success => Ok(()),
                    // It has forgotten the message halfway.
                    PubCompReason::PacketIdentifierNotFound => Err(self.for_now(Reason(0x92))),
                };
                self.finish(it.pkid, result);
            }
            Packet::Publish(publish) => {
                if publish.qos == QoS::AtLeastOnce {
                    link.send(Packet::PubAck(PubAck::new(publish.pkid, None)))?;
                }
                let correlation = publish.properties.as_ref().and_then(|it| it.correlation_data.as_ref());
                let answer = correlation.and_then(|correlation| self.answers.remove(correlation));
                match answer {
                    Some(answer) => {
                        let _gave_up = answer.send(Ok(publish));
                    }
                    None => tracing::debug!(
                        target: "gristmill::mqtt", client = &*self.logged,
                        "an answer came that no call waits for"
                    ),
                }
            }
            Packet::SubAck(answer) => {
                if let Some(code) =
                    answer.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)))
                {
                    let text = format!(
                        "{} does not let {} subscribe to its topic for answers, `gristmill/answers/…` ({code:?}): see the \
                         broker's access list",
                        self.dial.place(),
                        self.dial.shown
                    );
                    self.is_subscribed = false;
                    for (_, answer) in self.answers.drain() {
                        let _gave_up = answer.send(Err(unavailable(&text)));
                    }
                }
            }
            other => {
                return Err(LinkError::lost(format!(
                    "{} sent a {:?}, for which a sink has no use",
                    self.dial.place(),
                    other.packet_type()
                )));
            }
        }
        Ok(())
    }

    fn finish(&mut self, packet: u16, result: Result<(), Failure>) {
        if let Some(UnderWay { done, qos, needs_receiver, has_no_receiver, .. }) =
            self.under_way.remove(&packet)
        {
            self.exactly_once -= usize::from(qos == QoS::ExactlyOnce);
            let result = match result {
                Ok(()) if needs_receiver && has_no_receiver => Err(unavailable(&format!(
                    "{} drops the message, for no one has subscribed to its topic; subscribe, or write `retain: true`",
                    self.dial.place()
                ))),
                result => result,
            };
            let _gave_up = done.send(result);
        }
    }

    fn note_no_receiver(&mut self, packet: u16) {
        if let Some(it) = self.under_way.get_mut(&packet) {
            it.has_no_receiver = true;
        }
    }

    /// The broker does not take a message.
    fn refused(&mut self, packet: u16, reason: Reason) {
        let bytes = self.under_way.get(&packet).map_or(0, |it| it.bytes);
        let failure = match reason {
            Reason::PACKET_TOO_LARGE => self.too_large(bytes),
            Reason::QUOTA_EXCEEDED
            | Reason::UNSPECIFIED
            | Reason::IMPLEMENTATION_SPECIFIC
            | Reason::PACKET_IDENTIFIER_IN_USE => self.for_now(reason),
            reason => rejected(&format!(
                "{} refuses the message: {reason}; see the topic, and the broker's access list",
                self.dial.place()
            )),
        };
        self.finish(packet, Err(failure));
    }

    fn for_now(&self, reason: Reason) -> Failure {
        unavailable(&format!("{} does not take the message now: {reason}", self.dial.place()))
    }

    fn too_large(&self, bytes: usize) -> Failure {
        rejected(&format!(
            "{} takes no packet as large as that of the message, which has {bytes} bytes; {TOO_LARGE_MEND}",
            self.dial.place()
        ))
    }
}

// === impl Order ===

impl Order {
    fn fail(self, failure: Failure) {
        let _gave_up = self.done.send(Err(failure));
    }
}

pub(super) fn unavailable(text: &str) -> Failure {
    Failure::new(ErrorClass::SinkUnavailable, text)
}

fn rejected(text: &str) -> Failure {
    Failure::new(ErrorClass::SinkRejected, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::testkit::{Wire, dial};

    const WELCOME: Welcome = Welcome {
        session_present: false,
        receive_maximum: 20,
        packet_bytes: usize::MAX,
        qos: 2,
        retains: true,
    };

    fn order(body: &str) -> (Order, oneshot::Receiver<Result<(), Failure>>) {
        let (done, ended) = oneshot::channel();
        let publish = Publish::new("t", QoS::AtLeastOnce, body.to_owned(), None);
        (Order { publish, done, needs_receiver: false, answer: None }, ended)
    }

    fn bodies(packets: &[Packet]) -> Vec<String> {
        let body = |packet: &Packet| match packet {
            Packet::Publish(publish) => String::from_utf8(publish.payload.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        packets.iter().map(body).collect()
    }

    #[tokio::test]
    async fn all_that_wait_are_one_write_in_their_order_as_many_as_the_broker_takes() {
        let (orders, taken) = mpsc::unbounded_channel();
        let mut task =
            Task::new(dial(), Arc::default(), None, taken, watch::Sender::new(None), "answers".into());
        let numbers: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let ends: Vec<_> = numbers
            .iter()
            .map(|n| {
                let (order, ended) = order(n);
                assert!(orders.send(order).is_ok());
                ended
            })
            .collect();
        let wire = Wire::default();
        let mut link = wire.link();
        let serving = tokio::spawn(async move {
            let served = task.serve_until_done(&mut link, &WELCOME).await;
            assert!(served.is_ok());
            (task, link)
        });
        assert_eq!(bodies(&wire.next_write().await), numbers[..20]);
        drop(orders);
        let (mut task, mut link) = serving.await.unwrap();

        // A read that brings as many confirmations makes room for the rest, which are one write again.
        let (orders, taken) = mpsc::unbounded_channel();
        task.orders = taken;
        wire.brings((1..=20).map(|packet| Packet::PubAck(PubAck::new(packet, None))));
        let serving = tokio::spawn(async move { task.serve_until_done(&mut link, &WELCOME).await });
        assert_eq!(bodies(&wire.next_write().await), numbers[20..]);
        for ended in ends.into_iter().take(20) {
            assert!(ended.await.unwrap().is_ok());
        }
        drop(orders);
        assert!(serving.await.unwrap().is_ok());
        assert_eq!(wire.writes(), [[]; 0]);
    }
}
