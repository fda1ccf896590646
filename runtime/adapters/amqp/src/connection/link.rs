//! One TCP connection to a broker, made when it is first wanted and made again for ever. The client library's own recovery is
//! not used: what hangs from a connection (deliveries to acknowledge, messages to confirm) has to know that it is another one.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use gristmill_core::connection::ConnectionState;
use gristmill_tls::TlsError;
use lapin::{Channel, Connection, ConnectionProperties, Event, tcp::AsyncTcpStream, uri::AMQPScheme};
use rand::Rng as _;
use rustls::ClientConfig;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    spec::{AmqpConnectionSpec, Target},
    stream::{self, Kit, StreamHandle},
};
use crate::trouble::{Trouble, cause};

/// How long a goodbye may take. Nothing depends on it but the broker's log.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A TCP connection that is made again whenever it breaks. Closed when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    started: Mutex<Option<DropGuard>>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    role: &'static str,
    spec: Arc<AmqpConnectionSpec>,
    state: watch::Sender<State>,
    blocked: watch::Sender<Option<Arc<str>>>,
    tally: Arc<Tally>,
}

/// What is counted of the links of one name and role, also when one with other settings takes the place of another.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    connects: AtomicU64,
    blocks: AtomicU64,
}

#[derive(Debug, Clone)]
enum State {
    /// Not tried yet, or just lost: what comes of it is not known.
    Connecting,
    Up(Arc<Session>),
    /// The last attempt failed; the next one is waited for.
    Down(Trouble),
}

/// A TCP connection that is up, or was.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    stream: StreamHandle,
}

// === impl Link ===

impl Link {
    pub(crate) fn new(
        name: Arc<str>,
        role: &'static str,
        spec: Arc<AmqpConnectionSpec>,
        tally: Arc<Tally>,
    ) -> Self {
        let shared = Shared {
            name,
            role,
            spec,
            state: watch::Sender::new(State::Connecting),
            blocked: watch::Sender::new(None),
            tally,
        };
        Self { shared: Arc::new(shared), started: Mutex::new(None) }
    }

    /// The connection, once it is up. Gives up at `deadline`.
    ///
    /// # Errors
    /// Why it is not up.
    pub(crate) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, Trouble> {
        self.start();
        let mut state = self.shared.state.subscribe();
        let is_up = |state: &State| matches!(state, State::Up(session) if session.is_alive());
        let _elapsed = timeout_at(deadline, state.wait_for(is_up)).await;
        self.shared.current()
    }

    /// The connection, as soon as an attempt to make it has ended either way. Gives up at `deadline`.
    ///
    /// # Errors
    /// Why it is not up.
    pub(crate) async fn attempt(&self, deadline: Instant) -> Result<Arc<Session>, Trouble> {
        self.start();
        let mut state = self.shared.state.subscribe();
        let is_known = |state: &State| match state {
            State::Connecting => false,
            State::Up(session) => session.is_alive(),
            State::Down(_) => true,
        };
        let _elapsed = timeout_at(deadline, state.wait_for(is_known)).await;
        self.shared.current()
    }

    /// Why the broker does not read from it for now.
    pub(crate) fn blocked(&self) -> Option<Arc<str>> {
        self.shared.blocked.borrow().clone()
    }

    /// Whether the broker does not read from it for now.
    pub(crate) fn is_blocked(&self) -> bool {
        self.shared.blocked.borrow().is_some()
    }

    /// Waits until the broker reads from it again.
    pub(crate) async fn unblocked(&self) {
        let mut blocked = self.shared.blocked.subscribe();
        // The sender lives as long as the link.
        let _unblocked = blocked.wait_for(Option::is_none).await;
    }

    /// How it is; `None` as long as no one has wanted it.
    pub(crate) fn state(&self) -> Option<ConnectionState> {
        let is_started = self.started.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !is_started {
            return None;
        }
        let shared = &self.shared;
        let (is_up, problem) = match &*shared.state.borrow() {
            State::Up(session) => (session.is_alive(), None),
            State::Connecting => (false, None),
            State::Down(trouble) => (false, Some(trouble.text.as_str().into())),
        };
        Some(ConnectionState {
            name: Arc::clone(&shared.name),
            role: shared.role.into(),
            is_up,
            problem,
            blocked: self.blocked(),
            connects: shared.tally.connects.load(Ordering::Relaxed),
            blocks: shared.tally.blocks.load(Ordering::Relaxed),
        })
    }

    fn start(&self) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if started.is_none() {
            let stop = CancellationToken::new();
            tokio::spawn(run(Arc::clone(&self.shared), stop.clone()));
            *started = Some(stop.drop_guard());
        }
    }
}

// === impl Shared ===

impl Shared {
    fn current(&self) -> Result<Arc<Session>, Trouble> {
        match &*self.state.borrow() {
            State::Up(session) if session.is_alive() => Ok(Arc::clone(session)),
            State::Up(_) | State::Connecting => {
                Err(Trouble::new(format!("connection `{}`: not connected yet", self.name)))
            }
            State::Down(trouble) => Err(trouble.clone()),
        }
    }

    /// Tries every host once, beginning with the `first`th.
    async fn connect(&self, first: usize) -> Result<Session, Trouble> {
        let targets = &self.spec.targets;
        let mut problems = Vec::new();
        let mut last = None;
        for offset in 0..targets.len() {
            let Some(target) = targets.get((first + offset) % targets.len()) else { continue };
            match self.open(target).await {
                Ok(session) => return Ok(session),
                Err(trouble) => {
                    problems.push(trouble.text.clone());
                    last = Some(trouble);
                }
            }
        }
        let mut trouble = last.unwrap_or_else(|| Trouble::new("there is no host"));
        trouble.text = format!("connection `{}`: {}", self.name, problems.join("; "));
        Err(trouble)
    }

    async fn open(&self, target: &Target) -> Result<Session, Trouble> {
        let Target { uri, place, account } = target;
        let limit = self.spec.connect_timeout;
        let deadline = Instant::now() + limit;
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => {
                let config = self.tls().await;
                Some(config.map_err(|error| Trouble::new(format!("{place}: {error}")))?)
            }
        };
        let is_tls = tls.is_some();
        let too_slow = |_elapsed| {
            let text =
                format!("{place}: no connection within {} ms (`connect_timeout_ms`)", limit.as_millis());
            Trouble::new(text)
        };
        let host = &uri.authority.host;
        let (stream, handle) = timeout_at(deadline, stream::connect(host, uri.authority.port, tls))
            .await
            .map_err(too_slow)?
            .map_err(|error| {
                let mend = if is_tls && error.kind() == std::io::ErrorKind::InvalidData {
                    "; is this the port for TLS (5671), and `ca_file` right?"
                } else {
                    "; is the host in `urls` right, and does the broker run?"
                };
                Trouble::new(format!("{place}: {}{mend}", cause(&error)))
            })?;
        // The library asks for its stream by a function that it may call again; there is one stream.
        let stream = Mutex::new(Some(stream));
        let give = async move |_target, _runtime| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream
                .map(AsyncTcpStream::Plain)
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into())
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("gristmill {} {}", self.name, self.role).into())
            .with_client_property("product".into(), "Gristmill".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = async_rs::Runtime::new(Kit::current());
        let connecting = Connection::connector(uri.clone(), runtime, give, properties);
        let connected = match timeout_at(deadline, connecting).await {
            Ok(connected) => connected,
            Err(elapsed) => {
                // The library's thread would wait on.
                handle.cut();
                return Err(too_slow(elapsed));
            }
        };
        match connected {
            Ok(connection) => Ok(Session { connection, stream: handle }),
            Err(error) => {
                handle.cut();
                Err(Trouble::from_connecting(&format!("{place}{account}"), &error, is_tls))
            }
        }
    }

    /// The files are read each time, so that a renewed certificate is used by the next connection.
    async fn tls(&self) -> Result<Arc<ClientConfig>, TlsOrTask> {
        let spec = Arc::clone(&self.spec);
        let read = tokio::task::spawn_blocking(move || spec.tls.read()?.client_config());
        Ok(Arc::new(read.await.map_err(TlsOrTask::Task)?.map_err(TlsOrTask::Tls)?))
    }

    /// Waits until the session is over, and notes what the broker says meanwhile. Gives why it ended, as far as is known.
    async fn watch(&self, session: &Session) -> Option<Trouble> {
        let mut events = Box::pin(session.connection.events_listener());
        let mut problem = None;
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => self.note_blocked(Some(reason.into())),
                    Some(Event::ConnectionUnblocked) => self.note_blocked(None),
                    Some(Event::Error(error)) => {
                        let doing = format!("connection `{}`", self.name);
                        problem = Some(Trouble::from_error(&doing, &error));
                    }
                    Some(_) => {}
                    None => {
                        session.stream.gone().await;
                        return problem;
                    }
                },
                () = session.stream.gone() => return problem,
            }
        }
    }

    fn note_blocked(&self, reason: Option<Arc<str>>) {
        match &reason {
            Some(reason) => {
                self.tally.blocks.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    target: "gristmill::amqp", connection = &*self.name, role = self.role,
                    "the broker takes nothing for now: {reason}; messages wait"
                );
            }
            None if self.blocked.borrow().is_some() => tracing::info!(
                target: "gristmill::amqp", connection = &*self.name, role = self.role,
                "the broker takes messages again"
            ),
            None => {}
        }
        self.blocked.send_replace(reason);
    }
}

/// Why there is no TLS.
#[derive(Debug)]
enum TlsOrTask {
    Tls(TlsError),
    Task(tokio::task::JoinError),
}

impl std::fmt::Display for TlsOrTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Task(error) => error.fmt(f),
        }
    }
}

/// Connects, waits for the end, connects again, until `stop`.
async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut host = 0;
    let mut delay = shared.spec.first_delay;
    let mut said = String::new();
    loop {
        let Some(connected) = unless(&stop, shared.connect(host)).await else { return };
        let trouble = match connected {
            Ok(session) => {
                let session = Arc::new(session);
                shared.tally.connects.fetch_add(1, Ordering::Relaxed);
                delay = shared.spec.first_delay;
                said.clear();
                tracing::info!(
                    target: "gristmill::amqp", connection = &*shared.name, role = shared.role, "connected"
                );
                shared.state.send_replace(State::Up(Arc::clone(&session)));
                let ended = unless(&stop, shared.watch(&session)).await;
                shared.state.send_replace(State::Connecting);
                shared.note_blocked(None);
                let Some(problem) = ended else {
                    session.close().await;
                    return;
                };
                // What broke may be this host: the next one is tried first.
                host += 1;
                problem.unwrap_or_else(|| Trouble::new(format!("connection `{}`: it broke off", shared.name)))
            }
            Err(trouble) => {
                shared.state.send_replace(State::Down(trouble.clone()));
                trouble
            }
        };
        if said != trouble.text {
            tracing::warn!(
                target: "gristmill::amqp", connection = &*shared.name, role = shared.role,
                "{}; it is tried again for ever", trouble.text
            );
            said.clone_from(&trouble.text);
        }
        let wait = delay.mul_f64(1.0 - rand::rng().random_range(0.0..0.5));
        if unless(&stop, tokio::time::sleep(wait)).await.is_none() {
            return;
        }
        delay = (delay * 2).min(shared.spec.longest_delay);
    }
}

/// What the future gives, or `None` when `stop` comes first.
async fn unless<T>(stop: &CancellationToken, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        given = future => Some(given),
    }
}

// === impl Session ===

impl Session {
    /// A new AMQP channel.
    ///
    /// # Errors
    /// The connection is gone, or the broker allows no more.
    pub(crate) async fn channel(&self) -> Result<Channel, Trouble> {
        let opened = self.connection.create_channel().await;
        opened.map_err(|error| Trouble::from_error("opening an AMQP channel", &error))
    }

    /// Whether it is still up, as far as is known.
    pub(crate) fn is_alive(&self) -> bool {
        !self.stream.is_gone() && self.connection.status().connected()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        self.stream.gone().await;
    }

    /// The largest frame, in bytes, which the properties of a message must fit in.
    pub(crate) fn frame_max(&self) -> usize {
        usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX)
    }

    /// Says goodbye and ends.
    async fn close(&self) {
        let _whatever_it_says = timeout(CLOSE_WITHIN, self.connection.close(200, "goodbye".into())).await;
        self.stream.cut();
    }
}
