//! The floor, and what stands behind both.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Request, StatusCode, Uri, header::CONTENT_TYPE, header::HOST},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::http::{PATH, serve_routes};

/// As many connections rest in the pool as the load has.
const MAX_IDLE: usize = 64;

#[derive(Clone)]
struct Forwarder {
    client: Client<HttpConnector, Body>,
    upstream: Uri,
}

/// Forwards every request to the upstream, with connections that are kept, and the answer back, without looking at either.
/// Until it is killed.
pub(crate) fn serve_forwarder(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(MAX_IDLE).build(connector);
    let upstream = format!("http://{upstream}{PATH}").parse().context("the upstream is no URL")?;
    serve_routes(listen, Router::new().route(PATH, post(forward)).with_state(Forwarder { client, upstream }))
}

async fn forward(
    State(forwarder): State<Forwarder>,
    mut request: Request<Body>,
) -> Result<Response, StatusCode> {
    *request.uri_mut() = forwarder.upstream.clone();
    // That of the upstream is set by the client.
    request.headers_mut().remove(HOST);
    let answer = forwarder.client.request(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok(answer.map(Body::new))
}

/// The upstream: answers with what it was sent, until it is killed.
pub(crate) fn serve_echo(listen: SocketAddr) -> Result<()> {
    serve_routes(listen, Router::new().route(PATH, post(echo)))
}

async fn echo(body: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], body)
}
