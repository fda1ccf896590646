//! The sink: a message goes out as a request; the status says whether it was taken.

mod client;
mod retry_after;
mod spec;
mod status;
mod url;

use std::{
    borrow::Cow,
    error::Error,
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use gristmill_core::{
    ErrorClass, Failure, Headers,
    adapter::{CheckedSink, Checker},
    config::Node,
    message::CONTENT_TYPE,
    sink::{Answer, Outgoing, Sink, SinkContext, SinkSpec},
};
use gristmill_tls::TlsError;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy;
use tokio::time::{Sleep, sleep, timeout};

use self::{
    client::{Client, ClientKind},
    retry_after::retry_after,
    spec::Checked,
    url::Url,
};
use crate::{fields, gathered::Gathered};

pub(crate) use self::client::Clients;

/// How much of an answer is read that no one asked for, so that its connection can be used again, and so that the operator
/// sees what a server says about a failure.
const GLANCE_BYTES: usize = 64 * 1024;

/// How long that may take. Meanwhile the message is already confirmed or refused.
const GLANCE_TIME: Duration = Duration::from_secs(1);

/// How much of what a server says about a failure the operator is shown, in characters.
const SHOWN_CHARACTERS: usize = 200;

const USER_AGENT: &str = concat!("gristmill/", env!("CARGO_PKG_VERSION"));

/// What a body is that does not say (RFC 9110 section 8.3).
const UNKNOWN_CONTENT: &str = "application/octet-stream";

/// Checked configuration of a sink, with the pools that it can use.
struct HttpSinkSpec {
    checked: Arc<Checked>,
    clients: Arc<Clients>,
}

/// An open sink.
struct HttpSink {
    checked: Arc<Checked>,
    client: Arc<Client>,
    body_bytes: usize,
}

/// An answer that confirms.
struct Success<'a> {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    url: Cow<'a, Url>,
}

/// Why an answer was not read to its end.
enum Unread {
    TooLarge,
    Broken(hyper::Error),
}

/// Checks the configuration of a sink. `None` when there are mistakes.
pub(crate) fn check(node: &Node, checker: &mut Checker<'_>, clients: &Arc<Clients>) -> Option<CheckedSink> {
    let checked = Arc::new(spec::check(node, checker)?);
    let spec = Arc::new(HttpSinkSpec { checked, clients: Arc::clone(clients) });
    Some(CheckedSink { spec, answers: true, templates: checker.take_templates() })
}

// === impl HttpSinkSpec ===

#[async_trait]
impl SinkSpec for HttpSinkSpec {
    async fn open(&self, context: SinkContext) -> Result<Arc<dyn Sink>, Failure> {
        let (checked, clients) = (Arc::clone(&self.checked), Arc::clone(&self.clients));
        let open = move || {
            let tls = if checked.url.may_be_https() { Some(checked.tls.read()?) } else { None };
            clients.get(ClientKind { tls, http2: checked.http2 })
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let client = opened
            .map_err(|error| Failure::new(ErrorClass::Internal, error.to_string()))?
            .map_err(|error: TlsError| Failure::new(ErrorClass::SinkUnavailable, error.text()))?;
        Ok(Arc::new(HttpSink { checked: Arc::clone(&self.checked), client, body_bytes: context.body_bytes }))
    }

    fn configuration_files(&self) -> Vec<PathBuf> {
        self.checked.tls.paths()
    }
}

impl std::fmt::Debug for HttpSinkSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HttpSinkSpec").field(&self.checked).finish()
    }
}

// === impl HttpSink ===

#[async_trait]
impl Sink for HttpSink {
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure> {
        let late = pin!(sleep(self.checked.timeout));
        let Success { body, .. } = self.request(&outgoing, late).await?;
        glance(body).await;
        Ok(())
    }

    async fn call(&self, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        let mut late = pin!(sleep(self.checked.timeout));
        let Success { status, headers, body, url } = self.request(&outgoing, late.as_mut()).await?;
        let read = in_time(late, self.read(body)).await;
        let place = || format!("{} {} answered {status}, but", self.checked.method.name(), url.shown);
        let body = read.ok_or_else(|| self.timeout_failure(&url))?.map_err(|unread| match unread {
            Unread::TooLarge => {
                let text = format!("{} the answer is larger than {} bytes", place(), self.body_bytes);
                Failure::new(ErrorClass::Limit, text)
            }
            Unread::Broken(error) => {
                let text =
                    format!("{} the answer broke off: {}", place(), url.without_secrets(&cause(&error)));
                Failure::new(ErrorClass::SinkUnavailable, text)
            }
        })?;
        let headers = self.answer_headers(status, &headers, !body.is_empty()).map_err(|name| {
            let text = format!("{} no message may carry its header `{name}`", place());
            Failure::new(ErrorClass::SinkRejected, text)
        })?;
        Ok(Answer { headers, body })
    }
}

impl HttpSink {
    /// Sends the message; `Ok` when the status confirms it.
    async fn request(&self, outgoing: &Outgoing<'_>, late: Pin<&mut Sleep>) -> Result<Success<'_>, Failure> {
        let method = self.checked.method;
        let url = self.checked.url.render(outgoing).map_err(|problem| {
            let text = format!("{}: this message has no good URL: {problem}", method.name());
            Failure::new(ErrorClass::SinkRejected, text)
        })?;
        let mut headers = self.checked.request_headers(outgoing).map_err(|name| {
            let text = format!("{} {}: the header `{name}` cannot be sent", method.name(), url.shown);
            Failure::new(ErrorClass::SinkRejected, text)
        })?;
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        if !self.checked.http2 {
            // The client would write it anew for each request. HTTP/2 has a field of its own for it.
            headers.insert(header::HOST, url.host.clone());
        }
        let body = if method.sends_body() { outgoing.message.body().clone() } else { Bytes::new() };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.to_http();
        *request.uri_mut() = url.uri.clone();
        *request.headers_mut() = headers;
        let answered = in_time(late, self.client.request(request)).await;
        let response = answered.ok_or_else(|| self.timeout_failure(&url))?.map_err(|error| {
            let text = format!("{} {}: {}", method.name(), url.shown, url.without_secrets(&cause(&error)));
            Failure::new(ErrorClass::SinkUnavailable, text)
        })?;
        let (head, body) = response.into_parts();
        if self.checked.success.contains(head.status) {
            return Ok(Success { status: head.status, headers: head.headers, body, url });
        }
        Err(self.refusal(head.status, &head.headers, body, &url).await)
    }

    fn timeout_failure(&self, url: &Url) -> Failure {
        let text = format!(
            "{} {}: no complete answer within {} ms; whether the message was taken is not known",
            self.checked.method.name(),
            url.shown,
            self.checked.timeout.as_millis(),
        );
        Failure::new(ErrorClass::Timeout, text)
    }

    /// What a status that does not confirm means.
    async fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: Incoming, url: &Url) -> Failure {
        let said = String::from_utf8_lossy(&glance(body).await).into_owned();
        let mut text = format!("{} {} answered {status}", self.checked.method.name(), url.shown);
        if status.is_redirection() {
            text.push_str(" (redirects are not followed; put the new address into `url`)");
        }
        let said = shown(&url.without_secrets(&said));
        if !said.is_empty() {
            text.push_str(": ");
            text.push_str(&said);
        }
        if !self.checked.retryable.contains(status) {
            return Failure::new(ErrorClass::SinkRejected, text);
        }
        let failure = Failure::new(ErrorClass::SinkUnavailable, text);
        match retry_after(headers, SystemTime::now()) {
            Some(wait) => failure.retry_after(wait),
            None => failure,
        }
    }

    /// Reads the body of an answer that is to become the message.
    async fn read(&self, mut body: Incoming) -> Result<Bytes, Unread> {
        if body.size_hint().lower() > self.body_bytes as u64 {
            return Err(Unread::TooLarge);
        }
        let mut all = Gathered::default();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Unread::Broken)?.into_data() else { continue };
            if data.len() > self.body_bytes - all.len() {
                return Err(Unread::TooLarge);
            }
            all.append(data, 0);
        }
        Ok(all.into_bytes())
    }

    fn answer_headers<'a>(
        &'a self,
        status: StatusCode,
        received: &HeaderMap,
        has_body: bool,
    ) -> Result<Headers, &'a str> {
        let mut headers = Headers::new();
        headers.append(fields::STATUS, status.as_str()).map_err(|_| fields::STATUS)?;
        for name in &self.checked.answer_headers {
            for value in received.get_all(name) {
                let text = std::str::from_utf8(value.as_bytes()).map_err(|_| name.as_str())?;
                headers.append(name.as_str(), text).map_err(|_| name.as_str())?;
            }
        }
        // Else the new body would go by the content type of the old one.
        if has_body
            && headers.get(CONTENT_TYPE).is_none()
            && self.checked.answer_headers.contains(&header::CONTENT_TYPE)
        {
            headers.append(CONTENT_TYPE, UNKNOWN_CONTENT).map_err(|_| CONTENT_TYPE)?;
        }
        Ok(headers)
    }
}

/// What `work` comes to; `None` when it is `late` before. One timer serves all parts of an exchange.
async fn in_time<T>(late: Pin<&mut Sleep>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = late => None,
    }
}

/// Reads the beginning of a body that no one waits for. If it is short, its connection can be used again.
async fn glance(mut body: Incoming) -> Bytes {
    let mut read = BytesMut::new();
    // Whatever stops the reading, what has been read is all there is to show.
    let _ = timeout(GLANCE_TIME, async {
        while let Some(Ok(frame)) = body.frame().await
            && read.len() < GLANCE_BYTES
        {
            if let Ok(data) = frame.into_data() {
                read.extend_from_slice(&data);
            }
        }
    })
    .await;
    read.freeze()
}

/// What a server says, on one line and cut.
fn shown(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = words.chars().filter(|c| !c.is_control()).take(SHOWN_CHARACTERS).collect();
    if words.chars().nth(SHOWN_CHARACTERS).is_some() {
        shown.push('…');
    }
    shown
}

/// The texts of an error and of what is behind it, without those that repeat one.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // The client's own wrapper says only that there was an error.
        if !error.is::<legacy::Error>() && !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
