//! The admin listener: health and metrics over HTTP/1.1. It has no authentication, and is on loopback unless it is said
//! otherwise. A management API hangs its routes in [`answer`].

mod health;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
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
    /// Why the configuration as it is now was refused.
    pub(crate) configuration_refused: Mutex<Option<String>>,
}

/// A running admin listener; stops when dropped.
pub(crate) struct AdminListener {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

/// Binds and serves.
///
/// # Errors
/// When the address cannot be bound, with what to do.
pub(crate) async fn listen(address: SocketAddr, admin: Arc<Admin>) -> Result<AdminListener, String> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        format!("the admin listener cannot use {address}: {e}; set another with `--admin` or `admin.listen`, or `off`")
    })?;
    let address = listener.local_addr().map_err(|e| format!("the admin listener has no address: {e}"))?;
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, admin, stop.clone()));
    Ok(AdminListener { address, _stop: stop.drop_guard() })
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
    admin.metrics.forget_flows();
    for flow in admin.runtime.status() {
        if let Some(id) = &flow.flow {
            let up = matches!(flow.state, FlowState::Running | FlowState::Finished);
            admin.metrics.note_flow(id, up, flow.in_flight);
        }
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
