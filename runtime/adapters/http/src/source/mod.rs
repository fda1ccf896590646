//! The source: requests come in, deliveries go to the flow, the settlement is the answer.
//!
//! A request finds its endpoint by the table of its listener. Listener, endpoint and place in the table outlive the
//! versions of a flow: a reload swaps the settings under them, so that no request is refused.

mod address;
mod answer;
mod budget;
mod connection;
mod endpoint;
mod listener;
mod path;
mod problem;
mod request;
mod signature;
mod spec;
mod table;
mod tls;

use std::{any::Any, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use gristmill_core::{
    Delivery,
    adapter::Checker,
    config::Node,
    source::{Claim, EndpointContext, Order, PreparedSource, Source, SourceError, SourceSpec, TakeOverError},
};
use gristmill_tls::ServerTls;
use rustls::ServerConfig;
use tokio::sync::mpsc;

use self::{
    endpoint::{Endpoint, Settings},
    listener::{Listener, RouteGuard},
    spec::{CheckedSource, Route},
    table::{HeaderLimits, Registration},
};

pub(crate) use self::listener::Listeners;

/// Checked configuration of a source, with the listeners that it can use.
pub(crate) struct HttpSourceSpec {
    checked: CheckedSource,
    listeners: Arc<Listeners>,
}

/// A source that has its listener, and not yet its route.
struct PreparedHttpSource {
    listener: Arc<Listener>,
    route: Arc<Route>,
    settings: Settings,
    /// Of the listener, from the moment on at which the route is in place.
    tls: Option<Arc<ServerConfig>>,
}

/// A running source.
struct HttpSource {
    /// `None` once it is closed.
    route: Option<RouteGuard>,
    endpoint: Arc<Endpoint>,
    queue: mpsc::UnboundedReceiver<Delivery>,
}

/// Checks the configuration of a source. `None` when there are mistakes.
pub(crate) fn check(
    node: &Node,
    checker: &mut Checker<'_>,
    listeners: &Arc<Listeners>,
) -> Option<HttpSourceSpec> {
    let checked = spec::check(node, checker)?;
    Some(HttpSourceSpec { checked, listeners: Arc::clone(listeners) })
}

// === impl HttpSourceSpec ===

#[async_trait]
impl SourceSpec for HttpSourceSpec {
    fn identity(&self) -> String {
        self.checked.route.place()
    }

    fn claims(&self) -> Vec<Claim> {
        self.checked.route.claims().collect()
    }

    /// An address that includes another leaves it no room. And nobody knows for which flow a connection is when it begins,
    /// so all flows of a listener have one TLS.
    fn conflict(&self, other: &dyn SourceSpec) -> Option<String> {
        let other: &dyn Any = other;
        let other = &other.downcast_ref::<Self>()?.checked;
        let listen = &self.checked.route.listen;
        if address::exclude(listen.socket, other.route.listen.socket) {
            return Some(format!(
                "this flow listens on {listen} and another on {}, and one of the two includes the other: \
                 write the same `listen` in both, or take another port",
                other.route.listen,
            ));
        }
        let files = |tls: &Option<ServerTls>| tls.as_ref().map(ServerTls::paths);
        let is_conflict =
            listen.socket == other.route.listen.socket && files(&self.checked.tls) != files(&other.tls);
        is_conflict
            .then(|| format!("flows that listen on {listen} have the same `tls`, and this one has another"))
    }

    fn excludes(&self, listener: SocketAddr) -> bool {
        let listen = self.checked.route.listen.socket;
        listen.port() != 0 && (listen == listener || address::exclude(listen, listener))
    }

    fn configuration_files(&self) -> Vec<PathBuf> {
        self.checked.tls.as_ref().map(ServerTls::paths).unwrap_or_default()
    }

    fn order(&self) -> Order {
        Order::None
    }

    fn keeps_rejected(&self) -> bool {
        true
    }

    fn replies(&self) -> bool {
        true
    }

    async fn prepare(&self, context: EndpointContext) -> Result<Box<dyn PreparedSource>, SourceError> {
        let CheckedSource { route, read_timeout_ms, answer_timeout_ms, keep_credentials, signature, tls } =
            self.checked.clone();
        let tls = match tls {
            Some(tls) => Some(tls::load(tls).await?),
            None => None,
        };
        let listener = self.listeners.attach(&route.listen).await?;
        let settings = Settings {
            read_timeout: Duration::from_millis(read_timeout_ms),
            answer_timeout: Duration::from_millis(answer_timeout_ms),
            keep_credentials,
            signature,
            context,
        };
        Ok(Box::new(PreparedHttpSource { listener, route, settings, tls }))
    }
}

impl std::fmt::Debug for HttpSourceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HttpSourceSpec").field(&self.checked).finish()
    }
}

// === impl PreparedHttpSource ===

#[async_trait]
impl PreparedSource for PreparedHttpSource {
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError> {
        let Self { listener, route, settings, tls } = *self;
        let headers = HeaderLimits::of(&settings);
        let (endpoint, queue) = Endpoint::new(settings);
        let registration = Registration { route, headers, endpoint: Arc::clone(&endpoint) };
        let route = Some(listener.insert(registration, tls));
        Ok(Box::new(HttpSource { route, endpoint, queue }))
    }

    async fn take_over(self: Box<Self>, mut old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError> {
        let here: &mut dyn Any = &mut *old;
        let Some(source) = here.downcast_mut::<HttpSource>() else {
            let error = SourceError::new("an HTTP source can only take over from an HTTP source");
            return Err(TakeOverError { old, error });
        };
        let Some(guard) = &source.route else {
            let error = SourceError::new("the source to take over from is closed");
            return Err(TakeOverError { old, error });
        };
        let Self { listener, route, settings, tls } = *self;
        let headers = HeaderLimits::of(&settings);
        // Settings first: they answer by themselves for every method that the table can send them.
        source.endpoint.attach(settings);
        let registration = Registration { route, headers, endpoint: Arc::clone(&source.endpoint) };
        if guard.is_on(&listener) {
            guard.replace(registration, tls);
        } else {
            // The address is from a file (`${file:…}`) and now another one: the new route is there before the old one goes.
            source.route = Some(listener.insert(registration, tls));
        }
        Ok(old)
    }
}

impl HeaderLimits {
    fn of(settings: &Settings) -> Self {
        let limits = &settings.context.limits;
        Self { count: limits.headers, bytes: limits.header_bytes }
    }
}

// === impl HttpSource ===

#[async_trait]
impl Source for HttpSource {
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError> {
        Ok(self.queue.recv().await)
    }

    fn ready(&mut self) -> Option<Delivery> {
        self.queue.try_recv().ok()
    }

    fn pause(&mut self, reason: Option<&str>) {
        self.endpoint.set_paused(reason.is_some());
    }

    async fn close(&mut self) {
        // First out of the table, so that a request that finds the endpoint closed finds another one, or none.
        self.route = None;
        self.endpoint.close();
    }
}

impl Drop for HttpSource {
    fn drop(&mut self) {
        self.route = None;
        self.endpoint.close();
    }
}
