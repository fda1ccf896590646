//! The admin listener: health and metrics over HTTP/1.1. It has no authentication, and is on loopback unless it is said
//! otherwise. A management API hangs its routes in [`answer`].

mod health;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use gristmill_engine::runtime::{FlowState, Runtime};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Metrics;

/// How long a client may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may stay connected: one that does not read must not keep its place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How many clients may be connected at once.
const MAX_CONNECTIONS: usize = 64;

/// What the admin listener shows.
pub(crate) struct Admin {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) metrics: Metrics,
    /// Set once the flows that were there at the start have been loaded, or refused.
    pub(crate) loaded: CancellationToken,
    /// Set once the runtime has begun to shut down.
    pub(crate) draining: CancellationToken,
    /// Of the configuration as it is now.
    pub(crate) configuration_refused: Refusal,
    /// Of the folder of flows as it is now.
    pub(crate) flows_refused: Refusal,
}

/// Why what there is now was refused, while what was there before goes on.
#[derive(Default)]
pub(crate) struct Refusal(Mutex<Option<String>>);

/// An admin listener that has its address, and does not answer yet.
pub(crate) struct BoundListener(TcpListener);

/// A running admin listener; stops when dropped.
pub(crate) struct AdminListener {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

// === impl Refusal ===

impl Refusal {
    /// Why; `None` when nothing was refused.
    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it, and gives what it was.
    pub(crate) fn set(&self, why: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), why)
    }
}

// === impl BoundListener ===

impl BoundListener {
    /// Binds. `own` is the address that this runtime's admin listener has already.
    ///
    /// # Errors
    /// When the address cannot be bound, with what to do.
    pub(crate) async fn bind(address: SocketAddr, own: Option<SocketAddr>) -> Result<Self, String> {
        TcpListener::bind(address).await.map(Self).map_err(|e| bind_error(address, own, &e))
    }

    /// Begins to answer.
    ///
    /// # Errors
    /// When the system does not tell its address.
    pub(crate) fn serve(self, admin: Arc<Admin>) -> Result<AdminListener, String> {
        let address = self.0.local_addr().map_err(|e| format!("the admin listener has no address: {e}"))?;
        let stop = CancellationToken::new();
        tokio::spawn(serve(self.0, admin, stop.clone()));
        Ok(AdminListener { address, _stop: stop.drop_guard() })
    }
}

fn bind_error(address: SocketAddr, own: Option<SocketAddr>, error: &io::Error) -> String {
    let in_use = error.kind() == io::ErrorKind::AddrInUse;
    let mend = match own {
        Some(own) if in_use && own.port() == address.port() => {
            format!("this runtime's own admin listener has that port, at {own}: take another port, or restart")
        }
        _ if in_use => "a flow of this runtime or another process listens on it (`ss -ltnp` names the process): set another \
             with `--admin` or `admin.listen`, or `off`"
            .to_owned(),
        _ => "set another with `--admin` or `admin.listen`, or `off`".to_owned(),
    };
    format!("the admin listener cannot use {address}: {error}; {mend}")
}

async fn serve(listener: TcpListener, admin: Arc<Admin>, stop: CancellationToken) {
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: waiting is all that can be done.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        let stop = stop.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(answer(&request, &admin)) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // What goes wrong with a client's connection is the client's to see.
                _closed = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {}
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n");
    }
    match request.uri().path() {
        "/health/live" => text(StatusCode::OK, "live\n"),
        "/health/ready" => health::ready(admin, request.uri().query()),
        "/metrics" => metrics(admin),
        _ => text(StatusCode::NOT_FOUND, "known here: /health/live, /health/ready, /metrics\n"),
    }
}

fn metrics(admin: &Admin) -> Response<Full<Bytes>> {
    admin.metrics.forget_states();
    for flow in admin.runtime.status() {
        if let Some(id) = &flow.flow {
            let up = matches!(flow.state, FlowState::Running | FlowState::Finished);
            admin.metrics.note_flow(id, up, flow.in_flight);
        }
    }
    for (adapter, state) in admin.runtime.connection_states() {
        admin.metrics.note_connection(adapter, &state);
    }
    match admin.metrics.encode() {
        Ok(body) => {
            with_type("application/openmetrics-text; version=1.0.0; charset=utf-8", StatusCode::OK, body)
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    with_type("text/plain; charset=utf-8", status, body)
}

fn with_type(
    content_type: &'static str,
    status: StatusCode,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_the_port_is_said() {
        let taken = BoundListener::bind(([127, 0, 0, 1], 0).into(), None).await.ok().unwrap();
        let own = taken.0.local_addr().unwrap();
        let refused =
            async |own| BoundListener::bind(taken.0.local_addr().unwrap(), own).await.err().unwrap();
        let everywhere = SocketAddr::from(([0, 0, 0, 0], own.port()));
        let said = BoundListener::bind(everywhere, Some(own)).await.err().unwrap();
        assert!(said.contains(&format!("own admin listener has that port, at {own}")), "{said}");
        for other in [None, Some(SocketAddr::from(([127, 0, 0, 1], 1)))] {
            let said = refused(other).await;
            assert!(said.contains("a flow of this runtime or another process"), "{said}");
        }
    }
}
