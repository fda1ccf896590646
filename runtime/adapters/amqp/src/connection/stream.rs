//! The stream below a connection: plain or TLS, and ours, so that it can be cut off at any time and tells when the client
//! library has let it go.
//!
//! What is read passes through [`Inbound`], which mends what the library could not bear.
//!
//! The library takes its streams from a runtime of its own traits. Its TLS would bring another crypto library and its own way to
//! read certificates, so [`Kit`] is a runtime whose streams are made here.

use std::{
    future::Future,
    io::{self, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{
    Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::{
    compat::TokioAsyncReadCompatExt as _,
    sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned},
};

use super::inbound::Inbound;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// tokio, with the streams of this module.
#[derive(Debug, Clone)]
pub(crate) struct Kit(Tokio);

/// A stream to a broker.
pub(crate) struct BrokerStream {
    inner: Pin<Box<dyn Io>>,
    inbound: Inbound,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _gone: DropGuard,
}

/// What is kept of a stream that the client library has.
#[derive(Debug, Clone)]
pub(crate) struct StreamHandle {
    cut: CancellationToken,
    gone: CancellationToken,
}

trait Io: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// Connects to `host`, with TLS if there is a configuration for it.
///
/// # Errors
/// The name is not known, no one listens there, the certificate is not good.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
) -> io::Result<(BrokerStream, StreamHandle)> {
    // The brackets of an IPv6 address belong to the URL.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let inner: Pin<Box<dyn Io>> = match tls {
        None => Box::pin(tcp.compat()),
        Some(config) => {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| io::Error::other("its name can stand in no certificate"))?;
            Box::pin(TlsConnector::from(config).connect(name, tcp).await?.compat())
        }
    };
    let (cut, gone) = (CancellationToken::new(), CancellationToken::new());
    let handle = StreamHandle { cut: cut.clone(), gone: gone.clone() };
    let (inbound, cut) = (Inbound::default(), Box::pin(cut.cancelled_owned()));
    Ok((BrokerStream { inner, inbound, cut, _gone: gone.drop_guard() }, handle))
}

// === impl StreamHandle ===

impl StreamHandle {
    /// From now on reading and writing fail, which ends the library's connection even when it waits for a broker that
    /// answers nothing.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until the library has let the stream go, whatever the reason.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether it has.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }
}

// === impl BrokerStream ===

impl BrokerStream {
    /// An error once the stream is cut; arranges to be woken then.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up"))
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for BrokerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let Self { inner, inbound, .. } = &mut *self;
        loop {
            let count = inbound.read(buffer);
            if count > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(count));
            }
            let bytes = inbound.buffer();
            let before = bytes.len();
            bytes.resize(before + READ_BYTES, 0);
            let read = inner.as_mut().poll_read(cx, bytes.get_mut(before..).unwrap_or_default());
            bytes.truncate(before + if let Poll::Ready(Ok(count)) = &read { *count } else { 0 });
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(0));
            }
            inbound.came().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        }
    }
}

impl AsyncWrite for BrokerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Not woken by a cut: the reading side always waits as well, and has one waker.
        self.inner.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // AMQP says its own goodbye; a peer that does not read must not hold up the end.
        Poll::Ready(Ok(()))
    }
}

// === impl Kit ===

impl Kit {
    /// On the runtime that this is called on.
    pub(crate) fn current() -> Self {
        Self(Tokio::current())
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = BrokerStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Never asked, as the library connects through [`connect`] alone.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<BrokerStream, _>(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    /// Never asked: [`connect`] makes the stream before the library is given it.
    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::Error::from(io::ErrorKind::Unsupported)))
    }
}
