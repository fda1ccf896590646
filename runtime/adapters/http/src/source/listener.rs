//! Listeners: one per address, shared by every flow that names it, open from the first route to the last.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use gristmill_core::source::SourceError;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Notify,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    address::{self, ListenAddress},
    connection,
    table::{Registration, Table},
};

/// How many connections the system keeps for us that we have not accepted yet.
const BACKLOG: u32 = 1_024;

/// How long to wait before accepting again when the system has no more file descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Every listener of the process.
#[derive(Default)]
pub(crate) struct Listeners {
    known: Mutex<HashMap<SocketAddr, Known>>,
    /// Every connection there is.
    connections: TaskTracker,
}

struct Known {
    listener: Weak<Listener>,
    /// What is really listened on.
    bound: SocketAddr,
    /// The same as it is shown.
    shown: String,
    /// The address can be bound again.
    closed: CancellationToken,
}

/// An address that is listened on. Every source on it and every prepared one holds it; with the last of them the socket is
/// closed, and its connections end when they have answered what they were asked.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    /// The first route has come: connections are accepted from now on. Until then the system keeps them waiting.
    opened: CancellationToken,
    stop: CancellationToken,
}

/// What a listener shares with its connections.
pub(crate) struct Shared {
    pub(crate) table: ArcSwap<Table>,
    /// What connections are accepted with from now on: that of the route that was put in last. All routes want the same
    /// files (see `conflict`), and the last to come has read them last.
    pub(crate) tls: ArcSwapOption<ServerConfig>,
    address: SocketAddr,
    /// The address as it is shown.
    shown: String,
    registrations: Mutex<Vec<(u64, Arc<Registration>)>>,
    next_id: AtomicU64,
    connections: AtomicUsize,
    /// How many bytes all connections hold, see `budget`.
    pub(crate) held: Arc<AtomicUsize>,
    /// Those of all listeners.
    all_connections: TaskTracker,
    /// A connection has ended, or more are allowed now.
    room: Notify,
}

/// A route's place in the table of its listener. Dropping it takes the route out.
pub(crate) struct RouteGuard {
    listener: Arc<Listener>,
    id: u64,
}

/// One of the places for connections. Dropping it frees it.
pub(crate) struct ConnectionGuard {
    shared: Arc<Shared>,
    _one_of_all: TaskTrackerToken,
}

// === impl Listeners ===

impl Listeners {
    /// The listener of this address, bound if it is not yet.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) async fn attach(&self, listen: &ListenAddress) -> Result<Arc<Listener>, SourceError> {
        loop {
            let closing = {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.retain(|_, listener| !listener.closed.is_cancelled());
                if let Some(listener) = known.get(&listen.socket).and_then(|there| there.listener.upgrade()) {
                    return Ok(listener);
                }
                let (open, closing): (Vec<&Known>, Vec<&Known>) = known
                    .iter()
                    .filter(|(configured, there)| {
                        **configured == listen.socket || there.is_in_the_way_of(listen.socket)
                    })
                    .map(|(_, there)| there)
                    .partition(|there| there.listener.strong_count() > 0);
                match (open.first(), closing.first()) {
                    // Its last route went a moment ago.
                    (None, Some(there)) => there.closed.clone(),
                    (ours, _) => {
                        let socket = bind(listen.socket)
                            .map_err(|error| bind_error(listen, &error, ours.map(|there| &*there.shown)))?;
                        let closed = CancellationToken::new();
                        let listener =
                            Listener::open(listen, socket, closed.clone(), self.connections.clone());
                        let Shared { address: bound, shown, .. } = &*listener.shared;
                        let (bound, shown) = (*bound, shown.clone());
                        let there = Known { listener: Arc::downgrade(&listener), bound, shown, closed };
                        known.insert(listen.socket, there);
                        return Ok(listener);
                    }
                }
            };
            closing.cancelled().await;
        }
    }

    /// Waits until every connection has ended. They end when their listener has.
    pub(crate) async fn finished(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// The address that is really listened on for a configured one, if any: they differ when the port is 0.
    pub(crate) fn bound(&self, configured: SocketAddr) -> Option<SocketAddr> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&configured)?.listener.upgrade().map(|listener| listener.shared.address)
    }
}

impl Known {
    fn is_in_the_way_of(&self, address: SocketAddr) -> bool {
        self.bound == address || address::exclude(self.bound, address)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // So that a restart need not wait for the old connections' last packets. On Windows it would let two processes share
    // the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// `ours` is a listener of this process that is in the way. The one of `admin.listen` is not known here.
fn bind_error(listen: &ListenAddress, error: &io::Error, ours: Option<&str>) -> SourceError {
    let mend = match error.kind() {
        io::ErrorKind::AddrInUse => match ours {
            Some(ours) => &*format!(
                "flows of this runtime listen on {ours}: write the same `listen` in all of them, or take another port \
                 (to go from one to the other, remove the flow and bring it back)"
            ),
            None => {
                "another process listens on it (`ss -ltnp` names it), or this runtime itself by `admin.listen`: \
                 stop that one or change `listen`"
            }
        },
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: change `listen`",
        io::ErrorKind::PermissionDenied => {
            "this user may not: take a port of 1024 or above, or grant CAP_NET_BIND_SERVICE"
        }
        _ => "change `listen` or what is in the way",
    };
    SourceError::new(format!("cannot listen on {listen}: {error}; {mend}"))
}

// === impl Listener ===

impl Listener {
    fn open(
        configured: &ListenAddress,
        socket: TcpListener,
        closed: CancellationToken,
        all_connections: TaskTracker,
    ) -> Arc<Self> {
        let address = socket.local_addr().unwrap_or(configured.socket);
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(Table::default()),
            tls: ArcSwapOption::empty(),
            address,
            shown: configured.shown_when_bound(address),
            registrations: Mutex::default(),
            next_id: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            held: Arc::default(),
            all_connections,
            room: Notify::new(),
        });
        let (opened, stop) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(accept(socket, Arc::clone(&shared), opened.clone(), stop.clone(), closed));
        Arc::new(Self { shared, opened, stop })
    }

    /// Puts a route into the table: from now on requests reach its endpoint, and connections are accepted with this TLS.
    pub(crate) fn insert(
        self: &Arc<Self>,
        registration: Registration,
        tls: Option<Arc<ServerConfig>>,
    ) -> RouteGuard {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let scheme = if tls.is_some() { "HTTPS" } else { "HTTP" };
        self.shared.tls.store(tls);
        self.shared.change(|registrations| registrations.push((id, Arc::new(registration))));
        if !self.opened.is_cancelled() {
            tracing::info!(address = %self.shared.shown, "listening for {scheme}");
            self.opened.cancel();
        }
        RouteGuard { listener: Arc::clone(self), id }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

// === impl RouteGuard ===

impl RouteGuard {
    /// Puts another route in the place of this one, in one step. Connections that there are stay as they are.
    pub(crate) fn replace(&self, registration: Registration, tls: Option<Arc<ServerConfig>>) {
        self.listener.shared.tls.store(tls);
        self.listener.shared.change(|registrations| {
            if let Some((_, old)) = registrations.iter_mut().find(|(id, _)| *id == self.id) {
                *old = Arc::new(registration);
            }
        });
    }

    /// Whether the route hangs on this listener.
    pub(crate) fn is_on(&self, listener: &Arc<Listener>) -> bool {
        Arc::ptr_eq(&self.listener, listener)
    }
}

impl Drop for RouteGuard {
    fn drop(&mut self) {
        self.listener.shared.change(|registrations| registrations.retain(|(id, _)| *id != self.id));
    }
}

// === impl Shared ===

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Vec<(u64, Arc<Registration>)>)) {
        let mut registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut registrations);
        self.table.store(Arc::new(Table::new(registrations.iter().map(|(_, registration)| registration))));
        self.room.notify_one();
    }

    /// Waits for a place for one more connection. Only the accepting task asks, so the place cannot be lost to another.
    async fn room(self: &Arc<Self>) -> ConnectionGuard {
        while self.connections.load(Ordering::Acquire) >= self.table.load().limits.max_connections {
            self.room.notified().await;
        }
        self.connections.fetch_add(1, Ordering::AcqRel);
        ConnectionGuard { shared: Arc::clone(self), _one_of_all: self.all_connections.token() }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::AcqRel);
        self.shared.room.notify_one();
    }
}

/// Accepts connections until it is told to stop; then closes the socket and tells that it is closed, in this order, also
/// when it panics.
async fn accept(
    socket: TcpListener,
    shared: Arc<Shared>,
    opened: CancellationToken,
    stop: CancellationToken,
    closed: CancellationToken,
) {
    let _closed = closed.drop_guard();
    let socket = socket;
    let accepting = async {
        opened.cancelled().await;
        loop {
            let guard = shared.room().await;
            match socket.accept().await {
                Ok((stream, peer)) => {
                    tokio::spawn(connection::serve(stream, peer, Arc::clone(&shared), stop.clone(), guard));
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    drop(guard);
                    tracing::warn!(address = %shared.shown, %error, "cannot accept connections for now");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
    }
}

/// Whether accepting failed because of that one connection, and the next may succeed at once.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
