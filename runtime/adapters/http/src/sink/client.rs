//! Connection pools, shared by every sink of the process, across flows and their versions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use gristmill_tls::{ClientFiles, TlsError};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// How long connecting may take. What has not been connected has not been sent, so trying again is safe; the timeout of the
/// sink, which is for all of an attempt, leaves that open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection rests in the pool before it is closed. Below what servers and balancers commonly allow (60 s), so
/// that a request seldom meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// How many connections to one host rest in a pool.
const MAX_IDLE_PER_HOST: usize = 64;

/// The most header fields of an answer: as many as hyper reads without asking for memory for them first.
const MAX_ANSWER_HEADERS: usize = 100;

/// The most that HTTP/1.1 buffers of an answer, which is also the most bytes that its head may have.
const MAX_BUFFER_BYTES: usize = 256 * 1024;

/// Every pool of the process that some sink holds.
#[derive(Default)]
pub(crate) struct Clients {
    pools: Mutex<HashMap<ClientKind, Weak<Client>>>,
}

/// What a pool speaks. `tls` is `None` for sinks that never need it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClientKind {
    pub(crate) tls: Option<ClientFiles>,
    pub(crate) http2: bool,
}

/// A pool.
pub(crate) enum Client {
    Plain(legacy::Client<HttpConnector, Full<Bytes>>),
    Tls(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

// === impl Clients ===

impl Clients {
    /// The pool of this kind, made when it is first wanted. Blocks, for making one with TLS reads certificates.
    ///
    /// # Errors
    /// When the certificates are not there or not good.
    pub(crate) fn get(&self, kind: ClientKind) -> Result<Arc<Client>, TlsError> {
        if let Some(client) = self.pools().get(&kind).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let made = Arc::new(Client::new(&kind)?);
        let mut pools = self.pools();
        pools.retain(|_, client| client.strong_count() > 0);
        // Another may have made one meanwhile.
        if let Some(client) = pools.get(&kind).and_then(Weak::upgrade) {
            return Ok(client);
        }
        pools.insert(kind, Arc::downgrade(&made));
        Ok(made)
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, HashMap<ClientKind, Weak<Client>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Client ===

impl Client {
    fn new(kind: &ClientKind) -> Result<Self, TlsError> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .http1_max_headers(MAX_ANSWER_HEADERS)
            .http1_max_buf_size(MAX_BUFFER_BYTES)
            .http2_max_header_list_size(MAX_BUFFER_BYTES as u32);
        let Some(tls) = &kind.tls else {
            return Ok(Self::Plain(builder.http2_only(kind.http2).build(connector)));
        };
        connector.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls.client_config()?).https_or_http();
        let https = if kind.http2 {
            https.enable_all_versions().wrap_connector(connector)
        } else {
            https.enable_http1().wrap_connector(connector)
        };
        Ok(Self::Tls(builder.build(https)))
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn request(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, legacy::Error> {
        match self {
            Self::Plain(client) => client.request(request).await,
            Self::Tls(client) => client.request(request).await,
        }
    }
}
