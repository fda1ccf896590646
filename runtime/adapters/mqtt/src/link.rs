//! One network connection to a broker: opened, written to without waiting, read from, and known to be dead when it is.
//!
//! [`Link::turn`] does everything that needs the network, and may be dropped at any await: nothing of it is lost. So its owner
//! waits for it and for its own commands at once, and the broker hears pings whatever the owner is waiting for.
//!
//! A write costs more than all else that is done about a small packet. So packets are gathered: what one read brought is given
//! before anything is written, and before a write the other tasks of the runtime have a turn, which hand over what they have. Only
//! what is about messages waits for others: a subscription, a ping or a good-bye is not one of many.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use gristmill_tls::ClientTls;
use rumqttc_v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectProperties,
    DisconnectReasonCode, LastWill,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, rustls};
use tokio_util::{codec::Decoder as _, io::poll_read_buf};

use crate::{
    config::Version,
    connection::{Broker, MqttConnection, SessionKey},
    monitor::{Monitor, Up},
    reason::Reason,
    wire::{Codec, Incoming, Packet, QoS},
};

/// How much is read at once, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// With so much to write nothing more is gathered, in bytes.
const WRITE_AT_BYTES: usize = 64 * 1024;

/// With less room than this there is more made. Messages keep what they were read into, so that each having its own would be a
/// waste.
const MIN_ROOM_BYTES: usize = 4 * 1024;

/// Of what a broker says or does when two clients have one id.
const RIVAL: &str =
    "another client came with the same client id; each runtime needs a `client_id` of its own";

/// So many connections in a row that do not last are remarkable.
const REMARKABLE: u32 = 3;

/// How long a broker is asked to keep a session at least that is not to go with a connection: that it is looked at, or emptied,
/// over. In seconds.
pub(crate) const LOOK_EXPIRY_S: u32 = 3_600;

/// How long a good-bye may take; the peer may be gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whom to connect to, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// The name of the connection.
    pub(crate) name: Arc<str>,
    pub(crate) connection: Arc<MqttConnection>,
    pub(crate) client_id: Arc<str>,
    /// The client, for texts.
    pub(crate) shown: Arc<str>,
    /// Begin without what the broker kept.
    pub(crate) clean_start: bool,
    /// How long the broker keeps the session once the connection is gone, in seconds; with 3.1.1 only whether it is 0 counts.
    pub(crate) session_expiry_s: u32,
    /// How many messages with QoS 1 or 2 the broker may have under way.
    pub(crate) receive_maximum: u16,
    /// Is told how it goes.
    pub(crate) monitor: Arc<Monitor>,
}

/// Why there is no connection, or none any more.
#[derive(Debug, Clone)]
pub(crate) struct LinkError {
    /// For the operator.
    pub(crate) text: String,
    /// Whether the broker has refused, so that nothing but another configuration helps.
    pub(crate) is_refusal: bool,
    /// With which the broker ended the connection, when it said so.
    pub(crate) reason: Option<Reason>,
}

/// What the broker said when it let us in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Welcome {
    /// Whether the broker still had the session.
    pub(crate) session_present: bool,
    /// How many messages with QoS 1 or 2 it takes at once.
    pub(crate) receive_maximum: u16,
    /// The largest packet it takes, in bytes.
    pub(crate) packet_bytes: usize,
    /// The best quality of service it knows.
    pub(crate) qos: u8,
    /// Whether it keeps retained messages.
    pub(crate) retains: bool,
}

/// What came of a turn.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "taken apart where it is given; a box would be one more allocation a packet"
)]
pub(crate) enum Turn {
    /// The broker sent this.
    Packet(Packet),
    /// The broker does not take the message of this packet identifier (version 5).
    Refused { packet: u16, reason: Reason },
    /// All that was to be written is with the system.
    Flushed,
    /// The broker has answered the ping of this number, see [`Link::ask`].
    Pong(u64),
}

/// What bytes go over.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection that the broker has accepted.
pub(crate) struct Link {
    io: Box<dyn Transport>,
    codec: Codec,
    read: BytesMut,
    unwritten: BytesMut,
    /// What there is to write waits for no more: others had a turn, or it is urgent.
    gave_way: bool,
    /// Something was written and is not flushed.
    unflushed: bool,
    keep_alive: Duration,
    sent_at: Instant,
    received_at: Instant,
    /// When the broker was asked whether it is there, if nothing has come since.
    asked_at: Option<Instant>,
    /// How many pings were sent, and how many of them are answered: answers come in the order of the questions.
    pings: u64,
    pongs: u64,
    alarm: Pin<Box<Sleep>>,
    /// What texts begin with.
    place: Arc<str>,
    /// Nothing is read for now.
    is_held: bool,
    _up: Option<Up>,
}

impl Dial {
    /// The session, for texts.
    pub(crate) fn shown_session(&self) -> String {
        format!("the session of {} at {}", self.shown, self.connection.broker.shown)
    }

    /// The connection and its broker: what texts begin with.
    pub(crate) fn place(&self) -> String {
        place(&self.name, &self.connection)
    }

    /// The client, as a field of the log.
    pub(crate) fn logged(&self) -> &str {
        self.shown.trim_matches('`')
    }

    /// The session at the broker.
    pub(crate) fn session(&self) -> SessionKey {
        let Broker { host, port, .. } = &self.connection.broker;
        SessionKey { host: host.clone(), port: *port, client_id: (*self.client_id).to_owned() }
    }

    /// Connects: name, TCP, TLS, CONNECT, CONNACK, within the connection's time.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn open(
        &self,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Result<(Link, Welcome), LinkError> {
        let limit = self.connection.connect_timeout;
        let opened = timeout(limit, self.open_at_leisure(tls)).await.unwrap_or_else(|_elapsed| {
            Err(LinkError::lost(format!(
                "{} did not answer within {} ms (`connect_timeout_ms`)",
                self.place(),
                limit.as_millis()
            )))
        });
        match opened {
            Ok((link, welcome)) => Ok((Link { _up: Some(self.monitor.up()), ..link }, welcome)),
            Err(error) => {
                self.monitor.failed(&error.text);
                Err(error)
            }
        }
    }

    async fn open_at_leisure(
        &self,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> Result<(Link, Welcome), LinkError> {
        let broker = &self.connection.broker;
        let place: Arc<str> = self.place().into();
        let io = dial(&broker.host, broker.port, tls)
            .await
            .map_err(|error| LinkError::not_reached(&place, &error, broker.tls.as_ref()))?;
        let mut link = Link::new(io, self.connection.version, self.connection.keep_alive, Arc::clone(&place));
        link.send(self.connect())?;
        loop {
            let turn = link.turn().await.map_err(|error| error.before_welcome(broker.tls.as_ref()))?;
            match turn {
                Turn::Flushed | Turn::Pong(_) => {}
                Turn::Packet(Packet::ConnAck(answer)) => {
                    let welcome = self.welcome(&answer)?;
                    if let Some(seconds) = answer.properties.and_then(|it| it.server_keep_alive)
                        && seconds > 0
                    {
                        link.keep_alive = Duration::from_secs(seconds.into());
                    }
                    return Ok((link, welcome));
                }
                Turn::Packet(_) | Turn::Refused { .. } => {
                    return Err(LinkError::lost(format!(
                        "{place} answered CONNECT with something else: is it an MQTT broker?"
                    )));
                }
            }
        }
    }

    fn connect(&self) -> Packet {
        let MqttConnection { username, password, will, version, .. } = &*self.connection;
        let auth = match (username, password) {
            (Some(username), Some(password)) => ConnectAuth::UsernamePassword {
                username: username.clone(),
                password: Bytes::copy_from_slice(password.expose().as_bytes()),
            },
            (Some(username), None) => ConnectAuth::Username { username: username.clone() },
            (None, _) => ConnectAuth::None,
        };
        let will = will.as_ref().map(|will| {
            LastWill::new(will.topic.clone(), will.payload.clone(), qos(will.qos), will.retain, None)
        });
        let properties = ConnectProperties {
            session_expiry_interval: Some(self.session_expiry_s),
            receive_maximum: Some(self.receive_maximum),
            ..ConnectProperties::new()
        };
        let clean_start = match version {
            Version::V5 => self.clean_start,
            // The one flag says both that nothing is to be found and that nothing is to be kept.
            Version::V311 => self.session_expiry_s == 0,
        };
        let keep_alive = u16::try_from(self.connection.keep_alive.as_secs()).unwrap_or(u16::MAX);
        let connect = Connect {
            keep_alive,
            client_id: (*self.client_id).to_owned(),
            clean_start,
            properties: Some(properties),
        };
        Packet::Connect(connect, will, auth)
    }

    fn welcome(&self, answer: &ConnAck) -> Result<Welcome, LinkError> {
        use ConnectReturnCode as Code;
        let (shown, client) = (self.place(), &self.shown);
        let mend = match answer.code {
            Code::Success => {
                let properties = answer.properties.as_ref();
                return Ok(Welcome {
                    session_present: answer.session_present,
                    receive_maximum: properties.and_then(|it| it.receive_max).unwrap_or(u16::MAX),
                    packet_bytes: properties
                        .and_then(|it| it.max_packet_size)
                        .and_then(|bytes| usize::try_from(bytes).ok())
                        .unwrap_or(usize::MAX),
                    qos: properties.and_then(|it| it.max_qos).unwrap_or(2),
                    retains: properties.and_then(|it| it.retain_available) != Some(0),
                });
            }
            Code::BadUserNamePassword => "user name or password is wrong: see `username` and `password`",
            Code::NotAuthorized => {
                "this user or client may not connect: see `username` and `password`, and the broker's access list"
            }
            Code::BadClientId | Code::ClientIdentifierNotValid => {
                "the broker does not take this client id: see `client_id`"
            }
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
                "the broker does not speak this version of MQTT: see `version`"
            }
            Code::Banned => "the broker has banned this client",
            Code::BadAuthenticationMethod => "the broker wants another way of authentication",
            _ => {
                return Err(LinkError::lost(format!(
                    "{shown} does not let {client} in now: {:?}",
                    answer.code
                )));
            }
        };
        Err(LinkError::refused(format!("{shown} does not let {client} in: {mend}")))
    }
}

/// Reads the files of TLS, when the connection has it.
///
/// # Errors
/// What is wrong with them.
pub(crate) async fn load_tls(
    connection: &MqttConnection,
) -> Result<Option<Arc<rustls::ClientConfig>>, String> {
    let Some(tls) = connection.broker.tls.clone() else { return Ok(None) };
    let read = move |tls: ClientTls| tls.read()?.client_config();
    match tokio::task::spawn_blocking(move || read(tls)).await {
        Ok(Ok(config)) => Ok(Some(Arc::new(config))),
        Ok(Err(error)) => Err(error.text().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn dial(
    host: &str,
    port: u16,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> io::Result<Box<dyn Transport>> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?))
}

/// The quality of service of a configuration, which is 0, 1 or 2.
pub(crate) fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

// === impl Link ===

impl Link {
    fn new(io: Box<dyn Transport>, version: Version, keep_alive: Duration, place: Arc<str>) -> Self {
        let now = Instant::now();
        Self {
            io,
            codec: Codec::new(version),
            read: BytesMut::new(),
            unwritten: BytesMut::new(),
            gave_way: false,
            unflushed: false,
            keep_alive,
            sent_at: now,
            received_at: now,
            asked_at: None,
            pings: 0,
            pongs: 0,
            alarm: Box::pin(sleep_until(now)),
            place,
            is_held: false,
            _up: None,
        }
    }

    /// Whether more may be gathered before a write. Who has much to send waits until there is room.
    pub(crate) fn has_room(&self) -> bool {
        self.unwritten.len() < WRITE_AT_BYTES
    }

    /// Puts a packet behind those that are to be written; [`Self::turn`] writes.
    ///
    /// # Errors
    /// The packet breaks a rule of the protocol. The link is as it was.
    pub(crate) fn send(&mut self, packet: Packet) -> Result<(), LinkError> {
        self.gave_way |= !is_of_a_message(&packet);
        self.codec
            .encode(packet, &mut self.unwritten)
            .map_err(|error| LinkError::lost(format!("a packet cannot be written: {error}")))
    }

    /// Asks the broker for a sign of life. Gives the number of the answer, see [`Turn::Pong`]: what the broker sent before it
    /// has come before it.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn ask(&mut self) -> Result<u64, LinkError> {
        self.send(Packet::PingReq)?;
        self.pings += 1;
        self.asked_at.get_or_insert_with(Instant::now);
        Ok(self.pings)
    }

    /// While it is held nothing is read: what the broker sends waits in the network, and in the end with the broker. Pings and
    /// acknowledgements go out as ever; whether the broker answers is looked at when it is read from again.
    pub(crate) fn hold(&mut self, is_held: bool) {
        if self.is_held && !is_held {
            (self.received_at, self.asked_at) = (Instant::now(), None);
        }
        self.is_held = is_held;
    }

    /// Writes what is to be written, reads a packet, and sees to it that the broker is there. Can be dropped without loss.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) async fn turn(&mut self) -> Result<Turn, LinkError> {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    /// Says good-bye. The broker keeps the session as long as agreed, or for `session_expiry_s`.
    pub(crate) async fn disconnect(mut self, session_expiry_s: Option<u32>) {
        let properties = session_expiry_s.map(|seconds| DisconnectProperties {
            session_expiry_interval: Some(seconds),
            reason_string: None,
            user_properties: Vec::new(),
            server_reference: None,
        });
        let packet = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection, properties };
        if self.send(Packet::Disconnect(packet)).is_err() {
            return;
        }
        let written = async {
            while let Ok(Turn::Packet(_) | Turn::Refused { .. } | Turn::Pong(_)) = self.turn().await {}
            // Until the broker closes, so that it has read everything before a next connection of this client.
            while self.turn().await.is_ok() {}
        };
        // A peer that is not there needs no good-bye.
        let _elapsed = timeout(FAREWELL, written).await;
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, LinkError>> {
        if self.has_room() {
            if !self.is_held
                && let Some(turn) = self.decode()?
            {
                return Poll::Ready(Ok(turn));
            }
            if self.unwritten.has_remaining() && !self.gave_way {
                self.gave_way = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        match self.poll_write(cx) {
            Ok(true) => return Poll::Ready(Ok(Turn::Flushed)),
            Ok(false) => {}
            // A broker that closes while it is written to may have said why.
            Err(error) => {
                return loop {
                    match self.poll_read(cx) {
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(why)) if why.reason.is_some() => break Poll::Ready(Err(why)),
                        Poll::Ready(Err(_)) | Poll::Pending => break Poll::Ready(Err(error)),
                    }
                };
            }
        }
        if !self.is_held
            && let Poll::Ready(turn) = self.poll_read(cx)
        {
            return Poll::Ready(turn);
        }
        ready!(self.poll_alarm(cx))?;
        // A ping is to be written.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready with what the broker sends.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, LinkError>> {
        loop {
            if let Some(turn) = self.decode()? {
                return Poll::Ready(Ok(turn));
            }
            if self.read.capacity() - self.read.len() < MIN_ROOM_BYTES {
                self.read.reserve(READ_BYTES);
            }
            match ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read)) {
                Ok(0) => return Poll::Ready(Err(self.lost("it was closed"))),
                Ok(_) => {
                    self.received_at = Instant::now();
                    self.asked_at = None;
                }
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
    }

    /// The next of what was read.
    fn decode(&mut self) -> Result<Option<Turn>, LinkError> {
        let decoded = self
            .codec
            .decode(&mut self.read)
            .map_err(|error| LinkError::lost(format!("{} sent what is not MQTT: {error}", self.place)))?;
        Ok(Some(match decoded {
            None => return Ok(None),
            Some(Incoming::Packet(Packet::PingResp)) => {
                self.pongs += 1;
                Turn::Pong(self.pongs)
            }
            Some(Incoming::Packet(packet)) => Turn::Packet(packet),
            Some(Incoming::Refused { packet, reason }) => Turn::Refused { packet, reason },
            Some(Incoming::Ended(reason)) => {
                let rival = if reason == Reason::SESSION_TAKEN_OVER { RIVAL } else { "" };
                let colon = if rival.is_empty() { "" } else { ": " };
                let text = format!("{} ended the connection: {reason}{colon}{rival}", self.place);
                return Err(LinkError { reason: Some(reason), ..LinkError::lost(text) });
            }
        }))
    }

    /// True when all that was to be written has just been.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkError> {
        while self.unwritten.has_remaining() {
            match Pin::new(&mut self.io).poll_write(cx, &self.unwritten) {
                Poll::Ready(Ok(0)) => return Err(self.lost("it takes no more")),
                Poll::Ready(Ok(written)) => {
                    self.unwritten.advance(written);
                    self.unflushed = true;
                    self.sent_at = Instant::now();
                }
                Poll::Ready(Err(error)) => return Err(self.lost(error)),
                Poll::Pending => return Ok(false),
            }
        }
        self.gave_way = false;
        if !self.unflushed {
            return Ok(false);
        }
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.unflushed = false;
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(self.lost(error)),
            Poll::Pending => Ok(false),
        }
    }

    /// Ready when the broker has to be asked whether it is there, or did not answer.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let now = Instant::now();
        let asked_at = self.asked_at.filter(|_| !self.is_held);
        let heard_at = if self.is_held { now } else { self.received_at };
        let due = match asked_at {
            Some(asked_at) => asked_at + self.keep_alive,
            // Earlier than agreed, because the broker counts from when it hears.
            None => self.sent_at.min(heard_at) + self.keep_alive / 4 * 3,
        };
        if due > now {
            if self.alarm.deadline() != due {
                self.alarm.as_mut().reset(due);
            }
            ready!(self.alarm.as_mut().poll(cx));
        }
        if asked_at.is_some() {
            let text = format!("it has been silent for {} s (`keep_alive_s`)", self.keep_alive.as_secs());
            return Poll::Ready(Err(self.lost(text)));
        }
        self.ask()?;
        Poll::Ready(Ok(()))
    }

    fn lost(&self, why: impl std::fmt::Display) -> LinkError {
        LinkError::lost(format!("{} is lost: {why}", self.place))
    }
}

/// Whether it is one of the packets of which there are some for each message.
fn is_of_a_message(packet: &Packet) -> bool {
    use Packet::{PubAck, PubComp, PubRec, PubRel, Publish};
    matches!(packet, Publish(_) | PubAck(_) | PubRec(_) | PubRel(_) | PubComp(_))
}

/// The connection of this name and its broker, for the beginning of a text.
pub(crate) fn place(name: &str, connection: &MqttConnection) -> String {
    format!("connection `{name}`: {}", connection.broker.shown)
}

/// What the other side of TLS refuses, it says with an alert and not why: most often it is the certificate of this side.
fn certificate_mend(tls: Option<&ClientTls>) -> &'static str {
    match tls {
        Some(tls) if tls.has_certificate() => {
            "does the broker take the certificate under `tls` of the connection?"
        }
        _ => {
            "does the broker want a certificate of its clients? Then set `certificate_file` and `key_file` under `tls` of the connection"
        }
    }
}

// === impl LinkError ===

impl LinkError {
    /// One that time may mend.
    pub(crate) fn lost(text: String) -> Self {
        Self { text, is_refusal: false, reason: None }
    }

    /// One that another configuration mends.
    pub(crate) fn refused(text: String) -> Self {
        Self { is_refusal: true, ..Self::lost(text) }
    }

    /// Neither TCP nor TLS came about.
    fn not_reached(place: &str, error: &io::Error, tls: Option<&ClientTls>) -> Self {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let text = format!("{place} cannot be reached: {error}");
        match (of_tls, tls) {
            (Some(rustls::Error::AlertReceived(_)), tls) => {
                Self::refused(format!("{text}; {}", certificate_mend(tls)))
            }
            (Some(rustls::Error::InvalidCertificate(_)), _) => Self::refused(format!(
                "{text}; is it the broker that `url` means, and does `ca_file` under `tls` know who certified it?"
            )),
            // TCP stood, for only then does TLS begin.
            (_, Some(_))
                if of_tls.is_some()
                    || matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::BrokenPipe
                    ) =>
            {
                Self::lost(format!("{text}; is this a port for TLS (8883)? For one without, write `mqtt://`"))
            }
            _ => Self::lost(format!("{text}; is the host in `url` right, and does the broker run?")),
        }
    }

    /// It was lost before the broker had let the client in, as it is when the two do not speak of the same.
    fn before_welcome(self, tls: Option<&ClientTls>) -> Self {
        let mend = match tls {
            // With TLS 1.3 the other side looks at the certificate last.
            Some(_) if self.text.contains("received fatal alert") => {
                return Self {
                    is_refusal: true,
                    text: format!("{}; {}", self.text, certificate_mend(tls)),
                    ..self
                };
            }
            _ if self.reason.is_some() => return self,
            Some(_) => "is it an MQTT broker, and does it speak this `version`?",
            None => {
                "it has not let the client in: is this a port for TLS (8883), which wants `mqtts://`, or one of another protocol? \
                 And does the broker speak this `version`?"
            }
        };
        Self { text: format!("{}; {mend}", self.text), ..self }
    }

    /// The connection was made and lost soon, so often in a row.
    pub(crate) fn after_short_lives(mut self, times: u32) -> Self {
        // A broker of 3.1.1 does not say why it closes.
        if times >= REMARKABLE && !self.text.contains(RIVAL) {
            self.text.push_str(&format!(
                "; so it was {times} times in a row, each soon after connecting, as when another client has the same client id"
            ));
        }
        self
    }
}

#[cfg(test)]
pub(crate) mod testkit {
    //! A broker of a script, that counts how often it is written to.

    use std::{collections::VecDeque, path::Path, sync::Mutex};

    use gristmill_core::{
        adapter::Checker, config::Mistakes, limits::FlowLimits, testkit::contract::config_node,
    };
    use tokio::io::ReadBuf;

    use super::*;
    use crate::{connection, monitor::Monitors};

    /// What it takes to be a client of the broker at `mqtt://broker`.
    pub(crate) fn dial() -> Dial {
        let (mut mistakes, limits) = (Mistakes::new(), FlowLimits::default());
        let mut checker = Checker::new(&mut mistakes, Path::new("."), &limits);
        let config = serde_json::json!({"url": "mqtt://broker", "client_id": "c"});
        let connection = connection::check(&config_node(&config), &mut checker).unwrap();
        let name: Arc<str> = "plant".into();
        Dial {
            connection: Arc::new(connection),
            client_id: "c".into(),
            shown: "`c`".into(),
            clean_start: false,
            session_expiry_s: 60,
            receive_maximum: 100,
            monitor: Monitors::default().get(&name, "test"),
            name,
        }
    }

    /// What is read next, and what was written.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Wire(Arc<Mutex<Ends>>);

    #[derive(Debug, Default)]
    struct Ends {
        to_read: VecDeque<BytesMut>,
        written: Vec<BytesMut>,
        /// It takes nothing.
        is_full: bool,
    }

    impl Wire {
        /// A link of version 5 whose other end is this.
        pub(crate) fn link(&self) -> Link {
            Link::new(Box::new(self.clone()), Version::V5, Duration::from_secs(60), "the wire".into())
        }

        /// One read brings these packets.
        pub(crate) fn brings(&self, packets: impl IntoIterator<Item = Packet>) {
            let mut bytes = BytesMut::new();
            for packet in packets {
                Codec::new(Version::V5).encode(packet, &mut bytes).unwrap();
            }
            self.0.lock().unwrap().to_read.push_back(bytes);
        }

        pub(crate) fn fill(&self, is_full: bool) {
            self.0.lock().unwrap().is_full = is_full;
        }

        /// The packets of the next write, after those that were given.
        pub(crate) async fn next_write(&self) -> Vec<Packet> {
            let next = || {
                let written = &mut self.0.lock().unwrap().written;
                (!written.is_empty()).then(|| written.remove(0))
            };
            let wait = async {
                loop {
                    if let Some(written) = next() {
                        return packets(written);
                    }
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), wait).await.expect("nothing is written")
        }

        /// The packets of each write so far, which are forgotten.
        pub(crate) fn writes(&self) -> Vec<Vec<Packet>> {
            let written = std::mem::take(&mut self.0.lock().unwrap().written);
            written.into_iter().map(packets).collect()
        }
    }

    fn packets(mut bytes: BytesMut) -> Vec<Packet> {
        let mut packets = Vec::new();
        while !bytes.is_empty() {
            packets.push(Packet::read(&mut bytes, None).unwrap());
        }
        packets
    }

    impl AsyncRead for Wire {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.0.lock().unwrap().to_read.pop_front() {
                Some(bytes) => {
                    into.put_slice(&bytes);
                    Poll::Ready(Ok(()))
                }
                None => Poll::Pending,
            }
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let mut ends = self.0.lock().unwrap();
            if ends.is_full {
                return Poll::Pending;
            }
            ends.written.push(bytes.into());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use rumqttc_v5::mqttbytes::v5::{PubAck, Publish};

    use super::{testkit::Wire, *};

    fn publish(packet: u16, bytes: usize) -> Packet {
        let mut publish = Publish::new("t", QoS::AtLeastOnce, vec![b'x'; bytes], None);
        publish.pkid = packet;
        Packet::Publish(publish)
    }

    fn acknowledgement(packet: u16) -> Packet {
        Packet::PubAck(PubAck::new(packet, None))
    }

    #[tokio::test]
    async fn the_answers_to_what_one_read_brought_are_one_write() {
        let (wire, all) = (Wire::default(), 1..=17);
        let mut link = wire.link();
        wire.brings(all.clone().map(|packet| publish(packet, 100)));
        for expected in all.clone() {
            let Turn::Packet(Packet::Publish(publish)) = link.turn().await.unwrap() else { panic!() };
            assert_eq!(publish.pkid, expected);
            link.send(acknowledgement(expected)).unwrap();
            assert_eq!(wire.writes(), [[]; 0], "there is more to answer");
        }
        assert!(matches!(link.turn().await, Ok(Turn::Flushed)));
        assert_eq!(wire.writes(), [all.map(acknowledgement).collect::<Vec<_>>()]);
    }

    #[tokio::test]
    async fn what_others_have_to_send_goes_out_with_what_there_is() {
        let wire = Wire::default();
        let mut link = wire.link();
        let (more, mut handed_over) = tokio::sync::mpsc::unbounded_channel();
        link.send(acknowledgement(1)).unwrap();
        // It is as ready to run as this one, and behind it.
        tokio::spawn(async move { more.send(acknowledgement(2)) });
        loop {
            tokio::select! {
                biased;
                Some(packet) = handed_over.recv() => link.send(packet).unwrap(),
                turn = link.turn() => {
                    assert!(matches!(turn, Ok(Turn::Flushed)));
                    break;
                }
            }
        }
        assert_eq!(wire.writes(), [[acknowledgement(1), acknowledgement(2)]]);
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_there_is_room_for() {
        let wire = Wire::default();
        let mut link = wire.link();
        wire.brings((1..=2).map(acknowledgement));
        assert!(matches!(link.turn().await, Ok(Turn::Packet(_))));
        link.send(publish(1, WRITE_AT_BYTES)).unwrap();
        assert!(!link.has_room());
        assert!(
            matches!(link.turn().await, Ok(Turn::Flushed)),
            "it is written before what was read is given"
        );
        assert!(link.has_room());
        assert!(matches!(link.turn().await, Ok(Turn::Packet(_))));
        assert_eq!(wire.writes().len(), 1);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_still_read_from() {
        let wire = Wire::default();
        let mut link = wire.link();
        wire.fill(true);
        for bytes in [10, WRITE_AT_BYTES] {
            link.send(publish(1, bytes)).unwrap();
            wire.brings([acknowledgement(1)]);
            assert!(matches!(link.turn().await, Ok(Turn::Packet(Packet::PubAck(_)))));
        }
        wire.fill(false);
        assert!(matches!(link.turn().await, Ok(Turn::Flushed)));
        assert_eq!(wire.writes().concat().len(), 2);
    }
}
