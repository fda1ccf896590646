//! The floor: what someone would write who needs this one route and nothing else.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::post,
    serve::ListenerExt,
};
use bench_rename::rename;
use tokio::net::TcpListener;

use super::PATH;

/// Serves until it is killed.
pub(crate) fn serve(listen: SocketAddr) -> Result<()> {
    serve_routes(listen, routes())
}

/// Serves these routes until it is killed.
pub(crate) fn serve_routes(listen: SocketAddr, routes: Router) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                eprintln!("cannot set TCP_NODELAY: {error}");
            }
        });
        Ok(axum::serve(listener, routes).await?)
    })
}

/// The one route.
fn routes() -> Router {
    Router::new().route(PATH, post(orders))
}

async fn orders(body: Bytes) -> Result<impl IntoResponse, StatusCode> {
    let renamed = rename(&body).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
    Ok(([(CONTENT_TYPE, "application/json")], renamed))
}
