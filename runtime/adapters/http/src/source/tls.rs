//! TLS of a listener: made ready before anything is touched, and the handshake of each connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gristmill_core::source::SourceError;
use gristmill_tls::{ServerTls, TlsError};
use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What a client can ask for by ALPN (RFC 7301), best first. One that asks for nothing gets HTTP/1.1, or HTTP/2 if that is
/// what it begins with.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why there was no handshake.
pub(super) enum NoHandshake {
    /// It took too long.
    Slow,
    /// What came was no TLS, or no TLS that we take. The other side has been told, and hears no more.
    Failed(TcpStream),
}

/// Reads the files, and makes of them what connections are accepted with.
///
/// # Errors
/// What is wrong with a file.
pub(super) async fn load(tls: ServerTls) -> Result<Arc<ServerConfig>, SourceError> {
    let load = move || -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = tls.read()?.server_config()?;
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    };
    tokio::task::spawn_blocking(load)
        .await
        .map_err(|error| SourceError::new(format!("the files of `tls` were not read: {error}")))?
        .map_err(|error| SourceError::new(error.text()))
}

/// The handshake. Anyone can fail it, so it is worth no more than a word for who looks for it.
pub(super) async fn accept(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, NoHandshake> {
    match timeout(limit, TlsAcceptor::from(config).accept(stream).into_fallible()).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, stream))) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            Err(NoHandshake::Failed(stream))
        }
        Err(_elapsed) => {
            tracing::debug!(%peer, "TLS handshake took longer than {} ms", limit.as_millis());
            Err(NoHandshake::Slow)
        }
    }
}
