//! The task behind a source: one client of the broker, connected again for ever, that never stops listening.
//!
//! A broker sends without being asked, and forgets a client that does not ping. So the task reads whether the flow takes
//! messages or not, and puts them into the [`Inbox`]. What bounds the inbox: with 5.0 the receive maximum; with 3.1.1, which has
//! none, as many messages as that would be: what comes on top is not taken, and when everything before it is settled the
//! connection is made anew, so that the broker sends it again. Of QoS 0, which no broker sends again, what comes on top of
//! `buffer_messages` is dropped and counted.
//!
//! A session that another one takes the place of (see `take_over.rs`) is *emptied*: it unsubscribes, and goes on until the
//! broker has nothing more in it. Then it is ended.
//!
//! | module | holds |
//! |---|---|
//! | this one | the connection, what the task is told, and its end |
//! | [`subscribing`] | what is subscribed |
//! | [`taking`] | what is taken of what comes |
//! | [`emptying`] | the way to an end with nothing left |

mod emptying;
mod subscribing;
mod taking;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::Duration,
};

use gristmill_core::{
    Settlement,
    source::{EndpointContext, SourceError},
};
use rumqttc_v5::mqttbytes::v5::{PubComp, PubCompReason, RetainForwardRule, SubscribeFilter};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_rustls::rustls;

use super::{
    inbox::Inbox,
    lease::{Lease, Tenancy},
    ledger::{Ledger, Sequence, id_prefix},
};
use crate::{
    backoff::Backoff,
    config::{Retained, Version},
    connection::SessionKey,
    link::{Dial, Link, LinkError, Turn, Welcome, qos},
    wire::Packet,
};

/// How long a session that is emptied has to be silent before the broker is asked whether that was all. A broker that keeps
/// its messages elsewhere than its connections (RabbitMQ) sends the next one a moment after the acknowledgement of the last, and
/// perhaps after the answer to a ping.
const SILENCE: Duration = Duration::from_secs(1);

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
    /// Go on with other settings, on the same session of the broker, be its address another, which then is leased. Nothing has
    /// changed when the answer is an error.
    Change(Box<Settings>, Option<Lease>, oneshot::Sender<Result<(), SourceError>>),
    /// Say which connection this is, counted from the first, as soon as the broker has shown that it stands.
    Alive(oneshot::Sender<u64>),
    /// Another session takes its place: take what the broker still has for this one, and end it.
    Empty,
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
    /// It has unsubscribed, and takes what there still is.
    Emptying,
    /// It only acknowledges what has still to settle.
    Closed,
    /// There is no one left for what it has.
    Abandoned,
}

/// Someone who waits until a connection with the present settings stands and its topics are subscribed.
struct Waiting {
    answer: oneshot::Sender<Result<(), SourceError>>,
    otherwise: Otherwise,
    /// When that has to be decided.
    deadline: Option<Instant>,
}

/// What becomes of a session when it does not come up.
#[derive(Debug)]
pub(crate) enum Otherwise {
    /// A broker that cannot be reached is no failure: it is tried for ever.
    TryForEver,
    /// The settings to go back to.
    Before(Box<Settings>),
    /// It ends, for there is another one that goes on.
    End,
}

/// How far a session is with being emptied.
#[derive(Debug, Default)]
struct Emptying {
    /// When something last came or went.
    stirred_at: Option<Instant>,
    /// The ping that was sent after it.
    asked: Option<u64>,
    /// Since when there is no connection, nor was there one that brought anything.
    lost_at: Option<Instant>,
    /// Why.
    problem: String,
    /// Of one that an earlier process has left: whether the session in its place has subscribed, before which it stays so.
    after: Option<watch::Receiver<bool>>,
    /// The session in its place has the same broker, so that there is nothing to go on with while that is away.
    is_patient: bool,
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
    /// Before `commands`: whoever sees that it does not obey any more may have its client id.
    tenancy: Tenancy,
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
    /// The broker has let this process in, so that what is in the session is its own.
    is_own: bool,
    /// There was no such session before.
    is_fresh: bool,
    /// As what else the record knows this session.
    also_noted_as: Vec<SessionKey>,
    /// How many connections there were.
    links: u64,
    /// Who wants to know whether the connection stands, and the ping that tells.
    alive: Option<(oneshot::Sender<u64>, Option<u64>)>,
    phase: Phase,
    emptying: Emptying,
    /// The broker is to forget it.
    retires: bool,
    /// Whether it has subscribed, for those in whose place it is.
    has_subscribed: watch::Sender<bool>,
    waiting: Option<Waiting>,
    id_prefix: Arc<str>,
    dropped: u64,
    /// What the log has last.
    said: String,
}

impl Session {
    /// Starts the task. The answer comes when the topics are subscribed, when the broker refuses, or when it cannot be reached:
    /// then `otherwise` says whether that is a failure.
    pub(crate) fn new(
        settings: Settings,
        inbox: Arc<Inbox>,
        commands: mpsc::UnboundedReceiver<Command>,
        tenancy: Tenancy,
        started: oneshot::Sender<Result<(), SourceError>>,
        otherwise: Otherwise,
    ) -> Self {
        let id_prefix = id_prefix(&settings.context.flow);
        let deadline = match otherwise {
            Otherwise::TryForEver => None,
            Otherwise::Before(_) | Otherwise::End => Some(Instant::now() + settings.decision_limit()),
        };
        Self {
            tenancy,
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
            is_own: false,
            is_fresh: false,
            also_noted_as: Vec::new(),
            links: 0,
            alive: None,
            phase: Phase::Open,
            emptying: Emptying::default(),
            retires: false,
            has_subscribed: watch::Sender::new(false),
            waiting: Some(Waiting { answer: started, otherwise, deadline }),
            id_prefix,
            dropped: 0,
            said: String::new(),
        }
    }

    /// One that an earlier process has left at the broker of `settings`: it is emptied when the one in its place has subscribed.
    pub(crate) fn left(
        settings: Settings,
        inbox: Arc<Inbox>,
        commands: mpsc::UnboundedReceiver<Command>,
        tenancy: Tenancy,
        after: watch::Receiver<bool>,
    ) -> Self {
        // No one waits for it.
        let (unheard, _) = oneshot::channel();
        let new = Self::new(settings, inbox, commands, tenancy, unheard, Otherwise::TryForEver);
        let settings = Settings { topics: Vec::new(), ..new.settings };
        let emptying = Emptying { after: Some(after), is_patient: true, ..Emptying::default() };
        Self { settings, emptying, phase: Phase::Emptying, waiting: None, ..new }
    }

    /// Whether it has subscribed.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.has_subscribed.subscribe()
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
        // One that was to take the place of another, and is not wanted after all.
        let is_in_vain = self.is_fresh
            && self.waiting.as_ref().is_some_and(|waiting| matches!(waiting.otherwise, Otherwise::End));
        if (self.retires || is_in_vain) && self.is_leased() {
            self.forget().await;
        }
    }

    /// Lets the broker forget the session: one more connection, which begins clean and leaves nothing. Of the ways to end a
    /// session it is the one that both versions have.
    async fn forget(self) {
        let record = self.record();
        let namesake = self.tenancy.namesake();
        let Settings { mut dial, tls, context, .. } = self.settings;
        let session = dial.session();
        if let Some(flow) = namesake {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*context.flow, client = dial.logged(),
                "{} is not wanted any more, and is not ended: the flow `{flow}` has a client of the same id, and by its address \
                 alone it cannot be told whether that is at the same broker. If it is not, end the session there",
                dial.shown_session()
            );
            return;
        }
        (dial.clean_start, dial.session_expiry_s) = (true, 0);
        match dial.open(tls.as_ref()).await {
            Ok((link, _)) => {
                link.disconnect(None).await;
                record.remove(session).await;
                tracing::info!(target: "gristmill::mqtt", flow = &*context.flow, "{} is ended", dial.shown_session());
            }
            Err(LinkError { text, .. }) => tracing::warn!(
                target: "gristmill::mqtt", flow = &*context.flow, client = dial.logged(),
                "a session that is not wanted any more could not be ended, and stays with the broker until it expires: {text}"
            ),
        }
    }

    fn is_done(&self) -> bool {
        match self.phase {
            Phase::Open | Phase::Emptying => false,
            Phase::Closed => self.ledger.is_empty() && self.inbox.len() == 0,
            Phase::Abandoned => true,
        }
    }

    /// Makes a connection, and listens to commands meanwhile. `None` when the settings have changed or it is not wanted any more.
    async fn connect(&mut self) -> Option<Result<(Link, Welcome), LinkError>> {
        if self.phase == Phase::Emptying
            && self.session.is_none()
            && !(self.is_leased() && self.is_noted().await)
        {
            // Neither this process nor one before it was ever let in.
            self.phase = Phase::Abandoned;
            return None;
        }
        if !self.is_leased()
            && let Err(taken) = self.tenancy.lease(&self.settings.dial)
        {
            return Some(Err(LinkError::lost(taken.text)));
        }
        let Settings { mut dial, tls, .. } = self.settings.clone();
        // What the session holds by now is the runtime's own.
        dial.clean_start &= !self.is_own;
        let opening = dial.open(tls.as_ref());
        tokio::pin!(opening);
        loop {
            let (retry_at, deadline, leave_at) = (self.ledger.next_retry(), self.deadline(), self.leave_at());
            tokio::select! {
                opened = &mut opening => return Some(opened),
                command = self.commands.recv() => {
                    if self.obey(command) || self.is_done() {
                        return None;
                    }
                }
                () = at(retry_at) => self.retry(),
                () = at(leave_at) => {
                    self.leave_it_full();
                    return None;
                }
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
            let (retry_at, deadline, leave_at) = (self.ledger.next_retry(), self.deadline(), self.leave_at());
            tokio::select! {
                () = sleep_until(end) => return,
                () = self.tenancy.freed() => return,
                command = self.commands.recv() => {
                    if self.obey(command) {
                        return;
                    }
                }
                () = at(retry_at) => self.retry(),
                () = at(leave_at) => self.leave_it_full(),
                () = at(deadline) => {
                    self.give_up("the broker did not answer in time");
                    return;
                }
            }
        }
    }

    /// Takes messages from a connection until it is lost (an error), or is not wanted any more.
    async fn serve(&mut self, mut link: Link, welcome: Welcome) -> Result<(), LinkError> {
        if self.session.is_none() {
            self.find_noted(&welcome).await;
        }
        if !welcome.session_present {
            self.ledger.session_lost();
            self.subscribed.clear();
            self.leaving.clear();
        }
        self.session = Some(self.settings.dial.session());
        self.is_own = true;
        self.links += 1;
        tracing::info!(
            target: "gristmill::mqtt", flow = &*self.settings.context.flow,
            client = self.settings.dial.logged(), "{} is connected", self.settings.dial.place()
        );
        // Whether the broker has heard it is not known.
        let leaving = std::mem::take(&mut self.leaving);
        self.subscribed.extend(leaving.into_iter().map(|filter| (filter, Subscription::UNKNOWN)));
        self.has_overflowed = false;
        self.asked = None;
        let served = self.serve_until_done(&mut link).await;
        self.ledger.connection_lost();
        self.emptying.asked = None;
        if let Some((_, asked)) = &mut self.alive {
            *asked = None;
        }
        if served.as_ref().err().is_none_or(|error| error.is_refusal) {
            link.disconnect(None).await;
        }
        served
    }

    /// Whether no other source of this process is this client.
    fn is_leased(&self) -> bool {
        self.tenancy.has(&self.settings.dial.session())
    }

    async fn serve_until_done(&mut self, link: &mut Link) -> Result<(), LinkError> {
        self.reconcile(link).await?;
        let mut was_held = false;
        loop {
            // All that has settled by now, so that it is acknowledged in one go.
            while let Ok(command) = self.commands.try_recv() {
                if self.obey(Some(command)) && !self.takes_up(link).await? {
                    return Ok(());
                }
            }
            while let Some(packet) = self.ledger.acknowledge() {
                link.send(packet)?;
                self.stir();
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
            } else if was_held && let Some(asked) = &mut self.asked {
                // It was not late: it was not listened to.
                asked.until = Instant::now() + self.settings.dial.connection.connect_timeout;
            }
            was_held = has_enough;
            link.hold(has_enough);
            if let Some((_, asked @ None)) = &mut self.alive {
                *asked = Some(link.ask()?);
            }
            let (retry_at, deadline, silent_at) =
                (self.ledger.next_retry(), self.deadline(), self.silent_at());
            let answer_by = self.asked.as_ref().filter(|_| !has_enough).map(|asked| asked.until);
            tokio::select! {
                turn = link.turn() => match turn? {
                    Turn::Packet(packet) => self.received(packet, link).await?,
                    Turn::Pong(number) => {
                        if self.answered(number) {
                            return Ok(());
                        }
                    }
                    // A source publishes nothing that could be refused.
                    Turn::Flushed | Turn::Refused { .. } => {}
                },
                command = self.commands.recv() => {
                    if self.obey(command) && !self.takes_up(link).await? {
                        return Ok(());
                    }
                }
                () = at(retry_at) => self.retry(),
                () = turn(&mut self.emptying.after) => {
                    self.emptying.after = None;
                    self.stir();
                    self.reconcile(link).await?;
                }
                () = at(silent_at) => self.emptying.asked = Some(link.ask()?),
                () = at(deadline) => {
                    self.give_up("the broker did not answer a subscription in time");
                    if self.is_done() {
                        return Ok(());
                    }
                    self.asked = None;
                    self.reconcile(link).await?;
                }
                () = at(answer_by) => return Err(LinkError::lost(format!(
                    "{} did not answer a subscription in time (`connect_timeout_ms`)",
                    self.settings.dial.place()
                ))),
            }
        }
    }

    /// Does as the settings say that have changed. False when that wants another connection.
    async fn takes_up(&mut self, link: &mut Link) -> Result<bool, LinkError> {
        if self.serves() {
            self.reconcile(link).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Does what it is told. Whether the settings have changed.
    fn obey(&mut self, command: Option<Command>) -> bool {
        match command {
            Some(Command::Settled(sequence, settlement)) => {
                let retry = self.takes().then(|| self.settings.context.limits.release_delay());
                self.ledger.settled(sequence, settlement, retry);
            }
            Some(Command::Change(settings, lease, answer)) => {
                self.tenancy.try_with(lease);
                let deadline = Some(Instant::now() + settings.decision_limit());
                self.move_to(settings.dial.session());
                let before = std::mem::replace(&mut self.settings, *settings);
                let otherwise = Otherwise::Before(Box::new(before));
                self.waiting = Some(Waiting { answer, otherwise, deadline });
                return true;
            }
            Some(Command::Alive(answer)) => self.alive = Some((answer, None)),
            Some(Command::Empty) if self.phase == Phase::Open => {
                self.phase = Phase::Emptying;
                self.settings.topics.clear();
                self.emptying.lost_at = Some(Instant::now());
                self.stir();
                return true;
            }
            Some(Command::Empty) => {}
            Some(Command::Retire) => self.retires = true,
            Some(Command::Close) if self.takes() => {
                self.phase = Phase::Closed;
                self.ledger.leave_waiting();
                self.inbox.close();
            }
            Some(Command::Close) => {}
            Some(Command::Abandon) | None => self.phase = Phase::Abandoned,
        }
        false
    }

    /// Whether what the broker sends is taken.
    fn takes(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Emptying)
    }

    /// The session is known by this from now on.
    fn move_to(&mut self, session: SessionKey) {
        if let Some(known) = &mut self.session
            && *known != session
        {
            self.also_noted_as.push(std::mem::replace(known, session));
        }
    }

    /// The settings of before, while others wait for their answer.
    fn before(&self) -> Option<&Settings> {
        match &self.waiting {
            Some(Waiting { otherwise: Otherwise::Before(before), .. }) => Some(before),
            _ => None,
        }
    }

    /// Whether the connection of before serves the settings that are to be taken.
    fn serves(&self) -> bool {
        self.before().is_none_or(|before| before.is_same_client(&self.settings))
    }

    fn deadline(&self) -> Option<Instant> {
        self.waiting.as_ref().and_then(|waiting| waiting.deadline)
    }

    /// What was waited for has come.
    fn is_up(&mut self) {
        self.inbox.set_down(None);
        self.said.clear();
        self.has_subscribed.send_replace(true);
        self.tenancy.agreed();
        if let Some(Waiting { answer, .. }) = self.waiting.take() {
            // Whoever asked may have been cancelled.
            let _cancelled = answer.send(Ok(()));
        }
    }

    /// There is no connection, or no subscription.
    fn is_down(&mut self, error: LinkError) {
        let LinkError { text, is_refusal, .. } = error;
        match self.waiting.take() {
            Some(Waiting { answer, otherwise: Otherwise::Before(before), .. }) => {
                self.tenancy.not_agreed();
                self.move_to(before.dial.session());
                self.settings = *before;
                let _cancelled = answer.send(Err(SourceError::new(text)));
                // The connection of before was given up for this one.
                return;
            }
            Some(Waiting { answer, otherwise, .. }) => {
                if is_refusal || matches!(otherwise, Otherwise::End) {
                    // It has not started: it is dropped by whoever asked.
                    (self.phase, self.retires) = (Phase::Abandoned, self.is_fresh);
                    let _cancelled = answer.send(Err(SourceError::new(text)));
                    return;
                }
                // First, so that no one sees it as running.
                self.inbox.set_down(Some(text.clone()));
                let _cancelled = answer.send(Ok(()));
            }
            None => {}
        }
        // Once, and not with each attempt.
        if self.said != text {
            tracing::warn!(
                target: "gristmill::mqtt", flow = &*self.settings.context.flow,
                client = self.settings.dial.logged(), "{text}; it is tried again"
            );
            self.said.clone_from(&text);
        }
        self.emptying.problem.clone_from(&text);
        if self.phase == Phase::Emptying && (is_refusal || !self.emptying.is_patient) {
            self.emptying.lost_at.get_or_insert_with(Instant::now);
        }
        self.inbox.set_down(Some(text));
    }

    /// Back to the settings of before, when there are such.
    fn give_up(&mut self, why: &str) {
        self.is_down(LinkError::lost(format!("{}: {why}", self.settings.dial.place())));
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
                    self.unsubscribed(&answer).await;
                }
                Ok(())
            }
            other => Err(LinkError::lost(format!(
                "{} sent a {:?}, for which a source has no use",
                self.settings.dial.place(),
                other.packet_type()
            ))),
        }
    }
}

/// Waits until the other session has subscribed, or is gone.
async fn turn(after: &mut Option<watch::Receiver<bool>>) {
    match after {
        Some(after) => drop(after.wait_for(|has_subscribed| *has_subscribed).await),
        None => pending().await,
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

    /// When a change counts as not taken: early enough to go back.
    fn decision_limit(&self) -> Duration {
        self.change_limit() / 4 * 3
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

#[cfg(test)]
mod tests {
    use gristmill_core::{SystemClock, limits::FlowLimits, observe::Unobserved};
    use rumqttc_v5::mqttbytes::v5::{PubAck, Publish};

    use super::{
        super::{
            inbox::Taken,
            lease::{Leases, Tenant},
        },
        *,
    };
    use crate::{
        link::testkit::{Wire, dial},
        wire::QoS,
    };

    fn settings() -> Settings {
        Settings {
            dial: dial(),
            tls: None,
            fingerprint: "f".into(),
            topics: vec!["t".into()],
            shows_topics: true,
            subscription: Subscription { qos: 1, retained: Retained::Never },
            buffer_messages: 10,
            context: EndpointContext {
                flow: "test".into(),
                limits: FlowLimits::default(),
                state_dir: "unused".into(),
                clock: Arc::new(SystemClock),
                observer: Arc::new(Unobserved),
            },
        }
    }

    #[tokio::test]
    async fn all_that_has_settled_is_acknowledged_in_one_write_in_the_order_of_arrival() {
        let leases = Arc::new(Leases::default());
        let tenancy = Tenancy::new(&leases, Tenant::new(leases.source(), &"test".into()));
        let (commands, obeyed) = mpsc::unbounded_channel();
        let (inbox, (started, _)) = (Arc::new(Inbox::default()), oneshot::channel());
        let mut session =
            Session::new(settings(), Arc::clone(&inbox), obeyed, tenancy, started, Otherwise::TryForEver);
        let wire = Wire::default();
        let mut link = wire.link();
        wire.brings((1..=17).map(|packet| {
            let mut publish = Publish::new("t", QoS::AtLeastOnce, packet.to_string(), None);
            publish.pkid = packet;
            Packet::Publish(publish)
        }));
        let serving = tokio::spawn(async move { session.serve_until_done(&mut link).await });
        assert!(matches!(wire.next_write().await[..], [Packet::Subscribe(_)]));
        let mut sequences = Vec::new();
        for _ in 1..=17 {
            let Taken::Offer(offer) = inbox.take().await else { panic!() };
            sequences.push(offer.sequence);
        }
        let settle = |sequence| {
            let _sent = commands.send(Command::Settled(sequence, Settlement::Delivered));
        };
        // All but the second and the fourth, then those.
        let (even, odd): (Vec<_>, Vec<_>) = sequences.into_iter().partition(|it| [1, 3].contains(it));
        odd.into_iter().rev().for_each(settle);
        let acknowledged = |range: std::ops::RangeInclusive<u16>| {
            range.map(|packet| Packet::PubAck(PubAck::new(packet, None))).collect::<Vec<_>>()
        };
        assert_eq!(wire.next_write().await, acknowledged(1..=1));
        even.into_iter().for_each(settle);
        assert_eq!(wire.next_write().await, acknowledged(2..=17));
        drop(commands);
        assert!(serving.await.unwrap().is_ok());
    }
}
