//! What a sender is told when there is no good answer: a problem document (RFC 9457) that says what the sender can do,
//! and nothing of what is inside.

use bytes::Bytes;
use gristmill_core::{ErrorClass, MessageId};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// The body of every answer.
pub(crate) type Body = Full<Bytes>;

/// A problem on its way to the sender.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: &'static str,
    message: Option<MessageId>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// With a status and a sentence for the sender.
    pub(crate) fn new(status: StatusCode, detail: &'static str) -> Self {
        Self { status, detail, message: None, headers: Vec::new() }
    }

    /// What the sender of a rejected message is told. The class decides whose fault it is: the message's (4xx), ours
    /// (500), or that of someone behind us (502, 504).
    pub(crate) fn of_rejected(class: Option<ErrorClass>) -> Self {
        use ErrorClass as C;
        let (status, detail) = match class {
            None | Some(C::Expression | C::BodyFormat | C::NoBranch | C::PluginRejected | C::Limit) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "The message was understood but cannot be processed. Sending it again unchanged will not help.",
            ),
            Some(C::PluginTrap | C::PluginMemory | C::PluginMalformed | C::PluginTimeout | C::Internal) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "The message could not be processed because of a fault on this side.",
            ),
            Some(C::SinkRejected | C::SinkReturned | C::SinkUnavailable) => (
                StatusCode::BAD_GATEWAY,
                "The message could not be handed on: a system behind this one did not take it.",
            ),
            Some(C::Timeout) => (
                StatusCode::GATEWAY_TIMEOUT,
                "The message could not be handed on: a system behind this one did not confirm it in time.",
            ),
            Some(C::PluginRetry | C::PluginQuarantined | C::Drained) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The message could not be processed for now. Send it again later.",
            ),
        };
        Self::new(status, detail)
    }

    /// The same with one more header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same, asking to come back after this many seconds.
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The same about this message, by whose id the operator finds it.
    pub(crate) fn about(mut self, message: &MessageId) -> Self {
        self.message = Some(message.clone());
        self
    }

    /// As an answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut document = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let (Some(message), Some(members)) = (self.message, document.as_object_mut()) {
            members.insert("instance".into(), format!("urn:gristmill:message:{message}").into());
        }
        let mut response = Response::new(Full::from(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}
