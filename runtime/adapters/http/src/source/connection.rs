//! One connection: HTTP/1.1 or HTTP/2, over TLS if its listener has it, watched so that one that rests too long, or trickles the head
//! of a request, is closed.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Version};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    budget::Account,
    listener::{ConnectionGuard, Shared},
    request,
    table::{HeaderLimits, Table},
    tls::{self, NoHandshake},
};

/// How many requests of one HTTP/2 connection are served at once.
const MAX_STREAMS: u32 = 64;

/// How much a request line may add to the headers, in bytes. RFC 9112 section 3 asks for 8000 at the least.
const REQUEST_LINE_BYTES: usize = 16 * 1024;

/// What HTTP/2 counts for each header field besides its name and value, in bytes.
const HTTP2_FIELD_BYTES: usize = 32;

/// The most header fields of a head over HTTP/1.1, whatever the flows take. Above what `limits.headers` can be, and below the
/// 24,576 that the map of headers can hold.
const MAX_FIELDS: usize = 16 * 1024;

/// How long a connection that was told to end may take, and how long what a sender still sends after our last word is read
/// and thrown away: closing at once would take the answer away from it.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// What happens on a connection, in milliseconds since it began.
struct Activity {
    began: Instant,
    /// Requests that are being served.
    active: AtomicUsize,
    /// The last time that a request ended or bytes were written.
    progress: AtomicU64,
    /// When the first byte of the next request's head came; 0 when none has come.
    head_since: AtomicU64,
    /// Whether a request has been seen.
    greeted: AtomicBool,
    /// Whether it speaks HTTP/2, where bytes also come when nothing is asked.
    is_http2: AtomicBool,
}

/// One request that is being served.
struct Active(Arc<Activity>);

/// What is to be done with a connection.
enum Verdict {
    LookAgain(Instant),
    /// It rests: say good-bye.
    Rests,
    /// The head of a request takes too long: no word more.
    Trickles,
}

/// What HTTP is spoken over.
type Transport = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// What HTTP is spoken over, noting what happens on it.
struct Watched {
    stream: Transport,
    activity: Arc<Activity>,
    lingering: Option<Pin<Box<Sleep>>>,
}

/// Serves a connection to its end. `stop` says that the listener is going: requests under way are answered, no further
/// ones are taken.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    guard: ConnectionGuard,
) {
    let _guard = guard;
    // An answer is one small write; waiting for more to send would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let secured = tokio::select! {
        secured = secure(stream, peer, &shared) => secured,
        () = stop.cancelled() => return,
    };
    let Some(stream) = secured else { return };
    let table = shared.table.load_full();
    let header_read_timeout = Duration::from_millis(table.limits.header_read_timeout_ms);
    let keep_alive = Duration::from_millis(table.limits.keep_alive_ms);
    let activity = Arc::new(Activity::new());
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let account = Account::new(Arc::clone(&shared.held));
    let peer_address: Arc<str> = peer.ip().to_canonical().to_string().into();
    let service = service_fn(|request: Request<Incoming>| {
        let active = activity.begin(request.version());
        let (shared, account) = (Arc::clone(&shared), Arc::clone(&account));
        let peer_address = Arc::clone(&peer_address);
        async move {
            let response = request::serve(&shared.table, &account, &peer_address, request).await;
            drop(active);
            Ok::<_, Infallible>(response)
        }
    });
    let builder = builder(&table);
    drop(table);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut alarm = pin!(sleep_until(activity.began + header_read_timeout.min(keep_alive)));
    let mut ending = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = alarm.as_mut() => match activity.verdict(header_read_timeout, keep_alive) {
                Verdict::LookAgain(at) => alarm.as_mut().reset(at),
                Verdict::Rests if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    alarm.as_mut().reset(Instant::now() + LINGER);
                }
                Verdict::Rests | Verdict::Trickles => return,
            },
        }
    }
}

/// The handshake, if the listener has TLS. `None` when the connection is over.
async fn secure(stream: TcpStream, peer: SocketAddr, shared: &Shared) -> Option<Transport> {
    let Some(config) = shared.tls.load_full() else { return Some(Either::Left(stream)) };
    let limit = Duration::from_millis(shared.table.load().limits.header_read_timeout_ms);
    match tls::accept(config, stream, peer, limit).await {
        Ok(stream) => Some(Either::Right(Box::new(stream))),
        Err(NoHandshake::Slow) => None,
        Err(NoHandshake::Failed(stream)) => {
            let mut stream = Watched::new(Either::Left(stream), Arc::new(Activity::new()));
            // The other side may be gone, and then there is nothing to close.
            let _ = stream.shutdown().await;
            None
        }
    }
}

fn builder(table: &Table) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Hyper's own limit does not tell a slow head from a connection that rests.
        .header_read_timeout(None)
        .max_headers(most_fields(table.headers))
        .max_buf_size(table.headers.bytes + REQUEST_LINE_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(table.headers.bytes + REQUEST_LINE_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// How many header fields a head over HTTP/1.1 may have before nobody looks at it: as many as HTTP/2 lets in on the same bytes, for
/// it counts 32 more for each (RFC 9113 section 10.5.1). A head with more than a flow takes, but not more than this, is refused
/// by the flow, and so with a problem document and in its metrics.
fn most_fields(headers: HeaderLimits) -> usize {
    let fields = (headers.bytes + REQUEST_LINE_BYTES) / HTTP2_FIELD_BYTES;
    fields.max(headers.count + 1).min(MAX_FIELDS)
}

// === impl Activity ===

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            active: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            greeted: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
        }
    }

    /// Never 0, which means never.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn at(&self, millis: u64) -> Instant {
        self.began + Duration::from_millis(millis)
    }

    fn begin(self: &Arc<Self>, version: Version) -> Active {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.head_since.store(0, Ordering::Release);
        self.greeted.store(true, Ordering::Release);
        self.is_http2.store(version == Version::HTTP_2, Ordering::Release);
        Active(Arc::clone(self))
    }

    fn has_read(&self) {
        if self.active.load(Ordering::Acquire) == 0 && self.head_since.load(Ordering::Acquire) == 0 {
            self.head_since.store(self.now(), Ordering::Release);
        }
    }

    fn has_progressed(&self) {
        self.progress.store(self.now(), Ordering::Release);
    }

    fn verdict(&self, header_read_timeout: Duration, keep_alive: Duration) -> Verdict {
        let now = Instant::now();
        if self.active.load(Ordering::Acquire) > 0 {
            return Verdict::LookAgain(now + header_read_timeout.min(keep_alive));
        }
        let head_since = match self.head_since.load(Ordering::Acquire) {
            // Before the first request, silence is a head that does not come.
            _ if !self.greeted.load(Ordering::Acquire) => Some(self.began),
            0 => None,
            _ if self.is_http2.load(Ordering::Acquire) => None,
            millis => Some(self.at(millis)),
        };
        let (deadline, late) = match head_since {
            Some(since) => (since + header_read_timeout, Verdict::Trickles),
            None => (self.at(self.progress.load(Ordering::Acquire)) + keep_alive, Verdict::Rests),
        };
        if deadline <= now {
            return late;
        }
        // A head may begin right after this look, so never look away for longer than a head may take.
        Verdict::LookAgain(deadline.min(now + header_read_timeout))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.has_progressed();
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Watched ===

impl Watched {
    fn new(stream: Transport, activity: Arc<Activity>) -> Self {
        Self { stream, activity, lingering: None }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.activity.has_progressed();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.activity.has_progressed();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says that nothing more will come, and then reads what the other side still sends, for a while.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.lingering = Some(Box::pin(sleep_until(Instant::now() + LINGER)));
        }
        let this = &mut *self;
        if let Some(alarm) = &mut this.lingering
            && alarm.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        let mut waste = [0; 8 * 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
