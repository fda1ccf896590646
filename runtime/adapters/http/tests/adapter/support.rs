//! What the tests share: an adapter with a flow in a few lines, clients, and servers that follow a script.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gristmill_core::{
    Delivery, Message, SystemClock, Timestamp,
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Mistake, Mistakes, Node, Span, SubstitutedPart, Substitution, Value},
    limits::FlowLimits,
    observe::EndpointObserver,
    sink::{Outgoing, Sink, SinkContext},
    source::{EndpointContext, PreparedSource, Source, SourceError, SourceSpec},
};
use gristmill_http::HttpAdapter;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body, Frame},
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use serde_json::{Value as Json, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything that these tests wait for takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what is sure to come.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    timeout(PATIENCE, what).await.expect("this should have come long ago")
}

// === the source's side ===

/// An adapter, with the limits and hooks that its endpoints are given.
pub(crate) struct Bench {
    pub(crate) adapter: HttpAdapter,
    pub(crate) limits: FlowLimits,
    pub(crate) refused: Arc<Refusals>,
}

/// The reasons for which senders were refused, in order.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Vec<&'static str>>);

/// A running source whose deliveries are handled one after the other by a closure.
pub(crate) struct Flow {
    task: JoinHandle<Box<dyn Source>>,
    stop: oneshot::Sender<()>,
}

impl EndpointObserver for Refusals {
    fn refused(&self, reason: &'static str) {
        self.0.lock().unwrap().push(reason);
    }
}

impl Refusals {
    pub(crate) fn all(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(FlowLimits::default())
    }

    pub(crate) fn with(limits: FlowLimits) -> Self {
        Self { adapter: HttpAdapter::new(), limits, refused: Arc::default() }
    }

    pub(crate) fn check_source(&self, config: &Json) -> Result<Arc<dyn SourceSpec>, Vec<Mistake>> {
        self.check_source_node(&Node::from_json(config, &Span::nowhere("flow")))
    }

    pub(crate) fn check_source_node(&self, config: &Node) -> Result<Arc<dyn SourceSpec>, Vec<Mistake>> {
        let mut mistakes = Mistakes::new();
        let mut checker = Checker::new(&mut mistakes, Path::new("."), &self.limits);
        let spec = self.adapter.check_source(config, &mut checker);
        if !mistakes.is_empty() {
            return Err(mistakes.into_sorted());
        }
        Ok(spec.expect("what is refused has a mistake"))
    }

    pub(crate) fn context(&self) -> EndpointContext {
        EndpointContext {
            flow: "test".into(),
            limits: self.limits.clone(),
            state_dir: "unused".into(),
            clock: Arc::new(SystemClock),
            observer: Arc::clone(&self.refused) as _,
        }
    }

    pub(crate) async fn try_prepare(&self, config: Json) -> Result<Box<dyn PreparedSource>, SourceError> {
        self.check_source(&config).unwrap().prepare(self.context()).await
    }

    pub(crate) async fn prepare(&self, config: Json) -> Box<dyn PreparedSource> {
        self.try_prepare(config).await.unwrap()
    }

    pub(crate) async fn start(&self, config: Json) -> Box<dyn Source> {
        self.prepare(config).await.start().await.unwrap()
    }

    /// Where a source with [`source`]'s address listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.adapter.bound_address("127.0.0.1:0".parse().unwrap()).expect("nothing listens")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }
}

/// The configuration of a source at a free port, with more keys.
pub(crate) fn source(path: &str, more: Json) -> Json {
    let mut config = json!({"listen": "127.0.0.1:0", "path": path});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

/// The configuration as it is when each `secret` in its texts stands as `${env:SECRET}` in the file.
pub(crate) fn with_substituted(config: &Json, secret: &str) -> Node {
    fn substitute(node: &mut Node, secret: &str) {
        match &mut node.value {
            Value::List(items) => items.iter_mut().for_each(|item| substitute(item, secret)),
            Value::Map(entries) => entries.iter_mut().for_each(|e| substitute(&mut e.value, secret)),
            Value::String(text) if text.contains(secret) => {
                let value = SubstitutedPart::Value { written: "${env:SECRET}".into(), value: secret.into() };
                let mut parts = Vec::new();
                for (index, written) in text.split(secret).enumerate() {
                    if index > 0 {
                        parts.push(value.clone());
                    }
                    parts.push(SubstitutedPart::Written(written.into()));
                }
                node.substitution = Some(Arc::new(Substitution { parts }));
            }
            _ => {}
        }
    }
    let mut node = Node::from_json(config, &Span::nowhere("flow"));
    substitute(&mut node, secret);
    node
}

/// The next delivery of a source.
pub(crate) async fn next(source: &mut Box<dyn Source>) -> Delivery {
    soon(source.next()).await.unwrap().expect("the source has ended")
}

impl Flow {
    pub(crate) fn run(mut source: Box<dyn Source>, handle: impl Fn(Delivery) + Send + 'static) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = &mut stopped => return source,
                    delivery = source.next() => match delivery.unwrap() {
                        Some(delivery) => handle(delivery),
                        None => return source,
                    },
                }
            }
        });
        Self { task, stop }
    }

    /// Stops asking the source, and gives it back.
    pub(crate) async fn stop(self) -> Box<dyn Source> {
        // A flow whose source has ended has stopped by itself.
        let _ = self.stop.send(());
        soon(self.task).await.unwrap()
    }
}

// === clients ===

/// A client with its own pool of connections.
pub(crate) type TestClient = Client<HttpConnector, Full<Bytes>>;

/// A body that comes as it is sent here.
pub(crate) struct Trickle(mpsc::Receiver<Bytes>);

impl Trickle {
    pub(crate) fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (chunks, body) = mpsc::channel(1);
        (chunks, Self(body))
    }
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// An HTTP/2 connection of its own.
pub(crate) async fn http2_connection<B>(address: SocketAddr) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) fn client() -> TestClient {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) fn http2_client() -> TestClient {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

pub(crate) async fn try_request(
    client: &TestClient,
    request: Request<Full<Bytes>>,
) -> Result<Received, String> {
    let response: Response<_> = client.request(request).await.map_err(|error| format!("{error:?}"))?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
    Ok(Received { status: head.status, headers: head.headers, body })
}

pub(crate) async fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Received {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(body.to_owned())).unwrap();
    soon(try_request(&client(), request)).await.unwrap()
}

pub(crate) async fn post(url: &str, body: &str) -> Received {
    request("POST", url, &[], body).await
}

impl Received {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }

    /// Checks that this is a problem document with this status.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let document: Json = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(document[member].is_string(), "{document}");
        }
    }
}

/// Sends these bytes on a connection of their own and reads to its end.
pub(crate) async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    read_to_end(stream).await
}

/// Reads to the end of a connection. One that was reset has ended too.
pub(crate) async fn read_to_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until this text has come.
pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 1024];
    while !all.contains(text) {
        let n = soon(stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0, "ended before {text:?}: {all:?}");
        all.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    all
}

// === the sink's side ===

/// An open sink with the texts of its templates, which this side renders by looking up headers.
pub(crate) struct OpenSink {
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) templates: Vec<String>,
}

impl Bench {
    pub(crate) fn check_sink(&self, config: &Json) -> Result<CheckedSink, Vec<Mistake>> {
        self.check_sink_node(&Node::from_json(config, &Span::nowhere("flow")))
    }

    pub(crate) fn check_sink_node(&self, config: &Node) -> Result<CheckedSink, Vec<Mistake>> {
        let mut mistakes = Mistakes::new();
        let mut checker = Checker::new(&mut mistakes, Path::new("."), &self.limits);
        let sink = self.adapter.check_sink(config, SinkUse::Send, &mut checker);
        if !mistakes.is_empty() {
            return Err(mistakes.into_sorted());
        }
        Ok(sink.expect("what is refused has a mistake"))
    }

    pub(crate) async fn sink(&self, config: Json) -> OpenSink {
        self.open_sink(self.check_sink(&config).unwrap()).await
    }

    pub(crate) async fn open_sink(&self, checked: CheckedSink) -> OpenSink {
        let context = SinkContext { flow: "test".into(), body_bytes: self.limits.body_bytes };
        let sink = checked.spec.open(context).await.unwrap();
        OpenSink { sink, templates: checked.templates.into_iter().map(|t| t.text).collect() }
    }
}

impl OpenSink {
    /// The texts as the engine would render them, if expressions were only `${headers.name}`.
    pub(crate) fn render(&self, message: &Message) -> Vec<String> {
        self.templates
            .iter()
            .map(|template| {
                let mut text = template.clone();
                for (name, value) in message.headers().iter() {
                    text = text.replace(&format!("${{headers.{name}}}"), value);
                }
                assert!(!text.contains("${"), "{text}");
                text
            })
            .collect()
    }

    pub(crate) async fn send(&self, message: &Message) -> Result<(), gristmill_core::Failure> {
        let texts = self.render(message);
        soon(self.sink.send(Outgoing::new(message, &texts))).await
    }

    pub(crate) async fn call(
        &self,
        message: &Message,
    ) -> Result<gristmill_core::sink::Answer, gristmill_core::Failure> {
        let texts = self.render(message);
        soon(self.sink.call(Outgoing::new(message, &texts))).await
    }
}

pub(crate) fn message(headers: &[(&str, &str)], body: &str) -> Message {
    let mut message = Message::new("m-1", Timestamp::from_millis(0), body.to_owned());
    for (name, value) in headers {
        message.headers_mut().append(name, value).unwrap();
    }
    message
}

/// What a scripted server does with the next request.
pub(crate) enum Act {
    /// Sends these bytes as the answer and keeps the connection.
    Answer(Vec<u8>),
    /// Sends these bytes and then ends the connection.
    AnswerAndClose(Vec<u8>),
    /// Sends these bytes and then resets the connection.
    AnswerAndReset(Vec<u8>),
    /// Says nothing, for as long as the client stays.
    Silence,
}

/// A server that follows a script, one act a request, and tells what it was asked.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) requests: mpsc::UnboundedReceiver<String>,
    pub(crate) connections: Arc<Mutex<usize>>,
}

impl Scripted {
    pub(crate) async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&connections);
        let acts = Arc::new(Mutex::new(acts.into_iter().collect::<std::collections::VecDeque<_>>()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counter.lock().unwrap() += 1;
                tokio::spawn(follow(stream, Arc::clone(&acts), tell.clone()));
            }
        });
        Self { address, requests, connections }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn request(&mut self) -> String {
        soon(self.requests.recv()).await.unwrap()
    }
}

async fn follow(
    mut stream: TcpStream,
    acts: Arc<Mutex<std::collections::VecDeque<Act>>>,
    tell: mpsc::UnboundedSender<String>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let _ = tell.send(request);
        let act = acts.lock().unwrap().pop_front().expect("the script is at its end");
        match act {
            Act::Answer(bytes) => stream.write_all(&bytes).await.unwrap(),
            Act::AnswerAndClose(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return;
            }
            Act::AnswerAndReset(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                stream.set_zero_linger().unwrap();
                return;
            }
            Act::Silence => {
                let _ = stream.read_u8().await;
                return;
            }
        }
    }
}

/// Reads a request with a `content-length`, or without a body.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned))
                .map_or(0, |length| length.trim().parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    }
}

/// An answer with a status and a body.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes()
}
