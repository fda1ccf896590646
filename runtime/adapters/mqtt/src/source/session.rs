//! The task behind a source: one client of the broker, connected again for ever, that never stops listening.
//!
//! A broker sends without being asked, and forgets a client that does not ping. So the task reads whether the flow takes
//! messages or not, and puts them into the [`Inbox`]. What bounds the inbox: with 5.0 the receive maximum; with 3.1.1, which has
//! none, as many messages as that would be: what comes on top is not taken, and when everything before it is settled the
//! connection is made anew, so that the broker sends it again. Of QoS 0, which no broker sends again, what comes on top of
//! `buffer_messages` is dropped and counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::Duration,
};

use gristmill_core::{
    Message, Settlement,
    source::{EndpointContext, SourceError},
};
use rumqttc_v5::mqttbytes::v5::{
    PubComp, PubCompReason, PubRec, Publish, RetainForwardRule, SubAck, Subscribe, SubscribeFilter,
    SubscribeReasonCode, Unsubscribe,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_rustls::rustls;

use super::{
    inbox::{Inbox, Offer},
    ledger::{Arrival, Ledger, Sequence, id_prefix},
    record::Record,
};
use crate::{
    backoff::Backoff,
    config::{Retained, Version},
    connection::SessionKey,
    link::{Dial, Link, LinkError, Turn, Welcome, qos},
    properties,
    wire::{Packet, QoS},
};

/// What a session runs with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) dial: Dial,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    /// By which connections are compared.
    pub(crate) fingerprint: Arc<str>,
    pub(crate) topics: Vec<String>,
    /// They may stand in texts.
    pub(crate) shows_topics: bool,
    pub(crate) subscription: Subscription,
    pub(crate) buffer_messages: usize,
    pub(crate) context: EndpointContext,
}

/// How a topic filter is subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) qos: u8,
    pub(crate) retained: Retained,
}

/// What a session is told.
pub(crate) enum Command {
    /// A delivery has settled.
    Settled(Sequence, Settlement),
    /// Go on with other settings; nothing has changed when the answer is an error.
    Change(Box<Settings>, oneshot::Sender<Result<(), SourceError>>),
    /// The session at the broker is to end with this one.
    Retire,
    /// Take no more.
    Close,
    /// No one takes deliveries any more.
    Abandon,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It takes messages.
    Open,
    /// It only acknowledges what has still to settle.
    Closed,
    /// There is no one left for what it has.
    Abandoned,
}

/// Someone who waits until a connection with the present settings stands and its topics are subscribed.
struct Waiting {
    answer: oneshot::Sender<Result<(), SourceError>>,
    /// What to go back to. Without it (a first start), a broker that cannot be reached is no failure.
    before: Option<Box<Settings>>,
    /// When that has to be decided.
    deadline: Option<Instant>,
}

/// A SUBSCRIBE.
struct Asked {
    packet: u16,
    filters: Vec<(String, Subscription)>,
    /// When there has to be an answer.
    until: Instant,
}

/// One client of the broker.
pub(crate) struct Session {
    settings: Settings,
    inbox: Arc<Inbox>,
    commands: mpsc::UnboundedReceiver<Command>,
    ledger: Ledger,
    /// What the broker's session has subscribed, as far as is known.
    subscribed: BTreeMap<String, Subscription>,
    /// A SUBSCRIBE that has no answer yet.
    asked: Option<Asked>,
    /// Filters that an UNSUBSCRIBE without an answer names, and its packet identifier.
    leaving: BTreeSet<String>,
    unsubscribe: u16,
    /// What of all that is on disk, for a later process.
    noted: Option<(SessionKey, BTreeSet<String>)>,
    next_packet: u16,
    /// A message was not taken. Everything before it is finished, then the connection is made anew.
    has_overflowed: bool,
    /// The session that all this is about: the one of the last connection.
    session: Option<SessionKey>,
    /// Those in which the broker has let this process, so that what is in them is its own.
    own_sessions: Vec<SessionKey>,
    phase: Phase,
    /// The broker is to forget it.
    retires: bool,
    waiting: Option<Waiting>,
    id_prefix: Arc<str>,
    dropped: u64,
    /// What the log has last.
    said: String,
}

impl Session {
    /// Starts the task. The answer comes when the topics are subscribed, when the broker refuses, or when it cannot be reached,
    /// which is no failure: it is tried for ever.
    pub(crate) fn new(
        settings: Settings,
        inbox: Arc<Inbox>,
        commands: mpsc::UnboundedReceiver<Command>,
        started: oneshot::Sender<Result<(), SourceError>>,
    ) -> Self {
        let id_prefix = id_prefix(&settings.context.flow);
        Self {
            settings,
            inbox,
            commands,
            ledger: Ledger::default(),
            subscribed: BTreeMap::new(),
            asked: None,
            leaving: BTreeSet::new(),
            unsubscribe: 0,
            noted: None,
            next_packet: 1,
            has_overflowed: false,
            session: None,
            own_sessions: Vec::new(),
            phase: Phase::Open,
            retires: false,
            waiting: Some(Waiting { answer: started, before: None, deadline: None }),
            id_prefix,
            dropped: 0,
            said: String::new(),
        }
    }

    /// Until nothing is left to do.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(self.settings.dial.connection.reconnect);
        while !self.is_done() {
            match self.connect().await {
                Some(Ok((link, welcome))) => {
                    let (since, config) = (Instant::now(), self.settings.dial.connection.reconnect);
                    match self.serve(link, welcome).await {
                        Ok(()) => backoff = Backoff::new(config),
                        Err(error) => {
                            let short_lives = backoff.lost_after(since.elapsed(), config);
                            self.is_down(error.after_short_lives(short_lives));
                        }
                    }
                }
                Some(Err(error)) => self.is_down(error),
                None => continue,
            }
            if self.waiting.is_none() {
                let wait = backoff.next(self.settings.dial.connection.reconnect);
                self.pass(Instant::now() + wait).await;
            }
        }
        self.inbox.close();
        if self.retires {
            self.forget().await;
        }
    }

    /// Lets the broker forget the session: one more connection, which begins clean and leaves nothing. Of the ways to end a
    /// session it is the one that both versions have.
    async fn forget(self) {
        let record = self.record();
        let Settings { mut dial, tls, context, .. } = self.settings;
        (dial.clean_start, dial.session_expiry_s) = (true, 0);
        match dial.open(tls.as_ref()).await {
            Ok((link, _)) => {
                link.disconnect(None).await;
                record.remove().await;
            }
            Err(LinkError { text, .. }) => tracing::warn!(
                target: "gristmill::mqtt", flow = &*context.flow, client = &*dial.shown,
                "the session of a flow that is gone could not be ended, and stays with the broker until it expires: {text}"
            ),
        }
    }

    fn is_done(&self) -> bool {
        match self.phase {
            Phase::Open => false,
            Phase::Closed => self.ledger.is_empty() && self.inbox.len() == 0,
            Phase::Abandoned => true,
        }
    }

    /// Makes a connection, and listens to commands meanwhile. `None` when the settings have changed or it is not wanted any more.
    async fn connect(&mut self) -> Option<Result<(Link, Welcome), LinkError>> {
        let Settings { mut dial, tls, .. } = self.settings.clone();
        // What the session holds by now is the runtime's own.
        dial.clean_start &= !self.own_sessions.contains(&dial.session());
        let opening = dial.open(tls.as_ref());
        tokio::pin!(opening);
        loop {
            let (retry_at, deadline) = (self.ledger.next_retry(), self.deadline());
            tokio::select! {
                opened = &mut opening => return Some(opened),
                command = self.commands.recv() => {
                    if self.obey(command) || self.is_done() {
                        return None;
                    }
                }
                () = at(retry_at) => self.retry(),
                () = at(deadline) => {
                    self.give_up("the broker did not answer in time");
                    return None;
                }
            }
        }
    }

    /// Listens to commands until `end`, or until the settings have changed.
    async fn pass(&mut self, end: Instant) {
        while !self.is_done() {
            let (retry_at, deadline) = (self.ledger.next_retry(), self.deadline());
            tokio::select! {
                () = sleep_until(end) => return,
                command = self.commands.recv() => {
                    if self.obey(command) {
                        return;
                    }
                }
                () = at(retry_at) => self.retry(),
                () = at(deadline) => {
                    self.give_up("the broker did not answer in time");
                    return;
                }
            }
        }
    }

    /// Takes messages from a connection until it is lost (an error), or is not wanted any more.
    async fn serve(&mut self, mut link: Link, welcome: Welcome) -> Result<(), LinkError> {
        let session = self.settings.dial.session();
        if self.session.as_ref() != Some(&session) {
            // Packet identifiers and topics of another session mean nothing here.
            self.ledger.session_lost();
            let noted = self.record().read(session.clone()).await;
            self.subscribed = noted.into_iter().map(|filter| (filter, Subscription::UNKNOWN)).collect();
            self.leaving.clear();
        }
        if !welcome.session_present {
            self.ledger.session_lost();
            self.subscribed.clear();
            self.leaving.clear();
        }
        if !self.own_sessions.contains(&session) {
            self.own_sessions.push(session.clone());
        }
        self.session = Some(session);
        // Whether the broker has heard it is not known.
        let leaving = std::mem::take(&mut self.leaving);
        self.subscribed.extend(leaving.into_iter().map(|filter| (filter, Subscription::UNKNOWN)));
        self.has_overflowed = false;
        self.asked = None;
        let served = self.serve_until_done(&mut link).await;
        self.ledger.connection_lost();
        if served.as_ref().err().is_none_or(|error| error.is_refusal) {
            link.disconnect(None).await;
        }
        served
    }

    fn record(&self) -> Record {
        Record::in_folder(&self.settings.context.state_dir)
    }

    /// Notes what the broker's session may have subscribed, and `more`.
    async fn note(&mut self, more: &[(String, Subscription)]) {
        let Some(session) = self.session.clone() else { return };
        let filters =
            self.subscribed.keys().chain(&self.leaving).chain(more.iter().map(|(filter, _)| filter));
        let now = Some((session.clone(), filters.cloned().collect::<BTreeSet<_>>()));
        if self.noted == now {
            return;
        }
        let filters = now.as_ref().map(|(_, filters)| filters.clone()).unwrap_or_default();
        if let Err(error) = self.record().write(session, filters).await {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow,
                "what is subscribed cannot be noted in the state folder; a topic that is taken out of the flow while no runtime \
                 runs would stay subscribed: {error}"
            );
        }
        self.noted = now;
    }

    async fn serve_until_done(&mut self, link: &mut Link) -> Result<(), LinkError> {
        self.reconcile(link).await?;
        loop {
            while let Some(packet) = self.ledger.acknowledge() {
                link.send(packet)?;
            }
            // The second half of an acknowledgement with QoS 2 is the broker's turn, and comes at once.
            let is_quiet = self.phase == Phase::Abandoned || self.ledger.is_let_go();
            if is_quiet && (self.is_done() || self.has_overflowed && self.ledger.owed() == 0) {
                return Ok(());
            }
            let has_enough = self.has_enough();
            if has_enough {
                // The answer to the subscriptions waits behind messages, which no one takes from a source that has not started.
                self.is_up();
            }
            link.hold(has_enough);
            let (retry_at, deadline) = (self.ledger.next_retry(), self.deadline());
            let answer_by = self.asked.as_ref().map(|asked| asked.until);
            tokio::select! {
                turn = link.turn() => match turn? {
                    Turn::Packet(packet) => self.received(packet, link).await?,
                    Turn::Flushed => {}
                },
                command = self.commands.recv() => {
                    if self.obey(command) {
                        if !self.serves() {
                            return Ok(());
                        }
                        self.reconcile(link).await?;
                    }
                }
                () = at(retry_at) => self.retry(),
                () = at(deadline) => {
                    self.give_up("the broker did not answer a subscription in time");
                    self.asked = None;
                    self.reconcile(link).await?;
                }
                () = at(answer_by) => return Err(LinkError::lost(format!(
                    "{} did not answer a subscription in time (connect_timeout_ms)",
                    self.settings.dial.connection.broker.shown
                ))),
            }
        }
    }

    /// Does what it is told. Whether the settings have changed.
    fn obey(&mut self, command: Option<Command>) -> bool {
        match command {
            Some(Command::Settled(sequence, settlement)) => {
                let retry = (self.phase == Phase::Open).then(|| self.settings.context.limits.release_delay());
                self.ledger.settled(sequence, settlement, retry);
            }
            Some(Command::Change(settings, answer)) => {
                let limit = settings.context.limits.prepare() / 4 * 3;
                let before = std::mem::replace(&mut self.settings, *settings);
                let waiting = Waiting {
                    answer,
                    before: Some(Box::new(before)),
                    deadline: Some(Instant::now() + limit),
                };
                self.waiting = Some(waiting);
                return true;
            }
            Some(Command::Retire) => self.retires = true,
            Some(Command::Close) if self.phase == Phase::Open => {
                self.phase = Phase::Closed;
                self.ledger.leave_waiting();
                self.inbox.close();
            }
            Some(Command::Close) => {}
            Some(Command::Abandon) | None => self.phase = Phase::Abandoned,
        }
        false
    }

    /// Whether the connection of before serves the settings that are to be taken.
    fn serves(&self) -> bool {
        let before = self.waiting.as_ref().and_then(|waiting| waiting.before.as_ref());
        before.is_none_or(|before| before.is_same_client(&self.settings))
    }

    fn deadline(&self) -> Option<Instant> {
        self.waiting.as_ref().and_then(|waiting| waiting.deadline)
    }

    /// What was waited for has come.
    fn is_up(&mut self) {
        self.inbox.set_down(None);
        self.said.clear();
        if let Some(Waiting { answer, .. }) = self.waiting.take() {
            // Whoever asked may have been cancelled.
            let _cancelled = answer.send(Ok(()));
        }
    }

    /// There is no connection, or no subscription.
    fn is_down(&mut self, error: LinkError) {
        let LinkError { text, is_refusal } = error;
        // Once, and not with each attempt.
        if self.said != text {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow,
                client = &*self.settings.dial.shown, "{text}; it is tried again for ever"
            );
            self.said.clone_from(&text);
        }
        match self.waiting.take() {
            Some(Waiting { answer, before: Some(before), .. }) => {
                self.settings = *before;
                let _cancelled = answer.send(Err(SourceError::new(text)));
                // The connection of before was given up for this one.
                return;
            }
            Some(Waiting { answer, before: None, .. }) => {
                if is_refusal {
                    // It has not started: it is dropped by whoever asked.
                    self.phase = Phase::Abandoned;
                    let _cancelled = answer.send(Err(SourceError::new(text)));
                    return;
                }
                let _cancelled = answer.send(Ok(()));
            }
            None => {}
        }
        self.inbox.set_down(Some(text));
    }

    /// Back to the settings of before, when there are such.
    fn give_up(&mut self, why: &str) {
        self.is_down(LinkError::lost(format!("{}: {why}", self.settings.dial.connection.broker.shown)));
    }

    /// Subscribes what is wanted and not subscribed, and the other way round.
    async fn reconcile(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let Settings { topics, subscription, .. } = &self.settings;
        let dropped: Vec<String> =
            self.subscribed.keys().filter(|filter| !topics.contains(filter)).cloned().collect();
        let wanted: Vec<(String, Subscription)> = topics
            .iter()
            .filter(|filter| self.subscribed.get(*filter) != Some(subscription))
            .map(|filter| (filter.clone(), *subscription))
            .collect();
        // Before the broker hears of it: a process may end at any time.
        self.note(&wanted).await;
        if !dropped.is_empty() {
            for filter in &dropped {
                self.subscribed.remove(filter);
            }
            self.leaving.extend(dropped.iter().cloned());
            self.unsubscribe = self.packet();
            let unsubscribe = Unsubscribe { pkid: self.unsubscribe, filters: dropped, properties: None };
            link.send(Packet::Unsubscribe(unsubscribe))?;
        }
        if wanted.is_empty() {
            self.asked = None;
            self.is_up();
            return Ok(());
        }
        let packet = self.packet();
        let filters = wanted.iter().map(|(filter, subscription)| subscription.filter(filter)).collect();
        link.send(Packet::Subscribe(Subscribe { pkid: packet, filters, properties: None }))?;
        // Whatever the broker answers, from now on it may have them.
        self.subscribed.extend(wanted.iter().cloned());
        let until = Instant::now() + self.settings.dial.connection.connect_timeout;
        self.asked = Some(Asked { packet, filters: wanted, until });
        Ok(())
    }

    /// The next packet identifier of our own. One is under way at most, of each kind.
    fn packet(&mut self) -> u16 {
        let packet = self.next_packet;
        self.next_packet = packet.checked_add(1).unwrap_or(1);
        packet
    }

    async fn received(&mut self, packet: Packet, link: &mut Link) -> Result<(), LinkError> {
        match packet {
            Packet::Publish(publish) => self.published(publish, link),
            Packet::PubRel(release) => {
                let mut answer = PubComp::new(release.pkid, None);
                if !self.ledger.let_go(release.pkid) {
                    answer.reason = PubCompReason::PacketIdentifierNotFound;
                }
                link.send(Packet::PubComp(answer))
            }
            Packet::SubAck(answer) => self.subscribed(&answer, link).await,
            Packet::UnsubAck(answer) => {
                if answer.pkid == self.unsubscribe {
                    self.leaving.clear();
                    self.note(&[]).await;
                }
                Ok(())
            }
            other => Err(LinkError::lost(format!(
                "{} sent a {:?}, for which a source has no use",
                self.settings.dial.connection.broker.shown,
                other.packet_type()
            ))),
        }
    }

    async fn subscribed(&mut self, answer: &SubAck, link: &mut Link) -> Result<(), LinkError> {
        let Some(Asked { filters, .. }) = self.asked.take_if(|asked| asked.packet == answer.pkid) else {
            return Ok(());
        };
        let shows = self.settings.shows_topics;
        let shown = |filter: &str| if shows { format!("`{filter}`") } else { "one of its topics".to_owned() };
        let mut refused = Vec::new();
        for ((filter, wanted), code) in filters.iter().zip(&answer.return_codes) {
            match code {
                SubscribeReasonCode::Success(granted) if (*granted as u8) < wanted.qos => {
                    refused.push(format!("{} (only QoS {} is granted)", shown(filter), *granted as u8));
                }
                SubscribeReasonCode::Success(_) => {}
                code => refused.push(format!("{} ({code:?})", shown(filter))),
            }
        }
        if refused.is_empty() {
            self.is_up();
            return Ok(());
        }
        for (filter, _) in &filters {
            // To be asked for again, with the settings of before or at the next connection.
            self.subscribed.insert(filter.clone(), Subscription::UNKNOWN);
        }
        let text = format!(
            "{} does not let {} subscribe to {}: see the broker's access list",
            self.settings.dial.connection.broker.shown,
            self.settings.dial.shown,
            refused.join(", ")
        );
        let goes_back = self.waiting.as_ref().is_some_and(|waiting| waiting.before.is_some());
        let error = LinkError { text, is_refusal: true };
        if goes_back {
            self.is_down(error);
            return self.reconcile(link).await;
        }
        Err(error)
    }

    fn published(&mut self, publish: Publish, link: &mut Link) -> Result<(), LinkError> {
        if self.has_overflowed && publish.qos != QoS::AtMostOnce {
            return Ok(());
        }
        match self.ledger.arrived(&publish) {
            Arrival::Known => return Ok(()),
            Arrival::AcknowledgeAgain => return link.send(Packet::PubRec(PubRec::new(publish.pkid, None))),
            Arrival::New => {}
        }
        if self.phase != Phase::Open {
            // Left to the session; of QoS 0 there is nothing to leave.
            self.has_overflowed |= publish.qos != QoS::AtMostOnce;
            return Ok(());
        }
        if publish.qos == QoS::AtMostOnce {
            if self.inbox.len() >= self.settings.buffer_messages {
                self.drop_one(
                    "overflow",
                    "the flow does not keep up with QoS 0; what is above `buffer_messages` is dropped",
                );
                return Ok(());
            }
        } else if self.has_too_many() {
            self.has_overflowed = true;
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow,
                "the broker sends more than the flow keeps up with; it is asked again when the flow has settled what it has"
            );
            return Ok(());
        }
        self.take(&publish);
        Ok(())
    }

    /// Whether the broker has sent more than the flow keeps up with: 3.1.1 has no word for how much that is, and Mosquitto 2.0
    /// sends more than it was told when a session goes on with messages that have waited.
    fn has_too_many(&self) -> bool {
        self.ledger.owed() >= 2 * usize::from(self.settings.dial.receive_maximum)
    }

    /// Whether the rest may wait with the broker. Not while other settings wait for their answer, which would wait behind it,
    /// for meanwhile no one takes messages.
    fn has_enough(&self) -> bool {
        let is_changing = self.waiting.as_ref().is_some_and(|waiting| waiting.before.is_some());
        self.phase == Phase::Open && self.has_too_many() && !is_changing
    }

    fn take(&mut self, publish: &Publish) {
        let limits = &self.settings.context.limits;
        let (headers, left_out) = properties::to_headers(publish);
        if left_out > 0 {
            tracing::debug!(target: "gristmill::mqtt", left_out, "user properties that no header can hold are left out");
        }
        let header_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let over = if publish.payload.len() > limits.body_bytes {
            Some("body_bytes")
        } else if headers.len() > limits.headers {
            Some("headers")
        } else if header_bytes > limits.header_bytes {
            Some("header_bytes")
        } else {
            None
        };
        if let Some(limit) = over {
            self.ledger.refuse(publish);
            self.drop_one("limit", &format!("a message is over `limits.{limit}` and is dropped"));
            return;
        }
        // The sequence is taken by `accept`; the id has to be known before.
        let id = format!("{}:{}", self.id_prefix, self.ledger.next_sequence());
        let message = Message::new(id, self.settings.context.clock.now(), publish.payload.clone())
            .with_headers(headers);
        let sequence = self.ledger.accept(publish, message.clone());
        self.inbox.push(Offer { sequence, message, redelivered: publish.dup });
    }

    /// Counts a message that is dropped; the log has the first, and then each power of two.
    fn drop_one(&mut self, reason: &'static str, text: &str) {
        self.settings.context.observer.refused(reason);
        self.dropped += 1;
        if self.dropped.is_power_of_two() {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow, dropped = self.dropped, "{text}"
            );
        }
    }

    /// Offers again what has waited long enough.
    fn retry(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some((sequence, message)) = self.ledger.retry(now) {
            due.push(Offer { sequence, message, redelivered: true });
        }
        for offer in due.into_iter().rev() {
            self.inbox.push_again(offer);
        }
    }
}

/// Waits until then, or for ever.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

impl Settings {
    /// Whether a connection made with the one serves the other.
    pub(crate) fn is_same_client(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
            && self.dial.client_id == other.dial.client_id
            && self.dial.session_expiry_s == other.dial.session_expiry_s
            && self.dial.receive_maximum == other.dial.receive_maximum
    }

    /// How long at most it takes to know whether the broker takes a change.
    pub(crate) fn change_limit(&self) -> Duration {
        self.context.limits.prepare()
    }
}

impl Subscription {
    /// Whatever the broker made of a subscription that it refused in part.
    const UNKNOWN: Self = Self { qos: u8::MAX, retained: Retained::OnSubscribe };

    fn filter(self, path: &str) -> SubscribeFilter {
        let mut filter = SubscribeFilter::new(path, qos(self.qos));
        filter.retain_forward_rule = match self.retained {
            Retained::OnSubscribe => RetainForwardRule::OnEverySubscribe,
            Retained::OnNewSubscribe => RetainForwardRule::OnNewSubscribe,
            Retained::Never => RetainForwardRule::Never,
        };
        filter
    }
}

/// What is unacknowledged at once when the broker cannot be told (3.1.1), or is told to.
pub(crate) fn receive_maximum(configured: Option<u16>, version: Version, in_flight: usize) -> u16 {
    let in_flight = u16::try_from(in_flight).unwrap_or(u16::MAX).max(1);
    match version {
        Version::V5 => configured.unwrap_or(in_flight),
        Version::V311 => in_flight,
    }
}
